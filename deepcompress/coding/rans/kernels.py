"""The loops of the rANS coder, compiled by numba; `plain` has the slow twins, which give the very same result.

All arrays of integers are int64 unless another type is named; what belongs together comes as a tuple (see `job`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = tuple[Array, ...]


@njit(cache=True, nogil=True, inline="always")
def _aim(out, at, near, offsets):  # type: ignore[no-untyped-def]
    """What the neighbours say: the prediction and the expected magnitude, both without the classes' part."""
    aim, size = 0, 0
    for k in range(near.shape[0]):
        if offsets[k] > 0:
            value = np.int64(out[at - offsets[k]])
            aim += near[k, 2] * value
            size += near[k, 3] * abs(value)
    return aim << 10, size << 10


@njit(cache=True, nogil=True, inline="always")
def _context(aim, total, scale_classes):  # type: ignore[no-untyped-def]
    """The context of an element with neighbours, where magnitudes are in units of 1 / (32 `ONE`)."""
    expected = total >> 5
    far = abs(aim >> 5) << 4
    step = int(far >= 3 * expected) + int(far >= 10 * expected) + int(far >= 19 * expected)
    return 4 * scale_classes[min(expected >> 3, scale_classes.shape[0] - 1)] + step


@njit(cache=True, nogil=True)
def _corners(lanes: int, height: int, width: int, across: int) -> tuple[Array, Array]:
    """The first row and the first column of each lane."""
    numbers = np.arange(lanes)
    return numbers // across * height, numbers % across * width


@njit(cache=True, nogil=True)
def decode_dense(
    words: Array, states: Array, shape: tuple[int, ...], classes: Arrays, near: Array, tables: Arrays, out: Array
) -> int:
    """Decode a stream in which each element has a token.

    Args:
        words: the stream after its states, uint16, with at least one more.
        states: of each lane; moved to where they end.
        shape: rows, columns, rows of a lane, columns of a lane, lanes across.
        classes: of rows (with the base), of columns.
        near: rows, columns, aim, size of each neighbour; shape (neighbours, 4).
        tables: slots (uint32), contexts (uint8), scales, classes of scales, bases of tokens, extra bits, own factor.
        out: int16, rows * columns, row by row.

    Returns:
        How many words were used; more than there are if the stream is damaged.
    """
    rows, columns, height, width, across = shape
    by_row, by_column = classes
    slots, contexts, scales, scale_classes, bases, extra, own = tables
    lanes, last, at = states.shape[0], words.shape[0] - 1, 0
    top, left = _corners(lanes, height, width, across)
    offsets = np.zeros(near.shape[0], dtype=np.int64)
    pending = np.zeros(lanes, dtype=np.int64)
    for i in range(height):
        for j in range(width):
            for k in range(near.shape[0]):
                ready = i >= near[k, 0] and j >= near[k, 1]
                offsets[k] = near[k, 0] * columns + near[k, 1] if ready else 0
            waiting = 0
            for lane in range(lanes):
                row, column = top[lane] + i, left[lane] + j
                if row >= rows or column >= columns:
                    continue
                here = row * columns + column
                context, aim = min(max(by_row[row] + by_column[column], 0), 31), 0
                if near.shape[0]:
                    aim, size = _aim(out, here, near, offsets)
                    context = _context(aim, own[0] * scales[context] + size, scale_classes)
                x = states[lane]
                entry = np.int64(slots[np.int64(contexts[context]), x & 4095])
                x = (((entry >> 12) & 4095) + 1) * (x >> 12) + (entry & 4095)
                if x < 65536:
                    x = x << 16 | np.int64(words[min(at, last)])
                    at += 1
                states[lane] = x
                token = entry >> 24
                value = bases[token]
                out[here] = -value if aim < 0 else value
                if extra[token]:
                    pending[waiting] = lane << 9 | token << 1 | int(aim < 0)
                    waiting += 1
            for index in range(waiting):
                lane, token = pending[index] >> 9, pending[index] >> 1 & 255
                x = states[lane]
                value = bases[token]
                rest = x & ((1 << extra[token]) - 1)
                value += -rest if value < 0 else rest
                x >>= extra[token]
                if x < 65536:
                    x = x << 16 | np.int64(words[min(at, last)])
                    at += 1
                states[lane] = x
                out[(top[lane] + i) * columns + left[lane] + j] = -value if pending[index] & 1 else value
    return int(at)


