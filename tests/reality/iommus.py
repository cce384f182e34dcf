"""The IOMMUs of the guests, by the name of the machine."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from vfiocore.uapi.iommufd import IOMMU_HW_INFO_TYPE_INTEL_VTD
from vfiocore_sim.topology import IommuModel

INTEL = IommuModel(
    aperture=(0, (1 << 39) - 1),
    dirty_tracking=False,
    enforces_coherency=False,
    pasids=True,
    hw_info_type=IOMMU_HW_INFO_TYPE_INTEL_VTD,
    # Flags, then the capability registers, as QEMU 7.2 has them.
    hw_info_data=struct.pack("<IIQQ", 1, 0, 0x00D2008C22260286, 0xF00F4E),
)
"""QEMU's intel-iommu: 39 bits, no scalable mode, no snoop control."""

IOMMUS: Mapping[str, IommuModel] = {"x86_64": INTEL}
