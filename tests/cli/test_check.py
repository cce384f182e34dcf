"""``vfiocore check``, and how configurations are put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

WRONG = (
    "-object",
    "iommufd",
    "-device",
    "vfio-pci,hst=0000:02:00.0",
    "-device",
    "vfio-pic,host=0000:02:00.0",
    "-device",
    "vfio-pci,host=02:00,iommufd=iommufd7",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vfio.toml"
    path.write_text('host = "sim"\n[[object]]\ntype = "iommufd"\nid = "iommufd0"\n')
    return path


def test_a_good_configuration_is_shown_complete(run: Run) -> None:
    result = run("check", "-device", "vfio-pci,host=02:00.0")
    assert result.code == 0
    shown, summary = result.out.splitlines()
    assert shown.startswith("-device vfio-pci,id=dev0,host=0000:02:00.0,")
    assert "enable-migration=auto" in shown
    assert summary == "ok: 0 objects, 1 device"


def test_what_is_shown_can_be_checked_again(run: Run) -> None:
    first = run("check", "-device", "vfio-pci,host=02:00.0").out
    words = first.splitlines()[0].split(" ")
    assert run("check", *words).out == first


MDEVS = "/sys/bus/mdev/devices"


@pytest.mark.parametrize(
    "device",
    [
        "vfio-pci,host=0000:99:00.0",
        f"vfio-ap,sysfsdev={MDEVS}/11111111-2222-3333-4444-555555555555",
        f"vfio-ccw,sysfsdev={MDEVS}/11111111-2222-3333-4444-555555555555",
    ],
)
def test_a_device_that_the_named_host_does_not_have_is_a_problem(run: Run, device: str) -> None:
    result = run("check", "--host", "sim", "-device", device)
    assert result.code == 2
    assert "there is no /sys/bus/" in result.err
    assert "on host sim" in result.err


def test_a_file_names_the_host_too(run: Run, file: Path) -> None:
    result = run("check", "-c", str(file), "-device", "vfio-pci,host=99:00.0")
    assert result.code == 2
    assert "on host sim" in result.err


def test_without_a_host_a_configuration_may_be_for_another_machine(run: Run) -> None:
    result = run("check", "-device", f"vfio-ap,sysfsdev={MDEVS}/of-another-machine")
    assert result.code == 0


def test_an_fd_that_is_yet_to_be_passed_is_no_problem(run: Run) -> None:
    options = "-object iommufd,id=io0 -device vfio-pci,fd=card,iommufd=io0"
    assert run("check", "--host", "sim", *options.split()).code == 0


def test_every_problem_is_told_at_once_each_on_its_line(run: Run) -> None:
    result = run("check", *WRONG)
    assert result.code == 2
    lines = result.err.splitlines()
    assert all(line.startswith("vfiocore: -") for line in lines)
    for part in (
        "-object #1 (iommufd).id: it is required",
        'hst: unknown key (did you mean "host"?',
        'unknown device type "vfio-pic" (did you mean "vfio-pci"?',
        '"02:00" is not a PCI address',
        'there is no object "iommufd7"',
    ):
        assert any(part in line for line in lines), part


def test_the_same_problems_are_a_document(run: Run) -> None:
    result = run("check", "--json", *WRONG)
    assert result.code == 2
    error = result.document["error"]
    assert error["type"] == "ConfigError"
    assert error["exit_code"] == 2
    assert len(error["problems"]) >= 5
    assert result.err == ""


def test_file_and_options_are_one_configuration(run: Run, file: Path) -> None:
    result = run(
        "check", "--json", "-c", str(file), "-device", "vfio-pci,host=02:00.0,iommufd=iommufd0"
    )
    first, second = result.document["items"]
    assert first == "-object iommufd,id=iommufd0"
    assert "iommufd=iommufd0" in second


def test_problems_of_file_and_options_come_together(run: Run, file: Path) -> None:
    file.write_text('[[device]]\ntype = "vfio-pci"\nhost = 7\n')
    result = run("check", "-c", str(file), "-device", "vfio-pci")
    assert f"{file}: device[0]" in result.err
    assert "-device #1" in result.err


def test_a_file_that_cannot_be_read_is_a_problem(run: Run, tmp_path: Path) -> None:
    result = run("check", "-c", str(tmp_path / "absent.toml"))
    assert result.code == 2
    assert "absent.toml: it cannot be read: No such file or directory" in result.err


def test_the_host_of_the_file_is_used(run: Run, file: Path) -> None:
    card = ("-device", "vfio-pci,host=02:00.0,iommufd=iommufd0")
    assert run("run", "--once", "-c", str(file), *card).code == 0


def test_the_host_of_the_command_line_comes_first(
    run: Run, file: Path, machine: Callable[..., str]
) -> None:
    file.write_text('host = "no-such-host"\n')
    card = ("-device", "vfio-pci,host=02:00.0")
    assert run("run", "--once", "-c", str(file), *card).code == 2
    assert run("run", "--once", "-c", str(file), "--host", machine(), *card).code == 0


def test_the_file_says_which_plugins_may_be_imported(run: Run, file: Path) -> None:
    file.write_text('[plugins]\nblock = ["iommufd"]\n')
    result = run("check", "-c", str(file), "-object", "iommufd,id=iommufd0")
    assert result.code == 2
    assert "vfiocore-iommufd" in result.err


def test_nothing_is_opened(run: Run) -> None:
    # Its group is not viable, which shows when it is opened.
    assert run("check", "--host", "sim", "-device", "vfio-pci,host=04:00.0").code == 0
