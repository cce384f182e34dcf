from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from attrs import evolve

from vfiocore.config import (
    UINT,
    Config,
    Device,
    FdRef,
    Object,
    OnOffAuto,
    Property,
    Schema,
    TypeSchema,
    load_toml,
    parse_command_line,
    parse_device,
    read_command_line,
    read_toml,
    to_options,
    validate,
)
from vfiocore.errors import ConfigError, Problem

Problems = Callable[[Config], tuple[Problem, ...]]

IOMMUFD = Object.of("iommufd", id="iommufd0")
SEED = [
    "-object iommufd,id=iommufd0 -device vfio-pci,host=0000:02:00.0,iommufd=iommufd0",
    "-object iommufd,id=iommufd0,fd=22 -device vfio-pci,iommufd=iommufd0,fd=23",
    "-device vfio-pci,host=0000:02:00.0",
]


def pci(**properties: Any) -> Device:
    return Device.of("vfio-pci", **({"host": "2:0.0"} | properties))


def paths(problems: Iterable[Problem]) -> list[str]:
    return [problem.path for problem in problems]


# -- what comes out --------------------------------------------------------------------------------
@pytest.mark.parametrize("line", SEED)
def test_the_examples_of_the_seed_are_valid(schema: Schema, line: str) -> None:
    assert len(validate(parse_command_line(line), schema).devices) == 1


def test_values_are_typed_and_defaults_and_unset_properties_filled_in(schema: Schema) -> None:
    config = validate(parse_command_line(SEED[1]), schema)

    assert config.objects[0].properties == {"fd": FdRef(number=22)}
    assert config.devices[0].properties == {
        "host": None,
        "sysfsdev": None,
        "fd": FdRef(number=23),
        "x-balloon-allowed": False,
        "enable-migration": OnOffAuto.AUTO,
        "iommufd": "iommufd0",
        "otherfd": None,
    }


def test_option_strings_toml_and_python_give_the_same(schema: Schema) -> None:
    in_options = parse_command_line(SEED[0] + ",enable-migration=on")
    in_toml = load_toml("""
        [[object]]
        type = "iommufd"
        id = "iommufd0"
        [[device]]
        type = "vfio-pci"
        host = "0000:02:00.0"
        iommufd = "iommufd0"
        enable-migration = true
    """)
    in_python = Config.of(IOMMUFD, pci(host="02:00.0", iommufd="iommufd0", enable_migration=True))

    assert validate(in_options, schema) == validate(in_toml, schema) == validate(in_python, schema)


@pytest.mark.parametrize("line", SEED)
def test_a_valid_configuration_validates_to_itself(schema: Schema, line: str) -> None:
    config = validate(parse_command_line(line), schema)

    assert validate(config, schema) == config


@pytest.mark.parametrize("line", SEED)
def test_a_valid_device_written_as_options_is_the_same_device(schema: Schema, line: str) -> None:
    config = validate(parse_command_line(line), schema)
    again = evolve(config, devices=tuple(parse_device(to_options(d)) for d in config.devices))

    assert validate(again, schema) == config


def test_devices_without_an_id_get_the_next_that_is_free(schema: Schema) -> None:
    config = Config.of(pci(), pci(id="dev1"), pci(), pci(id="nic"))

    assert [device.id for device in validate(config, schema).devices] == [
        "dev0",
        "dev1",
        "dev2",
        "nic",
    ]


def test_a_device_knows_its_backend(schema: Schema) -> None:
    config = Config.of(
        IOMMUFD, Object.of("otherfd", id="o"), pci(), pci(iommufd="iommufd0"), pci(otherfd="o")
    )

    assert [d.backend for d in validate(config, schema).devices] == [None, "iommufd", "otherfd"]


def test_none_in_python_means_not_given(schema: Schema) -> None:
    (device,) = validate(Config.of(pci(iommufd=None, x_balloon_allowed=None)), schema).devices

    assert device.backend is None
    assert device.properties["x-balloon-allowed"] is False


def test_host_and_plugins_pass_through(schema: Schema) -> None:
    config = Config(host="sim")

    assert validate(config, schema) == config


# -- paths -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "path"),
    [
        (Config.of(pci(host="x", id="nic0")), 'device[0] "nic0" (vfio-pci).host'),
        (Config.of(pci(), pci(host="x")), "device[1] (vfio-pci).host"),
        (parse_command_line("-device vfio-pci,host=x"), "-device #1 (vfio-pci).host"),
        (
            load_toml("[[device]]\nid='n'\ntype='vfio-pci'\nhost='x'", "vm.toml"),
            'vm.toml: device[0] "n" (vfio-pci).host',
        ),
        (
            Config.of(Object.of("memory", id="m", size="x")),
            'object[0] "m" (memory).size',
        ),
    ],
)
def test_a_problem_says_where_it_is(problems: Problems, config: Config, path: str) -> None:
    assert paths(problems(config)) == [path]


