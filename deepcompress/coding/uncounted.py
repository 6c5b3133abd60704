"""The option of numba with which compiled functions count no references to the arrays that they are given."""

from __future__ import annotations

from typing import Any

from numba import njit


def _options() -> dict[str, Any]:
    """`_nrt` is not part of numba's public interface: where a version does not know it, functions are only slower."""
    options: dict[str, Any] = {"_nrt": False}
    try:
        njit(**options)(lambda: 0)
    except KeyError:
        return {}
    return options


#: For functions that make no arrays. Counting takes a third to two thirds of the time of those that get many.
UNCOUNTED = _options()
