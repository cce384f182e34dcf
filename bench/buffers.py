"""What mapping a buffer costs, by the kind of its memory: ratios, within one run.

usage: python bench/buffers.py DEVICE   (0000:02:00.0, which is with vfio-pci; as root)

``whole`` is a buffer allocated, mapped, unmapped and freed; ``map`` and ``unmap`` are those steps
of it. The first kind of each size is the baseline: shared memory that is filled by the map.
`dma_alloc` without options is *huge pages, filled*. The kinds take turns, and the best counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from vfiocore import Framework
from vfiocore.errors import KernelError
from vfiocore.host import LinuxHost
from vfiocore.memory import DmaBuffer, DmaMapping
from vfiocore.memory.hugepages import default_pool_size
from vfiocore.session import Session

ROUNDS = 15
IOVA = 1 << 30
SIZES = (2 << 20, 32 << 20)
HOST = LinuxHost()
BACKENDS = {
    "legacy": "-device vfio-pci,id=card,host={}",
    "iommufd": "-object iommufd,id=iommufd0 -device vfio-pci,id=card,host={},iommufd=iommufd0",
}
KINDS: dict[str, dict[str, Any]] = {
    "shared, filled by the map": {"shared": True, "populate": False},
    "shared, filled": {"shared": True},
    "huge pages, filled by the map": {"populate": False},
    "huge pages, filled by one": {"threads": 1},
    "huge pages, filled": {},
    "from a pool": {"hugetlb": default_pool_size(HOST)},
}
Steps = dict[str, float]


def measure(session: Session, size: int, options: dict[str, Any]) -> Steps:
    """One buffer's life, in seconds by step."""
    start = time.perf_counter()
    buffer = DmaBuffer(HOST, size, **options)
    mapping = DmaMapping(IOVA, size, buffer.vaddr)
    made = time.perf_counter()
    session.space.map([mapping])
    mapped = time.perf_counter()
    session.space.unmap([mapping])
    unmapped = time.perf_counter()
    buffer.close()
    end = time.perf_counter()
    return {"whole": end - start, "map": mapped - made, "unmap": unmapped - mapped}


def best(session: Session, size: int) -> Iterator[tuple[str, Steps]]:
    """The kinds of memory, each with its fastest steps; without those that are not to be had."""
    found: dict[str, list[Steps]] = {}
    for _ in range(ROUNDS):
        for kind, options in KINDS.items():
            try:
                found.setdefault(kind, []).append(measure(session, size, options))
            except KernelError as error:
                print(f"  {kind}: {error.hint or error}", file=sys.stderr)
    for kind, rounds in found.items():
        if rounds:
            yield kind, {step: min(each[step] for each in rounds) for step in rounds[0]}


def main() -> None:
    """Measure every kind, size and backend."""
    (device,) = sys.argv[1:]
    for backend, words in BACKENDS.items():
        with Framework().open(words.format(device)) as session:
            for size in SIZES:
                print(f"{backend}, {size >> 20} MiB")
                base: Steps = {}
                for kind, steps in best(session, size):
                    base = base or steps
                    shown = (f"{n} {t * 1e3:8.3f} ms {base[n] / t:5.1f}x" for n, t in steps.items())
                    print(f"  {kind:30}", "  ".join(shown), flush=True)


if __name__ == "__main__":
    main()
