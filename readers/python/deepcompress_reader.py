"""Read `.dc` files (versions 1 to 3) with numpy alone: the tensors of one compressed network, by name.

    import deepcompress_reader as dc

    file = dc.open("model.dc")             # the path, or the bytes
    weight = file["conv1.weight"]          # a numpy array, decoded when it is asked for
    tensors = dc.load("model.dc")          # all of them, in the order of the file

Written from the specification (docs/format.md) alone; the parts below follow its sections. A file holds no code, and
nothing in it is run or imported: whatever the bytes are, the answer is arrays or a `FormatError`. numpy has no bfloat16
and no 8-bit floats: they are given as float32, or with ``widen=False`` as the bits that are stored.

`python deepcompress_reader.py MODEL.dc` prints what the file holds as JSON.
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
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate
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


def _read_start(data: bytes) -> tuple[bytes, int, int, int]:
    """The header, inflated, and where it ends; the version, and its flags."""
    _must(data[:3] == b"\x89DC", "this is not a .dc file", 1)
    file = _Bytes(data, 1)
    version = file.take(4)[3]
    _must(version in (1, 2, 3), f"version {version} is unknown; known are 1 to 3", 1)
    file.section = 1 if version == 1 else 9
    flags = file.byte() if version > 1 else _CHECKED
    _must(flags < 4, f"flags {flags} are unknown", 9)
    _must(flags & _CHECKED or len(data) <= 65536, "a file of this size must have checksums", 9)
    length = file.varint(1 << 26, "the length of the header")
    inflated = file.varint(4096, "the inflated length") if flags & _DEFLATED else 0
    header = file.take(length)
    if flags & _CHECKED:
        _must(_crc(data[: file.at]) == file.take(4), "the checksum of the header is wrong", file.section)
    return _inflate(header, inflated) if flags & _DEFLATED else header, file.at, version, flags


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


def _read_header(raw: bytes, at: int, version: int, flags: int) -> tuple[str, str, list[Tensor]]:
    header = _Bytes(raw, 2)
    network, data = (_printable(header.take(header.varint(255, "the length of a name")), 2) for _ in range(2))
    for _ in range(header.varint(255, "the number of extensions")):
        flag = header.byte()
        name = _printable(header.take(header.varint(255, "the length of a name")), 2)
        _must(not flag, f"the file needs extension {name}, which this reader does not know, or has flag {flag}", 2)
        header.take(header.varint())
    count = header.varint(1 << 18, "the number of tensors")
    header.section = {1: 3, 2: 9, 3: 13}[version]
    names = _long_names(header)
    if version > 1:  # all names come first; those of a deflated header are whole
        whole = version == 2 or flags & _DEFLATED
        names = iter([_line(header) if whole else next(names) for _ in range(count)])
    earlier: list[Tensor] = []
    seen: set[str] = set()
    for _ in range(count):
        name = _printable(next(names), header.section)
        _must(name and name not in seen, f"the name {name} is there twice, or empty", header.section)
        tensor = _read_tensor(header, name, earlier, version, flags)
        tensor.start, at = at, at + sum(tensor.parts)
        earlier.append(tensor)
        seen.add(name)
    header.end()
    return network, data, earlier


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


def _line(header: _Bytes) -> bytes:
    """A name as version 2 has it."""
    end = header.data.find(b"\n", header.at, header.at + 513)
    _must(end >= 0, "a name does not end within 512 bytes", header.section)
    return header.take(end + 1 - header.at)[:-1]


# 3, 9, 13: tensors -----------------------------------------------------------------------------------------

_DTYPES: dict[int, tuple[str, str]] = {
    0: ("float32", "<f4"), 1: ("float16", "<f2"), 2: ("bfloat16", "<u2"), 3: ("float64", "<f8"), 4: ("int8", "|i1"),
    5: ("uint8", "|u1"), 6: ("int16", "<i2"), 7: ("int32", "<i4"), 8: ("int64", "<i8"), 9: ("bool", "|b1"),
    10: ("float8_e4m3fn", "|u1"), 11: ("float8_e5m2", "|u1"), 12: ("float8_e4m3fnuz", "|u1"),
    13: ("float8_e5m2fnuz", "|u1"), 14: ("float8_e8m0fnu", "|u1"), 15: ("float4_e2m1fn_x2", "|u1"),
    16: ("uint16", "<u2"), 17: ("uint32", "<u4"), 18: ("uint64", "<u8"), 19: ("complex32", "<u4"),
    20: ("complex64", "<c8"), 21: ("complex128", "<c16"),
}  # fmt: skip
_DEFLATED, _CHECKED = 1, 2  # flags of a file
_RAW, _PLANES, _CODED, _ALIAS, _SAME, _ADAPTIVE, _ROWS, _COPY, _RANKED = range(9)
_LAYOUTS = {1: 4, 2: 6, 3: 9}  # how many each version has
_SHARED = (0, 1, 2, 3, 10, 11, 12, 13)  # dtypes of layouts 2, 5 and 8


class Tensor:
    """What the header says of a tensor: its name, shape and layout, where its section starts, and its parts."""

    start = k = form = n = b = fillers = side = 0
    target = -1  # of an alias or copy; or the tensor that owns the codebook
    grid = coders = (0, 0)
    parts: tuple[int, ...] = ()
    crc = b""

    def __init__(self, name: str, number: int, shape: tuple[int, ...], layout: int, flags: int) -> None:
        self.name, self.number, self.shape, self.layout, self.flags = name, number, shape, layout, flags
        self.dtype, store = _DTYPES[number]
        self.size, self.itemsize = math.prod(shape), np.dtype(store).itemsize
        self.nbytes = self.size * self.itemsize


def _read_tensor(header: _Bytes, name: str, earlier: list[Tensor], version: int, flags: int) -> Tensor:
    kind, section = header.byte(), header.section
    if version == 1:
        layout, number, marks, rank = kind >> 4, kind & 15, 0, header.varint(8, "the number of dimensions")
    else:
        rank, number = kind >> 4, _wide(header, kind & 15, version)
        marks, layout = divmod(header.byte(), 16)
        layout = _wide(header, layout, version)
    _must(number < (22 if version > 2 else 10), f"tensor {name}: dtype {number} is unknown", section)
    _must(layout < _LAYOUTS[version], f"tensor {name}: layout {layout} is unknown", section)
    _must(rank <= 8, f"tensor {name}: {rank} dimensions", section)
    shape = tuple(header.varint(1 << 40, "a dimension") for _ in range(rank))
    _must(math.prod(n or 1 for n in shape) <= 1 << 40, f"tensor {name}: too many elements", section)
    _must(marks < (4 if layout == _ADAPTIVE and rank > 1 else 1), f"tensor {name}: flags {marks} mean nothing", section)
    tensor = Tensor(name, number, shape, layout, marks)
    _read_layout(header, tensor, earlier, version)
    _must(sum(tensor.parts) <= tensor.nbytes, f"tensor {name}: its section is longer than its elements", section)
    if flags & _CHECKED and layout not in (_ALIAS, _COPY):
        tensor.crc = header.take(4)
    return tensor


def _wide(header: _Bytes, number: int, version: int) -> int:
    """Section 13: 15 says that a number follows in a byte of its own."""
    if version < 3 or number < 15:
        return number
    number = header.byte()
    _must(number >= 15, "a number that fits into 4 bits is in a byte of its own", 13)
    return number


def _read_layout(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> None:
    name, layout = tensor.name, tensor.layout
    if layout == _RAW:
        tensor.parts = (tensor.nbytes,)
    elif layout in (_PLANES, _ROWS):
        _must(layout == _PLANES or (len(tensor.shape) > 1 and tensor.size), f"tensor {name} has no rows", 13)
        tensor.parts = (header.varint(tensor.nbytes, "the length of a section"),)
    elif layout == _SAME:
        _must(tensor.size > 1, f"tensor {name}: {tensor.size} elements stored as a constant", 9)
        tensor.parts = (tensor.itemsize,)
    elif layout in (_ALIAS, _COPY):
        tensor.target = header.varint(len(earlier) - 1, "the number of a tensor")
        of = earlier[tensor.target]
        like = (of.number, of.shape) == (tensor.number, tensor.shape)
        stores = of.layout != _ALIAS and not layout == of.layout == _COPY
        _must(like and stores, f"tensor {name} cannot be that of {of.name}", header.section)
    else:
        _must(tensor.number in _SHARED, f"tensor {name}: {tensor.dtype} cannot be coded", 4)
        book = _read_book_facts(header, tensor, earlier, version)
        tensor.n = header.varint(tensor.size, "the number of weights")
        read = {_CODED: _read_streams, _ADAPTIVE: _read_scan, _RANKED: _read_ranked}[layout]
        read(header, tensor, book)


def _read_streams(header: _Bytes, tensor: Tensor, book: int) -> None:
    """Section 4."""
    tensor.b = b = header.byte()
    tensor.coders = offset, weight = divmod(header.byte(), 16)
    tables, weights, offsets = header.varint(), header.varint(), 0
    if b:
        tensor.fillers, offsets = header.varint(tensor.size, "the number of fillers"), header.varint()
    tensor.parts = (book, tables, offsets, weights)
    _must(b <= 12, f"tensor {tensor.name}: offsets of {b} bits", 4)
    _must(tensor.fillers * ((1 << b) - 1) + tensor.n <= tensor.size, f"tensor {tensor.name}: too many fillers", 4)
    _must(offset < (4 if b else 1) and weight < 5, f"tensor {tensor.name}: coders {offset}, {weight}", 4)
    _must(weight != 4 or (b and not tensor.k), f"tensor {tensor.name}: literal weights", 4)


def _read_scan(header: _Bytes, tensor: Tensor, book: int) -> None:
    """Sections 9 and 11."""
    if tensor.flags & 2:
        tensor.side = side = header.varint(1 << 20, "the side of a plane")
        columns = math.prod(tensor.shape[1:])
        _must(side > 1 and columns and columns % (side * side) == 0, f"tensor {tensor.name}: planes of side {side}", 9)
    _must(tensor.k or not tensor.n, f"tensor {tensor.name}: weights, but no codebook", 9)
    tensor.parts = (book, header.varint())


def _read_ranked(header: _Bytes, tensor: Tensor, book: int) -> None:
    """Section 17."""
    ok = tensor.size and (tensor.k or not tensor.n or tensor.form == 5)
    _must(ok, f"tensor {tensor.name}: {tensor.n} weights of {tensor.size} elements, but no codebook", 17)
    tensor.parts = (book, header.varint(), header.varint())


def _read_book_facts(header: _Bytes, tensor: Tensor, earlier: list[Tensor], version: int) -> int:
    """Sections 4 and 10: what the header says of a codebook; returns its bytes in this section."""
    tensor.k = k = header.varint(4096, "the size of a codebook")
    form = header.varint()
    if version == 1 and form:
        form += 7
    if form >= 8:
        _must(form - 8 < len(earlier), f"tensor {tensor.name}: its codebook is in no earlier tensor", header.section)
        tensor.target, of = form - 8, earlier[form - 8]
        own = of.layout in (_CODED, _ADAPTIVE, _RANKED) and of.target < 0 and of.form != 5
        like = (of.number, of.k) == (tensor.number, k)
        _must(own and like, f"tensor {tensor.name}: it cannot share the codebook of {of.name}", 4)
        return 0
    tensor.form = form
    last = 5 if tensor.layout == _RANKED else 4
    _must(form <= last and not (form and tensor.number), f"tensor {tensor.name}: a codebook of form {form}", 10)
    if form < 2:
        return k * (2 if form else tensor.itemsize)
    low, high = (-(step + 1 >> 1) if step & 1 else step >> 1 for step in (header.varint(), header.varint()))
    if form == 5:
        tensor.grid, ok = (low, high), not k and len(tensor.shape) > 1 and -32768 < low <= high < 32768
        _must(ok, f"tensor {tensor.name}: numbers from {low} to {high}, with a scale for each row", 17)
        return header.varint()
    tensor.grid, entries = (low, high), high - low + (0 if low <= 0 <= high else 1)
    _must(-32768 <= low <= high <= 32768 and 0 < k <= entries, f"tensor {tensor.name}: a grid from {low} to {high}", 10)
    return (4 if form == 2 else 2) + (-(-(high - low + 1) // 8) if k < entries else 0)


# 5: streams of symbols -------------------------------------------------------------------------------------

_NONE, _CONSTANT, _FIXED, _HUFFMAN = range(4)


def _read_table(coder: int, tables: _Bytes, alphabet: int) -> Any:
    if coder == _CONSTANT:
        return tables.varint(alphabet - 1, "a symbol")
    return _read_lengths(tables, alphabet) if coder == _HUFFMAN else None


def _bits(source: _Bytes) -> Iterator[int]:
    while True:
        byte = source.byte()
        yield from (byte >> shift & 1 for shift in range(7, -1, -1))


def _read_lengths(tables: _Bytes, alphabet: int) -> list[int]:
    lengths: list[int] = []
    count = tables.varint(alphabet, "the number of code lengths")
    bits, used, previous = _bits(tables), 0, 0
    for _ in range(count):
        ones = 0
        while ones < 3 and next(bits):
            ones += 1
        used += min(ones + 1, 3)
        if ones < 3:
            previous += (0, 1, -1)[ones]
        else:
            length = next(bits) << 3 | next(bits) << 2 | next(bits) << 1 | next(bits)
            _must(abs(length - previous) > 1, "a code length is not in its shortest form", 5)
            previous, used = length, used + 4
        _must(0 <= previous <= 15, f"a code length of {previous}", 5)
        lengths.append(previous)
    _must(not any(next(bits) for _ in range(-used % 8)), "padding bits are not 0", 5)
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
    order = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    width = order[-1][0]
    repeats = [1 << width - length for length, _ in order]
    code = np.repeat(np.array([symbol << 4 | length for length, symbol in order], np.uint32), repeats)
    lanes = 1 if count < 1 << 17 else 1 << (count // 2048).bit_length() - 1
    if lanes == 1:
        return _lane(stream, count, code, width)
    source = _Bytes(stream, 5)
    sizes = np.frombuffer(source.take(2 * lanes), "<u2").tolist()
    symbols = np.empty(count, np.uint16)
    for lane, size in enumerate(sizes):
        symbols[lane::lanes] = _lane(source.take(size), len(range(lane, count, lanes)), code, width)
    source.end()
    return symbols


def _lane(data: bytes, count: int, code: Array, width: int) -> Array:
    """The code word at each bit is looked up for all bits at once, and then it is a walk from word to word."""
    bit = np.arange(8 * len(data) + 1)
    padded = np.frombuffer(data + bytes(3), np.uint8).astype(np.uint32)
    three = padded[bit >> 3] << 16 | padded[(bit >> 3) + 1] << 8 | padded[(bit >> 3) + 2]
    words = code[three >> (24 - width - (bit & 7)).astype(np.uint32) & np.uint32((1 << width) - 1)]
    steps, here, places = (words & 15).tolist(), 0, []
    try:
        for _ in range(count):
            places.append(here)
            here += steps[here]
    except IndexError:
        raise FormatError("a Huffman stream ends before its last symbol", 5) from None
    left = 8 * len(data) - here
    _must(0 <= left < 8, "a Huffman stream does not end with its last symbol", 5)
    _must(not left or not data[-1] & (1 << left) - 1, "padding bits are not 0", 5)
    return (words[places] >> 4).astype(np.uint16)


# 4: codebook indices and relative offsets ------------------------------------------------------------------


def _decode_coded(tensor: Tensor, section: _Bytes, book: Array) -> Array:
    _, tables, offsets, weights = (section.take(part) for part in tensor.parts)
    reader, (offset_coder, weight_coder) = _Bytes(tables, 4), tensor.coders
    n, b, zero = tensor.n, tensor.b, np.zeros(1, book.dtype)
    offset_table = _read_table(offset_coder, reader, 1 << b)
    if weight_coder == 4:
        _must(len(weights) == n * tensor.itemsize, f"{len(weights)} bytes of {n} literal weights", 4)
        found = np.frombuffer(weights, book.dtype)
        _must(found.all(), "a literal weight is zero", 4)
    else:
        entries = book if b else np.concatenate((zero, book))
        table = _read_table(weight_coder, reader, len(entries))
        found = entries[_symbols(weight_coder, table, weights, n if b else tensor.size, len(entries))]
    reader.end()
    if not b:
        _must(np.count_nonzero(found) == n, f"there are not {n} weights", 4)
        return found
    return _placed(
        _symbols(offset_coder, offset_table, offsets, n + tensor.fillers, 1 << b), (1 << b) - 1, found, tensor
    )


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


def _elements(section: _Bytes, count: int, size: int) -> Array:
    """So many elements of `size` bytes: an array of bytes (count, size)."""
    return np.stack([_plane(section, count) for _ in range(size)], axis=1)


def _decode_rows(tensor: Tensor, section: _Bytes) -> Array:
    count, size = tensor.shape[0], tensor.itemsize
    kinds, columns = _plane(section, count, 16), tensor.size // count
    out = np.empty((count, columns, size), np.uint8)
    for kind in np.unique(kinds):
        rows, width = kinds == kind, columns if kind else 1
        out[rows] = _elements(section, int(rows.sum()) * width, size).reshape(-1, width, size)
    return out


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


@cache
def _tables() -> tuple[list[int], list[int]]:
    """Squash, whose first entry is that of -2880, and stretch."""
    squash = np.rint(65536 / (1 + np.exp(-np.arange(-2880, 2881) / 256))).clip(1, 65535).astype(int)
    p = np.arange(1, 65536, dtype=np.float64)
    stretch = np.rint(256 * np.log(p / (65536 - p))).clip(-2880, 2880).astype(int)
    return squash.tolist(), [-2880, *stretch.tolist()]


class _Model:
    """What a decoder knows of one tensor: R rows, C columns, planes of P columns, lines of W; slots in one list."""

    def __init__(self, tensor: Tensor, k: int, z: int) -> None:
        shape, size = tensor.shape, tensor.size
        self.size, self.m, self.k, self.z, self.by_column = size, tensor.n, k, z, tensor.flags & 1
        self.rows = shape[0] if len(shape) > 1 else 1
        self.columns = self.plane = self.width = size // self.rows
        if tensor.side:
            self.plane, self.width = tensor.side * tensor.side, tensor.side
        elif len(shape) > 2:
            self.plane, self.width = math.prod(shape[2:]), shape[-1]
        self.squash, self.stretch = _tables()
        d = min(max((tensor.n << 30) // size, 1 << 15), (1 << 30) - (1 << 15))
        self.fresh = min(max((1 << 26) // min(d, (1 << 30) - d), 2), 2000)
        self.base = self.stretch[d >> 14]
        counts = [min(n, 65536) for n in (self.rows, self.columns, self.columns // self.plane, self.plane)]
        # Where the slots of rows, columns, planes, places, and of the tables beside, before, gap, joint start.
        self.at = list(accumulate([0, *counts, 64, 16, 64]))
        self.v = [d] * sum(counts) + [0] * 749
        self.count = [self.fresh] * sum(counts) + [0] * 749
        self.trees: dict[int, int] = {}
        self.zero_weights = [-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621]
        self.entry_weights = [-23593, 7209, 3277, 47841, 8847, 7864]
        self.classes = [
            0,
            *(1 + 3 * j // z for j in range(z - 1, -1, -1)),
            *(4 + 3 * j // (k - z) for j in range(k - z)),
        ]
        # Of each row and column: the last weight, the balance of signs, the magnitude of late.
        self.seen = [[[0, 4, 0] for _ in range(count)] for count in counts[:2]]
        self.symbols, self.gap = array("H", bytes(2 * size)), 0

    def decode(self, start: int, stop: int, data: bytes) -> None:
        """Elements `start` to `stop` in the order of coding, from the bytes of their block."""
        _must(not data or data[0], "a block starts with 0", 11)
        self.data, self.read, self.x = data, 0, 0
        self.refill()
        for index in range(start, stop):
            if not self.m:
                break
            c, r = divmod(index, self.rows) if self.by_column else divmod(index, self.columns)[::-1]
            a, o = divmod(c, self.plane)
            here, (y, x), left = r * self.columns + c, divmod(o, self.width), self.size - index
            if self.m == left or self.is_weight(here, r, c, a, o, y, x, left):
                self.gap, self.m = 0, self.m - 1
                self.symbols[here] = self.entry(here, r, c, y, x)
            else:
                self.gap += 1
        _must(not self.x and self.read == len(data), "a block does not end with its last decision", 11)

    def refill(self) -> None:
        while self.x < 1 << 24 and self.read < len(self.data):
            self.x = self.x << 8 | self.data[self.read]
            self.read += 1

    def is_weight(self, here: int, r: int, c: int, a: int, o: int, y: int, x: int, left: int) -> int:
        at, v, stretch = self.at, self.v, self.stretch
        slots = [at[0] + (r & 65535), at[1] + (c & 65535), at[2] + (a & 65535), at[3] + (o & 65535)]
        s0 = stretch[max(1, (self.m << 16) // left)]
        s1, s2, s4, s5 = (stretch[v[slot] >> 14] for slot in slots)
        near = [v[at[1] + (column & 65535)] for column in self.around(c, o, y, x)]
        s3 = stretch[sum(near) // len(near) >> 14] if near else s2
        joint = (11 * self.step(s1, 128, 5, 10) + self.step(s2, 128, 5, 10)) * 5 + self.step(s3, 192, 2, 4)
        beside, before = self.neighbours(here, r, a, y, x)
        more = [at[4] + beside, at[5] + before, at[6] + self.gap.bit_length(), at[7] + joint]
        first = self.squash[s0 + 2880] << 14
        bit = self.mix(
            [s0, s1, s2, s3, s4, s5, *(self.logit(i, first, self.fresh) for i in more)], self.zero_weights, 32
        )
        self.learn(slots, bit, 588)
        self.learn(more, bit, 4000)
        return bit

    def step(self, s: int, unit: int, middle: int, top: int) -> int:
        return min(max((s - self.base) // unit + middle, 0), top)

    def around(self, c: int, o: int, y: int, x: int) -> list[int]:
        """The columns whose mean is S3."""
        near = [c - 1] * (x > 0) + [c - self.width] * (y > 0)
        if not self.by_column:
            near += [c + 1] * (x < self.width - 1) + [c + self.width] * (o + self.width < self.plane)
        return near

    def neighbours(self, here: int, r: int, a: int, y: int, x: int) -> tuple[int, int]:
        """The indices in the tables beside and before."""
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
        return beside | (x > 1 and found[here - 2] > 0) << 4 | (y > 1 and found[here - 2 * width] > 0) << 5, before

    def logit(self, slot: int, v: int, count: int) -> int:
        """Of a slot, which gets `v` and `count` if it has no value."""
        if not self.count[slot]:
            self.v[slot], self.count[slot] = v, count
        return self.stretch[self.v[slot] >> 14]

    def learn(self, slots: list[int], bit: int, limit: int) -> None:
        for slot in slots:
            count, v = self.count[slot], self.v[slot]
            self.v[slot] = v + (((1 << 30) - 1 - v if bit else -v) * (65536 // count) >> 16)
            self.count[slot] = count + (count < limit)

    def mix(self, inputs: list[int], weights: list[int], rate: int) -> int:
        """One decision."""
        t = sum(map(int.__mul__, weights, inputs)) >> 16
        p = self.squash[min(max(t, -2880), 2880) + 2880]
        low, high = self.x & 65535, self.x >> 16
        bit = low >= 65536 - p
        self.x = p * high + low - 65536 + p if bit else (65536 - p) * high + low
        if self.x < 1 << 24:
            self.refill()
        e = (65535 - p if bit else -p) * rate
        weights[:] = [w + (e * s >> 22) for w, s in zip(weights, inputs, strict=True)]
        return int(bit)

    def entry(self, here: int, r: int, c: int, y: int, x: int) -> int:
        """The symbol of a weight."""
        classes, row, column = self.classes, self.seen[0][r & 65535], self.seen[1][c & 65535]
        left = classes[self.symbols[here - 1]] if x else 0
        above = classes[self.symbols[here - self.width]] if y else 0
        low, high, signs = 0, self.k, 0 < self.z < self.k
        while high - low > 1:
            middle, number = (self.z, 1) if signs else (low + high >> 1, 2)
            signs = False
            tree = self.trees.setdefault(middle, len(self.v))  # 1 slot, then 7, 7, 49, 9, 9
            if tree == len(self.v):
                self.v += [1 << 29] + [0] * 81
                self.count += [65] + [0] * 81
            places = (
                1 + classes[row[0]],
                8 + classes[column[0]],
                15 + 7 * left + above,
                64 + row[number],
                73 + column[number],
            )
            slots = [tree, *(tree + place for place in places)]
            bit = self.mix([self.logit(slot, self.v[tree], 2) for slot in slots], self.entry_weights, 96)
            self.learn(slots, bit, 250)
            low, high = (middle, high) if bit else (low, middle)
        h = (classes[low + 1] - 1) % 3
        for line in (row, column):
            magnitude = min(5, 3 * line[2] + 8 * h + 2 >> 2) if line[2] else 2 * h + 1
            line[:] = [low + 1, min(max(line[1] + (1 if low >= self.z else -1), 0), 8), magnitude]
        return low + 1


def _decode_adaptive(tensor: Tensor, section: _Bytes, book: Array) -> Array:
    sign, zero = np.array(1 << 8 * tensor.itemsize - 1, book.dtype), np.zeros(1, book.dtype)
    entries = book[np.argsort(np.where(book & sign, ~book, book | sign), kind="stable")]
    section.take(tensor.parts[0])
    stream = _Bytes(section.take(tensor.parts[1]), 11)
    if not tensor.size:
        stream.end()
        return zero[:0]
    model = _Model(tensor, len(entries), int(np.count_nonzero(entries & sign)))
    for start in range(0, tensor.size, 1 << 19):
        length = stream.varint() if tensor.size > 1 << 19 else stream.left()
        model.decode(start, min(start + (1 << 19), tensor.size), stream.take(length))
    stream.end()
    return np.concatenate((zero, entries))[np.frombuffer(model.symbols, np.uint16)]


# 17 to 19: ranks and multiples -----------------------------------------------------------------------------


class _Lanes:
    """One stream of section 19: the states of its lanes, and the words that they share."""

    def __init__(self, data: bytes, lanes: int, tables: list[list[tuple[int, int, int]]]) -> None:
        head, rest = data[: 4 * lanes], data[4 * lanes :]
        _must(len(head) == 4 * lanes and len(rest) % 2 == 0, "a stream ends in the middle of a state or a word", 19)
        self.states = np.frombuffer(head, "<u4").tolist()
        _must(min(self.states) >= 1 << 16, "a state is too small", 19)
        self.words, self.at, self.tables = np.frombuffer(rest, "<u2").tolist(), 0, tables

    def _fill(self, lane: int) -> None:
        if self.states[lane] < 1 << 16:
            _must(self.at < len(self.words), "a stream ends before its last symbol", 19)
            self.states[lane] = self.states[lane] << 16 | self.words[self.at]
            self.at += 1

    def token(self, lane: int, table: int) -> int:
        x = self.states[lane]
        token, begin, frequency = self.tables[table][x & 4095]
        self.states[lane] = frequency * (x >> 12) + (x & 4095) - begin
        self._fill(lane)
        return token

    def extra(self, lane: int, count: int) -> int:
        x = self.states[lane]
        self.states[lane] = x >> count
        self._fill(lane)
        return x & (1 << count) - 1

    def end(self) -> None:
        done = self.at == len(self.words) and set(self.states) == {1 << 16}
        _must(done, "a stream does not end with its last symbol", 19)


def _start_of(number: int) -> tuple[int, int]:
    """Section 18: the base of a class of magnitudes, and its extra bits."""
    if number < 16:
        return number, 0
    octave, part = divmod(number - 16, 4)
    return (4 + part) << octave + 2, octave + 2


def _table(levels: list[int]) -> list[tuple[int, int, int]]:
    """Section 18: token, begin and frequency at each of the 4096 places."""
    sums = list(accumulate((64, 76, 91, 108)[(v - 1) % 4] << (v - 1) // 4 if v else 0 for v in levels))
    _must(sums[-1], "a table has no token", 18)
    rest, out, before = 4096 - sum(v > 0 for v in levels), [], 0
    for token, total in enumerate(sums):
        share = total * rest // sums[-1]
        frequency = share - before + (levels[token] > 0)
        out += [(token, len(out), frequency)] * frequency
        before = share
    return out


class _Static:
    """The model of section 18, and the streams of section 19."""

    def __init__(self, tensor: Tensor, raw: bytes) -> None:
        shape, source = tensor.shape, _Bytes(raw, 18)
        self.rows = shape[0] if len(shape) > 1 else 1
        planes = shape[1] if len(shape) > 2 else 1
        self.columns = tensor.size // self.rows
        places = self.columns // planes
        self.gaps, self.height = source.byte(), source.varint(self.rows, "the rows of a stream")
        self.down, self.across = divmod(source.byte(), 16)
        fits = self.gaps < 2 and self.height and self.down + self.across <= 8
        _must(fits, "a mode, or a number of rows or lanes, that there is not", 18)
        base = source.varint(512, "the base") - 256
        by_row, by_plane, by_place = (self._classes(source, count) for count in (self.rows, planes, places))
        self.by_row = [base + number for number in by_row]
        self.by_column = [a + b for a in by_plane for b in by_place]
        self.near = self._neighbours(source)
        self.own = source.byte() if self.near else 0
        count, tokens = source.byte(), source.byte()
        _must(0 < count <= 64 and 0 < tokens < 120, f"{count} tables of {tokens} tokens", 18)
        self.contexts = _plane(source, 64 if self.gaps else 128 if self.near else 32, 64).tolist()
        _must(max(self.contexts) < count, "a context has a table that there is not", 18)
        steps = _plane(source, count * tokens, 64).reshape(count, tokens)
        source.end()
        levels = np.cumsum(steps.astype(int), axis=0) & 63
        _must(levels.max() < 50, "a level is above 49", 18)
        self.tables = [_table(row) for row in levels.tolist()]

    def _classes(self, source: _Bytes, count: int) -> list[int]:
        told = source.byte()
        _must(told < 2, "classes are there or not", 18)
        return _plane(source, count, 64).tolist() if told else [0] * count  # type: ignore[no-any-return]

    def _neighbours(self, source: _Bytes) -> list[tuple[int, int, int, int]]:
        count, found = source.byte(), []
        _must(count <= (0 if self.gaps else 4), f"{count} neighbours", 18)
        for _ in range(count):
            rows, columns = source.varint(self.rows, "rows up"), source.varint(self.columns, "columns left")
            _must(rows + columns, "an element is its own neighbour", 18)
            aim = source.byte()
            found.append((rows, columns, aim - 256 if aim > 127 else aim, source.byte()))
        return found

    def decode(self, raw: bytes) -> Array:
        """All numbers, row by row."""
        source, out = _Bytes(raw, 19), []
        for start in range(0, self.rows, self.height):
            rows = min(self.height, self.rows - start)
            length = source.varint() if self.height < self.rows else source.left()
            lanes = _Lanes(source.take(length), 1 << self.down + self.across, self.tables)
            out.append((self._skip if self.gaps else self._walk)(lanes, start, rows))
            lanes.end()
        source.end()
        return np.concatenate(out)

    def _tiles(self, rows: int) -> list[tuple[range, range]]:
        height, width = -(-rows >> self.down), -(-self.columns >> self.across)
        return [
            (range(top, min(top + height, rows)), range(left, min(left + width, self.columns)))
            for top in range(0, height << self.down, height)
            for left in range(0, width << self.across, width)
        ]

    def _scale(self, row: int, column: int) -> int:
        return min(max(self.by_row[row] + self.by_column[column], 0), 31)

    def _walk(self, lanes: _Lanes, start: int, rows: int) -> Array:
        """Dense: a token for each element."""
        out, tiles = [0] * (rows * self.columns), self._tiles(rows)
        for i in range(-(-rows >> self.down)):
            for j in range(-(-self.columns >> self.across)):
                waiting = []
                for lane, (tall, wide) in enumerate(tiles):
                    if i < len(tall) and j < len(wide):
                        here = tall[i] * self.columns + wide[j]
                        context, turned = self._context(out, here, i, j, self._scale(start + tall[i], wide[j]))
                        token = lanes.token(lane, self.contexts[context])
                        waiting.append((lane, here, token, turned))
                for lane, here, token, turned in waiting:
                    first, extra = _start_of(token + 1 >> 1)
                    number = first + (lanes.extra(lane, extra) if extra else 0)
                    out[here] = -number if token % 2 != turned else number
        return np.array(out)

    def _context(self, out: list[int], here: int, i: int, j: int, scale: int) -> tuple[int, bool]:
        if not self.near:
            return scale, False
        aimed, expected = 0, self.own * ((64, 81, 102)[scale % 3] << scale // 3)
        for rows, columns, aim, size in self.near:
            if rows <= i and columns <= j:
                number = out[here - rows * self.columns - columns]
                aimed += 1024 * aim * number
                expected += 1024 * size * abs(number)
        expected >>= 5
        far = 16 * abs(aimed >> 5)
        context = 4 * sum(((56, 72, 88)[n % 3] << n // 3) <= expected for n in range(1, 32))
        return context + sum(bound * expected <= far for bound in (3, 10, 19)), aimed < 0

    def _skip(self, lanes: _Lanes, start: int, rows: int) -> Array:
        """With gaps."""
        order = sorted(range(self.columns), key=lambda column: self.by_column[column])
        out = np.zeros(rows * self.columns, int)
        paths = [[(row, order[place]) for row in tall for place in wide] for tall, wide in self._tiles(rows)]
        at = [0] * len(paths)
        while active := [lane for lane, path in enumerate(paths) if at[lane] < len(path)]:
            gaps, weights = {}, {}
            for lane in active:
                row, column = paths[lane][at[lane]]
                gaps[lane] = lanes.token(lane, self.contexts[self._scale(start + row, column)])
                _must(gaps[lane] < 60, "a gap is negative", 19)
            for lane, token in gaps.items():
                first, extra = _start_of(token)
                gaps[lane] = first + (lanes.extra(lane, extra) if extra else 0)
                at[lane] += gaps[lane]
                _must(at[lane] <= len(paths[lane]), "a gap leads out of its lane", 19)
            for lane in active:
                if at[lane] < len(paths[lane]) and gaps[lane] < 32767:
                    row, column = paths[lane][at[lane]]
                    weights[lane] = lanes.token(lane, self.contexts[32 + self._scale(start + row, column)])
                    _must(weights[lane], "a weight is zero", 19)
            for lane, token in weights.items():
                first, extra = _start_of(token + 1 >> 1)
                number = first + (lanes.extra(lane, extra) if extra else 0)
                row, column = paths[lane][at[lane]]
                out[row * self.columns + column] = -number if token % 2 else number
                at[lane] += 1
        return out


def _decode_ranked(tensor: Tensor, section: _Bytes, owner: Tensor, book: bytes) -> Array:
    section.take(tensor.parts[0])
    model = _Static(tensor, section.take(tensor.parts[1]))
    numbers = model.decode(section.take(tensor.parts[2]))
    _must(np.count_nonzero(numbers) == tensor.n, "another number of weights is announced", 17)
    if tensor.form == 5:
        return _multiples(tensor, book, numbers)
    entries = _read_book(owner, book)
    sign = np.array(1 << 8 * tensor.itemsize - 1, entries.dtype)
    entries = entries[np.argsort(np.where(entries & sign, ~entries, entries | sign), kind="stable")]
    negative = int(np.count_nonzero(entries & sign))
    ok = -negative <= numbers.min() and numbers.max() <= len(entries) - negative
    _must(ok, "a rank is beyond the codebook", 17)
    return np.insert(entries, negative, 0)[numbers + negative]


def _multiples(tensor: Tensor, raw: bytes, numbers: Array) -> Array:
    rows, (low, high) = tensor.shape[0], tensor.grid
    _must(low <= numbers.min() and numbers.max() <= high, "a number is beyond the lowest or the highest", 17)
    source = _Bytes(raw, 17)
    scale = np.frombuffer(source.take(4), "<f4")[0]
    exponents = _plane(source, rows).astype(int)
    source.end()
    quarters = np.array([0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD], "<u4").view("<f4")
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.ldexp(scale * quarters[exponents & 3], exponents >> 2).astype("<f4")
        largest = np.float32(max(-low, high)) * steps
        values = numbers.reshape(rows, -1).astype("<f4") * steps[:, None]
    _must(scale >= 2.0**-126 and np.isfinite(largest).all() and np.isfinite(steps).all(), "a scale of a row", 17)
    return values.reshape(-1)


# The face --------------------------------------------------------------------------------------------------


class File(Mapping[str, Array]):
    """An open `.dc` file: names to arrays, each decoded when it is asked for, in the order of the file."""

    def __init__(self, data: bytes, max_bytes: int | None = None, widen: bool = True) -> None:
        """Check the header and the file's checksum; the arguments are those of `open`."""
        header, at, self.version, self._flags = _read_start(data)
        self.network, self.data, self._numbered = _read_header(header, at, self.version, self._flags)
        size = at + sum(sum(tensor.parts) for tensor in self._numbered) + 4
        _must(size == len(data), f"the header describes a file of {size} bytes, but it has {len(data)}", 1)
        _must(_crc(data[:-4]) == data[-4:], "the checksum of the file is wrong", 1)
        self.tensors = {tensor.name: tensor for tensor in self._numbered}
        self._raw, self.widen = data, widen
        self.max_bytes = max(256 << 20, 1024 * len(data)) if max_bytes is None else max_bytes

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, name: str) -> Array:
        bits = self.bits(name)
        return _widened(bits, self.tensors[name].dtype) if self.widen else bits

    def bits(self, name: str) -> Array:
        """A tensor as it is stored: dtypes that numpy has not are unsigned integers of the same width."""
        tensor = stored = self.tensors[name]
        while stored.layout in (_ALIAS, _COPY):
            stored = self._numbered[stored.target]
        self.check_size(tensor.nbytes)
        values = np.ascontiguousarray(self._decoded(stored)).reshape(-1).view(np.uint8)
        if tensor.dtype == "bool":
            _must(not values.size or values.max() < 2, f"tensor {name}: a boolean is neither 0 nor 1", 3)
        return values.view(_DTYPES[tensor.number][1]).reshape(tensor.shape)

    def check_size(self, size: int) -> None:
        """Refuse tensors of so many bytes if that is more than `max_bytes`."""
        _must(size <= self.max_bytes, f"too large: {size} bytes of tensors; raise max_bytes above {self.max_bytes}", 7)

    def _decoded(self, tensor: Tensor) -> Array:
        layout, size = tensor.layout, tensor.itemsize
        section = _Bytes(self._section(tensor), {_PLANES: 6, _ADAPTIVE: 11, _ROWS: 14, _RANKED: 17}.get(layout, 4))
        if layout in (_RAW, _SAME):
            return np.tile(np.frombuffer(section.data, np.uint8), tensor.size if layout == _SAME else 1)
        if layout == _RANKED:
            owner = self._numbered[tensor.target] if tensor.target >= 0 else tensor
            return _decode_ranked(tensor, section, owner, self._section(owner)[: owner.parts[0]])
        if layout in (_CODED, _ADAPTIVE):
            owner = self._numbered[tensor.target] if tensor.target >= 0 else tensor
            book = _read_book(owner, self._section(owner)[: owner.parts[0]])
            return (_decode_coded if layout == _CODED else _decode_adaptive)(tensor, section, book)
        values = _decode_rows(tensor, section) if layout == _ROWS else _elements(section, tensor.size, size)
        section.end()
        return values

    def _section(self, tensor: Tensor) -> bytes:
        section = self._raw[tensor.start : tensor.start + sum(tensor.parts)]
        checked = not self._flags & _CHECKED or _crc(section) == tensor.crc
        _must(checked, f"tensor {tensor.name}: its checksum is wrong", 1)
        return section


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
    """Open a `.dc` file: its path, or its bytes. Raises `FormatError`, or `OSError` if it cannot be read.

    A tensor may take `max_bytes` (`load`: all together): by default 1024 times the file, and at least 256 MiB. bfloat16
    and 8-bit floats are given as float32, or without `widen` as the bits that are stored (uint16, uint8).
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
    parser = argparse.ArgumentParser(description="Print what a .dc file holds, as JSON.")
    parser.add_argument("file", metavar="MODEL.dc")
    given = parser.parse_args(arguments)
    try:
        print(json.dumps(_contents(open(given.file))))
    except (FormatError, OSError) as error:
        print(f"Error: {given.file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
