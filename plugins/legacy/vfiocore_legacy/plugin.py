"""The hooks. What they need is imported when the first device is opened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vfiocore.config import BOOL, Property
from vfiocore.hookspecs import hookimpl
from vfiocore.registration import Backend

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess
    from vfiocore.container import Batch
    from vfiocore.registration import ContextRequest
    from vfiocore_legacy.container import LegacyAttachment, LegacyContainer

VFIOCORE_API = 1

BACKEND = Backend(
    name="legacy",
    help="VFIO groups in a type1 container: /dev/vfio/N and /dev/vfio/vfio.",
    device_properties=(
        Property(
            "noiommu",
            BOOL,
            "Allow a group without an IOMMU; its device can then write anywhere in memory.",
            default=False,
        ),
    ),
    nodes=("/dev/vfio/vfio",),
    advice="load the modules vfio, vfio_iommu_type1 and vfio-pci (CONFIG_VFIO_CONTAINER),"
    " or use the iommufd backend",
)


@hookimpl
def vfio_register_backends() -> Iterable[Backend]:
    """The backend for devices that link to no object."""
    return (BACKEND,)


@hookimpl
def vfio_setup_context(request: ContextRequest) -> LegacyAttachment:
    """Open the group, put it into a container, choose the container's IOMMU."""
    from vfiocore_legacy import context  # noqa: PLC0415 - see the module's docstring

    return context.setup(request)


@hookimpl
def vfio_teardown_context(attachment: LegacyAttachment) -> None:
    """Take the group out of the container, and close what has no user left."""
    from vfiocore_legacy import context  # noqa: PLC0415 - see the module's docstring

    context.teardown(attachment)


@hookimpl
def vfio_open_device(attachment: LegacyAttachment) -> DeviceAccess:
    """VFIO_GROUP_GET_DEVICE_FD."""
    from vfiocore_legacy import context  # noqa: PLC0415 - see the module's docstring

    return context.open_device(attachment)


@hookimpl
def vfio_close_device(device: DeviceAccess) -> None:
    """Close the device fd; the group keeps its container."""
    device.close()


@hookimpl
def vfio_dma_map(container: LegacyContainer, batch: Batch) -> None:
    """VFIO_IOMMU_MAP_DMA for each item."""
    container.dma.map_batch(batch)


@hookimpl
def vfio_dma_unmap(container: LegacyContainer, batch: Batch) -> None:
    """VFIO_IOMMU_UNMAP_DMA for each item, or once for everything."""
    container.dma.unmap_batch(batch)
