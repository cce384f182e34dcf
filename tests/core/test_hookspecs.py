from __future__ import annotations

import inspect

import pytest

from vfiocore import hookspecs
from vfiocore.hookspecs import API_VERSION, hookimpl, hookspec

HOOKS = [
    function
    for _name, function in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(function, "vfiocore_spec")
]


def test_the_contract_is_these_hooks() -> None:
    assert {hook.__name__ for hook in HOOKS} == {
        "vfio_register_backends",
        "vfio_register_device_types",
        "vfio_register_hosts",
        "vfio_register_commands",
        "vfio_setup_context",
        "vfio_teardown_context",
        "vfio_open_device",
        "vfio_close_device",
        "vfio_dma_map",
        "vfio_dma_unmap",
    }


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_each_hook_says_when_it_runs_since_when_and_gives_an_example(hook: object) -> None:
    text = inspect.getdoc(hook) or ""
    for word in ("Runs: ", "Example::", "Since contract version "):
        assert word in text


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_each_hook_describes_every_parameter(hook: object) -> None:
    parameters = list(inspect.signature(hook).parameters)  # type: ignore[arg-type]
    text = inspect.getdoc(hook) or ""
    assert not parameters or "Args:" in text
    for name in parameters:
        assert f"{name}: " in text


def test_the_contract_has_a_version() -> None:
    assert isinstance(API_VERSION, int)
    assert hookimpl.project_name == hookspec.project_name == "vfiocore"


@pytest.mark.parametrize(
    "name", [name for name in vars(hookspecs) if name.startswith("vfio_register_")]
)
def test_a_spec_by_itself_provides_nothing(name: str) -> None:
    assert list(getattr(hookspecs, name)()) == []
