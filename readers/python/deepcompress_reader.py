"""Read `.dc` files (versions 1 to 3) with numpy alone: the tensors of one compressed network, by name.

    import deepcompress_reader as dc

    file = dc.open("model.dc")             # the path, or the bytes
    weight = file["conv1.weight"]          # a numpy array, decoded when it is asked for
    tensors = dc.load("model.dc")          # all of them, in the order of the file

Written from the specification (docs/format.md) alone; the parts below follow its sections. A file holds no code, and
nothing in it is run or imported: whatever the bytes are, the answer is arrays or a `FormatError`. numpy has no bfloat16
and no 8-bit floats: they are given as float32, or with ``widen=False`` as the bits that are stored.

`python deepcompress_reader.py MODEL.dc` prints what the file holds as JSON; with `-o OUT.npz` it writes the arrays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

__version__ = "1.0.0"
__all__ = ["File", "FormatError", "Tensor", "load", "open"]

Array = np.ndarray[Any, np.dtype[Any]]


class FormatError(ValueError):
    """The bytes are not a `.dc` file that this reader reads; `section` is that of the specification that says so."""

    def __init__(self, message: str, section: int) -> None:
        super().__init__(f"{message} (section {section})")
        self.section = section


def _must(condition: object, message: str, section: int) -> None:
    if not condition:
        raise FormatError(message, section)


# Words -----------------------------------------------------------------------------------------------------


class _Bytes:
    """Bytes read from front to back, never beyond the end."""

    def __init__(self, data: bytes, section: int) -> None:
        self.data, self.at, self.section = data, 0, section

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        _must(count <= self.left(), f"{count} bytes are announced, but {self.left()} are left", self.section)
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, limit: int = (1 << 63) - 1, what: str = "a number") -> int:
        value = 0
        for index in range(9):
            byte = self.byte()
            value |= (byte & 127) << 7 * index
            if byte < 128:
                _must(byte or not index, f"{what} is not in its shortest form", self.section)
                _must(value <= limit, f"{what} is {value}; at most {limit} is allowed", self.section)
                return value
        raise FormatError(f"{what} has more than 9 bytes", self.section)

    def end(self) -> None:
        _must(not self.left(), f"{self.left()} bytes too many", self.section)


class _Bits:
    """Bits of a `_Bytes`, from the top of each byte down."""

    def __init__(self, source: _Bytes) -> None:
        self.source, self.byte, self.left = source, 0, 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            if not self.left:
                self.byte, self.left = self.source.byte(), 8
            self.left -= 1
            value = value << 1 | self.byte >> self.left & 1
        return value

    def end(self) -> None:
        _must(not self.byte & (1 << self.left) - 1, "padding bits are not 0", self.source.section)


# 1, 9, 13: the file ----------------------------------------------------------------------------------------

_DICTIONARY = (
    b"self_attn.q_proj.weight\nmlp.down_proj.weight\nlayers.0.embeddings.\ntorchvision:resnet50\x08imagenet\x00downsam"
    b"ple.0.weight\nclassifier.6.weight\nfeatures.0.bias\nlayer1.0.conv1.weight\nlayer1.0.bn1.weight\nlayer1.0.bn1.bia"
    b"s\nlayer1.0.bn1.running_mean\nlayer1.0.bn1.running_var\nlayer1.0.bn1.num_batches_tracked\nlayer2.0.conv2.weight"
    b"\nlayer2.0.bn2.weight\nlayer3.0.shortcut.0.weight\nfc.weight\nfc.bias\n\x08resnet20\x07cifar10\x00\x0dfashion-mn"
    b"ist\x06digits\x06lenet5\x05mnist\x00\x08conv1.weight\nconv1.bias\nconv2.weight\nconv2.bias\n\x0dlenet-300-100"
    b"\x05mnist\x00\x06fc1.weight\nfc1.bias\nfc2.weight\nfc2.bias\nfc3.weight\nfc3.bias\n"
)


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


@dataclass(frozen=True)
class _Start:
    """What stands before the sections: the header, inflated, where it ends, and how it is to be read."""

    header: bytes
    end: int
    version: int
    checked: bool
    deflated: bool


def _read_start(data: bytes) -> _Start:
    _must(data[:3] == b"\x89DC", "this is not a .dc file", 1)
    file = _Bytes(data, 1)
    file.take(3)
    version = file.byte()
    _must(version in (1, 2, 3), f"version {version} is unknown; known are 1 to 3", 1)
    file.section = 1 if version == 1 else 9
    flags = file.byte() if version > 1 else 2
    _must(flags < 4, f"flags {flags} are unknown", 9)
    deflated, checked = bool(flags & 1), flags > 1
    _must(checked or len(data) <= 65536, "a file of this size must have checksums", 9)
    length = file.varint(1 << 26, "the length of the header")
    inflated = file.varint(4096, "the inflated length") if deflated else 0
    header = file.take(length)
    if checked:
        _must(_crc(data[: file.at]) == file.take(4), "the checksum of the header is wrong", file.section)
    if deflated:
        header = _inflate(header, inflated)
    return _Start(header, file.at, version, checked, deflated)


def _inflate(packed: bytes, size: int) -> bytes:
    _must(size, "a deflated header of 0 bytes is announced", 9)
    stream = zlib.decompressobj(-15, zdict=_DICTIONARY)
    try:
        header = stream.decompress(packed, size + 1)
    except zlib.error:
        raise FormatError("the header cannot be inflated", 9) from None
    whole = stream.eof and not stream.unused_data and not stream.unconsumed_tail
    _must(whole and len(header) == size, "the header is not inflated to what is announced", 9)
    return header


# 2: the header ---------------------------------------------------------------------------------------------

_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U0010ffff]"
)


def _printable(raw: bytes, section: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("a name is not UTF-8", section) from None
    _must(not _UNPRINTABLE.search(text), f"the name {text!a} holds characters that are forbidden", 2)
    return text


def _read_header(start: _Start) -> tuple[str, str, list[Tensor]]:
    header = _Bytes(start.header, 2)
    network, data = (_printable(header.take(header.varint(255, "the length of a name")), 2) for _ in range(2))
    for _ in range(header.varint(255, "the number of extensions")):
        flag = header.byte()
        name = _printable(header.take(header.varint(255, "the length of a name")), 2)
        _must(flag < 2, f"extension {name} has flag {flag}", 2)
        _must(not flag, f"the file needs extension {name}, which this reader does not know", 2)
        header.take(header.varint())
    count = header.varint(1 << 18, "the number of tensors")
    header.section = {1: 3, 2: 9, 3: 13}[start.version]
    tensors: list[Tensor] = []
    names = _long_names(header) if start.version == 1 else iter(_short_names(header, count, start))
    seen: set[str] = set()
    at = start.end
    for _ in range(count):
        raw = next(names)
        _must(0 < len(raw) <= 512, "a name must have 1 to 512 bytes", header.section)
        name = _printable(raw, header.section)
        _must(name not in seen, f"the name {name} is there twice", header.section)
        seen.add(name)
        tensor = _read_tensor(header, name, at, tensors, start)
        tensors.append(tensor)
        at += tensor.length
    header.end()
    return network, data, tensors


def _long_names(header: _Bytes) -> Iterator[bytes]:
    """Names as version 1 has them: each without the start that it shares with the one before."""
    previous = b""
    while True:
        shared = header.varint(len(previous), "the shared part of a name")
        rest = header.take(header.varint(512 - shared, "the length of a name"))
        more = rest and shared < len(previous) and rest[0] == previous[shared]
        _must(not more, "a name is not in its shortest form", header.section)
        previous = previous[:shared] + rest
        yield previous


def _short_names(header: _Bytes, count: int, start: _Start) -> list[bytes]:
    """All names of version 2; version 3 has them whole only in a deflated header."""
    if start.version == 3 and not start.deflated:
        names = _long_names(header)
        return [next(names) for _ in range(count)]
    found = []
    for _ in range(count):
        end = header.data.find(b"\n", header.at, header.at + 513)
        _must(end >= 0, "a name does not end within 512 bytes", header.section)
        found.append(header.take(end + 1 - header.at)[:-1])
    return found


# 3, 9, 13: tensors -----------------------------------------------------------------------------------------

_DTYPES: dict[int, tuple[str, str]] = {
    0: ("float32", "<f4"), 1: ("float16", "<f2"), 2: ("bfloat16", "<u2"), 3: ("float64", "<f8"), 4: ("int8", "|i1"),
    5: ("uint8", "|u1"), 6: ("int16", "<i2"), 7: ("int32", "<i4"), 8: ("int64", "<i8"), 9: ("bool", "|b1"),
    10: ("float8_e4m3fn", "|u1"), 11: ("float8_e5m2", "|u1"), 12: ("float8_e4m3fnuz", "|u1"),
    13: ("float8_e5m2fnuz", "|u1"), 14: ("float8_e8m0fnu", "|u1"), 15: ("float4_e2m1fn_x2", "|u1"),
    16: ("uint16", "<u2"), 17: ("uint32", "<u4"), 18: ("uint64", "<u8"), 19: ("complex32", "<u4"),
    20: ("complex64", "<c8"), 21: ("complex128", "<c16"),
}  # fmt: skip
_RAW, _PLANES, _CODED, _ALIAS, _SAME, _ADAPTIVE, _ROWS, _COPY = range(8)
_LAYOUTS = {1: 4, 2: 6, 3: 8}  # how many each version has
_DTYPE_COUNTS = {1: 10, 2: 10, 3: 22}
_SHARED = (0, 1, 2, 3, 10, 11, 12, 13)  # dtypes of layouts 2 and 5


@dataclass(frozen=True)
class Tensor:
    """What the header says of a tensor.

    `dtype` is its name in the file; `shape` its dimensions; `start` and `length` are where its section lies. The other
    fields are those of its layout.
    """

    name: str
    number: int
    shape: tuple[int, ...]
    layout: int
    start: int = 0
    length: int = 0
    crc: bytes = b""
    target: int = -1  # of an alias or copy; or the tensor that owns the codebook
    k: int = 0
    form: int = 0
    grid: tuple[int, int] = (0, 0)
    n: int = 0
    b: int = 0
    coders: tuple[int, int] = (0, 0)
    fillers: int = 0
    parts: tuple[int, ...] = ()
    flags: int = 0
    side: int = 0

    @property
    def dtype(self) -> str:
        """As the specification calls it."""
        return _DTYPES[self.number][0]

    @property
    def size(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element in the file."""
        return np.dtype(_DTYPES[self.number][1]).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize


