"""Integers on a grid with a scale for each row, as calibrated quantizers make them (docs/format.md, section 17).

A row is what one index of the first dimension holds. Its step is scale * 2^(e / 4) with a small exponent e of its own,
and its elements are integer * step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding import planes
from deepcompress.coding.bits import Reader
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

#: 2^0, 2^(1/4), 2^(1/2) and 2^(3/4), as the bits of float32: the same on every machine.
QUARTERS = np.array([0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD], dtype="<u4").view("<f4")
MAX_EXPONENT = 255
SCALE_BYTES = 4
_SMALLEST = np.float32(2.0**-126)  # that is not subnormal, so that no weight becomes 0


def fit(steps: Array) -> tuple[np.float32, Array]:
    """The scale and the exponents (uint8) whose steps are nearest to `steps`, positive, one for each row.

    Rows of a step more than 2^63 times the smallest get the largest there is.
    """
    wide = np.asarray(steps, dtype=np.float64)
    if wide.ndim != 1 or not len(wide) or not (np.isfinite(wide).all() and (wide > 0).all()):
        raise ValueError("the steps of rows must be positive numbers, one for each row")
    scale = np.float32(wide.min())
    exponents = np.rint(4 * np.log2(wide / float(scale)))
    return scale, np.clip(exponents, 0, MAX_EXPONENT).astype(np.uint8)


def steps(scale: np.float32, exponents: Array) -> Array:
    """The step of each row, float32: the scale times a quarter, rounded, times a power of two."""
    numbers = exponents.astype(np.int32)
    with np.errstate(over="ignore", under="ignore"):
        found: Array = np.ldexp((np.float32(scale) * QUARTERS[numbers & 3]).astype("<f4"), numbers >> 2).astype("<f4")
    return found


def values(integers: Array, steps_of_rows: Array) -> Array:
    """integer * step, float32, rounded once; `integers` of shape (rows, ...)."""
    shaped = steps_of_rows.reshape(-1, *[1] * (integers.ndim - 1))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # 0 times an infinite step
        found: Array = (integers.astype("<f4") * shaped).astype("<f4")
    return found


def pack(scale: np.float32, exponents: Array) -> bytes:
    """The scale, and the exponents of all rows as one byte plane."""
    return np.array([scale], dtype="<f4").tobytes() + planes.encode(exponents.astype(np.uint8).reshape(-1, 1))


def parts(raw: memoryview, rows: int) -> tuple[np.float32, Array]:
    """What `pack` was given, not checked: the scale, and the exponent of each of so many rows (uint8).

    Raises:
        FormatError: the bytes are not so many exponents.
    """
    reader = Reader(raw, "scales of rows")
    scale = np.frombuffer(reader.take(SCALE_BYTES, "scale"), dtype="<f4")[0]
    exponents = planes.decode(reader, rows, 1).reshape(-1)
    reader.end()
    return scale, exponents


def unpack(raw: memoryview, rows: int, largest: int) -> Array:
    """The step of each row, float32.

    Args:
        raw: the bytes, all of them.
        rows: how many there are.
        largest: magnitude of the integers; its product with each step must be finite.

    Raises:
        FormatError: the bytes are not such scales.
    """
    scale, exponents = parts(raw, rows)
    found = steps(scale, exponents)
    if not scale >= _SMALLEST or not np.isfinite(values(np.full(rows, largest), found)).all():
        raise FormatError("the scale of a row is not a number from 2^-126 on, or too large")
    return found
