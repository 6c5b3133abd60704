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
import operator
import re
import sys
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

__version__ = "1.1.0"
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


class _Bytes:
    """Bytes read from front to back, never beyond the end; `section` is what says what they are."""

    def __init__(self, data: bytes, section: int) -> None:
        self.data, self.at, self.section = data, 0, section

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        _must(count <= self.left(), f"{count} bytes are announced, but {self.left()} are left", self.section)
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(self.left())

    def byte(self, limit: int = 255, what: str = "a byte") -> int:
        value = self.take(1)[0]
        _must(value <= limit, f"{what} is {value}; at most {limit} is allowed", self.section)
        return value

    def varint(self, limit: int = (1 << 63) - 1, what: str = "a number") -> int:
        value = shift = 0
        while (byte := self.byte()) > 127 and shift < 63:
            value |= (byte & 127) << shift
            shift += 7
        _must(shift < 63 and (byte or not shift), f"{what} is not in its shortest form", self.section)
        value |= byte << shift
        _must(value <= limit, f"{what} is {value}; at most {limit} is allowed", self.section)
        return value

    def signed(self) -> int:
        """0, -1, 1, -2, ... are stored as 0, 1, 2, 3, ..."""
        value = self.varint()
        return -(value + 1 >> 1) if value & 1 else value >> 1

    def end(self) -> None:
        _must(not self.left(), f"{self.left()} bytes too many", self.section)


# 1, 9: the file --------------------------------------------------------------------------------------------

_DEFLATED, _CHECKED = 1, 2
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
    flags = file.byte(3, "a number of flags") if version > 1 else _CHECKED
    _must(flags & _CHECKED or len(data) <= 65536, "a file of this size must have checksums", 9)
    length = file.varint(1 << 26, "the length of the header")
    inflated = file.varint(4096, "the inflated length") if flags & _DEFLATED else 0
    header = file.take(length)
    if flags & _CHECKED:
        _must(_crc(data[: file.at]) == file.take(4), "the checksum of the header is wrong", file.section)
    return _inflate(header, inflated) if flags & _DEFLATED else header, file.at, version, flags


def _inflate(packed: bytes, size: int) -> bytes:
    stream = zlib.decompressobj(-15, zdict=_DICTIONARY)
    try:
        header = stream.decompress(packed, size + 1)
    except zlib.error:
        raise FormatError("the header cannot be inflated", 9) from None
    whole = stream.eof and not stream.unused_data and not stream.unconsumed_tail
    _must(whole and len(header) == size > 0, "the header is not inflated to what is announced", 9)
    return header


# 2: the header ---------------------------------------------------------------------------------------------

_FORBIDDEN = re.compile(
    "[\0-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U0010ffff]"
)


def _printable(raw: bytes, section: int = 2) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("a name is not UTF-8", section) from None
    _must(not _FORBIDDEN.search(text), f"the name {text!a} holds characters that are forbidden", 2)
    return text


def _read_header(raw: bytes, at: int, version: int, flags: int) -> tuple[str, str, list[Tensor]]:
    """Network, data and tensors; the first section begins at byte `at`."""
    header = _Bytes(raw, 2)

    def text() -> str:
        return _printable(header.take(header.varint(255, "the length of a name")))

    network, data = text(), text()
    for _ in range(header.varint(255, "the number of extensions")):
        flag, name = header.byte(), text()
        _must(not flag, f"the file needs extension {name}, which this reader does not know, or has flag {flag}", 2)
        header.take(header.varint())
    count = header.varint(1 << 18, "the number of tensors")
    header.section = section = (3, 9, 13)[version - 1]
    names = _lines(header) if version == 2 or flags & _DEFLATED else _sharing_names(header)
    if version > 1:  # there all names come first
        names = iter([next(names) for _ in range(count)])
    tensors: dict[str, Tensor] = {}
    for _ in range(count):
        name = _printable(next(names), section)
        _must(name and name not in tensors, f"the name {name} is there twice, or empty", section)
        tensor = tensors[name] = _read_tensor(header, name, list(tensors.values()), version)
        if flags & _CHECKED and tensor.layout not in (_ALIAS, _COPY):
            tensor.crc = header.take(4)
        tensor.start, at = at, at + sum(tensor.parts)
    header.end()
    return network, data, list(tensors.values())


def _sharing_names(header: _Bytes) -> Iterator[bytes]:
    """Names without the start that each shares with the one before."""
    name = b""
    while True:
        shared = header.varint(len(name), "the shared part of a name")
        rest = header.take(header.varint(512 - shared, "the length of a name"))
        more = rest and rest[:1] == name[shared : shared + 1]
        _must(not more, "a name shares more with the one before than it says", header.section)
        name = name[:shared] + rest
        yield name


def _lines(header: _Bytes) -> Iterator[bytes]:
    """Names that each end with a line feed."""
    while True:
        length = header.data.find(b"\n", header.at, header.at + 513) - header.at
        _must(length >= 0, "a name does not end within 512 bytes", header.section)
        yield header.take(length + 1)[:-1]


# 3, 9, 13: tensors -----------------------------------------------------------------------------------------

