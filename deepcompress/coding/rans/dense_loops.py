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
from deepcompress.coding.rans.shape import MAX_LANES, SPARE
from deepcompress.coding.rans.stack import signed, unsigned

Array = np.ndarray[Any, np.dtype[Any]]

S, U = np.uint32, np.uint64

_BLOCK = 64  # columns; a cache forgets rows that are a power of two apart if they are written one by one


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
    far = abs(aim) << 9
    step = np.uint64(far >= 3 * expected) + np.uint64(far >= 10 * expected) + np.uint64(far >= 19 * expected)
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
        here, turned: 1 for a lane that has an element now, and where the sign of that is turned; int32, as all others.
        first, own: the first column, and the class of the row.
        pending: lanes whose integer has extra bits.
        block: the last `_BLOCK` integers of each lane, int16.
    """

    states: Array
    kinds: Array
    starts: Array
    here: Array
    turned: Array
    first: Array
    own: Array
    pending: Array
    block: Array


@njit(cache=True, nogil=True, inline="always")
def _deal(lanes, states, left, columns):  # type: ignore[no-untyped-def]
    """Put the lanes where they begin."""
    for k in range(MAX_LANES):
        lanes.states[k], lanes.starts[k], lanes.turned[k], lanes.first[k], lanes.own[k] = 65536, 0, 0, 0, 0
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
def _expect(lanes, alive, count, j, here, around, of_columns, starts, out):  # type: ignore[no-untyped-def]
    """Where the slots begin by what neighbours and classes tell of the next element of each lane."""
    corners, offset = here
    near, expected, scale_classes = around
    for index in range(count):
        lane = alive[index]
        aim, size = aimed(out, corners[lane] + offset, near)
        own = expected[U(lanes.own[lane] + of_columns[U(lanes.first[lane] + j)])]
        lanes.starts[lane] = starts[context_of(aim, own, size, scale_classes)]
        lanes.turned[lane] = np.int32(aim < 0)


@njit(cache=True, nogil=True, inline="always")
def _find_starts(lanes, alive, count, j, of_columns, starts):  # type: ignore[no-untyped-def]
    """The same by the classes alone."""
    for k in range(_wide(alive, count)):
        lanes.starts[k] = starts[lanes.own[k] + of_columns[min(lanes.first[k] + j, of_columns.shape[0] - 1)]]


@njit(cache=True, nogil=True, inline="always")
def _pop(lanes, alive, count, slots):  # type: ignore[no-untyped-def]
    """The next token of each lane, and the state after it, before it is refilled."""
    for k in range(_wide(alive, count)):
        entry = slots[lanes.starts[k] + (lanes.states[k] & S(4095))]
        after = S((entry >> S(19)) * (lanes.states[k] >> S(12)) + (entry >> S(7) & S(4095)))
        lanes.states[k] = after if lanes.here[k] else lanes.states[k]
        lanes.kinds[k] = entry & S(127)


@njit(cache=True, nogil=True, inline="always")
def _refill(lanes, alive, count, j, words, at, bases):  # type: ignore[no-untyped-def]
    """Words for the states that are too small, and the integers, as if they had no extra bits.

    Returns where the next word is, and how many have extra bits.
    """
    waiting = 0
    for index in range(count):
        lane = alive[index]
        x, word, kind = np.int64(lanes.states[lane]), np.int64(words[at]), U(lanes.kinds[lane])
        low = x < 65536
        lanes.states[lane] = S(x << 16 | word if low else x)
        at += U(low)
        lanes.block[lane * U(_BLOCK) + j] = -bases[kind] if lanes.turned[lane] else bases[kind]
        lanes.pending[waiting] = lane
        waiting += int(kind > U(30))
    return at, waiting


@njit(cache=True, nogil=True, inline="always")
def _add_bits(lanes, waiting, j, words, at, tables):  # type: ignore[no-untyped-def]
    """The extra bits of the integers that have some; and where the next word is."""
    for index in range(waiting):
        lane = U(lanes.pending[index])
        x, word, kind = np.int64(lanes.states[lane]), np.int64(words[at]), U(lanes.kinds[lane])
        bits = tables.extra[kind]
        rest, x = x & ((1 << bits) - 1), x >> bits
        low = x < 65536
        lanes.states[lane] = S(x << 16 | word if low else x)
        at += U(low)
        value = tables.bases[kind] + (-rest if kind & U(1) else rest)
        lanes.block[lane * U(_BLOCK) + j] = -value if lanes.turned[lane] else value
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
    columns, end = shape.columns, U(words.shape[0] - SPARE * states.shape[0])
    near, scales, scale_classes, factor = expect
    top, left = corners_of(states.shape[0], shape.height, shape.width, shape.across)
    corners, alive = (top * columns + left).astype(np.uint64), np.zeros(states.shape[0], dtype=np.uint64)
    expected, found = scales * factor[0], np.zeros((3, 4), dtype=np.int64)
    apart = classes.of_columns.min() < classes.of_columns.max()
    lanes = Lanes(
        carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES),
        carray(signed(), MAX_LANES), carray(signed(), MAX_LANES), carray(signed(), MAX_LANES),
        carray(signed(), MAX_LANES), carray(signed(), MAX_LANES), np.zeros(MAX_LANES * _BLOCK, dtype=np.int16),
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
                place = 0 if near.shape[0] else (j - begin) % _BLOCK
                if near.shape[0]:
                    around = near_at(i, j, near, columns, found), expected, scale_classes
                    here = corners, U(i * columns + j)
                    _expect(lanes, alive, count, j, here, around, classes.of_columns, tables.starts, out)
                elif apart or j == begin:
                    _find_starts(lanes, alive, count, j, classes.of_columns, tables.starts)
                _pop(lanes, alive, count, tables.slots)
                at, waiting = _refill(lanes, alive, count, U(place), words, at, tables.bases)
                at = _add_bits(lanes, waiting, U(place), words, at, tables)
                if at > end:
                    return np.int64(-1)
                if near.shape[0] or place == _BLOCK - 1 or j == stop - 1:
                    _write(lanes, alive, count, corners, U(i * columns + j - place), place + 1, out)
    for k in range(states.shape[0]):
        states[k] = lanes.states[k]
    return np.int64(at)
