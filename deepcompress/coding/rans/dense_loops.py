"""The compiled loop that decodes a stream in which each element has a token; its slow twin is `plain.decode_dense`.

What each lane does by itself is a loop over all of them that the compiler makes vectors of (`stack`); only words are
given out lane by lane. Vectors have 16 lanes: those without an element take part, but `here` is 0 for them, so that
they keep their state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.np.numpy_support import carray

from deepcompress.coding.rans.arrays import Classes, Decoding, Expectation, Shape
from deepcompress.coding.rans.model import AIM_BOUNDS
from deepcompress.coding.rans.shape import MAX_LANES, SPARE
from deepcompress.coding.rans.stack import signed, unsigned

Array = np.ndarray[Any, np.dtype[Any]]

S, U = np.uint32, np.uint64

_FEW = 16  # lanes, fewer than which do not make vectors
_BLOCK = 64  # columns; a cache forgets rows that are a power of two apart if they are written one by one


@njit(cache=True, nogil=True, inline="always")
def refilled(x, words, at):  # type: ignore[no-untyped-def]
    """A state (int64), with the next word if it is too small; and where the word after that is."""
    word, low = np.int64(words[at]), x < 65536
    return (x << 16 | word) if low else x, at + U(low)


@njit(cache=True, nogil=True, inline="always")
def popped_bits(x, bits, words, at):  # type: ignore[no-untyped-def]
    """So many extra bits, the state after them, and where the next word is."""
    rest = x & ((1 << bits) - 1)
    x, at = refilled(x >> bits, words, at)
    return rest, x, at


@njit(cache=True, nogil=True, inline="always")
def state_after(entry, x):  # type: ignore[no-untyped-def]
    """The state (uint32) after the token of this slot, before it is refilled."""
    return S((entry >> S(19)) * (x >> S(12)) + (entry >> S(7) & S(4095)))


@njit(cache=True, nogil=True, inline="always")
def near_at(i, j, near, columns, found):  # type: ignore[no-untyped-def]
    """The neighbours of row i and column j of each lane, four of them: how far before, aims, sizes.

    One that is not in the lane has factors of 0, as has one that there is not: so none of them needs a branch.
    """
    for k in range(near.shape[0]):
        ready = i >= near[k, 0] and j >= near[k, 1]
        found[0, k] = near[k, 0] * columns + near[k, 1] if ready else 0
        found[1, k] = near[k, 2] if ready else 0
        found[2, k] = near[k, 3] if ready else 0
    before = np.uint64(found[0, 0]), np.uint64(found[0, 1]), np.uint64(found[0, 2]), np.uint64(found[0, 3])
    aims = found[1, 0], found[1, 1], found[1, 2], found[1, 3]
    return before, aims, (found[2, 0], found[2, 1], found[2, 2], found[2, 3])


@njit(cache=True, nogil=True, inline="always")
def aimed(values, here, around):  # type: ignore[no-untyped-def]
    """What the neighbours say of an element: the prediction and the expected magnitude, without the classes' part."""
    (b0, b1, b2, b3), (a0, a1, a2, a3), (s0, s1, s2, s3) = around
    v0, v1 = np.int64(values[here - b0]), np.int64(values[here - b1])
    v2, v3 = np.int64(values[here - b2]), np.int64(values[here - b3])
    return a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3, s0 * abs(v0) + s1 * abs(v1) + s2 * abs(v2) + s3 * abs(v3)


@njit(cache=True, nogil=True, inline="always")
def context_of(aim, own, size, scale_classes):  # type: ignore[no-untyped-def]
    """The context of an element with neighbours; `own` is in units of 1 / (32 `ONE`), the others of 1 / 32."""
    expected = (own + (size << 10)) >> 5
    far, (b0, b1, b2) = abs(aim) << 9, AIM_BOUNDS
    step = np.uint64(far >= b0 * expected) + np.uint64(far >= b1 * expected) + np.uint64(far >= b2 * expected)
    scale = scale_classes[np.uint64(min(expected >> 3, np.int64(scale_classes.shape[0] - 1)))]
    return (np.uint64(scale) << np.uint64(2)) + step


@njit(cache=True, nogil=True)
def corners_of(lanes: int, height: int, width: int, across: int) -> tuple[Array, Array]:
    """The first row and the first column of each lane."""
    numbers = np.arange(lanes)
    return numbers // across * height, numbers % across * width


@njit(cache=True, nogil=True, inline="always")
def alive_at(i, j, shape, top, left, alive):  # type: ignore[no-untyped-def]
    """How many lanes have an element in their row i and column j; `alive` becomes their numbers."""
    count = 0
    for lane in range(top.shape[0]):
        if top[lane] + i < shape.rows and left[lane] + j < shape.columns:
            alive[count] = lane
            count += 1
    return count


