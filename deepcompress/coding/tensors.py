"""One tensor to the parts that the container stores, and back, bit for bit.

Everything works on the tensor's *bits*: values are looked up and compared as unsigned integers of the
same width, so that any dtype, signed zeros and NaN payloads come back as they went in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

from deepcompress.coding import offsets, streams
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.streams import Coder, Stream
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

MAX_CODEBOOK = 1 << 12


class DType(IntEnum):
    """Element types; the numbers are part of the file format. bfloat16 travels as its 16 bits."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    FLOAT64 = 3
    INT8 = 4
    UINT8 = 5
    INT16 = 6
    INT32 = 7
    INT64 = 8
    BOOL = 9

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy type that holds one element, little-endian."""
        names = ("<f4", "<f2", "<u2", "<f8", "|i1", "|u1", "<i2", "<i4", "<i8", "|b1")
        return np.dtype(names[self])

    @property
    def bits(self) -> np.dtype[Any]:
        """The unsigned integer type of the same width."""
        return np.dtype(f"<u{self.storage.itemsize}")

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self <= DType.FLOAT64


class Encoding(IntEnum):
    """How a tensor's section is laid out; the numbers are part of the file format."""

    RAW = 0
    PLANES = 1
    CODED = 2
    ALIAS = 3


@dataclass(frozen=True)
class TensorInfo:
    """What the header of a file says of one tensor; sizes of parts in bytes.

    `codebook`, `tables`, `offsets` and `weights` are the sizes of the four parts of a section, in their order
    in the file; a RAW or PLANES tensor has only `weights`, an ALIAS has none. `target` is the index of the
    earlier tensor that an ALIAS equals, or whose codebook a CODED tensor shares (then `codebook` is 0).
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


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor ready to be written: the facts for the header and the bytes of its section."""

    info: TensorInfo
    section: bytes


def alias(values: Array, dtype: DType, target: int) -> EncodedTensor:
    """A tensor that is the same as tensor number `target` of the file."""
    return EncodedTensor(TensorInfo(values.shape, dtype, Encoding.ALIAS, target=target), b"")


def encode_plain(values: Array, dtype: DType) -> EncodedTensor:
    """Store `values` (in ``dtype.storage``) exactly: byte plane by byte plane where that is smaller, else raw.

    In small float tensors such as biases the planes of sign and exponent hold few distinct bytes.
    """
    raw = np.ascontiguousarray(values, dtype=dtype.storage).tobytes()
    info = TensorInfo(values.shape, dtype, Encoding.RAW, weights=len(raw))
    planes = _encode_planes(raw, dtype.storage.itemsize)
    if len(planes) < len(raw):
        return EncodedTensor(replace(info, encoding=Encoding.PLANES, weights=len(planes)), planes)
    return EncodedTensor(info, raw)


def encode_coded(
    values: Array, dtype: DType, codebook: Array | None, allow_huffman: bool = True, target: int | None = None
) -> EncodedTensor:
    """Store `values` by offsets and codebook indices, in the smallest of the layouts that the format has.

    Args:
        values: any shape, in ``dtype.storage``; zeros (all bits 0) are the pruned weights.
        codebook: the shared values, distinct and none of them zero, at most `MAX_CODEBOOK`; every
            non-zero value must be one of them. None stores the surviving values themselves.
        allow_huffman: False keeps every stream at fixed width (the paper's stage 2).
        target: index of the earlier tensor in the file that already stores this codebook.

    Returns:
        A CODED tensor, or a RAW or PLANES one where that takes fewer bytes.
    """
    flat = np.ascontiguousarray(values, dtype=dtype.storage).reshape(-1).view(dtype.bits)
    positions = np.flatnonzero(flat)
    info = TensorInfo(values.shape, dtype, Encoding.CODED, nonzeros=len(positions), target=target)
    survivors = flat[positions]
    if codebook is None:
        candidate = _encode_literal(info, survivors, positions, allow_huffman)
    else:
        candidate = _encode_shared(info, survivors, positions, codebook, allow_huffman)
    plain = encode_plain(values, dtype)
    return candidate if len(candidate.section) < len(plain.section) else plain


