"""Whole `.dc` files from parts, as the package's writer makes them and as it never would.

Headers are put together here, byte by byte; streams of symbols are coded by `deepcompress.coding`. Nothing is decoded:
what a reader must find are the arrays that a file was made from.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, huffman, lanes, offsets, streams
from deepcompress.coding.adaptive import codec
from deepcompress.container import deflate

FEW = (0.5, -0.25, 1.0, 2.0, -3.0)
Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = [
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "bool",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "uint16",
    "uint32",
    "uint64",
    "complex32",
    "complex64",
    "complex128",
]
STORES = [
    "<f4",
    "<f2",
    "<u2",
    "<f8",
    "|i1",
    "|u1",
    "<i2",
    "<i4",
    "<i8",
    "|b1",
    "|u1",
    "|u1",
    "|u1",
    "|u1",
    "|u1",
    "|u1",
    "<u2",
    "<u4",
    "<u8",
    "<u4",
    "<c8",
    "<c16",
]
SIZES = [np.dtype(store).itemsize for store in STORES]
OLD = 10  # dtypes of versions 1 and 2
F32, F16, BF16, F64, I8, U8, I16, I32, I64, BOOL, E4M3, E5M2, E4M3Z, E5M2Z = range(14)
RAW, PLANES, CODED, ALIAS, SAME, ADAPTIVE, ROWS, COPY = range(8)
NONE, CONSTANT, FIXED, HUFFMAN, LITERAL = range(5)
DEFLATED, CHECKED = 1, 2
BY_COLUMN, SQUARES = 1, 2
OWN_FORMS = 8


def varint(value: int) -> bytes:
    """LEB128; also of numbers that the format does not allow."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def zigzag(step: int) -> bytes:
    """A whole number that may be negative."""
    return varint(2 * step if step >= 0 else -2 * step - 1)


def text(value: str | bytes) -> bytes:
    """A length and that many bytes."""
    raw = value if isinstance(value, bytes) else value.encode()
    return varint(len(raw)) + raw


