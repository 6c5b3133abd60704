"""Integers of a tensor to bytes and back, by a `Model` and interleaved rANS states (docs/format.md, section 19).

A stream holds some rows and starts with the states of its lanes. Streams know nothing of each other, so threads can
share them, and a decoder needs no more memory than one of them beside the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from deepcompress.coding import threads
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.rans import classes as classing
from deepcompress.coding.rans import fitting, frequencies, model, plain, tables, tokens
from deepcompress.coding.rans.arrays import Classes, Coding, Expectation
from deepcompress.coding.rans.decoder import LOW, STATE_BYTES, Decoder, loops_for, meaning_of, neighbours_of, numbers_of
from deepcompress.coding.rans.model import Model
from deepcompress.coding.rans.shape import Matrix, Tile, cut_for, matrix_of, streams_of, tile_of
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

_BLANK = np.zeros((0, 0), dtype=np.uint8)  # tables of a model before anything was counted


def encode(integers: Array, shape: tuple[int, ...], gaps: bool) -> tuple[bytes, bytes]:
    """Code a tensor.

    Args:
        integers: flat, int16, one at least, none of them -2^15.
        shape: of the tensor.
        gaps: whether zeros are skipped.

    Returns:
        The model's bytes, and the streams.
    """
    return (_encode_gaps if gaps else _encode_dense)(integers, shape)


def encode_by(packed: memoryview, integers: Array, shape: tuple[int, ...], most: int) -> bytes:
    """The streams of a tensor by a model that is given: there is one way to write them (docs/format.md, section 19).

    Args:
        packed: the model's bytes.
        integers, shape: as in `encode`.
        most: bytes that the streams may have.

    Raises:
        FormatError: there is no such model, it has no token for one of the integers, or the streams are longer.
    """
    matrix = matrix_of(shape)
    found = model.parse(packed, matrix)
    if STATE_BYTES * found.cut.lanes * -(-matrix.rows // found.cut.rows) > most:
        raise FormatError(f"the states of all streams of a rANS model take more than {most} bytes")
    counts, write = _counted(found, integers, matrix)
    has = np.zeros(counts.shape, dtype=bool)
    has[:, : found.levels.shape[1]] = frequencies.of_levels(found.levels)[found.contexts] > 0
    if counts[~has].any():
        raise FormatError("a rANS model has no token for a number that it should code")
    streams = write(found)
    if len(streams) > most:
        raise FormatError(f"streams of {len(streams)} bytes; at most {most} are allowed")
    return streams


def decode(
    packed: memoryview,
    payload: memoryview,
    shape: tuple[int, ...],
    take: Callable[[int, Array], None],
    workers: int = 1,
) -> None:
    """The inverse of `encode`, stream by stream.

    Args:
        packed: the model's bytes.
        payload: the streams.
        shape: of the tensor, which has elements.
        take: is given what is decoded: the number of the first element, and integers from there on (flat, int16).
            With more than one worker it is called from their threads.
        workers: threads that share the streams.

    Raises:
        FormatError: this is not what `encode` makes of any such tensor.
    """
    matrix = matrix_of(shape)

    def one(decoder: Decoder, part: memoryview, start: int, stop: int) -> None:
        take(start * matrix.columns, decoder.integers(part, start, stop))

    _each_stream(packed, payload, matrix, one, workers)


def decode_values(
    packed: memoryview,
    payload: memoryview,
    shape: tuple[int, ...],
    lowest: int,
    values: Array,
    out: Array,
    workers: int = 1,
) -> int:
    """As `decode`, but for what the integers stand for.

    Args:
        packed, payload, shape, workers: as in `decode`.
        lowest: the lowest integer that there may be.
        values: of the integers from `lowest` on; that of 0 is 0.
        out: zeros, flat, of the type of `values`: where the tensor goes.

    Returns:
        How many integers are not 0.

    Raises:
        FormatError: as `decode`; or there is an integer without a value.
    """
    matrix, meaning = matrix_of(shape), meaning_of(lowest, values)
    counts: list[int] = []

    def one(decoder: Decoder, part: memoryview, start: int, stop: int) -> None:
        room = out[start * matrix.columns : stop * matrix.columns]
        counts.append(decoder.values(part, start, stop, meaning, room))

    _each_stream(packed, payload, matrix, one, workers)
    return sum(counts)


def _each_stream(
    packed: memoryview,
    payload: memoryview,
    matrix: Matrix,
    one: Callable[[Decoder, memoryview, int, int], None],
    workers: int,
) -> None:
    """Do `one` for each stream, with what it begins and ends with: a decoder, the bytes, and the rows."""
    found = model.parse(packed, matrix)
    decoder = Decoder(found, matrix)
    parts = _parts(payload, streams_of(matrix, found.cut))

    def work(first: int, stop: int) -> None:
        for (start, end), part in parts[first:stop]:
            one(decoder, part, start, end)

    threads.run(work, threads.split(len(parts), 1 if decoder.loops is plain else workers, 1))


def _parts(payload: memoryview, rows: list[tuple[int, int]]) -> list[tuple[tuple[int, int], memoryview]]:
    reader = Reader(payload, "streams")
    found = []
    for span in rows:
        length = reader.varint("length of a stream", len(reader)) if len(rows) > 1 else len(reader)
        found.append((span, reader.take(length, "stream")))
    reader.end()
    return found


def _encode_dense(integers: Array, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    matrix = matrix_of(shape)
    base, axes = classing.classes_of(integers, matrix, gaps=False)
    base, axes = classing.refined(integers, matrix, base, axes)
    near, own = fitting.neighbours(integers, shape, matrix, base, axes)
    cut = fitting.cut_of(integers, matrix, near)
    return _fitted(Model(cut, False, base, axes, near, own, contexts=_BLANK, levels=_BLANK), integers, matrix)


def _encode_gaps(integers: Array, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    matrix = matrix_of(shape)
    base, axes = classing.classes_of(integers, matrix, gaps=True)
    base, axes = classing.refined(integers, matrix, base, axes)
    cut = cut_for(matrix, True, 2 * np.count_nonzero(integers) / len(integers))
    return _fitted(Model(cut, True, base, axes, (), 0, contexts=_BLANK, levels=_BLANK), integers, matrix)


def _fitted(draft: Model, integers: Array, matrix: Matrix) -> tuple[bytes, bytes]:
    """The model with the tables that fit, and the streams."""
    counts, write = _counted(draft, integers, matrix)
    full = _with_tables(draft, counts)
    return model.pack(full), write(full)


def _counted(draft: Model, integers: Array, matrix: Matrix) -> tuple[Array, Callable[[Model], bytes]]:
    """How often each token occurs in each context, int64, and what writes the streams when there are tables."""
    return (_counted_gaps if draft.gaps else _counted_dense)(draft, integers, matrix)


def _tiles(draft: Model, integers: Array, matrix: Matrix) -> Iterator[tuple[Tile, Array, Classes]]:
    """Of each stream: its lanes, its integers, and the classes of its rows and columns."""
    by_row, by_column = model.row_classes(draft, matrix), model.column_classes(draft.axes, matrix)
    for start, stop in streams_of(matrix, draft.cut):
        values = integers[start * matrix.columns : stop * matrix.columns]
        yield tile_of(stop - start, matrix.columns, draft.cut), values, Classes(by_row[start:stop], by_column)


def _counted_dense(draft: Model, integers: Array, matrix: Matrix) -> tuple[Array, Callable[[Model], bytes]]:
    counts = np.zeros((model.context_count(False, len(draft.neighbours)), tokens.TOKENS), dtype=np.int64)
    own = np.array([draft.own], dtype=np.int64)
    expect = Expectation(neighbours_of(draft), model.scales(), model.scale_classes(), own)
    loops, found = loops_for(matrix, draft.cut.rows), []
    for tile, values, classes in _tiles(draft, integers, matrix):
        contexts = np.empty(len(values), dtype=np.uint8)
        loops.find_contexts(values, numbers_of(tile), classes, expect, tokens.classes(), contexts, counts)
        found.append((tile, values, contexts))

    def write(full: Model) -> bytes:
        coder, streams = _coding(full), []
        for tile, values, contexts in found:
            states = np.full(tile.cut.lanes, LOW, dtype=np.int64)
            words = np.empty(2 * len(values) + 1, dtype=np.uint16)
            at = loops.encode_dense(values, contexts, numbers_of(tile), coder, states, words)
            streams.append(_stream(states, words[at:]))
        return _joined(streams)

    return counts, write


def _counted_gaps(draft: Model, integers: Array, matrix: Matrix) -> tuple[Array, Callable[[Model], bytes]]:
    counts = np.zeros((model.context_count(True, 0), tokens.TOKENS), dtype=np.int64)
    loops, found = loops_for(matrix, draft.cut.rows), []
    order = model.column_order(model.column_classes(draft.axes, matrix))
    lanes_of_all = draft.cut.lanes
    for tile, values, classes in _tiles(draft, integers, matrix):
        room = np.count_nonzero(values) + len(values) // tokens.LARGEST + lanes_of_all
        events, ends = np.empty(room, dtype=np.int64), np.zeros(lanes_of_all, dtype=np.int64)
        loops.find_events(values, numbers_of(tile), lanes_of_all, classes, order, events, ends)
        events = events[: ends[-1]]
        _count_events(events, counts)
        found.append((events, ends))

    def write(full: Model) -> bytes:
        coder, streams = _coding(full), []
        for events, ends in found:
            states = np.full(lanes_of_all, LOW, dtype=np.int64)
            words = np.empty(4 * len(events) + 1, dtype=np.uint16)
            at = loops.encode_gaps(events, ends, coder, states, words)
            streams.append(_stream(states, words[at:]))
        return _joined(streams)

    return counts, write


def _count_events(events: Array, counts: Array) -> None:
    classes = tokens.classes()
    flat = counts.reshape(-1)
    width = counts.shape[1]
    flat += np.bincount((events >> 16 & 31) * width + classes[events & 65535], minlength=len(flat))
    values = (events >> 32) - 32768
    weights = values != 0
    token = 2 * classes[np.abs(values[weights])].astype(np.int64) - (values[weights] < 0)
    flat += np.bincount((32 + (events[weights] >> 24 & 31)) * width + token, minlength=len(flat))


def _with_tables(draft: Model, counts: Array) -> Model:
    alphabet = int(np.flatnonzero(counts.any(axis=0))[-1]) + 1
    contexts, levels = tables.tables_of(counts[:, :alphabet])
    return replace(draft, contexts=contexts, levels=levels)


def _coding(found: Model) -> Coding:
    shares = frequencies.of_levels(found.levels)
    begins = shares.cumsum(axis=1) - shares
    return Coding(begins, shares, found.contexts, tokens.classes(), tokens.bases(), tokens.extra_bits())


def _stream(states: Array, words: Array) -> bytes:
    return states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def _joined(streams: list[bytes]) -> bytes:
    return b"".join(varint(len(part)) + part for part in streams) if len(streams) > 1 else streams[0]
