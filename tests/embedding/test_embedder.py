from __future__ import annotations

from . import embedder


def test_what_the_type_checkers_are_told_is_what_happens() -> None:
    embedder.main()