def _read_tensor(header: _Bytes, name: str, at: int, earlier: list[Tensor], start: _Start) -> Tensor:
    kind = header.byte()
    if start.version == 1:
        layout, number, flags = kind >> 4, kind & 15, 0
        rank = header.varint(8, "the number of dimensions")
    else:
        rank, number = kind >> 4, _wide(header, kind & 15, start.version)
        flags, layout = divmod(header.byte(), 16)
        layout = _wide(header, layout, start.version)
    section = header.section
    _must(number < _DTYPE_COUNTS[start.version], f"tensor {name}: dtype {number} is unknown", section)
    _must(layout < _LAYOUTS[start.version], f"tensor {name}: layout {layout} is unknown", section)
    _must(rank <= 8, f"tensor {name}: {rank} dimensions", section)
    shape = tuple(header.varint(1 << 40, "a dimension") for _ in range(rank))
    _must(math.prod(n or 1 for n in shape) <= 1 << 40, f"tensor {name}: too many elements", section)
    _must(not flags or layout == _ADAPTIVE, f"tensor {name}: flags {flags} mean nothing here", section)
    facts = _FACTS[layout](header, Tensor(name, number, shape, layout, flags=flags), earlier, start.version)
    length = sum(facts.get("parts", ()))
    found = Tensor(name, number, shape, layout, at, length, flags=flags, **facts)
    _must(length <= found.nbytes, f"tensor {name}: its section is longer than its elements", section)
    if not start.checked or layout in (_ALIAS, _COPY):
        return found
    return Tensor(name, number, shape, layout, at, length, header.take(4), flags=flags, **facts)


