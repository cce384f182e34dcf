"""What kind of IOMMU a group stands behind."""

from __future__ import annotations

import errno

from attrs import frozen

from vfiocore.uapi.iommufd import IOMMU_HW_INFO_TYPE_NONE
from vfiocore_sim.kernel.intervals import Span


@frozen
class ReservedRegion:
    """A line of /sys/kernel/iommu_groups/N/reserved_regions; `last` is included."""

    first: int
    last: int
    #: ``direct``, ``direct-relaxable``, ``reserved`` or ``msi``.
    kind: str = "reserved"

    @property
    def span(self) -> Span:
        """Where it is."""
        return Span(self.first, self.last)


X86_MSI = ReservedRegion(0xFEE00000, 0xFEEFFFFF, "msi")
ARM_SOFTWARE_MSI = ReservedRegion(0x8000000, 0x80FFFFF, "msi")


@frozen
class IommuModel:
    """The abilities of the IOMMU in front of a group. Equal models can share a page table."""

    #: Addresses the page table reaches: 48 bits, as VT-d with four levels.
    aperture: tuple[int, int] = (0, (1 << 48) - 1)
    reserved: tuple[ReservedRegion, ...] = (X86_MSI,)
    #: Bitmap of page sizes; None for what the CPU has: a page and two levels of larger ones.
    page_sizes: int | None = None
    dirty_tracking: bool = True
    #: Interrupt remapping: without it the kernel refuses, for a device could forge interrupts.
    msi_isolated: bool = True
    cache_coherent: bool = True
    #: Can force coherent DMA on devices that ask for less (VFIO_DMA_CC_IOMMU), as VT-d with snoop
    #: control.
    enforces_coherency: bool = True
    #: Makes page tables for devices that use PASIDs, though none does.
    pasids: bool = False
    #: The errno of a page table with a fault queue, as no device asks for pages: ENODEV of VT-d
    #: (``iommu.c:intel_iommu_enable_iopf``), EOPNOTSUPP of SMMUv3 without
    #: CONFIG_ARM_SMMU_V3_SVA (``arm-smmu-v3.c:arm_smmu_enable_iopf``).
    no_page_requests: int = errno.ENODEV
    #: What IOMMU_GET_HW_INFO says: an IOMMU_HW_INFO_TYPE_* number, and that type's struct.
    hw_info_type: int = IOMMU_HW_INFO_TYPE_NONE
    hw_info_data: bytes = b""

    @property
    def reserved_spans(self) -> list[Span]:
        """The regions that no mapping may touch: direct-relaxable ones may be mapped over."""
        return [region.span for region in self.reserved if region.kind != "direct-relaxable"]

    @property
    def unreachable(self) -> list[Span]:
        """The addresses below and above the aperture."""
        first, last = self.aperture
        below = [Span(0, first - 1)] if first else []
        above = [Span(last + 1, (1 << 64) - 1)] if last < (1 << 64) - 1 else []
        return below + above

    def page_size_bitmap(self, page_size: int) -> int:
        """The bitmap of page sizes on a machine whose pages have `page_size` bytes."""
        if self.page_sizes is not None:
            return self.page_sizes
        entries = page_size // 8
        return page_size | page_size * entries | page_size * entries * entries
