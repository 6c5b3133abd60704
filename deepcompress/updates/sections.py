"""Content to the section that a .dc file has of it, in a layout that is chosen: docs/update-format.md, section 4.

An encoder of tensors tries layouts; here the layout is that of another tensor, or told. What is written is a function
of layout and content alone, so that whoever knows both gets the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, integers, lanes, offsets, planes, streams
from deepcompress.coding.adaptive import codec
from deepcompress.coding.adaptive.codec import Book
from deepcompress.coding.dtypes import DType
from deepcompress.coding.streams import Coder, Stream
from deepcompress.coding.tensors import EncodedTensor, Encoding, TensorInfo
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

_NO_STREAM = Stream(Coder.NONE, b"", b"")


@dataclass(frozen=True)
class Shared:
    """A tensor of shared weights, apart from how it is stored.

    Attributes:
        symbols: flat, int16: 0 for zero, else the index in the sorted codebook plus 1.
        entries: of the codebook as a file has it, bit patterns.
        raw: bytes of the codebook as they are stored; empty where it is that of an earlier tensor.
    """

    symbols: Array
    entries: Array
    raw: bytes


def shared_section(info: TensorInfo, content: Shared) -> EncodedTensor:
    """A tensor with the layout of `info`: shape, dtype, codebook, coders, width of offsets, and scan count of it.

    Raises:
        FormatError: there is no tensor of this layout and content.
    """
    if len(content.entries) != info.codebook_size:
        raise FormatError(f"a codebook of {len(content.entries)} entries, where {info.codebook_size} are announced")
    info = replace(info, nonzeros=int(np.count_nonzero(content.symbols)), codebook=len(content.raw))
    order = codebooks.order(content.entries)
    book = Book(len(order), codebooks.negatives(content.entries))
    if info.weight_coder is Coder.ANS:
        payload = codec.encode(content.symbols, info.shape, book, info.scan)
        return EncodedTensor(replace(info, weights=len(payload)), content.raw + payload)
    if info.weight_coder is Coder.RANS:
        if not len(content.symbols):
            raise FormatError("an empty tensor has no ranks")
        ranks = content.symbols - np.int16(book.negative) - (content.symbols <= book.negative)
        ranks[content.symbols == 0] = 0
        return integers.encode(ranks.astype(np.int16), info, content.raw)
    places = np.flatnonzero(content.symbols)
    found = order[content.symbols[places] - 1].astype(lanes.symbol_type(info.codebook_size + 1))
    allow_huffman = Coder.FIXED not in (info.weight_coder, info.offset_coder) or Coder.HUFFMAN in (
        info.weight_coder,
        info.offset_coder,
    )
    if info.offset_bits:
        weight = streams.encode(found, info.alphabet, allow_huffman)
    else:
        symbols = np.zeros(len(content.symbols), dtype=lanes.symbol_type(info.alphabet))
        symbols[places] = found + symbols.dtype.type(1)
        weight = streams.encode(symbols, info.alphabet, allow_huffman)
    return _with_streams(info, places, content.raw, weight, allow_huffman)


def exact_section(info: TensorInfo, values: Array) -> EncodedTensor:
    """A tensor of `values` (in the storage type of its dtype, of its shape) with the layout of `info`.

    Raises:
        FormatError: there is no tensor of this layout and content.
    """
    raw = values.tobytes()
    if info.encoding is Encoding.RAW:
        return EncodedTensor(replace(info, weights=len(raw)), raw)
    if info.encoding is Encoding.CONSTANT:
        return EncodedTensor(info, raw[: info.dtype.storage.itemsize])
    if info.encoding is Encoding.CODED:
        return _literal(info, values)
    if info.encoding is Encoding.PLANES:
        section: bytes | None = planes.encode(_bytes_of(values, info.dtype))
    else:
        section = planes.encode_rows(values, info.dtype)
    if section is None:
        raise FormatError("all its rows are of one kind")
    return EncodedTensor(replace(info, weights=len(section)), section)


def is_exact(info: TensorInfo) -> bool:
    """Whether `exact_section` makes tensors of this layout."""
    return info.weight_coder is Coder.LITERAL or info.encoding in (
        Encoding.RAW,
        Encoding.PLANES,
        Encoding.CONSTANT,
        Encoding.ROWS,
    )


def _bytes_of(values: Array, dtype: DType) -> Array:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, dtype.storage.itemsize)


def _literal(info: TensorInfo, values: Array) -> EncodedTensor:
    """The weights themselves behind their offsets."""
    flat = np.ascontiguousarray(values).reshape(-1).view(info.dtype.bits)
    places = np.flatnonzero(flat)
    weight = Stream(Coder.LITERAL, b"", flat[places].tobytes())
    info = replace(info, nonzeros=len(places), codebook=0)
    return _with_streams(info, places, b"", weight, info.offset_coder is not Coder.FIXED)


def _with_streams(info: TensorInfo, places: Array, raw: bytes, weight: Stream, allow_huffman: bool) -> EncodedTensor:
    offset, fillers = _NO_STREAM, 0
    if info.offset_bits:
        symbols = offsets.to_symbols(offsets.gaps(places), info.offset_bits)
        symbols = symbols.astype(lanes.symbol_type(1 << info.offset_bits))
        fillers = len(symbols) - len(places)
        offset = streams.encode(symbols, 1 << info.offset_bits, allow_huffman)
    info = replace(
        info,
        tables=len(offset.table) + len(weight.table),
        offsets=len(offset.payload),
        weights=len(weight.payload),
        fillers=fillers,
        offset_coder=offset.coder,
        weight_coder=weight.coder,
    )
    return EncodedTensor(info, b"".join((raw, offset.table, weight.table, offset.payload, weight.payload)))
