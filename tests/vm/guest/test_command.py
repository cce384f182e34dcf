"""The ``vfiocore`` command, and what the README shows, on the guest's devices."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vfiocore.cli.app import run
from vfiocore.cli.exit_codes import ExitCode
from vfiocore.errors import BusyError

from .binding import driver_of, given_to
from .devices import Device
from .way import Way

Command = Callable[..., Any]

SECONDS = 30


@pytest.fixture
def vfiocore(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command; it returns its JSON document."""

    def call(*words: str) -> Any:
        with pytest.raises(SystemExit) as stop:
            run([*words, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert not stop.value.code, document
        return document

    return call


# -- vfiocore devices ------------------------------------------------------------------------------
def assert_listed_as_ready(device: Device, vfiocore: Command) -> None:
    (found,) = [one for one in vfiocore("devices")["items"] if one["name"] == device.name]
    assert found["bus"] == device.bus
    assert found["group"] is not None
    assert found["cdev"] is not None
    assert found["ready"] is True


def test_a_card_on_vfio_pci_is_listed_as_ready(edu: Device, vfiocore: Command) -> None:
    assert_listed_as_ready(edu, vfiocore)


def test_a_zpci_card_on_vfio_pci_is_listed_as_ready(zpci: Device, vfiocore: Command) -> None:
    assert_listed_as_ready(zpci, vfiocore)


def test_a_platform_device_on_vfio_platform_is_listed_as_ready(
    platform: Device, vfiocore: Command
) -> None:
    assert_listed_as_ready(platform, vfiocore)


def test_a_disk_on_vfio_ccw_is_listed_as_ready(ccw: Device, vfiocore: Command) -> None:
    assert_listed_as_ready(ccw, vfiocore)


def test_a_sample_mdev_is_listed_as_ready(mtty: Device, vfiocore: Command) -> None:
    assert_listed_as_ready(mtty, vfiocore)


def test_a_disk_on_its_host_driver_is_listed_with_what_it_needs(
    mixed_slot: tuple[Device, Device], vfiocore: Command
) -> None:
    (found,) = [one for one in vfiocore("devices")["items"] if one["name"] == mixed_slot[1].name]
    assert not found["ready"]
    assert found["missing"] == "nvme has it, bind it to vfio-pci"


def test_what_is_in_the_way_of_a_card_is_listed(
    mixed_slot: tuple[Device, Device], vfiocore: Command
) -> None:
    card, disk = mixed_slot
    with given_to("vfio-pci", card):
        (found,) = [one for one in vfiocore("devices")["items"] if one["name"] == card.name]
    assert not found["ready"]
    assert found["missing"] == f"its group has {disk.name} (nvme)"


# -- vfiocore show ---------------------------------------------------------------------------------
def test_a_card_is_shown_with_the_others_of_its_group(
    twins: tuple[Device, Device], vfiocore: Command
) -> None:
    shown = vfiocore("show", twins[0].name)
    assert shown["device"]["driver"] == "vfio-pci"
    assert [one["name"] for one in shown["group"]] == [twin.name for twin in twins]


def test_a_device_is_shown_by_its_path(mtty: Device, vfiocore: Command) -> None:
    shown = vfiocore("show", str(mtty.path))
    assert shown["device"]["name"] == mtty.name
    assert shown["device"]["bus"] == "mdev"


# -- vfiocore check and run ------------------------------------------------------------------------
def assert_opened(device: Device, backend: Way, vfiocore: Command) -> None:
    words = backend.words(device)
    assert vfiocore("check", *words)["ok"] is True
    document = vfiocore("run", "--once", *words)
    assert [(one["name"], one["backend"]) for one in document["devices"]] == [
        (device.name, backend.backend)
    ]


def test_a_card_is_checked_and_opened(edu: Device, backend: Way, vfiocore: Command) -> None:
    assert_opened(edu, backend, vfiocore)


def test_a_zpci_card_is_checked_and_opened(zpci: Device, backend: Way, vfiocore: Command) -> None:
    assert_opened(zpci, backend, vfiocore)


def test_a_platform_device_is_checked_and_opened(
    platform: Device, backend: Way, vfiocore: Command
) -> None:
    assert_opened(platform, backend, vfiocore)


def test_a_disk_is_checked_and_opened(ccw: Device, backend: Way, vfiocore: Command) -> None:
    assert_opened(ccw, backend, vfiocore)


def test_a_sample_mdev_is_checked_and_opened(mtty: Device, backend: Way, vfiocore: Command) -> None:
    assert_opened(mtty, backend, vfiocore)


def test_a_card_is_held_until_the_command_is_interrupted(edu: Device, backend: Way) -> None:
    with running(*backend.words(edu)) as process:
        with pytest.raises(BusyError):
            backend.open(edu)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == ExitCode.INTERRUPTED
    with backend.open(edu):
        pass


def test_a_card_is_given_back_when_the_host_wants_it(edu: Device, backend: Way) -> None:
    with running(*backend.words(edu)) as process:
        (edu.path / "driver/unbind").write_text(edu.name, encoding="ascii")
        assert process.wait(SECONDS) == ExitCode.OK
        assert driver_of(edu) is None
        assert process.stderr is not None
        assert "the host wants it back" in process.stderr.read()


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """``vfiocore run`` in a process of its own, once it holds its devices."""
    with subprocess.Popen(
        ["vfiocore", "run", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("held") for line in process.stdout)
            yield process
        finally:
            process.kill()


# -- the README ------------------------------------------------------------------------------------
def test_the_example_of_the_readme_runs(
    edu: Device, backend: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    changes = {'host="sim"': 'host="linux"', "0000:02:00.0": edu.name, "timeout=1": "timeout=20"}
    if backend.backend == "legacy":
        changes[",iommufd=iommufd0"] = ""
    for before, after in changes.items():
        assert before in code
        code = code.replace(before, after)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "b'through the IOMMU'\n"
