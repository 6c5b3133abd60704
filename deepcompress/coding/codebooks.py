"""A codebook as bytes, in the shortest of the forms (`forms`) that give its values back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcompress.coding.forms import MAX_MULTIPLE, Form, SharedCodebook, StoredCodebook
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

_TRIED = 64  # the value nearest to zero is taken for each of the multiples up to this one
_CLOSE = 1e-6  # relative: some units in the last place of float32


def pack(codebook: Array, compact: bool) -> tuple[StoredCodebook, bytes]:
    """The shortest form of `codebook` (bit patterns), and its bytes; only the plain form unless `compact`."""
    best = StoredCodebook(Form.ENTRIES, len(codebook)), codebook.tobytes()
    if not compact or codebook.dtype != np.dtype("<u4") or not len(codebook):
        return best
    values = codebook.view("<f4")
    for found in (_halves(values), *grids(values)):
        # A grid also takes two or more bytes in the header.
        if found is not None and len(found[1]) + 2 * found[0].form.is_grid < len(best[1]) + 2 * best[0].form.is_grid:
            best = found
    return best


def stored(codebook: Array, owner: int | None, compact: bool) -> tuple[StoredCodebook | SharedCodebook, bytes]:
    """What a header says of `codebook`, and its bytes: none where the earlier tensor `owner` stores it."""
    return pack(codebook, compact) if owner is None else (SharedCodebook(owner, len(codebook)), b"")


def unpack(facts: StoredCodebook, raw: memoryview, bits: np.dtype[Any]) -> Array:
    """The inverse: a codebook as bit patterns of type `bits`, distinct, and none of them zero.

    Raises:
        FormatError: the bytes are not such a codebook.
    """
    if facts.form is Form.ENTRIES:
        codebook = np.frombuffer(raw, dtype=bits)
    elif facts.form is Form.HALVES:
        halves = np.frombuffer(raw, dtype="<f2")
        if not np.isfinite(halves).all():
            raise FormatError("a codebook of float16 values holds one that is not finite")
        codebook = halves.astype("<f4").view("<u4")
    else:
        codebook = _from_grid(facts, raw)
    if len(np.unique(codebook)) != len(codebook) or not codebook.all():
        raise FormatError("a codebook holds a value twice, or a zero")
    return codebook


def order(codebook: Array) -> Array:
    """The indices that sort a codebook (bit patterns of floats) from the most negative to the most positive."""
    sign = np.array(1 << (8 * codebook.itemsize - 1), dtype=codebook.dtype)
    ranks: Array = np.argsort(np.where(codebook & sign, ~codebook, codebook | sign), kind="stable")
    return ranks


def negatives(codebook: Array) -> int:
    """How many values of a codebook have their sign bit set."""
    return int(np.count_nonzero(codebook >> (8 * codebook.itemsize - 1)))


def _halves(values: Array) -> tuple[StoredCodebook, bytes] | None:
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all() or not np.array_equal(halves.astype("<f4").view("<u4"), values.view("<u4")):
        return None
    return StoredCodebook(Form.HALVES, len(values)), halves.tobytes()


def grids(values: Array) -> Iterator[tuple[StoredCodebook, bytes]]:
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


def _grid(form: Form, scale: np.float32, steps: Array) -> tuple[StoredCodebook, bytes]:
    facts = StoredCodebook(form, len(steps), int(steps[0]), int(steps[-1]))
    stored = np.array([scale], dtype="<f4")
    if form is Form.GRID_HALF:
        stored = stored.astype("<f2")
    raw = stored.tobytes()[-form.scale_bytes :]  # a bfloat16 is the upper half of a float32
    if facts.count < facts.multiples:
        mask = np.zeros(facts.high - facts.low + 1, dtype=np.uint8)
        mask[steps - facts.low] = 1
        raw += np.packbits(mask).tobytes()
    return facts, raw


def scale_of(facts: StoredCodebook, raw: memoryview) -> np.float32:
    """The scale of a codebook that is stored as a grid."""
    stored = bytes(raw[: facts.form.scale_bytes])
    if facts.form is Form.GRID_HALF:
        stored = np.frombuffer(stored, dtype="<f2").astype("<f4").tobytes()
    return np.frombuffer(stored.rjust(4, b"\0"), dtype="<f4")[0]  # type: ignore[no-any-return]


def _from_grid(facts: StoredCodebook, raw: memoryview) -> Array:
    scale = scale_of(facts, raw)
    steps = np.arange(facts.low, facts.high + 1)
    mask = steps != 0
    if facts.count < facts.multiples:
        bits = np.unpackbits(np.frombuffer(raw[facts.form.scale_bytes :], dtype=np.uint8))
        if bits[len(steps) :].any() or bits[: len(steps)][~mask].any() or int(bits.sum()) != facts.count:
            raise FormatError("the mask of a codebook does not name its values")
        mask = bits[: len(steps)] == 1
    with np.errstate(over="ignore", invalid="ignore"):
        values = (scale * steps[mask].astype("<f4")).astype("<f4")
    if not scale > 0 or not np.isfinite(values).all():
        raise FormatError("the scale of a codebook is not a positive number, or too large")
    codebook: Array = values.view("<u4")
    return codebook
