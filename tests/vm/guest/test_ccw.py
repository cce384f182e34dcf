"""Channel programs through vfio-ccw, on a machine with the other byte order."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from vfiocore.errors import BusyError, DeviceAccessError
from vfiocore.uapi.s390_cio import (
    CCW_CMD_NOOP,
    CCW_CMD_SENSE_ID,
    SCSW_FCTL_CLEAR_FUNC,
    SCSW_FCTL_HALT_FUNC,
)
from vfiocore_ccw.channel import ChannelProgram

from . import channel
from .channel import Channel
from .devices import Device
from .way import Way

VIRTIO_CONTROL_UNIT, VIRTIO_NETWORK, VIRTIO_BLOCK = 0x3832, 1, 2
SECTORS = (16 << 20) // 512
UNKNOWN_COMMAND = 0xC7
COMMAND_REJECT = 0x80
CONFIGURATION_SIZE = 60


@pytest.fixture
def disk(ccw: Device, way: Way) -> Iterator[Channel]:
    with way.open(ccw) as session:
        yield Channel(session)


# -- what every device does ------------------------------------------------------------------------
def test_a_disk_says_what_it_is(disk: Channel) -> None:
    ending = disk.command(CCW_CMD_SENSE_ID, 20, sli=True)
    assert ending.ok
    assert disk.get(4) == struct.pack(">BHB", 0xFF, VIRTIO_CONTROL_UNIT, VIRTIO_BLOCK)


def test_a_subchannel_knows_its_device(disk: Channel) -> None:
    subchannel = disk.device.schib()
    assert subchannel.enabled
    assert subchannel.device_number == 0x1234
    assert subchannel.chpids.count(None) == 7


def test_an_unknown_command_is_a_unit_check_that_the_device_accounts_for(disk: Channel) -> None:
    ending = disk.command(UNKNOWN_COMMAND, 4)
    assert ending.problems == ("unit check",)
    assert ending.sense[0] == COMMAND_REJECT


# -- lengths ---------------------------------------------------------------------------------------
def test_a_buffer_may_be_longer_than_what_the_device_has(disk: Channel) -> None:
    """The emulated control unit does not tell by how much."""
    disk.put(b"\xee" * 200)
    ending = disk.command(channel.READ_CONFIGURATION, 200, sli=True)
    assert ending.ok
    assert ending.cpa == disk.memory.iova + 8
    assert set(disk.get(200)[CONFIGURATION_SIZE:]) == {0xEE}


def test_a_length_that_does_not_fit_ends_the_program(disk: Channel) -> None:
    program = ChannelProgram()
    program.command(channel.READ_CONFIGURATION, disk.at(0), 200)
    program.command(CCW_CMD_SENSE_ID, disk.at(0x200), 20, sli=True)
    ending = disk.run(program)
    # Devices say "incorrect length"; the emulated control unit takes the program for wrong.
    assert ending.problems == ("program check",)
    assert disk.get(4, 0x200) == bytes(4)


# -- chains ----------------------------------------------------------------------------------------
def test_chained_commands_run_in_their_order(disk: Channel) -> None:
    disk.put(struct.pack(">H", 0), 0x100)
    program = ChannelProgram()
    program.command(CCW_CMD_SENSE_ID, disk.at(0), 20, sli=True)
    program.command(channel.READ_CONFIGURATION, disk.at(0x80), 8)
    program.command(channel.READ_QUEUE, disk.at(0x100), 4)
    ending = disk.run(program)
    assert ending.ok
    assert ending.cpa == disk.memory.iova + 3 * 8
    assert disk.get(1, 0) == b"\xff"
    assert int.from_bytes(disk.get(8, 0x80), "big") == SECTORS
    assert struct.unpack(">HH", disk.get(4, 0x100)) == (0, QUEUE_SIZE)


QUEUE_SIZE = 256
"""What QEMU gives a disk's queue at most."""


def test_a_chain_ends_at_the_command_that_fails(disk: Channel) -> None:
    program = ChannelProgram()
    program.command(CCW_CMD_SENSE_ID, disk.at(0), 20, sli=True)
    program.command(UNKNOWN_COMMAND, disk.at(0x80), 4)
    program.command(channel.READ_CONFIGURATION, disk.at(0x100), 8)
    ending = disk.run(program)
    assert ending.problems == ("unit check",)
    assert disk.get(1, 0) == b"\xff"
    assert disk.get(8, 0x100) == bytes(8)


