"""Finding mappings by process address."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from vfiocore.memory.mapping import DmaMapping


class VaddrIndex:
    """Mappings by `vaddr`, where, unlike IOVAs, they may overlap: one memory, several IOVAs.

    A list of ``(vaddr, iova)`` for each binary order of magnitude of the size. Inside one list
    only those that begin less than twice that magnitude below an address can hold it, so one
    huge mapping does not make the search among many small ones long.
    """

    def __init__(self, mappings: Iterable[DmaMapping]) -> None:
        self._classes: dict[int, list[tuple[int, int]]] = {}
        self._at: dict[int, DmaMapping] = {}
        for mapping in mappings:
            self._at[mapping.iova] = mapping
            key = mapping.size.bit_length()
            self._classes.setdefault(key, []).append((mapping.vaddr, mapping.iova))
        for starts in self._classes.values():
            starts.sort()

    def add(self, mapping: DmaMapping) -> None:
        """Enter a mapping; its IOVA is not in the index yet."""
        self._at[mapping.iova] = mapping
        starts = self._classes.setdefault(mapping.size.bit_length(), [])
        insort(starts, (mapping.vaddr, mapping.iova))

    def remove(self, mapping: DmaMapping) -> None:
        """Take out a mapping that is in the index."""
        del self._at[mapping.iova]
        key = mapping.size.bit_length()
        starts = self._classes[key]
        del starts[bisect_left(starts, (mapping.vaddr, mapping.iova))]
        if not starts:
            del self._classes[key]

    def find(self, vaddr: int) -> DmaMapping | None:
        """A mapping that holds `vaddr`."""
        for bits, starts in self._classes.items():
            beyond = vaddr - (1 << bits)
            # (vaddr + 1,) sorts after every (vaddr, iova) and before any higher address.
            for index in range(bisect_right(starts, (vaddr + 1,)) - 1, -1, -1):
                start, iova = starts[index]
                if start <= beyond:
                    break
                mapping = self._at[iova]
                if vaddr < start + mapping.size:
                    return mapping
        return None
