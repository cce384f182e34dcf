from __future__ import annotations

import uuid
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.config import (
    Config,
    Device,
    FdRef,
    Object,
    OnOffAuto,
    parse_command_line,
    parse_device,
    parse_object,
    parse_options,
    read_command_line,
    to_options,
)
from vfiocore.errors import ConfigError, Problem

KEYS = st.text(min_size=1).filter(
    lambda key: not set(key) & {"=", ","} and key not in {"id", "type", "driver", "qom-type"}
)
PROPERTIES = st.dictionaries(KEYS, st.text())
DEVICES = st.builds(Device, st.text(), st.none() | st.text(), PROPERTIES)
OBJECTS = st.builds(Object, st.text(), st.text(), PROPERTIES)
OPTION_LIKE = st.text(alphabet="ab=,\"' -\\")


def refused(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_device(text)
    return caught.value.problems


def test_the_first_word_of_an_object_is_its_type() -> None:
    parsed = parse_object("iommufd,id=iommufd0,fd=22")

    assert parsed == Object("iommufd", "iommufd0", {"fd": "22"})


def test_the_first_word_of_a_device_is_its_driver() -> None:
    parsed = parse_device("vfio-pci,host=0000:02:00.0,iommufd=iommufd0")

    assert parsed == Device("vfio-pci", None, {"host": "0000:02:00.0", "iommufd": "iommufd0"})


@pytest.mark.parametrize(
    "text", ["driver=vfio-ap,id=x", "id=x,driver=vfio-ap", "id=x,type=vfio-ap"]
)
def test_the_driver_may_be_written_out_anywhere(text: str) -> None:
    assert parse_device(text) == Device("vfio-ap", "x")


def test_the_qom_type_may_be_written_out() -> None:
    assert parse_object("id=x,qom-type=iommufd") == Object("iommufd", "x")


def test_a_doubled_comma_is_a_comma_of_the_value() -> None:
    parsed = parse_device("vfio-ap,sysfsdev=/a,,b,,,id=x")

    assert parsed == Device("vfio-ap", "x", {"sysfsdev": "/a,b,"})


def test_an_equals_sign_within_a_value_is_part_of_it() -> None:
    assert parse_device("x,a=b=c").properties == {"a": "b=c"}


def test_a_key_alone_is_on() -> None:
    assert parse_device("vfio-pci,x-no-mmap").properties == {"x-no-mmap": "on"}


def test_a_key_alone_that_begins_with_no_is_not_special() -> None:
    assert parse_device("vfio-pci,nommap").properties == {"nommap": "on"}


def test_a_value_may_be_empty() -> None:
    assert parse_device("vfio-pci,host=").properties == {"host": ""}


def test_a_missing_type_or_id_is_left_for_validation() -> None:
    assert parse_device("") == Device("", None)
    assert parse_object("iommufd") == Object("iommufd", "")


def test_an_empty_key_is_refused_with_its_position() -> None:
    assert refused("vfio-pci,=x") == (Problem("-device", "a key is missing at character 10"),)


def test_a_trailing_comma_is_refused_with_its_position() -> None:
    hint = "a comma within a value is doubled"

    assert refused("vfio-pci,") == (Problem("-device", "a key is missing at character 10", hint),)


def test_a_key_given_twice_is_refused_with_both_positions() -> None:
    assert refused("vfio-pci,fd=3,x=1,fd=4") == (
        Problem("-device", '"fd" is given twice, at characters 10 and 19'),
    )


def test_a_type_given_twice_is_refused() -> None:
    assert refused("vfio-pci,driver=vfio-ap") == (
        Problem("-device", '"driver" is given twice, at characters 1 and 10'),
    )


def test_an_id_without_a_value_is_refused() -> None:
    assert refused("vfio-pci,id") == (Problem("-device", "id at character 10 has no value"),)


def test_all_that_is_wrong_with_an_option_string_comes_at_once() -> None:
    assert len(refused("vfio-pci,=x,a=1,a=2,id")) == 3


def test_a_command_line_becomes_a_configuration() -> None:
    config = parse_command_line(
        "-object iommufd,id=iommufd0 --device 'vfio-pci,host=2:0.0,iommufd=iommufd0' -device vfio-ap"
    )

    assert config == Config.of(
        Object.of("iommufd", id="iommufd0"),
        Device.of("vfio-pci", host="2:0.0", iommufd="iommufd0"),
        Device.of("vfio-ap"),
    )
    assert [device.where for device in config.devices] == ["-device #1", "-device #2"]


def test_a_command_line_may_come_in_words() -> None:
    words = ["--object", "iommufd,id=a b", "-device", "vfio-ap"]

    assert parse_command_line(words).objects[0].id == "a b"


def test_another_switch_is_refused_and_names_what_is_allowed() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_command_line("-devise vfio-pci")

    first = caught.value.problems[0]
    assert first.message == '"-devise" is not known here'
    assert first.hint == 'did you mean "-device"? allowed: --device, --object, -device, -object'


def test_a_switch_at_the_end_needs_its_option_string() -> None:
    with pytest.raises(ConfigError, match="an option string has to follow -device"):
        parse_command_line("-object iommufd,id=a -device")


def test_an_open_quotation_is_refused() -> None:
    with pytest.raises(ConfigError, match="command line: no closing quotation"):
        parse_command_line("-device 'vfio-pci")


def test_problems_of_several_option_strings_come_at_once_and_are_told_apart() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(["iommufd,"], ["vfio-pci", "vfio-ap,="])

    assert [problem.path for problem in caught.value.problems] == ["-object #1", "-device #2"]


def test_reading_keeps_what_can_be_read_beside_the_problems() -> None:
    config, problems = read_command_line("-object iommufd,id=a,, -smp 4 -device vfio-ap")

    assert config == Config.of(Object.of("iommufd", id="a,"), Device.of("vfio-ap"))
    assert [problem.message.split()[0] for problem in problems] == ['"-smp"', '"4"']


@given(DEVICES)
def test_a_device_written_as_options_reads_back(device: Device) -> None:
    assert parse_device(to_options(device)) == device


@given(OBJECTS)
def test_an_object_written_as_options_reads_back(item: Object) -> None:
    assert parse_object(to_options(item)) == item


def test_options_are_written_type_first_then_id() -> None:
    device = Device.of("vfio-pci", host="0000:02:00.0", id="nic0")

    assert to_options(device) == "vfio-pci,id=nic0,host=0000:02:00.0"


def test_typed_values_are_written_as_text_and_none_is_left_out() -> None:
    device = Device.of(
        "x",
        a=True,
        b=False,
        c=16,
        d=OnOffAuto.AUTO,
        e=FdRef(name="nic"),
        f=uuid.UUID(int=1),
        g=None,
    )

    assert to_options(device) == (
        "x,a=on,b=off,c=16,d=auto,e=nic,f=00000000-0000-0000-0000-000000000001"
    )


@pytest.mark.parametrize("properties", [{"a,b": "x"}, {"": "x"}, {"id": "x"}, {"a": [1]}])
def test_what_no_option_string_can_express_is_refused(properties: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        to_options(Device("x", None, properties))


@given(st.text() | OPTION_LIKE)
def test_no_option_string_raises_anything_but_a_config_error(text: str) -> None:
    for parse in (parse_object, parse_device):
        try:
            item = parse(text)
        except ConfigError:
            continue
        assert parse(to_options(item)) == item


@given(st.text() | OPTION_LIKE.map("-device {} -object".format))
def test_no_command_line_raises_anything_but_a_config_error(line: str) -> None:
    with suppress(ConfigError):
        parse_command_line(line)
