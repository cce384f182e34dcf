"""What the page about versions promises to authors of plugins is how it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pluggy
import pytest
from attrs import NOTHING, fields, has

from vfiocore import API_VERSION, Framework, hookimpl, hookspecs, registration
from vfiocore.cli.app import run
from vfiocore.errors import PluginVersionError
from vfiocore.log import VfioWarning
from vfiocore.plugins import PluginSet
from vfiocore.registration import Backend

from .fences import blocks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/plugins/versioning.md").read_text()
WARNING = next(block.text.strip() for block in blocks(PAGE) if "acme 0.3.0" in block.text)


@pytest.fixture
def old_plugin(scratch: Path) -> None:
    """Version 0.3.0 of vfiocore-acme, for version 0 of the contract, is installed."""
    module = scratch / "vfiocore_acme" / "plugin.py"
    module.parent.mkdir()
    module.write_text("VFIOCORE_API = 0\n")
    facts = scratch / "vfiocore_acme-0.3.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: vfiocore-acme\nVersion: 0.3.0\n")
    (facts / "entry_points.txt").write_text("[vfiocore]\nacme = vfiocore_acme.plugin\n")


# -- the contract's number -------------------------------------------------------------------------
def test_the_page_has_the_number_of_the_contract() -> None:
    assert f"`vfiocore.API_VERSION`, now {API_VERSION}." in PAGE
    assert f"VFIOCORE_API = {API_VERSION}\n" in [block.text for block in blocks(PAGE)]


def test_an_installed_plugin_of_another_version_costs_the_warning_of_the_page(
    old_plugin: None,
) -> None:
    with pytest.warns(VfioWarning) as warned:
        names = [backend.name for backend in Framework().plugins.backends]
    assert [str(item.message) for item in warned] == [WARNING]
    assert "legacy" in names


def test_the_command_shows_it_as_broken_with_the_same_words(
    old_plugin: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(["plugins"])
    printed = capsys.readouterr()
    reason = re.escape(WARNING.removesuffix("; it is not used"))
    assert re.search(rf"^acme +vfiocore-acme 0\.3\.0 +broken +{reason}$", printed.out, re.MULTILINE)
    assert printed.err == ""


def test_other_subcommands_say_it_on_standard_error(
    old_plugin: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["devices", "--host", "sim"])
    assert not stop.value.code
    assert WARNING in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::vfiocore.log.VfioWarning")
def test_a_configuration_that_names_it_is_an_error(
    old_plugin: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PluginVersionError):
        Framework().open("-device acme,id=card")
    with pytest.raises(SystemExit) as stop:
        run(["run", "--once", "--host", "sim", "-device", "acme,id=card"])
    assert stop.value.code == 2
    assert "version 0 of the plugin contract" in capsys.readouterr().err


def test_a_plugin_without_a_number_is_taken_to_be_for_this_version() -> None:
    (info,) = Framework([ModuleType("vfiocore_acme")], autoload=False).plugins.infos
    assert info.state == "loaded"


@pytest.mark.parametrize("name", ["legacy", "iommufd", "pci", "platform", "ap", "ccw", "sim"])
def test_the_plugins_of_this_repository_say_their_number(name: str) -> None:
    assert import_module(f"vfiocore_{name}.plugin").VFIOCORE_API == API_VERSION


# -- what may change without another number --------------------------------------------------------
def test_an_implementation_may_leave_out_parameters() -> None:
    class Counter:
        @hookimpl(wrapper=True)
        def vfio_dma_map(self, batch: object) -> Iterator[None]:
            return (yield)

    (info,) = Framework([Counter()], autoload=False).plugins.infos
    assert info.state == "loaded"


def test_records_are_made_by_the_names_of_their_fields() -> None:
    """Another field with a default then breaks no plugin."""
    for name, record in inspect.getmembers(registration, has):
        if record.__module__ == registration.__name__:
            assert all(field.kw_only for field in fields(record)), name
            assert any(field.default is NOTHING for field in fields(record)), name


# -- deprecation -----------------------------------------------------------------------------------
def marked() -> list[str]:
    """The hooks whose spec is marked as deprecated."""
    return [
        name
        for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
        if (getattr(hook, "vfiocore_spec", None) or {}).get("warn_on_impl")
    ]


def test_the_page_says_what_is_deprecated() -> None:
    assert "Nothing is deprecated now." in PAGE
    assert marked() == []
    sources = [
        *(ROOT / "vfiocore").rglob("*.py"),
        *(ROOT / "plugins").glob("**/vfiocore_*/**/*.py"),
    ]
    assert [path for path in sources if "DeprecationWarning" in path.read_text()] == []


def test_who_implements_a_deprecated_hook_is_warned_at_the_line_of_the_implementation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Plugin:
        @hookimpl
        def vfio_register_hosts(self) -> tuple[()]:
            return ()

    def vfio_register_hosts() -> None:
        """The spec, as a version that deprecates it would have it."""

    old = DeprecationWarning("vfio_register_hosts goes with version 2: yield it from elsewhere")
    spec = pluggy.HookspecMarker(hookspecs.PROJECT)(warn_on_impl=old)(vfio_register_hosts)
    monkeypatch.setattr(hookspecs, "vfio_register_hosts", spec)
    with pytest.warns(DeprecationWarning, match="goes with version 2") as warned:
        Framework([Plugin()], autoload=False)
    assert warned[0].filename == __file__


def test_who_implements_a_deprecated_hook_is_warned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        @hookimpl
        def vfio_register_backends(self) -> Iterator[Backend]:
            yield Backend(name="acme", help="A backend.")

        @hookimpl
        def vfio_dma_map(self, container: object) -> None: ...

    for hook in ("setup_context", "teardown_context", "open_device", "close_device", "dma_unmap"):
        setattr(Plugin, f"vfio_{hook}", hookimpl(lambda self: None))

    def vfio_dma_map(container: object, batch: object) -> None:
        """The spec, as a version that deprecates it would have it."""

    old = DeprecationWarning("vfio_dma_map goes with version 2")
    spec = pluggy.HookspecMarker(hookspecs.PROJECT)(warn_on_impl=old)(vfio_dma_map)
    monkeypatch.setattr(hookspecs, "vfio_dma_map", spec)
    with pytest.warns(DeprecationWarning, match="goes with version 2") as warned:
        PluginSet([Plugin()], autoload=False).hooks("acme")
    assert len(warned) == 1