# -- types and keys --------------------------------------------------------------------------------
def test_an_unknown_type_is_told_with_a_near_miss_and_all_types(problems: Problems) -> None:
    (problem,) = problems(Config.of(Device.of("vfio-pcie")))

    assert problem.message == 'unknown device type "vfio-pcie"'
    assert problem.hint == (
        'did you mean "vfio-pci"? installed: buffer-device, vfio-pci, vfio-platform'
    )


def test_a_known_type_that_is_not_installed_is_told_with_its_distribution(
    problems: Problems,
) -> None:
    (problem,) = problems(Config.of(Device.of("vfio-ccw")))

    assert problem.hint == "install vfiocore-ccw"


def test_a_link_to_a_backend_that_is_not_installed_is_told_with_its_distribution(
    schema: Schema,
) -> None:
    config = Config.of(Device.of("vfio-pci", fd=9, iommufd="iommufd0"))

    with pytest.raises(ConfigError) as caught:
        validate(config, evolve(schema, backend_links=frozenset()))

    assert [(problem.path, problem.hint) for problem in caught.value.problems] == [
        ("device[0] (vfio-pci).iommufd", "install vfiocore-iommufd")
    ]


def test_an_object_type_is_not_a_device_type(problems: Problems) -> None:
    assert problems(Config.of(Device.of("memory")))[0].message == 'unknown device type "memory"'


def test_a_missing_type_is_told(problems: Problems) -> None:
    (problem,) = problems(load_toml("[[device]]\nid = 'a'"))

    assert str(problem) == (
        'config.toml: device[0] "a": the device has no type'
        " (installed: buffer-device, vfio-pci, vfio-platform)"
    )


def test_an_unknown_key_is_told_with_a_near_miss(problems: Problems) -> None:
    (problem,) = problems(Config.of(pci(enable_migraton=True)))

    assert problem.path == "device[0] (vfio-pci).enable-migraton"
    assert problem.message == "unknown key"
    assert problem.hint is not None
    assert problem.hint.startswith('did you mean "enable-migration"? known: enable-migration, fd,')


def test_an_underscore_in_a_key_is_a_near_miss(problems: Problems) -> None:
    (problem,) = problems(
        load_toml("[[device]]\ntype='vfio-pci'\nhost='2:0.0'\nx_balloon_allowed=true")
    )

    assert 'did you mean "x-balloon-allowed"?' in str(problem)


def test_a_key_in_capitals_is_a_near_miss(problems: Problems) -> None:
    (problem,) = problems(load_toml("[[device]]\ntype='vfio-pci'\nSYSFSDEV='/sys/x'"))

    assert 'did you mean "sysfsdev"?' in str(problem)


def test_a_misspelt_key_counts_as_given(problems: Problems) -> None:
    assert paths(problems(Config.of(Device.of("vfio-pci", hots="2:0.0")))) == [
        "device[0] (vfio-pci).hots"
    ]


def test_a_wrong_value_is_told_with_what_is_allowed(problems: Problems) -> None:
    (problem,) = problems(Config.of(pci(enable_migration="maybe")))

    assert str(problem) == (
        'device[0] (vfio-pci).enable-migration: "maybe" is not a switch (expected on, off or auto)'
    )


def test_a_wrong_value_counts_as_given(problems: Problems) -> None:
    assert paths(problems(Config.of(pci(host="nonsense")))) == ["device[0] (vfio-pci).host"]


def test_a_required_property_that_is_missing_is_told(problems: Problems) -> None:
    (problem,) = problems(Config.of(Object.of("memory", id="m")))

    assert problem.path == 'object[0] "m" (memory).size'
    assert problem.message == "it is required"


def test_a_required_property_with_a_wrong_value_is_told_once(problems: Problems) -> None:
    assert len(problems(Config.of(Object.of("memory", id="m", size="big")))) == 1


# -- ids -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("id_", ["0nic", "-nic", "nic 0", "nic/0", "", "é", "nic\n"])
def test_a_malformed_id_is_told_with_the_rule(problems: Problems, id_: str) -> None:
    (problem,) = problems(Config.of(pci(id=id_)))

    assert problem.message.endswith("is malformed")
    assert problem.hint == "expected a letter, then letters, digits, -, . or _"


@pytest.mark.parametrize("id_", ["n", "Nic-0", "a.b_c"])
def test_a_well_formed_id_is_kept(schema: Schema, id_: str) -> None:
    assert validate(Config.of(pci(id=id_)), schema).devices[0].id == id_


def test_an_object_without_an_id_is_told(problems: Problems) -> None:
    (problem,) = problems(parse_command_line("-object iommufd"))

    assert problem.path == "-object #1 (iommufd).id"
    assert problem.message == "it is required"


