from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from vfiocore.access import DeviceAccess
from vfiocore.config import Device as DeviceConfig
from vfiocore.container import Container, DeviceTarget
from vfiocore.device import Device
from vfiocore.errors import DeviceAccessError
from vfiocore.registration import DeviceSetup
from vfiocore.uapi import vfio

from .scripted import MAPPABLE, PAGE, ScriptedHost, refusing

INVALID = 3
"""An index that the driver counts and does not have, like the VGA region of most devices."""


@pytest.fixture
def device(host: ScriptedHost, access: DeviceAccess) -> Device:
    def info(arg: bytearray) -> int:
        reply = vfio.vfio_device_info.from_buffer(arg)
        reply.num_regions, reply.num_irqs = 5, 2
        return 0

    def region_info(arg: bytearray) -> int:
        size = 32 + 16
        reply = vfio.vfio_region_info.from_buffer(arg)
        index = reply.index
        if index == INVALID or index >= 5:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        reply.size, reply.offset = PAGE, index * PAGE
        reply.flags = MAPPABLE
        if index < INVALID:
            return 0
        reply.flags |= vfio.VFIO_REGION_INFO_FLAG_CAPS
        fits, reply.argsz, reply.cap_offset = len(arg) >= size, size, 32
        del reply
        if fits:
            header = vfio.vfio_info_cap_header(vfio.VFIO_REGION_INFO_CAP_TYPE, 1, 0)
            kind = vfio.vfio_region_info_cap_type(header=header, type=2, subtype=index)
            arg[32:] = bytes(kind)
        return 0

    def irq_info(arg: Any) -> int:
        arg.flags, arg.count = vfio.VFIO_IRQ_INFO_EVENTFD, 2
        return 0

    host.answers |= {
        vfio.VFIO_DEVICE_GET_INFO: info,
        vfio.VFIO_DEVICE_GET_REGION_INFO: region_info,
        vfio.VFIO_DEVICE_GET_IRQ_INFO: irq_info,
        vfio.VFIO_DEVICE_SET_IRQS: lambda _arg: 0,
        vfio.VFIO_DEVICE_FEATURE: refusing(errno.ENOTTY),
        vfio.VFIO_DEVICE_RESET: lambda _arg: 0,
    }
    container = Container(host=host, backend="toy", label="IOAS", page_sizes=PAGE)
    return Device(
        DeviceSetup(
            config=DeviceConfig.of("toy", id="nic"),
            target=DeviceTarget("0000:02:00.0"),
            access=access,
            container=container,
        )
    )


def test_a_device_has_the_kernels_name_and_the_users_id(device: Device) -> None:
    assert (device.id, device.name) == ("nic", "0000:02:00.0")


def test_a_region_is_one_object_asked_for_once(host: ScriptedHost, device: Device) -> None:
    first = device.region(1)
    asked = len(host.asked)
    assert device.region(1) is first
    assert len(host.asked) == asked
    assert first.name == "0000:02:00.0 region 1"


def test_an_interrupt_is_one_object(device: Device) -> None:
    assert device.irq(1) is device.irq(1)
    assert device.irq(1).name == "0000:02:00.0 irq 1"


def test_a_region_that_is_not_there_is_an_error(device: Device) -> None:
    with pytest.raises(DeviceAccessError) as caught:
        device.region(9)
    assert caught.value.errno == errno.EINVAL


def test_a_device_specific_region_is_found_past_indexes_that_are_not_there(device: Device) -> None:
    found = device.find_region(2, 4)
    assert found is device.region(4)
    assert device.find_region(2, 5) is None


def test_looking_for_a_region_does_not_hide_other_errors(
    host: ScriptedHost, device: Device
) -> None:
    host.answers[vfio.VFIO_DEVICE_GET_REGION_INFO] = refusing(errno.EIO)
    with pytest.raises(DeviceAccessError):
        device.find_region(2, 4)


def test_releasing_turns_interrupts_off_before_regions_are_unmapped(
    host: ScriptedHost, device: Device
) -> None:
    device.region(0).map()
    device.irq(0).enable()
    seen: list[bool] = []

    def off(_arg: object) -> int:
        seen.append(device.region(0).is_mapped)
        return 0

    host.answers[vfio.VFIO_DEVICE_SET_IRQS] = off
    device.release()
    assert seen == [True]
    assert not device.region(0).is_mapped
    device.release()
    assert seen == [True]
    assert not device.access.closed


def test_regions_are_unmapped_even_if_an_interrupt_cannot_be_turned_off(
    host: ScriptedHost, device: Device
) -> None:
    device.region(0).map()
    device.irq(0).enable()
    host.answers[vfio.VFIO_DEVICE_SET_IRQS] = refusing(errno.EIO)
    with pytest.raises(DeviceAccessError):
        device.release()
    assert not device.region(0).is_mapped
    assert host.files == {device.access.fd}


def test_a_reset_is_the_kernels(host: ScriptedHost, device: Device) -> None:
    device.reset()
    assert host.asked[-1][1] == vfio.VFIO_DEVICE_RESET


def test_a_device_is_a_context_manager_that_releases_it(device: Device) -> None:
    with device:
        device.region(0).map()
    assert not device.region(0).is_mapped