_DTYPES = [
    ("float32", "<f4"), ("float16", "<f2"), ("bfloat16", "<u2"), ("float64", "<f8"), ("int8", "|i1"), ("uint8", "|u1"),
    ("int16", "<i2"), ("int32", "<i4"), ("int64", "<i8"), ("bool", "|b1"), ("float8_e4m3fn", "|u1"),
    ("float8_e5m2", "|u1"), ("float8_e4m3fnuz", "|u1"), ("float8_e5m2fnuz", "|u1"), ("float8_e8m0fnu", "|u1"),
    ("float4_e2m1fn_x2", "|u1"), ("uint16", "<u2"), ("uint32", "<u4"), ("uint64", "<u8"), ("complex32", "<u4"),
    ("complex64", "<c8"), ("complex128", "<c16"),
]  # fmt: skip
_RAW, _PLANES, _CODED, _ALIAS, _SAME, _ADAPTIVE, _ROWS, _COPY, _RANKED = range(9)
_WITH_BOOKS = (0, 1, 2, 3, 10, 11, 12, 13)  # dtypes of layouts 2, 5 and 8


@dataclass
class Tensor:
    """What the header says of a tensor: its name, shape and layout, where its section starts, and its parts."""

    name: str
    number: int  # of its dtype
    shape: tuple[int, ...]
    layout: int
    flags: int
    start: int = 0
    parts: tuple[int, ...] = ()
    crc: bytes = b""
    target: Tensor | None = None  # of an alias or copy; or the tensor that owns the codebook
    k: int = 0
    form: int = 0
    ends: tuple[int, int] = (0, 0)  # lowest and highest
    n: int = 0
    b: int = 0
    coders: tuple[int, int] = (0, 0)
    fillers: int = 0
    side: int = 0

    def __post_init__(self) -> None:
        """What follows from dtype and shape."""
        self.dtype, store = _DTYPES[self.number]
        self.size, self.itemsize = math.prod(self.shape), np.dtype(store).itemsize
        self.nbytes = self.size * self.itemsize


def _read_tensor(header: _Bytes, name: str, earlier: Sequence[Tensor], version: int) -> Tensor:
    section, (high, low) = header.section, divmod(header.byte(), 16)
    if version == 1:
        layout, number, flags, rank = high, low, 0, header.varint(8, "the number of dimensions")
    else:
        rank, number = high, _wide(header, low, version)
        flags, layout = divmod(header.byte(), 16)
        layout = _wide(header, layout, version)
    known = number < (10, 10, 22)[version - 1] and layout < (4, 6, 9)[version - 1]
    _must(known, f"tensor {name}: dtype {number} or layout {layout} is unknown", section)
    _must(rank <= 8, f"tensor {name}: {rank} dimensions", section)
    _must(flags < (4 if layout == _ADAPTIVE and rank > 1 else 1), f"tensor {name}: flags {flags} mean nothing", section)
    shape = tuple(header.varint(1 << 40, "a dimension") for _ in range(rank))
    _must(math.prod(n or 1 for n in shape) <= 1 << 40, f"tensor {name}: too many elements", section)
    tensor = Tensor(name, number, shape, layout, flags)
    if layout in (_CODED, _ADAPTIVE, _RANKED):
        _must(number in _WITH_BOOKS, f"tensor {name}: {tensor.dtype} cannot be coded", 4)
        book = _read_book_fields(header, tensor, earlier, version)
        tensor.n = header.varint(tensor.size, "the number of weights")
        fields = {_CODED: _coded_fields, _ADAPTIVE: _adaptive_fields, _RANKED: _ranked_fields}[layout]
        tensor.parts = book, *fields(header, tensor)
    else:
        tensor.parts = _plain_fields(header, tensor, earlier)
    _must(sum(tensor.parts) <= tensor.nbytes, f"tensor {name}: its section is longer than its elements", section)
    return tensor


def _wide(header: _Bytes, number: int, version: int) -> int:
    """Section 13: 15 says that a number follows in a byte of its own."""
    if version < 3 or number < 15:
        return number
    number = header.byte()
    _must(number >= 15, "a number that fits into 4 bits is in a byte of its own", 13)
    return number


def _plain_fields(header: _Bytes, tensor: Tensor, earlier: Sequence[Tensor]) -> tuple[int, ...]:
    name, layout, size = tensor.name, tensor.layout, tensor.size
    if layout == _RAW:
        return (tensor.nbytes,)
    if layout == _SAME:
        _must(size > 1, f"tensor {name}: {size} elements stored as a constant", 9)
        return (tensor.itemsize,)
    if layout in (_PLANES, _ROWS):
        _must(layout == _PLANES or (len(tensor.shape) > 1 and size), f"tensor {name} has no rows", 13)
        return (header.varint(tensor.nbytes, "the length of a section"),)
    tensor.target = of = earlier[header.varint(len(earlier) - 1, "the number of a tensor")]
    like = (of.number, of.shape) == (tensor.number, tensor.shape)
    stores = of.layout != _ALIAS and not layout == of.layout == _COPY
    _must(like and stores, f"tensor {name} cannot be that of {of.name}", header.section)
    return ()


def _coded_fields(header: _Bytes, tensor: Tensor) -> tuple[int, ...]:
    """Section 4."""
    header.section, name = 4, tensor.name
    tensor.b = b = header.byte(12, "the width of an offset")
    tensor.coders = offset, weight = divmod(header.byte(), 16)
    tables, weights = header.varint(), header.varint()
    tensor.fillers = header.varint(tensor.size, "the number of fillers") if b else 0
    offsets = header.varint() if b else 0
    _must(tensor.fillers * ((1 << b) - 1) + tensor.n <= tensor.size, f"tensor {name}: too many fillers", 4)
    _must(offset < (4 if b else 1) and weight < 5, f"tensor {name}: coders {offset}, {weight}", 4)
    _must(weight != 4 or (b and not tensor.k), f"tensor {name}: literal weights", 4)
    return tables, offsets, weights


