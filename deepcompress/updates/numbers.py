"""Whole numbers with a step for each row, given old values and old scales: docs/update-format.md, section 4.

They are told as weights that share values: a number is the symbol that it would have if all numbers from the lowest to
the highest were a codebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from deepcompress.coding import scales
from deepcompress.coding.bits import Reader
from deepcompress.coding.forms import RowScales
from deepcompress.coding.layouts.ranked import Multiples
from deepcompress.coding.tensors import TensorInfo
from deepcompress.errors import FormatError
from deepcompress.updates.differences import Coders

Array = np.ndarray[Any, np.dtype[Any]]

MOST = (1 << 15) - 1  # symbols of an int16 beside that of zero
_CHUNK = 1 << 18  # elements that are made doubles at once


@dataclass(frozen=True)
class Steps:
    """What the numbers of a tensor are multiplied by.

    Attributes:
        low, high: the lowest and the highest number, or 0.
        of_rows: the step of each row, float32.
    """

    low: int
    high: int
    of_rows: Array

    @property
    def entries(self) -> int:
        """How many numbers there are beside 0."""
        return self.high - self.low

    def symbols(self, values: Array) -> Array:
        """The symbols (flat, int16) of the numbers whose multiples are nearest to values (float32).

        Of values that are such multiples, these are their numbers: a product is rounded by 2^-24 of it at most.
        """
        rows = values.reshape(len(self.of_rows), -1)
        found = np.empty(rows.shape, dtype=np.int16)
        count = max(1, _CHUNK // rows.shape[1])
        for start, first in product(range(0, rows.shape[0], count), range(0, rows.shape[1], _CHUNK)):
            part = np.s_[start : start + count, first : first + _CHUNK]
            steps = self.of_rows[start : start + count, None].astype(np.float64)
            with np.errstate(invalid="ignore"):  # signalling NaNs
                numbers = np.rint(rows[part].astype(np.float64) / steps)
            held = np.clip(np.nan_to_num(numbers, nan=0.0), self.low, self.high).astype(np.int64)
            found[part] = np.where(held == 0, 0, held - self.low + (held < 0))
        return found.reshape(-1)


def is_told(scales: RowScales) -> bool:
    """Whether numbers with these scales are few enough."""
    return max(scales.high, 0) - min(scales.low, 0) <= MOST


def steps_of(info: TensorInfo, raw: bytes) -> Steps:
    """The steps of a tensor whose scales have these bytes.

    Raises:
        FormatError: they are no such scales, or the numbers are not from -32767 to 32767, or too many.
    """
    layout = info.layout
    assert isinstance(layout, Multiples)
    layout.check(info)
    low, high = layout.scales.low, layout.scales.high
    if not is_told(layout.scales):
        raise FormatError(f"numbers from {low} to {high} are too many to be told by old ones")
    return Steps(min(low, 0), max(high, 0), scales.unpack(memoryview(raw), info.shape[0], max(-low, high)))


def tell_scales(raw: bytes, old: bytes, rows: tuple[int, int], coders: Coders) -> bytes | None:
    """The bytes by which scales are told by old ones, of so many rows each; None if they cannot be."""
    if rows[0] != rows[1]:
        return None
    scale, exponents = scales.parts(memoryview(raw), rows[0])
    if scales.pack(scale, exponents) != raw:
        return None
    return raw[: scales.SCALE_BYTES] + coders.encode(exponents, scales.parts(memoryview(old), rows[1])[1])


def read_scales(told: bytes, old: bytes, rows: tuple[int, int], coders: Coders) -> bytes:
    """The inverse.

    Raises:
        FormatError: these are not such bytes.
    """
    if rows[0] != rows[1]:
        raise FormatError(f"scales of {rows[0]} rows cannot be told by those of {rows[1]}")
    reader = Reader(told, "scales")
    scale = np.frombuffer(reader.take(scales.SCALE_BYTES, "scale"), dtype="<f4")[0]
    exponents = coders.of(1).decode(reader, scales.parts(memoryview(old), rows[1])[1])
    reader.end()
    return scales.pack(scale, exponents)
