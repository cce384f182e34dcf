"""A configuration that is wrong in itself: each message says where, what, and what is allowed."""

from __future__ import annotations

import pytest

import vfiocore_legacy.plugin
import vfiocore_pci.plugin
from vfiocore.config.model import PluginFilter
from vfiocore.errors import ConfigError, MissingPluginError
from vfiocore.framework import Framework

from .reading import CARD, IOMMUFD, LINKED, assert_says, opened, refused, refused_open

SPARE = "-device vfio-pci,id=spare,host=0000:05:00.0"


# -- names and values ------------------------------------------------------------------------------
def test_an_unknown_device_type_is_told_with_the_near_miss_and_those_there_are() -> None:
    text = refused_open(ConfigError, "-device vfio-pcj,host=0000:02:00.0")
    assert_says(text, "-device #1", 'unknown device type "vfio-pcj"', 'did you mean "vfio-pci"?')
    assert_says(text, "vfio-ap, vfio-ccw, vfio-pci, vfio-platform")


def test_an_unknown_object_type_is_told_with_the_near_miss_and_those_there_are() -> None:
    text = refused_open(ConfigError, f"-object iommfd,id=a {CARD}")
    assert_says(text, '-object #1 "a"', 'unknown object type "iommfd"', 'did you mean "iommufd"?')
    assert_says(text, "memory-backend-memfd")


def test_an_unknown_key_is_told_with_the_near_miss_and_those_there_are() -> None:
    text = refused_open(ConfigError, "-device vfio-pci,hots=0000:02:00.0")
    assert_says(text, "-device #1 (vfio-pci).hots: unknown key", 'did you mean "host"?', "sysfsdev")


@pytest.mark.parametrize(
    ("words", "path", "wrong", "expected"),
    [
        (f"{CARD},noiommu=maybe", "noiommu", '"maybe" is not a switch', "on or off"),
        ("-device vfio-pci,host=banana", "host", '"banana" is not a PCI', "bus:slot.function"),
        (f"{CARD},vf-token=12", "vf-token", '"12" is not a UUID', "such as 2f1b7a9c-"),
        (f"{CARD},fd=-3", "fd", '"-3" is neither a number nor a name', "open file descriptor"),
        ("-device vfio-pci,sysfsdev=x", "sysfsdev", "does not start with /", "absolute path"),
        ("-object memory-backend-ram,id=r,size=lots", "size", "not an integer", "K, M, G"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_what_is_expected(
    words: str, path: str, wrong: str, expected: str
) -> None:
    assert_says(refused_open(ConfigError, words), f").{path}: ", wrong, expected)


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = refused_open(ConfigError, f"{CARD},hots=1 -device vfio-pcj {CARD},noiommu=maybe")
    assert_says(text, "hots", "vfio-pcj", "maybe")
    assert len(text.splitlines()) >= 3


# -- ids -------------------------------------------------------------------------------------------
def test_a_link_to_nothing_is_told_with_the_near_miss_and_the_objects_there_are() -> None:
    text = refused_open(ConfigError, f"{IOMMUFD} {CARD},iommufd=iommufd1")
    assert_says(text, '-device #1 "card"', 'no object "iommufd1"', 'did you mean "iommufd0"?')


def test_a_link_where_there_are_no_objects_says_that_there_are_none() -> None:
    text = refused_open(ConfigError, f"{CARD},iommufd=iommufd0")
    assert_says(text, 'no object "iommufd0"', "objects of type iommufd: none")


def test_a_doubled_object_id_is_told_with_the_one_that_has_it() -> None:
    text = refused_open(ConfigError, f"{IOMMUFD} {LINKED}")
    assert_says(text, "-object #2", '"iommufd0" is the id of -object #1 already')


def test_a_doubled_device_id_is_told_with_the_one_that_has_it() -> None:
    text = refused_open(ConfigError, f"{CARD} {SPARE.replace('spare', 'card')}")
    assert_says(text, "-device #2", '"card" is the id of -device #1 already')


def test_a_device_that_is_named_twice_is_told_with_both_names() -> None:
    text = refused_open(ConfigError, f"{CARD} {CARD.replace('id=card', 'id=again')}")
    assert_says(text, '"again"', "0000:02:00.0 is the device of", '"card"', "name each device once")


# -- the form --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-device", "an option string has to follow -device"),
        ("-devise vfio-pci", 'did you mean "-device"?'),
        (f"{CARD} stray", '"stray" is not known here'),
    ],
)
def test_a_command_line_that_is_none_says_what_it_stumbles_over(words: str, message: str) -> None:
    assert_says(refused_open(ConfigError, words), message)


def test_a_file_that_is_not_there_is_told_with_its_path() -> None:
    assert_says(refused_open(ConfigError, "/no/such.toml"), "/no/such.toml", "No such file")


def test_nothing_at_all_opens_nothing() -> None:
    with opened("") as session:
        assert list(session) == []


# -- plugins ---------------------------------------------------------------------------------------
def test_a_missing_frontend_is_told_with_what_to_install() -> None:
    framework = Framework([vfiocore_legacy.plugin], autoload=False)
    text = refused_open(MissingPluginError, CARD, framework=framework)
    assert_says(text, "no plugin provides device type 'vfio-pci'", "install vfiocore-pci")


def test_a_missing_default_backend_is_told_with_what_to_install() -> None:
    framework = Framework([vfiocore_pci.plugin], autoload=False)
    text = refused_open(MissingPluginError, CARD, framework=framework)
    assert_says(text, "no plugin provides backend 'legacy'", "install vfiocore-legacy")


def test_a_missing_linked_backend_is_told_with_what_to_install() -> None:
    framework = Framework([vfiocore_legacy.plugin, vfiocore_pci.plugin], autoload=False)
    text = refused_open(MissingPluginError, LINKED, framework=framework)
    assert_says(text, "no plugin provides backend 'iommufd'", "install vfiocore-iommufd")


def test_a_missing_backend_is_not_taken_for_another_property() -> None:
    framework = Framework([vfiocore_legacy.plugin, vfiocore_pci.plugin], autoload=False)
    with pytest.raises(MissingPluginError) as caught:
        framework.open(LINKED)
    assert "noiommu" not in str(caught.value.__cause__)


def test_a_blocked_plugin_is_told_with_what_blocks_it() -> None:
    framework = Framework(only=PluginFilter(block=("pci",)))
    text = refused_open(MissingPluginError, CARD, framework=framework)
    assert_says(text, "device type 'vfio-pci'", "vfiocore-pci", "change that to use it")


def test_a_missing_host_is_told_with_what_to_install() -> None:
    framework = Framework([vfiocore_legacy.plugin], autoload=False, host="sim")
    text = refused(MissingPluginError, framework.make_host)
    assert_says(text, "no plugin provides host 'sim'", "install vfiocore-sim")


def test_an_unknown_host_is_told_with_the_near_miss() -> None:
    text = refused(MissingPluginError, Framework(host="simm").make_host)
    assert_says(text, "no plugin provides host 'simm'", 'did you mean "sim"?')
