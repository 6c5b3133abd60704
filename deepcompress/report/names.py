"""Long names in little room: what tells them apart stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_LEAST = (3, 1)  # letters that a part of a name keeps; the second where the first is too many


def shorten(name: str, most: int) -> str:
    """A name of at most `most` characters. Its longest parts lose their ends first; numbers and the last part stay.

    ``encoder.layer.0.intermediate.dense.weight`` becomes ``encoder.layer.0.interme…dense.weight`` in 36.
    """
    for least in _LEAST:
        parts = name.split(".")
        while (excess := len(_joined(parts)) - most) > 0:
            letters = {place: len(part.rstrip("…")) for place, part in enumerate(parts[:-1]) if not part.isdigit()}
            place = max(letters, key=letters.__getitem__, default=0)
            if letters.get(place, 0) <= least:
                break
            parts[place] = parts[place].rstrip("…")[: max(least, letters[place] - excess)] + "…"
        else:
            return _joined(parts)
    return _elided(name, most)


def labels(names: Sequence[str], most: int) -> list[str]:
    """As `shorten`, of several names; those that would become equal keep their ends."""
    short = [shorten(name, most) for name in names]
    count = Counter(short)
    return [_elided(name, most) if count[label] > 1 else label for name, label in zip(names, short, strict=True)]


def _joined(parts: Sequence[str]) -> str:
    return ".".join(parts).replace("….", "…")


def _elided(name: str, most: int) -> str:
    start = most // 4
    return name if len(name) <= most else f"{name[:start]}…{name[start + 1 - most :]}"
