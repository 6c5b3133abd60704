"""Tensors of layout 8, from the text of sections 17 to 19: numbers as tokens, models, and streams of many lanes.

Nothing is chosen here to make a file small: which lanes, classes and neighbours there are is what a case says, and the
tables follow from how often each token occurs. Any part can be replaced by bytes that break a rule.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from craft import F32, Book, Tensor, bits, plane, varint, zigzag

RANKED = 8
DENSE, GAPS = 0, 1
TOKENS, GAP_TOKENS, LONGEST = 119, 60, 32767
START = 1 << 16
QUARTERS = (0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD)
Wrong = Mapping[str, bytes]


class Neighbour(NamedTuple):
    """A number that has been coded before, and its part in what is aimed at and expected."""

    up: int
    left: int
    aim: int
    size: int


@dataclass(frozen=True)
class Model:
    """What the model says beside its tables, of which there are `tables`."""

    mode: int = DENSE
    stream_rows: int = 0  # 0: all
    lanes: tuple[int, int] = (0, 0)  # down and across, as powers of 2
    base: int = 0
    rows: Sequence[int] | None = None
    planes: Sequence[int] | None = None
    places: Sequence[int] | None = None
    neighbours: tuple[Neighbour, ...] = ()
    own: int = 32
    tables: int = 1
    contexts: Sequence[int] | None = None  # the table of each context; without it they are cut into equal runs
    levels: Sequence[Sequence[int]] | None = None  # of each table; without it from how often each token occurs
    tokens: int | None = None
    coders: tuple[int | None, int | None] = (None, None)  # of contexts and levels

    @property
    def count(self) -> int:
        """How many contexts there are."""
        return 64 if self.mode == GAPS else 128 if self.neighbours else 32

    def table_of(self) -> Sequence[int]:
        """The table of each context."""
        return [at * self.tables // self.count for at in range(self.count)] if self.contexts is None else self.contexts


class Step(NamedTuple):
    """A lane decodes a token by the table of a context; or, without a context, extra bits: how many, and which."""

    lane: int
    context: int | None
    token: int
    extra: int = 0


def token(number: int, signed: bool = True) -> tuple[int, int, int]:
    """The token of a number (of a gap, if it has no sign), how many extra bits follow it, and these."""
    size = abs(number)
    octave = size.bit_length() - 1
    many = octave - 2 if size > 15 else 0
    kind = 16 + 4 * (octave - 4) + (size >> many) % 4 if many else size
    return 2 * kind - (number < 0) if signed else kind, many, size % (1 << many)


class Matrix:
    """The numbers as rows and columns, and the scale of each element by the classes of a model."""

    def __init__(self, numbers: Any, shape: tuple[int, ...], model: Model) -> None:
        """With fewer than two dimensions there is one row."""
        shape = shape if len(shape) > 1 else (1, int(np.prod(shape, dtype=int)))
        self.numbers = np.asarray(numbers, dtype=np.int64).reshape(shape[0], -1)
        self.rows, self.columns = self.numbers.shape
        self.planes = shape[1] if len(shape) > 2 else 1
        self.places = self.columns // self.planes
        self.model = model
        of_planes = np.repeat(_classes(model.planes, self.planes), self.places)
        self.across = of_planes + np.tile(_classes(model.places, self.places), self.planes)
        self.down = _classes(model.rows, self.rows)

    def scale(self, row: int, column: int) -> int:
        """Held from 0 to 31."""
        return max(0, min(31, self.model.base + int(self.down[row] + self.across[column])))

    def streams(self) -> list[range]:
        """The rows of each stream."""
        rows = self.model.stream_rows or self.rows
        return [range(at, min(at + rows, self.rows)) for at in range(0, self.rows, rows)]

    def lanes(self, rows: range) -> list[tuple[range, range]]:
        """Rows and columns of each lane of a stream."""
        down, across = (1 << power for power in self.model.lanes)
        high, wide = -(-len(rows) // down), -(-self.columns // across)
        return [
            (rows[y * high : (y + 1) * high], range(self.columns)[x * wide : (x + 1) * wide])
            for y in range(down)
            for x in range(across)
        ]


def _classes(classes: Sequence[int] | None, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.zeros(count, np.int64) if classes is None else np.asarray(classes, np.int64)


def steps(matrix: Matrix, rows: range) -> list[Step]:
    """What the lanes of a stream decode, in the order in which they do."""
    return list((_gaps if matrix.model.mode == GAPS else _dense)(matrix, matrix.lanes(rows)))


def _round(found: Sequence[tuple[int, int, tuple[int, int, int]]]) -> Iterator[Step]:
    """A token of each of these lanes, and then their extra bits."""
    for lane, context, (which, _, _) in found:
        yield Step(lane, context, which)
    for lane, _, (_, many, extra) in found:
        if many:
            yield Step(lane, None, many, extra)


def _dense(matrix: Matrix, lanes: Sequence[tuple[range, range]]) -> Iterator[Step]:
    high, wide = (max(len(lane[side]) for lane in lanes) for side in (0, 1))
    for i in range(high):
        for j in range(wide):
            found = []
            for lane, (rows, columns) in enumerate(lanes):
                if i < len(rows) and j < len(columns):
                    context, flip = _context(matrix, rows[i], columns[j], i, j)
                    number = int(matrix.numbers[rows[i], columns[j]])
                    found.append((lane, context, token(-number if flip else number)))
            yield from _round(found)


def _context(matrix: Matrix, row: int, column: int, i: int, j: int) -> tuple[int, bool]:
    """The context of an element that is in row i and column j of its lane, and whether its number changes sign."""
    model, scale = matrix.model, matrix.scale(row, column)
    if not model.neighbours:
        return scale, False
    near = [
        int(matrix.numbers[row - other.up, column - other.left]) if other.up <= i and other.left <= j else 0
        for other in model.neighbours
    ]
    aimed = 1024 * sum(other.aim * g for other, g in zip(model.neighbours, near, strict=True))
    sizes = sum(other.size * abs(g) for other, g in zip(model.neighbours, near, strict=True))
    expected = (model.own * ((64, 81, 102)[scale % 3] << scale // 3) + 1024 * sizes) >> 5
    level = sum((56, 72, 88)[n % 3] << n // 3 <= expected for n in range(1, 32))
    distance = 16 * abs(aimed >> 5)
    return 4 * level + sum(times * expected <= distance for times in (3, 10, 19)), aimed < 0


class _Path:
    """The elements of a lane in the order in which gaps go through them, and how many of them are coded."""

    def __init__(self, matrix: Matrix, rows: range, columns: Any) -> None:
        """Columns are in the order of their classes."""
        self.matrix, self.rows, self.columns, self.at = matrix, rows, columns, 0
        self.numbers = matrix.numbers[rows.start : rows.stop, columns].reshape(-1)
        self.weights = [*np.flatnonzero(self.numbers).tolist(), len(self.numbers)]

    def open(self) -> bool:
        """Whether there are more elements."""
        return self.at < len(self.numbers)

    def scale(self) -> int:
        """That of the next element."""
        row, column = divmod(self.at, len(self.columns))
        return self.matrix.scale(self.rows[row], self.columns[column])

    def gap(self) -> int:
        """How many zeros come next; it goes on to what is behind them."""
        start, weight = self.at, self.weights[bisect_left(self.weights, self.at)]
        self.at = min(weight, start + LONGEST)
        return self.at - start


def _gaps(matrix: Matrix, lanes: Sequence[tuple[range, range]]) -> Iterator[Step]:
    order = np.argsort(matrix.across, kind="stable")
    paths = [_Path(matrix, rows, order[columns.start : columns.stop]) for rows, columns in lanes]
    while any(path.open() for path in paths):
        gaps, weights = [], []
        for lane, path in enumerate(paths):
            if not path.open():
                continue
            context, gap = path.scale(), path.gap()
            gaps.append((lane, context, token(gap, signed=False)))
            if path.open() and gap < LONGEST:
                weights.append((lane, 32 + path.scale(), token(int(path.numbers[path.at]))))
                path.at += 1
        yield from _round(gaps)
        yield from _round(weights)


# Tables and bytes ------------------------------------------------------------------------------------------


def levels(model: Model, found: Sequence[Step]) -> list[list[int]]:
    """The levels of each table, so that every token which occurs can be coded: four for each doubling."""
    if model.levels is not None:
        return [list(table) for table in model.levels]
    of, counts = model.table_of(), [Counter[int]() for _ in range(model.tables)]
    for step in found:
        if step.context is not None:
            counts[of[step.context]][step.token] += 1
    most = max((max(count, default=0) for count in counts), default=0)
    tokens = model.tokens or most + 1
    return [
        [_level(count[which]) for which in range(tokens)] if count else [1] + [0] * (tokens - 1) for count in counts
    ]


def _level(count: int) -> int:
    octave = count.bit_length() - 1
    return min(49, 1 + 4 * octave + (4 * count >> octave) % 4) if count else 0


def frequencies(table: Sequence[int]) -> tuple[list[int], list[int]]:
    """Of each token of a table, and where it begins."""
    weights = [(64, 76, 91, 108)[(level - 1) % 4] << (level - 1) // 4 if level else 0 for level in table]
    free = 4096 - sum(level > 0 for level in table)
    sums = [sum(weights[:at]) * free // max(1, sum(weights)) for at in range(len(table) + 1)]
    found = [high - low + (level > 0) for low, high, level in zip(sums, sums[1:], table, strict=False)]
    return found, [sum(found[:at]) for at in range(len(found))]


def code(found: Sequence[Step], lanes: int, model: Model, tables: Sequence[Sequence[int]]) -> bytes:
    """The states and words from which the lanes decode these steps."""
    of, known = model.table_of(), [frequencies(table) for table in tables]
    states, out = [START] * lanes, []
    for lane, context, which, extra in reversed(found):
        x = states[lane]
        if context is None:
            frequency, begin, scale = 1, extra, which
        else:
            frequency, begin, scale = known[of[context]][0][which], known[of[context]][1][which], 12
        if x >= frequency << (32 - scale):
            out.append(x % START)
            x >>= 16
        states[lane] = (x // frequency << scale) + x % frequency + begin
    return np.array(states, "<u4").tobytes() + np.array(out[::-1], "<u2").tobytes()


def model_parts(model: Model, matrix: Matrix, tables: Sequence[Sequence[int]]) -> dict[str, bytes]:
    """The bytes of a model, by what they are."""
    down, across = model.lanes
    known = np.array(tables, np.int64)
    differences = np.diff(known, axis=0, prepend=np.zeros((1, known.shape[1]), np.int64)) % 64
    return {
        "mode": bytes([model.mode]),
        "stream rows": varint(model.stream_rows or matrix.rows),
        "lanes": bytes([16 * down + across]),
        "base": varint(model.base + 256),
        "row classes": _optional(model.rows),
        "plane classes": _optional(model.planes),
        "place classes": _optional(model.places),
        "neighbours": bytes([len(model.neighbours)]) + b"".join(map(_neighbour, model.neighbours)),
        "own": bytes([model.own]) if model.neighbours else b"",
        "tables": bytes([len(known)]),
        "tokens": bytes([known.shape[1]]),
        "contexts": plane(np.array(model.table_of()), 64, model.coders[0]),
        "levels": plane(differences.reshape(-1), 64, model.coders[1]),
        "model end": b"",
    }


def _optional(classes: Sequence[int] | None) -> bytes:
    return b"\0" if classes is None else b"\1" + plane(np.array(classes), 64)


def _neighbour(other: Neighbour) -> bytes:
    return varint(other.up) + varint(other.left) + bytes([other.aim % 256, other.size])


def coded_numbers(
    numbers: Any, shape: tuple[int, ...], model: Model, wrong: Wrong, script: Sequence[Sequence[Step]] | None = None
) -> tuple[bytes, bytes]:
    """Model and streams; by a script, the lanes decode other steps than those of the numbers."""
    matrix = Matrix(numbers, shape, model)
    found = [steps(matrix, rows) for rows in matrix.streams()] if script is None else script
    tables = levels(model, [step for stream in found for step in stream])
    parts = model_parts(model, matrix, tables) | {k: v for k, v in wrong.items() if k not in AROUND}
    streams = [code(stream, 1 << sum(model.lanes), model, tables) for stream in found]
    joined = streams[0] if len(streams) == 1 else b"".join(varint(len(stream)) + stream for stream in streams)
    return b"".join(parts.values()), joined


# Tensors ---------------------------------------------------------------------------------------------------

AROUND = ("codebook", "stored", "n", "streams")


def _tensor(
    name: str, raw: bytes, shape: tuple[int, ...], dtype: int, parts: Mapping[str, bytes], coded: tuple[bytes, bytes]
) -> Tensor:
    model, streams = coded[0], parts.get("streams", coded[1])
    fields = parts["codebook"] + parts["n"] + varint(len(model)) + varint(len(streams))
    return Tensor(name, dtype, shape, RANKED, fields, parts["stored"] + model + streams, raw)


def in_order(entries: Any) -> list[int]:
    """Bit patterns as section 11 sorts them, and 0 between those with the sign bit and the others."""
    top = 1 << (8 * entries.dtype.itemsize - 1)
    found = [int(entry) for entry in entries]
    return [*sorted((e for e in found if e >= top), reverse=True), 0, *sorted(e for e in found if e < top)]


def ranked(
    name: str,
    ranks: Any,
    book: Book,
    model: Model | None = None,
    dtype: int = F32,
    wrong: Wrong | None = None,
    script: Sequence[Sequence[Step]] | None = None,
) -> Tensor:
    """Ranks: numbers from -z to k - z."""
    ranks, model, wrong = np.asarray(ranks), model or Model(), wrong or {}
    order = in_order(book.entries)
    held = np.clip(ranks.reshape(-1).astype(int) + order.index(0), 0, len(order) - 1)
    raw = np.array(order, book.entries.dtype)[held].tobytes()
    parts = {"codebook": book.fields(3), "stored": book.stored, "n": varint(int(np.count_nonzero(ranks)))}
    return _tensor(
        name, raw, ranks.shape, dtype, parts | dict(wrong), coded_numbers(ranks, ranks.shape, model, wrong, script)
    )


def steps_of(scale: float, exponents: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The step of each row."""
    first = np.array(QUARTERS, "<u4").view("<f4")[np.asarray(exponents) % 4] * np.float32(scale)
    return np.ldexp(first.astype("<f4"), np.asarray(exponents) // 4).astype("<f4")


def multiples(
    name: str,
    numbers: Any,
    scale: float,
    exponents: Sequence[int],
    model: Model | None = None,
    ends: tuple[int, int] | None = None,
    coder: int | None = None,
    wrong: Wrong | None = None,
    dtype: int = F32,
) -> Tensor:
    """Multiples of a step for each row; `ends` are the lowest and the highest, and `coder` that of the exponents."""
    numbers, model, wrong = np.asarray(numbers), model or Model(), wrong or {}
    with np.errstate(all="ignore"):
        step = steps_of(scale, exponents).reshape(-1, *[1] * (numbers.ndim - 1))
        values = np.where(numbers == 0, np.float32(0), step * numbers.astype("<f4"))
    stored = np.float32(scale).astype("<f4").tobytes() + plane(np.array(exponents), 256, coder)
    low, high = ends or (int(numbers.min()), int(numbers.max()))
    parts = {
        "codebook": varint(0) + varint(5) + zigzag(low) + zigzag(high) + varint(len(stored)),
        "stored": stored,
        "n": varint(int(np.count_nonzero(numbers))),
    }
    raw = bits(values, F32).tobytes()
    return _tensor(
        name, raw, numbers.shape, dtype, parts | dict(wrong), coded_numbers(numbers, numbers.shape, model, wrong)
    )
