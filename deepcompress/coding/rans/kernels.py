"""The loops of the rANS coder, compiled by numba; `plain` has the slow twins, which give the very same result.

`arrays` says what comes together. All arrays of integers are int64 unless another type is named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

from deepcompress.coding.rans.arrays import Classes, Coding, Decoding, Expectation, Shape
from deepcompress.coding.uncounted import UNCOUNTED

Array = np.ndarray[Any, np.dtype[Any]]
Loop = TypeVar("Loop", bound=Callable[..., Any])


def _uncounted(loop: Loop) -> Loop:
    """Compile what makes no arrays: references to those that it is given are not counted."""
    compiled: Loop = njit(cache=True, nogil=True, **UNCOUNTED)(loop)
    return compiled


@njit(cache=True, nogil=True, inline="always")
def _refilled(x, words, at):  # type: ignore[no-untyped-def]
    """A state with the next word, if it needs one, and where the word after that is."""
    word = np.int64(words[min(at, np.uint64(words.shape[0] - 1))])
    return (x << 16 | word) if x < 65536 else x, at + np.uint64(x < 65536)


@njit(cache=True, nogil=True, inline="always")
def _popped(x, slots, start, words, at):  # type: ignore[no-untyped-def]
    """The next token of a state by the table whose slots begin at `start`, the state after it, and the next word."""
    entry = np.int64(slots[start + np.uint64(x & 4095)])
    x, at = _refilled((((entry >> 12) & 4095) + 1) * (x >> 12) + (entry & 4095), words, at)
    return entry >> 24, x, at


@njit(cache=True, nogil=True, inline="always")
def _popped_bits(x, bits, words, at):  # type: ignore[no-untyped-def]
    """The next extra bits of a state, the state after them, and where the next word is."""
    rest = x & ((1 << bits) - 1)
    x, at = _refilled(x >> bits, words, at)
    return rest, x, at


@njit(cache=True, nogil=True, inline="always")
def _scale(total):  # type: ignore[no-untyped-def]
    """The class of what is expected of an element without neighbours, from the classes of its row and its column."""
    return np.uint64(min(max(total, 0), 31))


@njit(cache=True, nogil=True, inline="always")
def _near_at(i, j, near, columns, found):  # type: ignore[no-untyped-def]
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
def _aimed(values, here, around):  # type: ignore[no-untyped-def]
    """What the neighbours say of an element: the prediction and the expected magnitude, without the classes' part."""
    (b0, b1, b2, b3), (a0, a1, a2, a3), (s0, s1, s2, s3) = around
    v0, v1 = np.int64(values[here - b0]), np.int64(values[here - b1])
    v2, v3 = np.int64(values[here - b2]), np.int64(values[here - b3])
    return a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3, s0 * abs(v0) + s1 * abs(v1) + s2 * abs(v2) + s3 * abs(v3)


@njit(cache=True, nogil=True, inline="always")
def _context(aim, own, size, scale_classes):  # type: ignore[no-untyped-def]
    """The context of an element with neighbours; `own` is in units of 1 / (32 `ONE`), the others of 1 / 32."""
    expected = (own + (size << 10)) >> 5
    far = abs(aim) << 9
    step = np.uint64(far >= 3 * expected) + np.uint64(far >= 10 * expected) + np.uint64(far >= 19 * expected)
    scale = scale_classes[np.uint64(min(expected >> 3, np.int64(scale_classes.shape[0] - 1)))]
    return (np.uint64(scale) << np.uint64(2)) + step


@njit(cache=True, nogil=True)
def _corners(lanes: int, height: int, width: int, across: int) -> tuple[Array, Array]:
    """The first row and the first column of each lane."""
    numbers = np.arange(lanes)
    return numbers // across * height, numbers % across * width


@njit(cache=True, nogil=True, inline="always")
def _alive(i, j, shape, top, left, alive):  # type: ignore[no-untyped-def]
    """How many lanes have an element in their row i and column j; `alive` becomes their numbers."""
    count = 0
    for lane in range(top.shape[0]):
        if top[lane] + i < shape.rows and left[lane] + j < shape.columns:
            alive[count] = lane
            count += 1
    return count


