"""Long names in little room: what tells them apart stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_LEAST = 3  # letters that a part of a name keeps


def shorten(name: str, most: int) -> str:
    """A name of at most `most` characters. Its longest parts lose their ends first; numbers and the last part stay.

    ``encoder.layer.0.intermediate.dense.weight`` becomes ``enco….layer.0.int….dense.weight``.
    """
    parts = name.split(".")
    while len(".".join(parts)) > most:
        index = max(range(len(parts) - 1), key=lambda place: len(parts[place].rstrip("…")), default=0)
        letters, excess = parts[index].rstrip("…"), len(".".join(parts)) - most
        if len(parts) == 1 or len(letters) <= _LEAST + 1:
            return _elided(name, most)
        parts[index] = letters[: max(_LEAST, len(letters) - excess - 1)] + "…"
    return ".".join(parts)


def labels(names: Sequence[str], most: int) -> list[str]:
    """As `shorten`, of several names; those that would become equal keep their ends."""
    short = [shorten(name, most) for name in names]
    count = Counter(short)
    return [_elided(name, most) if count[label] > 1 else label for name, label in zip(names, short, strict=True)]


def _elided(name: str, most: int) -> str:
    start = most // 4
    return name if len(name) <= most else f"{name[:start]}…{name[start + 1 - most :]}"
