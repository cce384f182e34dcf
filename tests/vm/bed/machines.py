"""The guests: which devices each has. To add one, add it to `MACHINES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .architectures import AARCH64, S390X, X86_64, Architecture


@dataclass(frozen=True)
class Machine:
    """A guest.

    Attributes:
        name: What it is called on the command line.
        architecture: What it runs on.
        about: What it is for, in a line.
        fixtures: The devices that it has, as the fixtures of ``tests/vm/guest`` call them. A test
            runs on the machines that have all of its fixtures.
        devices: QEMU's options.
        disks: Names of empty disks of 16 MiB, as drives for `devices`.
        kernel_words: For the kernel's command line.
        stream_ids: Nodes of the board's device tree that are put behind its SMMU, each with the
            stream id that it gets.
        memory: As QEMU wants it.
    """

    name: str
    architecture: Architecture
    about: str
    fixtures: frozenset[str]
    devices: tuple[str, ...]
    disks: tuple[str, ...] = ()
    kernel_words: tuple[str, ...] = ()
    stream_ids: Mapping[str, int] = field(default_factory=dict)
    memory: str = "1G"


def behind_root_port(number: int, *functions: str) -> tuple[str, ...]:
    """PCI functions of one slot behind a root port of their own, which hot reset needs."""
    # Without hotplug: with it a guest that reset many buses hung now and then, its interrupt thread
    # waiting for the slot.
    port = ("-device", f"pcie-root-port,id=rp{number},chassis={number},slot={number},hotplug=off")
    return (*port, *in_slot(0, *(f"{function},bus=rp{number}" for function in functions)))


def in_slot(number: int, *functions: str) -> tuple[str, ...]:
    """PCI functions of one slot; they have no ACS, so several are in one IOMMU group."""
    several = ",multifunction=on" if len(functions) > 1 else ""
    placed = [
        f"{function},addr={number:x}.{index}{several}" for index, function in enumerate(functions)
    ]
    return tuple(word for function in placed for word in ("-device", function))


def virtio_disk(drive: str) -> str:
    """A disk as a PCI function whose DMA goes through the IOMMU."""
    return f"virtio-blk-pci,id={drive},drive={drive},iommu_platform=on,disable-legacy=on"


PCI_CARDS = (
    *behind_root_port(1, "edu"),
    *behind_root_port(2, "nvme,serial=1,drive=nvme"),
    *behind_root_port(3, "edu", "edu"),
    *behind_root_port(4, "pci-testdev"),
    "-object",
    "memory-backend-ram,id=shared,size=1M,share=on",
    *behind_root_port(5, "ivshmem-plain,memdev=shared"),
    "-netdev",
    "user,id=wire,restrict=on",
    *behind_root_port(6, "e1000e,netdev=wire"),
    *behind_root_port(7, "edu", "nvme,serial=2,drive=beside"),
    *behind_root_port(8, virtio_disk("vda")),
    *behind_root_port(9, virtio_disk("vdb")),
)
PCI_DISKS = ("nvme", "beside", "vda", "vdb")
PCI_FIXTURES = frozenset(
    {
        *("edu", "nvme", "twins", "testdev", "ivshmem", "e1000e", "mixed_slot"),
        *("root_ports", "fault_reports", "virtio_disks", "huge_pages"),
    }
)

EDU_FIXTURES = frozenset({"edu", "twins"})

MDEVS = frozenset({"mtty", "mdpy"})
"""The kernel's sample devices; the guest's init makes one of each."""

NO_RESET_FUNCTION = "vfio_platform.reset_required=0"
"""The kernel has no way of resetting a virtio-mmio device, and would refuse it for that."""

UNSAFE_INTERRUPTS = (
    "vfio_iommu_type1.allow_unsafe_interrupts=1",
    "iommufd.allow_unsafe_interrupts=1",
)
"""For where nothing keeps a device from interrupting as another."""

MACHINES: Mapping[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine(
            name="x86_64",
            architecture=X86_64,
            about="PCI cards behind intel-iommu",
            fixtures=PCI_FIXTURES | MDEVS,
            devices=(
                "-device",
                "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on",
                *PCI_CARDS,
            ),
            disks=PCI_DISKS,
            kernel_words=("intel_iommu=on", "iommu=nopt"),
        ),
        Machine(
            name="x86_64-virtio-iommu",
            architecture=X86_64,
            about="edu cards behind virtio-iommu",
            fixtures=EDU_FIXTURES | {"root_ports", "fault_reports", "unisolated_interrupts"},
            devices=(
                *("-device", "virtio-iommu-pci"),
                *behind_root_port(1, "edu"),
                *behind_root_port(2, "edu", "edu"),
            ),
            kernel_words=UNSAFE_INTERRUPTS,
        ),
        Machine(
            name="x86_64-amd-iommu",
            architecture=X86_64,
            about="edu cards behind amd-iommu",
            fixtures=EDU_FIXTURES,
            devices=(
                *("-device", "amd-iommu,intremap=on,device-iotlb=on"),
                # QEMU 7.2 takes the number of a card's bus before there are numbers, so that the
                # transfers of cards behind ports are those of bus 0, and refused.
                *in_slot(0x10, "edu"),
                *in_slot(0x11, "edu", "edu"),
            ),
        ),
        Machine(
            name="x86_64-noiommu",
            architecture=X86_64,
            about="an edu card behind nothing",
            fixtures=frozenset({"edu_noiommu"}),
            devices=behind_root_port(1, "edu"),
        ),
        Machine(
            name="x86_64-faults",
            architecture=X86_64,
            about="edu cards on a kernel that is made to fail",
            fixtures=frozenset({"fault_edu", "fault_twins"}),
            devices=(
                "-device",
                "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on",
                *behind_root_port(1, "edu"),
                *behind_root_port(3, "edu", "edu"),
            ),
            # Without ACPI's tables for INTx: after a failed allocation in their interpreter, Linux
            # 7.2 oopses when the device is disabled (acpi_ut_update_object_reference).
            kernel_words=("intel_iommu=on", "iommu=nopt", "acpi=noirq"),
        ),
        Machine(
            name="aarch64",
            architecture=AARCH64,
            about="PCI cards behind SMMUv3, and a platform device behind nothing",
            fixtures=PCI_FIXTURES | MDEVS | {"platform_noiommu"},
            devices=(*PCI_CARDS, "-device", "virtio-rng-device"),
            disks=PCI_DISKS,
            kernel_words=(NO_RESET_FUNCTION,),
        ),
        Machine(
            name="aarch64-platform",
            architecture=AARCH64,
            about="a platform device behind SMMUv3",
            fixtures=frozenset({"platform"}),
            devices=("-device", "virtio-rng-device"),
            # Its interrupts are wired: nothing isolates them, as the ITS does MSIs.
            kernel_words=(NO_RESET_FUNCTION, *UNSAFE_INTERRUPTS),
            stream_ids={"/virtio_mmio@a003e00": 0x1000},
        ),
        Machine(
            name="s390x",
            architecture=S390X,
            about="channel-attached disk and network cards, zPCI cards",
            fixtures=frozenset({"ccw", "ccw_nics", "no_adapters", "zpci", "virtio_disks"}) | MDEVS,
            devices=(
                "-device",
                "virtio-blk-ccw,drive=ccw,devno=fe.0.1234",
                *("-device", "virtio-net-ccw,devno=fe.0.1235"),
                *("-device", "virtio-net-ccw,devno=fe.0.1236"),
                "-netdev",
                "user,id=wire,restrict=on",
                "-device",
                "zpci,uid=5,fid=5,target=net",
                "-device",
                "virtio-net-pci,id=net,netdev=wire,iommu_platform=on,disable-legacy=on",
                *("-device", "zpci,uid=6,fid=6,target=vda", "-device", virtio_disk("vda")),
                *("-device", "zpci,uid=7,fid=7,target=vdb", "-device", virtio_disk("vdb")),
            ),
            disks=("ccw", "vda", "vdb"),
        ),
    )
}