@njit(cache=True, nogil=True)
def decode_dense(
    words: Array, states: Array, shape: Shape, classes: Classes, expect: Expectation, tables: Decoding, out: Array
) -> int:
    """Decode a stream in which each element has a token.

    Args:
        words: the stream after its states, uint16, with at least one more.
        states: of each lane; moved to where they end.
        shape, classes, expect, tables: see `arrays`.
        out: int16, rows * columns, row by row.

    Returns:
        How many words were used; more than there are if the stream is damaged.
    """
    columns, lanes, at, count = shape.columns, states.shape[0], np.uint64(0), 0
    near, scales, scale_classes, factor = expect
    of_rows, of_columns = classes
    slots, starts, bases, extra = tables
    top, left = _corners(lanes, shape.height, shape.width, shape.across)
    corners, lefts = (top * columns + left).astype(np.uint64), left.astype(np.uint64)
    by_row, alive = np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=np.uint64)
    own, found = scales * factor[0], np.zeros((3, 4), dtype=np.int64)
    pending = np.zeros(lanes, dtype=np.int64)
    for i in range(shape.height):
        for lane in range(lanes):
            by_row[lane] = of_rows[min(top[lane] + i, shape.rows - 1)]
        for j in range(shape.width):
            if j == 0 or left[-1] + j >= columns:
                count = _alive(i, j, shape, top, left, alive)
            offset, column, waiting = np.uint64(i * columns + j), np.uint64(j), 0
            if near.shape[0]:
                around = _near_at(i, j, near, columns, found)
                for index in range(count):
                    lane = alive[index]
                    here = corners[lane] + offset
                    aim, size = _aimed(out, here, around)
                    scale = _scale(by_row[lane] + of_columns[lefts[lane] + column])
                    context = _context(aim, own[scale], size, scale_classes)
                    token, states[lane], at = _popped(states[lane], slots, starts[context], words, at)
                    base = bases[np.uint64(token)]
                    out[here] = -base if aim < 0 else base
                    if token > 30:
                        pending[waiting] = np.int64(lane) << 9 | token << 1 | int(aim < 0)
                        waiting += 1
            else:
                for index in range(count):
                    lane = alive[index]
                    scale = _scale(by_row[lane] + of_columns[lefts[lane] + column])
                    token, states[lane], at = _popped(states[lane], slots, starts[scale], words, at)
                    out[corners[lane] + offset] = bases[np.uint64(token)]
                    if token > 30:
                        pending[waiting] = np.int64(lane) << 9 | token << 1
                        waiting += 1
            for index in range(waiting):
                lane, token = pending[index] >> 9, pending[index] >> 1 & 255
                rest, states[lane], at = _popped_bits(states[lane], extra[token], words, at)
                value = bases[token] + (-rest if bases[token] < 0 else rest)
                out[corners[lane] + offset] = -value if pending[index] & 1 else value
    return int(at)


@njit(cache=True, nogil=True)
def find_contexts(
    values: Array,
    shape: Shape,
    classes: Classes,
    expect: Expectation,
    magnitudes: Array,
    found: Array,
    counts: Array,
) -> None:
    """The context of each element, times 2, plus 1 where the sign is turned: `found`, uint8, as `values`, int16.

    `magnitudes` is as in `Coding`. `counts` is how often each token comes in each context; shape (contexts, tokens).
    """
    rows, columns, height, width, _ = shape
    near, scales, scale_classes, factor = expect
    of_rows, of_columns = classes
    own, room = scales * factor[0], np.zeros((3, 4), dtype=np.int64)
    for row in range(rows):
        first = np.uint64(row * columns)
        for left in range(0, columns, width):
            for column in range(left, min(left + width, columns)):
                here = first + np.uint64(column)
                context, aim = _scale(of_rows[row] + of_columns[column]), 0
                if near.shape[0]:
                    around = _near_at(row % height, column - left, near, columns, room)
                    aim, size = _aimed(values, here, around)
                    context = _context(aim, own[context], size, scale_classes)
                value = -np.int64(values[here]) if aim < 0 else np.int64(values[here])
                token = 2 * np.int64(magnitudes[np.uint64(abs(value))]) - int(value < 0)
                counts[context, np.uint64(token)] += 1
                found[here] = 2 * np.int64(context) + int(aim < 0)