def _encode_literal(info: TensorInfo, survivors: Array, positions: Array, allow_huffman: bool) -> EncodedTensor:
    gap = offsets.gaps(positions)
    width, _ = offsets.best_bits(gap, allow_huffman)
    stream = Stream(Coder.LITERAL if len(survivors) else Coder.NONE, b"", survivors.tobytes())
    return _assemble(info, b"", _offset_stream(gap, width, allow_huffman), stream)


def _encode_shared(
    info: TensorInfo, survivors: Array, positions: Array, codebook: Array, allow_huffman: bool
) -> EncodedTensor:
    assert len(codebook) <= MAX_CODEBOOK
    entries = np.ascontiguousarray(codebook, dtype=info.dtype.storage).view(info.dtype.bits)
    indices = _lookup(survivors, entries)
    info = replace(info, codebook_size=len(entries))
    part = b"" if info.target is not None else entries.tobytes()

    gap = offsets.gaps(positions)
    width, offset_size = offsets.best_bits(gap, allow_huffman)
    counts = np.bincount(indices, minlength=len(entries))
    sparse_size = offset_size + streams.choose(counts, allow_huffman)[2]
    with_zero = np.concatenate(([info.size - len(indices)], counts))
    if streams.choose(with_zero, allow_huffman)[2] <= sparse_size:
        symbols = np.zeros(info.size, dtype=np.uint16)
        symbols[positions] = indices + 1
        return _assemble(info, part, None, streams.encode(symbols, info.alphabet, allow_huffman))
    offset = _offset_stream(gap, width, allow_huffman)
    return _assemble(info, part, offset, streams.encode(indices, len(entries), allow_huffman))


@dataclass(frozen=True)
class _Offsets:
    """The offset stream of one tensor, its width in bits, and how many of its symbols are fillers."""

    stream: Stream
    width: int
    fillers: int


def _offset_stream(gap: Array, width: int, allow_huffman: bool) -> _Offsets:
    symbols = offsets.to_symbols(gap, width)
    return _Offsets(streams.encode(symbols, 1 << width, allow_huffman), width, len(symbols) - len(gap))


def _lookup(survivors: Array, entries: Array) -> Array:
    """The index in `entries` of each survivor, both as bit patterns."""
    order = np.argsort(entries, kind="stable")
    found = np.searchsorted(entries[order], survivors)
    indices: Array = order[np.minimum(found, len(entries) - 1)] if len(entries) else found
    if len(survivors) and not (len(entries) and np.array_equal(entries[indices], survivors)):
        raise ValueError("a surviving weight is not in the codebook")
    return indices


def _assemble(info: TensorInfo, codebook: bytes, offset: _Offsets | None, weight: Stream) -> EncodedTensor:
    positions = offset or _Offsets(Stream(Coder.NONE, b"", b""), 0, 0)
    info = replace(
        info,
        codebook=len(codebook),
        tables=len(positions.stream.table) + len(weight.table),
        offsets=len(positions.stream.payload),
        weights=len(weight.payload),
        fillers=positions.fillers,
        offset_bits=positions.width,
        offset_coder=positions.stream.coder,
        weight_coder=weight.coder,
    )
    parts = (codebook, positions.stream.table, weight.table, positions.stream.payload, weight.payload)
    return EncodedTensor(info, b"".join(parts))


def _encode_planes(raw: bytes, width: int) -> bytes:
    """Byte k of every element together, for each k, as a stream with its coder, table and length in front."""
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(-1, width)
    out = bytearray()
    for plane in planes.T:
        stream = streams.encode(plane, 256)
        out += bytes([stream.coder]) + varint(stream.size) + stream.table + stream.payload
    return bytes(out)


def decode(info: TensorInfo, section: memoryview, codebook: Array | None = None) -> Array:
    """The tensor in ``info.dtype.storage``, exactly as it was encoded.

    Args:
        info: its facts, already checked against the file (see `container.format`); `info.nbytes` is allocated.
        section: the tensor's section, `info.section` bytes.
        codebook: the shared values, where they are stored with an earlier tensor.

    Raises:
        FormatError: the section does not hold exactly this tensor.
    """
    if info.encoding is Encoding.RAW:
        return _decode_raw(info, section)
    if info.encoding is Encoding.PLANES:
        return _decode_planes(info, section)
    assert info.encoding is Encoding.CODED
    return _decode_coded(info, section, codebook if codebook is not None else decode_codebook(info, section))


