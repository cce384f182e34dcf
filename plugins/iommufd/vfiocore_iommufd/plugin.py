"""The hooks of the iommufd backend.

What they call is imported when a device is opened: until then nobody needs the kernel's layouts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vfiocore.config import FD, Property
from vfiocore.hookspecs import hookimpl
from vfiocore.registration import Backend
from vfiocore_iommufd import NODE

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess
    from vfiocore.container import Batch
    from vfiocore.registration import ContextRequest, ObjectRequest
    from vfiocore_iommufd.container import IommufdAttachment, IommufdContainer
    from vfiocore_iommufd.iommufd import Iommufd

VFIOCORE_API = 1


def make_object(request: ObjectRequest) -> Iommufd:
    """The live ``-object iommufd``."""
    from vfiocore_iommufd.iommufd import make_iommufd  # noqa: PLC0415 - see above

    return make_iommufd(request)


@hookimpl
def vfio_register_backends() -> Iterator[Backend]:
    """The backend ``iommufd`` and its object."""
    yield Backend(
        name="iommufd",
        help="Device cdevs and /dev/iommu: IOAS and hardware page tables (Linux 6.6).",
        object_properties=(
            Property(
                "fd",
                FD,
                f"An opened {NODE} to use instead of opening one; it is never closed here.",
            ),
        ),
        make_object=make_object,
        accepts_device_fd=True,
        nodes=(NODE,),
        advice="load the module (modprobe iommufd; Linux 6.6 with CONFIG_IOMMUFD and"
        " CONFIG_VFIO_DEVICE_CDEV)",
    )


@hookimpl
def vfio_setup_context(request: ContextRequest) -> IommufdAttachment:
    """cdev, BIND_IOMMUFD, IOAS and HWPT, ATTACH."""
    from vfiocore_iommufd import context  # noqa: PLC0415 - see above

    return context.setup(request)


@hookimpl
def vfio_open_device(attachment: IommufdAttachment) -> DeviceAccess:
    """The bound cdev."""
    from vfiocore_iommufd import context  # noqa: PLC0415 - see above

    return context.open_device(attachment)


@hookimpl
def vfio_close_device(attachment: IommufdAttachment, device: DeviceAccess) -> None:
    """DETACH, and close of the cdev."""
    from vfiocore_iommufd import context  # noqa: PLC0415 - see above

    context.close_device(attachment, device)


@hookimpl
def vfio_teardown_context(attachment: IommufdAttachment) -> None:
    """IOAS and /dev/iommu, with their last users."""
    from vfiocore_iommufd import context  # noqa: PLC0415 - see above

    context.teardown(attachment)


@hookimpl
def vfio_dma_map(container: IommufdContainer, batch: Batch) -> None:
    """IOAS_COPY, IOAS_MAP_FILE or IOAS_MAP."""
    container.mapper.map(batch)


@hookimpl
def vfio_dma_unmap(container: IommufdContainer, batch: Batch) -> None:
    """IOAS_UNMAP."""
    container.mapper.unmap(batch)
