from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vfiocore
from vfiocore import Config, Framework, PluginFilter, open_session
from vfiocore.config import Device, Object, Property, TypeSchema
from vfiocore.config.types import STRING
from vfiocore.errors import (
    BrokenPluginError,
    ConfigError,
    DuplicatePluginError,
    KernelError,
    MissingPluginError,
    PluginVersionError,
)
from vfiocore.hookspecs import hookimpl
from vfiocore.host import LinuxHost
from vfiocore.registration import Backend, DeviceType, HostType
from vfiocore_sim.host import SimHost

from .toy import ONE, Toy


@pytest.fixture
def toy() -> Toy:
    return Toy()


class Hosts:
    """A plugin with a host."""

    def __init__(self, create: Callable[[str | None], Any]) -> None:
        self.create = create

    @hookimpl
    def vfio_register_hosts(self) -> list[HostType]:
        return [HostType(name="sim", help="", create=self.create)]


def problems(framework: Framework, *parts: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        framework.open(*parts)
    return [str(problem) for problem in caught.value.problems]


# -- parts of a configuration ----------------------------------------------------------------------
def test_option_strings_files_and_objects_are_one_configuration(toy: Toy, tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('[[object]]\nqom-type = "toy"\nid = "toy0"\n')
    config = Config.of(Device.of("toy-pci", id="two", host="0000:03:00.0", toy="toy0"))
    with toy.open(file, ONE, config) as session:
        assert list(session.devices) == ["one", "two"]
        assert toy.record[0] == "make toy0"


def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_opened(
    toy: Toy, tmp_path: Path
) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('[[device]]\ndriver = "toy-pci"\nhost = "nonsense"\n')
    found = problems(
        toy.framework(), file, "-device toy-pci,hots=02:00.0 -device toy-pic -nonsense x"
    )
    text = "\n".join(found)
    for word in ('"nonsense" is not a PCI address', "hots", 'did you mean "toy-pci"?', "-nonsense"):
        assert word in text
    assert toy.record == []


def test_a_file_that_is_not_there_is_a_problem(toy: Toy, tmp_path: Path) -> None:
    (found,) = problems(toy.framework(), tmp_path / "none.toml")
    assert "none.toml" in found


def test_a_validated_configuration_is_typed_and_complete(toy: Toy) -> None:
    config = toy.framework().validate(Config.of(Device.of("toy-pci", host="2:0.0")))
    (device,) = config.devices
    assert device.properties["host"] == "0000:02:00.0"
    assert device.properties["noiommu"] is False
    assert device.id == "dev0"


# -- backends --------------------------------------------------------------------------------------
def test_a_property_of_another_backend_is_refused(toy: Toy) -> None:
    (found,) = problems(toy.framework(), f"-object toy,id=t {ONE},toy=t,noiommu=on")
    assert ".noiommu: is for the legacy backend, and this device uses toy" in found


def test_a_property_of_the_devices_own_backend_is_fine(toy: Toy) -> None:
    with toy.open(f"{ONE},noiommu=on"):
        assert toy.requests[0].options["noiommu"] is True


def test_a_device_that_links_to_no_object_uses_the_legacy_backend(toy: Toy) -> None:
    with toy.open(ONE):
        assert toy.requests[0].backend_object is None


# -- plugins ---------------------------------------------------------------------------------------
def test_a_plugin_that_is_missing_is_an_error_of_its_own_with_the_rest_as_its_cause(
    toy: Toy,
) -> None:
    framework = toy.framework()
    with pytest.raises(MissingPluginError) as caught:
        framework.open(f"-object iommufd,id=i {ONE},hots=x -device vfio-pci,host=03:00.0")
    assert str(caught.value).splitlines() == [
        "no plugin provides backend 'iommufd': install vfiocore-iommufd",
        "no plugin provides device type 'vfio-pci': install vfiocore-pci",
    ]
    assert "hots" in str(caught.value.__cause__)


def test_a_device_without_its_backend_is_an_error_before_anything_is_opened() -> None:
    class OnlyTypes:
        @hookimpl
        def vfio_register_device_types(self) -> list[DeviceType]:
            return list(Toy().vfio_register_device_types())

    framework = Framework([OnlyTypes()], autoload=False, host=SimHost())
    for use in (framework.open, lambda line: framework.validate(vfiocore_config(line))):
        with pytest.raises(MissingPluginError, match="backend 'legacy': install vfiocore-legacy"):
            use(ONE)


def vfiocore_config(line: str) -> Config:
    from vfiocore.config import parse_command_line

    return parse_command_line(line)


def test_two_providers_of_a_type_that_is_named_are_an_error(toy: Toy) -> None:
    framework = Framework([toy, Toy()], autoload=False, host=SimHost())
    with pytest.raises(DuplicatePluginError, match="device type 'toy-pci' is provided by Toy and"):
        framework.open(ONE)


def test_a_plugin_that_is_passed_in_and_broken_fails_at_once() -> None:
    class Old:
        VFIOCORE_API = 0

    with pytest.raises(PluginVersionError):
        Framework([Old()], autoload=False)


def test_a_property_that_two_plugins_declare_is_an_error(toy: Toy) -> None:
    class Clash:
        @hookimpl
        def vfio_register_backends(self) -> list[Backend]:
            prop = Property("sysfsdev", STRING, "Mine.")
            return [Backend(name="clash", help="", device_properties=(prop,))]

    framework = Framework([toy, Clash()], autoload=False)
    with pytest.raises(BrokenPluginError, match="'sysfsdev' twice"):
        _ = framework.schema


def test_a_device_type_that_takes_the_name_of_a_backend_is_an_error(toy: Toy) -> None:
    class Clash:
        @hookimpl
        def vfio_register_device_types(self) -> list[DeviceType]:
            schema = TypeSchema("clash", "", (Property("toy", STRING, "Mine."),), "acme-vfio")
            return [DeviceType(schema=schema, bus="pci", wrap=lambda _setup: None)]  # type: ignore[arg-type, return-value]

    with pytest.raises(BrokenPluginError, match="acme-vfio"):
        _ = Framework([toy, Clash()], autoload=False).schema


def test_plugins_cannot_be_chosen_by_a_configuration_after_they_were_imported(toy: Toy) -> None:
    config = Config(plugins=PluginFilter(block=("sim",)))
    (found,) = problems(toy.framework(), config)
    assert found.startswith("plugins:")
    assert "Framework(only=config.plugins)" in found


def test_a_framework_with_the_filter_of_the_configuration_opens_it(toy: Toy) -> None:
    only = PluginFilter(block=("sim",))
    toy.framework(only=only).open(Config(plugins=only), ONE).close()


def test_two_frameworks_do_not_meet() -> None:
    first, second = Toy(), Toy()
    one = first.framework()
    two = second.framework()
    with one.open(ONE), two.open(ONE):
        pass
    assert first.record == second.record
    assert len(first.requests) == len(second.requests) == 1
    assert first.requests[0].host is not second.requests[0].host


def test_the_shortcut_uses_the_plugins_that_the_configuration_allows(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(
        '[plugins]\nallow = []\n[[device]]\ndriver = "vfio-pci"\nhost = "0000:02:00.0"\n'
    )
    with pytest.raises(MissingPluginError):
        open_session(file, host=SimHost())


def test_the_shortcut_reports_what_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text("[plugins]\nallow = 3\n")
    with pytest.raises(ConfigError, match=r"plugins\.allow"):
        open_session(file, host=SimHost())


# -- hosts -----------------------------------------------------------------------------------------
def test_this_machine_is_the_host_unless_another_is_named() -> None:
    framework = Framework(autoload=False)
    assert isinstance(framework.make_host(), LinuxHost)
    assert isinstance(framework.make_host("linux"), LinuxHost)


def test_a_named_host_is_made_by_its_plugin_from_what_follows_the_colon() -> None:
    seen: list[str | None] = []

    def create(argument: str | None) -> SimHost:
        seen.append(argument)
        return SimHost()

    framework = Framework([Hosts(create)], autoload=False, host="sim")
    framework.make_host()
    framework.make_host("sim:machine.toml")
    framework.make_host("sim:")
    assert seen == [None, "machine.toml", None]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no such file"), ValueError("not TOML")])
def test_a_host_that_cannot_be_made_is_a_problem_of_the_configuration(error: Exception) -> None:
    def create(_argument: str | None) -> SimHost:
        raise error

    with pytest.raises(ConfigError, match="host sim:x: "):
        Framework([Hosts(create)], autoload=False).make_host("sim:x")


def test_what_a_host_says_of_the_kernel_is_passed_on() -> None:
    def create(_argument: str | None) -> SimHost:
        raise KernelError(5, "open", "sim")

    with pytest.raises(KernelError):
        Framework([Hosts(create)], autoload=False).make_host("sim")


def test_this_machine_takes_no_argument() -> None:
    with pytest.raises(ConfigError, match="takes no argument"):
        Framework(autoload=False).make_host("linux:x")


def test_a_host_that_nobody_provides_is_missing() -> None:
    with pytest.raises(MissingPluginError, match="install vfiocore-sim"):
        Framework(autoload=False).make_host("sim")


def test_a_configuration_names_a_host_over_the_frameworks_choice(toy: Toy) -> None:
    made = SimHost()
    framework = Framework([toy, Hosts(lambda _argument: made)], autoload=False, host="linux")
    with framework.open(Config(host="sim"), ONE) as session:
        assert session.host is made


def test_a_host_that_is_given_is_not_replaced_in_silence(toy: Toy) -> None:
    (found,) = problems(toy.framework(), Config(host="linux"), ONE)
    assert "is for host linux, and this framework was given one (sim)" in found
    toy.framework().open(Config(host="sim"), ONE).close()


def test_a_machine_without_vfio_is_told_of_the_simulated_one(toy: Toy) -> None:
    toy.nodes = ("/dev/no-such-node",)
    with pytest.raises(KernelError, match="--host sim") as caught:
        Framework([toy], autoload=False, host="linux").open(ONE)
    assert "load the toy module" in str(caught.value)


def test_the_package_offers_its_front_door() -> None:
    assert set(vfiocore.__all__) >= {"Framework", "Session", "Config", "hookimpl", "open_session"}
    assert Object.of("toy", id="t").id == "t"
