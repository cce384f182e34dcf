from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiocore.config import Config, Device, Object, PluginFilter, load_file, load_toml, read_toml
from vfiocore.errors import ConfigError, Problem

WHOLE = """
host = "sim:lab.toml"

[plugins]
allow = ["vfiocore-pci", "vfiocore-sim"]
block = ["noisy"]

[[object]]
type = "iommufd"
id = "iommufd0"

[[device]]
driver = "vfio-pci"
id = "nic0"
host = "0000:02:00.0"
iommufd = "iommufd0"
enable-migration = true

[[device]]
type = "vfio-ap"
"""

TOML_LIKE = st.lists(
    st.sampled_from(
        ["[[device]]", "[device]", "[[object]]", "[plugins]", "host", "type", "id", "driver", " = ",
         '"x"', "1", "[", "]", "{", "}", "'", '"', "\n", "\n", "allow", "block", ".", "true"]
    )
).map("".join)  # fmt: skip


def refused(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_toml(text)
    return caught.value.problems


def test_a_document_becomes_a_configuration() -> None:
    assert load_toml(WHOLE) == Config(
        (Object.of("iommufd", id="iommufd0"),),
        (
            Device.of(
                "vfio-pci",
                id="nic0",
                host="0000:02:00.0",
                iommufd="iommufd0",
                enable_migration=True,
            ),
            Device.of("vfio-ap"),
        ),
        "sim:lab.toml",
        PluginFilter(("vfiocore-pci", "vfiocore-sim"), ("noisy",)),
    )


def test_an_item_remembers_its_document_and_its_place() -> None:
    assert [device.where for device in load_toml(WHOLE, "vm.toml").devices] == [
        "vm.toml: device[0]",
        "vm.toml: device[1]",
    ]


def test_an_empty_document_is_an_empty_configuration() -> None:
    assert load_toml("") == Config()


def test_qom_type_is_understood_for_type() -> None:
    assert load_toml('[[object]]\nqom-type = "iommufd"\nid = "a"').objects[0].type == "iommufd"


def test_a_missing_type_or_id_is_left_for_validation() -> None:
    assert load_toml("[[object]]\n[[device]]") == Config((Object("", ""),), (Device("", None),))


def test_two_keys_for_the_type_are_refused() -> None:
    assert refused('[[device]]\ndriver = "a"\ntype = "b"') == (
        Problem("config.toml: device[0]", "it has both driver and type", "they mean the same"),
    )


def test_an_unknown_top_level_key_is_refused_with_a_near_miss() -> None:
    assert refused('[[devices]]\ntype = "vfio-pci"') == (
        Problem(
            "config.toml: devices",
            "unknown key",
            'did you mean "device"? known: device, host, object, plugins',
        ),
    )


def test_a_single_table_is_refused_with_how_to_write_it() -> None:
    assert refused('[device]\ntype = "vfio-pci"') == (
        Problem("config.toml: device", "it is not an array of tables", "write [[device]]"),
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("host = 1", "host"),
        ("plugins = 1", "plugins"),
        ("plugins.allow = 1", "plugins.allow"),
        ("plugins.block = [1]", "plugins.block"),
        ("plugins.alow = []", "plugins.alow"),
        ("device = [1]", "device[0]"),
        ("[[device]]\ntype = 1", "device[0].type"),
        ("[[object]]\nid = 1", "object[0].id"),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused_at_its_path(text: str, path: str) -> None:
    assert [problem.path for problem in refused(text)] == [f"config.toml: {path}"]


def test_all_that_is_wrong_with_a_document_comes_at_once() -> None:
    assert len(refused("host = 1\nhots = 2\nplugins = 3\ndevice = 4")) == 4


def test_a_syntax_error_comes_with_line_and_column() -> None:
    (problem,) = refused('host = "sim"\n[[device]\n')

    assert problem.path == "config.toml:2:9"
    assert problem.message.startswith("not TOML: ")


@pytest.mark.parametrize(
    ("text", "path"), [("host =", "config.toml:1:7"), ("\n\nhost = '", "config.toml:3:9")]
)
def test_a_syntax_error_at_the_end_comes_with_line_and_column(text: str, path: str) -> None:
    assert [problem.path for problem in refused(text)] == [path]


def test_an_integer_too_long_to_convert_is_refused() -> None:
    (problem,) = refused("host = " + "9" * 5000)

    assert problem.path == "config.toml"


def test_nesting_too_deep_is_refused() -> None:
    (problem,) = refused("host = " + "[" * 100_000)

    assert problem == Problem("config.toml", "it is nested too deeply")


def test_reading_keeps_what_can_be_read_beside_the_problems() -> None:
    config, problems = read_toml('host = 1\n[[device]]\ntype = "vfio-ap"')

    assert config == Config.of(Device.of("vfio-ap"))
    assert [problem.path for problem in problems] == ["config.toml: host"]


def test_a_file_is_read_and_named_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(WHOLE)

    config = load_file(path)

    assert config == load_toml(WHOLE)
    assert config.devices[0].where == f"{path}: device[0]"


def test_a_missing_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it cannot be read: No such file or directory"):
        load_file(tmp_path / "none.toml")


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigError, match="it cannot be read"):
        load_file("a\0b")


def test_a_file_that_is_not_utf8_is_refused_with_the_position(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_bytes(b"host = '\xff'")

    with pytest.raises(ConfigError, match="it is not UTF-8, at byte 8"):
        load_file(path)


@given(st.text() | TOML_LIKE)
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        load_toml(text)
