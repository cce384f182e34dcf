"""What guest memory costs at scale: times, and ratios within one run.

usage: python bench/memory.py

A one-region change is one change of one RAM among many, with its transaction, and a listener that
is told. Its cost among 1,000 ranges is the measure for the others, taken in turns with each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from timeit import repeat

from attrs import frozen
from overhead import REPEAT, Row, Work, report

from vfiocore.memory import (
    AddressSpace,
    Backing,
    DmaMapping,
    MappingTable,
    MemoryListener,
    Ram,
    Region,
    flatten,
)

PAGE = 0x1000
"""Nothing is mapped, so the host's page size does not matter."""
MEMORY = Backing(0x7F00_0000_0000, 1 << 44)
COUNTS = (10, 1_000, 10_000, 100_000)
MEASURE = 1_000
MAPPINGS = 60_000
"""Nearly as many as the kernel lets a container have by default."""
ROUNDS_OF_ALL = 5


# -- guest memory ----------------------------------------------------------------------------------
@frozen
class Machine:
    """An address space of many ranges with a listener, and one RAM in the middle of them."""

    space: AddressSpace
    ram: Ram
    offset: int

    def add_and_remove(self) -> None:
        """Two changes: it goes, and comes."""
        self.space.root.remove(self.ram)
        self.space.root.add(self.ram, self.offset)

    def disable_and_enable(self) -> None:
        """The same without leaving the tree."""
        self.ram.set_enabled(False)
        self.ram.set_enabled(True)

    def move(self) -> None:
        """Two moves, there and back."""
        self.ram.move(self.offset + PAGE // 2)
        self.ram.move(self.offset)

    def resize(self) -> None:
        """Smaller, and as before."""
        self.ram.resize(PAGE // 2)
        self.ram.resize(PAGE)


CHANGES = {
    "add, remove": Machine.add_and_remove,
    "disable, enable": Machine.disable_and_enable,
    "move": Machine.move,
    "resize": Machine.resize,
}


def tree(count: int) -> tuple[Region, list[Ram]]:
    """A root with `count` pieces of RAM and gaps between them, so that none is merged."""
    root = Region("system", 1 << 64)
    banks = [Ram(f"bank {index}", PAGE, MEMORY) for index in range(count)]
    for index, bank in enumerate(banks):
        root.add(bank, 3 * index * PAGE)
    return root, banks


def machine(count: int) -> Machine:
    """One with `count` ranges."""
    root, banks = tree(count)
    space = AddressSpace("memory", root)
    space.add_listener(MemoryListener())
    ram = banks[count // 2]
    return Machine(space, ram, ram.offset)


def change_rows(machines: dict[int, Machine]) -> Iterator[Row]:
    """Each kind of change among each number of ranges, against the same among `MEASURE`."""
    for title, change in CHANGES.items():
        base = partial(change, machines[MEASURE])
        for count, each in machines.items():
            yield Row(
                f"{title}, {count} ranges",
                partial(change, each),
                f"{MEASURE} ranges",
                base,
                items=2,
                calls=50,
                target=3 if count > MEASURE else None,
            )


def report_rendering(count: int) -> None:
    """What a tree takes that nobody has looked at yet, in seconds: the best of some rounds."""
    root, _ = tree(count)

    def follow() -> None:
        AddressSpace("memory", root).add_listener(MemoryListener())

    for title, work in {"rendered": partial(flatten, root), "and told": follow}.items():
        seconds = min(repeat(work, number=1, repeat=ROUNDS_OF_ALL))
        print(f"{f'{count} ranges from nothing, {title}':<44} {seconds:6.2f} s           ≤ 1 s")


# -- lookups ---------------------------------------------------------------------------------------
def lookup_rows(count: int) -> Iterator[Row]:
    """An address looked up among `count` mappings, against one bisection."""
    mappings = [DmaMapping(2 * n * PAGE, PAGE, (count - n) * 2 * PAGE) for n in range(count)]
    table = MappingTable()
    table.extend(mappings)
    spread = [mappings[(n * 7919) % count] for n in REPEAT]
    for title, look, addresses in (
        ("IOVA to address", table.translate, [each.iova + 8 for each in spread]),
        ("address to IOVA", table.find_iova, [each.vaddr + 8 for each in spread]),
    ):
        yield Row(
            f"{title}, among {count}",
            each_of(look, addresses),
            "bisect_right",
            each_of(partial(bisect_right, table.starts), addresses),
            items=len(REPEAT),
            calls=20,
        )


def each_of(work: Callable[[int], object], addresses: list[int]) -> Work:
    """`work` with one address after the other."""

    def run() -> None:
        for address in addresses:
            work(address)

    return run


def main() -> None:
    """Print the tables."""
    report(change_rows({count: machine(count) for count in COUNTS}))
    report_rendering(COUNTS[-1])
    report(lookup_rows(MAPPINGS))


if __name__ == "__main__":
    main()
