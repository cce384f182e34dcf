"""What every VFIO driver shares: the device ioctls, their checks, and the feature rules."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from vfiocore.uapi.vfio import (
    VFIO_DEVICE_FEATURE,
    VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_MASK,
    VFIO_DEVICE_FEATURE_PROBE,
    VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_RESET,
    VFIO_DEVICE_SET_IRQS,
    VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_CAPS,
    VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
    vfio_device_feature,
    vfio_device_info,
    vfio_irq_info,
    vfio_region_info,
    vfio_region_sparse_mmap_area,
)
from vfiocore_sim.capchain import Capability
from vfiocore_sim.device import SimDevice
from vfiocore_sim.refusal import fail
from vfiocore_sim.user import UserArg
from vfiocore_sim.vfio.eventfd import EventWatcher
from vfiocore_sim.vfio.irqset import IrqRequest, load_irq_request

if TYPE_CHECKING:
    from vfiocore_sim.vfio.ram import RamArea

_INFO_MINSZ = 16
_REGION_MINSZ = 32
_IRQ_MINSZ = 16
_FEATURE_MINSZ = 8


@frozen
class RegionDescription:
    """What GET_REGION_INFO tells: sizes and offsets in bytes, VFIO_REGION_INFO_FLAG_* flags."""

    flags: int
    size: int
    offset: int
    caps: Sequence[Capability] = ()


@frozen
class IrqDescription:
    """What GET_IRQ_INFO tells: VFIO_IRQ_INFO_FLAG_* flags and the number of vectors."""

    flags: int
    count: int


@frozen
class Feature:
    """One VFIO_DEVICE_FEATURE.

    Attributes:
        operations: Those that are allowed.
        size: Of its data, in bytes.
        apply: What it does with its data, and what follows that.
        following: How many bytes follow the data, by what is in it; OSError refuses it.
    """

    operations: int
    size: int
    apply: Callable[[bytes], int]
    following: Callable[[bytes], int] = lambda _data: 0


def sparse_mmap(areas: Sequence[RamArea]) -> Capability:
    """The capability that names the only parts of a region that can be mapped."""
    body = struct.pack("=II", len(areas), 0)
    for area in areas:
        body += bytes(vfio_region_sparse_mmap_area(offset=area.offset, size=area.size))
    return Capability(VFIO_REGION_INFO_CAP_SPARSE_MMAP, body)


class VfioDevice(SimDevice):
    """A device behind a VFIO driver: subclasses say what it has, this class speaks the protocol.

    A subclass gives `device_flags`, `num_regions`, `num_irqs`, and overrides `describe_region`,
    `describe_irq`, `set_irqs`, `reset`, and `pread`/`pwrite`/`mmap` where it has regions.
    """

    #: VFIO_DEVICE_FLAGS_* besides RESET, which is added when `can_reset` is true.
    device_flags: ClassVar[int]
    #: Bytes of struct vfio_device_info the driver copies back at most.
    info_size: ClassVar[int] = _INFO_MINSZ
    #: What the driver answers to an ioctl it does not know.
    unknown_ioctl: ClassVar[int] = errno.ENOTTY

    num_regions: int = 0
    num_irqs: int = 0

    @property
    def can_reset(self) -> bool:
        """Whether GET_INFO promises VFIO_DEVICE_RESET."""
        return True

    # -- what a driver provides -----------------------------------------------------------------
    def describe_region(self, index: int) -> RegionDescription:
        """Describe region `index`; EINVAL for one that the driver does not have."""
        fail(errno.EINVAL)

    def describe_irq(self, index: int) -> IrqDescription:
        """Describe irq `index`; EINVAL for one that the driver does not have."""
        fail(errno.EINVAL)

    def irq_vectors(self, index: int) -> int:
        """The number of vectors that SET_IRQS checks its range against."""
        return 1

    def set_irqs(self, request: IrqRequest) -> int:
        """Carry out a SET_IRQS call whose header is in order."""
        fail(errno.EINVAL)

    def reset(self) -> None:
        """VFIO_DEVICE_RESET; EINVAL when the device has no reset method."""
        fail(errno.EINVAL)

    def features(self) -> Mapping[int, Feature]:
        """The device features that the driver offers, by VFIO_DEVICE_FEATURE_* number."""
        return {}

    # -- the protocol ---------------------------------------------------------------------------
    @cached_property
    def watcher(self) -> EventWatcher:
        """Watches the eventfds through which the user talks to the kernel (virqfd)."""
        return EventWatcher(self.kernel.lock)

    def close_device(self) -> None:
        """Drop every watched eventfd; a subclass resets its state first."""
        self.watcher.close()

    @cached_property
    def ioctls(self) -> Mapping[int, Callable[[UserArg], int]]:
        """The handler of each ioctl; a driver with ioctls of its own adds them."""
        return {
            VFIO_DEVICE_GET_INFO: self._get_info,
            VFIO_DEVICE_GET_REGION_INFO: self._get_region_info,
            VFIO_DEVICE_GET_IRQ_INFO: self._get_irq_info,
            VFIO_DEVICE_SET_IRQS: self._set_irqs,
            VFIO_DEVICE_RESET: self._reset,
            VFIO_DEVICE_FEATURE: self._feature,
        }

    def ioctl(self, request: int, arg: UserArg) -> int:
        """Dispatch a device ioctl (``vfio_main.c:vfio_device_fops_unl_ioctl``)."""
        handler = self.ioctls.get(request)
        if handler is None:
            fail(self.unknown_ioctl)
        return handler(arg)

    def _get_info(self, user: UserArg) -> int:
        """``vfio_pci_core.c:vfio_pci_ioctl_get_info``, ``vfio_platform_common.c`` and others."""
        info = user.struct(vfio_device_info, _INFO_MINSZ)
        info.flags = self.device_flags | (VFIO_DEVICE_FLAGS_RESET if self.can_reset else 0)
        info.num_regions = self.num_regions
        info.num_irqs = self.num_irqs
        user.answer(info, min(info.argsz, self.info_size))
        return 0

    def _get_region_info(self, user: UserArg) -> int:
        """``vfio_main.c:vfio_get_region_info``, ``vfio_pci_core.c:vfio_pci_ioctl_get_region_info``."""
        info = user.struct(vfio_region_info, _REGION_MINSZ)
        if info.index >= self.num_regions:
            fail(errno.EINVAL)
        region = self.describe_region(info.index)
        info.flags, info.size, info.offset = region.flags, region.size, region.offset
        user.append_capabilities(info, region.caps, VFIO_REGION_INFO_FLAG_CAPS)
        user.answer(info)
        return 0

    def _get_irq_info(self, user: UserArg) -> int:
        """``vfio_pci_core.c:vfio_pci_ioctl_get_irq_info`` and its like."""
        info = user.struct(vfio_irq_info, _IRQ_MINSZ)
        if info.index >= self.num_irqs:
            fail(errno.EINVAL)
        irq = self.describe_irq(info.index)
        info.flags, info.count = irq.flags, irq.count
        user.answer(info)
        return 0

    def _set_irqs(self, user: UserArg) -> int:
        return self.set_irqs(load_irq_request(user, self.num_irqs, self.irq_vectors))

    def _reset(self, user: UserArg) -> int:
        self.reset()
        return 0

    def _feature(self, user: UserArg) -> int:
        """``vfio_main.c:vfio_ioctl_device_feature`` and ``vfio.h:vfio_check_feature``."""
        header = user.struct(vfio_device_feature, _FEATURE_MINSZ)
        operations = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET
        known = VFIO_DEVICE_FEATURE_MASK | operations | VFIO_DEVICE_FEATURE_PROBE
        asked = header.flags & operations
        probe = header.flags & VFIO_DEVICE_FEATURE_PROBE
        if header.flags & ~known or (asked == operations and not probe):
            fail(errno.EINVAL)
        number = header.flags & VFIO_DEVICE_FEATURE_MASK
        feature = self.features().get(number)
        if feature is None:
            # ..._precopy_info_v2 asks for the PRE_COPY ability before anything else.
            missing_pre_copy = number == VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
            fail(errno.EINVAL if missing_pre_copy else errno.ENOTTY)
        if asked & ~feature.operations:
            fail(errno.EINVAL)
        if probe:
            return 0
        if not asked or header.argsz < _FEATURE_MINSZ + feature.size:
            fail(errno.EINVAL)
        data = user.read(feature.size, _FEATURE_MINSZ)
        more = user.read(feature.following(data), _FEATURE_MINSZ + feature.size)
        return feature.apply(data + more)