@njit(cache=True, nogil=True)
def find_contexts(
    values: Array, shape: tuple[int, ...], classes: Arrays, near: Array, tables: Arrays, found: Array, counts: Array
) -> None:
    """The context of each element, times 2, plus 1 where the sign is turned: `found`, uint8, as `values`, int16.

    `counts` is how often each token comes in each context; shape (contexts, tokens).
    """
    rows, columns, height, width, _ = shape
    by_row, by_column = classes
    scales, scale_classes, own, magnitudes = tables
    offsets = np.zeros(near.shape[0], dtype=np.int64)
    for row in range(rows):
        i = row % height
        for column in range(columns):
            j = column % width
            here = row * columns + column
            context, aim = min(max(by_row[row] + by_column[column], 0), 31), 0
            if near.shape[0]:
                for k in range(near.shape[0]):
                    ready = i >= near[k, 0] and j >= near[k, 1]
                    offsets[k] = near[k, 0] * columns + near[k, 1] if ready else 0
                aim, size = _aim(values, here, near, offsets)
                context = _context(aim, own[0] * scales[context] + size, scale_classes)
            value = -np.int64(values[here]) if aim < 0 else np.int64(values[here])
            counts[context, 2 * np.int64(magnitudes[abs(value)]) - int(value < 0)] += 1
            found[here] = 2 * context + int(aim < 0)


@njit(cache=True, nogil=True)
def encode_dense(
    values: Array, found: Array, shape: tuple[int, ...], tables: Arrays, states: Array, words: Array
) -> int:
    """Encode a stream in which each element has a token, from its end to its start.

    Args:
        values: int16, rows * columns, row by row.
        found: of `find_contexts`.
        shape: as `decode_dense`.
        tables: begins and frequencies of tokens (tables, tokens), contexts (uint8), classes of magnitudes (uint8),
            bases of tokens, extra bits.
        states: of each lane, 65536; moved to those that the decoder starts with.
        words: uint16, room for two an element, filled from the end.

    Returns:
        Where in `words` the first one is.
    """
    rows, columns, height, width, across = shape
    begins, frequencies, contexts, magnitudes, bases, extra = tables
    lanes, at = states.shape[0], words.shape[0]
    top, left = _corners(lanes, height, width, across)
    tokens = np.zeros(lanes, dtype=np.int64)
    for i in range(height - 1, -1, -1):
        for j in range(width - 1, -1, -1):
            for lane in range(lanes - 1, -1, -1):
                row, column = top[lane] + i, left[lane] + j
                tokens[lane] = -1
                if row >= rows or column >= columns:
                    continue
                here = row * columns + column
                value = -np.int64(values[here]) if found[here] & 1 else np.int64(values[here])
                token = 2 * np.int64(magnitudes[abs(value)]) - int(value < 0)
                tokens[lane] = token
                bits = extra[token]
                if bits:
                    x = states[lane]
                    if x >= 1 << 32 - bits:
                        at -= 1
                        words[at] = x & 65535
                        x >>= 16
                    states[lane] = x << bits | abs(value) - abs(bases[token])
            for lane in range(lanes - 1, -1, -1):
                token = tokens[lane]
                if token < 0:
                    continue
                x = states[lane]
                here = (top[lane] + i) * columns + left[lane] + j
                table = np.int64(contexts[found[here] >> 1])
                share = np.uint32(frequencies[table, token])
                if x >= np.int64(share) << 20:
                    at -= 1
                    words[at] = x & 65535
                    x >>= 16
                quotient = np.uint32(x) // share
                rest = np.uint32(x) - quotient * share
                states[lane] = (np.int64(quotient) << 12) + np.int64(rest) + begins[table, token]
    return int(at)


