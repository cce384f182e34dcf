"""The command as a whole: help, subcommands of plugins, exit codes, pipes, a missing extra."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

import vfiocore
from vfiocore.cli import app, main
from vfiocore.cli.exit_codes import MEANINGS, ExitCode
from vfiocore.cli.output import Output
from vfiocore.errors import BusyError, ConfigError, MissingPluginError, Problem
from vfiocore.log import VfioWarning

from .schema import faults

Run = Callable[..., Any]
Spawn = Callable[..., "subprocess.Popen[str]"]
Install = Callable[[str, str], None]

CARD = ("-device", "vfio-pci,id=card,host=0000:02:00.0")

GREETING = """
from vfiocore import hookimpl
from vfiocore.registration import Command

def load():
    import click
    from vfiocore.cli.options import on_host

    @click.command("{name}")
    @on_host
    def greet(request):
        request.output.text(f"hello from {{request.framework.make_host().name}}")
    return greet

@hookimpl
def vfio_register_commands():
    yield Command(name="{name}", help="Greet a host.", load=load)
"""


# -- help and versions -----------------------------------------------------------------------------
def test_the_command_is_installed() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="vfiocore")
    assert script.load() is main


def test_help_lists_subcommands_and_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for name in app.COMMANDS:
        assert f"\n  {name} " in result.out
    for code, meaning in MEANINGS.items():
        assert f"{int(code):>3}  {meaning}" in result.out


@pytest.mark.parametrize("name", ["check", "demo", "devices", "plugins", "run", "show"])
def test_every_subcommand_has_help(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.code == 0
    assert "--json" in result.out


def test_the_version_is_that_of_the_distribution(run: Run) -> None:
    assert run("--version").out == f"vfiocore, version {vfiocore.__version__}\n"
    assert importlib.metadata.version("vfiocore") == vfiocore.__version__


def test_an_unknown_subcommand_is_a_mistake(run: Run) -> None:
    result = run("bogus")
    assert result.code == 2
    assert "No such command 'bogus'" in result.err


# -- subcommands of plugins ------------------------------------------------------------------------
def test_a_plugin_adds_a_subcommand(run: Run, distribution: Install) -> None:
    distribution("greeter", GREETING.format(name="greet"))
    assert run("greet", "--host", "sim").out == "hello from sim\n"


def test_help_lists_the_subcommands_of_plugins_without_loading_them(
    run: Run, distribution: Install
) -> None:
    distribution("greeter", GREETING.format(name="greet").replace("import click", "1 / 0"))
    assert "greet    Greet a host." in run("--help").out


def test_a_subcommand_that_cannot_be_loaded_says_why(run: Run, distribution: Install) -> None:
    distribution("greeter", GREETING.format(name="greet").replace("import click", "1 / 0"))
    result = run("greet")
    assert result.code == 2
    assert "the subcommand 'greet' cannot be loaded: ZeroDivisionError" in result.err


def test_two_providers_of_a_subcommand_are_refused(run: Run, distribution: Install) -> None:
    distribution("first", GREETING.format(name="greet"))
    distribution("second", GREETING.format(name="greet"))
    result = run("greet")
    assert result.code == 2
    assert "2 plugins provide the subcommand 'greet'" in result.err


def test_a_plugin_cannot_take_the_place_of_a_subcommand(run: Run, distribution: Install) -> None:
    distribution("greeter", GREETING.format(name="check"))
    result = run("--help")
    assert "Greet a host." not in result.out
    assert "warning: a plugin's subcommand 'check' is not used" in result.err


# -- exit codes ------------------------------------------------------------------------------------
def exit_code(run: Run, host: str, *words: str) -> int:
    result = run("run", "--once", "--host", host, *(words or CARD))
    assert result.err.startswith("vfiocore: ") or not result.code
    code: int = result.code
    return code


def test_done_is_0(run: Run, machine: Callable[..., str]) -> None:
    assert exit_code(run, machine()) == ExitCode.OK


def test_a_failed_operation_is_1(run: Run, machine: Callable[..., str]) -> None:
    host = machine(more="[host]\nmemlock_limit = 0\n")
    memory = ("-object", "memory-backend-ram,id=ram0,size=64K")
    assert exit_code(run, host, *memory, *CARD) == ExitCode.FAILED


def test_a_wrong_configuration_is_2(run: Run, machine: Callable[..., str]) -> None:
    assert exit_code(run, machine(), "-device", "vfio-pci") == ExitCode.USAGE


def test_an_unknown_host_is_2(run: Run) -> None:
    assert exit_code(run, "nowhere") == ExitCode.USAGE


@pytest.mark.parametrize(
    "text",
    ["not TOML", '[[pci]]\nname = "0000:02:00.0"\ndevice = "no-such"\ngroup = 1', "[host]\nx = 1"],
)
def test_a_wrong_topology_is_2(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(text)
    assert exit_code(run, f"sim:{path}") == ExitCode.USAGE


def test_a_topology_that_is_not_there_is_2(run: Run, tmp_path: Path) -> None:
    assert exit_code(run, f"sim:{tmp_path}/absent.toml") == ExitCode.USAGE


def test_no_such_device_is_3(run: Run) -> None:
    assert run("show", "0000:99:00.0", "--host", "sim").code == ExitCode.NO_DEVICE


def test_a_missing_permission_is_4(run: Run, machine: Callable[..., str]) -> None:
    host = machine(more="[groups.1]\nmsi_isolated = false\n")
    assert exit_code(run, host) == ExitCode.PERMISSION


def test_a_group_that_is_not_viable_is_5(run: Run) -> None:
    words = ("-device", "vfio-pci,host=0000:04:00.0")
    assert exit_code(run, "sim", *words) == ExitCode.NOT_VIABLE


def test_a_device_in_use_is_6(run: Run, machine: Callable[..., str]) -> None:
    assert exit_code(run, machine("cards:Taken")) == ExitCode.BUSY


def test_a_machine_that_lacks_vfio_is_7_and_shown_the_way_on(
    run: Run, machine: Callable[..., str]
) -> None:
    result = run("run", "--host", machine(more='[host]\nwithout = ["container"]\n'), *CARD)
    assert result.code == ExitCode.UNSUPPORTED
    assert "/dev/vfio/vfio" in result.err
    assert "--host sim" in result.err


def test_this_machine_without_vfio_is_7(run: Run) -> None:
    if Path("/dev/vfio/vfio").exists():
        pytest.skip("this machine has VFIO, so that nothing is missing")
    result = run("run", "--host", "linux", *CARD)
    assert result.code == ExitCode.UNSUPPORTED
    assert "--host sim" in result.err


def test_every_exit_code_but_the_interrupt_has_a_meaning_in_help(run: Run) -> None:
    assert set(MEANINGS) == set(ExitCode)


# -- errors ----------------------------------------------------------------------------------------
def test_an_error_of_the_kernel_is_a_document(run: Run, machine: Callable[..., str]) -> None:
    result = run("run", "--once", "--json", "--host", machine("cards:Taken"), *CARD)
    error = result.document["error"]
    assert (error["type"], error["errno"], error["exit_code"]) == ("BusyError", "EBUSY", 6)
    assert error["operation"] == "VFIO_GROUP_GET_DEVICE_FD"


def test_what_went_wrong_besides_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = BusyError(16, "open", "group 1")
    error.add_note("while closing: the rest")
    Output().error(error)
    assert capsys.readouterr().err.splitlines()[1] == "vfiocore: while closing: the rest"


def test_problems_behind_a_missing_plugin_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = MissingPluginError("install it")
    error.__cause__ = ConfigError([Problem("-device #1", "wrong too")])
    Output().error(error)
    assert capsys.readouterr().err.splitlines() == [
        "vfiocore: install it",
        "vfiocore: -device #1: wrong too",
    ]


# -- tables ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_shows_its_cells_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    monkeypatch.setattr("vfiocore.cli.output._is_terminal", lambda: terminal)
    Output().table(("name", "why"), [("card", "[red] :smile: [EBUSY]")])
    assert "[red] :smile: [EBUSY]" in capsys.readouterr().out


def test_a_piped_table_is_never_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("path", "driver"), [("/sys" * 100, "vfio-pci")])
    assert f"{'/sys' * 100}  vfio-pci\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "document",
    [
        {"schema": 1, "kind": "unheard-of"},
        {"schema": 2, "kind": "check", "ok": True, "items": []},
        {"schema": 1, "kind": "check", "ok": 1, "items": []},
        {"schema": 1, "kind": "check", "ok": True, "items": [7]},
        {"schema": 1, "kind": "check", "ok": True},
        {"schema": 1, "kind": "check", "ok": True, "items": [], "more": None},
    ],
)
def test_the_schema_finds_what_does_not_fit(document: object) -> None:
    assert faults(document)


# -- pipes and extras ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments", [("demo",), ("show", "vfio-pci"), ("run", "--host", "sim", *CARD)]
)
def test_a_reader_that_has_enough_is_no_error(spawn: Spawn, arguments: tuple[str, ...]) -> None:
    process = spawn(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("demo", "--help"), ("demo",), ("devices", "--host", "sim")],
)
def test_whatever_is_not_read_any_more_is_done(run_unread: Run, arguments: tuple[str, ...]) -> None:
    result = run_unread(*arguments)
    assert (result.code, result.err) == (ExitCode.OK, "")


def test_what_a_plugin_prints_needs_no_reader_either(
    run_unread: Run, distribution: Install
) -> None:
    distribution("greeter", GREETING.format(name="greet").replace("request.output.text", "print"))
    result = run_unread("greet", "--host", "sim")
    assert (result.code, result.err) == (ExitCode.OK, "")


def test_a_failure_is_one_without_a_reader_too(run_unread: Run) -> None:
    result = run_unread("show", "0000:99:00.0", "--host", "sim", "--json")
    assert (result.code, result.err) == (ExitCode.NO_DEVICE, "")


@pytest.mark.parametrize("missing", [["click"], ["rich"], ["click", "rich"]])
def test_a_missing_extra_is_named_with_what_to_install(spawn: Spawn, missing: list[str]) -> None:
    hidden = "".join(f"import sys; sys.modules[{name!r}] = None; " for name in missing)
    process = spawn("plugins", before=hidden)
    _out, err = process.communicate(timeout=10)
    assert process.returncode == 2
    assert f"needs {' and '.join(missing)}, which" in err
    assert "pip install 'vfiocore[cli]'" in err


def test_a_document_is_alone_on_stdout(run: Run, distribution: Install) -> None:
    distribution("odd", "1 / 0")
    result = run("devices", "--json", "--host", "sim")
    assert result.document["kind"] == "device-list"
    assert result.err.startswith("vfiocore: warning: plugin odd")


# -- in this process -------------------------------------------------------------------------------
@pytest.fixture
def as_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The entry point, with the arguments of a shell; its exit code."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["vfiocore", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    yield call
    signal.signal(signal.SIGTERM, before)


def test_the_entry_point_runs_the_arguments_and_takes_sigterm_as_an_interrupt(
    as_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_command("--version") == 0
    assert vfiocore.__version__ in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_the_entry_point_says_what_the_extra_is_for(
    as_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert as_command("--version") == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "click and rich, which are not installed" in text
    assert "pip install 'vfiocore[cli]'" in text


def test_a_shell_completes_the_names_of_subcommands() -> None:
    found = ShellComplete(app.app, {}, "vfiocore", "_VFIOCORE_COMPLETE").get_completions([], "de")
    assert [item.value for item in found] == ["demo", "devices"]


def test_a_shell_completes_the_subcommands_of_plugins(distribution: Install) -> None:
    distribution("greeter", GREETING.format(name="greet"))
    found = ShellComplete(app.app, {}, "vfiocore", "_VFIOCORE_COMPLETE").get_completions([], "gr")
    assert [item.value for item in found] == ["greet"]


def test_plugins_are_read_once_a_run(distribution: Install) -> None:
    distribution("greeter", GREETING.format(name="greet"))
    distribution("taker", GREETING.format(name="check"))
    complete = ShellComplete(app.app, {}, "vfiocore", "_VFIOCORE_COMPLETE")
    with pytest.warns(VfioWarning) as told:
        complete.get_completions([], "gr")
    assert len(told) == 1


def test_an_interrupt_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app.app, "main", interrupted)
    result = run("devices")
    assert (result.code, result.err) == (ExitCode.INTERRUPTED, "")
