"""What `kernels` does, by numpy: all lanes of a stream take each step together. The results are the very same.

The functions have the names and the arguments of the compiled ones, which say more of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepcompress.coding.rans.arrays import Classes, Coding, Decoding, Expectation, Meaning, Shape
from deepcompress.coding.rans.model import AIM_BOUNDS
from deepcompress.coding.rans.tokens import LARGEST

Array = np.ndarray[Any, np.dtype[Any]]

_LOW, _MASK, _BITS = 1 << 16, 4095, 12


class _Words:
    """The words of a stream, which lanes that need one take in turn."""

    def __init__(self, words: Array) -> None:
        self._words, self.at = words.astype(np.int64), 0

    def refill(self, states: Array) -> None:
        """Give each state that is too small the next word; zeros beyond the end."""
        low = np.flatnonzero(states < _LOW)
        if len(low):
            places = np.minimum(np.arange(self.at, self.at + len(low)), len(self._words) - 1)
            states[low] = states[low] << 16 | self._words[places]
            self.at += len(low)


class _Lanes:
    """Where the lanes of a stream are."""

    def __init__(self, lanes: int, shape: Shape) -> None:
        self.rows, self.columns, self.height, self.width, across = shape
        numbers = np.arange(lanes)
        self.top, self.left = numbers // across * self.height, numbers % across * self.width
        self._whole = self.top[-1] + self.height <= self.rows and self.left[-1] + self.width <= self.columns
        self._all = numbers

    def at(self, i: int, j: int) -> Array:
        """The lanes that have an element in their row i and column j."""
        if self._whole:
            return self._all
        return np.flatnonzero((self.top + i < self.rows) & (self.left + j < self.columns))

    def sizes(self) -> tuple[Array, Array]:
        """Elements and columns of each lane."""
        widths = np.clip(self.columns - self.left, 0, self.width)
        return np.clip(self.rows - self.top, 0, self.height) * widths, widths


def _pop(states: Array, slots: Array, starts: Array, words: _Words) -> tuple[Array, Array]:
    """The next token of each state, and the states after it."""
    entry = slots[starts + (states & _MASK)]
    states = (entry >> 19) * (states >> _BITS) + (entry >> 7 & _MASK)
    words.refill(states)
    return entry & 127, states


def _pop_extra(states: Array, bits: Array, on: Array, words: _Words) -> tuple[Array, Array]:
    """Extra bits of the lanes `on` that have some: their places in `on`, and the numbers."""
    some = np.flatnonzero(bits)
    found = states[on[some]]
    rest = found & (1 << bits[some]) - 1
    found >>= bits[some]
    words.refill(found)
    states[on[some]] = found
    return some, rest


def _expected(
    values: Array, here: Array, near: Sequence[tuple[int, int, int]], base: Array, expect: Expectation
) -> tuple[Array, Array]:
    """The context of elements with these neighbours (offset, aim, size), and what is aimed at."""
    _, scales, scale_classes, own = expect
    aim = np.zeros(len(here), dtype=np.int64)
    size = own[0] * scales[base]
    for offset, factor, weight in near:
        found = values[here - offset].astype(np.int64)
        aim += factor * found << 10
        size += weight * np.abs(found) << 10
    return _context_of(aim, size, scale_classes), aim


def _context_of(aim: Array, size: Array, scale_classes: Array) -> Array:
    """The contexts of elements with neighbours; both are in units of 1 / (32 `ONE`)."""
    expected, far = size >> 5, np.abs(aim >> 5) << 4
    step = sum((far >= bound * expected).astype(np.int64) for bound in AIM_BOUNDS)
    found: Array = 4 * scale_classes[np.minimum(expected >> 3, len(scale_classes) - 1)].astype(np.int64) + step
    return found


def decode_dense(
    words: Array, states: Array, shape: Shape, classes: Classes, expect: Expectation, tables: Decoding, out: Array
) -> int:
    """See `kernels.decode_dense`."""
    near, bases, extra = expect.near, tables.bases, tables.extra
    slots, starts, moved = tables.slots.astype(np.int64), tables.starts.astype(np.int64), states
    lanes, source, states = _Lanes(len(states), shape), _Words(words), states.astype(np.int64)
    for i in range(lanes.height):
        for j in range(lanes.width):
            on = lanes.at(i, j)
            rows, columns = lanes.top[on] + i, lanes.left[on] + j
            here = rows * lanes.columns + columns
            context = classes.of_rows[rows] + classes.of_columns[columns]
            aim = None
            if len(near):
                ready = [(r * lanes.columns + c, a, s) for r, c, a, s in near.tolist() if i >= r and j >= c]
                context, aim = _expected(out, here, ready, context, expect)
            token, states[on] = _pop(states[on], slots, starts[context], source)
            value = bases[token]
            if extra[token].any():
                some, rest = _pop_extra(states, extra[token], on, source)
                value[some] += np.where(value[some] < 0, -rest, rest)
            out[here] = value if aim is None else np.where(aim < 0, -value, value)
    moved[:] = states
    return source.at


def find_contexts(
    values: Array,
    shape: Shape,
    classes: Classes,
    expect: Expectation,
    magnitudes: Array,
    found: Array,
    counts: Array,
) -> None:
    """See `kernels.find_contexts`."""
    rows, columns, height, width, _ = shape
    near, scales, scale_classes, own = expect
    context = np.clip(classes[0][:, None] + classes[1][None, :], 0, 31)
    aim = np.zeros((rows, columns), dtype=np.int64)
    if len(near):
        size = own[0] * scales[context]
        shaped = values.reshape(rows, columns).astype(np.int64)
        inside = np.arange(rows) % height, np.arange(columns) % width
        for r, c, factor, weight in near.tolist():
            beside = np.zeros_like(shaped)
            beside[r:, c:] = shaped[: max(rows - r, 0), : max(columns - c, 0)]
            beside *= (inside[0] >= r)[:, None] & (inside[1] >= c)[None, :]
            aim += factor * beside << 10
            size += weight * np.abs(beside) << 10
        context = _context_of(aim, size, scale_classes)
    turned = aim.reshape(-1) < 0
    signed = np.where(turned, -values.astype(np.int64), values)
    token = 2 * magnitudes[np.abs(signed)].astype(np.int64) - (signed < 0)
    flat = counts.reshape(-1)
    flat += np.bincount(context.reshape(-1) * counts.shape[1] + token, minlength=len(flat))
    found[:] = 2 * context.reshape(-1) + turned


class _Sink:
    """Words in the order in which an encoder makes them: from the last to the first."""

    def __init__(self, words: Array) -> None:
        self._words, self.at = words, len(words)

    def spill(self, states: Array, limits: Array) -> None:
        """Take the low word of each state that is not below its limit, the last lane first."""
        full = np.flatnonzero(states >= limits)
        if len(full):
            self._words[self.at - len(full) : self.at] = states[full] & 65535
            self.at -= len(full)
            states[full] >>= 16


def _push(states: Array, begins: Array, shares: Array, sink: _Sink) -> Array:
    """The states before tokens of these frequencies."""
    sink.spill(states, shares << 20)
    found: Array = (states // shares << _BITS) + states % shares + begins
    return found


def _push_extra(states: Array, on: Array, bits: Array, rest: Array, sink: _Sink) -> None:
    """Put the extra bits of the lanes `on` that have some into their states."""
    some = np.flatnonzero(bits)
    if len(some):
        found = states[on[some]]
        sink.spill(found, np.int64(1) << 32 - bits[some])
        states[on[some]] = found << bits[some] | rest[some]


def encode_dense(values: Array, found: Array, shape: Shape, tables: Coding, states: Array, words: Array) -> int:
    """See `kernels.encode_dense`."""
    begins, shares, contexts, magnitudes, bases, extra = tables
    lanes, sink = _Lanes(len(states), shape), _Sink(words)
    signed = np.where(found & 1, -values.astype(np.int64), values)
    token = 2 * magnitudes[np.abs(signed)].astype(np.int64) - (signed < 0)
    table, rest = contexts[found >> 1].astype(np.int64), np.abs(signed) - np.abs(bases[token])
    for i in range(lanes.height - 1, -1, -1):
        for j in range(lanes.width - 1, -1, -1):
            on = lanes.at(i, j)
            here = (lanes.top[on] + i) * lanes.columns + lanes.left[on] + j
            _push_extra(states, on, extra[token[here]], rest[here], sink)
            at = table[here], token[here]
            states[on] = _push(states[on], begins[at], shares[at], sink)
    return sink.at


# Gaps ------------------------------------------------------------------------------------------------------------


def decode_gaps(
    words: Array,
    states: Array,
    shape: Shape,
    classes: Classes,
    order: Array,
    tables: Decoding,
    meaning: Meaning,
    out: Array,
) -> tuple[int, int]:
    """See `gap_loops.decode_gaps`."""
    bases, extra = tables.bases, tables.extra
    slots, starts, moved = tables.slots.astype(np.int64), tables.starts.astype(np.int64), states
    lanes, source, states = _Lanes(len(states), shape), _Words(words), states.astype(np.int64)
    sizes, widths = lanes.sizes()
    places = np.zeros(len(states), dtype=np.int64)
    made = 0

    def where(on: Array) -> tuple[Array, Array]:
        rows, columns = np.divmod(places[on], widths[on])
        rows, columns = rows + lanes.top[on], columns + lanes.left[on]
        return rows * lanes.columns + order[columns], classes.of_rows[rows] + classes.of_columns[columns]

    on = np.flatnonzero(sizes)
    while len(on):
        token, states[on] = _pop(states[on], slots, starts[2 * where(on)[1]], source)
        if int(token.max()) > len(bases) >> 1:
            return -1, made
        gap = bases[2 * token]
        some, rest = _pop_extra(states, extra[2 * token], on, source)
        gap[some] += rest
        places[on] += gap
        if (places[on] > sizes[on]).any():
            return -1, made
        weights = on[(places[on] < sizes[on]) & (gap < LARGEST)]
        if len(weights):
            here, scale = where(weights)
            token, states[weights] = _pop(states[weights], slots, starts[2 * scale + 1], source)
            if not token.all():
                return -1, made
            value = bases[token]
            some, rest = _pop_extra(states, extra[token], weights, source)
            value[some] += np.where(value[some] < 0, -rest, rest)
            value -= meaning.lowest
            if int(value.min()) < 0 or int(value.max()) >= len(meaning.values):
                return -1, made
            out[here] = meaning.values[value]
            places[weights] += 1
            made += len(weights)
        on = on[places[on] < sizes[on]]
    moved[:] = states
    return source.at, made


def find_events(
    values: Array, shape: Shape, lanes: int, classes: Classes, order: Array, events: Array, ends: Array
) -> None:
    """What the lanes of a stream hold, with gaps, one after the other.

    Args:
        values, shape, classes, order: as in `decode_gaps`.
        lanes: how many there are.
        events: gap | scale where it begins << 16 | scale of the weight << 24 | (weight + 32768) << 32; the weight is 0
            where there is none. There must be room for all.
        ends: of each lane, where the next one begins.
    """
    place, made = _Lanes(lanes, shape), 0
    shaped = values.reshape(place.rows, place.columns)
    sizes, widths = place.sizes()
    for lane in range(lanes):
        rows = slice(place.top[lane], place.top[lane] + (sizes[lane] // max(int(widths[lane]), 1)))
        columns = order[place.left[lane] : place.left[lane] + widths[lane]]
        mine = shaped[rows][:, columns].reshape(-1)
        scale = np.clip(classes[0][rows][:, None] + classes[1][columns], 0, 31).reshape(-1)
        found = _lane_events(mine, scale)
        events[made : made + len(found)] = found
        made += len(found)
        ends[lane] = made


def _lane_events(values: Array, scales: Array) -> Array:
    stops = np.append(np.flatnonzero(values), len(values))
    starts = np.append(0, stops[:-1] + 1)
    fillers = (stops - starts) // LARGEST
    last = np.cumsum(fillers + 1) - 1
    begins = np.repeat(starts, fillers + 1)
    begins += LARGEST * (np.arange(len(begins)) - np.repeat(last - fillers, fillers + 1))
    lengths = np.full(len(begins), LARGEST)
    lengths[last] = (stops - starts) % LARGEST
    weights, at = np.zeros(len(begins), dtype=np.int64), np.zeros(len(begins), dtype=np.int64)
    weights[last[:-1]], at[last[:-1]] = values[stops[:-1]], scales[stops[:-1]]
    keep = (lengths > 0) | (weights != 0)
    scale = scales[np.minimum(begins, len(values) - 1)] if len(values) else begins
    found: Array = (lengths | scale << 16 | at << 24 | (weights + 32768) << 32)[keep]
    return found


def encode_gaps(events: Array, ends: Array, tables: Coding, states: Array, words: Array) -> int:
    """See `kernels.encode_gaps`."""
    begins, shares, contexts, magnitudes, bases, extra = tables
    sink, starts = _Sink(words), np.append(0, ends[:-1])
    value = (events >> 32) - 32768
    weight = 2 * magnitudes[np.abs(value)].astype(np.int64) - (value < 0)
    gap = magnitudes[events & 65535].astype(np.int64)
    table_of = contexts.astype(np.int64)
    tables_of_weights, tables_of_gaps = table_of[32 + (events >> 24 & 31)], table_of[events >> 16 & 31]
    for step in range(int((ends - starts).max()) - 1, -1, -1):
        on = np.flatnonzero(starts + step < ends)
        here = starts[on] + step
        full = value[here] != 0
        for token, kind, table, number, these in (
            (weight, weight, tables_of_weights, np.abs(value), full),
            (gap, 2 * gap, tables_of_gaps, events & 65535, np.ones_like(full)),
        ):
            mine, at = on[these], here[these]
            _push_extra(states, mine, extra[kind[at]], number[at] - np.abs(bases[kind[at]]), sink)
            pair = table[at], token[at]
            states[mine] = _push(states[mine], begins[pair], shares[pair], sink)
    return sink.at