class Lanes(NamedTuple):
    """The lanes of a stream: `MAX_LANES` of everything but `block`.

    Attributes:
        states, kinds: the state and the token, uint32.
        starts: where the slots begin by which it is decoded, uint32.
        here: 1 for a lane that has an element now; int32, as all others.
        first, own: the first column, and the class of the row.
        pending: lanes whose integer has extra bits.
        block: the last `_BLOCK` integers of each lane, int16.
    """

    states: Array
    kinds: Array
    starts: Array
    here: Array
    first: Array
    own: Array
    pending: Array
    block: Array


@njit(cache=True, nogil=True, inline="always")
def _deal(lanes, states, left, columns):  # type: ignore[no-untyped-def]
    """Put the lanes where they begin."""
    for k in range(MAX_LANES):
        lanes.states[k], lanes.starts[k], lanes.first[k], lanes.own[k] = 65536, 0, 0, 0
    for k in range(states.shape[0]):
        lanes.states[k], lanes.first[k] = states[k], min(left[k], columns - 1)


@njit(cache=True, nogil=True, inline="always")
def _be_here(lanes, alive, count):  # type: ignore[no-untyped-def]
    """Let the lanes `alive`, and no others, have an element."""
    for k in range(MAX_LANES):
        lanes.here[k] = 0
    for index in range(count):
        lanes.here[alive[index]] = 1


@njit(cache=True, nogil=True, inline="always")
def _wide(alive, count):  # type: ignore[no-untyped-def]
    """Up to which lane vectors go, where there is one."""
    return (np.int64(alive[count - 1]) + 16) & ~15


@njit(cache=True, nogil=True, inline="always")
def _find_starts(lanes, alive, count, j, of_columns, starts):  # type: ignore[no-untyped-def]
    """Where the slots begin by what the classes tell of the next element of each lane."""
    for k in range(_wide(alive, count)):
        lanes.starts[k] = starts[lanes.own[k] + of_columns[min(lanes.first[k] + j, of_columns.shape[0] - 1)]]


@njit(cache=True, nogil=True, inline="always")
def _pop(lanes, alive, count, slots):  # type: ignore[no-untyped-def]
    """The next token of each lane, and the state after it, before it is refilled."""
    for k in range(_wide(alive, count)):
        entry = slots[lanes.starts[k] + (lanes.states[k] & S(4095))]
        lanes.states[k] = state_after(entry, lanes.states[k]) if lanes.here[k] else lanes.states[k]
        lanes.kinds[k] = entry & S(127)


@njit(cache=True, nogil=True, inline="always")
def _refill(lanes, alive, count, j, words, at, bases):  # type: ignore[no-untyped-def]
    """Words for the states that are too small, and the integers, as if they had no extra bits.

    Returns where the next word is, and how many have extra bits.
    """
    waiting = 0
    for index in range(count):
        lane = alive[index]
        kind = U(lanes.kinds[lane])
        x, at = refilled(np.int64(lanes.states[lane]), words, at)
        lanes.states[lane] = S(x)
        lanes.block[lane * U(_BLOCK) + j] = bases[kind]
        lanes.pending[waiting] = lane
        waiting += int(kind > U(30))
    return at, waiting


@njit(cache=True, nogil=True, inline="always")
def _add_bits(lanes, waiting, j, words, at, tables):  # type: ignore[no-untyped-def]
    """The extra bits of the integers that have some; and where the next word is."""
    for index in range(waiting):
        lane = U(lanes.pending[index])
        kind = U(lanes.kinds[lane])
        rest, x, at = popped_bits(np.int64(lanes.states[lane]), tables.extra[kind], words, at)
        lanes.states[lane] = S(x)
        value = tables.bases[kind] + (-rest if kind & U(1) else rest)
        lanes.block[lane * U(_BLOCK) + j] = value
    return at


@njit(cache=True, nogil=True, inline="always")
def _write(lanes, alive, count, corners, begin, stop, out):  # type: ignore[no-untyped-def]
    """The integers from one place in the block to another, to the elements from `begin` on of each lane."""
    for index in range(count):
        lane = alive[index]
        here = corners[lane] + begin
        for j in range(stop):
            out[here + U(j)] = lanes.block[lane * U(_BLOCK) + U(j)]


