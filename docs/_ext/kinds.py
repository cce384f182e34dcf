"""The tables of errnos that the code has: each errno of an operation, and the class it becomes."""

from __future__ import annotations

import errno
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from attrs import frozen

from _ext.tables import code, table
from vfiocore.errors import GENERAL_KINDS, KernelError

KERNEL_NAMES = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"}
"""Those of which Python has the C library's other name (ENOTSUP, EDEADLOCK)."""

PACKAGES = (
    "vfiocore",
    "vfiocore_legacy",
    "vfiocore_iommufd",
    "vfiocore_pci",
    "vfiocore_platform",
    "vfiocore_ap",
    "vfiocore_ccw",
)
"""Where kernel errors are raised. The simulated host is on the other side: it makes the errnos."""


@frozen
class Kinds:
    """A table of the code.

    Attributes:
        where: Its module, and in it the table of classes; empty if there are only texts.
        operations: What it is used for.
        texts: The table of hints, or of details, in the same module.
    """

    where: tuple[str, str]
    operations: str
    texts: str = ""

    def rows(self) -> Iterator[Sequence[str]]:
        """One for each errno."""
        kinds, texts = self.tables()
        for number in sorted({*kinds, *texts}, key=name_of):
            kind = kinds.get(number) or GENERAL_KINDS.get(number, KernelError)
            exception = code(kind.__name__)
            yield self.operations, code(name_of(number)), exception, texts.get(number, "")

    def tables(self) -> tuple[Mapping[int, type[KernelError]], Mapping[int, str]]:
        """The table of classes, and that of texts."""
        module = importlib.import_module(self.where[0])
        return (
            getattr(module, self.where[1]) if self.where[1] else {},
            getattr(module, self.texts) if self.texts else {},
        )


LEGACY = (
    Kinds(("vfiocore_legacy.group", "OPEN_KINDS"), "open `/dev/vfio/N`", "OPEN_HINTS"),
    Kinds(("vfiocore_legacy.context", "JOIN_KINDS"), "`VFIO_GROUP_SET_CONTAINER`, joining"),
    Kinds(("vfiocore_legacy.container", ""), "`VFIO_SET_IOMMU`", "SET_IOMMU_HINTS"),
    Kinds(("vfiocore_legacy.container", ""), "`VFIO_SET_IOMMU` with `noiommu=on`", "NOIOMMU_HINTS"),
    Kinds(("vfiocore_legacy.group", "DEVICE_KINDS"), "`VFIO_GROUP_GET_DEVICE_FD`", "DEVICE_HINTS"),
    Kinds(("vfiocore_legacy.dma", "MAP_KINDS"), "`VFIO_IOMMU_MAP_DMA`"),
    Kinds(("vfiocore_legacy.dma", "UNMAP_KINDS"), "`VFIO_IOMMU_UNMAP_DMA`"),
)
IOMMUFD = (
    Kinds(
        ("vfiocore_iommufd.kinds", "ATTACH_KINDS"),
        "`VFIO_DEVICE_ATTACH_IOMMUFD_PT`, `IOMMU_HWPT_ALLOC`",
    ),
    Kinds(
        ("vfiocore_iommufd.kinds", "MAP_KINDS"),
        "`IOMMU_IOAS_MAP`, `IOMMU_IOAS_MAP_FILE`, `IOMMU_IOAS_COPY`",
    ),
    Kinds(("vfiocore_iommufd.kinds", "UNMAP_KINDS"), "`IOMMU_IOAS_UNMAP`"),
)
DEVICES = (
    Kinds(("vfiocore.access", "ACCESS_KINDS"), "ioctls of a device, `pread`, `pwrite`, `mmap`"),
    Kinds(("vfiocore.dmabuf", "EXPORT_KINDS"), "`VFIO_DEVICE_FEATURE_DMA_BUF`", "EXPORT_HINTS"),
    Kinds(("vfiocore_ccw.request", "KINDS"), "start, halt and clear of a subchannel", "DETAILS"),
    Kinds(("vfiocore.kvm", "KINDS"), "ioctls of KVM"),
    Kinds(("vfiocore.errors", "GENERAL_KINDS"), "where nothing else is said"),
)
SECTIONS = {"The legacy backend": LEGACY, "The iommufd backend": IOMMUFD, "Everywhere": DEVICES}


def name_of(number: int) -> str:
    """The kernel's name."""
    return KERNEL_NAMES.get(number) or errno.errorcode[number]


def errnos() -> str:
    """What each errno of each table of the code becomes."""
    columns = ("operation", "errno", "exception", "hint or detail")
    return "\n\n".join(
        f"### {title}\n\n{table(columns, (row for item in items for row in item.rows()))}"
        for title, items in SECTIONS.items()
    )


# -- what there is ---------------------------------------------------------------------------------
def modules() -> Iterator[ModuleType]:
    """Every module in which a kernel error may be raised."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.startswith(("vfiocore.testing", "vfiocore.cli", "vfiocore.uapi")):
                yield importlib.import_module(found.name)


def tables_of(module: Any) -> Iterator[tuple[str, Mapping[int, Any]]]:
    """The tables of a module whose keys are errnos: of classes, and of texts for users."""
    for name, value in vars(module).items():
        if not isinstance(value, Mapping) or not value:
            continue
        if not all(type(key) is int and key in errno.errorcode for key in value):
            continue
        if all(_is_kind(item) for item in value.values()) or name.endswith(("HINTS", "DETAILS")):
            yield name, value


def _is_kind(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, KernelError)
