"""``vfiocore demo``: the guide's configurations, running on the simulated host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import click
from attrs import asdict, define, frozen

from vfiocore.cli.demo import ap, ccw, edu, nvme, timer
from vfiocore.cli.demo.exercise import Moved
from vfiocore.cli.options import Request, on_host
from vfiocore.errors import ConfigError, Problem
from vfiocore.framework import Framework
from vfiocore.host import Host
from vfiocore.session import Session
from vfiocore.sysfs import device_path, read_device

AP_MATRIX = "/sys/bus/mdev/devices/6f6bd2a6-5b5c-4f0a-9d86-3f1b8b1c3a01"
CCW_DISK = "/sys/bus/mdev/devices/7e270a25-e163-4922-af60-757fc8ed48c6"

SIMULATED = "sim"
CARD = "0000:02:00.0"
IOMMUFD = f"-object iommufd,id=iommufd0 -device vfio-pci,id=edu,host={CARD},iommufd=iommufd0"
LEGACY = f"-device vfio-pci,id=edu,host={CARD}"
PASSED = (
    "-object iommufd,id=iommufd0,fd={iommufd} -device vfio-pci,id=edu,iommufd=iommufd0,fd={device}"
)
EVERY_KIND = (
    ("nvme", "vfio-pci,id=nvme,host=0000:03:00.0"),
    ("timer", "vfio-platform,id=timer,host=10000000.timer"),
    ("ap", f"vfio-ap,id=ap,sysfsdev={AP_MATRIX}"),
    ("ccw", f"vfio-ccw,id=ccw,sysfsdev={CCW_DISK}"),
)

EXERCISES: dict[str, Callable[[Session, Any], Moved]] = {
    "edu": edu.exercise,
    "nvme": nvme.exercise,
    "timer": timer.exercise,
    "ap": ap.exercise,
    "ccw": ccw.exercise,
}


@frozen
class Step:
    """One device put to work.

    Attributes:
        device: Its id.
        type: Its device type.
        did: What it did, in words.
        bytes: How many bytes went through the IOMMU, all compared.
        interrupts: How many interrupts came.
        microseconds: How long it took.
    """

    device: str
    type: str
    did: str
    bytes: int
    interrupts: int
    microseconds: int


@frozen
class Scenario:
    """One configuration, opened, put to work and taken down."""

    title: str
    options: str
    backend: str
    open_microseconds: int
    close_microseconds: int
    steps: tuple[Step, ...]


@define
class _Clock:
    """Microseconds since the last look."""

    last: float = 0.0

    def lap(self) -> int:
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return round(passed * 1e6)


@click.command("demo")
@on_host
def command(request: Request) -> None:
    """Run four kinds of devices on both backends of the simulated host.

    What a device wrote through the simulated IOMMU is read back and compared.
    """
    host = request.framework.make_host(request.host or SIMULATED)
    if host.name != SIMULATED:
        message = f"the demo runs on the simulated host, not on {host.name}"
        raise ConfigError([Problem("--host", message, "give --host sim[:FILE], or leave it out")])
    start = time.perf_counter()
    scenarios = []
    for scenario in _run(request.framework.on(host), host):
        scenarios.append(scenario)
        _print(request, scenario)
    seconds = time.perf_counter() - start
    request.output.document(
        "demo", scenarios=[asdict(item) for item in scenarios], seconds=round(seconds, 3)
    )
    steps = [step for scenario in scenarios for step in scenario.steps]
    request.output.text(
        f"{sum(step.bytes for step in steps)} bytes through the IOMMU, all compared;"
        f" {sum(step.interrupts for step in steps)} interrupts; {seconds:.2f} s"
    )
    request.output.text("next: `vfiocore devices`, or `vfiocore devices --host sim`")


def _run(framework: Framework, host: Host) -> Iterator[Scenario]:
    yield _play(framework, "the device on iommufd", IOMMUFD)
    yield _play_passed(framework, host)
    yield _play(framework, "without an iommufd object: group and container", LEGACY)
    every = [options for _, options in EVERY_KIND]
    yield _play(framework, "every kind of device, legacy", _devices(every, ""))
    linked = "-object iommufd,id=iommufd0 " + _devices(every, ",iommufd=iommufd0")
    yield _play(framework, "every kind of device, iommufd", linked)


def _devices(options: list[str], link: str) -> str:
    return " ".join(f"-device {option}{link}" for option in options)


def _play_passed(framework: Framework, host: Host) -> Scenario:
    """Open both nodes as a management layer would, and pass them by number."""
    iommufd = host.open("/dev/iommu")
    try:
        device = host.open(f"/dev/vfio/devices/{read_device(host, device_path('pci', CARD)).cdev}")
        try:
            options = PASSED.format(iommufd=iommufd, device=device)
            return _play(framework, "both opened by somebody else and passed in", options)
        finally:
            host.close(device)
    finally:
        host.close(iommufd)


def _play(framework: Framework, title: str, options: str) -> Scenario:
    clock = _Clock(time.perf_counter())
    with framework.open(options) as session:
        opened = clock.lap()
        steps = tuple(_step(session, device, clock) for device in session)
        backend = next(iter(session)).container.backend
        clock.lap()
    return Scenario(title, options, backend, opened, clock.lap(), steps)


def _step(session: Session, device: Any, clock: _Clock) -> Step:
    clock.lap()
    moved = EXERCISES[device.id](session, device)
    return Step(
        device.id, device.config.type, moved.did, moved.bytes, moved.interrupts, clock.lap()
    )


def _print(request: Request, scenario: Scenario) -> None:
    output = request.output
    output.text(f"{scenario.title}")
    output.text(f"  {scenario.options}")
    output.text(
        f"  opened in {scenario.open_microseconds} µs, closed in {scenario.close_microseconds} µs"
    )
    for step in scenario.steps:
        output.text(
            f"  {step.device:<6}{step.did}: {step.bytes} bytes, {step.interrupts} interrupts,"
            f" {step.microseconds} µs"
        )
    output.text()
