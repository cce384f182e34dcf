"""Map and unmap at random, very often: memory, files and pinned pages are what they were before.

usage: python -m bench.soak [PAIRS]    (in a guest, as `make soak-vm` does; 1,000,000 if left out)
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.vm.guest.binding import given_to
from tests.vm.guest.devices import Device, pci_functions
from tests.vm.guest.way import Way
from vfiocore import Framework
from vfiocore.memory import DmaMapping
from vfiocore.session import Session

WAYS = ("type1v2", "iommufd")
PAIRS = 1_000_000
WARM_UP = 20_000
"""Pairs until everything that grows once has grown."""

FIRST_IOVA = 1 << 32
SLOTS = 64
SLOT_PAGES = 16
SLACK_KIB = 512
"""What memory may differ by: allocators keep some for the next time."""

Facts = Mapping[str, int]


def main() -> int:
    """Run on every way; 1 if anything has grown."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    with given_to("vfio-pci", pci_functions("1234:11e8")[0]) as (card,):
        return max(soak(name, card, pairs) for name in WAYS)


def soak(name: str, card: Device, pairs: int) -> int:
    """One way; prints what was and what is."""
    way = Way.called(name, Framework(host="linux"))
    with (
        way.open(card) as session,
        session.dma_alloc(SLOTS * SLOT_PAGES * session.host.page_size) as buffer,
    ):
        map_at_random(session, buffer.vaddr, WARM_UP, seed=0)
        before = facts()
        map_at_random(session, buffer.vaddr, pairs, seed=1)
        after = facts()
    print(f"{name}: {pairs} pairs")
    for fact, was in before.items():
        print(f"  {fact:<24}{was:>10} → {after[fact]}")
    grown = [fact for fact in before if after[fact] > before[fact] + slack(fact)]
    print(f"  grown: {', '.join(grown) or 'nothing'}", flush=True)
    return int(bool(grown))


def map_at_random(session: Session, vaddr: int, pairs: int, *, seed: int) -> None:
    """Map and unmap ranges of 1 to 16 pages, up to 64 at a time; none is left.

    Args:
        session: Where.
        vaddr: Memory of 64 slots of 16 pages.
        pairs: How many are mapped, and unmapped again.
        seed: For other ranges, another number.
    """
    choose = random.Random(seed)  # noqa: S311 - no secret
    page = session.host.page_size
    mapped: dict[int, DmaMapping] = {}
    to_map = pairs
    while to_map or mapped:
        slot = choose.randrange(SLOTS)
        there = mapped.pop(slot, None)
        if there is not None:
            session.space.unmap([there])
        elif to_map:
            offset = slot * SLOT_PAGES * page
            size = choose.randint(1, SLOT_PAGES) * page
            mapped[slot] = DmaMapping(FIRST_IOVA + offset, size, vaddr + offset)
            session.space.map([mapped[slot]])
            to_map -= 1


def facts() -> Facts:
    """What must not grow: memory and locked memory in KiB, files and pinned pages by number."""
    # The kernel counts by processor, and sums up when it has time, or is asked to like this.
    Path("/proc/sys/vm/stat_refresh").read_bytes()
    status = Path("/proc/self/status").read_text("ascii")
    found = {name: _number(status, f"{name}:") for name in ("VmRSS", "VmLck", "VmPin")}
    found["files"] = len(os.listdir("/proc/self/fd"))
    vmstat = Path("/proc/vmstat").read_text("ascii")
    taken, given_back = (
        _number(vmstat, f"nr_foll_pin_{word}") for word in ("acquired", "released")
    )
    memory = Path("/proc/meminfo").read_text("ascii")
    return {
        **found,
        "pinned pages": taken - given_back,
        "SUnreclaim": _number(memory, "SUnreclaim:"),
        "PageTables": _number(memory, "PageTables:"),
    }


def _number(text: str, name: str) -> int:
    found = re.search(rf"^{re.escape(name)}\s+(\d+)", text, re.MULTILINE)
    assert found, f"the kernel does not tell {name}"
    return int(found[1])


def slack(fact: str) -> int:
    """By how much a fact may differ."""
    return SLACK_KIB if fact in {"VmRSS", "SUnreclaim", "PageTables"} else 0


if __name__ == "__main__":
    sys.exit(main())