def test_a_program_goes_on_where_it_jumps_to(disk: Channel) -> None:
    there = ChannelProgram().command(CCW_CMD_SENSE_ID, disk.at(0), 20, sli=True)
    disk.put(there.to_bytes(), 0x800)
    program = ChannelProgram().command(CCW_CMD_NOOP).jump(disk.at(0x800))
    assert disk.run(program).ok
    assert disk.get(1) == b"\xff"


# -- the control unit of virtio --------------------------------------------------------------------
def test_without_a_revision_the_capacity_has_the_byte_order_of_the_machine(disk: Channel) -> None:
    assert int.from_bytes(disk.configuration(8), "big") == SECTORS


def test_by_virtio_1_the_capacity_is_little_endian(disk: Channel) -> None:
    assert disk.set_revision(1).ok
    assert disk.features(channel.VERSION_1_HALF) & channel.VERSION_1
    assert disk.agree(channel.VERSION_1_HALF, channel.VERSION_1).ok
    assert int.from_bytes(disk.configuration(8), "little") == SECTORS


def test_a_revision_is_set_once(disk: Channel) -> None:
    assert disk.set_revision(1).ok
    assert disk.set_revision(1).problems == ("unit check",)


def test_a_revision_that_does_not_exist_is_rejected(disk: Channel) -> None:
    assert disk.set_revision(0x7FFF).problems == ("unit check",)


def test_a_network_card_keeps_the_address_that_is_written_to_it(
    ccw_nics: tuple[Device, Device], way: Way
) -> None:
    address = bytes([0x52, 0x54, 0, 1, 2, 3])
    with way.open(ccw_nics[0]) as session:
        card = Channel(session)
        card.put(address)
        assert card.command(channel.WRITE_CONFIGURATION, 6).ok
        assert card.command(channel.READ_CONFIGURATION, 6, 0x20).ok
        assert card.get(6, 0x20) == address


# -- memory ----------------------------------------------------------------------------------------
def test_data_that_is_not_mapped_is_refused_before_the_program_starts(disk: Channel) -> None:
    nowhere = 0x7000_0000
    with pytest.raises(DeviceAccessError) as refusal:
        disk.run(ChannelProgram().command(CCW_CMD_SENSE_ID, nowhere, 20, sli=True))
    assert refusal.value.errno in {errno.EINVAL, errno.ENOENT}
    assert disk.command(CCW_CMD_SENSE_ID, 20, sli=True).ok


def test_a_program_that_is_not_mapped_is_refused(disk: Channel) -> None:
    with pytest.raises(DeviceAccessError) as refusal:
        disk.device.start(0x7000_0000)
    assert refusal.value.errno in {errno.EINVAL, errno.ENOENT}


# -- halt and clear --------------------------------------------------------------------------------
def test_a_halt_is_answered_with_its_own_status(disk: Channel) -> None:
    disk.device.halt()
    assert disk.device.wait(channel.SECONDS).control & SCSW_FCTL_HALT_FUNC
    assert disk.command(CCW_CMD_SENSE_ID, 20, sli=True).ok


def test_a_clear_is_answered_with_its_own_status(disk: Channel) -> None:
    disk.device.clear()
    assert disk.device.wait(channel.SECONDS).control & SCSW_FCTL_CLEAR_FUNC
    assert disk.command(CCW_CMD_SENSE_ID, 20, sli=True).ok


def test_status_that_nobody_read_is_not_overwritten(disk: Channel) -> None:
    disk.memory.write(0, ChannelProgram().command(CCW_CMD_NOOP).to_bytes())
    disk.device.start(disk.memory.iova)
    with pytest.raises(BusyError):
        disk.device.start(disk.memory.iova)
    assert disk.device.wait(channel.SECONDS).ok


def test_a_reset_leaves_a_subchannel_that_works(disk: Channel) -> None:
    disk.device.reset()
    assert disk.command(CCW_CMD_SENSE_ID, 20, sli=True).ok
