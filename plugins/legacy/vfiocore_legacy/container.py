"""A VFIO container, /dev/vfio/vfio: groups that share one address space."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from attrs import Factory, define, field

from vfiocore.container import Attachment, Capability, Container
from vfiocore.errors import HostUnsupportedError, kernel_error
from vfiocore.uapi import vfio
from vfiocore.undo import UndoStack
from vfiocore_legacy.dma import NoIommuDma, Type1Dma
from vfiocore_legacy.info import read_info

if TYPE_CHECKING:
    from vfiocore.host import Host
    from vfiocore.memory.ranges import IovaRange
    from vfiocore_legacy.group import LegacyGroup

NODE = "/dev/vfio/vfio"

DEFAULT_ENTRY_LIMIT = 65535
"""``vfio_iommu_type1.dma_entry_limit`` where the kernel does not say what is left (before 5.10)."""

SET_IOMMU_HINTS = {
    errno.EPERM: "interrupts of this machine are not isolated between devices: enable interrupt"
    " remapping in the firmware, or take the risk with"
    " vfio_iommu_type1.allow_unsafe_interrupts=1",
    errno.EBUSY: "somebody else has attached the group to a domain of his own",
}
NOIOMMU_HINTS = {errno.EPERM: "a group without an IOMMU needs CAP_SYS_RAWIO"}


@define(eq=False, kw_only=True)
class LegacyContainer(Container):
    """An open container.

    Attributes:
        fd: The fd of /dev/vfio/vfio.
        iommu: What translates: ``VFIO_TYPE1v2_IOMMU``, ``VFIO_TYPE1_IOMMU`` or
            ``VFIO_NOIOMMU_IOMMU``.
        groups: The groups in it, by number.
        emulated: True if it is an iommufd that plays the part of type1.
        dma: Its calls for mapping.
    """

    fd: int
    iommu: int
    groups: dict[int, LegacyGroup] = field(factory=dict)
    emulated: bool = False
    dma: Type1Dma | NoIommuDma = field(
        init=False, repr=False, default=Factory(lambda self: self._dma_calls(), takes_self=True)
    )

    @property
    def noiommu(self) -> bool:
        """True if nothing is translated."""
        return self.iommu == vfio.VFIO_NOIOMMU_IOMMU

    def set_iommu(self) -> None:
        """VFIO_SET_IOMMU, once the first group is in.

        Raises:
            AccessDeniedError: EPERM, interrupts are not isolated; without an IOMMU, CAP_SYS_RAWIO.
            HostUnsupportedError: ENODEV, the kernel does not offer the type after all.
            BusyError: EBUSY, the group is attached elsewhere.
        """
        try:
            self.host.ioctl(self.fd, vfio.VFIO_SET_IOMMU, self.iommu)
        except OSError as error:
            hints = NOIOMMU_HINTS if self.noiommu else SET_IOMMU_HINTS
            raise kernel_error(
                error,
                "VFIO_SET_IOMMU",
                self.label,
                kinds={errno.ENODEV: HostUnsupportedError},
                hint=hints.get(error.errno or 0),
            ) from error
        if isinstance(self.dma, Type1Dma):
            self.dma.can_unmap_all = has_extension(self.host, self.fd, vfio.VFIO_UNMAP_ALL)

    def refresh(self) -> None:
        """Read what changes when a group comes or goes: page sizes, usable IOVAs, entries left.

        An emulated container attaches devices when they are opened, so it changes then too.
        """
        if self.noiommu:
            self.page_sizes = self.host.page_size
            self.capabilities: Capability = Capability.NO_IOMMU
            return
        info = read_info(self.host, self.fd, self.label)
        self.page_sizes: int = info.page_sizes
        self.iova_ranges: tuple[IovaRange, ...] = info.iova_ranges
        self.emulated = info.emulated
        if info.emulated:
            # No limit, no dirty tracking, and no BARs: iommufd pins what it maps by address.
            self.max_mappings = None
            self.capabilities = Capability(0)
            return
        # DMA_AVAIL counts down as mappings are made.
        self.max_mappings = (
            DEFAULT_ENTRY_LIMIT if info.available is None else len(self.mappings) + info.available
        )
        self.capabilities = Capability.BAR_BY_ADDRESS
        if self.iommu == vfio.VFIO_TYPE1_IOMMU:
            # vfio_iommu_type1.c:vfio_iommu_type1_pin_pages, vfio_iommu_type1_dirty_pages.
            self.capabilities |= Capability.NO_DRIVER_PINS
        elif info.dirty_page_sizes & self.host.page_size:  # it reports in one page size only
            self.capabilities |= Capability.DIRTY_TRACKING

    def add(self, group: LegacyGroup) -> None:
        """Enter a group that is in."""
        self.groups[group.number] = group
        self._name()

    def remove(self, group: LegacyGroup) -> None:
        """Strike a group that leaves."""
        del self.groups[group.number]
        self._name()

    def has_groups(self) -> bool:
        """False once the kernel has taken every group out; nothing is mapped then.

        What takes a device from VFIO waits for its files to be closed, and goes on at once.
        """
        return not self.groups or any(group.is_in_container() for group in self.groups.values())

    def close(self) -> None:
        """Close the container; its last group has left."""
        self.closed = True
        try:
            self.host.close(self.fd)
        except OSError as error:
            raise kernel_error(error, "close", self.label) from error

    def _name(self) -> None:
        numbers = ", ".join(map(str, sorted(self.groups)))
        if numbers:
            plural = "s" if len(self.groups) > 1 else ""
            self.label: str = f"container of group{plural} {numbers}"

    def _dma_calls(self) -> Type1Dma | NoIommuDma:
        return NoIommuDma(self) if self.noiommu else Type1Dma(self, self.fd)


@define(eq=False, kw_only=True)
class LegacyAttachment(Attachment):
    """A device's membership of a container, by way of its group.

    Attributes:
        container: The container.
        group: The group, which other devices may share.
    """

    container: LegacyContainer
    group: LegacyGroup


def open_container(host: Host, group: LegacyGroup) -> LegacyContainer:
    """Open a container for a group and choose its IOMMU; nothing is in it yet.

    Raises:
        HostUnsupportedError: ENOENT, no containers on this machine; ENODEV, none of the IOMMU
            types that this backend knows; EPROTO, another API version.
        AccessDeniedError: EACCES.
    """
    with UndoStack() as undo:
        fd = _open(host)
        undo.push(host.close, fd)
        _check_version(host, fd)
        iommu = _choose_iommu(host, fd, noiommu=group.noiommu)
        return LegacyContainer(
            host=host, backend="legacy", label=f"container of {group}", fd=fd, iommu=iommu
        )


def has_extension(host: Host, fd: int, extension: int) -> bool:
    """VFIO_CHECK_EXTENSION."""
    try:
        return host.ioctl(fd, vfio.VFIO_CHECK_EXTENSION, extension) > 0
    except OSError as error:
        raise kernel_error(error, "VFIO_CHECK_EXTENSION", NODE) from error


def _open(host: Host) -> int:
    try:
        return host.open(NODE)
    except OSError as error:
        raise kernel_error(
            error,
            "open",
            NODE,
            kinds={errno.ENOENT: HostUnsupportedError, errno.ENODEV: HostUnsupportedError},
            hint="give your user the node with a udev rule; a container (Docker, Podman)"
            " needs --device for it"
            if error.errno in (errno.EACCES, errno.EPERM)
            else "load the module vfio (CONFIG_VFIO_CONTAINER), or use iommufd (iommufd=)",
        ) from error


def _check_version(host: Host, fd: int) -> None:
    try:
        version = host.ioctl(fd, vfio.VFIO_GET_API_VERSION)
    except OSError as error:
        raise kernel_error(error, "VFIO_GET_API_VERSION", NODE) from error
    if version != vfio.VFIO_API_VERSION:
        raise HostUnsupportedError(
            errno.EPROTO,
            "VFIO_GET_API_VERSION",
            NODE,
            f"the kernel has version {version}, and version {vfio.VFIO_API_VERSION} is known here",
        )


def _choose_iommu(host: Host, fd: int, *, noiommu: bool) -> int:
    if noiommu:
        wanted: tuple[int, ...] = (vfio.VFIO_NOIOMMU_IOMMU,)
    else:
        wanted = (vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_TYPE1_IOMMU)
    for iommu in wanted:
        if has_extension(host, fd, iommu):
            return iommu
    raise HostUnsupportedError(
        errno.ENODEV,
        "VFIO_CHECK_EXTENSION",
        NODE,
        "the kernel offers no IOMMU-less containers" if noiommu else "the kernel offers no type1",
        "set vfio.enable_unsafe_noiommu_mode=1" if noiommu else "load the module vfio_iommu_type1",
    )
