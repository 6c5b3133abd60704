"""The header of a .dc file, byte by byte as docs/format.md specifies it.

Reading is strict: every field is checked against its limit and against the file before anything is built
from it, every byte belongs to something, and there is one way to write each thing.
"""

from __future__ import annotations

from dataclasses import replace

from deepcompress.coding.bits import Reader, varint
from deepcompress.container import deflate, version1, version2, version3
from deepcompress.container.entries import (
    CRC_BYTES,
    MAGIC,
    MAX_HEADER,
    MAX_LABEL,
    UNCHECKED,
    UPDATE_MAGIC,
    VERSIONS,
    Extension,
    Header,
    check_printable,
    crc_bytes,
)
from deepcompress.container.normalize import normalize_in
from deepcompress.errors import FormatError

_DEFLATED, _CHECKED = 1, 2

# Writing ---------------------------------------------------------------------------------------------------


def pack_header(header: Header) -> bytes:
    """The bytes of a file up to its first section, in the first version that has all that the tensors need."""
    infos = [entry.info for entry in header.entries]
    version = max((info.version for info in infos), default=1)
    if version == 1:
        body = _pack_labels(header) + version1.pack_tensors(header.entries)
        start = MAGIC + bytes([1]) + varint(len(body)) + body
        return start + crc_bytes(start)
    short = _pack_compact(replace(header, version=version, checked=False))
    sections = sum(info.section for info in infos)
    if len(short) + sections + CRC_BYTES <= UNCHECKED:
        return short
    return _pack_compact(replace(header, version=version, checked=True))


def _pack_compact(header: Header) -> bytes:
    body = _pack_body(header, deflated=True)
    packed = deflate.compress(body) if len(body) <= deflate.LONGEST else body
    deflated = len(packed) + len(varint(len(body))) < len(body)
    flags = (_DEFLATED if deflated else 0) | (_CHECKED if header.checked else 0)
    start = MAGIC + bytes([header.version, flags])
    if deflated:
        start += varint(len(packed)) + varint(len(body)) + packed
    else:
        body = _pack_body(header, deflated=False)
        start += varint(len(body)) + body
    return start + crc_bytes(start) if header.checked else start


def _pack_body(header: Header, deflated: bool) -> bytes:
    if header.version == 2:
        return _pack_labels(header) + version2.pack_tensors(header.entries, header.checked)
    return _pack_labels(header) + version3.pack_tensors(header.entries, header.checked, front_coded=not deflated)


def _pack_labels(header: Header) -> bytes:
    out = _text(header.network) + _text(header.data) + varint(len(header.extensions))
    for extension in header.extensions:
        out += bytes([extension.required]) + _text(extension.name) + varint(len(extension.data)) + extension.data
    return out


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return varint(len(raw)) + raw


# Reading ---------------------------------------------------------------------------------------------------


def header_span(start: bytes, file_size: int) -> int:
    """How many bytes of a file its header takes, from the file's first bytes (16 are enough) and its size.

    Raises:
        FormatError: not a .dc file, of another version, or shorter than its header says.
    """
    reader = Reader(start, "start of the file")
    _, checked, _, length = _read_start(reader)
    span = len(start) - len(reader) + length + (CRC_BYTES if checked else 0)
    if span + CRC_BYTES > file_size:
        raise FormatError(f"the file has {file_size} bytes, fewer than its header needs: it is cut short")
    if not checked and file_size > UNCHECKED:
        raise FormatError(f"a file of {file_size} bytes has no checksums but that of the file")
    return span


def is_checked(start: bytes) -> bool:
    """Whether header and sections have checksums of their own, from what `header_span` has seen."""
    return _read_start(Reader(start, "start of the file"))[1]


def _read_start(reader: Reader) -> tuple[int, bool, int, int]:
    """What comes before the header: version, whether there are checksums, bytes of the header inflated, and stored.

    The bytes inflated are 0 for a header that is not deflated.
    """
    magic = bytes(reader.take(min(len(reader), len(MAGIC)), "magic"))
    if magic == UPDATE_MAGIC:
        raise FormatError("this is an update: 'deepcompress patch OLD.dc UPDATE.dcp -o NEW.dc' makes the .dc file")
    if magic != MAGIC:
        raise FormatError("this is not a .dc file: it does not start with 89 44 43")
    version = reader.byte("version")
    if version not in VERSIONS:
        raise FormatError(
            f"format version {version} is not supported (this release reads 1 to {VERSIONS[-1]}); update deepcompress"
        )
    flags = reader.byte("flags") if version > 1 else _CHECKED
    if flags > (_DEFLATED | _CHECKED):
        raise FormatError(f"flags {flags} of the file are unknown; update deepcompress")
    length = reader.varint("length of the header", limit=MAX_HEADER)
    inflated = reader.varint("length of the inflated header", limit=deflate.LONGEST) if flags & _DEFLATED else 0
    if flags & _DEFLATED and not inflated:
        raise FormatError("a deflated header of 0 bytes is announced: the file is damaged")
    return version, bool(flags & _CHECKED), inflated, length


def unpack_header(raw: bytes, file_size: int) -> Header:
    """Read and check a whole header, the first `header_span` bytes of a file of `file_size` bytes.

    Raises:
        FormatError: damage, a limit exceeded, facts that contradict each other or the size of the file.
    """
    reader = Reader(raw, "header")
    version, checked, inflated, length = _read_start(reader)
    if checked and crc_bytes(raw[:-CRC_BYTES]) != raw[-CRC_BYTES:]:
        raise FormatError("the header's checksum does not match: the file is damaged")
    body = reader.take(length, "header")
    if inflated:
        body = memoryview(deflate.expand(bytes(body), inflated))
    header = _unpack_body(Reader(body, "header"), len(raw), version, checked, bool(inflated))
    if header.file_size != file_size:
        wrong = "it is cut short" if file_size < header.file_size else "something was appended to it"
        raise FormatError(f"the header describes a file of {header.file_size} bytes, but it has {file_size}: {wrong}")
    return header


def _unpack_body(reader: Reader, start: int, version: int, checked: bool, deflated: bool) -> Header:
    network, data = reader.text("network", MAX_LABEL), reader.text("data", MAX_LABEL)
    check_printable(network, "network")
    check_printable(data, "data")
    extensions = _read_extensions(reader)
    normalize_in(extensions)
    if version == 3:
        entries = version3.read_tensors(reader, start, checked, front_coded=not deflated)
    else:
        read = version1.read_tensors if version == 1 else version2.read_tensors
        entries = read(reader, start, checked)
    reader.end()
    return Header(network, data, entries, extensions, start, version, checked)


def _read_extensions(reader: Reader) -> tuple[Extension, ...]:
    extensions = []
    for _ in range(reader.varint("number of extensions", limit=MAX_LABEL)):
        flag = reader.byte("flag of an extension")
        name = reader.text("name of an extension", MAX_LABEL)
        check_printable(name, "extension")
        if flag > 1:
            raise FormatError(f"header: extension {name!r} has flag {flag}; allowed are 0 and 1")
        if flag:
            raise FormatError(
                f"this file needs the feature {name!r}, which this release does not have; update deepcompress"
            )
        extensions.append(Extension(name, bytes(reader.take(reader.varint("length of an extension"), name))))
    return tuple(extensions)