@pytest.mark.parametrize(
    "config",
    [Config.of(pci(id="a"), pci(id="a")), Config.of(*[Object.of("iommufd", id="a")] * 2)],
)
def test_an_id_given_to_two_of_a_kind_is_told(problems: Problems, config: Config) -> None:
    (problem,) = problems(config)

    kind = "device" if config.devices else "object"
    assert problem.path.startswith(f'{kind}[1] "a"')
    assert problem.message == f'"a" is the id of {kind}[0] already'


def test_an_object_and_a_device_may_have_one_id(schema: Schema) -> None:
    config = Config.of(Object.of("iommufd", id="a"), pci(id="a", iommufd="a"))

    assert validate(config, schema).devices[0].id == "a"


# -- links -----------------------------------------------------------------------------------------
def test_a_dangling_link_is_told_with_the_objects_there_are(problems: Problems) -> None:
    (problem,) = problems(Config.of(IOMMUFD, pci(iommufd="iommufd1")))

    assert problem.path == "device[0] (vfio-pci).iommufd"
    assert problem.message == 'there is no object "iommufd1"'
    assert problem.hint == 'did you mean "iommufd0"? objects of type iommufd: iommufd0'


def test_a_link_to_an_object_of_another_type_is_told(problems: Problems) -> None:
    (problem,) = problems(Config.of(Object.of("memory", id="ram", size="1M"), pci(iommufd="ram")))

    assert problem.message == '"ram" is an object of type memory, not iommufd'


def test_links_to_two_backends_are_told(problems: Problems) -> None:
    config = Config.of(IOMMUFD, Object.of("otherfd", id="o"), pci(iommufd="iommufd0", otherfd="o"))

    (problem,) = problems(config)

    assert str(problem) == (
        "device[0] (vfio-pci).otherfd: iommufd= is given too, and a device has one backend"
        " (remove iommufd= or otherfd=)"
    )


def test_a_link_that_is_no_backend_does_not_choose_one(schema: Schema) -> None:
    config = Config.of(
        Object.of("memory", id="m", size=4096),
        IOMMUFD,
        Device.of("buffer-device", memory="m", iommufd="iommufd0"),
    )

    assert validate(config, schema).devices[0].backend == "iommufd"


# -- checks across properties ----------------------------------------------------------------------
@pytest.fixture
def ordered() -> Schema:
    """A type of which `low` must not be over `high`."""

    def check(device: Device) -> Iterable[Problem]:
        if device.properties["low"] > device.properties["high"]:
            yield Problem(device.at("low"), "it is over high")

    low = Property("low", UINT, "Low.", default=0)
    high = Property("high", UINT, "High.", default=10)
    return Schema.of(devices=[TypeSchema("range", "A range.", (low, high), check=check)])


def test_a_check_sees_typed_values_and_defaults(ordered: Schema) -> None:
    with pytest.raises(ConfigError, match=r"device\[0\] \(range\)\.low: it is over high"):
        validate(Config.of(Device.of("range", low="0x20")), ordered)


def test_a_check_does_not_run_on_values_that_could_not_be_read(ordered: Schema) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Config.of(Device.of("range", low="much")), ordered)

    assert paths(caught.value.problems) == ["device[0] (range).low"]


# -- everything at once ----------------------------------------------------------------------------
def test_all_problems_of_all_items_come_at_once_in_order(problems: Problems) -> None:
    config = Config.of(
        Object.of("iommufd", id="0", fd="1x"),
        Object.of("memroy", id="m"),
        pci(id="a", iommufd="none", host="x", sysfsdev="/y", nonsense=1),
        Device.of("vfio-ap", id="a"),
    )

    assert paths(problems(config)) == [
        'object[0] "0" (iommufd).id',
        'object[0] "0" (iommufd).fd',
        'object[1] "m" (memroy)',
        'device[0] "a" (vfio-pci).host',
        'device[0] "a" (vfio-pci).nonsense',
        'device[0] "a" (vfio-pci).iommufd',
        'device[0] "a" (vfio-pci).host',
        'device[1] "a" (vfio-ap)',
        'device[1] "a" (vfio-ap).id',
    ]


def test_problems_of_reading_and_of_validating_come_together(schema: Schema) -> None:
    file, in_file = read_toml("hots = 'sim'\n[[device]]\ntype = 'vfio-pci'")
    line, in_line = read_command_line("-device vfio-pci,host=x,")

    with pytest.raises(ConfigError) as caught:
        validate(file.merge(line), schema, problems=in_file + in_line)

    assert paths(caught.value.problems) == [
        "config.toml: hots",
        "-device #1",
        "config.toml: device[0] (vfio-pci)",
        "-device #1 (vfio-pci).host",
    ]


def test_problems_of_reading_alone_are_raised_too(schema: Schema) -> None:
    with pytest.raises(ConfigError, match="x: bad"):
        validate(Config(), schema, problems=[Problem("x", "bad")])
