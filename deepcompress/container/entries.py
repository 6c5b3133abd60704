"""What a header says, whichever version of the format it is written in, and the checks that hold for both."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from deepcompress.coding.adaptive import codec
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.codebooks import MAX_MULTIPLE, Form
from deepcompress.coding.dtypes import DType
from deepcompress.coding.offsets import MAX_BITS
from deepcompress.coding.rans.tokens import LARGEST
from deepcompress.coding.streams import Coder, coder_of
from deepcompress.coding.tensors import Encoding, TensorInfo
from deepcompress.errors import FormatError

MAGIC = b"\x89DC"
VERSIONS = (1, 2, 3)
UNCHECKED = 1 << 16  # bytes of a file that is verified whole, and has no other checksums
CRC_BYTES = 4
MAX_HEADER = 1 << 26
MAX_TENSORS = 1 << 18
MAX_NAME = 512
MAX_LABEL = 255
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 40

#: Characters that no name may hold (docs/format.md, section 2): controls, separators, formats, private use. They are
#: listed, because what Python calls printable grows with the Unicode tables of its version.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e00ff\U000e01f0-\U0010ffff]"
)


@dataclass(frozen=True)
class Extension:
    """Something a later writer added. A reader that does not know a required one must refuse the file."""

    name: str
    data: bytes
    required: bool = False


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: fully qualified name, facts, checksum of its section, and where the section starts."""

    name: str
    info: TensorInfo
    crc: int = 0
    start: int = 0


@dataclass(frozen=True)
class Header:
    """Everything about a file but the sections; `size` counts magic, version, lengths, header and its checksum.

    `checked`: the header and each section have checksums of their own; without, the file is verified whole.
    """

    network: str
    data: str
    entries: tuple[Entry, ...]
    extensions: tuple[Extension, ...] = ()
    size: int = 0
    version: int = 1
    checked: bool = True

    @property
    def file_size(self) -> int:
        """Bytes that the file must have: header, sections, and the file's checksum."""
        return self.size + sum(entry.info.section for entry in self.entries) + CRC_BYTES


def crc_bytes(*spans: bytes | memoryview) -> bytes:
    """CRC-32 (as in zlib and PNG) of the spans one after the other, little-endian."""
    crc = 0
    for span in spans:
        crc = zlib.crc32(span, crc)
    return crc.to_bytes(CRC_BYTES, "little")


# Checks ----------------------------------------------------------------------------------------------------


def is_printable(text: str) -> bool:
    """Whether a file may hold `text` as a name: the same with every version of Python."""
    return not _UNPRINTABLE.search(text)


def check_printable(text: str, field: str) -> None:
    """Raise a FormatError if `text` could write more than letters to a terminal."""
    if not is_printable(text):
        raise FormatError(f"header: {field} {text!a} holds characters that cannot be printed")


def checked_name(raw: bytes, names: Collection[str]) -> str:
    """A tensor's name, which is none of `names` so far."""
    name = raw.decode("utf-8", errors="replace")
    if name in names or not name or name.encode("utf-8") != raw:
        raise FormatError(f"header: tensor name {name!a} is empty, not UTF-8, or there twice")
    check_printable(name, "tensor name")
    return name


def read_shape(reader: Reader, name: str, dimensions: int) -> tuple[int, ...]:
    """So many dimensions; of an empty tensor, too, the others are bounded, for numpy multiplies them."""
    shape = tuple(reader.varint("dimension", limit=MAX_ELEMENTS) for _ in range(dimensions))
    if math.prod(dimension or 1 for dimension in shape) > MAX_ELEMENTS:
        raise FormatError(f"tensor {name}: a shape of {shape}; at most {MAX_ELEMENTS} elements are allowed")
    return shape


