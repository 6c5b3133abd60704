"""The header of a .dc file, byte by byte as docs/format.md specifies it.

Reading is strict: every field is checked against its limit and against the file before anything is built
from it, every byte belongs to something, and there is one way to write each thing.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.offsets import MAX_BITS
from deepcompress.coding.streams import Coder
from deepcompress.coding.tensors import MAX_CODEBOOK, DType, Encoding, TensorInfo, coder_of
from deepcompress.errors import FormatError

MAGIC = b"\x89DC"
VERSION = 1
CRC_BYTES = 4
MAX_HEADER = 1 << 26
MAX_TENSORS = 1 << 18
MAX_NAME = 512
MAX_LABEL = 255
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 40


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
    crc: int
    start: int = 0


@dataclass(frozen=True)
class Header:
    """Everything about a file but the sections; `size` counts magic, version, lengths, header and its checksum."""

    network: str
    data: str
    entries: tuple[Entry, ...]
    extensions: tuple[Extension, ...] = ()
    size: int = 0
    version: int = VERSION

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


# Writing ---------------------------------------------------------------------------------------------------


def pack_header(header: Header) -> bytes:
    """The bytes of a file up to its first section."""
    body = bytearray(_text(header.network) + _text(header.data) + varint(len(header.extensions)))
    for extension in header.extensions:
        body += bytes([extension.required]) + _text(extension.name) + varint(len(extension.data)) + extension.data
    body += varint(len(header.entries))
    previous = b""
    for entry in header.entries:
        name = entry.name.encode("utf-8")
        body += _pack_name(name, previous) + _pack_info(entry.info)
        if entry.info.encoding is not Encoding.ALIAS:
            body += entry.crc.to_bytes(CRC_BYTES, "little")
        previous = name
    start = MAGIC + bytes([VERSION]) + varint(len(body)) + bytes(body)
    return start + crc_bytes(start)


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return varint(len(raw)) + raw


def _pack_name(name: bytes, previous: bytes) -> bytes:
    """How many bytes the name shares with the one before it, and the rest."""
    shared = 0
    while shared < min(len(name), len(previous)) and name[shared] == previous[shared]:
        shared += 1
    return varint(shared) + varint(len(name) - shared) + name[shared:]


def _pack_info(info: TensorInfo) -> bytes:
    out = bytes([info.encoding << 4 | info.dtype]) + varint(len(info.shape)) + b"".join(map(varint, info.shape))
    if info.encoding is Encoding.PLANES:
        out += varint(info.weights)
    if info.encoding is Encoding.ALIAS:
        assert info.target is not None
        out += varint(info.target)
    if info.encoding is Encoding.CODED:
        out += varint(info.codebook_size) + varint(0 if info.target is None else info.target + 1)
        out += varint(info.nonzeros) + bytes([info.offset_bits, info.offset_coder << 4 | info.weight_coder])
        out += varint(info.tables) + varint(info.weights)
        if info.offset_bits:
            out += varint(info.fillers) + varint(info.offsets)
    return out


# Reading ---------------------------------------------------------------------------------------------------


def header_span(start: bytes, file_size: int) -> int:
    """How many bytes of a file its header takes, from the file's first bytes (16 are enough) and its size.

    Raises:
        FormatError: not a .dc file, of another version, or shorter than its header says.
    """
    if start[:3] != MAGIC:
        raise FormatError("this is not a .dc file: it does not start with 89 44 43")
    reader = Reader(start[3:], "start of the file")
    version = reader.byte("version")
    if version != VERSION:
        raise FormatError(
            f"format version {version} is not supported (this release reads {VERSION}); update deepcompress"
        )
    length = reader.varint("length of the header", limit=MAX_HEADER)
    span = len(start) - len(reader) + length + CRC_BYTES
    if span + CRC_BYTES > file_size:
        raise FormatError(f"the file has {file_size} bytes, fewer than its header needs: it is cut short")
    return span


def unpack_header(raw: bytes, file_size: int) -> Header:
    """Read and check a whole header, the first `header_span` bytes of a file of `file_size` bytes.

    Raises:
        FormatError: damage, a limit exceeded, facts that contradict each other or the size of the file.
    """
    if crc_bytes(raw[:-CRC_BYTES]) != raw[-CRC_BYTES:]:
        raise FormatError("the header's checksum does not match: the file is damaged")
    reader = Reader(raw[4:-CRC_BYTES], "header")
    reader.varint("length of the header")
    network, data = reader.text("network", MAX_LABEL), reader.text("data", MAX_LABEL)
    _check_printable(network, "network")
    _check_printable(data, "data")
    extensions = _read_extensions(reader)
    entries = _read_entries(reader, len(raw))
    reader.end()
    header = Header(network, data, entries, extensions, size=len(raw))
    if header.file_size != file_size:
        wrong = "it is cut short" if file_size < header.file_size else "something was appended to it"
        raise FormatError(f"the header describes a file of {header.file_size} bytes, but it has {file_size}: {wrong}")
    return header


def _check_printable(text: str, field: str) -> None:
    if not text.isprintable():
        raise FormatError(f"header: {field} {text!a} holds characters that cannot be printed")


def _read_extensions(reader: Reader) -> tuple[Extension, ...]:
    extensions = []
    for _ in range(reader.varint("number of extensions", limit=MAX_LABEL)):
        flag = reader.byte("flag of an extension")
        name = reader.text("name of an extension", MAX_LABEL)
        _check_printable(name, "extension")
        if flag > 1:
            raise FormatError(f"header: extension {name!r} has flag {flag}; allowed are 0 and 1")
        if flag:
            raise FormatError(
                f"this file needs the feature {name!r}, which this release does not have; update deepcompress"
            )
        extensions.append(Extension(name, bytes(reader.take(reader.varint("length of an extension"), name))))
    return tuple(extensions)


def _read_entries(reader: Reader, start: int) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    names: set[str] = set()
    previous = b""
    for _ in range(reader.varint("number of tensors", limit=MAX_TENSORS)):
        raw = _read_name(reader, previous)
        name = raw.decode("utf-8", errors="replace")
        if name in names or not name or name.encode("utf-8") != raw:
            raise FormatError(f"header: tensor name {name!a} is empty, not UTF-8, or there twice")
        _check_printable(name, "tensor name")
        info = _read_info(reader, name, entries)
        crc = 0
        if info.encoding is not Encoding.ALIAS:
            crc = int.from_bytes(reader.take(CRC_BYTES, "checksum"), "little")
        entries.append(Entry(name, info, crc, start))
        names.add(name)
        start += info.section
        previous = raw
    return tuple(entries)


def _read_name(reader: Reader, previous: bytes) -> bytes:
    shared = reader.varint("shared part of a name", limit=len(previous))
    rest = bytes(reader.take(reader.varint("length of a name", limit=MAX_NAME - shared), "name"))
    if rest and shared < len(previous) and rest[0] == previous[shared]:
        raise FormatError("header: a name is not in its shortest form")
    return previous[:shared] + rest


def _read_info(reader: Reader, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    kind = reader.byte("kind")
    try:
        encoding, dtype = Encoding(kind >> 4), DType(kind & 15)
    except ValueError:
        raise FormatError(f"tensor {name}: encoding {kind >> 4} or dtype {kind & 15} is unknown") from None
    dimensions = reader.varint("number of dimensions", limit=MAX_DIMENSIONS)
    shape = tuple(reader.varint("dimension", limit=MAX_ELEMENTS) for _ in range(dimensions))
    info = TensorInfo(shape, dtype, encoding)
    if math.prod(dimension or 1 for dimension in shape) > MAX_ELEMENTS:  # of an empty tensor too: numpy multiplies so
        raise FormatError(f"tensor {name}: a shape of {shape}; at most {MAX_ELEMENTS} elements are allowed")
    if encoding is Encoding.RAW:
        return replace(info, weights=info.nbytes)
    if encoding is Encoding.PLANES:
        return replace(info, weights=reader.varint("length of the section", limit=info.nbytes))
    if encoding is Encoding.ALIAS:
        return _checked_alias(replace(info, target=reader.varint("alias")), name, earlier)
    return _read_coded(reader, info, name, earlier)


def _checked_alias(info: TensorInfo, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    assert info.target is not None
    if info.target >= len(earlier):
        raise FormatError(f"tensor {name}: it is an alias of tensor {info.target}, which does not come before it")
    target = earlier[info.target].info
    if target.encoding is Encoding.ALIAS or (target.shape, target.dtype) != (info.shape, info.dtype):
        raise FormatError(f"tensor {name}: it is an alias of {earlier[info.target].name}, which is not its like")
    return info


def _read_coded(reader: Reader, info: TensorInfo, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    codebook_size = reader.varint("size of the codebook", limit=MAX_CODEBOOK)
    owner = reader.varint("owner of the codebook", limit=len(earlier))
    nonzeros = reader.varint("number of weights", limit=info.size)
    offset_bits = reader.byte("bits of an offset")
    coders = reader.byte("coders")
    tables, weights = reader.varint("length of the tables"), reader.varint("length of the weights")
    fillers = reader.varint("number of fillers", limit=info.size) if offset_bits else 0
    gaps = reader.varint("length of the offsets") if offset_bits else 0
    info = replace(
        info,
        codebook=0 if owner else codebook_size * info.dtype.storage.itemsize,
        tables=tables,
        offsets=gaps,
        weights=weights,
        codebook_size=codebook_size,
        nonzeros=nonzeros,
        fillers=fillers,
        offset_bits=offset_bits,
        offset_coder=coder_of(coders >> 4),
        weight_coder=coder_of(coders & 15),
        target=owner - 1 if owner else None,
    )
    _check_coded(info, name, earlier)
    return info


def _check_coded(info: TensorInfo, name: str, earlier: Sequence[Entry]) -> None:
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
    if info.offset_coder is Coder.LITERAL or (info.offset_coder is not Coder.NONE and not info.offset_bits):
        raise FormatError(f"tensor {name}: offsets coded as {info.offset_coder.name}")
    if literal and (info.codebook_size or not info.offset_bits):
        raise FormatError(f"tensor {name}: literal weights need offsets and no codebook")
    if info.target is not None:
        owner = earlier[info.target].info
        has = owner.encoding is Encoding.CODED and owner.target is None
        if not has or (owner.dtype, owner.codebook_size) != (info.dtype, info.codebook_size):
            raise FormatError(f"tensor {name}: it cannot share the codebook of {earlier[info.target].name}")
    if info.section > info.nbytes:
        raise FormatError(f"tensor {name}: a section of {info.section} bytes is larger than the raw {info.nbytes}")