@njit(cache=True, nogil=True)
def _in_vectors(words: Array, states: Array, shape: Shape, classes: Classes, tables: Decoding, out: Array) -> np.int64:
    """`decode_dense` without neighbours, of many lanes."""
    columns, end = shape.columns, U(words.shape[0] - SPARE * states.shape[0])
    top, left = corners_of(states.shape[0], shape.height, shape.width, shape.across)
    corners, alive = (top * columns + left).astype(np.uint64), np.zeros(states.shape[0], dtype=np.uint64)
    apart = classes.of_columns.min() < classes.of_columns.max()
    lanes = Lanes(
        carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES),
        carray(signed(), MAX_LANES), carray(signed(), MAX_LANES), carray(signed(), MAX_LANES),
        carray(signed(), MAX_LANES), np.zeros(MAX_LANES * _BLOCK, dtype=np.int16),
    )  # fmt: skip
    _deal(lanes, states, left, columns)
    at, edge = U(0), columns - (columns - 1) // shape.width * shape.width  # of the last lane that has columns
    for i in range(shape.height):
        for k in range(states.shape[0]):
            lanes.own[k] = classes.of_rows[min(top[k] + i, shape.rows - 1)]
        for begin, stop in ((0, edge), (edge, shape.width)):
            count = alive_at(i, begin, shape, top, left, alive)
            _be_here(lanes, alive, count)
            for j in range(begin, stop if count else begin):
                place = (j - begin) % _BLOCK
                if apart or j == begin:
                    _find_starts(lanes, alive, count, j, classes.of_columns, tables.starts)
                _pop(lanes, alive, count, tables.slots)
                at, waiting = _refill(lanes, alive, count, U(place), words, at, tables.bases)
                at = _add_bits(lanes, waiting, U(place), words, at, tables)
                if at > end:
                    return np.int64(-1)
                if place == _BLOCK - 1 or j == stop - 1:
                    _write(lanes, alive, count, corners, U(i * columns + j - place), place + 1, out)
    for k in range(states.shape[0]):
        states[k] = lanes.states[k]
    return np.int64(at)


@njit(cache=True, nogil=True, inline="always")
def _popped(x, slots, start, words, at):  # type: ignore[no-untyped-def]
    """The next token of a state by the table whose slots begin at `start`, the state after it, and the next word."""
    entry = np.int64(slots[start + U(x & 4095)])
    x, at = refilled((entry >> 19) * (x >> 12) + (entry >> 7 & 4095), words, at)
    return entry & 127, x, at


@njit(cache=True, nogil=True)
def _lane_by_lane(
    words: Array, given: Array, shape: Shape, classes: Classes, expect: Expectation, tables: Decoding, out: Array
) -> np.int64:
    """`decode_dense` with neighbours, or of few lanes."""
    states = given.astype(np.int64)
    columns, lanes, at, count = shape.columns, states.shape[0], U(0), 0
    end = U(words.shape[0] - SPARE * lanes)
    near, scales, scale_classes, factor = expect
    of_rows, of_columns = classes
    slots, starts, _, bases, extra = tables
    top, left = corners_of(lanes, shape.height, shape.width, shape.across)
    corners, lefts = (top * columns + left).astype(np.uint64), left.astype(np.uint64)
    by_row, alive = np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=np.uint64)
    own, found = scales * factor[0], np.zeros((3, 4), dtype=np.int64)
    pending = np.zeros(lanes, dtype=np.int64)
    for i in range(shape.height):
        for k in range(lanes):
            by_row[k] = of_rows[min(top[k] + i, shape.rows - 1)]
        for j in range(shape.width):
            if j == 0 or left[-1] + j >= columns:
                count = alive_at(i, j, shape, top, left, alive)
            offset, column, waiting = U(i * columns + j), U(j), 0
            around = near_at(i, j, near, columns, found)
            for index in range(count):
                lane, aim = alive[index], 0
                here = corners[lane] + offset
                context = U(by_row[lane] + of_columns[lefts[lane] + column])
                if near.shape[0]:
                    aim, size = aimed(out, here, around)
                    context = context_of(aim, own[context], size, scale_classes)
                token, states[lane], at = _popped(states[lane], slots, U(starts[context]), words, at)
                base = bases[U(token)]
                out[here] = -base if aim < 0 else base
                pending[waiting] = np.int64(lane) << 9 | token << 1 | int(aim < 0)
                waiting += int(token > 30)
            for index in range(waiting):
                lane, kind = U(pending[index] >> 9), U(pending[index] >> 1 & 255)
                rest, states[lane], at = popped_bits(states[lane], extra[kind], words, at)
                value = bases[kind] + (-rest if kind & U(1) else rest)
                out[corners[lane] + offset] = -value if pending[index] & 1 else value
            if at > end:
                return np.int64(-1)
    given[:] = states
    return np.int64(at)


@njit(cache=True, nogil=True)
def decode_dense(
    words: Array, states: Array, shape: Shape, classes: Classes, expect: Expectation, tables: Decoding, out: Array
) -> np.int64:
    """Decode a stream in which each element has a token.

    Args:
        words: the stream after its states, uint16, and `SPARE` more for each lane.
        states: of each lane, uint32; moved to where they end.
        shape, classes, expect, tables: see `arrays`.
        out: int16, rows * columns, row by row.

    Returns:
        How many words were used, or -1 if there are not as many.
    """
    if expect.near.shape[0] or states.shape[0] < _FEW:
        return _lane_by_lane(words, states, shape, classes, expect, tables, out)
    return _in_vectors(words, states, shape, classes, tables, out)
