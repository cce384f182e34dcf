"""Configuration: option strings, TOML and Python become one frozen model, checked as a whole.

::

    from vfiocore.config import Config, Device, Object, load_file, parse_command_line, validate

    written = load_file("vm.toml").merge(parse_command_line("-device vfio-pci,host=2:0.0"))
    config = validate(written, schema)

What a plugin needs to declare its types is here too; the properties that device types share are
in `vfiocore.config.selectors`.
"""

from __future__ import annotations

from vfiocore.config.model import Config, Device, Item, Object, PluginFilter, Properties
from vfiocore.config.options import (
    parse_command_line,
    parse_device,
    parse_object,
    parse_options,
    read_command_line,
    read_options,
    to_options,
)
from vfiocore.config.schema import Check, Property, Schema, TypeSchema
from vfiocore.config.selectors import (
    exclude_selectors,
    fd_needs_sysfsdev,
    require_one_selector,
    selector_check,
)
from vfiocore.config.toml import load_file, load_toml, read_file, read_toml
from vfiocore.config.types import (
    BOOL,
    CHOICE,
    DEVICE_NAME,
    FD,
    LINK,
    ON_OFF_AUTO,
    PATH,
    PCI_ADDRESS,
    SIZE,
    STRING,
    UINT,
    UUID,
    Choice,
    FdRef,
    Link,
    OnOffAuto,
    PropertyType,
    UInt,
    ValueType,
)
from vfiocore.config.validate import KNOWN_PROVIDERS, validate

__all__ = [
    "BOOL",
    "CHOICE",
    "DEVICE_NAME",
    "FD",
    "KNOWN_PROVIDERS",
    "LINK",
    "ON_OFF_AUTO",
    "PATH",
    "PCI_ADDRESS",
    "SIZE",
    "STRING",
    "UINT",
    "UUID",
    "Check",
    "Choice",
    "Config",
    "Device",
    "FdRef",
    "Item",
    "Link",
    "Object",
    "OnOffAuto",
    "PluginFilter",
    "Properties",
    "Property",
    "PropertyType",
    "Schema",
    "TypeSchema",
    "UInt",
    "ValueType",
    "exclude_selectors",
    "fd_needs_sysfsdev",
    "load_file",
    "load_toml",
    "parse_command_line",
    "parse_device",
    "parse_object",
    "parse_options",
    "read_command_line",
    "read_file",
    "read_options",
    "read_toml",
    "require_one_selector",
    "selector_check",
    "to_options",
    "validate",
]
