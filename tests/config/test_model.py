from __future__ import annotations

import copy
import pickle

import pytest

from vfiocore.config import Config, Device, Object, PluginFilter


def test_an_underscore_in_a_keyword_is_a_hyphen_in_the_property() -> None:
    device = Device.of("vfio-pci", host="0000:02:00.0", enable_migration=True)

    assert device.properties == {"host": "0000:02:00.0", "enable-migration": True}


def test_properties_cannot_be_changed() -> None:
    device = Device.of("vfio-pci", host="0000:02:00.0")

    with pytest.raises(TypeError):
        device.properties["host"] = "0000:03:00.0"  # type: ignore[index]


def test_properties_are_copied_from_what_was_given() -> None:
    given = {"host": "0000:02:00.0"}
    device = Device("vfio-pci", None, given)

    given["host"] = "0000:03:00.0"

    assert device.properties["host"] == "0000:02:00.0"


def test_items_that_differ_only_in_where_they_were_written_are_equal() -> None:
    assert Object("iommufd", "a", {}, "-object #1") == Object(
        "iommufd", "a", {}, "x.toml: object[0]"
    )


def test_an_object_and_a_device_are_never_equal() -> None:
    items: list[object] = [Object("x", "a"), Device("x", "a")]

    assert items[0] != items[1]


def test_a_configuration_is_hashable_and_survives_pickle_and_deepcopy() -> None:
    config = Config.of(Object.of("iommufd", id="i", fd=22), Device.of("vfio-ap", fd=23))

    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_items_are_sorted_into_kinds_and_keep_their_order() -> None:
    nic, iommufd, disk = Device.of("a"), Object.of("b", id="b0"), Device.of("c")

    config = Config.of(nic, iommufd, disk, host="sim")

    assert config == Config((iommufd,), (nic, disk), "sim")


def test_something_that_is_neither_object_nor_device_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="an Object or a Device is expected, not str"):
        Config.of("vfio-pci")  # type: ignore[arg-type]


def test_an_id_that_is_not_a_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="an id is a string, not int"):
        Device.of("vfio-pci", id=3)  # type: ignore[arg-type]


def test_merging_concatenates_objects_devices_and_blocked_plugins() -> None:
    first = Config.of(Object.of("a", id="a0"), Device.of("x"), plugins=PluginFilter(block=("p",)))
    second = Config.of(Object.of("b", id="b0"), Device.of("y"), plugins=PluginFilter(block=("q",)))

    merged = Config.merge(first, second)

    assert [item.type for item in merged.objects] == ["a", "b"]
    assert [item.type for item in merged.devices] == ["x", "y"]
    assert merged.plugins.block == ("p", "q")


def test_merging_keeps_host_and_allowed_plugins_unless_the_other_names_some() -> None:
    file = Config(host="linux", plugins=PluginFilter(allow=("p",)))

    assert file.merge(Config()) == file
    assert file.merge(Config(host="sim")).host == "sim"
    assert file.merge(Config(plugins=PluginFilter(allow=()))).plugins.allow == ()


def test_a_label_says_where_which_id_and_which_type() -> None:
    assert (
        Device("vfio-pci", "nic0", {}, "device[0]").at("host") == 'device[0] "nic0" (vfio-pci).host'
    )
    assert Device("vfio-pci", None, {}, "-device #1").at("host") == "-device #1 (vfio-pci).host"
    assert Device("", None).label == "device"
