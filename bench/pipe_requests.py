"""Import before the backends: from then on, the ioctls that map and unmap are FIONREAD.

On a pipe that is a system call with a buffer that the kernel answers at once, so a host needs no
function of its own to stand in for the real ioctls. It overwrites the first 4 bytes of the buffer.
"""

import termios

from vfiocore.uapi import iommufd, vfio

vfio.VFIO_IOMMU_MAP_DMA = termios.FIONREAD
vfio.VFIO_IOMMU_UNMAP_DMA = termios.FIONREAD
iommufd.IOMMU_IOAS_MAP = termios.FIONREAD
iommufd.IOMMU_IOAS_UNMAP = termios.FIONREAD
