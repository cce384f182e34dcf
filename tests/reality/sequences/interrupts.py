"""SET_IRQS: every wrong combination, and interrupts that a card makes."""

from __future__ import annotations

import struct

from tests.reality.memory import NOTHING
from tests.reality.parts import (
    BAR0,
    BOOL,
    CONFIG,
    ERR,
    EVENTFD,
    INTX,
    MASK,
    MSI,
    MSIX,
    NONE,
    PAGE,
    REQ,
    TRIGGER,
    UNMASK,
    device_of,
    disable,
    enabled,
    set_irqs,
    trigger,
)
from tests.reality.script import Script
from tests.reality.sequence import sequence, sequences
from vfiocore.uapi import vfio as v

KINDS = {"none": (NONE, b""), "bool": (BOOL, b"\1"), "eventfd": (EVENTFD, b"")}
ACTIONS = {
    "no action": 0,
    "mask": MASK,
    "unmask": UNMASK,
    "trigger": TRIGGER,
    "mask and trigger": MASK | TRIGGER,
    "all actions": MASK | UNMASK | TRIGGER,
}
INDEXES = {"intx": INTX, "msi": MSI, "msix": MSIX, "err": ERR, "req": REQ}


@sequences(
    {
        f"{kind}, {action}, of {index}": {
            "index": INDEXES[index],
            "kind": kind,
            "action": ACTIONS[action],
        }
        for index in INDEXES
        for kind in KINDS
        for action in ACTIONS
    }
)
def set_irqs_with(s: Script, index: int, kind: str, action: int) -> None:
    device = device_of(s, "edu")
    flags, data = KINDS[kind]
    if kind == "eventfd":
        data = struct.pack("=i", s.eventfd())
    set_irqs(s, device, index, flags | action, 1, data)
    set_irqs(s, device, index, flags | action, 1, data)
    set_irqs(s, device, index, flags | action, 0)
    disable(s, device, index)
    disable(s, device, index)


HEADERS: dict[str, dict[str, int]] = {
    "too short": {"argsz": 19},
    "of no size": {"argsz": 0},
    "too short for its data": {"argsz": 23},
    "longer than its data": {"argsz": 64},
    "with an unknown flag": {"flags": 1 << 6 | EVENTFD | TRIGGER},
    "with two kinds of data": {"flags": NONE | EVENTFD | TRIGGER},
    "with all kinds of data": {"flags": 7 | TRIGGER},
    "with no kind of data": {"flags": TRIGGER},
    "with an index that is not there": {"index": 5},
    "with a great index": {"index": 0xFFFFFFFF},
    "with a start that is not there": {"start": 1},
    "with a great start": {"start": 0xFFFFFFFF},
    "with a count that is not there": {"count": 2},
    "with a great count": {"count": 0xFFFFFFFF},
    "with a start and count that wrap": {"start": 0xFFFFFFFF, "count": 2},
    "with no count": {"count": 0},
    "with no count, somewhere": {"count": 0, "start": 1},
}


@sequences({name: {"fields": fields} for name, fields in HEADERS.items()})
def a_header(s: Script, fields: dict[str, int]) -> None:
    device = device_of(s, "edu")
    wanted = {"argsz": 24, "flags": EVENTFD | TRIGGER, "index": MSI, "count": 1, **fields}
    data = struct.pack("=i", s.eventfd())
    s.ioctl(device, v.VFIO_DEVICE_SET_IRQS, v.vfio_irq_set(**wanted), data + bytes(40))


@sequence
def a_header_that_cannot_be_read(s: Script) -> None:
    device = device_of(s, "edu")
    s.ioctl(device, v.VFIO_DEVICE_SET_IRQS, NOTHING)
    header = v.vfio_irq_set(argsz=24, flags=EVENTFD | TRIGGER, index=MSI, count=1)
    where = s.memory.before_nothing(bytes(header))
    s.ioctl(device, v.VFIO_DEVICE_SET_IRQS, where)


@sequences(
    {
        f"{kind} for {index}": {"kind": kind, "index": INDEXES[index]}
        for kind in ("a closed fd", "a memory file", "minus one", "minus two")
        for index in INDEXES
    }
)
def an_eventfd_that_is(s: Script, kind: str, index: int) -> None:
    device = device_of(s, "edu")
    fd = {"a closed fd": 999, "minus one": -1, "minus two": -2}.get(kind)
    trigger(s, device, index, s.memfd(PAGE) if fd is None else fd)
    trigger(s, device, index, s.eventfd())
    trigger(s, device, index, s.memfd(PAGE) if fd is None else fd)
    disable(s, device, index)


