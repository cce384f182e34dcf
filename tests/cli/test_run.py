"""``vfiocore run``."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from vfiocore.cli.output import Output
from vfiocore.cli.run import hold
from vfiocore.framework import Framework
from vfiocore_sim.host import SimHost

Run = Callable[..., Any]
Spawn = Callable[..., "subprocess.Popen[str]"]

IOMMUFD = ("-object", "iommufd,id=iommufd0")
CARD = ("-device", "vfio-pci,id=card,host=0000:02:00.0,iommufd=iommufd0")


def test_what_is_live_is_reported(run: Run) -> None:
    result = run("run", "--once", "--host", "sim", *IOMMUFD, *CARD)
    assert result.code == 0
    heading, row = result.out.splitlines()
    assert heading.split()[:4] == ["id", "type", "device", "container"]
    assert row.split()[:3] == ["card", "vfio-pci", "0000:02:00.0"]
    assert "IOAS 2 of iommufd0" in row


def test_a_session_is_a_document(run: Run) -> None:
    memory = ("-object", "memory-backend-ram,id=ram0,size=64K")
    document = run("run", "--once", "--json", "--host", "sim", *IOMMUFD, *memory, *CARD).document
    (container,) = document["containers"]
    assert container["mapped_bytes"] == 65536
    assert [device["id"] for device in document["devices"]] == ["card"]
    assert document["devices"][0]["container"] == container["label"]


def test_without_a_device_there_is_nothing_to_run(run: Run) -> None:
    result = run("run", "--json", "--host", "sim", *IOMMUFD)
    assert result.code == 2
    assert "there is no device to run" in result.document["error"]["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_takes_everything_down(spawn: Spawn, number: signal.Signals) -> None:
    process = spawn("run", "--host", "sim", *IOMMUFD, *CARD)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("held"):
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "")


def test_an_interrupt_closes_the_devices_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimHost()
    session = Framework(host=host).open(" ".join((*IOMMUFD, *CARD)))

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    session.run_in_loop(interrupted)
    with pytest.raises(KeyboardInterrupt), session:
        hold(session, Output())
    assert host.open_files() == []
    assert host.call_names()[-1] == "close iommufd"


def test_a_device_that_the_host_wants_back_is_taken_down(
    run: Run, machine: Callable[..., str]
) -> None:
    result = run(
        "run", "--host", machine("cards:Wanted"), "-device", "vfio-pci,id=card,host=0000:02:00.0"
    )
    assert result.code == 0
    assert result.err.splitlines() == [
        "vfiocore: card (0000:02:00.0): the host wants it back, so it was taken down",
        "vfiocore: no device is left",
    ]


def test_the_other_devices_are_held_on(capsys: pytest.CaptureFixture[str]) -> None:
    host = SimHost()
    words = (
        "-device vfio-pci,id=one,host=0000:02:00.0 -device vfio-pci,id=two,host=0000:05:00.0"
        " -device vfio-platform,id=timer,host=10000000.timer"
    )
    with Framework(host=host).open(words) as session:
        one: Any = host.device("0000:02:00.0")
        session.run_in_loop(one.request, 0)
        session.run_in_loop(session.run_in_loop, session.run_in_loop, session.loop.stop)
        hold(session, Output())
        assert list(session.devices) == ["two", "timer"]
        assert host.open_files().count("device 0000:05:00.0") == 1
        assert "device 0000:02:00.0" not in host.open_files()
    assert "one (0000:02:00.0)" in capsys.readouterr().err


@pytest.mark.parametrize("type_", ["vfio-ap", "vfio-ccw"])
def test_mediated_devices_are_given_back_too(
    type_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost()
    names = host.listdir("/sys/bus/mdev/devices")
    name = next(n for n in names if type_[5:] in host.readlink(f"/sys/bus/mdev/devices/{n}/driver"))
    words = f"-device {type_},id=mdev,sysfsdev=/sys/bus/mdev/devices/{name}"
    with Framework(host=host).open(words) as session:
        program: Any = host.device(name)
        session.run_in_loop(program.request, 0)
        hold(session, Output())
        assert not session.devices
    assert "the host wants it back" in capsys.readouterr().err


def test_a_warning_is_one_line_without_its_place_in_the_code(
    run: Run, distribution: Callable[[str, str], None]
) -> None:
    distribution("odd", "import nothing_of_this_name")
    result = run("run", "--once", "--host", "sim", *IOMMUFD, *CARD)
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert line.startswith("vfiocore: warning: plugin odd (vfiocore-odd 9.9)")
    assert "No module named 'nothing_of_this_name'" in line
