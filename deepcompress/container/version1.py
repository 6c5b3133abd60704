"""Tensors in a header of version 1: one after the other, each name by what it shares with the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.codebooks import Form
from deepcompress.coding.dtypes import DType
from deepcompress.coding.tensors import MAX_CODEBOOK, Encoding, TensorInfo
from deepcompress.container.entries import (
    CRC_BYTES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_TENSORS,
    Entry,
    checked_alias,
    checked_name,
    pack_streams,
    read_shape,
    read_streams,
)
from deepcompress.errors import FormatError


def holds(info: TensorInfo) -> bool:
    """Whether version 1 has what this tensor needs."""
    plain = info.encoding <= Encoding.ALIAS and info.dtype <= DType.BOOL
    return plain and not info.is_mixed and info.form is Form.ENTRIES


def pack_tensors(entries: Sequence[Entry]) -> bytes:
    """The number of tensors, and what a header says of each."""
    out = bytearray(varint(len(entries)))
    previous = b""
    for entry in entries:
        name = entry.name.encode("utf-8")
        out += pack_name(name, previous) + _pack_info(entry.info)
        if entry.info.encoding is not Encoding.ALIAS:
            out += entry.crc.to_bytes(CRC_BYTES, "little")
        previous = name
    return bytes(out)


def pack_name(name: bytes, previous: bytes) -> bytes:
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
        out += varint(info.nonzeros) + pack_streams(info)
    return out


def read_tensors(reader: Reader, start: int, checked: bool = True) -> tuple[Entry, ...]:
    """The inverse; the first section starts at byte `start` of the file; version 1 always has checksums."""
    assert checked
    entries: list[Entry] = []
    names: set[str] = set()
    previous = b""
    for _ in range(reader.varint("number of tensors", limit=MAX_TENSORS)):
        raw = read_name(reader, previous)
        name = checked_name(raw, names)
        info = _read_info(reader, name, entries)
        crc = 0
        if info.encoding is not Encoding.ALIAS:
            crc = int.from_bytes(reader.take(CRC_BYTES, "checksum"), "little")
        entries.append(Entry(name, info, crc, start))
        names.add(name)
        start += info.section
        previous = raw
    return tuple(entries)


def read_name(reader: Reader, previous: bytes) -> bytes:
    """The inverse of `pack_name`."""
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
    info = TensorInfo(read_shape(reader, name, dimensions), dtype, encoding)
    if not holds(info):
        raise FormatError(f"tensor {name}: encoding {kind >> 4} or dtype {kind & 15} is unknown")
    if encoding is Encoding.RAW:
        return replace(info, weights=info.nbytes)
    if encoding is Encoding.PLANES:
        return replace(info, weights=reader.varint("length of the section", limit=info.nbytes))
    if encoding is Encoding.ALIAS:
        return checked_alias(replace(info, target=reader.varint("alias")), name, earlier)
    return _read_coded(reader, info, name, earlier)


def _read_coded(reader: Reader, info: TensorInfo, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    codebook_size = reader.varint("size of the codebook", limit=MAX_CODEBOOK)
    owner = reader.varint("owner of the codebook", limit=len(earlier))
    info = replace(
        info,
        codebook=0 if owner else codebook_size * info.dtype.storage.itemsize,
        codebook_size=codebook_size,
        nonzeros=reader.varint("number of weights", limit=info.size),
        target=owner - 1 if owner else None,
    )
    return read_streams(reader, info, name, earlier)
