"""What differs between the architectures, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """An emulated processor and the board around it.

    Attributes:
        name: As in ``uname -m``.
        debian: As in Debian's archive.
        emulator: QEMU's program.
        board: QEMU's options for the board and the processor.
        image: What the kernel's image is called.
        console: The kernel's name of the serial console.
        share: QEMU's device for a folder shared with the guest.
        kernel_words: For the kernel's command line.
    """

    name: str
    debian: str
    emulator: str
    board: tuple[str, ...]
    image: str
    console: str
    share: str
    kernel_words: tuple[str, ...] = ()


X86_64 = Architecture(
    name="x86_64",
    debian="amd64",
    emulator="qemu-system-x86_64",
    # Interrupt remapping needs the split interrupt controller.
    board=("-machine", "q35,kernel-irqchip=split", "-cpu", "max,arch-capabilities=off"),
    image="bzImage",
    console="ttyS0",
    share="virtio-9p-pci",
    # With a timer that ticks. Of one that is set anew for each expiry an interrupt was lost now and
    # then on a busy host, and that processor slept for good.
    kernel_words=("highres=off", "nohz=off"),
)

AARCH64 = Architecture(
    name="aarch64",
    debian="arm64",
    emulator="qemu-system-aarch64",
    # "max" has more to emulate, and nothing of it is needed.
    board=("-machine", "virt,iommu=smmuv3,gic-version=3", "-cpu", "cortex-a57"),
    image="Image",
    console="ttyAMA0",
    share="virtio-9p-pci",
)

S390X = Architecture(
    name="s390x",
    debian="s390x",
    emulator="qemu-system-s390x",
    board=("-machine", "s390-ccw-virtio", "-cpu", "max"),
    image="bzImage",
    console="ttysclp0",
    share="virtio-9p-ccw",
)

ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture for architecture in (X86_64, AARCH64, S390X)
}
