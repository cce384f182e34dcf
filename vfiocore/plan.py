"""What a session is about to open, looked at before anything is opened."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from vfiocore.container import DeviceTarget
from vfiocore.errors import ConfigError, DeviceNotFoundError, HostUnsupportedError, Problem
from vfiocore.memory.backends import memory_problems
from vfiocore.sysfs import device_path, mdev_api, read_device

if TYPE_CHECKING:
    from vfiocore.config.model import Config
    from vfiocore.config.model import Device as DeviceConfig
    from vfiocore.fds import FdTable
    from vfiocore.host import Host
    from vfiocore.plugins import PluginSet
    from vfiocore.registration import Backend, DeviceType
    from vfiocore.sysfs import HostDevice

LEGACY = "legacy"
"""The backend of a device that links to no object."""


@frozen
class DevicePlan:
    """A device about to be opened.

    Attributes:
        config: Its configuration, typed and complete.
        type: Its device type.
        backend: The backend that it selects.
        target: What the host knows of it.
        ram_discard_allowed: True if memory may be taken from under it.
    """

    config: DeviceConfig
    type: DeviceType
    backend: Backend
    target: DeviceTarget
    ram_discard_allowed: bool


@frozen
class Planner:
    """Finds on a host what a configuration names, with every problem at once.

    Attributes:
        opened: Devices of the configuration that are open.
    """

    host: Host
    plugins: PluginSet
    fds: FdTable
    config: Config
    opened: Sequence[DevicePlan] = ()

    def plan(self) -> list[DevicePlan]:
        """Look at everything before anything is opened, so that all problems show at once."""
        problems = list(memory_problems(self.config.objects))
        plans: list[DevicePlan] = []
        there = {plan.config.id for plan in self.opened}
        for device in self.config.devices:
            if device.id in there:
                continue
            try:
                plans.append(self._plan_device(device))
            except ConfigError as error:
                problems += error.problems
        problems += _named_twice([*self.opened, *plans])
        if problems:
            raise ConfigError(problems)
        return plans

    def _plan_device(self, config: DeviceConfig) -> DevicePlan:
        type_ = self.plugins.device_type(config.type)
        backend = self.plugins.backend(config.backend or LEGACY)
        self._check_nodes(backend, config)
        found = backend.find_target and backend.find_target(config.properties)
        target = found or self._target(config, type_)
        discard = _ram_discard_allowed(config, type_, target)
        return DevicePlan(config, type_, backend, target, ram_discard_allowed=discard)

    def _target(self, config: DeviceConfig, type_: DeviceType) -> DeviceTarget:
        options = config.properties
        reference = options.get("fd")
        fd = None if reference is None else self.fds.resolve(reference, config.at("fd"))
        path = options.get("sysfsdev")
        key = "sysfsdev" if path else "host"
        if path is None and options.get("host") is not None:
            path = device_path(type_.bus, str(options["host"]))
        token = options.get("vf-token")
        if path is None and fd is None:
            raise ConfigError([Problem(config.label, "no host device is selected", "give host=")])
        if path is None:
            return DeviceTarget(f"VFIO_FD{fd}", None, fd, token)
        try:
            device = read_device(self.host, path)
        except DeviceNotFoundError:
            raise ConfigError(
                [
                    Problem(
                        config.at(key),
                        f"there is no {path} on host {self.host.name}",
                        "`vfiocore devices` lists what there is",
                    )
                ]
            ) from None
        mismatch = self._mismatch(type_, device)
        if mismatch is not None:
            message, hint = mismatch
            raise ConfigError([Problem(config.at(key), f"{path} {message}", hint)])
        return DeviceTarget(device.name, device, fd, token)

    def _mismatch(self, type_: DeviceType, device: HostDevice) -> tuple[str, str] | None:
        """What the device is instead of what `type_` is for, and what to do; None if they may fit.

        Looked at first, since otherwise a kernel driver, or KVM, says no for a reason of its own.
        """
        if not device.is_mdev:
            message = f"is no mediated device but one of the {device.bus or 'unknown'} bus"
            return (message, f"{type_.name} needs one") if type_.always_mdev else None
        found = mdev_api(self.host, device)
        if found is None or type_.device_api in (None, found):
            return None
        hint = f"{type_.name} needs one that says {type_.device_api}"
        return f"is a mediated device that says it is {found}", hint

    def _check_nodes(self, backend: Backend, config: DeviceConfig) -> None:
        """Say clearly that the machine has no VFIO, rather than that one file is missing."""
        link = config.properties.get(backend.name) if config.backend else None
        linked = [item.properties for item in self.config.objects if item.id == link]
        if any(properties.get("fd") is not None for properties in (config.properties, *linked)):
            return  # somebody else has opened them
        missing = [node for node in backend.nodes if not self.host.exists(node)]
        if missing:
            ways = [backend.advice, "go on with the simulated host: --host sim"]
            raise HostUnsupportedError(
                errno.ENOENT,
                "open",
                f"host {self.host.name}",
                f"the {backend.name} backend needs {' and '.join(missing)}, missing here",
                "; or ".join(filter(None, ways)),
            )


def _named_twice(plans: list[DevicePlan]) -> Iterator[Problem]:
    """A device opens once; the backends' kernels would say so in different words."""
    seen: dict[str, DeviceConfig] = {}
    for plan in plans:
        if plan.target.device is None:
            continue  # an fd does not tell
        first = seen.setdefault(plan.target.device.path, plan.config)
        if first is not plan.config:
            message = f"{plan.target.name} is the device of {first.label} already"
            yield Problem(plan.config.label, message, "name each device once")


def _ram_discard_allowed(config: DeviceConfig, type_: DeviceType, target: DeviceTarget) -> bool:
    """The rule for taking memory from under a device: mdevs that pin by themselves, on request.

    Raises:
        ConfigError: ``x-balloon-allowed`` for what is not, or cannot be seen to be, an mdev.
    """
    if type_.always_mdev:
        return True
    wanted = bool(config.properties.get("x-balloon-allowed"))
    if wanted and not target.is_mdev:
        blind = target.device is None
        raise ConfigError(
            [
                Problem(
                    config.at("x-balloon-allowed"),
                    f"vfio {target.name}: x-balloon-allowed only potentially compatible with"
                    " mdev devices",
                    "a passed fd does not tell the kind of device: give sysfsdev= too"
                    if blind
                    else None,
                )
            ]
        )
    return wanted