def _wide(header: _Bytes, number: int, version: int) -> int:
    """Section 13: 15 says that a number follows in a byte of its own."""
    if version < 3 or number < 15:
        return number
    number = header.byte()
    _must(number >= 15, "a number that fits into 4 bits is in a byte of its own", 13)
    return number


Facts = dict[str, Any]


def _raw_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> Facts:
    return {"parts": (tensor.nbytes,)}


def _planes_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> Facts:
    return {"parts": (header.varint(tensor.nbytes, "the length of a section"),)}


def _rows_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> Facts:
    _must(len(tensor.shape) > 1 and tensor.size, f"tensor {tensor.name} has no rows", 13)
    return _planes_facts(header, tensor, earlier, version)


def _alias_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> Facts:
    number = header.varint(len(earlier) - 1, "the number of a tensor")
    target = earlier[number] if earlier else tensor
    like = (target.number, target.shape) == (tensor.number, tensor.shape) and target is not tensor
    stores = target.layout != _ALIAS and not (tensor.layout == target.layout == _COPY)
    _must(like and stores, f"tensor {tensor.name} cannot be that of {target.name}", header.section)
    return {"target": number}


def _same_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> Facts:
    _must(tensor.size > 1, f"tensor {tensor.name}: {tensor.size} elements stored as a constant", 9)
    return {"parts": (tensor.itemsize,)}


def _coded_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> Facts:
    """Section 4."""
    _must(tensor.number in _SHARED, f"tensor {tensor.name}: {tensor.dtype} cannot be coded", 4)
    facts, book = _book_facts(header, tensor, earlier, version)
    facts["n"] = n = header.varint(tensor.size, "the number of weights")
    facts["b"] = b = header.byte()
    facts["coders"] = offset, weight = divmod(header.byte(), 16)
    tables, weights = header.varint(), header.varint()
    fillers, offsets = (header.varint(tensor.size, "the number of fillers"), header.varint()) if b else (0, 0)
    _must(b <= 12, f"tensor {tensor.name}: offsets of {b} bits", 4)
    _must(fillers * ((1 << b) - 1) + n <= tensor.size, f"tensor {tensor.name}: too many fillers", 4)
    _must(offset < (4 if b else 1) and weight < 5, f"tensor {tensor.name}: coders {offset}, {weight}", 4)
    _must(weight != 4 or (b and not facts["k"]), f"tensor {tensor.name}: literal weights", 4)
    return facts | {"fillers": fillers, "parts": (book, tables, offsets, weights)}


def _adaptive_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> Facts:
    """Sections 9 and 11."""
    _must(tensor.number in _SHARED, f"tensor {tensor.name}: {tensor.dtype} cannot be coded", 9)
    allowed = 4 if len(tensor.shape) > 1 else 1
    _must(tensor.flags < allowed, f"tensor {tensor.name}: flags {tensor.flags} mean nothing here", 9)
    facts, book = _book_facts(header, tensor, earlier, version)
    facts["n"] = header.varint(tensor.size, "the number of weights")
    if tensor.flags & 2:
        facts["side"] = side = header.varint(1 << 20, "the side of a plane")
        columns = math.prod(tensor.shape[1:])
        fits = side > 1 and columns and columns % (side * side) == 0
        _must(fits, f"tensor {tensor.name}: planes of side {side}", 9)
    _must(facts["k"] or not facts["n"], f"tensor {tensor.name}: weights, but no codebook", 9)
    return facts | {"parts": (book, header.varint())}


