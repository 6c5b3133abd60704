"""Tensors in a header of version 2: all names, then a short record of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from deepcompress.coding.adaptive.codec import Scan
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.codebooks import Form
from deepcompress.coding.dtypes import DType
from deepcompress.coding.streams import Coder
from deepcompress.coding.tensors import MAX_CODEBOOK, Encoding, TensorInfo
from deepcompress.container.entries import (
    CRC_BYTES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_TENSORS,
    Entry,
    check_coded,
    checked_alias,
    checked_name,
    pack_streams,
    read_shape,
    read_streams,
)
from deepcompress.errors import FormatError

_MIXED, RANKED = 5, 8  # the layouts of a CODED tensor whose coder is ANS or RANS; the others are the encodings
_LAYOUTS = {Coder.ANS: _MIXED, Coder.RANS: RANKED}
_BY_COLUMN, _SIDE = 1, 2
_OWN_FORMS = 8  # from here on, a codebook is that of an earlier tensor
NAME_END = 0x0A


def holds(info: TensorInfo) -> bool:
    """Whether version 2 has what this tensor needs."""
    return info.encoding <= Encoding.CONSTANT and info.dtype <= DType.BOOL and info.weight_coder is not Coder.RANS


def pack_tensors(entries: Sequence[Entry], checked: bool) -> bytes:
    """The number of tensors, their names, and what a header says of each; with their checksums, if `checked`."""
    out = bytearray(varint(len(entries)))
    for entry in entries:
        out += entry.name.encode("utf-8") + bytes([NAME_END])
    for entry in entries:
        out += _pack_info(entry.info)
        if checked and not entry.info.is_reference:
            out += entry.crc.to_bytes(CRC_BYTES, "little")
    return bytes(out)


def _pack_info(info: TensorInfo) -> bytes:
    layout, flags = layout_of(info)
    return bytes([len(info.shape) << 4 | info.dtype, flags << 4 | layout]) + pack_fields(info)


def layout_of(info: TensorInfo) -> tuple[int, int]:
    """The number of a tensor's layout, and its flags."""
    flags = (_BY_COLUMN if info.scan.by_column else 0) | (_SIDE if info.scan.side else 0)
    return _LAYOUTS.get(info.weight_coder, int(info.encoding)), flags


def pack_fields(info: TensorInfo) -> bytes:
    """The dimensions, and all that follows by layout."""
    out = b"".join(map(varint, info.shape))
    if info.encoding in (Encoding.PLANES, Encoding.ROWS):
        out += varint(info.weights)
    if info.is_reference:
        assert info.target is not None
        out += varint(info.target)
    if info.encoding is not Encoding.CODED:
        return out
    out += _pack_book(info) + varint(info.nonzeros)
    if info.weight_coder is Coder.RANS:
        return out + varint(info.tables) + varint(info.weights)
    if info.weight_coder is not Coder.ANS:
        return out + pack_streams(info)
    return out + (varint(info.scan.side) if info.scan.side else b"") + varint(info.weights)


def _pack_book(info: TensorInfo) -> bytes:
    out = varint(info.codebook_size) + varint(info.form if info.target is None else info.target + _OWN_FORMS)
    if info.target is None and (info.form.is_grid or info.form is Form.ROWS):
        out += b"".join(pack_step(step) for step in info.grid)
    return out + (varint(info.codebook) if info.form is Form.ROWS else b"")


def pack_step(number: int) -> bytes:
    """0, -1, 1, -2, … as the varints 0, 1, 2, 3, …"""
    return varint(2 * number if number >= 0 else -2 * number - 1)


def read_tensors(reader: Reader, start: int, checked: bool) -> tuple[Entry, ...]:
    """The inverse; the first section starts at byte `start` of the file."""
    return read_records(reader, read_names(reader), start, checked, _read_info)


def read_names(reader: Reader) -> list[str]:
    """The number of tensors, and their names."""
    names: dict[str, None] = {}
    for _ in range(reader.varint("number of tensors", limit=MAX_TENSORS)):
        names[checked_name(bytes(reader.line("name", MAX_NAME, NAME_END)), names.keys())] = None
    return list(names)


def read_records(
    reader: Reader,
    names: Iterable[str],
    start: int,
    checked: bool,
    read_info: Callable[[Reader, str, Sequence[Entry]], TensorInfo],
) -> tuple[Entry, ...]:
    """What the header says of each tensor, and the checksum of its section; sections start at byte `start`."""
    entries: list[Entry] = []
    for name in names:
        info = read_info(reader, name, entries)
        crc = 0
        if checked and not info.is_reference:
            crc = int.from_bytes(reader.take(CRC_BYTES, "checksum"), "little")
        entries.append(Entry(name, info, crc, start))
        start += info.section
    return tuple(entries)