def _adaptive_fields(header: _Bytes, tensor: Tensor) -> tuple[int, ...]:
    """Sections 9 and 11."""
    if tensor.flags & 2:
        tensor.side = side = header.varint(1 << 20, "the side of a plane")
        columns = math.prod(tensor.shape[1:])
        _must(side > 1 and columns and columns % side**2 == 0, f"tensor {tensor.name}: planes of side {side}", 9)
    _must(tensor.k or not tensor.n, f"tensor {tensor.name}: weights, but no codebook", 9)
    return (header.varint(),)


def _ranked_fields(header: _Bytes, tensor: Tensor) -> tuple[int, ...]:
    """Section 17."""
    fits = tensor.size and (tensor.k or not tensor.n or tensor.form == 5)
    _must(fits, f"tensor {tensor.name}: {tensor.n} weights of {tensor.size} elements, but no codebook", 17)
    return header.varint(), header.varint()


def _read_book_fields(header: _Bytes, tensor: Tensor, earlier: Sequence[Tensor], version: int) -> int:
    """Sections 4, 10 and 17: what the header says of a codebook; returns its bytes in this section."""
    name, section = tensor.name, 4 if version == 1 else 10
    tensor.k = k = header.varint(4096, "the size of a codebook")
    form = header.varint()
    owner = form - (1 if version == 1 else 8)
    if owner >= 0:
        _must(owner < len(earlier), f"tensor {name}: its codebook is in no earlier tensor", section)
        tensor.target = of = earlier[owner]
        own = of.layout in (_CODED, _ADAPTIVE, _RANKED) and of.target is None and of.form != 5
        like = (of.number, of.k) == (tensor.number, k)
        _must(own and like, f"tensor {name}: it cannot share the codebook of {of.name}", section)
        return 0
    tensor.form, last = form, 5 if tensor.layout == _RANKED else 4
    _must(form <= last and not (form and tensor.number), f"tensor {name}: a codebook of form {form}", 10)
    if form < 2:
        return k * (2 if form else tensor.itemsize)
    tensor.ends = low, high = header.signed(), header.signed()
    if form == 5:
        fits = not k and len(tensor.shape) > 1 and -32768 < low <= high < 32768
        _must(fits, f"tensor {name}: numbers from {low} to {high}, with a scale for each row", 17)
        return header.varint()
    entries = high - low + (0 if low <= 0 <= high else 1)
    _must(-32768 <= low <= high <= 32768 and 0 < k <= entries, f"tensor {name}: a grid from {low} to {high}", 10)
    return (4 if form == 2 else 2) + (-(-(high - low + 1) // 8) if k < entries else 0)


# 5: streams of symbols -------------------------------------------------------------------------------------


def _symbols(coder: int, tables: _Bytes, count: int, alphabet: int, stream: bytes | None = None) -> Array:
    """So many symbols; the table comes next in `tables`, and the stream is what is left there unless it is given."""
    _must(coder < 4, f"coder {coder} is unknown", tables.section)
    symbol = tables.varint(alphabet - 1, "a symbol") if coder == 1 else 0
    lengths = _read_lengths(tables, alphabet) if coder == 3 else []
    stream = tables.rest() if stream is None else stream
    if coder == 2:
        return _fixed(stream, count, alphabet)
    if coder == 3:
        return _huffman(stream, count, lengths)
    _must(not stream and (coder or not count), f"{count} symbols in {len(stream)} bytes without a code", 5)
    return np.full(count, symbol, np.uint16)


def _read_lengths(tables: _Bytes, alphabet: int) -> list[int]:
    """The code length of each symbol, from their differences."""
    lengths, length = [], 0
    count = tables.varint(alphabet, "the number of code lengths")
    bits = "".join(f"{byte:08b}" for byte in tables.data[tables.at :][: count + 1])  # a length has 7 bits at most
    at = 0
    for _ in range(count):
        ones = next((n for n in range(3) if bits[at + n : at + n + 1] != "1"), 3)
        before, at = length, at + min(ones + 1, 3)
        length += (0, 1, -1, 0)[ones]
        if ones == 3:
            length, at = int(bits[at : at + 4] or "0", 2), at + 4
            _must(abs(length - before) > 1, "a code length is not in its shortest form", 5)
        _must(0 <= length <= 15, f"a code length of {length}", 5)
        lengths.append(length)
    tables.take(-(-at // 8))
    _must("1" not in bits[at : -(-at // 8) * 8], "padding bits are not 0", 5)
    _must(length and sum(2.0**-each for each in lengths if each) == 1, "the code lengths make no complete code", 5)
    return lengths


def _fixed(stream: bytes, count: int, alphabet: int) -> Array:
    width = max(1, (alphabet - 1).bit_length())
    _must(len(stream) == -(-count * width // 8), f"{len(stream)} bytes for {count} symbols of {width} bits", 5)
    bits, padding = np.split(np.unpackbits(np.frombuffer(stream, np.uint8)), [count * width])
    _must(not padding.any(), "padding bits are not 0", 5)
    words = np.zeros((count, 16), np.uint8)
    words[:, 16 - width :] = bits.reshape(count, width)
    symbols = np.packbits(words).view(">u2").astype(np.uint16)
    _must((symbols < alphabet).all(), "a symbol is beyond its alphabet", 5)
    return symbols


def _huffman(stream: bytes, count: int, lengths: list[int]) -> Array:
    """Symbols in canonical code words; 2^17 and more are in lanes."""
    _must(count <= 8 * len(stream), f"{len(stream)} bytes cannot hold {count} symbols", 5)
    symbols = np.argsort(lengths, kind="stable")[lengths.count(0) :]
    known = np.array(lengths)[symbols]
    width = max(lengths)
    code = np.repeat(symbols << 4 | known, 1 << width - known)
    if count < 1 << 17:
        return _lane(stream, count, code, width)
    lanes, source = 1 << (count // 2048).bit_length() - 1, _Bytes(stream, 5)
    out = np.empty(count, np.uint16)
    for lane, size in enumerate(np.frombuffer(source.take(2 * lanes), "<u2").tolist()):
        out[lane::lanes] = _lane(source.take(size), len(range(lane, count, lanes)), code, width)
    source.end()
    return out


def _lane(data: bytes, count: int, code: Array, width: int) -> Array:
    """The code word that would begin at each bit is looked up for all bits at once; the symbols are a walk over it."""
    bit = np.arange(8 * len(data) + 1)
    padded = np.frombuffer(data + bytes(3), np.uint8).astype(np.int32)
    three = (padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:])[bit >> 3]
    words = code[three >> 24 - width - (bit & 7) & (1 << width) - 1]
    steps, at, places = (words & 15).tolist(), 0, []
    try:
        for _ in range(count):
            places.append(at)
            at += steps[at]
    except IndexError:
        raise FormatError("a Huffman stream ends before its last symbol", 5) from None
    left = 8 * len(data) - at
    _must(0 <= left < 8, "a Huffman stream does not end with its last symbol", 5)
    _must(not left or not data[-1] & (1 << left) - 1, "padding bits are not 0", 5)
    return (words[places] >> 4).astype(np.uint16)


# 4: codebook indices and relative offsets ------------------------------------------------------------------


def _decode_coded(tensor: Tensor, section: _Bytes, book: Array) -> Array:
    tables, offsets, weights = (section.take(part) for part in tensor.parts[1:])
    codes, (offset_coder, coder), n, b = _Bytes(tables, 4), tensor.coders, tensor.n, tensor.b
    steps = _symbols(offset_coder, codes, n + tensor.fillers if b else 0, 1 << b, offsets)
    if coder == 4:
        _must(len(weights) == n * tensor.itemsize, f"{len(weights)} bytes of {n} literal weights", 4)
        found = np.frombuffer(weights, book.dtype)
        _must(found.all(), "a literal weight is zero", 4)
    else:
        entries = book if b else np.insert(book, 0, 0)
        found = entries[_symbols(coder, codes, n if b else tensor.size, len(entries), weights)]
    codes.end()
    if b:
        return _placed(steps, (1 << b) - 1, found, tensor)
    _must(np.count_nonzero(found) == n, f"there are not {n} weights", 4)
    return found


def _placed(steps: Array, filler: int, found: Array, tensor: Tensor) -> Array:
    """Weights where the offsets say."""
    weight = steps != filler
    ends = np.cumsum(steps + weight.astype(np.int64))
    fits = not len(steps) or (weight[-1] and ends[-1] <= tensor.size)
    _must(fits and np.count_nonzero(weight) == tensor.n, f"the offsets do not place {tensor.n} weights", 4)
    values = np.zeros(tensor.size, found.dtype)
    values[ends[weight] - 1] = found
    return values


# 6, 14: byte planes, rows ----------------------------------------------------------------------------------


def _plane(source: _Bytes, count: int, alphabet: int = 256) -> Array:
    coder = source.byte()
    return _symbols(coder, _Bytes(source.take(source.varint()), source.section), count, alphabet).astype(np.uint8)


def _elements(source: _Bytes, count: int, size: int) -> Array:
    """So many elements of `size` bytes: an array of bytes (count, size)."""
    return np.stack([_plane(source, count) for _ in range(size)], axis=1)


def _decode_rows(tensor: Tensor, source: _Bytes) -> Array:
    count, size = tensor.shape[0], tensor.itemsize
    kinds, columns = _plane(source, count, 16), tensor.size // count
    out = np.empty((count, columns, size), np.uint8)
    for kind in np.unique(kinds):
        rows, width = kinds == kind, columns if kind else 1
        out[rows] = _elements(source, int(rows.sum()) * width, size).reshape(-1, width, size)
    return out


# 10: codebooks ---------------------------------------------------------------------------------------------


def _read_book(tensor: Tensor, raw: bytes) -> Array:
    """The entries as bits, in the order in which they are stored."""
    if tensor.form == 0:
        entries = np.frombuffer(raw, f"<u{tensor.itemsize}")
    else:
        values = np.frombuffer(raw, "<f2").astype("<f4") if tensor.form == 1 else _read_grid(tensor, raw)
        _must(np.isfinite(values).all(), "a codebook entry is not finite", 10)
        entries = values.view("<u4")
    sound = entries.all() and len(np.unique(entries)) == len(entries)
    _must(sound, "a codebook holds a value twice, or zero", 10 if tensor.form else 4)
    return entries


def _read_grid(tensor: Tensor, raw: bytes) -> Array:
    wide = 4 if tensor.form == 2 else 2
    mask = np.unpackbits(np.frombuffer(raw[wide:], np.uint8))
    scale = float(np.frombuffer(raw[:2], "<f2")[0] if tensor.form == 3 else _upper(raw[:wide]))
    steps = np.arange(tensor.ends[0], tensor.ends[1] + 1)
    if len(mask):
        _must(not mask[len(steps) :].any(), "padding bits are not 0", 10)
        steps = steps[np.flatnonzero(mask)]
    else:
        steps = steps[steps != 0]
    _must(steps.all() and len(steps) == tensor.k, f"the mask does not name {tensor.k} entries", 10)
    _must(scale > 0, "the scale of a codebook is not positive", 10)
    with np.errstate(over="ignore"):
        return (scale * steps).astype("<f4")


def _upper(raw: bytes) -> Any:
    """The float32 that begins, from its most significant byte down, with these."""
    return np.frombuffer(raw.rjust(4, b"\0"), "<f4")[0]


def _sorted_book(book: Array) -> tuple[Array, int]:
    """Section 11: entries with the sign bit in falling magnitude, then the others, and how many have it."""
    sign = np.array(1 << 8 * book.itemsize - 1, book.dtype)
    order = np.argsort(np.where(book & sign, ~book, book | sign), kind="stable")
    return book[order], int(np.count_nonzero(book & sign))


# 11: the adaptive model ------------------------------------------------------------------------------------

_WHETHER = [-17695, 11141, 11469, 5243, -1311, 4588, 15729, 13107, 10813, 2621]  # of S0, S3, and then the others
_WHICH = [-23593, 7209, 3277, 47841, 8847, 7864]


@cache
def _curves() -> tuple[list[int], list[int]]:
    """Squash, whose first value is that of -2880, and stretch."""
    squash = np.rint(65536 / (1 + np.exp(-np.arange(-2880, 2881) / 256))).clip(1, 65535)
    p = np.arange(1, 65536, dtype=np.float64)
    stretch = np.rint(256 * np.log(p / (65536 - p))).clip(-2880, 2880)
    return squash.astype(int).tolist(), [-2880, *stretch.astype(int).tolist()]


class _Adaptive:
    """A decoder of one tensor. A slot is a list [v, count], under the number of its table and its index there."""

    def __init__(self, tensor: Tensor, k: int, z: int) -> None:
        shape, size = tensor.shape, tensor.size
        self.size, self.k, self.z, self.left, self.gap = size, k, z, tensor.n, 0
        self.rows = shape[0] if len(shape) > 1 else 1
        self.columns = self.plane = self.line = size // self.rows
        if tensor.side:
            self.plane, self.line = tensor.side**2, tensor.side
        elif len(shape) > 2:
            self.plane, self.line = math.prod(shape[2:]), shape[-1]
        self.squash, self.stretch = _curves()
        self.density = d = min(max((tensor.n << 30) // size, 1 << 15), (1 << 30) - (1 << 15))
        self.fresh = min(max((1 << 26) // min(d, (1 << 30) - d), 2), 2000)
        self.middle, self.by_column = self.stretch[d >> 14], tensor.flags & 1
        self.slots: dict[tuple[int, ...], list[int]] = {}
        self.seen: dict[
            tuple[str, int], list[int]
        ] = {}  # of rows and columns: class of the last weight, balance, magnitude
        negative, positive = range(z - 1, -1, -1), range(k - z)
        self.classes = [0, *(1 + 3 * j // z for j in negative), *(4 + 3 * j // (k - z) for j in positive)]
        self.whether, self.which = _WHETHER[:], _WHICH[:]
        self.symbols = array("H", bytes(2 * size))

    def decode(self, block: range, data: bytes) -> None:
        """The elements of a block, in the order of coding."""
        _must(not data or data[0], "a block starts with 0", 11)
        self.data, self.at, self.x = data, 0, 0
        self.refill()
        for index in block:
            if not self.left:
                break
            c, r = divmod(index, self.rows) if self.by_column else divmod(index, self.columns)[::-1]
            after = self.size - index
            if self.left == after or self.is_weight(r, c, after):
                self.symbols[r * self.columns + c] = self.entry(r, c)
                self.gap, self.left = 0, self.left - 1
            else:
                self.gap += 1
        _must(not self.x and self.at == len(data), "a block does not end with its last decision", 11)

    def refill(self) -> None:
        while self.x < 1 << 24 and self.at < len(self.data):
            self.x = self.x << 8 | self.data[self.at]
            self.at += 1

    def slot(self, value: int, count: int, *key: int) -> list[int]:
        """The slot of a key, which gets a value and a count if it has none."""
        return self.slots.get(key) or self.slots.setdefault(key, [value, count])

    def decide(self, more: list[int], slots: list[list[int]], weights: list[int], rate: int, limits: list[int]) -> bool:
        """One decision, by the logits `more` and those of the slots; all of them learn."""
        logits = [*more, *(self.stretch[slot[0] >> 14] for slot in slots)]
        p = self.squash[min(max(sum(map(operator.mul, weights, logits)) >> 16, -2880), 2880) + 2880]
        low, high = self.x & 65535, self.x >> 16
        bit = low >= 65536 - p
        self.x = p * high + low - 65536 + p if bit else (65536 - p) * high + low
        if self.x < 1 << 24:
            self.refill()
        error, target = ((65535 - p) * rate, (1 << 30) - 1) if bit else (-p * rate, 0)
        weights[:] = [w + (error * s >> 22) for w, s in zip(weights, logits, strict=True)]
        for slot, limit in zip(slots, limits, strict=True):
            v, count = slot
            slot[0] = v + ((target - v) * (65536 // count) >> 16)
            if count < limit:
                slot[1] = count + 1
        return bit

    def is_weight(self, r: int, c: int, after: int) -> bool:
        (a, o), found, d = divmod(c, self.plane), self.symbols, self.density
        (y, x), here, line = divmod(o, self.line), r * self.columns + c, self.line

        # Bits: whether the elements there are weights
        near = (x > 0 and found[here - 1] > 0) | (y > 0 and found[here - line] > 0) << 1
        before = (r > 0 and found[here - self.columns] > 0) | (a > 0 and found[here - self.plane] > 0) << 1 | near << 2
        beside = near | (x > 1 and found[here - 2] > 0) << 4 | (y > 1 and found[here - 2 * line] > 0) << 5
        if y:
            beside |= (x > 0 and found[here - line - 1] > 0) << 2 | (x < line - 1 and found[here - line + 1] > 0) << 3
        slots = [self.slot(d, self.fresh, table, at & 65535) for table, at in enumerate((r, c, a, o))]
        s0 = self.stretch[max(1, (self.left << 16) // after)]
        s1, s2 = (self.stretch[slot[0] >> 14] for slot in slots[:2])
        around = [self.slots.get((1, column & 65535), (d,))[0] for column in self.around(c, o, x, y)]
        s3 = self.stretch[sum(around) // len(around) >> 14] if around else s2
        joint = (11 * self.held(s1, 128, 5) + self.held(s2, 128, 5)) * 5 + self.held(s3, 192, 2)
        first = self.squash[s0 + 2880] << 14
        for table, at in enumerate((beside, before, self.gap.bit_length(), joint), start=4):
            slots.append(self.slot(first, self.fresh, table, at))
        return self.decide([s0, s3], slots, self.whether, 32, [588] * 4 + [4000] * 4)

    def held(self, s: int, unit: int, most: int) -> int:
        return min(max((s - self.middle) // unit, -most), most) + most

    def around(self, c: int, o: int, x: int, y: int) -> list[int]:
        """The columns whose mean is S3."""
        near = [c - 1] * (x > 0) + [c - self.line] * (y > 0)
        if not self.by_column:
            near += [c + 1] * (x < self.line - 1) + [c + self.line] * (o + self.line < self.plane)
        return near

    def entry(self, r: int, c: int) -> int:
        """The symbol of a weight."""
        y, x = divmod(c % self.plane, self.line)
        here, classes = r * self.columns + c, self.classes
        left = classes[self.symbols[here - 1]] if x else 0
        above = classes[self.symbols[here - self.line]] if y else 0
        row, column = (self.seen.setdefault(key, [0, 4, 0]) for key in (("r", r & 65535), ("c", c & 65535)))
        low, high, signs = 0, self.k, 0 < self.z < self.k
        while high - low > 1:
            middle, number = (self.z, 1) if signs else (low + high >> 1, 2)
            first, signs = self.slot(1 << 29, 65, 8, middle), False
            contexts = row[0], column[0], 7 * left + above, row[number], column[number]
            keys = ((table, middle, context) for table, context in enumerate(contexts, start=9))
            slots = [first, *(self.slot(first[0], 2, *key) for key in keys)]
            low, high = (middle, high) if self.decide([], slots, self.which, 96, [250] * 6) else (low, middle)
        found = classes[low + 1]
        h = (found - 1) % 3
        for line in (row, column):
            magnitude = min(5, 3 * line[2] + 8 * h + 2 >> 2) if line[2] else 2 * h + 1
            line[:] = found, min(max(line[1] + (1 if low >= self.z else -1), 0), 8), magnitude
        return low + 1


def _decode_adaptive(tensor: Tensor, section: _Bytes, book: Array) -> Array:
    entries, z = _sorted_book(book)
    if tensor.size:
        model, stream, size = _Adaptive(tensor, len(entries), z), _Bytes(section.rest(), 11), 1 << 19
        for start in range(0, tensor.size, size):
            length = stream.varint() if tensor.size > size else stream.left()
            model.decode(range(start, min(start + size, tensor.size)), stream.take(length))
        stream.end()
        return np.insert(entries, 0, 0)[np.frombuffer(model.symbols, np.uint16)]
    section.end()
    return entries[:0]


# 17 to 19: ranks and multiples -----------------------------------------------------------------------------


class _Lanes:
    """One stream of section 19: the states of its lanes, the words that they share, and the tables, stacked."""

    def __init__(self, data: bytes, count: int, tables: Array) -> None:
        source = _Bytes(data, 19)
        self.x = np.frombuffer(source.take(4 * count), "<u4").astype(np.int64)
        rest = source.rest()
        fits = len(rest) % 2 == 0 and (self.x >= 1 << 16).all()
        _must(fits, "a stream ends in the middle of a word, or a state is too small", 19)
        self.words, self.at, self.tables = np.frombuffer(rest, "<u2").astype(np.int64), 0, tables

    def _become(self, lanes: Array, x: Array) -> None:
        """The new states of these lanes; those that are too small take a word in turn."""
        low = np.flatnonzero(x < 1 << 16)
        words = self.words[self.at : self.at + len(low)]
        _must(len(words) == len(low), "a stream ends before its last symbol", 19)
        x[low] = x[low] << 16 | words
        self.at += len(low)
        self.x[lanes] = x

    def tokens(self, lanes: Array, tables: Array) -> Array:
        x = self.x[lanes]
        token, frequency, place = self.tables[tables, x & 4095].T
        self._become(lanes, frequency * (x >> 12) + place)
        return token

    def magnitudes(self, lanes: Array, classes: Array) -> Array:
        """Of these classes, with their extra bits."""
        size, some = classes.copy(), np.flatnonzero(classes > 15)
        if len(some):
            extra, x = (classes[some] >> 2) - 2, self.x[lanes[some]]
            size[some] = (4 + classes[some] % 4 << extra) + (x & (1 << extra) - 1)
            self._become(lanes[some], x >> extra)
        return size

    def numbers(self, lanes: Array, tokens: Array) -> Array:
        return self.magnitudes(lanes, tokens + 1 >> 1) * np.where(tokens & 1, -1, 1)

    def end(self) -> None:
        done = self.at == len(self.words) and (self.x == 1 << 16).all()
        _must(done, "a stream does not end with its last symbol", 19)


def _table(levels: list[int]) -> Array:
    """Section 18: for each of the 4096 places its token, the frequency of that, and the place within it."""
    weights = [(64, 76, 91, 108)[(v - 1) % 4] << (v - 1) // 4 if v else 0 for v in levels]
    _must(any(levels) and max(levels) < 50, "a table has a level above 49, or no token", 18)
    free = 4096 - np.count_nonzero(levels)
    shares = np.cumsum(weights) * free // sum(weights)
    frequencies = np.diff(shares, prepend=0) + (np.array(levels) > 0)
    tokens = np.repeat(np.arange(len(levels)), frequencies)
    begins = np.cumsum(frequencies) - frequencies
    return np.stack([tokens, frequencies[tokens], np.arange(4096) - begins[tokens]], axis=1)


class _Ranked:
    """The model of section 18, and the streams of section 19; all lanes of a stream go on side by side."""

    def __init__(self, tensor: Tensor, raw: bytes) -> None:
        shape, source = tensor.shape, _Bytes(raw, 18)
        self.rows = shape[0] if len(shape) > 1 else 1
        self.columns, planes = tensor.size // self.rows, shape[1] if len(shape) > 2 else 1
        self.gaps, self.height = source.byte(1, "a mode"), source.varint(self.rows, "the rows of a stream")
        self.down, self.across = divmod(source.byte(), 16)
        _must(self.height and self.down + self.across <= 8, "a number of rows or lanes that there is not", 18)
        base, kinds = source.varint(512, "the base") - 256, (self.rows, planes, self.columns // planes)
        rows, of_planes, places = (
            _plane(source, count, 64).astype(int) if source.byte(1, "a flag of classes") else np.zeros(count, int)
            for count in kinds
        )
        self.of_rows, self.of_columns = base + rows, np.add.outer(of_planes, places).reshape(-1)
        self.near = [
            self._neighbour(source) for _ in range(source.byte(0 if self.gaps else 4, "a number of neighbours"))
        ]
        self.own = source.byte() if self.near else 0
        count, tokens = source.byte(64, "a number of tables"), source.byte(119, "a number of tokens")
        _must(count and tokens, f"{count} tables of {tokens} tokens", 18)
        self.contexts = _plane(source, 64 if self.gaps else 128 if self.near else 32, 64)
        _must(self.contexts.max() < count, "a context has a table that there is not", 18)
        levels = np.cumsum(_plane(source, count * tokens, 64).astype(int).reshape(count, tokens), axis=0) % 64
        source.end()
        self.tables = np.stack([_table(row) for row in levels.tolist()])

    def _neighbour(self, source: _Bytes) -> tuple[int, int, int, int]:
        up, left = source.varint(self.rows, "rows up"), source.varint(self.columns, "columns left")
        _must(up or left, "an element is its own neighbour", 18)
        return up, left, (source.byte() ^ 128) - 128, source.byte()

    def decode(self, raw: bytes) -> Array:
        """All numbers, (rows, columns)."""
        source, self.out = _Bytes(raw, 19), np.zeros((self.rows, self.columns), np.int16)
        for start in range(0, self.rows, self.height):
            stop = min(start + self.height, self.rows)
            length = source.varint() if self.height < self.rows else source.left()
            lanes = _Lanes(source.take(length), 1 << self.down + self.across, self.tables)
            (self._skip if self.gaps else self._walk)(lanes, start, stop)
            lanes.end()
        source.end()
        return self.out

    def _areas(self, start: int, stop: int) -> tuple[Array, Array, Array, Array]:
        """First row, first column, number of rows and number of columns of each lane."""
        tall, wide = -(start - stop >> self.down), -(-self.columns >> self.across)
        down, across = np.divmod(np.arange(1 << self.down + self.across), 1 << self.across)
        top, first = start + down * tall, across * wide
        return top, first, (stop - top).clip(0, tall), (self.columns - first).clip(0, wide)

    def _scale(self, rows: Array, columns: Array) -> Array:
        return (self.of_rows[rows] + self.of_columns[columns]).clip(0, 31)

    def _walk(self, lanes: _Lanes, start: int, stop: int) -> None:
        """Dense: a token for each element."""
        top, first, tall, wide = self._areas(start, stop)
        for i in range(tall.max()):
            for j in range(wide.max()):
                here = np.flatnonzero((tall > i) & (wide > j))
                rows, columns = top[here] + i, first[here] + j
                contexts, sign = self._context(rows, columns, i, j)
                self.out[rows, columns] = sign * lanes.numbers(here, lanes.tokens(here, self.contexts[contexts]))

    def _context(self, rows: Array, columns: Array, i: int, j: int) -> tuple[Array, Array | int]:
        scale = self._scale(rows, columns)
        if not self.near:
            return scale, 1
        aimed, expected = 0 * scale, self.own * (np.array([64, 81, 102])[scale % 3] << scale // 3)
        for up, left, aim, size in self.near:
            if up <= i and left <= j:
                number = self.out[rows - up, columns - left].astype(np.int64)
                aimed += 1024 * aim * number
                expected += 1024 * size * abs(number)
        expected >>= 5
        far = 16 * abs(aimed >> 5)
        n = np.arange(1, 32)
        level = np.searchsorted(np.array([56, 72, 88])[n % 3] << n // 3, expected, side="right")
        return 4 * level + sum(bound * expected <= far for bound in (3, 10, 19)), np.where(aimed < 0, -1, 1)

    def _skip(self, lanes: _Lanes, start: int, stop: int) -> None:
        """With gaps."""
        top, first, tall, wide = self._areas(start, stop)
        order, at, ends = np.argsort(self.of_columns, kind="stable"), 0 * top, tall * wide

        def places(here: Array) -> tuple[Array, Array]:
            down, across = np.divmod(at[here], wide[here])
            return top[here] + down, order[first[here] + across]

        while len(here := np.flatnonzero(at < ends)):
            tokens = lanes.tokens(here, self.contexts[self._scale(*places(here))])
            _must(tokens.max() < 60, "a gap of a class that there is not", 19)
            gaps = lanes.magnitudes(here, tokens)
            at[here] += gaps
            _must((at <= ends).all(), "a gap leads out of its lane", 19)
            here = here[(at[here] < ends[here]) & (gaps < 32767)]
            if len(here):
                rows, columns = places(here)
                tokens = lanes.tokens(here, self.contexts[32 + self._scale(rows, columns)])
                _must(tokens.all(), "a weight is zero", 19)
                self.out[rows, columns] = lanes.numbers(here, tokens)
                at[here] += 1


def _decode_ranked(tensor: Tensor, section: _Bytes, book: Array) -> Array:
    model, streams = (section.take(part) for part in tensor.parts[1:])
    numbers = _Ranked(tensor, model).decode(streams)
    _must(np.count_nonzero(numbers) == tensor.n, "another number of weights is announced", 17)
    entries, z = (book, 0) if tensor.form == 5 else _sorted_book(book)
    low, high = tensor.ends if tensor.form == 5 else (-z, len(entries) - z)
    _must(low <= numbers.min() and numbers.max() <= high, "a number is beyond the lowest or the highest", 17)
    if tensor.form == 5:
        return np.where(numbers, numbers.astype("<f4") * book[:, None], np.float32(0))
    return np.insert(entries, z, 0)[numbers + z]


def _read_steps(tensor: Tensor, raw: bytes) -> Array:
    """Form 5: the step of each row."""
    source = _Bytes(raw, 17)
    scale = np.frombuffer(source.take(4), "<f4")[0]
    exponents = _plane(source, tensor.shape[0]).astype(int)
    source.end()
    quarters = np.array([0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD], "<u4").view("<f4")
    low, high = tensor.ends
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.ldexp(scale * quarters[exponents & 3], exponents >> 2).astype("<f4")
        largest = np.float32(max(-low, high)) * steps
    _must(
        scale >= 2.0**-126 and np.isfinite(largest).all(), "a scale that is too small, or a step that is too large", 17
    )
    return steps


# What callers see ------------------------------------------------------------------------------------------


class File(Mapping[str, Array]):
    """An open `.dc` file: names to arrays, each decoded when it is asked for, in the order of the file."""

    def __init__(self, data: bytes, max_bytes: int | None = None, widen: bool = True) -> None:
        """Check the header and the file's checksum; the arguments are those of `open`."""
        header, at, self.version, self._flags = _read_start(data)
        self.network, self.data, tensors = _read_header(header, at, self.version, self._flags)
        size = at + sum(sum(tensor.parts) for tensor in tensors) + 4
        _must(size == len(data), f"the header describes a file of {size} bytes, but it has {len(data)}", 1)
        _must(_crc(data[:-4]) == data[-4:], "the checksum of the file is wrong", 1)
        self.tensors = {tensor.name: tensor for tensor in tensors}
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
        while stored.layout in (_ALIAS, _COPY) and stored.target:
            stored = stored.target
        self.check_size(tensor.nbytes)
        values = np.ascontiguousarray(self._decoded(stored)).reshape(-1).view(np.uint8)
        if tensor.dtype == "bool":
            _must((values < 2).all(), f"tensor {name}: a boolean is neither 0 nor 1", 3)
        return values.view(_DTYPES[tensor.number][1]).reshape(tensor.shape)

    def check_size(self, size: int) -> None:
        """Refuse tensors of so many bytes if that is more than `max_bytes`."""
        _must(size <= self.max_bytes, f"too large: {size} bytes of tensors; raise max_bytes above {self.max_bytes}", 7)

    def _decoded(self, tensor: Tensor) -> Array:
        layout, section = tensor.layout, _Bytes(self._section(tensor), 4)
        if layout in (_RAW, _SAME):
            return np.tile(np.frombuffer(section.data, np.uint8), tensor.size if layout == _SAME else 1)
        if layout in (_PLANES, _ROWS):
            section.section = 6 if layout == _PLANES else 14
            values = (
                _decode_rows(tensor, section) if layout == _ROWS else _elements(section, tensor.size, tensor.itemsize)
            )
            section.end()
            return values
        section.take(tensor.parts[0])
        owner = tensor.target or tensor
        book = (_read_steps if owner.form == 5 else _read_book)(owner, self._section(owner)[: owner.parts[0]])
        return {_CODED: _decode_coded, _ADAPTIVE: _decode_adaptive, _RANKED: _decode_ranked}[layout](
            tensor, section, book
        )

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
    if dtype == "float8_e8m0fnu":
        return np.append(2.0 ** np.arange(-127, 128), np.nan).astype("<f4")
    if dtype == "float8_e5m2":  # the upper half of a float16
        return np.arange(0, 1 << 16, 256, dtype="<u2").view("<f2").astype("<f4")
    digits, zero = 3 if "m3" in dtype else 2, dtype.endswith("fnuz")
    bias = 16 if digits == 2 else 7 + zero
    exponent, rest = np.divmod(np.arange(128), 1 << digits)
    value = np.ldexp(1.0 * rest + ((exponent > 0) << digits), np.maximum(exponent, 1) - bias - digits)
    value = np.concatenate((value, -value))
    value[[128] if zero else [127, 255]] = np.nan
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


def _contents(path: str) -> dict[str, Any]:
    """What a file holds, as JSON shows it."""
    file = open(path)
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
        print(json.dumps(_contents(given.file)))
    except (FormatError, OSError) as error:
        print(f"Error: {given.file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
