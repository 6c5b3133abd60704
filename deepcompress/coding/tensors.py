"""What a file says of a tensor, and its section back to values, bit for bit; `encoder` is the other direction.

Everything works on the tensor's *bits*: values are looked up and compared as unsigned integers of the
same width, so that any dtype, signed zeros and NaN payloads come back as they went in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, lanes, offsets, planes, scales, streams, threads
from deepcompress.coding.adaptive import codec
from deepcompress.coding.adaptive.codec import Book, Scan
from deepcompress.coding.bits import Reader
from deepcompress.coding.codebooks import Form
from deepcompress.coding.dtypes import DType
from deepcompress.coding.rans import codec as rans
from deepcompress.coding.streams import Coder
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_CODEBOOK = 1 << 12


class Encoding(IntEnum):
    """How a tensor's section is laid out; the numbers are part of the file format."""

    RAW = 0
    PLANES = 1
    CODED = 2
    ALIAS = 3
    CONSTANT = 4
    ROWS = 6  # 5 is CODED by the adaptive model, 8 by the rANS coder
    COPY = 7


@dataclass(frozen=True)
class TensorInfo:
    """What the header of a file says of one tensor; sizes of parts in bytes.

    `codebook`, `tables`, `offsets` and `weights` are the sizes of the four parts of a section, in their order
    in the file; a RAW, PLANES, CONSTANT or ROWS tensor has only `weights`, an ALIAS or COPY has none. `target` is the
    index of the earlier tensor that an ALIAS is (their memory is one) or a COPY equals, or whose codebook a CODED
    tensor shares (then `codebook` is 0). `form` is that of the codebook, `grid` its lowest and highest multiple where
    it is a grid, or there are ROWS in its place; `scan` is that of an ANS stream. With RANS, the tables are the model.
    """

    shape: tuple[int, ...]
    dtype: DType
    encoding: Encoding
    codebook: int = 0
    tables: int = 0
    offsets: int = 0
    weights: int = 0
    codebook_size: int = 0
    nonzeros: int = 0
    fillers: int = 0
    offset_bits: int = 0
    offset_coder: Coder = Coder.NONE
    weight_coder: Coder = Coder.NONE
    target: int | None = None
    form: Form = Form.ENTRIES
    grid: tuple[int, int] = (0, 0)
    scan: Scan = field(default_factory=Scan)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor when it is decoded."""
        return self.size * self.dtype.storage.itemsize

    @property
    def section(self) -> int:
        """Bytes of the tensor's section in the file."""
        return self.codebook + self.tables + self.offsets + self.weights

    @property
    def entries(self) -> int:
        """Symbols in the weight stream: the surviving weights, or every element of a tensor without offsets."""
        return self.nonzeros if self.offset_bits else self.size

    @property
    def alphabet(self) -> int:
        """Symbols of the weight stream: one per centroid, and one for zero where zeros are not skipped by offsets."""
        return self.codebook_size if self.offset_bits else self.codebook_size + 1

    @property
    def is_reference(self) -> bool:
        """Whether the values are those of an earlier tensor, so that there is no section."""
        return self.encoding in (Encoding.ALIAS, Encoding.COPY)

    @property
    def is_shared(self) -> bool:
        """Whether weights are stored as indices into a codebook, so that there is something for `decode_survivors`."""
        literal = self.weight_coder is Coder.LITERAL or self.form is Form.ROWS
        return self.encoding is Encoding.CODED and not literal

    @property
    def is_mixed(self) -> bool:
        """Whether positions and values are one stream."""
        return self.weight_coder in (Coder.ANS, Coder.RANS)

    @property
    def book(self) -> codebooks.Layout:
        """How the codebook in this tensor's section is laid out."""
        return codebooks.Layout(self.form, self.codebook_size, *self.grid)


@dataclass(frozen=True)
class Survivors:
    """The weights of a tensor that are not zero, as a file holds them: no value is looked up.

    Weight number i is ``entries[indices[i]]``, at element ``positions[i]`` of the flat tensor. Positions ascend, int64;
    indices are small integers; entries are bit patterns as `decode_codebook` gives them.
    """

    positions: Array
    indices: Array
    entries: Array


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor ready to be written: the facts for the header and the bytes of its section."""

    info: TensorInfo
    section: bytes


def decode(info: TensorInfo, section: memoryview, codebook: Array | None = None, workers: int = 1) -> Array:
    """The tensor in ``info.dtype.storage``, exactly as it was encoded.

    Args:
        info: its facts, already checked against the file (see `container.format`); `info.nbytes` is allocated.
        section: the tensor's section, `info.section` bytes.
        codebook: the shared values, where they are stored with an earlier tensor.
        workers: threads that share the work on a large CODED tensor.

    Raises:
        FormatError: the section does not hold exactly this tensor.
    """
    if info.encoding is Encoding.RAW:
        return _decode_raw(info, section)
    if info.encoding is Encoding.PLANES:
        return _decode_planes(info, section)
    if info.encoding is Encoding.ROWS:
        return _decode_rows(info, section)
    if info.encoding is Encoding.CONSTANT:
        return np.tile(_decode_raw(replace(info, shape=(1,)), section), info.size).reshape(info.shape)
    assert info.encoding is Encoding.CODED
    if info.form is Form.ROWS:
        return _decode_scaled(info, section, workers)
    codebook = decode_codebook(info, section) if codebook is None else codebook
    return (_decode_ranks if info.weight_coder is Coder.RANS else _decode_coded)(info, section, codebook, workers)


def decode_codebook(info: TensorInfo, section: memoryview) -> Array:
    """The codebook at the start of a CODED tensor's section, as bit patterns: distinct, and none of them zero."""
    return codebooks.unpack(info.book, section[: info.codebook], info.dtype.bits)