# -- one at a time ---------------------------------------------------------------------------------
@sequences(
    {
        f"{first}, then {second}": {"first": INDEXES[first], "second": INDEXES[second]}
        for first in ("intx", "msi", "msix")
        for second in ("intx", "msi", "msix")
    }
)
def of_a_controller(s: Script, first: int, second: int) -> None:
    device = device_of(s, "nvme")
    trigger(s, device, first, s.eventfd())
    trigger(s, device, second, s.eventfd())
    disable(s, device, second)
    disable(s, device, first)
    trigger(s, device, second, s.eventfd())


@sequence
def the_messages_of_a_controller(s: Script) -> None:
    device = device_of(s, "nvme")
    events = [s.eventfd() for _ in range(4)]
    trigger(s, device, MSIX, *events[:2])
    trigger(s, device, MSIX, *events)
    trigger(s, device, MSIX, *events[:2], start=2)
    trigger(s, device, MSIX, events[0], start=64)
    trigger(s, device, MSIX, events[0], start=65)
    trigger(s, device, MSIX, -1, start=1)
    set_irqs(s, device, MSIX, NONE | TRIGGER, 3)
    for event in events:
        s.count(event)
    set_irqs(s, device, MSIX, BOOL | TRIGGER, 3, b"\1\1\0")
    for event in events:
        s.count(event)
    disable(s, device, MSIX)
    set_irqs(s, device, MSIX, NONE | TRIGGER, 1)


@sequence
def messages_that_begin_in_the_middle(s: Script) -> None:
    device = device_of(s, "nvme")
    trigger(s, device, MSIX, s.eventfd(), start=5)
    set_irqs(s, device, MSIX, NONE | TRIGGER, 1)
    trigger(s, device, MSIX, s.eventfd())
    disable(s, device, MSIX)


@sequence
def a_bad_eventfd_among_good_ones(s: Script) -> None:
    device = device_of(s, "nvme")
    good = s.eventfd()
    trigger(s, device, MSIX, good, 999, s.eventfd())
    disable(s, device, MSIX)
    trigger(s, device, MSIX, good, good)
    trigger(s, device, MSIX, good, 999)
    set_irqs(s, device, MSIX, NONE | TRIGGER, 2)
    s.count(good)


@sequence
def the_control_of_messages_follows(s: Script) -> None:
    device = device_of(s, "edu")
    capability = CONFIG + 0x40
    s.pread(device, 4, capability)
    trigger(s, device, MSI, s.eventfd())
    s.pread(device, 4, capability)
    s.pwrite(device, b"\0\0", capability + 2)
    s.pread(device, 4, capability)
    s.pwrite(device, b"\1\0", capability + 2)
    s.pread(device, 4, capability)
    disable(s, device, MSI)
    s.pread(device, 4, capability)
    s.pwrite(device, b"\1\0", capability + 2)
    s.pread(device, 4, capability)


# -- interrupts that happen ------------------------------------------------------------------------
RAISE, STATUS, ACKNOWLEDGE = BAR0 + 0x60, BAR0 + 0x24, BAR0 + 0x64
SECONDS = 10


def raise_(s: Script, device: int) -> None:
    s.pwrite(device, struct.pack("<I", 1), RAISE)


def acknowledge(s: Script, device: int) -> None:
    s.pwrite(device, struct.pack("<I", 1), ACKNOWLEDGE)