def _book_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> tuple[Facts, int]:
    """Sections 4 and 10: what the header says of a codebook, and its bytes in this section."""
    k = header.varint(4096, "the size of a codebook")
    owner = header.varint() - 1 if version == 1 else 0
    form = 0 if version == 1 else header.varint()
    if owner > -1 and (version == 1 or form >= 8):
        owner = owner if version == 1 else form - 8
        _must(owner < len(earlier), f"tensor {tensor.name}: its codebook is in no earlier tensor", header.section)
        found = earlier[owner]
        own = found.layout in (_CODED, _ADAPTIVE) and found.target < 0
        like = (found.number, found.k) == (tensor.number, k)
        _must(own and like, f"tensor {tensor.name}: it cannot share the codebook of {found.name}", 4)
        return {"k": k, "target": owner}, 0
    _must(form < 5, f"tensor {tensor.name}: codebook form {form} is unknown", 10)
    _must(not form or not tensor.number, f"tensor {tensor.name}: codebook form {form} is for float32", 10)
    if form < 2:
        return {"k": k, "form": form}, k * (2 if form else tensor.itemsize)
    low, high = (-(step + 1 >> 1) if step & 1 else step >> 1 for step in (header.varint(), header.varint()))
    entries = high - low + (0 if low <= 0 <= high else 1)
    _must(-32768 <= low <= high <= 32768 and 0 < k <= entries, f"tensor {tensor.name}: a grid from {low} to {high}", 10)
    mask = -(-(high - low + 1) // 8) if k < entries else 0
    return {"k": k, "form": form, "grid": (low, high)}, (4 if form == 2 else 2) + mask


_FACTS: list[Callable[[_Bytes, Tensor, list[Tensor], int], Facts]] = [
    _raw_facts, _planes_facts, _coded_facts, _alias_facts, _same_facts, _adaptive_facts, _rows_facts, _alias_facts,
]  # fmt: skip


# 5: streams of symbols -------------------------------------------------------------------------------------

_NONE, _CONSTANT, _FIXED, _HUFFMAN = range(4)


def _read_table(coder: int, tables: _Bytes, alphabet: int) -> Any:
    if coder == _CONSTANT:
        return tables.varint(alphabet - 1, "a symbol")
    return _read_lengths(tables, alphabet) if coder == _HUFFMAN else None


def _read_lengths(tables: _Bytes, alphabet: int) -> list[int]:
    lengths: list[int] = []
    used = tables.varint(alphabet, "the number of code lengths")
    bits, previous = _Bits(tables), 0
    for _ in range(used):
        if bits.take(1):
            if not bits.take(1):
                previous += 1
            elif not bits.take(1):
                previous -= 1
            else:
                length = bits.take(4)
                _must(abs(length - previous) > 1, "a code length is not in its shortest form", 5)
                previous = length
        _must(0 <= previous <= 15, f"a code length of {previous}", 5)
        lengths.append(previous)
    bits.end()
    complete = sum(1 << 15 - length for length in lengths if length) == 1 << 15
    _must(complete and lengths[-1], "the code lengths make no complete code", 5)
    return lengths


def _symbols(coder: int, table: Any, stream: bytes, count: int, alphabet: int) -> Array:
    if coder == _FIXED:
        return _fixed(stream, count, alphabet)
    if coder == _HUFFMAN:
        return _huffman(stream, count, table)
    _must(not stream and coder < 2, "bytes in a stream that must have none, or a coder that is unknown", 5)
    _must(coder == _CONSTANT or not count, f"{count} symbols without a coder", 5)
    return np.full(count, table or 0, np.uint16)


def _fixed(stream: bytes, count: int, alphabet: int) -> Array:
    width = max(1, (alphabet - 1).bit_length())
    _must(len(stream) == -(-count * width // 8), f"{len(stream)} bytes for {count} symbols of {width} bits", 5)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    _must(not bits[count * width :].any(), "padding bits are not 0", 5)
    symbols = np.zeros(count, np.uint16)
    for column in range(width):
        symbols = symbols << np.uint16(1) | bits[column : count * width : width]
    _must(not count or int(symbols.max()) < alphabet, "a symbol is beyond its alphabet", 5)
    return symbols


def _huffman(stream: bytes, count: int, lengths: list[int]) -> Array:
    _must(count <= 8 * len(stream), f"{len(stream)} bytes cannot hold {count} symbols", 5)
    lanes = 1 if count < 1 << 17 else 1 << (count // 2048).bit_length() - 1
    order = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    width = order[-1][0]
    repeats = [1 << width - length for length, _ in order]
    symbol_of = np.repeat(np.array([symbol for _, symbol in order], np.uint16), repeats)
    length_of = np.repeat(np.array([length for length, _ in order], np.int64), repeats)
    head = 0 if lanes == 1 else 2 * lanes
    _must(head <= len(stream), "the lengths of the lanes are cut", 5)
    sizes = np.frombuffer(stream[:head], "<u2").astype(np.int64) if head else np.array([len(stream)])
    ends = head + np.cumsum(sizes)
    _must(ends[-1] == len(stream), "the lanes do not fill the stream", 5)
    data = np.frombuffer(stream + bytes(3 + 2 * count // lanes), np.uint8).astype(np.uint32)  # so that none runs over
    at = 8 * (ends - sizes)
    step = _one_lane if lanes == 1 else _all_lanes
    symbols = step(data, at, count, symbol_of, length_of, width)
    left = 8 * ends - at
    _must((left >= 0).all() and (left < 8).all(), "a lane does not end with its last symbol", 5)
    _must(not (data[ends - 1] & (1 << left) - 1)[left > 0].any(), "padding bits are not 0", 5)
    return symbols


def _windows(data: Array, at: Array, width: int) -> Array:
    """The `width` bits from each bit on."""
    byte = at >> 3
    three = data[byte] << 16 | data[byte + 1] << 8 | data[byte + 2]
    return three >> (24 - width - (at & 7)).astype(np.uint32) & np.uint32((1 << width) - 1)


def _one_lane(data: Array, at: Array, count: int, symbol_of: Array, length_of: Array, width: int) -> Array:
    """One stream: what starts at each bit is looked up for all bits at once, and then it is a walk along them."""
    windows = _windows(data, np.arange(8 * (len(data) - 2)), width)
    steps, here, places = length_of[windows].tolist(), 0, []
    for _ in range(count):
        if here >= len(steps):
            break
        places.append(here)
        here += steps[here]
    at[0] = here
    found: Array = symbol_of[windows[places]]
    return found


def _all_lanes(data: Array, at: Array, count: int, symbol_of: Array, length_of: Array, width: int) -> Array:
    """Many lanes in lock step: each step is one symbol of every lane, a row of the output."""
    symbols = np.empty(count, np.uint16)
    for start in range(0, count, len(at)):
        row = min(len(at), count - start)
        windows = _windows(data, np.minimum(at[:row], 8 * (len(data) - 3)), width)
        symbols[start : start + row] = symbol_of[windows]
        at[:row] += length_of[windows]
    return symbols


# 4: codebook indices and relative offsets ------------------------------------------------------------------


def _decode_coded(file: File, tensor: Tensor, section: _Bytes) -> Array:
    book = file._book(tensor)
    _, tables, offsets, weights = (section.take(part) for part in tensor.parts)
    reader, (offset_coder, weight_coder) = _Bytes(tables, 4), tensor.coders
    bits = f"<u{tensor.itemsize}"
    offset_table = _read_table(offset_coder, reader, 1 << tensor.b)
    alphabet = len(book) + (tensor.b == 0)
    count = tensor.n if tensor.b else tensor.size
    if weight_coder == 4:
        reader.end()
        _must(len(weights) == tensor.n * tensor.itemsize, f"{len(weights)} bytes of {tensor.n} literal weights", 4)
        found = np.frombuffer(weights, bits)
        _must(found.all(), "a literal weight is zero", 4)
    else:
        table = _read_table(weight_coder, reader, alphabet)
        reader.end()
        symbols = _symbols(weight_coder, table, weights, count, alphabet)
        found = (book if tensor.b else np.concatenate((np.zeros(1, bits), book)))[symbols]
    if not tensor.b:
        _must(np.count_nonzero(symbols) == tensor.n, f"there are not {tensor.n} weights", 4)
        return found
    steps = _symbols(offset_coder, offset_table, offsets, tensor.n + tensor.fillers, 1 << tensor.b)
    return _placed(steps, (1 << tensor.b) - 1, found, tensor)


def _placed(steps: Array, filler: int, found: Array, tensor: Tensor) -> Array:
    """Weights where the offsets say."""
    weight = steps != filler
    ends = np.cumsum(steps + weight.astype(np.int64))
    _must(np.count_nonzero(weight) == tensor.n, f"the offsets do not place {tensor.n} weights", 4)
    _must(not len(steps) or (weight[-1] and ends[-1] <= tensor.size), "the offsets do not end in the tensor", 4)
    values = np.zeros(tensor.size, found.dtype)
    values[ends[weight] - 1] = found
    return values


# 6, 14: byte planes, rows ----------------------------------------------------------------------------------


def _plane(section: _Bytes, count: int, alphabet: int = 256) -> Array:
    coder = section.byte()
    _must(coder < 4, f"coder {coder} of a plane is unknown", section.section)
    body = _Bytes(section.take(section.varint()), section.section)
    table = _read_table(coder, body, alphabet)
    return _symbols(coder, table, body.take(body.left()), count, alphabet).astype(np.uint8)


def _decode_planes(file: File, tensor: Tensor, section: _Bytes) -> Array:
    return np.stack([_plane(section, tensor.size) for _ in range(tensor.itemsize)], axis=1).reshape(-1)


def _decode_rows(file: File, tensor: Tensor, section: _Bytes) -> Array:
    kinds = _plane(section, tensor.shape[0], 16)
    columns = tensor.size // tensor.shape[0]
    out = np.empty((tensor.shape[0], columns, tensor.itemsize), np.uint8)
    for kind in np.unique(kinds):
        rows = kinds == kind
        width = columns if kind else 1
        planes = [_plane(section, int(rows.sum()) * width) for _ in range(tensor.itemsize)]
        out[rows] = np.stack(planes, axis=1).reshape(-1, width, tensor.itemsize)
    return out.reshape(-1)


# 10: codebooks ---------------------------------------------------------------------------------------------


def _read_book(tensor: Tensor, raw: bytes) -> Array:
    """The entries as bits, in the order in which they are stored."""
    if tensor.form == 0:
        entries = np.frombuffer(raw, f"<u{tensor.itemsize}")
    elif tensor.form == 1:
        halves = np.frombuffer(raw, "<f2")
        _must(np.isfinite(halves).all(), "a codebook entry is not finite", 10)
        entries = halves.astype("<f4").view("<u4")
    else:
        entries = _read_grid(tensor, raw)
    distinct = len(np.unique(entries)) == len(entries)
    _must(distinct and entries.all(), "a codebook holds a value twice, or zero", 10 if tensor.form else 4)
    return entries


def _read_grid(tensor: Tensor, raw: bytes) -> Array:
    stored, mask = (raw[:4], raw[4:]) if tensor.form == 2 else (raw[:2], raw[2:])
    scale = np.frombuffer(stored, "<f2")[0] if tensor.form == 3 else np.frombuffer(stored.rjust(4, b"\0"), "<f4")[0]
    low, high = tensor.grid
    steps = np.arange(low, high + 1)
    named = steps != 0
    if mask:
        bits = np.unpackbits(np.frombuffer(mask, np.uint8)).astype(bool)
        named = bits[: len(steps)]
        wrong = bits[len(steps) :].any() or named[steps == 0].any() or named.sum() != tensor.k
        _must(not wrong, "the mask of a codebook does not name its entries", 10)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.float32(scale) * steps[named].astype("<f4")
    _must(scale > 0 and np.isfinite(values).all(), "the scale of a codebook is not positive, or too large", 10)
    return values.astype("<f4").view("<u4")


# 11: the adaptive model ------------------------------------------------------------------------------------

_FULL = (1 << 30) - 1


@cache
def _tables() -> tuple[list[int], list[int]]:
    """Squash, whose first entry is that of -2880, and stretch."""
    squash = np.rint(65536 / (1 + np.exp(-np.arange(-2880, 2881) / 256))).clip(1, 65535).astype(int)
    p = np.arange(1, 65536, dtype=np.float64)
    stretch = np.rint(256 * np.log(p / (65536 - p))).clip(-2880, 2880).astype(int)
    return squash.tolist(), [-2880, *stretch.tolist()]


class _Block:
    """Decisions out of the bytes of a block."""

    def __init__(self, data: bytes) -> None:
        _must(not data or data[0], "a block starts with 0", 11)
        self.data, self.at, self.x = data, 0, 0
        self.refill()

    def refill(self) -> None:
        while self.x < 1 << 24 and self.at < len(self.data):
            self.x = self.x << 8 | self.data[self.at]
            self.at += 1

    def decide(self, p: int) -> int:
        low, high = self.x & 65535, self.x >> 16
        bit = low >= 65536 - p
        self.x = p * high + low - 65536 + p if bit else (65536 - p) * high + low
        if self.x < 1 << 24:
            self.refill()
        return int(bit)

    def end(self) -> None:
        _must(not self.x and self.at == len(self.data), "a block does not end with its last decision", 11)


class _Slots:
    """Adaptive probabilities `v` with their counts; a count of 0 is a slot without a value."""

    def __init__(self, size: int, v: int = 0, count: int = 0) -> None:
        self.v, self.count = [v] * size, [count] * size

    def learn(self, at: int, bit: int, limit: int) -> None:
        count, v = self.count[at], self.v[at]
        self.v[at] = v + (((_FULL if bit else 0) - v) * (65536 // count) >> 16)
        if count < limit:
            self.count[at] = count + 1


class _Model:
    """What a decoder knows of one tensor: R rows, C columns, planes of P columns, lines of W."""

    zero: tuple[int, ...] = (-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621)
    which: tuple[int, ...] = (-23593, 7209, 3277, 47841, 8847, 7864)

    def __init__(self, tensor: Tensor, k: int, z: int) -> None:
        shape = tensor.shape
        self.n, self.m, self.k, self.z = tensor.size, tensor.n, k, z
        self.rows = shape[0] if len(shape) > 1 else 1
        self.columns = tensor.size // self.rows
        self.plane = self.width = self.columns
        if tensor.side:
            self.plane, self.width = tensor.side * tensor.side, tensor.side
        elif len(shape) > 2:
            self.plane, self.width = math.prod(shape[2:]), shape[-1]
        self.by_column = tensor.flags & 1
        self.squash, self.stretch = _tables()
        d = min(max((tensor.n << 30) // self.n, 1 << 15), (1 << 30) - (1 << 15))
        self.fresh = min(max((1 << 26) // min(d, (1 << 30) - d), 2), 2000)
        self.base = self.stretch[d >> 14]
        counts = (self.rows, self.columns, self.columns // self.plane, self.plane)
        self.lines = [_Slots(min(count, 65536), d, self.fresh) for count in counts]
        self.contexts = [_Slots(size) for size in (64, 16, 64, 605)]
        self.trees: dict[int, list[_Slots]] = {}
        self.zero_weights, self.which_weights = list(self.zero), list(self.which)
        self.classes = [
            0,
            *(1 + 3 * j // z for j in range(z - 1, -1, -1)),
            *(4 + 3 * j // (k - z) for j in range(k - z)),
        ]
        # Of each row and column: the last weight, the balance of signs, the magnitude of late.
        self.seen = [[[0, 4, 0] for _ in range(min(count, 65536))] for count in (self.rows, self.columns)]
        self.symbols, self.gap = array("H", bytes(2 * self.n)), 0

    def decode(self, start: int, stop: int, block: _Block) -> None:
        """Elements `start` to `stop` in the order of coding."""
        for index in range(start, stop):
            if not self.m:
                return
            c, r = divmod(index, self.rows) if self.by_column else divmod(index, self.columns)[::-1]
            here = r * self.columns + c
            a, o = divmod(c, self.plane)
            y, x = divmod(o, self.width)
            left = self.n - index
            if self.m == left or self.is_weight(here, r, c, a, o, y, x, left, block):
                self.gap = 0
                self.m -= 1
                self.symbols[here] = self.entry(here, r, c, x, y, block)
            else:
                self.gap += 1

    def is_weight(self, here: int, r: int, c: int, a: int, o: int, y: int, x: int, left: int, block: _Block) -> int:
        stretch = self.stretch
        s0 = stretch[max(1, (self.m << 16) // left)]
        places = (r & 65535, c & 65535, a & 65535, o & 65535)
        s1, s2, s4, s5 = (stretch[slots.v[at] >> 14] for slots, at in zip(self.lines, places, strict=True))
        s3 = self.around(c, o, y, x, s2)
        beside, before = self.neighbours(here, r, a, y, x)
        first, second = self.step(s1, 128, 5, 10), self.step(s2, 128, 5, 10)
        joint = (11 * first + second) * 5 + self.step(s3, 192, 2, 4)
        contexts = (beside, before, self.gap.bit_length(), joint)
        inputs = [s0, s1, s2, s3, s4, s5]
        for slots, at in zip(self.contexts, contexts, strict=True):
            if not slots.count[at]:
                slots.v[at], slots.count[at] = self.squash[s0 + 2880] << 14, self.fresh
            inputs.append(stretch[slots.v[at] >> 14])
        bit = self.mix(inputs, self.zero_weights, 32, block)
        for slots, at in zip(self.lines, places, strict=True):
            slots.learn(at, bit, 588)
        for slots, at in zip(self.contexts, contexts, strict=True):
            slots.learn(at, bit, 4000)
        return bit

    def step(self, s: int, unit: int, middle: int, top: int) -> int:
        return min(max((s - self.base) // unit + middle, 0), top)

    def around(self, c: int, o: int, y: int, x: int, alone: int) -> int:
        """S3: the logit of the mean of the columns around."""
        v, width = self.lines[1].v, self.width
        near = [v[c - 1 & 65535]] if x else []
        if y:
            near.append(v[c - width & 65535])
        if not self.by_column:
            if x < width - 1:
                near.append(v[c + 1 & 65535])
            if o + width < self.plane:
                near.append(v[c + width & 65535])
        return self.stretch[sum(near) // len(near) >> 14] if near else alone

    def neighbours(self, here: int, r: int, a: int, y: int, x: int) -> tuple[int, int]:
        """The indices of the tables beside and before."""
        found, width = self.symbols, self.width
        left, above = x > 0 and found[here - 1] > 0, y > 0 and found[here - width] > 0
        beside = left | above << 1
        before = (
            (r > 0 and found[here - self.columns] > 0) | (a > 0 and found[here - self.plane] > 0) << 1 | beside << 2
        )
        if y:
            beside |= (x > 0 and found[here - width - 1] > 0) << 2 | (
                x < width - 1 and found[here - width + 1] > 0
            ) << 3
        beside |= (x > 1 and found[here - 2] > 0) << 4 | (y > 1 and found[here - 2 * width] > 0) << 5
        return beside, before

    def mix(self, inputs: list[int], weights: list[int], rate: int, block: _Block) -> int:
        t = sum(map(int.__mul__, weights, inputs)) >> 16
        p = self.squash[min(max(t, -2880), 2880) + 2880]
        bit = block.decide(p)
        e = (65535 - p if bit else -p) * rate
        for i, s in enumerate(inputs):
            weights[i] += e * s >> 22
        return bit

    def entry(self, here: int, r: int, c: int, x: int, y: int, block: _Block) -> int:
        """The symbol of a weight."""
        classes, seen = self.classes, (self.seen[0][r & 65535], self.seen[1][c & 65535])
        left = classes[self.symbols[here - 1]] if x else 0
        above = classes[self.symbols[here - self.width]] if y else 0
        low, high, signs = 0, self.k, 0 < self.z < self.k
        while high - low > 1:
            middle = self.z if signs else low + high >> 1
            row, column = (line[1 if signs else 2] for line in seen)
            signs = False
            at = (0, classes[seen[0][0]], classes[seen[1][0]], 7 * left + above, row, column)
            if self.branch(middle, at, block):
                low = middle
            else:
                high = middle
        self.remember(seen, low + 1)
        return low + 1

    def branch(self, middle: int, at: tuple[int, ...], block: _Block) -> int:
        tables = self.trees.get(middle)
        if tables is None:
            tables = self.trees[middle] = [_Slots(size) for size in (1, 7, 7, 49, 9, 9)]
            tables[0] = _Slots(1, 1 << 29, 65)
        inputs = []
        for slots, i in zip(tables, at, strict=True):
            if not slots.count[i]:
                slots.v[i], slots.count[i] = tables[0].v[0], 2
            inputs.append(self.stretch[slots.v[i] >> 14])
        bit = self.mix(inputs, self.which_weights, 96, block)
        for slots, i in zip(tables, at, strict=True):
            slots.learn(i, bit, 250)
        return bit

    def remember(self, seen: tuple[list[int], list[int]], symbol: int) -> None:
        h = (self.classes[symbol] - 1) % 3
        for line in seen if seen[0] is not seen[1] else seen[:1]:
            line[0] = symbol
            line[1] = min(max(line[1] + (1 if symbol > self.z else -1), 0), 8)
            line[2] = min(5, 3 * line[2] + 8 * h + 2 >> 2) if line[2] else 2 * h + 1


def _decode_adaptive(file: File, tensor: Tensor, section: _Bytes) -> Array:
    book = file._book(tensor)
    sign = np.array(1 << 8 * tensor.itemsize - 1, book.dtype)
    entries = book[np.argsort(np.where(book & sign, ~book, book | sign), kind="stable")]
    section.take(tensor.parts[0])
    stream = _Bytes(section.take(tensor.parts[1]), 11)
    if not tensor.size:
        stream.end()
        return np.zeros(0, book.dtype)
    model = _Model(tensor, len(entries), int(np.count_nonzero(entries & sign)))
    for start in range(0, tensor.size, 1 << 19):
        length = stream.varint() if tensor.size > 1 << 19 else stream.left()
        block = _Block(stream.take(length))
        model.decode(start, min(start + (1 << 19), tensor.size), block)
        block.end()
    stream.end()
    return np.concatenate((np.zeros(1, book.dtype), entries))[np.frombuffer(model.symbols, np.uint16)]


# The face --------------------------------------------------------------------------------------------------


def _decode_raw(file: File, tensor: Tensor, section: _Bytes) -> Array:
    return np.frombuffer(section.take(tensor.nbytes), np.uint8)


def _decode_same(file: File, tensor: Tensor, section: _Bytes) -> Array:
    return np.tile(np.frombuffer(section.take(tensor.itemsize), np.uint8), tensor.size)


_DECODE = {
    _RAW: _decode_raw, _PLANES: _decode_planes, _CODED: _decode_coded, _SAME: _decode_same, _ADAPTIVE: _decode_adaptive,
    _ROWS: _decode_rows,
}  # fmt: skip


class File(Mapping[str, Array]):
    """An open `.dc` file: names to arrays, each decoded when it is asked for, in the order of the file."""

    def __init__(self, data: bytes, max_bytes: int | None = None, widen: bool = True) -> None:
        """Check the header and the file's checksum; the arguments are those of `open`."""
        start = _read_start(data)
        self._data, self._checked, self.widen = data, start.checked, widen
        self.version = start.version
        self.network, self.data, tensors = _read_header(start)
        size = start.end + sum(tensor.length for tensor in tensors) + 4
        _must(size == len(data), f"the header describes a file of {size} bytes, but it has {len(data)}", 1)
        _must(_crc(data[:-4]) == data[-4:], "the checksum of the file is wrong", 1)
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self._numbered = tensors
        self.max_bytes = max(256 << 20, 1024 * len(data)) if max_bytes is None else max_bytes

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Array:
        bits = self.bits(name)
        return _widened(bits, self.tensors[name].dtype) if self.widen else bits

    def bits(self, name: str) -> Array:
        """A tensor as it is stored: dtypes that numpy has not are unsigned integers of the same width."""
        tensor = self.tensors[name]
        store = self._numbered[tensor.target] if tensor.layout in (_ALIAS, _COPY) else tensor
        store = self._numbered[store.target] if store.layout == _COPY else store
        self.check_size(tensor.nbytes)
        section = _Bytes(self._section(store), {_PLANES: 6, _ADAPTIVE: 11, _ROWS: 14}.get(store.layout, 4))
        values = _DECODE[store.layout](self, store, section)
        section.end()
        if tensor.dtype == "bool":
            _must(not values.size or values.max() < 2, f"tensor {name}: a boolean is neither 0 nor 1", 3)
        return values.view(_DTYPES[tensor.number][1]).reshape(tensor.shape)

    def check_size(self, size: int) -> None:
        """Refuse tensors of so many bytes if that is more than `max_bytes`."""
        _must(size <= self.max_bytes, f"too large: {size} bytes of tensors; raise max_bytes above {self.max_bytes}", 7)

    def _section(self, tensor: Tensor) -> bytes:
        section = self._data[tensor.start : tensor.start + tensor.length]
        if self._checked:
            _must(_crc(section) == tensor.crc, f"tensor {tensor.name}: its checksum is wrong", 1)
        return section

    def _book(self, tensor: Tensor) -> Array:
        owner = self._numbered[tensor.target] if tensor.target >= 0 else tensor
        return _read_book(owner, self._section(owner)[: owner.parts[0]])


def _widened(bits: Array, dtype: str) -> Array:
    """What numpy has no type for, as float32 or complex64; two numbers in a byte stay as they are."""
    if dtype == "bfloat16":
        return (bits.astype("<u4") << 16).view("<f4")
    if dtype == "complex32":
        return bits.view("<f2").astype("<f4").view("<c8").reshape(bits.shape)
    return _eight_bits(dtype)[bits] if dtype.startswith("float8") else bits


@cache
def _eight_bits(dtype: str) -> Array:
    """The value of each byte as float32."""
    code = np.arange(256)
    if dtype == "float8_e8m0fnu":
        return np.where(code == 255, np.nan, 2.0 ** (code - 127.0)).astype("<f4")
    digits = 3 if "m3" in dtype else 2
    bias = (7 if digits == 3 else 15) + dtype.endswith("fnuz")
    exponent, rest = (code & 127) >> digits, code & (1 << digits) - 1
    size = np.where(exponent, (1 << digits) + rest, rest) * 2.0 ** (np.maximum(exponent, 1) - bias - digits)
    value = np.where(code < 128, size, -size)
    if dtype.endswith("fnuz"):
        value[128] = np.nan
    elif digits == 3:
        value[[127, 255]] = np.nan
    else:
        value[[124, 252]] = np.inf, -np.inf
        value[exponent * (rest > 0) == 31] = np.nan
    return value.astype("<f4")


def open(source: str | Path | bytes, max_bytes: int | None = None, widen: bool = True) -> File:
    """Open a `.dc` file.

    Args:
        source: its path, or its bytes.
        max_bytes: how many bytes a tensor may take (`load`: all together); by default 1024 times the file, and at
            least 256 MiB.
        widen: give bfloat16 and 8-bit floats as float32; otherwise as the bits that are stored (uint16, uint8).

    Raises:
        FormatError: the file is damaged, hostile, or of a later version.
        OSError: it cannot be read.
    """
    return File(source if isinstance(source, bytes) else Path(source).read_bytes(), max_bytes, widen)


def load(source: str | Path | bytes, max_bytes: int | None = None, widen: bool = True) -> dict[str, Array]:
    """All tensors of a `.dc` file, in its order; arguments and errors as in `open`."""
    file = open(source, max_bytes, widen)
    file.check_size(sum(tensor.nbytes for tensor in file.tensors.values()))
    return dict(file)


def _contents(file: File) -> dict[str, Any]:
    """What the file holds, as JSON shows it."""
    file.check_size(sum(tensor.nbytes for tensor in file.tensors.values()))
    tensors = [
        {"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape),
         "sha256": hashlib.sha256(file.bits(name).tobytes()).hexdigest()}
        for name, tensor in file.tensors.items()
    ]  # fmt: skip
    return {"version": file.version, "network": file.network, "data": file.data, "tensors": tensors}


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0, or 1 if the file cannot be read."""
    parser = argparse.ArgumentParser(description="Print what a .dc file holds as JSON, or write its arrays.")
    parser.add_argument("file", metavar="MODEL.dc")
    parser.add_argument("-o", "--output", metavar="OUT.npz", help="Write the arrays to this file instead.")
    given = parser.parse_args(arguments)
    try:
        if given.output is None:
            print(json.dumps(_contents(open(given.file))))
        else:
            np.savez(given.output, **load(given.file))
    except (FormatError, OSError) as error:
        print(f"Error: {given.file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