def decode_codebook(info: TensorInfo, section: memoryview) -> Array:
    """The codebook at the start of a CODED tensor's section, as bit patterns: distinct, and none of them zero."""
    entries = np.frombuffer(section[: info.codebook], dtype=info.dtype.bits)
    if len(np.unique(entries)) != len(entries) or not entries.all():
        raise FormatError("a codebook holds a value twice, or a zero")
    return entries


def _decode_raw(info: TensorInfo, section: memoryview) -> Array:
    return _from_bytes(info, np.frombuffer(section, dtype=np.uint8).copy())


def _from_bytes(info: TensorInfo, raw: Array) -> Array:
    if info.dtype is DType.BOOL and len(raw) and int(raw.max()) > 1:
        raise FormatError(f"a boolean is stored as {int(raw.max())}")
    return raw.view(info.dtype.storage).reshape(info.shape)


def _decode_planes(info: TensorInfo, section: memoryview) -> Array:
    reader = Reader(section, "byte planes")
    planes = np.empty((info.size, info.dtype.storage.itemsize), dtype=np.uint8)
    for plane in planes.T:
        coder = coder_of(reader.byte("coder"))
        body = Reader(reader.take(reader.varint("length of a plane"), "plane"), "plane")
        table = streams.read_table(coder, body, 256)
        plane[:] = streams.decode(table, body.take(len(body), "payload"), info.size)
    reader.end()
    return _from_bytes(info, planes.reshape(-1))


def coder_of(number: int) -> Coder:
    """The coder with this number in the file format."""
    try:
        return Coder(number)
    except ValueError:
        raise FormatError(f"coder {number} is unknown; known are 0 to {max(Coder)}") from None


def _decode_coded(info: TensorInfo, section: memoryview, codebook: Array) -> Array:
    reader = Reader(section, "section")
    reader.take(info.codebook, "codebook")
    tables = Reader(reader.take(info.tables, "tables"), "tables")
    offset_payload = reader.take(info.offsets, "offsets")
    weight_payload = reader.take(info.weights, "weights")

    gap_symbols = None
    if info.offset_bits:
        table = streams.read_table(info.offset_coder, tables, 1 << info.offset_bits)
        gap_symbols = streams.decode(table, offset_payload, info.nonzeros + info.fillers)
    survivors = _decode_weights(info, tables, weight_payload, codebook)
    tables.end()

    if gap_symbols is None:
        found = int(np.count_nonzero(survivors))
        if found != info.nonzeros:
            raise FormatError(f"{found} weights are not zero, but {info.nonzeros} were announced")
        return survivors.view(info.dtype.storage).reshape(info.shape)
    values = np.zeros(info.size, dtype=info.dtype.bits)
    offsets.scatter(gap_symbols, info.offset_bits, survivors, values)
    return values.view(info.dtype.storage).reshape(info.shape)


def _decode_weights(info: TensorInfo, tables: Reader, payload: memoryview, codebook: Array) -> Array:
    """The weight stream as bit patterns, one for each of `info.entries`."""
    if info.weight_coder is Coder.LITERAL:
        if len(payload) != info.entries * info.dtype.bits.itemsize:
            raise FormatError(f"{info.entries} literal weights do not make {len(payload)} bytes")
        survivors = np.frombuffer(payload, dtype=info.dtype.bits)
        if not survivors.all():
            raise FormatError("a literal weight is zero")
        return survivors
    symbols = streams.decode(streams.read_table(info.weight_coder, tables, info.alphabet), payload, info.entries)
    zero = np.zeros(0 if info.offset_bits else 1, dtype=info.dtype.bits)
    return _look_up(np.concatenate((zero, codebook)), symbols)


def _look_up(entries: Array, symbols: Array) -> Array:
    """``entries[symbols]`` in chunks: numpy widens indices to 64 bits, several times what the result takes."""
    values = np.empty(len(symbols), dtype=entries.dtype)
    for start in range(0, len(symbols), offsets.CHUNK):
        values[start : start + offsets.CHUNK] = entries[symbols[start : start + offsets.CHUNK]]
    return values
