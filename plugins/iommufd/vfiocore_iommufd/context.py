"""Secure contexts: a device bound to an iommufd and attached to an IOAS; and their end."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiocore.access import DeviceAccess
from vfiocore.errors import KernelError
from vfiocore.undo import UndoStack, run_all
from vfiocore_iommufd.bind import bind_device
from vfiocore_iommufd.cdev import check_passed_fd
from vfiocore_iommufd.container import IommufdAttachment, IommufdContainer
from vfiocore_iommufd.iommufd import Iommufd

if TYPE_CHECKING:
    from vfiocore.registration import ContextRequest
    from vfiocore_iommufd.bind import BoundDevice

#: Device and IOAS do not go together: EINVAL, another kind of IOMMU; EADDRINUSE, the device
#: reserves addresses that are mapped (iommufd/io_pagetable.c: iopt_reserve_iova).
INCOMPATIBLE = (errno.EINVAL, errno.EADDRINUSE)


def setup(request: ContextRequest) -> IommufdAttachment:
    """Bind the device and attach it to a container that takes it, or to a new one."""
    iommufd = request.backend_object
    assert isinstance(iommufd, Iommufd)
    check_passed_fd(request.host, request.target)
    with UndoStack() as undo, UndoStack() as device_undo:
        iommufd.acquire()
        undo.push(iommufd.release)
        device = bind_device(request, iommufd, device_undo)
        container = _joined(device, request, device_undo)
        if container is None:
            container = IommufdContainer.create(iommufd)
            undo.push(container.destroy)
            _enter(container, device, device_undo)
        container.refresh()
        attachment = IommufdAttachment(
            container=container, target=request.target, device=device, undo=device_undo
        )
    container.attachments.append(attachment)
    return attachment


def open_device(attachment: IommufdAttachment) -> DeviceAccess:
    """The bound cdev as an open device."""
    device = attachment.device
    cdev = device.cdev
    device.access = DeviceAccess(host=cdev.host, fd=cdev.fd, name=device.name, owned=cdev.owned)
    return device.access


def close_device(attachment: IommufdAttachment, access: DeviceAccess) -> None:
    """Detach the device, take it out of KVM, and close it: in exact reverse of `setup`.

    The cdev is closed here and not with the context, so that no device is left that could do DMA
    when memory is unmapped; and KVM lets go of the file before it is closed.
    """
    attachment.device.access = access
    attachment.undo.run()


def teardown(attachment: IommufdAttachment) -> None:
    """Take down what is left of the context; the container too if this was its last device."""
    container = attachment.container
    container.attachments.remove(attachment)
    last = [] if container.attachments else [container.destroy]
    run_all([attachment.undo.run, *last, container.iommufd.release])


def _joined(
    device: BoundDevice, request: ContextRequest, undo: UndoStack
) -> IommufdContainer | None:
    """The first container that takes the device."""
    for container in request.containers:
        assert isinstance(container, IommufdContainer)
        try:
            _enter(container, device, undo)
        except KernelError as error:
            if error.errno not in INCOMPATIBLE:
                raise
            request.log.info("iommufd.incompatible", device=device.name, reason=str(error))
            continue
        return container
    return None


def _enter(container: IommufdContainer, device: BoundDevice, undo: UndoStack) -> None:
    container.attach(device)
    undo.push(_leave, container, device)


def _leave(container: IommufdContainer, device: BoundDevice) -> None:
    run_all([lambda: container.detach(device), container.refresh])
