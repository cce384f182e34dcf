"""The command line of QEMU for a machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .architectures import Architecture
from .machines import Machine

DISK_SIZE = 16 << 20
TRANSFER_SIZE = 1 << 18

KERNEL_WORDS = (
    "quiet",
    "root=root",
    "rootfstype=9p",
    f"rootflags=trans=virtio,version=9p2000.L,msize={TRANSFER_SIZE},cache=loose",
    "ro",
    "init=/init",
    # A panic ends the guest at once, and an oops is one.
    "panic=-1",
    "oops=panic",
)


@dataclass(frozen=True)
class Share:
    """A folder of the host that the guest mounts by its tag."""

    tag: str
    folder: Path
    writable: bool = False


@dataclass(frozen=True)
class Boot:
    """What a guest boots from.

    Attributes:
        kernel: The image.
        shares: The folders that it sees; the one tagged ``root`` is its root.
        work: A folder for disks, gone afterwards.
        console: The file that the console is written to; the terminal if None.
        accelerator: QEMU's name of what runs its instructions.
        device_tree: In place of the board's own.
    """

    kernel: Path
    shares: Sequence[Share]
    work: Path
    console: Path | None
    accelerator: str
    device_tree: Path | None = None


def command(machine: Machine, boot: Boot) -> list[str]:
    """QEMU and its arguments."""
    words = (
        f"console={machine.architecture.console}",
        *KERNEL_WORDS,
        *machine.architecture.kernel_words,
        *machine.kernel_words,
    )
    return [
        machine.architecture.emulator,
        *machine.architecture.board,
        *("-accel", boot.accelerator, "-m", machine.memory, "-smp", "2"),
        *("-nodefaults", "-no-reboot", "-display", "none"),
        *_console(boot.console),
        *("-kernel", str(boot.kernel), "-append", " ".join(words)),
        *(("-dtb", str(boot.device_tree)) if boot.device_tree else ()),
        *(word for disk in machine.disks for word in _drive(boot.work, disk)),
        # An IOMMU has to come before what is behind it.
        *machine.devices,
        *(word for share in boot.shares for word in _share(machine.architecture, share)),
    ]


def make_disks(machine: Machine, work: Path) -> None:
    """Make the files of a machine's disks; they take no space until they are written to."""
    for name in machine.disks:
        with _disk(work, name).open("wb") as file:
            file.truncate(DISK_SIZE)


def _console(console: Path | None) -> Iterator[str]:
    yield from ("-monitor", "none")
    # Within "mon:" Ctrl-C goes to the guest instead of ending QEMU.
    yield from ("-serial", f"file:{_escaped(console)}" if console else "mon:stdio")


def _drive(work: Path, name: str) -> tuple[str, ...]:
    file = _escaped(_disk(work, name))
    return ("-drive", f"if=none,id={name},format=raw,file={file}")


def _disk(work: Path, name: str) -> Path:
    return work / f"{name}.img"


def _share(architecture: Architecture, share: Share) -> tuple[str, ...]:
    access = "" if share.writable else ",readonly=on"
    # Attributes that an unprivileged QEMU cannot set are left alone; folders may span mounts.
    backend = f"local,id={share.tag},security_model=none,multidevs=remap{access}"
    frontend = f"{architecture.share},fsdev={share.tag},mount_tag={share.tag}"
    path = _escaped(share.folder)
    return ("-fsdev", f"{backend},path={path}", "-device", frontend)


def _escaped(path: Path) -> str:
    """A path within an option: QEMU takes a doubled comma for one that separates nothing."""
    return str(path).replace(",", ",,")