def _read_info(reader: Reader, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    kind, layout = reader.byte("kind"), reader.byte("layout")
    if kind & 15 > DType.BOOL or layout & 15 > _MIXED:
        raise FormatError(f"tensor {name}: layout {layout & 15} or dtype {kind & 15} is unknown")
    return read_fields(reader, name, earlier, DType(kind & 15), kind >> 4, layout & 15, layout >> 4)


def read_fields(
    reader: Reader, name: str, earlier: Sequence[Entry], dtype: DType, dimensions: int, layout: int, flags: int
) -> TensorInfo:
    """The inverse of `pack_fields`, for a layout that there is; checked."""
    if dimensions > MAX_DIMENSIONS:
        raise FormatError(f"tensor {name}: {dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed")
    mixed = layout == _MIXED
    encoding = Encoding.CODED if layout in _LAYOUTS.values() else Encoding(layout)
    info = TensorInfo(read_shape(reader, name, dimensions), dtype, encoding)
    if flags and not (mixed and flags <= (_BY_COLUMN | _SIDE) and len(info.shape) > 1):
        raise FormatError(f"tensor {name}: flags {flags}, which mean nothing here")
    if mixed:
        return _read_mixed(reader, info, name, earlier, flags)
    if layout == RANKED:
        return _read_ranked(reader, info, name, earlier)
    if encoding is Encoding.CODED:
        return read_streams(reader, _read_book(reader, info, name, earlier), name, earlier)
    if info.is_reference:
        return checked_alias(replace(info, target=reader.varint("alias")), name, earlier)
    if encoding in (Encoding.PLANES, Encoding.ROWS):
        if encoding is Encoding.ROWS and (len(info.shape) < 2 or not info.size):
            raise FormatError(f"tensor {name}: a shape of {info.shape} stored by the kinds of its rows")
        return replace(info, weights=reader.varint("length of the section", limit=info.nbytes))
    if encoding is Encoding.CONSTANT and info.size < 2:
        raise FormatError(f"tensor {name}: {info.size} elements stored as a constant")
    return replace(info, weights=info.dtype.storage.itemsize if encoding is Encoding.CONSTANT else info.nbytes)


def _read_book(
    reader: Reader, info: TensorInfo, name: str, earlier: Sequence[Entry], last: Form = Form.GRID_BFLOAT
) -> TensorInfo:
    """The facts of the codebook, in a form up to `last`, and the number of weights."""
    size = reader.varint("size of the codebook", limit=MAX_CODEBOOK)
    form = reader.varint("form of the codebook", limit=len(earlier) - 1 + _OWN_FORMS)
    if form >= _OWN_FORMS:
        info = replace(info, codebook_size=size, target=form - _OWN_FORMS)
    elif form > last:
        raise FormatError(f"tensor {name}: codebook form {form} is unknown; known are 0 to {last}")
    else:
        info = replace(info, codebook_size=size, form=Form(form))
        if info.form.is_grid or info.form is Form.ROWS:
            info = replace(info, grid=(read_step(reader), read_step(reader)))
        own = info.form is Form.ROWS
        size = reader.varint("length of the scales") if own else info.book.size(info.dtype.storage.itemsize)
        info = replace(info, codebook=size)
    return replace(info, nonzeros=reader.varint("number of weights", limit=info.size))


def read_step(reader: Reader) -> int:
    """The inverse of `pack_step`."""
    number = reader.varint("multiple of a grid", limit=1 << 20)
    return -(number + 1 >> 1) if number & 1 else number >> 1


def _read_mixed(reader: Reader, info: TensorInfo, name: str, earlier: Sequence[Entry], flags: int) -> TensorInfo:
    info = _read_book(reader, info, name, earlier)
    side = reader.varint("side of a plane", limit=1 << 20) if flags & _SIDE else 0
    if flags & _SIDE and side < 2:
        raise FormatError(f"tensor {name}: planes of side {side}")
    scan = Scan(bool(flags & _BY_COLUMN), side)
    weights = reader.varint("length of the weights")
    if info.nonzeros and not info.codebook_size:
        raise FormatError(f"tensor {name}: {info.nonzeros} weights, but no codebook")
    info = replace(info, weight_coder=Coder.ANS, scan=scan, weights=weights)
    check_coded(info, name, earlier)
    return info


def _read_ranked(reader: Reader, info: TensorInfo, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    info = _read_book(reader, info, name, earlier, Form.ROWS)
    tables, weights = reader.varint("length of the model"), reader.varint("length of the streams")
    if not info.size or (info.nonzeros and not info.codebook_size and info.form is not Form.ROWS):
        raise FormatError(f"tensor {name}: {info.nonzeros} weights of {info.size} elements, but no codebook")
    info = replace(info, weight_coder=Coder.RANS, tables=tables, weights=weights)
    check_coded(info, name, earlier)
    return info
