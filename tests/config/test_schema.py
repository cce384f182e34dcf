from __future__ import annotations

import pytest

from vfiocore.config import (
    BOOL,
    LINK,
    ON_OFF_AUTO,
    SIZE,
    OnOffAuto,
    Property,
    Schema,
    TypeSchema,
)


def test_a_default_is_read_as_a_value_would_be() -> None:
    assert Property("window", SIZE, "Bytes.", default="2M").default == 2 * 2**20
    assert Property("migrate", ON_OFF_AUTO, "Switch.", default="auto").default is OnOffAuto.AUTO


def test_a_default_that_its_type_refuses_is_a_value_error() -> None:
    with pytest.raises(ValueError, match='"maybe" is not a switch'):
        Property("x", BOOL, "Switch.", default="maybe")


@pytest.mark.parametrize("name", ["id", "type", "driver", "qom-type", "Host", "a_b", "a=b", ""])
def test_a_name_that_cannot_be_written_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="a property cannot be named"):
        Property(name, BOOL, "Switch.")


def test_two_properties_of_one_name_are_a_value_error() -> None:
    prop = Property("x", BOOL, "Switch.")

    with pytest.raises(ValueError, match="vfio-x declares the property 'x' twice"):
        TypeSchema("vfio-x", "X.", (prop, prop))


def test_every_device_type_has_a_link_to_each_backend() -> None:
    schema = Schema.of(
        devices=[TypeSchema("vfio-x", "X.", (Property("x", BOOL, "Switch."),))],
        backend_links=["iommufd"],
    )

    properties = schema.device_properties("vfio-x")

    assert list(properties) == ["x", "iommufd"]
    assert properties["iommufd"].type == LINK("iommufd")


def test_an_object_type_has_no_link_of_its_own_accord() -> None:
    schema = Schema.of(objects=[TypeSchema("iommufd", "I.")], backend_links=["iommufd"])

    assert schema.object_properties("iommufd") == {}


def test_a_device_type_that_declares_the_link_itself_is_a_value_error() -> None:
    device = TypeSchema("vfio-x", "X.", (Property("iommufd", BOOL, "Switch."),), "dist-x")

    with pytest.raises(ValueError, match=r"vfio-x \(dist-x\) declares 'iommufd'"):
        Schema.of(devices=[device], backend_links=["iommufd"])


def test_a_schema_does_not_follow_later_changes_of_what_it_was_made_from() -> None:
    devices = {"vfio-x": TypeSchema("vfio-x", "X.")}
    schema = Schema(devices=devices)

    devices.clear()

    assert list(schema.devices) == ["vfio-x"]
