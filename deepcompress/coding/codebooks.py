"""A codebook as bytes, in the shortest of the forms that give its entries back bit for bit.

Format version 1 has but one form, the entries themselves. A float32 codebook may also be of entries that float16
holds exactly, or on a grid: multiples j * scale of one number, low <= j <= high, all but 0 or those that a mask names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_MULTIPLE = 1 << 15
_TRIED = 64  # the entry nearest to zero is taken for each of the multiples up to this one
_CLOSE = 1e-6  # relative: some units in the last place of float32


class Form(IntEnum):
    """How a codebook is stored; the numbers are part of the file format."""

    ENTRIES = 0
    HALVES = 1
    GRID = 2
    GRID_HALF = 3  # the scale is a float16
    GRID_BFLOAT = 4  # the scale is a bfloat16
    ROWS = 5  # no codebook, but whole numbers, and a scale for each row (`scales`)

    @property
    def is_grid(self) -> bool:
        """Whether the entries are multiples of one scale."""
        return Form.GRID <= self <= Form.GRID_BFLOAT

    @property
    def scale_bytes(self) -> int:
        """Bytes of a grid's scale."""
        return 4 if self is Form.GRID else 2


@dataclass(frozen=True)
class Layout:
    """What the header says of a codebook: its form, its number of entries, and a grid's lowest and highest multiple."""

    form: Form = Form.ENTRIES
    count: int = 0
    low: int = 0
    high: int = 0

    @property
    def multiples(self) -> int:
        """How many entries a grid has if it has no mask."""
        return self.high - self.low + (0 if self.low <= 0 <= self.high else 1)

    def size(self, itemsize: int) -> int:
        """Bytes of the codebook for elements of `itemsize` bytes."""
        if self.form is Form.ENTRIES:
            return self.count * itemsize
        if self.form is Form.HALVES:
            return self.count * 2
        mask = 0 if self.count == self.multiples else -(-(self.high - self.low + 1) // 8)
        return self.form.scale_bytes + mask


def pack(entries: Array, compact: bool) -> tuple[Layout, bytes]:
    """The shortest form of `entries` (bit patterns), and its bytes; only the plain form unless `compact`."""
    best = Layout(Form.ENTRIES, len(entries)), entries.tobytes()
    if not compact or entries.dtype != np.dtype("<u4") or not len(entries):
        return best
    values = entries.view("<f4")
    for found in (_halves(values), *grids(values)):
        # A grid also takes two or more bytes in the header.
        if found is not None and len(found[1]) + 2 * found[0].form.is_grid < len(best[1]) + 2 * best[0].form.is_grid:
            best = found
    return best


def unpack(layout: Layout, raw: memoryview, bits: np.dtype[Any]) -> Array:
    """The inverse: entries as bit patterns of type `bits`, distinct, and none of them zero.

    Raises:
        FormatError: the bytes are not such a codebook.
    """
    if layout.form is Form.ENTRIES:
        entries = np.frombuffer(raw, dtype=bits)
    elif layout.form is Form.HALVES:
        halves = np.frombuffer(raw, dtype="<f2")
        if not np.isfinite(halves).all():
            raise FormatError("a codebook of float16 entries holds one that is not finite")
        entries = halves.astype("<f4").view("<u4")
    else:
        entries = _from_grid(layout, raw)
    if len(np.unique(entries)) != len(entries) or not entries.all():
        raise FormatError("a codebook holds a value twice, or a zero")
    return entries


def order(entries: Array) -> Array:
    """The indices that sort entries (bit patterns of floats) from the most negative to the most positive."""
    sign = np.array(1 << (8 * entries.itemsize - 1), dtype=entries.dtype)
    ranks: Array = np.argsort(np.where(entries & sign, ~entries, entries | sign), kind="stable")
    return ranks


def negatives(entries: Array) -> int:
    """How many entries have their sign bit set."""
    return int(np.count_nonzero(entries >> (8 * entries.itemsize - 1)))


def _halves(values: Array) -> tuple[Layout, bytes] | None:
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all() or not np.array_equal(halves.astype("<f4").view("<u4"), values.view("<u4")):
        return None
    return Layout(Form.HALVES, len(values)), halves.tobytes()


def grids(values: Array) -> Iterator[tuple[Layout, bytes]]:
    """Grids on which all of `values` (float32, ascending, none zero) lie, as they would be stored.

    At most one for each type of the scale.
    """
    if not np.isfinite(values).all() or not values.all() or (np.diff(values) <= 0).any():
        return
    wide = values.astype(np.float64)
    nearest = np.abs(wide).min()
    found = set()
    for multiple in range(1, _TRIED + 1):
        steps = np.rint(wide / (nearest / multiple))
        if np.abs(steps).max() > MAX_MULTIPLE:
            return
        if (np.abs(steps * (nearest / multiple) - wide) <= _CLOSE * np.abs(wide)).all():
            for form, scale in _scales(wide, steps):
                if form not in found and _is_on(values, scale, steps):
                    found.add(form)
                    yield _grid(form, scale, steps.astype(np.int64))
        if found:
            return


def _scales(wide: Array, steps: Array) -> Iterator[tuple[Form, np.float32]]:
    """Scales near the one that fits best, those of two bytes first."""
    far = np.argmax(np.abs(steps))
    near = np.float32(wide[far] / steps[far])
    with np.errstate(over="ignore"):
        yield Form.GRID_HALF, np.float32(np.float16(near))
    for up in (0, 1 << 15):  # the bfloat16 below, and the nearest
        rounded = np.array([near]).view("<u4") + np.uint32(up) & np.uint32(0xFFFF0000)
        yield Form.GRID_BFLOAT, rounded.view("<f4")[0]
    below = above = near
    yield Form.GRID, near
    for _ in range(3):
        below, above = np.nextafter(below, np.float32(0)), np.nextafter(above, np.float32(np.inf))
        yield Form.GRID, below
        yield Form.GRID, above


def _is_on(values: Array, scale: np.float32, steps: Array) -> bool:
    return bool(np.isfinite(scale)) and np.array_equal(scale * steps.astype("<f4"), values)


def _grid(form: Form, scale: np.float32, steps: Array) -> tuple[Layout, bytes]:
    layout = Layout(form, len(steps), int(steps[0]), int(steps[-1]))
    stored = np.array([scale], dtype="<f4")
    if form is Form.GRID_HALF:
        stored = stored.astype("<f2")
    raw = stored.tobytes()[-form.scale_bytes :]  # a bfloat16 is the upper half of a float32
    if layout.count < layout.multiples:
        mask = np.zeros(layout.high - layout.low + 1, dtype=np.uint8)
        mask[steps - layout.low] = 1
        raw += np.packbits(mask).tobytes()
    return layout, raw


def scale_of(layout: Layout, raw: memoryview) -> np.float32:
    """The scale of a codebook that is stored as a grid."""
    stored = bytes(raw[: layout.form.scale_bytes])
    if layout.form is Form.GRID_HALF:
        stored = np.frombuffer(stored, dtype="<f2").astype("<f4").tobytes()
    return np.frombuffer(stored.rjust(4, b"\0"), dtype="<f4")[0]  # type: ignore[no-any-return]


def _from_grid(layout: Layout, raw: memoryview) -> Array:
    scale = scale_of(layout, raw)
    steps = np.arange(layout.low, layout.high + 1)
    mask = steps != 0
    if layout.count < layout.multiples:
        bits = np.unpackbits(np.frombuffer(raw[layout.form.scale_bytes :], dtype=np.uint8))
        if bits[len(steps) :].any() or bits[: len(steps)][~mask].any() or int(bits.sum()) != layout.count:
            raise FormatError("the mask of a codebook does not name its entries")
        mask = bits[: len(steps)] == 1
    with np.errstate(over="ignore", invalid="ignore"):
        values = (scale * steps[mask].astype("<f4")).astype("<f4")
    if not scale > 0 or not np.isfinite(values).all():
        raise FormatError("the scale of a codebook is not a positive number, or too large")
    entries: Array = values.view("<u4")
    return entries