def _decode_raw(info: TensorInfo, section: memoryview) -> Array:
    return _from_bytes(info, np.frombuffer(section, dtype=np.uint8).copy())


def _from_bytes(info: TensorInfo, raw: Array) -> Array:
    if info.dtype is DType.BOOL and len(raw) and int(raw.max()) > 1:
        raise FormatError(f"a boolean is stored as {int(raw.max())}")
    return raw.view(info.dtype.storage).reshape(info.shape)


def _decode_planes(info: TensorInfo, section: memoryview) -> Array:
    reader = Reader(section, "byte planes")
    elements = planes.decode(reader, info.size, info.dtype.storage.itemsize)
    reader.end()
    return _from_bytes(info, elements.reshape(-1))


def _decode_rows(info: TensorInfo, section: memoryview) -> Array:
    reader, rows = Reader(section, "rows"), info.shape[0]
    elements = planes.decode_rows(reader, rows, info.size // rows, info.dtype.storage.itemsize)
    reader.end()
    return _from_bytes(info, elements.reshape(-1))


def decode_survivors(
    info: TensorInfo, section: memoryview, codebook: Array | None = None, workers: int = 1
) -> Survivors:
    """The weights that are not zero, by position and index: as `decode`, without making the dense tensor.

    Only for a tensor that `is_shared`. Beside the result, a tensor without offsets takes one or two bytes an element.

    Raises:
        FormatError: the section does not hold exactly this tensor.
    """
    assert info.is_shared
    codebook = decode_codebook(info, section) if codebook is None else codebook
    if info.weight_coder is Coder.RANS:
        return _ranked_survivors(info, section, codebook, workers)
    gap_symbols, symbols, entries = _streams(info, section, codebook, workers)
    assert entries is not None
    if gap_symbols is None:
        positions = np.flatnonzero(symbols)
        return Survivors(positions, symbols[positions] - 1, entries[1:])
    return Survivors(offsets.positions(gap_symbols, info.offset_bits, len(symbols), info.size), symbols, entries)


def _decode_coded(info: TensorInfo, section: memoryview, codebook: Array, workers: int) -> Array:
    gap_symbols, survivors, entries = _streams(info, section, codebook, workers)
    if gap_symbols is None:
        assert entries is not None
        values = look_up(entries, survivors, workers)
    else:
        values = np.zeros(info.size, dtype=info.dtype.bits)
        offsets.scatter(gap_symbols, info.offset_bits, survivors, values, entries, workers)
    return values.view(info.dtype.storage).reshape(info.shape)


def _streams(
    info: TensorInfo, section: memoryview, codebook: Array, workers: int
) -> tuple[Array | None, Array, Array | None]:
    """The offset symbols, what stands at their places, and the entries that those are indices into.

    Without offsets (None) there is an index for each element, and entry 0 is zero; without entries (None) there are
    the weights themselves.
    """
    reader = Reader(section, "section")
    reader.take(info.codebook, "codebook")
    if info.weight_coder is Coder.ANS:
        return None, *_mixed(info, reader.take(info.weights, "weights"), codebook)
    tables = Reader(reader.take(info.tables, "tables"), "tables")
    offset_payload = reader.take(info.offsets, "offsets")
    weight_payload = reader.take(info.weights, "weights")

    gap_symbols = None
    if info.offset_bits:
        table = streams.read_table(info.offset_coder, tables, 1 << info.offset_bits)
        gap_symbols = streams.decode(table, offset_payload, info.nonzeros + info.fillers, workers)
    if info.weight_coder is Coder.LITERAL:
        entries, survivors = None, _literals(info, weight_payload)
    else:
        entries = codebook if info.offset_bits else _after_zero(codebook)
        table = streams.read_table(info.weight_coder, tables, info.alphabet)
        survivors = streams.decode(table, weight_payload, info.entries, workers)
    tables.end()
    if gap_symbols is None:
        found = int(np.count_nonzero(survivors))  # entry 0 is zero, and no other
        if found != info.nonzeros:
            raise FormatError(f"{found} weights are not zero, but {info.nonzeros} were announced")
    return gap_symbols, survivors, entries


def _mixed(info: TensorInfo, payload: memoryview, codebook: Array) -> tuple[Array, Array]:
    """Symbols and entries of a tensor coded by the adaptive model, whose symbols are those of the sorted codebook."""
    ordered = codebook[codebooks.order(codebook)]
    book = Book(len(ordered), codebooks.negatives(ordered))
    return codec.decode(payload, info.shape, book, info.nonzeros, info.scan), _after_zero(ordered)


# Integers by the rANS coder ---------------------------------------------------------------------------------------


def _decode_scaled(info: TensorInfo, section: memoryview, workers: int) -> Array:
    """Whole numbers times the step of their row."""
    rows, columns = info.shape[0], info.size // info.shape[0]
    steps = scales.unpack(section[: info.codebook], rows, max(-info.grid[0], info.grid[1]))
    values = np.empty((rows, columns), dtype=np.float32)

    def place(start: int, integers: Array) -> None:
        first = start // columns
        part = integers.reshape(-1, columns)
        values[first : first + len(part)] = scales.values(part, steps[first : first + len(part)])

    _integers(info, section, info.grid, place, workers)
    return values.view(info.dtype.storage).reshape(info.shape)


def _decode_ranks(info: TensorInfo, section: memoryview, codebook: Array, workers: int) -> Array:
    """Entries of the sorted codebook, counted from zero: -1 is the largest that has its sign bit set."""
    entries, negative = _around_zero(codebook)
    values = np.empty(info.size, dtype=info.dtype.bits)

    def place(start: int, integers: Array) -> None:
        symbols = (integers + np.int16(negative)).view(np.uint16)
        values[start : start + len(integers)] = look_up(entries, symbols)

    _integers(info, section, (-negative, len(codebook) - negative), place, workers)
    return values.view(info.dtype.storage).reshape(info.shape)


def _ranked_survivors(info: TensorInfo, section: memoryview, codebook: Array, workers: int) -> Survivors:
    ordered = codebook[codebooks.order(codebook)]
    negative = codebooks.negatives(ordered)
    found: dict[int, tuple[Array, Array]] = {}

    def place(start: int, integers: Array) -> None:
        places = np.flatnonzero(integers)
        ranks = integers[places]
        found[start] = places + start, (ranks + negative - (ranks > 0)).astype(lanes.symbol_type(len(ordered)))

    _integers(info, section, (-negative, len(ordered) - negative), place, workers)
    parts = [found[start] for start in sorted(found)]
    positions, indices = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Survivors(positions, indices, ordered)


def _around_zero(codebook: Array) -> tuple[Array, int]:
    """The sorted codebook with zero in it, and where zero is."""
    ordered = codebook[codebooks.order(codebook)]
    negative = codebooks.negatives(ordered)
    return np.insert(ordered, negative, 0), negative


def _integers(
    info: TensorInfo,
    section: memoryview,
    limits: tuple[int, int],
    place: Callable[[int, Array], None],
    workers: int,
) -> None:
    """Decode the integers of a RANS tensor and give them to `place`, part by part; checked."""
    counts: list[int] = []

    def take(start: int, integers: Array) -> None:
        lowest, highest = int(integers.min()), int(integers.max())
        if lowest < limits[0] or highest > limits[1]:
            raise FormatError(f"integers from {lowest} to {highest}, but only {limits[0]} to {limits[1]} are allowed")
        counts.append(int(np.count_nonzero(integers)))
        place(start, integers)

    reader = Reader(section, "section")
    reader.take(info.codebook, "codebook")
    packed = reader.take(info.tables, "model")
    rans.decode(packed, reader.take(info.weights, "streams"), info.shape, take, workers)
    if sum(counts) != info.nonzeros:
        raise FormatError(f"{sum(counts)} weights are not zero, but {info.nonzeros} were announced")


def _after_zero(codebook: Array) -> Array:
    return np.concatenate((np.zeros(1, dtype=codebook.dtype), codebook))


def _literals(info: TensorInfo, payload: memoryview) -> Array:
    """The weights themselves, as bit patterns."""
    if len(payload) != info.entries * info.dtype.bits.itemsize:
        raise FormatError(f"{info.entries} literal weights do not make {len(payload)} bytes")
    survivors = np.frombuffer(payload, dtype=info.dtype.bits)
    if not survivors.all():
        raise FormatError("a literal weight is zero")
    return survivors


def look_up(entries: Array, symbols: Array, workers: int = 1) -> Array:
    """``entries[symbols]`` for symbols below len(entries)."""
    values = np.empty(len(symbols), dtype=entries.dtype)
    compiled = lanes.kernels_for(len(symbols))
    place = look_up_in_chunks if compiled is None else compiled.look_up
    parts = threads.split(len(symbols), 1 if compiled is None else workers, offsets.PER_THREAD)
    threads.run(lambda start, stop: place(entries, symbols[start:stop], values[start:stop]), parts)
    return values


def look_up_in_chunks(entries: Array, symbols: Array, values: Array) -> None:
    """What `kernels.look_up` does, by numpy; in chunks, because it widens indices to 64 bits."""
    for start in range(0, len(symbols), offsets.CHUNK):
        values[start : start + offsets.CHUNK] = entries[symbols[start : start + offsets.CHUNK]]
