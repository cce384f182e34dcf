"""The IOMMUs of the guests, as QEMU 7.2 has them."""

from __future__ import annotations

import errno
import struct

from vfiocore.uapi.iommufd import IOMMU_HW_INFO_TYPE_ARM_SMMUV3, IOMMU_HW_INFO_TYPE_INTEL_VTD
from vfiocore_sim.topology import ARM_SOFTWARE_MSI, IommuModel

INTEL = IommuModel(
    aperture=(0, (1 << 39) - 1),
    dirty_tracking=False,
    enforces_coherency=False,
    pasids=True,
    hw_info_type=IOMMU_HW_INFO_TYPE_INTEL_VTD,
    # Flags, then the capability registers.
    hw_info_data=struct.pack("=IIQQ", 1, 0, 0x00D2008C22260286, 0xF00F4E),
)
"""QEMU's intel-iommu: 39 bits, no scalable mode, no snoop control."""

SMMUV3 = IommuModel(
    reserved=(ARM_SOFTWARE_MSI,),
    dirty_tracking=False,
    enforces_coherency=False,
    pasids=True,
    no_page_requests=errno.EOPNOTSUPP,
    hw_info_type=IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
    # Flags, a reserved word, the identification registers 0 to 5, the implementer, the architecture.
    hw_info_data=struct.pack(
        "=10I", 0, 0, 0x0D40101A, 0x02730010, 0, 0x00001404, 0, 0x00000074, 0, 1
    ),
)
"""QEMU's SMMUv3: 48 bits, interrupts in a window that the kernel maps, no dirty tracking."""