@sequence
def a_card_sends_a_message(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    trigger(s, device, MSI, event)
    raise_(s, device)
    s.count(event, SECONDS)
    s.pread(device, 4, STATUS)
    acknowledge(s, device)
    s.pread(device, 4, STATUS)
    raise_(s, device)
    s.count(event, SECONDS)
    disable(s, device, MSI)


@sequence
def a_message_without_a_bus_master(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    trigger(s, device, MSI, event)
    s.pwrite(device, struct.pack("<H", 2), CONFIG + 4)
    raise_(s, device)
    s.count(event, 0.2)


@sequence
def a_card_pulls_its_line(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    trigger(s, device, INTX, event)
    raise_(s, device)
    s.count(event, SECONDS)
    raise_(s, device)
    s.count(event, 0.2)
    set_irqs(s, device, INTX, NONE | UNMASK)
    s.count(event, SECONDS)
    acknowledge(s, device)
    set_irqs(s, device, INTX, NONE | UNMASK)
    s.count(event, 0.2)
    raise_(s, device)
    s.count(event, SECONDS)
    acknowledge(s, device)


@sequence
def a_line_that_is_masked(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    trigger(s, device, INTX, event)
    set_irqs(s, device, INTX, NONE | MASK)
    raise_(s, device)
    s.count(event, 0.2)
    set_irqs(s, device, INTX, BOOL | UNMASK, 1, b"\0")
    s.count(event, 0.2)
    set_irqs(s, device, INTX, BOOL | UNMASK, 1, b"\1")
    s.count(event, SECONDS)
    acknowledge(s, device)


@sequence
def a_line_that_an_eventfd_unmasks(s: Script) -> None:
    device = enabled(s, "edu")
    event, resample = s.eventfd(), s.eventfd()
    trigger(s, device, INTX, event)
    set_irqs(s, device, INTX, EVENTFD | UNMASK, 1, struct.pack("=i", resample))
    set_irqs(s, device, INTX, EVENTFD | UNMASK, 1, struct.pack("=i", s.eventfd()))
    raise_(s, device)
    s.count(event, SECONDS)
    s.signal(resample)
    s.count(event, SECONDS)
    acknowledge(s, device)
    s.signal(resample)
    s.count(event, 0.2)


@sequence
def a_line_that_configuration_space_switches_off(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    trigger(s, device, INTX, event)
    s.pwrite(device, struct.pack("<H", 0x406), CONFIG + 4)
    raise_(s, device)
    s.count(event, 0.2)
    s.pread(device, 4, CONFIG + 4)
    s.pwrite(device, struct.pack("<H", 0x006), CONFIG + 4)
    s.count(event, SECONDS)
    acknowledge(s, device)


@sequence
def the_eventfd_of_a_line_is_exchanged(s: Script) -> None:
    device = enabled(s, "edu")
    first, second = s.eventfd(), s.eventfd()
    trigger(s, device, INTX, first)
    trigger(s, device, INTX, second)
    raise_(s, device)
    s.count(second, SECONDS)
    s.count(first)
    trigger(s, device, INTX, -1)
    set_irqs(s, device, INTX, NONE | TRIGGER)
    acknowledge(s, device)


def signalled_by_request(s: Script, device: int, index: int, event: int) -> None:
    """Each way to have the kernel signal a vector, counted."""
    trigger(s, device, index, event)
    set_irqs(s, device, index, NONE | TRIGGER)
    s.count(event)
    set_irqs(s, device, index, BOOL | TRIGGER, 1, b"\1")
    s.count(event)


@sequence
def loopback(s: Script) -> None:
    device = device_of(s, "edu")
    event = s.eventfd()
    for index in (INTX, MSI):
        signalled_by_request(s, device, index, event)
        set_irqs(s, device, index, BOOL | TRIGGER, 1, b"\0")
        s.count(event)
        disable(s, device, index)


@sequence
def the_request_and_the_error_of_a_device(s: Script) -> None:
    device = device_of(s, "nvme")
    event = s.eventfd()
    for index in (ERR, REQ):
        signalled_by_request(s, device, index, event)
        trigger(s, device, index, -1)
        set_irqs(s, device, index, NONE | TRIGGER)
        set_irqs(s, device, index, BOOL | TRIGGER, 1, b"\1")
        disable(s, device, index)


@sequence
def an_eventfd_that_is_closed_does_not_switch_the_interrupt_off(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    trigger(s, device, MSI, event)
    s.close(event)
    set_irqs(s, device, MSI, NONE | TRIGGER)
    trigger(s, device, INTX, s.eventfd())
    raise_(s, device)
    acknowledge(s, device)
    disable(s, device, MSI)


@sequence
def interrupts_are_off_when_a_device_is_opened_again(s: Script) -> None:
    device = enabled(s, "edu")
    trigger(s, device, MSI, s.eventfd())
    s.close(device)
    again = s.device_fd(s.last("group of edu"), "edu")
    set_irqs(s, again, MSI, NONE | TRIGGER)
    trigger(s, again, INTX, s.eventfd())


@sequence
def interrupts_stay_when_a_device_is_reset(s: Script) -> None:
    device = enabled(s, "edu")
    event = s.eventfd()
    trigger(s, device, MSI, event)
    s.ioctl(device, v.VFIO_DEVICE_RESET)
    raise_(s, device)
    s.count(event, SECONDS)
    acknowledge(s, device)
