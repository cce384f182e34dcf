"""Wording shared by the messages: near misses, quoting, lists."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SHOWN_LENGTH = 60


def near_miss(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; ``_`` for ``-`` and case are never far."""
    by_form = {_form(name): name for name in known}
    found = get_close_matches(_form(word), by_form, n=1)
    return by_form[found[0]] if found else None


def suggestion(word: str, known: Iterable[str], what: str) -> str:
    """A hint: the near miss if there is one, and all that is allowed."""
    names = sorted(known)
    allowed = f"{what}: {', '.join(names)}" if names else f"{what}: none"
    meant = near_miss(word, names)
    return allowed if meant is None else f'did you mean "{meant}"? {allowed}'


def shown(value: object) -> str:
    """A value as a message quotes it: short, strings in double quotes, never failing."""
    if isinstance(value, str):
        text = value if value.isprintable() else repr(value)[1:-1]
        return f'"{_cut(text)}"'
    try:
        return _cut(repr(value))
    except ValueError:  # CPython refuses to print integers of more than 4300 digits
        return f"a huge {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."


def _form(word: str) -> str:
    return word.lower().replace("_", "-")
