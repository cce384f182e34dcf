"""A schema such as the installed plugins would give."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vfiocore.config import (
    LINK,
    SIZE,
    Config,
    Device,
    Property,
    Schema,
    TypeSchema,
    selector_check,
    selectors,
    types,
    validate,
)
from vfiocore.errors import ConfigError, Problem

FdProperty = Property("fd", types.FD, "An open /dev/iommu.")


@pytest.fixture
def schema() -> Schema:
    pci = TypeSchema(
        "vfio-pci",
        "A PCI device.",
        (
            selectors.HOST_PCI,
            selectors.SYSFSDEV,
            selectors.FD,
            selectors.X_BALLOON_ALLOWED,
            selectors.ENABLE_MIGRATION,
        ),
        check=selector_check(selectors=("host", "sysfsdev", "fd")),
    )
    platform = TypeSchema(
        "vfio-platform",
        "A platform device.",
        (selectors.HOST_NAME, selectors.SYSFSDEV, selectors.FD),
        check=selector_check(
            selectors=("host", "sysfsdev", "fd"),
            fd_needs_sysfsdev="its compatible string is read from sysfs",
        ),
    )
    buffer = TypeSchema(
        "buffer-device",
        "A device that links to memory.",
        (Property("memory", LINK("memory"), "Its memory.", required=True),),
    )
    return Schema.of(
        objects=[
            TypeSchema("iommufd", "An iommufd.", (FdProperty,)),
            TypeSchema("otherfd", "Another backend."),
            TypeSchema("memory", "Memory.", (Property("size", SIZE, "Bytes.", required=True),)),
        ],
        devices=[pci, platform, buffer],
        backend_links=["iommufd", "otherfd"],
    )


@pytest.fixture
def valid_device(schema: Schema) -> Callable[[Config], Device]:
    """Validate, and give the last device."""
    return lambda config: validate(config, schema).devices[-1]


@pytest.fixture
def problems(schema: Schema) -> Callable[[Config], tuple[Problem, ...]]:
    """Everything that is wrong with a configuration, which must be something."""

    def find(config: Config) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as caught:
            validate(config, schema)
        return caught.value.problems

    return find