def checked_alias(info: TensorInfo, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    """`info`, if the tensor that it is an alias or a copy of is there and its like."""
    assert info.target is not None
    what = "an alias" if info.encoding is Encoding.ALIAS else "a copy"
    if info.target >= len(earlier):
        raise FormatError(f"tensor {name}: it is {what} of tensor {info.target}, which does not come before it")
    target = earlier[info.target].info
    chained = target.encoding is Encoding.ALIAS or (info.encoding is Encoding.COPY and target.is_reference)
    if chained or (target.shape, target.dtype) != (info.shape, info.dtype):
        raise FormatError(f"tensor {name}: it is {what} of {earlier[info.target].name}, which is not its like")
    return info


def check_coded(info: TensorInfo, name: str, earlier: Sequence[Entry]) -> None:
    """What the fields of a CODED tensor must satisfy together, so that decoding stays within `info.nbytes`."""
    literal = info.weight_coder is Coder.LITERAL
    if not info.dtype.is_float:
        raise FormatError(f"tensor {name}: only floating-point tensors are coded, not {info.dtype.name}")
    if info.offset_bits > MAX_BITS:
        raise FormatError(f"tensor {name}: offsets of {info.offset_bits} bits; at most {MAX_BITS} are allowed")
    if info.offset_bits and info.fillers * ((1 << info.offset_bits) - 1) + info.nonzeros > info.size:
        raise FormatError(
            f"tensor {name}: {info.fillers} fillers and {info.nonzeros} weights exceed its {info.size} elements"
        )
    if info.offset_coder in (Coder.LITERAL, Coder.ANS, Coder.RANS) or (
        info.offset_coder is not Coder.NONE and not info.offset_bits
    ):
        raise FormatError(f"tensor {name}: offsets coded as {info.offset_coder.name}")
    if info.weight_coder is Coder.ANS and not codec.fits(info.shape, info.scan):
        raise FormatError(f"tensor {name}: a shape of {info.shape} does not fit the scan {info.scan}")
    if literal and (info.codebook_size or not info.offset_bits):
        raise FormatError(f"tensor {name}: literal weights need offsets and no codebook")
    if info.form is not Form.ENTRIES:
        _check_form(info, name)
    if info.target is not None:
        owner = earlier[info.target].info
        has = owner.encoding is Encoding.CODED and owner.target is None and owner.form is not Form.ROWS
        if not has or (owner.dtype, owner.codebook_size) != (info.dtype, info.codebook_size):
            raise FormatError(f"tensor {name}: it cannot share the codebook of {earlier[info.target].name}")
    if info.section > info.nbytes:
        raise FormatError(f"tensor {name}: a section of {info.section} bytes is larger than the raw {info.nbytes}")


def _check_form(info: TensorInfo, name: str) -> None:
    low, high = info.grid
    if info.form is Form.ROWS and (
        len(info.shape) < 2 or info.codebook_size or low > high or max(-low, high) > LARGEST
    ):
        raise FormatError(f"tensor {name}: integers from {low} to {high} with a scale for each row of {info.shape}")
    if info.dtype is not DType.FLOAT32:
        raise FormatError(f"tensor {name}: a codebook of {info.dtype.name} stored as {info.form.name}")
    if not info.form.is_grid:
        return
    if low > high or max(-low, high) > MAX_MULTIPLE or not 0 < info.codebook_size <= info.book.multiples:
        raise FormatError(f"tensor {name}: {info.codebook_size} entries from {low} to {high} times the scale")


def pack_streams(info: TensorInfo) -> bytes:
    """The streams of a CODED tensor whose coder is not ANS."""
    out = bytes([info.offset_bits, info.offset_coder << 4 | info.weight_coder])
    out += varint(info.tables) + varint(info.weights)
    if info.offset_bits:
        out += varint(info.fillers) + varint(info.offsets)
    return out


def read_streams(reader: Reader, info: TensorInfo, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    """The inverse: `info`, which has its codebook and number of weights, with what its streams are; checked."""
    offset_bits, coders = reader.byte("bits of an offset"), reader.byte("coders")
    tables, weights = reader.varint("length of the tables"), reader.varint("length of the weights")
    info = replace(
        info,
        tables=tables,
        weights=weights,
        fillers=reader.varint("number of fillers", limit=info.size) if offset_bits else 0,
        offsets=reader.varint("length of the offsets") if offset_bits else 0,
        offset_bits=offset_bits,
        offset_coder=coder_of(coders >> 4),
        weight_coder=coder_of(coders & 15),
    )
    check_coded(info, name, earlier)
    return info
