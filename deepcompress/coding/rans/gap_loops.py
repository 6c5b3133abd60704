"""The compiled loop that decodes a stream with gaps; its slow twin is `plain.decode_gaps`.

Lanes that are not at their ends stand side by side, in their order. What each does by itself is a loop over all of
them that the compiler makes vectors of (`stack`); only words are given out lane by lane. Vectors have 16 lanes: those
after the last one take part, but `here` is 0 for them, so that they stay where they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.np.numpy_support import carray

from deepcompress.coding.rans.arrays import Classes, Decoding, Meaning, Shape
from deepcompress.coding.rans.dense_loops import popped_bits, refilled, state_after
from deepcompress.coding.rans.shape import MAX_LANES, SPARE
from deepcompress.coding.rans.stack import signed, unsigned

Array = np.ndarray[Any, np.dtype[Any]]

N, S, U = np.int32, np.uint32, np.uint64


class Lanes(NamedTuple):
    """The lanes that are not at their ends, each with its number: `MAX_LANES` of everything.

    Attributes:
        states, steps, kinds: the state, how far the next gap goes, and the token of the weight; uint32.
        gaps, weights: where the slots of the next gap and of the next weight begin, uint32.
        left: elements that are left. All from here on are int32.
        columns, first, stop: the column in their order where a lane is, its first one, and the one behind its last.
        rows, own: the row where it is, and the class of that.
        here, follow: 1 for a lane, and if a weight follows the gap; 0 otherwise.
        pending: lanes whose weight has extra bits.
    """

    numbers: Array
    states: Array
    steps: Array
    kinds: Array
    gaps: Array
    weights: Array
    left: Array
    columns: Array
    first: Array
    stop: Array
    rows: Array
    own: Array
    here: Array
    follow: Array
    pending: Array


@njit(cache=True, nogil=True, inline="always")
def _deal(lanes, states, shape, of_rows):  # type: ignore[no-untyped-def]
    """Put all lanes that have elements where they begin, and say how many there are."""
    count = 0
    for lane in range(states.shape[0]):
        top, begin = lane // shape.across * shape.height, lane % shape.across * shape.width
        height, width = min(shape.height, shape.rows - top), min(shape.width, shape.columns - begin)
        if height > 0 and width > 0:
            lanes.numbers[count], lanes.states[count], lanes.left[count] = lane, states[lane], height * width
            lanes.columns[count], lanes.first[count], lanes.stop[count] = begin, begin, begin + width
            lanes.rows[count], lanes.own[count], lanes.here[count] = top, of_rows[top], 1
            count += 1
    return count


@njit(cache=True, nogil=True, inline="always")
def _leave(lanes, first, stop):  # type: ignore[no-untyped-def]
    """No lane is at these places: what stands there is for vectors."""
    for k in range(first, stop):
        lanes.here[k], lanes.states[k], lanes.left[k], lanes.stop[k] = 0, 65536, 1, 1
        lanes.columns[k], lanes.own[k] = 0, 0


@njit(cache=True, nogil=True, inline="always")
def _refill(states, count, words, at):  # type: ignore[no-untyped-def]
    """Give each state that is too small the next word; and say where the word after that is."""
    for k in range(count):
        x, at = refilled(np.int64(states[k]), words, at)
        states[k] = S(x)
    return at


@njit(cache=True, nogil=True, inline="always")
def _find_starts(lanes, wide, of_columns, starts, kind, found):  # type: ignore[no-untyped-def]
    """Where the slots begin by which the lanes decode a gap (kind 0) or a weight (1) now."""
    for k in range(wide):
        found[k] = starts[2 * (lanes.own[k] + of_columns[lanes.columns[k]]) + kind]


@njit(cache=True, nogil=True, inline="always")
def _pop_gaps(lanes, wide, slots, steps):  # type: ignore[no-untyped-def]
    """The token of the next gap of each lane."""
    for k in range(wide):
        entry = slots[lanes.gaps[k] + (lanes.states[k] & S(4095))]
        lanes.states[k] = state_after(entry, lanes.states[k])
        lanes.steps[k] = steps[entry & S(127)]


@njit(cache=True, nogil=True, inline="always")
def _skip(lanes, wide):  # type: ignore[no-untyped-def]
    """The extra bits, and the gap. Returns the fewest elements left, the longest gap, and if a lane left its row."""
    least, most, beyond = N(1), N(0), N(0)
    for k in range(wide):
        bits = lanes.steps[k] & S(15)
        rest = lanes.states[k] & S((S(1) << bits) - S(1))
        gap = N(S(lanes.steps[k] >> S(4)) + rest) if lanes.here[k] else N(0)
        lanes.states[k] = lanes.states[k] >> bits
        lanes.left[k] -= gap
        lanes.columns[k] += gap
        lanes.follow[k] = lanes.here[k] if lanes.left[k] > 0 and gap < 32767 else N(0)
        least, most = min(least, lanes.left[k]), max(most, gap)
        beyond |= N(lanes.columns[k] >= lanes.stop[k])
    return least, most, beyond


@njit(cache=True, nogil=True, inline="always")
def _turn(lanes, count, of_rows):  # type: ignore[no-untyped-def]
    """Lanes that are behind the end of a row go on in one below."""
    for k in range(count):
        if lanes.columns[k] >= lanes.stop[k]:
            width = lanes.stop[k] - lanes.first[k]
            down = (lanes.columns[k] - lanes.first[k]) // width
            lanes.columns[k] -= down * width
            lanes.rows[k] += down
            lanes.own[k] = of_rows[min(lanes.rows[k], of_rows.shape[0] - 1)]


@njit(cache=True, nogil=True, inline="always")
def _pop_weights(lanes, wide, slots):  # type: ignore[no-untyped-def]
    """The token of each weight that follows, and one element on: elements left, if any is behind a row, weights."""
    least, beyond, made = N(1), N(0), 0
    for k in range(wide):
        entry = slots[lanes.weights[k] + (lanes.states[k] & S(4095))]
        lanes.states[k] = state_after(entry, lanes.states[k]) if lanes.follow[k] else lanes.states[k]
        lanes.kinds[k] = entry & S(127)
        lanes.left[k] -= lanes.follow[k]
        lanes.columns[k] += lanes.follow[k]
        made += lanes.follow[k]
        least = min(least, lanes.left[k])
        beyond |= N(lanes.columns[k] >= lanes.stop[k])
    return least, beyond, made


@njit(cache=True, nogil=True, inline="always")
def _place(lanes, count, words, at, room, meaning):  # type: ignore[no-untyped-def]
    """The weights, as if they had no extra bits: where the next word is, how many have some, if one is refused."""
    out, columns, order = room
    waiting, wrong = 0, 0
    for k in range(count):
        if lanes.follow[k]:
            kind = U(lanes.kinds[k])
            x, at = refilled(np.int64(lanes.states[k]), words, at)
            lanes.states[k] = S(x)
            out[U(lanes.rows[k] * columns + order[lanes.columns[k] - 1])] = meaning.by_token[kind]
            wrong |= meaning.refused[kind]
            lanes.pending[waiting] = k
            waiting += int(kind > U(30))
    return at, waiting, wrong


@njit(cache=True, nogil=True, inline="always")
def _place_large(lanes, waiting, words, at, room, meaning, tables):  # type: ignore[no-untyped-def]
    """The weights with extra bits: where the next word is, and whether one is refused."""
    out, columns, order = room
    wrong, most = 0, U(meaning.values.shape[0] - 1)
    for index in range(waiting):
        k = lanes.pending[index]
        kind = U(lanes.kinds[k])
        rest, x, at = popped_bits(np.int64(lanes.states[k]), tables.extra[kind], words, at)
        lanes.states[k] = S(x)
        place = U(tables.bases[kind] + (-rest if kind & U(1) else rest) - meaning.lowest)
        wrong |= int(place > most)
        out[U(lanes.rows[k] * columns + order[lanes.columns[k] - 1])] = meaning.values[min(place, most)]
    return at, wrong


@njit(cache=True, nogil=True, inline="always")
def _close(lanes, count, states):  # type: ignore[no-untyped-def]
    """Take away the lanes that are at their ends, and say how many go on."""
    kept = 0
    for k in range(count):
        if lanes.left[k] == 0:
            states[lanes.numbers[k]] = lanes.states[k]
            continue
        lanes.numbers[kept], lanes.states[kept], lanes.left[kept] = lanes.numbers[k], lanes.states[k], lanes.left[k]
        lanes.columns[kept], lanes.first[kept], lanes.stop[kept] = lanes.columns[k], lanes.first[k], lanes.stop[k]
        lanes.rows[kept], lanes.own[kept] = lanes.rows[k], lanes.own[k]
        kept += 1
    _leave(lanes, kept, count)
    return kept


@njit(cache=True, nogil=True)
def decode_gaps(
    words: Array,
    states: Array,
    shape: Shape,
    classes: Classes,
    order: Array,
    tables: Decoding,
    meaning: Meaning,
    out: Array,
) -> tuple[np.int64, int]:
    """Decode a stream of gaps and weights.

    Args:
        words: the stream after its states, uint16, and `SPARE` more for each lane.
        states: of each lane, uint32; moved to where they end.
        shape, classes, tables, meaning: see `arrays`.
        order: of the columns.
        out: zeros, rows * columns, row by row, of the type of `meaning`.

    Returns:
        How many words were used, and how many weights there are. Words are -1 where gaps lead out of a lane, or a
        weight is zero or has no meaning, or there are too few.
    """
    of_rows, of_columns = classes
    apart, end = of_columns.min() < of_columns.max(), U(words.shape[0] - SPARE * states.shape[0])
    room = out, shape.columns, order
    lanes = Lanes(
        carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES),
        carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES), carray(unsigned(), MAX_LANES),
        carray(signed(), MAX_LANES), carray(signed(), MAX_LANES), carray(signed(), MAX_LANES),
        carray(signed(), MAX_LANES), carray(signed(), MAX_LANES), carray(signed(), MAX_LANES),
        carray(signed(), MAX_LANES), carray(signed(), MAX_LANES), carray(signed(), MAX_LANES),
    )  # fmt: skip
    _leave(lanes, 0, MAX_LANES)
    count = _deal(lanes, states, shape, of_rows)
    moved, at, weights = True, U(0), 0
    while count:
        wide = (count + 15) & ~15 if count > 8 else count  # few lanes do not make a vector
        if apart or moved:
            _find_starts(lanes, wide, of_columns, tables.starts, 0, lanes.gaps)
        _pop_gaps(lanes, wide, tables.slots, tables.steps)
        at = _refill(lanes.states, count, words, at)
        least, most, beyond = _skip(lanes, wide)
        if least < 0 or most > 32767:
            return np.int64(-1), weights
        at = _refill(lanes.states, count, words, at)
        if beyond:
            _turn(lanes, count, of_rows)
        if apart or moved or beyond:
            _find_starts(lanes, wide, of_columns, tables.starts, 1, lanes.weights)
        moved = beyond > 0
        least, beyond, made = _pop_weights(lanes, wide, tables.slots)
        at, waiting, wrong = _place(lanes, count, words, at, room, meaning)
        at, worse = _place_large(lanes, waiting, words, at, room, meaning, tables)
        if wrong or worse or at > end:
            return np.int64(-1), weights
        weights += made
        if beyond:
            _turn(lanes, count, of_rows)
        moved |= beyond > 0
        if least == 0:
            count, moved = _close(lanes, count, states), True
    return np.int64(at), weights