@njit(cache=True, nogil=True, inline="always")
def _pushed(x, share, begin, words, at):  # type: ignore[no-untyped-def]
    """The state before a token, and where the last word is that was made."""
    if x >= np.int64(share) << 20:
        at -= 1
        words[at] = x & 65535
        x >>= 16
    quotient = np.uint32(x) // np.uint32(share)
    rest = np.uint32(x) - quotient * np.uint32(share)
    return (np.int64(quotient) << 12) + np.int64(rest) + begin, at


@njit(cache=True, nogil=True, inline="always")
def _pushed_bits(x, bits, rest, words, at):  # type: ignore[no-untyped-def]
    """The state before so many extra bits, and where the last word is that was made."""
    if x >= 1 << 32 - bits:
        at -= 1
        words[at] = x & 65535
        x >>= 16
    return x << bits | rest, at


@njit(cache=True, nogil=True)
def encode_dense(values: Array, found: Array, shape: Shape, tables: Coding, states: Array, words: Array) -> int:
    """Encode a stream in which each element has a token, from its end to its start.

    Args:
        values: int16, rows * columns, row by row.
        found: of `find_contexts`.
        shape, tables: see `arrays`.
        states: of each lane, 65536; moved to those that the decoder starts with.
        words: uint16, room for two an element, filled from the end.

    Returns:
        Where in `words` the first one is.
    """
    begins, shares, contexts, magnitudes, bases, extra = tables
    columns, lanes, at, count = shape.columns, states.shape[0], words.shape[0], 0
    top, left = _corners(lanes, shape.height, shape.width, shape.across)
    corners, alive = (top * columns + left).astype(np.uint64), np.zeros(lanes, dtype=np.uint64)
    tokens = np.zeros(lanes, dtype=np.uint64)
    for i in range(shape.height - 1, -1, -1):
        for j in range(shape.width - 1, -1, -1):
            if j == shape.width - 1 or left[-1] + j + 1 >= columns:
                count = _alive(i, j, shape, top, left, alive)
            offset = np.uint64(i * columns + j)
            for index in range(count - 1, -1, -1):
                lane = alive[index]
                here = corners[lane] + offset
                value = -np.int64(values[here]) if found[here] & 1 else np.int64(values[here])
                token = np.uint64(2 * np.int64(magnitudes[np.uint64(abs(value))]) - int(value < 0))
                tokens[lane] = token
                if token > np.uint64(30):
                    rest = abs(value) - abs(bases[token])
                    states[lane], at = _pushed_bits(states[lane], extra[token], rest, words, at)
            for index in range(count - 1, -1, -1):
                lane = alive[index]
                token, table = tokens[lane], contexts[found[corners[lane] + offset] >> 1]
                states[lane], at = _pushed(states[lane], shares[table, token], begins[table, token], words, at)
    return int(at)


class Gaps(NamedTuple):
    """The lanes of a stream of gaps: states, elements left, row, column, columns, and tokens of each."""

    states: Array
    left: Array
    rows: Array
    columns: Array
    widths: Array
    tokens: Array


