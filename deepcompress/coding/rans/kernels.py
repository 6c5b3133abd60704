"""The loops of the rANS coder, compiled by numba; `plain` has the slow twins, which give the very same result.

`arrays` says what comes together. All arrays of integers are int64 unless another type is named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from deepcompress.coding.rans.arrays import Classes, Coding, Expectation, Shape
from deepcompress.coding.rans.dense_loops import aimed, alive_at, context_of, corners_of, decode_dense, near_at  # noqa: F401
from deepcompress.coding.rans.gap_loops import decode_gaps  # noqa: F401

Array = np.ndarray[Any, np.dtype[Any]]


@njit(cache=True, nogil=True, inline="always")
def _scale(total):  # type: ignore[no-untyped-def]
    """The class of what is expected of an element without neighbours, from the classes of its row and its column."""
    return np.uint64(min(max(total, 0), 31))


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
                    around = near_at(row % height, column - left, near, columns, room)
                    aim, size = aimed(values, here, around)
                    context = context_of(aim, own[context], size, scale_classes)
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
    top, left = corners_of(lanes, shape.height, shape.width, shape.across)
    corners, alive = (top * columns + left).astype(np.uint64), np.zeros(lanes, dtype=np.uint64)
    tokens = np.zeros(lanes, dtype=np.uint64)
    for i in range(shape.height - 1, -1, -1):
        for j in range(shape.width - 1, -1, -1):
            if j == shape.width - 1 or left[-1] + j + 1 >= columns:
                count = alive_at(i, j, shape, top, left, alive)
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