@njit(cache=True, nogil=True)
def decode_gaps(  # noqa: PLR0912, PLR0915 -- one loop: numba passes no scalars by reference
    words: Array, states: Array, shape: tuple[int, ...], classes: Arrays, order: Array, tables: Arrays, out: Array
) -> int:
    """Decode a stream of gaps and weights; as `decode_dense`, but for `order`, of the columns, and zeros in `out`.

    Returns:
        How many words were used, or -1 where gaps lead out of a lane, or a weight is zero.
    """
    rows, columns, height, width, across = shape
    by_row, by_column = classes
    slots, contexts, _, _, bases, extra, _ = tables
    lanes, last, at = states.shape[0], words.shape[0] - 1, 0
    places = np.zeros(lanes, dtype=np.int64)
    sizes = np.zeros(lanes, dtype=np.int64)
    widths = np.zeros(lanes, dtype=np.int64)
    tokens = np.zeros(lanes, dtype=np.int64)
    active = 0
    for lane in range(lanes):
        widths[lane] = max(min(width, columns - lane % across * width), 0)
        sizes[lane] = max(min(height, rows - lane // across * height), 0) * widths[lane]
        active += int(sizes[lane] > 0)
    while active:
        waiting = False
        for lane in range(lanes):
            if places[lane] >= sizes[lane]:
                continue
            i = places[lane] // widths[lane]
            column = order[lane % across * width + places[lane] - i * widths[lane]]
            scale = min(max(by_row[lane // across * height + i] + by_column[column], 0), 31)
            x = states[lane]
            entry = np.int64(slots[np.int64(contexts[scale]), x & 4095])
            x = (((entry >> 12) & 4095) + 1) * (x >> 12) + (entry & 4095)
            if x < 65536:
                x = x << 16 | np.int64(words[min(at, last)])
                at += 1
            states[lane] = x
            tokens[lane] = entry >> 24
            if 2 * tokens[lane] >= bases.shape[0]:
                return -1
            waiting |= extra[2 * tokens[lane]] > 0
        for lane in range(lanes):
            if places[lane] >= sizes[lane]:
                continue
            gap, bits = bases[2 * tokens[lane]], extra[2 * tokens[lane]]
            if bits:
                x = states[lane]
                gap += x & ((1 << bits) - 1)
                x >>= bits
                if x < 65536:
                    x = x << 16 | np.int64(words[min(at, last)])
                    at += 1
                states[lane] = x
            places[lane] += gap
            if places[lane] > sizes[lane]:
                return -1
            active -= int(places[lane] == sizes[lane])
            tokens[lane] = int(gap < 32767)
        for lane in range(lanes):
            if places[lane] >= sizes[lane] or not tokens[lane]:
                tokens[lane] = 0
                continue
            i = places[lane] // widths[lane]
            column = order[lane % across * width + places[lane] - i * widths[lane]]
            row = lane // across * height + i
            scale = min(max(by_row[row] + by_column[column], 0), 31)
            x = states[lane]
            entry = np.int64(slots[np.int64(contexts[32 + scale]), x & 4095])
            x = (((entry >> 12) & 4095) + 1) * (x >> 12) + (entry & 4095)
            if x < 65536:
                x = x << 16 | np.int64(words[min(at, last)])
                at += 1
            states[lane] = x
            token = entry >> 24
            if not token:
                return -1
            out[row * columns + column] = bases[token]
            tokens[lane] = 0
            if extra[token]:
                tokens[lane] = token << 40 | row * columns + column
            places[lane] += 1
            active -= int(places[lane] == sizes[lane])
        for lane in range(lanes):
            if not tokens[lane]:
                continue
            token, here = tokens[lane] >> 40, tokens[lane] & ((1 << 40) - 1)
            x = states[lane]
            rest = x & ((1 << extra[token]) - 1)
            x >>= extra[token]
            if x < 65536:
                x = x << 16 | np.int64(words[min(at, last)])
                at += 1
            states[lane] = x
            out[here] = bases[token] - rest if token & 1 else bases[token] + rest
            tokens[lane] = 0
    return int(at)


@njit(cache=True, nogil=True)
def find_events(
    values: Array, shape: tuple[int, ...], lanes: int, classes: Arrays, order: Array, events: Array, ends: Array
) -> None:
    """What the lanes of a stream hold, with gaps: see `plain.find_events`."""
    rows, columns, height, width, across = shape
    by_row, by_column = classes
    made = 0
    for lane in range(lanes):
        first = lane % across * width
        mine = max(min(width, columns - first), 0)
        gap, start = 0, 0
        size = max(min(height, rows - lane // across * height), 0) * mine
        for place in range(size):
            row, column = lane // across * height + place // mine, order[first + place % mine]
            scale = min(max(by_row[row] + by_column[column], 0), 31)
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
def encode_gaps(events: Array, ends: Array, tables: Arrays, states: Array, words: Array) -> int:
    """Encode `events` from their end to their start; the rest is as in `encode_dense`."""
    begins, frequencies, contexts, magnitudes, bases, extra = tables
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
                x = states[lane]
                if part & 1:
                    bits = extra[kind]
                    if bits:
                        if x >= 1 << 32 - bits:
                            at -= 1
                            words[at] = x & 65535
                            x >>= 16
                        states[lane] = x << bits | number - abs(bases[kind])
                    continue
                share = frequencies[table, token]
                if x >= share << 20:
                    at -= 1
                    words[at] = x & 65535
                    x >>= 16
                states[lane] = (x // share << 12) + x % share + begins[table, token]
    return int(at)
