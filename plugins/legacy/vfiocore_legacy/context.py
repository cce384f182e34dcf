"""The secure context of a device: its group in a container. The order is QEMU's, or better.

Opening: group, viability, an existing container or a new one, its IOMMU, its facts, KVM; the
device last, when memory is mapped. Closing is the exact reverse.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore.access import DeviceAccess
from vfiocore.errors import BusyError, DmaAddressError, DmaMemlockError, kernel_error
from vfiocore.undo import UndoStack, run_all
from vfiocore_legacy.checks import group_of, not_viable
from vfiocore_legacy.container import LegacyAttachment, LegacyContainer, open_container
from vfiocore_legacy.dma import memlock_hint
from vfiocore_legacy.group import LegacyGroup, open_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vfiocore.container import Container, DeviceTarget
    from vfiocore.errors import ErrorKinds, KernelError
    from vfiocore.log import Log
    from vfiocore.registration import ContextRequest

INCOMPATIBLE = frozenset({errno.EINVAL, errno.EPERM})
"""Answers of SET_CONTAINER that mean: not into this container, but perhaps into another.

EINVAL: what is mapped, or the windows of the other groups, collide with the group's reserved
ranges (vfio_iommu_type1.c:vfio_iommu_aper_conflict, _resv_conflict). EPERM: the container holds
groups of the other kind (container.c:vfio_container_attach_group), or the group may not be had at
all, which a container of its own then brings to light. Everything else would only be hidden by
another container: ENOMEM (pinning what is mapped already) would pin it twice, ENODEV is a group
that went away, EBUSY one that is attached elsewhere.
"""

JOIN_KINDS: ErrorKinds = {errno.ENOMEM: DmaMemlockError, errno.EFAULT: DmaAddressError}


def setup(request: ContextRequest) -> LegacyAttachment:
    """Put a device under the protection of a container.

    Raises:
        HostUnsupportedError: no group, no VFIO driver, no containers, no type1.
        DeviceNotFoundError, AccessDeniedError, BusyError: the group cannot be opened.
        GroupNotViableError: EPERM, a device of the group is on a host driver.
    """
    number = group_of(request.target)
    containers = [item for item in request.containers if isinstance(item, LegacyContainer)]
    for container in containers:
        if number in container.groups:
            return _share(container, container.groups[number], request.target)
    with UndoStack() as undo:
        allow_noiommu = bool(request.options.get("noiommu"))
        group = open_group(request.host, number, allow_noiommu=allow_noiommu, log=request.log)
        undo.push(group.close)
        group.check_viable()
        joined = _join(containers, group, undo, request.log)
        container = joined or _create(request, group, undo)
        container.refresh()
        if request.kvm is not None:
            group.link(request.kvm)
        container.add(group)
        return _attach(container, group, request.target)


def teardown(attachment: LegacyAttachment) -> None:
    """Take a device out of its container; every step is tried, the first error raised.

    Raises:
        BusyError: EBUSY, a device of the group is still open.
    """
    container, group = attachment.container, attachment.group
    container.attachments.remove(attachment)
    if any(other.group is group for other in _members(container)):
        return
    container.remove(group)
    steps: list[Callable[[], object]] = [group.unlink, group.unset_container]
    steps.append(container.refresh if container.groups else container.close)
    run_all([*steps, group.close])


def open_device(attachment: LegacyAttachment) -> DeviceAccess:
    """VFIO_GROUP_GET_DEVICE_FD; raises as `LegacyGroup.device_fd`."""
    container, target = attachment.container, attachment.target
    fd = attachment.group.device_fd(target.name, target.vf_token)
    access = DeviceAccess(host=attachment.group.host, fd=fd, name=target.name)
    with UndoStack() as undo:
        undo.push(access.close)
        if container.emulated:
            # Now the device is attached, and not before (vfio/group.c:vfio_df_group_open).
            container.refresh()
    return access


def _share(
    container: LegacyContainer, group: LegacyGroup, target: DeviceTarget
) -> LegacyAttachment:
    """One more device of a group that is in already: there is nothing to ask the kernel."""
    if any(other.target.name == target.name for other in container.attachments):
        raise BusyError(
            errno.EBUSY,
            "open",
            target.name,
            "the device is open in this session already",
            "name each device once",
        )
    return _attach(container, group, target)


def _attach(
    container: LegacyContainer, group: LegacyGroup, target: DeviceTarget
) -> LegacyAttachment:
    attachment = LegacyAttachment(container=container, target=target, group=group)
    container.attachments.append(attachment)
    return attachment


def _join(
    containers: Iterable[LegacyContainer], group: LegacyGroup, undo: UndoStack, log: Log
) -> LegacyContainer | None:
    """The first container that takes the group; the kernel replays what is mapped there."""
    for container in containers:
        try:
            group.set_container(container.fd)
        except OSError as error:
            if error.errno not in INCOMPATIBLE:
                raise _join_failed(error, group, container) from error
            log.info(
                "legacy.container_incompatible",
                group=group.number,
                container=container.label,
                errno=error.errno,
            )
            continue
        undo.push(container.refresh)  # once the group is out again
        undo.push(group.unset_container)
        return container
    return None


def _create(request: ContextRequest, group: LegacyGroup, undo: UndoStack) -> LegacyContainer:
    container = open_container(request.host, group)
    undo.push(container.close)
    try:
        group.set_container(container.fd)
    except OSError as error:
        if error.errno == errno.EPERM and not group.noiommu:
            # A host driver, or another process, took the group since its status was read.
            raise not_viable(request.host, group.number) from error
        raise kernel_error(error, "VFIO_GROUP_SET_CONTAINER", str(group)) from error
    undo.push(group.unset_container)
    container.set_iommu()
    return container


def _join_failed(error: OSError, group: LegacyGroup, container: Container) -> KernelError:
    return kernel_error(
        error,
        "VFIO_GROUP_SET_CONTAINER",
        str(group),
        kinds=JOIN_KINDS,
        detail=f"{error.strerror} while joining the {container.label}",
        hint=memlock_hint(container) if error.errno == errno.ENOMEM else None,
    )


def _members(container: LegacyContainer) -> list[LegacyAttachment]:
    return [item for item in container.attachments if isinstance(item, LegacyAttachment)]
