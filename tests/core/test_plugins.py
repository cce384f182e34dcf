from __future__ import annotations

import itertools
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from vfiocore.config.model import PluginFilter
from vfiocore.errors import (
    BrokenPluginError,
    DuplicatePluginError,
    MissingPluginError,
    PluginVersionError,
)
from vfiocore.hookspecs import hookimpl
from vfiocore.log import VfioWarning
from vfiocore.plugins import PluginSet, filter_from_environment
from vfiocore.registration import Backend, Command, HostType

BACKEND = """
    from vfiocore.hookspecs import hookimpl
    from vfiocore.registration import Backend

    @hookimpl
    def vfio_register_backends():
        yield Backend(name="{name}", help="a backend")
"""

Install = Callable[..., str]
_numbers = itertools.count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one entry point, on a path of its own."""
    # What is really installed must not be found; the standard library must.
    others = [path for path in sys.path if not path.endswith(("site-packages", "dist-packages"))]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *others])
    before = set(sys.modules)

    def install(distribution: str, code: str, *, entry_point: str, version: str = "1.0") -> str:
        module = f"fake_plugin_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(dedent(code))
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[vfiocore]\n{entry_point} = {module}\n")
        return module

    yield install
    for module in set(sys.modules) - before:
        if module.startswith("fake_plugin_"):
            del sys.modules[module]


def installed(only: PluginFilter | None = None) -> PluginSet:
    return PluginSet((), autoload=True, only=only)


def quietly_installed(only: PluginFilter | None = None) -> PluginSet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VfioWarning)
        return installed(only)


def plugin(**hooks: Callable[..., Any]) -> types.ModuleType:
    """A plugin module that is passed in."""
    module = types.ModuleType(f"plugin_{next(_numbers)}")
    for name, function in hooks.items():
        marked = function if hasattr(function, "vfiocore_impl") else hookimpl(function)
        setattr(module, name, marked)
    return module


def backend_hooks(record: list[str] | None = None) -> dict[str, Callable[..., Any]]:
    """All that a backend implements, doing nothing."""
    seen: list[str] = [] if record is None else record

    def vfio_dma_map(container: object, batch: object) -> None:
        seen.append("backend")

    return {
        "vfio_setup_context": lambda request: "attachment",
        "vfio_teardown_context": lambda attachment: None,
        "vfio_open_device": lambda attachment: "access",
        "vfio_close_device": lambda attachment, device: None,
        "vfio_dma_map": vfio_dma_map,
        "vfio_dma_unmap": lambda container, batch: None,
    }


def a_backend(
    name: str = "acme", record: list[str] | None = None, **more: Callable[..., Any]
) -> types.ModuleType:
    hooks = {
        "vfio_register_backends": lambda: [Backend(name=name, help="a backend")],
        **backend_hooks(record),
        **more,
    }
    return plugin(**hooks)


# -- finding ---------------------------------------------------------------------------------------
def test_an_installed_plugin_is_found_by_its_entry_point(install: Install) -> None:
    install("acme-vfio", BACKEND.format(name="acme"), entry_point="acme")
    plugins = installed()
    assert plugins.backend("acme").name == "acme"
    (info,) = plugins.infos
    assert str(info) == "acme (acme-vfio 1.0)"
    assert (info.state, info.provides) == ("loaded", ("backend acme",))


def test_without_autoload_nothing_installed_is_imported(install: Install) -> None:
    module = install("acme-vfio", BACKEND.format(name="acme"), entry_point="acme")
    assert PluginSet((), autoload=False).infos == []
    assert module not in sys.modules


def test_a_plugin_that_is_passed_in_and_installed_is_loaded_once(install: Install) -> None:
    module = install("acme-vfio", BACKEND.format(name="acme"), entry_point="acme")
    passed = __import__(module)
    assert len(PluginSet([passed], autoload=True).backends) == 1


def test_two_objects_of_one_class_are_two_plugins() -> None:
    class Hosts:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def vfio_register_hosts(self) -> list[HostType]:
            return [HostType(name=self.name, help="", create=lambda _argument: None)]  # type: ignore[arg-type, return-value]

    plugins = PluginSet([Hosts("a"), Hosts("b")], autoload=False)
    assert [host.name for host in plugins.hosts] == ["a", "b"]


def test_commands_are_found_without_being_loaded() -> None:
    def load() -> Any:
        raise AssertionError

    command = Command(name="acme", help="Acme tools", load=load)
    plugins = PluginSet([plugin(vfio_register_commands=lambda: [command])], autoload=False)
    assert plugins.commands == [command]
    assert plugins.infos[0].provides == ("command acme",)


# -- filtering -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "only",
    [
        PluginFilter(block=("acme",)),
        PluginFilter(block=("acme-vfio",)),
        PluginFilter(block=("Acme_VFIO",)),
        PluginFilter(allow=("other",)),
        PluginFilter(allow=()),
        PluginFilter(allow=("acme",), block=("acme",)),
    ],
)
def test_a_blocked_plugin_is_not_even_imported(install: Install, only: PluginFilter) -> None:
    module = install("acme-vfio", "raise RuntimeError", entry_point="acme")
    plugins = installed(only)
    assert module not in sys.modules
    (info,) = plugins.infos
    assert info.state == "blocked"


@pytest.mark.parametrize("name", ["acme", "acme-vfio", "acme_vfio"])
def test_an_allowed_plugin_is_loaded(install: Install, name: str) -> None:
    install("acme-vfio", BACKEND.format(name="acme"), entry_point="acme")
    assert installed(PluginFilter(allow=(name,))).backends


def test_asking_for_what_is_blocked_says_by_what(install: Install) -> None:
    install("acme-vfio", BACKEND.format(name="acme"), entry_point="acme")
    with pytest.raises(MissingPluginError, match=r"acme \(acme-vfio 1.0\) is blocked by plugins"):
        installed(PluginFilter(block=("acme",))).backend("acme")
    with pytest.raises(MissingPluginError, match=r"is not in plugins\.allow"):
        installed(PluginFilter(allow=())).backend("acme")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, PluginFilter()),
        ("", PluginFilter()),
        ("a, b", PluginFilter(allow=("a", "b"))),
        ("-a", PluginFilter(block=("a",))),
        ("a,-b", PluginFilter(allow=("a",), block=("b",))),
    ],
)
def test_the_environment_filters_plugins(text: str | None, wanted: PluginFilter) -> None:
    assert filter_from_environment({} if text is None else {"VFIOCORE_PLUGINS": text}) == wanted


# -- what is missing, there twice, broken, or of another version -----------------------------------
@pytest.mark.parametrize(
    ("find", "text"),
    [
        (lambda p: p.backend("iommufd"), "no plugin provides backend 'iommufd': install vfiocore-"),
        (lambda p: p.device_type("vfio-ap"), "device type 'vfio-ap': install vfiocore-ap"),
        (lambda p: p.host("sim"), "host 'sim': install vfiocore-sim"),
        (lambda p: p.host("acme"), "host 'acme': install a plugin that provides it"),
        (lambda p: p.hooks("legacy"), "backend 'legacy': install vfiocore-legacy"),
    ],
)
def test_a_missing_plugin_is_named_with_what_to_install(
    find: Callable[[PluginSet], object], text: str
) -> None:
    with pytest.raises(MissingPluginError, match=text) as caught:
        find(PluginSet((), autoload=False))
    assert isinstance(caught.value, LookupError)


def test_two_distributions_that_provide_one_name_are_both_named(install: Install) -> None:
    install("acme-vfio", BACKEND.format(name="acme"), entry_point="acme")
    install("better-acme", BACKEND.format(name="acme"), entry_point="better", version="2.1")
    plugins = installed()
    with pytest.raises(DuplicatePluginError) as caught:
        plugins.backend("acme")
    for word in ("acme (acme-vfio 1.0)", "better (better-acme 2.1)", "plugins.block"):
        assert word in str(caught.value)


def test_blocking_one_of_two_solves_it(install: Install) -> None:
    install("acme-vfio", BACKEND.format(name="acme"), entry_point="acme")
    install("better-acme", BACKEND.format(name="acme"), entry_point="better")
    assert installed(PluginFilter(block=("better",))).backend("acme").name == "acme"


def test_a_broken_plugin_that_nothing_names_costs_one_warning(install: Install) -> None:
    install("acme-vfio", "import no_such_module", entry_point="acme")
    install("other-vfio", BACKEND.format(name="other"), entry_point="other")
    with pytest.warns(VfioWarning, match=r"acme \(acme-vfio 1.0\) cannot be imported") as told:
        plugins = installed()
    assert len(told) == 1
    assert plugins.backend("other")


def test_a_broken_plugin_that_is_named_is_an_error_with_the_reason(install: Install) -> None:
    install("acme-vfio", "import no_such_module", entry_point="acme")
    plugins = quietly_installed()
    with pytest.raises(BrokenPluginError) as caught:
        plugins.backend("acme")
    for word in ("backend 'acme'", "acme-vfio 1.0", "ModuleNotFoundError", "no_such_module"):
        assert word in str(caught.value)


def test_a_broken_plugin_of_the_project_is_known_by_what_it_would_provide(install: Install) -> None:
    install("vfiocore-pci", "1/0", entry_point="pci")
    with pytest.raises(BrokenPluginError, match="ZeroDivisionError"):
        quietly_installed().device_type("vfio-pci")


def test_who_misses_something_else_hears_of_broken_plugins(install: Install) -> None:
    install("acme-vfio", "1/0", entry_point="acme")
    with pytest.raises(MissingPluginError, match=r"failed to load: acme \(acme-vfio 1.0\)"):
        quietly_installed().backend("zebra")


def test_a_plugin_for_another_contract_version_is_refused(install: Install) -> None:
    install("acme-vfio", "VFIOCORE_API = 99", entry_point="acme")
    with pytest.raises(PluginVersionError) as caught:
        quietly_installed().backend("acme")
    for word in ("acme-vfio 1.0", "version 99", "version 1", "install matching versions"):
        assert word in str(caught.value)


def test_a_plugin_that_is_passed_in_fails_at_once() -> None:
    module = plugin()
    module.VFIOCORE_API = 0  # type: ignore[attr-defined]
    with pytest.raises(PluginVersionError):
        PluginSet([module], autoload=False)


def broken(**hooks: Callable[..., Any]) -> str:
    with pytest.raises(BrokenPluginError) as caught:
        PluginSet([plugin(**hooks)], autoload=False)
    return str(caught.value)


def test_a_misspelt_hook_is_refused() -> None:
    assert "unknown hook 'vfio_registr_backends'" in broken(vfio_registr_backends=lambda: ())
    with pytest.raises(BrokenPluginError, match="unknown hook 'vfio_dma_mop'"):
        PluginSet([a_backend(vfio_dma_mop=lambda container: None)], autoload=False)


def test_a_hook_with_a_parameter_that_does_not_exist_is_refused() -> None:
    assert "vfio_dma_map" in broken(vfio_dma_map=lambda container, mappings: None)


def test_a_registration_that_fails_is_the_plugins_fault() -> None:
    def vfio_register_backends() -> None:
        raise RuntimeError("oops")

    assert "RuntimeError: oops" in broken(vfio_register_backends=vfio_register_backends)


def test_a_registration_that_gives_something_else_is_refused() -> None:
    text = broken(vfio_register_backends=lambda: ["acme"])
    assert "vfio_register_backends gave a str, not a Backend" in text
    assert "NoneType" in broken(vfio_register_hosts=lambda: None)


def test_a_registration_hook_cannot_be_wrapped() -> None:
    @hookimpl(wrapper=True)
    def wrapper() -> Any:
        return (yield)

    assert "cannot be wrapped" in broken(vfio_register_backends=wrapper)


def test_a_hook_that_would_never_run_is_refused() -> None:
    text = broken(vfio_dma_map=lambda container: None)
    assert "implements vfio_dma_map but registers no backend" in text
    assert "make it a wrapper" in text


def test_a_broken_plugin_leaves_no_hook_behind(install: Install) -> None:
    install(
        "acme-vfio",
        """
        from vfiocore.hookspecs import hookimpl

        @hookimpl(wrapper=True)
        def vfio_dma_map(container):
            raise AssertionError("a plugin that was refused runs")
            yield

        @hookimpl
        def vfio_dma_mop():
            pass
        """,
        entry_point="acme",
    )
    record: list[str] = []
    with pytest.warns(VfioWarning):
        plugins = PluginSet([a_backend(record=record)], autoload=True)
    plugins.hooks("acme").dma_map(None, [])  # type: ignore[arg-type]
    assert record == ["backend"]


# -- resolving -------------------------------------------------------------------------------------
def test_a_hook_without_wrapper_is_the_backends_own_function() -> None:
    module = a_backend()
    hooks = PluginSet([module], autoload=False).hooks("acme")
    assert hooks.dma_map is module.vfio_dma_map
    assert hooks.setup_context is module.vfio_setup_context


def test_hooks_are_resolved_once() -> None:
    plugins = PluginSet([a_backend()], autoload=False)
    assert plugins.hooks("acme") is plugins.hooks("acme")


def test_a_hook_may_leave_out_parameters() -> None:
    seen: list[object] = []

    def note(device: object) -> None:
        seen.append(device)

    module = a_backend(vfio_close_device=note)
    PluginSet([module], autoload=False).hooks("acme").close_device("attachment", "device")  # type: ignore[arg-type]
    assert seen == ["device"]


def test_hooks_go_to_the_backend_that_was_named_and_to_no_other() -> None:
    first: list[str] = []
    second: list[str] = []
    plugins = PluginSet([a_backend("one", first), a_backend("two", second)], autoload=False)
    plugins.hooks("two").dma_map(None, [])  # type: ignore[arg-type]
    assert (first, second) == ([], ["backend"])


def wrapper(record: list[str], name: str) -> types.ModuleType:
    @hookimpl(wrapper=True)
    def vfio_dma_map(container: object, batch: object) -> Any:
        record.append(f"{name} before {batch}")
        result = yield
        record.append(f"{name} after")
        return result

    return plugin(vfio_dma_map=vfio_dma_map)


def test_wrappers_of_any_plugin_stay_in_the_path_outermost_last_registered() -> None:
    record: list[str] = []
    plugins = PluginSet(
        [
            wrapper(record, "first"),
            a_backend(record=record),
            wrapper(record, "second"),
        ],
        autoload=False,
    )
    plugins.hooks("acme").dma_map(None, ["batch"])  # type: ignore[arg-type, list-item]
    assert record == [
        "second before ['batch']",
        "first before ['batch']",
        "backend",
        "first after",
        "second after",
    ]


def test_a_wrapper_sees_and_may_replace_an_error() -> None:
    @hookimpl(wrapper=True)
    def vfio_dma_map() -> Any:
        try:
            yield
        except ValueError as error:
            raise KeyError from error

    def failing(container: object, batch: object) -> None:
        raise ValueError

    plugins = PluginSet(
        [a_backend(vfio_dma_map=failing), plugin(vfio_dma_map=vfio_dma_map)], autoload=False
    )
    with pytest.raises(KeyError):
        plugins.hooks("acme").dma_map(None, [])  # type: ignore[arg-type]


def test_a_backend_that_lacks_a_hook_is_broken() -> None:
    hooks = backend_hooks()
    del hooks["vfio_dma_unmap"]
    module = plugin(vfio_register_backends=lambda: [Backend(name="acme", help="")], **hooks)
    with pytest.raises(BrokenPluginError, match="does not implement vfio_dma_unmap"):
        PluginSet([module], autoload=False).hooks("acme")


def test_two_sets_in_one_process_do_not_meet() -> None:
    record: list[str] = []
    module = a_backend(record=record)
    wrapped = PluginSet([module, wrapper(record, "w")], autoload=False)
    plain = PluginSet([module], autoload=False)
    plain.hooks("acme").dma_map(None, [])  # type: ignore[arg-type]
    assert record == ["backend"]
    assert len(wrapped.infos) == 2
    assert len(plain.infos) == 1
