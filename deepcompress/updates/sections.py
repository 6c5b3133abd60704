"""Content to the section that a .dc file has of it, in a layout that is chosen: docs/update-format.md, section 4.

An encoder of tensors tries layouts; here the layout is that of another tensor, or told. What is written is a function
of layout and content alone, so that whoever knows both gets the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, lanes, offsets, streams
from deepcompress.coding.adaptive import codec
from deepcompress.coding.adaptive.codec import Alphabet
from deepcompress.coding.layouts import ranked
from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.layouts.coded import Coded, Sorted
from deepcompress.coding.layouts.dense import Dense, Streams
from deepcompress.coding.layouts.exact import Exact, Rows
from deepcompress.coding.layouts.ranked import Ranks
from deepcompress.coding.layouts.relative import Literal, Relative
from deepcompress.coding.streams import Coder, Stream
from deepcompress.coding.survey import bits_of
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Shared:
    """A tensor of shared weights, apart from how it is stored.

    Attributes:
        symbols: flat, int16: 0 for zero, else the index in the sorted codebook plus 1.
        codebook: the values as a file has them, bit patterns.
        raw: bytes of the codebook as they are stored; empty where it is that of an earlier tensor.
    """

    symbols: Array
    codebook: Array
    raw: bytes


def shared_section(info: TensorInfo, content: Shared) -> EncodedTensor:
    """A tensor in the layout of `info`, whose shape, dtype, codebook, coders, width of offsets, and scan count.

    Raises:
        FormatError: there is no tensor of this layout and content.
    """
    layout = info.layout
    assert isinstance(layout, Coded)
    if len(content.codebook) != layout.codebook.count:
        raise FormatError(f"a codebook of {len(content.codebook)} values, where {layout.codebook.count} are announced")
    if isinstance(layout, Streams):
        return _streams(info, layout, content)
    negative = codebooks.negatives(content.codebook)
    if isinstance(layout, Adaptive):
        weights = int(np.count_nonzero(content.symbols))
        payload = codec.encode(content.symbols, info.shape, Alphabet(layout.codebook.count, negative), layout.scan)
        layout = replace(layout, nonzeros=weights, length=len(payload))
        return EncodedTensor(replace(info, layout=layout), content.raw + payload)
    assert isinstance(layout, Ranks)
    if not len(content.symbols):
        raise FormatError("an empty tensor has no ranks")
    given = Sorted(content.symbols, layout.codebook.count, negative, layout.codebook, content.raw)
    return ranked.encode(info, given)


def numbers_section(info: TensorInfo, symbols: Array, negative: int, head: bytes, model: bytes) -> EncodedTensor:
    """A tensor of layout 8 by the model of these bytes.

    Args:
        info: its facts, in whose layout the codebook or the scales count.
        symbols: flat, int16: 0 for zero, else the place of an entry or a number plus 1.
        negative: how many of these are negative.
        head: bytes of the codebook or of the scales, as they are stored.
        model: see docs/format.md, section 18.

    Raises:
        FormatError: there is no tensor of this layout, model and content.
    """
    if not len(symbols):
        raise FormatError("an empty tensor has no numbers")
    return ranked.encode_by(info, ranked.ranks_of(symbols, negative), head, model)


def exact_section(info: TensorInfo, values: Array) -> EncodedTensor:
    """A tensor of `values` (in the storage type of its dtype, of its shape) with the layout of `info`.

    Raises:
        FormatError: there is no tensor of this layout and content.
    """
    layout = info.layout
    if isinstance(layout, Literal):
        return _literal(info, layout, values)
    if isinstance(layout, Rows):
        encoded = Rows.of(values, info.dtype)
        if encoded is None:
            raise FormatError("all its rows are of one kind")
        return encoded
    assert isinstance(layout, Exact)
    return layout.write(values, info.dtype)


def is_exact(info: TensorInfo) -> bool:
    """Whether `exact_section` makes tensors of this layout."""
    return isinstance(info.layout, (Exact, Literal))


def _streams(info: TensorInfo, layout: Streams, content: Shared) -> EncodedTensor:
    """Indices of values in the order of the file: of weights behind their offsets, or of all elements."""
    places = np.flatnonzero(content.symbols)
    count = layout.codebook.count
    indices = codebooks.order(content.codebook)[content.symbols[places] - 1].astype(lanes.symbol_type(count + 1))
    layout = replace(layout, nonzeros=len(places))
    if isinstance(layout, Relative):
        coders = layout.stream_coder, layout.offsets.stream_coder
        allow_huffman = Coder.FIXED not in coders or Coder.HUFFMAN in coders
        weights = streams.encode(indices, count, allow_huffman)
        return layout.joined(info, content.raw, _offset_symbols(layout, places), weights, allow_huffman)
    assert isinstance(layout, Dense)
    symbols = np.zeros(len(content.symbols), dtype=indices.dtype)
    symbols[places] = indices + symbols.dtype.type(1)
    return layout.joined(info, content.raw, symbols, layout.stream_coder is not Coder.FIXED)


def _literal(info: TensorInfo, layout: Literal, values: Array) -> EncodedTensor:
    """The weights themselves behind their offsets."""
    flat = bits_of(values, info.dtype)
    places = np.flatnonzero(flat)
    weights = Stream(Coder.LITERAL, b"", flat[places].tobytes())
    layout = replace(layout, nonzeros=len(places))
    allow_huffman = layout.offsets.stream_coder is not Coder.FIXED
    return layout.joined(info, b"", _offset_symbols(layout, places), weights, allow_huffman)


def _offset_symbols(layout: Relative, places: Array) -> Array:
    """The offsets to these places, of the layout's width."""
    bits = layout.offsets.bits
    return offsets.to_symbols(offsets.gaps(places), bits).astype(lanes.symbol_type(1 << bits))