def crc(data: bytes) -> bytes:
    """CRC-32, little-endian."""
    return zlib.crc32(data).to_bytes(4, "little")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: what its record says, its section, and the bytes `raw` that a reader must give."""

    name: str | bytes
    dtype: int
    shape: tuple[int, ...]
    layout: int
    fields: bytes = b""
    section: bytes = b""
    raw: bytes = b""
    flags: int = 0

    @property
    def crc(self) -> bytes:
        """Of the section, as it stands in the header."""
        return b"" if self.layout in (ALIAS, COPY) else crc(self.section)

    def expected(self) -> dict[str, Any]:
        """What JSON says of it."""
        name = self.name if isinstance(self.name, str) else self.name.decode()
        digest = hashlib.sha256(self.raw).hexdigest()
        return {"name": name, "dtype": DTYPES[self.dtype], "shape": list(self.shape), "sha256": digest}


@dataclass(frozen=True)
class File:
    """A file to be written, and lies that it may tell: `count` of its tensors, bytes at the `tail` of its header."""

    tensors: Sequence[Tensor] = ()
    version: int = 1
    flags: int = 0
    network: str | bytes = ""
    data: str | bytes = ""
    extensions: Sequence[tuple[int, str | bytes, bytes]] = ()
    count: int | None = None
    tail: bytes = b""
    magic: bytes = b"\x89DC"
    shared: Sequence[int | None] = ()  # version 1: bytes that each name has in common with the one before it
    inflated: int | None = None
    pack: Callable[[bytes], bytes] = field(default=deflate.compress)

    def header(self) -> bytes:
        """The header, as it is before it is deflated."""
        out = text(self.network) + text(self.data) + varint(len(self.extensions))
        for flag, name, content in self.extensions:
            out += bytes([flag]) + text(name) + text(content)
        out += varint(len(self.tensors) if self.count is None else self.count)
        return out + (self._long() if self.version == 1 else self._short()) + self.tail

    def _long(self) -> bytes:
        out = b""
        for name, tensor in zip(self._shared_names(), self.tensors, strict=True):
            out += name + bytes([tensor.layout << 4 | tensor.dtype])
            out += varint(len(tensor.shape)) + b"".join(map(varint, tensor.shape)) + tensor.fields + tensor.crc
        return out

    def _names(self) -> list[bytes]:
        return [tensor.name if isinstance(tensor.name, bytes) else tensor.name.encode() for tensor in self.tensors]

    def _shared_names(self) -> list[bytes]:
        out, previous = [], b""
        for number, name in enumerate(self._names()):
            shared = self.shared[number] if number < len(self.shared) else None
            if shared is None:
                pairs = zip(name, previous, strict=False)
                shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(name), len(previous)))
            out.append(varint(shared) + text(name[shared:]))
            previous = name
        return out

    def _short(self) -> bytes:
        whole = self.version == 2 or self.flags & DEFLATED
        out = b"".join([name + b"\n" for name in self._names()] if whole else self._shared_names())
        for tensor in self.tensors:
            out += self._wide(len(tensor.shape), tensor.dtype) + self._wide(tensor.flags, tensor.layout)
            out += b"".join(map(varint, tensor.shape)) + tensor.fields
            out += tensor.crc if self.flags & CHECKED else b""
        return out

    def _wide(self, high: int, number: int) -> bytes:
        """Four bits each; in version 3 numbers from 15 on are in a byte of their own."""
        if self.version < 3 or number < 15:
            return bytes([high << 4 | number])
        return bytes([high << 4 | 15, number])

    def to_bytes(self) -> bytes:
        """The file, with all checksums right."""
        header = self.header()
        start = self.magic + bytes([self.version])
        if self.version > 1:
            start += bytes([self.flags])
        if self.version > 1 and self.flags & DEFLATED:
            packed = self.pack(header)
            start += varint(len(packed)) + varint(len(header) if self.inflated is None else self.inflated) + packed
        else:
            start += varint(len(header)) + header
        if self.version == 1 or self.flags & CHECKED:
            start += crc(start)
        body = start + b"".join(tensor.section for tensor in self.tensors)
        return body + crc(body)

    def expected(self) -> str:
        """What a reader must find, as JSON."""
        facts = {"version": self.version, "network": self.network, "data": self.data}
        return json.dumps(facts | {"tensors": [tensor.expected() for tensor in self.tensors]}, indent=1) + "\n"


# Tensors ---------------------------------------------------------------------------------------------------


def bits(values: Any, dtype: int) -> Array:
    """Values as bit patterns; those of bfloat16 are given as its 16 bits."""
    array = np.ascontiguousarray(np.asarray(values, dtype=STORES[dtype]))
    return array if SIZES[dtype] > 8 else array.view(f"<u{SIZES[dtype]}")


def raw(name: str | bytes, values: Any, dtype: int = F32) -> Tensor:
    """Stored as it is."""
    array = bits(values, dtype)
    return Tensor(name, dtype, np.shape(values), RAW, b"", array.tobytes(), array.tobytes())


def same(name: str, value: Any, shape: tuple[int, ...], dtype: int = F32) -> Tensor:
    """Version 2: one element for all."""
    one = bits(value, dtype).tobytes()
    return Tensor(name, dtype, shape, SAME, b"", one, one * int(np.prod(shape, dtype=np.int64)))


def alias(name: str, of: Tensor, number: int) -> Tensor:
    """The values of tensor `number`, which is `of`."""
    return Tensor(name, of.dtype, of.shape, ALIAS, varint(number), b"", of.raw)


def copy(name: str, of: Tensor, number: int) -> Tensor:
    """Version 3: a tensor that is equal to number `number`, which is `of`."""
    return Tensor(name, of.dtype, of.shape, COPY, varint(number), b"", of.raw)


def rows(name: str, values: Any, kinds: Sequence[int], dtype: int = F32) -> Tensor:
    """Version 3: rows of these kinds; those of kind 0 are constant."""
    array = bits(values, dtype).reshape(len(kinds), -1)
    section = plane(np.asarray(kinds), 16)
    for kind in sorted(set(kinds)):
        of = array[np.asarray(kinds) == kind]
        data = np.frombuffer((of[:, :1] if kind == 0 else of).tobytes(), np.uint8)
        section += b"".join(plane(data[j :: SIZES[dtype]]) for j in range(SIZES[dtype]))
    return Tensor(name, dtype, np.shape(values), ROWS, varint(len(section)), section, array.tobytes())


def plane(symbols: Any, alphabet: int = 256, coder: int | None = None) -> bytes:
    """One byte plane: its coder (the smallest unless told), and its length, table and stream."""
    if coder is None:
        coder = int(streams.choose(np.bincount(symbols, minlength=alphabet))[0])
    table, payload = stream(symbols, alphabet, coder)
    return bytes([coder]) + text(table + payload)


def stream(symbols: Any, alphabet: int, coder: int) -> tuple[bytes, bytes]:
    """Table and payload of symbols, coded as is said."""
    symbols = np.asarray(symbols, dtype=np.uint16)
    if coder == CONSTANT:
        return varint(int(symbols[0]) if len(symbols) else 0), b""
    if coder == FIXED:
        return b"", streams._pack_fixed(symbols, streams.fixed_width(alphabet))
    if coder == HUFFMAN:
        counts = np.bincount(symbols, minlength=alphabet)
        if np.count_nonzero(counts) < 2:
            counts[:2] += 1
        lengths = huffman.code_lengths(counts.tolist())
        return huffman.pack_lengths(lengths), lanes.pack(symbols, lengths) if len(symbols) else b""
    return b"", b""


def planes(name: str, values: Any, dtype: int = F32, coders: Sequence[int] = ()) -> Tensor:
    """Byte planes; of each plane its coder, or the smallest that does."""
    array = bits(values, dtype)
    data = np.frombuffer(array.tobytes(), np.uint8)
    count = SIZES[dtype]
    section = b"".join(plane(data[j::count], 256, coders[j] if coders else None) for j in range(count))
    return Tensor(name, dtype, np.shape(values), PLANES, varint(len(section)), section, array.tobytes())


@dataclass(frozen=True)
class Book:
    """A codebook: its entries as bit patterns, how it is stored, and the tensor that owns it where that is another."""

    entries: Array
    stored: bytes
    form: int = 0
    grid: tuple[int, int] | None = None
    owner: int | None = None

    def fields(self, version: int) -> bytes:
        """Its facts in the header of a tensor."""
        k = varint(len(self.entries))
        if version == 1:
            return k + varint(0 if self.owner is None else self.owner + 1)
        if self.owner is not None:
            return k + varint(OWN_FORMS + self.owner)
        steps = () if self.grid is None else self.grid
        return k + varint(self.form) + b"".join(map(zigzag, steps))

    def of(self, owner: int) -> Book:
        """The same codebook, stored with tensor number `owner`."""
        return Book(self.entries, b"", owner=owner)


def entries(values: Any, dtype: int = F32) -> Book:
    """The values themselves."""
    array = bits(values, dtype)
    return Book(array, array.tobytes())


def halves(values: Any) -> Book:
    """Form 1."""
    stored = np.asarray(values, dtype="<f2")
    return Book(bits(stored.astype("<f4"), F32), stored.tobytes(), 1)


def grid(scale: float, steps: Sequence[int], form: int = 2, ends: tuple[int, int] | None = None) -> Book:
    """Forms 2 to 4: the multiples `steps` of a scale, with a mask where they are not all from end to end."""
    stored = np.float32(scale).tobytes()
    if form == 3:
        stored = np.float16(scale).tobytes()
    if form == 4:
        stored = stored[2:]
    low, high = ends or (min(steps), max(steps))
    values = (np.float32(scale) * np.array(steps, dtype="<f4")).astype("<f4")
    if len(steps) < high - low + (0 if low <= 0 <= high else 1):
        stored += np.packbits([j in steps for j in range(low, high + 1)]).tobytes()
    return Book(bits(values, F32), stored, form, (low, high))


def coded(
    name: str | bytes,
    values: Any,
    book: Book,
    b: int = 0,
    coders: tuple[int, int] | None = None,
    dtype: int = F32,
    version: int = 1,
) -> Tensor:
    """Codebook indices, with offsets of `b` bits or without; the smallest coders unless told."""
    array = bits(values, dtype)
    flat = array.reshape(-1)
    positions = np.flatnonzero(flat)
    gaps = offsets.to_symbols(offsets.gaps(positions), b) if b else np.zeros(0, np.uint16)
    index = {int(entry): number for number, entry in enumerate(book.entries)}
    literal = coders is not None and coders[1] == LITERAL
    if b:
        weights = [] if literal else [index[int(value)] for value in flat[positions]]
        alphabet = len(book.entries)
    else:
        weights = [index[int(value)] + 1 if value else 0 for value in flat]
        alphabet = len(book.entries) + 1
    if coders is None:
        coders = _smallest(gaps, 1 << b) if b else NONE, _smallest(weights, alphabet)
    gap_table, gap_payload = stream(gaps, 1 << b, coders[0])
    table, payload = (b"", flat[positions].tobytes()) if literal else stream(weights, alphabet, coders[1])
    tables = gap_table + table
    fields = book.fields(version) + varint(len(positions)) + bytes([b, coders[0] << 4 | coders[1]])
    fields += varint(len(tables)) + varint(len(payload))
    fields += varint(len(gaps) - len(positions)) + varint(len(gap_payload)) if b else b""
    section = book.stored + tables + gap_payload + payload
    return Tensor(name, dtype, np.shape(values), CODED, fields, section, array.tobytes())


def _smallest(symbols: Any, alphabet: int) -> int:
    return int(streams.choose(np.bincount(np.asarray(symbols, np.int64), minlength=max(alphabet, 1)))[0])


def adaptive(name: str, values: Any, book: Book, flags: int = 0, side: int = 0, dtype: int = F32) -> Tensor:
    """Version 2: by the adaptive model."""
    array = bits(values, dtype)
    flat, shape = array.reshape(-1), np.shape(values)
    ordered = book.entries[codebooks.order(book.entries)]
    index = {0: 0} | {int(entry): number for number, entry in enumerate(ordered, start=1)}
    symbols = np.zeros(len(flat), np.int16)
    places = np.flatnonzero(flat)
    symbols[places] = [index[int(value)] for value in flat[places]]
    scan = codec.Scan(bool(flags & BY_COLUMN), side)
    payload = codec.encode(symbols, shape, codec.Alphabet(len(ordered), codebooks.negatives(ordered)), scan)
    fields = book.fields(2) + varint(len(places)) + (varint(side) if flags & SQUARES else b"") + varint(len(payload))
    return Tensor(name, dtype, shape, ADAPTIVE, fields, book.stored + payload, array.tobytes(), flags)


def of_dtype(name: str, dtype: int) -> Tensor:
    """A coded tensor of a float type other than float32."""
    one = {F16: "<f2", BF16: "<u2", F64: "<f8"}[dtype]
    values = [0x3F80, 0xBF80, 0x8000] if dtype == BF16 else [0.5, -1, 3]
    return coded(name, spread((30, 10), values, 4, one), entries(values, dtype), 3, dtype=dtype)


# Values ----------------------------------------------------------------------------------------------------


def spread(shape: tuple[int, ...], values: Any, every: int, dtype: str = "<f4") -> np.ndarray[Any, np.dtype[Any]]:
    """Zeros, and one of `values` at about one of `every` places, the same on every machine."""
    draws = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) * 2_654_435_761 % (1 << 32) >> np.uint64(8)
    picked = np.asarray(values, dtype)[(draws // np.uint64(every) % np.uint64(len(values))).astype(int)]
    return np.where(draws % np.uint64(every) == 0, picked, np.zeros(1, dtype)).reshape(shape)