@njit(cache=True, nogil=True)
def decode_gaps(
    words: Array, states: Array, shape: Shape, classes: Classes, order: Array, tables: Decoding, out: Array
) -> int:
    """Decode a stream of gaps and weights; as `decode_dense`, but for `order`, of the columns, and zeros in `out`.

    Returns:
        How many words were used, or -1 where gaps lead out of a lane, or a weight is zero.
    """
    zeros = np.zeros((5, states.shape[0]), dtype=np.int64)
    lanes, at = Gaps(states, zeros[0], zeros[1], zeros[2], zeros[3], zeros[4]), 0
    for lane in range(states.shape[0]):
        lanes.widths[lane] = max(min(shape.width, shape.columns - lane % shape.across * shape.width), 0)
        height = max(min(shape.height, shape.rows - lane // shape.across * shape.height), 0)
        lanes.left[lane] = height * lanes.widths[lane]
    while at >= 0 and _unfinished(lanes):
        at = _gap_tokens(lanes, shape, classes, order, tables, words, at)
        if at >= 0:
            at = _skip_gaps(lanes, tables, words, at)
        if at >= 0:
            at = _weight_tokens(lanes, shape, classes, order, tables, words, at, out)
        if at >= 0:
            at = _weight_bits(lanes, tables, words, at, out)
    return int(at)


@_uncounted
def _unfinished(lanes: Gaps) -> bool:
    """Whether there is a lane that is not at its end."""
    for lane in range(lanes.left.shape[0]):  # noqa: SIM110 -- numba has no any() of a generator
        if lanes.left[lane] > 0:
            return True
    return False


@njit(cache=True, nogil=True, inline="always")
def _element(lane, lanes, shape, order):  # type: ignore[no-untyped-def]
    """The row and the column where a lane is."""
    row = lane // shape.across * shape.height + lanes.rows[lane]
    return row, order[lane % shape.across * shape.width + lanes.columns[lane]]


@njit(cache=True, nogil=True, inline="always")
def _move(lane, lanes, steps):  # type: ignore[no-untyped-def]
    """Go on by so many elements; a division is for steps of more than a row."""
    lanes.left[lane] -= steps
    column, width = lanes.columns[lane] + steps, lanes.widths[lane]
    if column >= width:
        down = 1 if column < 2 * width else column // width
        lanes.rows[lane] += down
        column -= down * width
    lanes.columns[lane] = column


@_uncounted
def _gap_tokens(
    lanes: Gaps, shape: Shape, classes: Classes, order: Array, tables: Decoding, words: Array, at: int
) -> int:
    """The token of the next gap of each lane that is not at its end."""
    of_rows, of_columns = classes
    used = np.uint64(at)
    for lane in range(lanes.states.shape[0]):
        if lanes.left[lane] <= 0:
            continue
        row, column = _element(lane, lanes, shape, order)
        start = tables.starts[_scale(of_rows[row] + of_columns[column])]
        lanes.tokens[lane], lanes.states[lane], used = _popped(lanes.states[lane], tables.slots, start, words, used)
        if 2 * lanes.tokens[lane] >= tables.bases.shape[0]:
            return -1
    return int(used)


@_uncounted
def _skip_gaps(lanes: Gaps, tables: Decoding, words: Array, at: int) -> int:
    """The extra bits of each gap, and the gap; its token becomes whether a weight follows."""
    used = np.uint64(at)
    for lane in range(lanes.states.shape[0]):
        if lanes.left[lane] <= 0:
            continue
        gap, bits = tables.bases[2 * lanes.tokens[lane]], tables.extra[2 * lanes.tokens[lane]]
        if bits:
            rest, lanes.states[lane], used = _popped_bits(lanes.states[lane], bits, words, used)
            gap += rest
        if gap > lanes.left[lane]:
            return -1
        _move(lane, lanes, gap)
        lanes.tokens[lane] = int(gap < 32767)
    return int(used)


@_uncounted
def _weight_tokens(
    lanes: Gaps, shape: Shape, classes: Classes, order: Array, tables: Decoding, words: Array, at: int, out: Array
) -> int:
    """Each weight that follows a gap, without its extra bits; its token, if it has some, and its place stay."""
    of_rows, of_columns = classes
    used = np.uint64(at)
    for lane in range(lanes.states.shape[0]):
        follows = lanes.tokens[lane] != 0 and lanes.left[lane] > 0
        lanes.tokens[lane] = 0
        if not follows:
            continue
        row, column = _element(lane, lanes, shape, order)
        start = tables.starts[_scale(of_rows[row] + of_columns[column]) + np.uint64(32)]
        token, lanes.states[lane], used = _popped(lanes.states[lane], tables.slots, start, words, used)
        if not token:
            return -1
        here = row * shape.columns + column
        out[here] = tables.bases[token]
        if tables.extra[token]:
            lanes.tokens[lane] = token << 40 | here
        _move(lane, lanes, 1)
    return int(used)


@_uncounted
def _weight_bits(lanes: Gaps, tables: Decoding, words: Array, at: int, out: Array) -> int:
    """The extra bits of the weights that have some."""
    used = np.uint64(at)
    for lane in range(lanes.states.shape[0]):
        if not lanes.tokens[lane]:
            continue
        token, here = lanes.tokens[lane] >> 40, lanes.tokens[lane] & ((1 << 40) - 1)
        rest, lanes.states[lane], used = _popped_bits(lanes.states[lane], tables.extra[token], words, used)
        out[here] = tables.bases[token] - rest if token & 1 else tables.bases[token] + rest
        lanes.tokens[lane] = 0
    return int(used)


@njit(cache=True, nogil=True)
def find_events(
    values: Array, shape: Shape, lanes: int, classes: Classes, order: Array, events: Array, ends: Array
) -> None:
    """What the lanes of a stream hold, with gaps: see `plain.find_events`."""
    rows, columns, height, width, across = shape
    of_rows, of_columns = classes
    made = 0
    for lane in range(lanes):
        first = lane % across * width
        mine = max(min(width, columns - first), 0)
        gap, start = 0, np.int64(0)
        size = max(min(height, rows - lane // across * height), 0) * mine
        for place in range(size):
            row, column = lane // across * height + place // mine, order[first + place % mine]
            scale = np.int64(_scale(of_rows[row] + of_columns[column]))
            if gap == 0:
                start = scale
            value = np.int64(values[row * columns + column])
            if value:
                events[made] = gap | start << 16 | scale << 24 | (value + 32768) << 32
                made += 1
                gap = 0
            else:
                gap += 1
                if gap == 32767:
                    events[made] = gap | start << 16 | np.int64(32768) << 32
                    made += 1
                    gap = 0
        if gap:
            events[made] = gap | start << 16 | np.int64(32768) << 32
            made += 1
        ends[lane] = made


@njit(cache=True, nogil=True)
def encode_gaps(events: Array, ends: Array, tables: Coding, states: Array, words: Array) -> int:
    """Encode `events` from their end to their start; the rest is as in `encode_dense`."""
    begins, shares, contexts, magnitudes, bases, extra = tables
    lanes, at = states.shape[0], words.shape[0]
    starts = np.zeros(lanes, dtype=np.int64)
    longest = 0
    for lane in range(lanes):
        starts[lane] = ends[lane - 1] if lane else 0
        longest = max(longest, ends[lane] - starts[lane])
    for step in range(longest - 1, -1, -1):
        for part in range(3, -1, -1):
            for lane in range(lanes - 1, -1, -1):
                if starts[lane] + step >= ends[lane]:
                    continue
                event = events[starts[lane] + step]
                value = (event >> 32) - 32768
                if part >= 2 and not value:
                    continue
                if part >= 2:
                    number = abs(value)
                    token = 2 * np.int64(magnitudes[number]) - int(value < 0)
                    table, kind = np.int64(contexts[32 + (event >> 24 & 31)]), token
                else:
                    number = event & 65535
                    token = np.int64(magnitudes[number])
                    table, kind = np.int64(contexts[event >> 16 & 31]), 2 * token
                if not part & 1:
                    states[lane], at = _pushed(states[lane], shares[table, token], begins[table, token], words, at)
                elif extra[kind]:
                    rest = number - abs(bases[kind])
                    states[lane], at = _pushed_bits(states[lane], extra[kind], rest, words, at)
    return int(at)
