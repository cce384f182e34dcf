"""What QEMU is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.vm.bed.architectures import ARCHITECTURES
from tests.vm.bed.emulator import DISK_SIZE, Boot, Share, command, make_disks
from tests.vm.bed.machines import MACHINES, Machine

ANY_MACHINE = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)

BOOT = Boot(
    kernel=Path("/k/bzImage"),
    shares=(Share("root", Path("/cache/root")), Share("bed", Path("/results"), writable=True)),
    work=Path("/work folder"),
    console=Path("/results/console"),
    accelerator="tcg",
)


def values(words: list[str], option: str) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == option]


def position(words: list[str], start: str) -> int:
    return next(index for index, word in enumerate(words) if word.startswith(start))


@ANY_MACHINE
def test_a_guest_cannot_write_to_a_share_unless_it_may(machine: Machine) -> None:
    root, bed = values(command(machine, BOOT), "-fsdev")
    assert "readonly=on" in root
    assert "readonly=on" not in bed


@ANY_MACHINE
def test_a_panic_ends_the_guest_instead_of_rebooting_it(machine: Machine) -> None:
    words = command(machine, BOOT)
    assert "-no-reboot" in words
    assert "panic=-1" in values(words, "-append")[0].split()


@ANY_MACHINE
def test_every_disk_of_a_machine_is_in_a_drive_of_that_name(
    machine: Machine, tmp_path: Path
) -> None:
    make_disks(machine, tmp_path)
    drives = values(command(machine, replace(BOOT, work=tmp_path)), "-drive")
    files = {drive.rpartition("file=")[2] for drive in drives}
    assert files == {str(path) for path in tmp_path.iterdir()}
    assert all(path.stat().st_size == DISK_SIZE for path in tmp_path.iterdir())
    for drive, name in zip(drives, machine.disks, strict=True):
        assert f"id={name}," in drive


def test_an_iommu_comes_before_the_devices_behind_it() -> None:
    words = command(MACHINES["x86_64"], BOOT)
    assert position(words, "intel-iommu") < position(words, "pcie-root-port")
    assert position(words, "intel-iommu") < position(words, "virtio-9p-pci")


def test_a_comma_in_a_path_separates_nothing() -> None:
    boot = replace(BOOT, shares=(Share("root", Path("/a,b")),), console=Path("/c,d"))
    words = command(MACHINES["x86_64"], boot)
    assert values(words, "-fsdev")[0].endswith(",path=/a,,b")
    assert values(words, "-serial") == ["file:/c,,d"]


def test_without_a_file_the_console_is_the_terminal_and_keeps_ctrl_c_for_the_guest() -> None:
    words = command(MACHINES["x86_64"], replace(BOOT, console=None))
    assert values(words, "-serial") == ["mon:stdio"]


def test_every_architecture_has_a_machine_of_its_name() -> None:
    for name, architecture in ARCHITECTURES.items():
        assert MACHINES[name].architecture is architecture
