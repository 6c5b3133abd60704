"""One tensor to the bytes of its section, in the smallest layout that the format has for it.

First a *survey* counts what the tensor is made of; from the counts alone each layout's size is known (`plan_…`); then
only the smallest is written. Everything runs over the tensor in chunks, so that beside it there is never more than
its symbols and the section.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, integers, lanes, offsets, planes, streams
from deepcompress.coding.adaptive import codec
from deepcompress.coding.adaptive.codec import Book
from deepcompress.coding.bits import varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.huffman import pack_lengths
from deepcompress.coding.streams import Coder, Stream
from deepcompress.coding.tensors import MAX_CODEBOOK, EncodedTensor, Encoding, TensorInfo

Array = np.ndarray[Any, np.dtype[Any]]

#: Names of coders. The first two write format version 1; the others take of all layouts the smallest (`ans`: wherever
#: there is a codebook, the adaptive one), of codebooks and constant tensors too.
CODERS = ("huffman", "fixed", "ans", "auto", "rans")
COMPACT = ("ans", "auto", "rans")

#: Bytes that a layout of format version 3 must save: a file that gains less stays readable for older releases.
WORTH = 1 << 10

CHUNK = 1 << 20
SMALL = 1 << 14  # elements up to which "rans" takes the adaptive model where that is smaller
_NO_STREAM = Stream(Coder.NONE, b"", b"")


@dataclass(frozen=True)
class Bytes:
    """What is counted of a tensor that is stored exactly.

    Attributes:
        shape, dtype: of the tensor.
        planes: how often each byte value occurs at each byte of the elements, int64 (element size, 256).
    """

    shape: tuple[int, ...]
    dtype: DType
    planes: Array


@dataclass(frozen=True)
class Survey(Bytes):
    """What a tensor is made of, its bytes and more.

    Attributes:
        nonzeros: elements that are not zero (all bits 0).
        gaps, gap_counts: distinct numbers of zeros before a non-zero element, ascending, and how often each occurs.
        entries: the codebook as bit patterns, or None if the values are not shared.
        index_counts: how often each entry occurs.
    """

    nonzeros: int
    gaps: Array
    gap_counts: Array
    entries: Array | None
    index_counts: Array

    @property
    def info(self) -> TensorInfo:
        """The facts as far as they do not depend on the layout, as a CODED tensor."""
        return TensorInfo(self.shape, self.dtype, Encoding.CODED, nonzeros=self.nonzeros)


def survey(values: Array, dtype: DType, codebook: Array | None = None) -> Survey:
    """Count what `values` (in ``dtype.storage``) is made of.

    Args:
        values: any shape.
        dtype: element type.
        codebook: the shared values, distinct and none of them zero, at most `MAX_CODEBOOK`; every non-zero
            element must be one of them. None for values that are not shared.
    """
    flat = _bits_of(values, dtype)
    entries = None if codebook is None else np.ascontiguousarray(codebook, dtype=dtype.storage).view(dtype.bits)
    assert entries is None or len(entries) <= MAX_CODEBOOK
    index_counts = np.zeros(0 if entries is None else len(entries), dtype=np.int64)
    gaps: dict[int, int] = {}
    nonzeros = 0
    for chunk, positions, gap in _walk(flat):
        nonzeros += len(positions)
        for distinct, count in zip(*(part.tolist() for part in np.unique(gap, return_counts=True)), strict=True):
            gaps[distinct] = gaps.get(distinct, 0) + count
        if entries is not None:
            index_counts += np.bincount(_lookup(chunk[positions], entries), minlength=len(entries))
    ordered = np.array(sorted(gaps.items()), dtype=np.int64).reshape(-1, 2)
    plain = count_bytes(values, dtype)
    return Survey(values.shape, dtype, plain.planes, nonzeros, ordered[:, 0], ordered[:, 1], entries, index_counts)


def count_bytes(values: Array, dtype: DType) -> Bytes:
    """Count the bytes that the elements of `values` (in ``dtype.storage``) are made of."""
    elements = _elements(values, dtype)
    counts = np.zeros((elements.shape[1], 256), dtype=np.int64)
    for start in range(0, len(elements), CHUNK):
        for k, plane in enumerate(elements[start : start + CHUNK].T):
            counts[k] += np.bincount(plane, minlength=256)
    return Bytes(values.shape, dtype, counts)


def _elements(values: Array, dtype: DType) -> Array:
    """The bytes of all elements, uint8 of shape (number of elements, bytes of one)."""
    flat = np.ascontiguousarray(values, dtype=dtype.storage).reshape(-1)
    return flat.view(np.uint8).reshape(-1, dtype.storage.itemsize)


def _bits_of(values: Array, dtype: DType) -> Array:
    return np.ascontiguousarray(values, dtype=dtype.storage).reshape(-1).view(dtype.bits)


def _walk(flat: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Chunks of a flat tensor: elements, where in the chunk they are not zero, and the zeros before each of those."""
    last = -1
    for start in range(0, len(flat), CHUNK):
        chunk = flat[start : start + CHUNK]
        positions = np.flatnonzero(chunk)
        yield chunk, positions, offsets.gaps(positions, last - start)
        if len(positions):
            last = start + int(positions[-1])


def _lookup(survivors: Array, entries: Array) -> Array:
    """The index in `entries` of each survivor, both as bit patterns."""
    order = np.argsort(entries, kind="stable")
    found = np.searchsorted(entries[order], survivors)
    indices: Array = order[np.minimum(found, len(entries) - 1)] if len(entries) else found
    if len(survivors) and not (len(entries) and np.array_equal(entries[indices], survivors)):
        raise ValueError("a surviving weight is not in the codebook")
    return indices


# Plans: the facts of a tensor in each layout, sizes included, from the survey alone ----------------------------


def plan_plain(found: Bytes, compact: bool = False) -> TensorInfo:
    """As RAW, or as byte planes where they are smaller; `compact` knows the one value of a constant tensor, too."""
    if compact and math.prod(found.shape) > 1 and bool((np.count_nonzero(found.planes, axis=1) == 1).all()):
        size = found.dtype.storage.itemsize
        return TensorInfo(found.shape, found.dtype, Encoding.CONSTANT, weights=size)
    raw = TensorInfo(found.shape, found.dtype, Encoding.RAW)
    total = 0
    for counts in found.planes:
        size = streams.choose(counts)[2]
        total += 1 + len(varint(size)) + size
    if total < raw.nbytes:
        return replace(raw, encoding=Encoding.PLANES, weights=total)
    return replace(raw, weights=raw.nbytes)


def least_plain(found: Bytes) -> int:
    """Bytes that neither RAW nor byte planes go below."""
    size = found.dtype.storage.itemsize
    return min(math.prod(found.shape) * size, sum(2 + streams.least(counts) for counts in found.planes))


def plan_literal(found: Survey, allow_huffman: bool = True, index_bits: int | None = None) -> TensorInfo:
    """As offsets and the surviving values themselves: a layer that is pruned but not shared."""
    info = _with_offsets(found.info, found, allow_huffman, index_bits)
    literal = found.nonzeros * found.dtype.bits.itemsize
    return replace(info, weights=literal, weight_coder=Coder.LITERAL if literal else Coder.NONE)


def plan_shared(
    found: Survey,
    allow_huffman: bool = True,
    target: int | None = None,
    index_bits: int | None = None,
    compact: bool = False,
) -> TensorInfo:
    """As codebook indices, with offsets or with a symbol for zero, whichever is smaller.

    `target` is the earlier tensor of the file that already stores this codebook; `index_bits` asks for offsets of
    that width; `compact` allows every form of the codebook.
    """
    info = _with_codebook(found, target, compact)
    sparse = _with_weights(_with_offsets(info, found, allow_huffman, index_bits), found.index_counts, allow_huffman)
    if index_bits is not None:
        return sparse
    zeros = info.size - found.nonzeros
    dense = _with_weights(info, np.concatenate(([zeros], found.index_counts)), allow_huffman)
    return dense if dense.section <= sparse.section else sparse


def _with_codebook(found: Survey, target: int | None, compact: bool) -> TensorInfo:
    assert found.entries is not None
    info = replace(found.info, codebook_size=len(found.entries), target=target)
    if target is not None:
        return info
    layout, raw = codebooks.pack(found.entries, compact)
    return replace(info, codebook=len(raw), form=layout.form, grid=(layout.low, layout.high))


def _with_offsets(info: TensorInfo, found: Survey, allow_huffman: bool, index_bits: int | None) -> TensorInfo:
    width = index_bits or offsets.best_width(found.gaps, found.gap_counts, allow_huffman)[0]
    counts = offsets.symbol_counts(found.gaps, found.gap_counts, width)
    coder, table, payload = _sizes(counts, allow_huffman)
    return replace(info, offset_bits=width, fillers=int(counts[-1]), offset_coder=coder, tables=table, offsets=payload)


def _with_weights(info: TensorInfo, counts: Array, allow_huffman: bool) -> TensorInfo:
    coder, table, payload = _sizes(counts, allow_huffman)
    return replace(info, weight_coder=coder, tables=info.tables + table, weights=payload)


def _sizes(counts: Array, allow_huffman: bool) -> tuple[Coder, int, int]:
    """Coder, bytes of its table, and bytes of the payload for symbols that occur `counts` times."""
    coder, lengths, size = streams.choose(counts, allow_huffman)
    table = {Coder.HUFFMAN: lambda: len(pack_lengths(lengths)), Coder.CONSTANT: lambda: size}.get(coder, lambda: 0)()
    return coder, table, size - table


# Encoding ------------------------------------------------------------------------------------------------------


def alias(shape: tuple[int, ...], dtype: DType, target: int) -> EncodedTensor:
    """A tensor that is the same as tensor number `target` of the file."""
    return EncodedTensor(TensorInfo(shape, dtype, Encoding.ALIAS, target=target), b"")


def encode_plain(values: Array, dtype: DType, compact: bool = False) -> EncodedTensor:
    """Store `values` (in ``dtype.storage``) exactly: byte plane by byte plane where that is smaller, else raw.

    In small float tensors such as biases the planes of sign and exponent hold few distinct bytes. `compact` stores a
    tensor whose elements are all the same as that one element (format version 2). Rows of different kinds are coded
    kind by kind (version 3) where that saves `WORTH` bytes.
    """
    plan = plan_plain(count_bytes(values, dtype), compact)
    return _write_rows(values, dtype, plan.section) or _write_plain(values, dtype, plan)


def encode_coded(
    values: Array,
    dtype: DType,
    codebook: Array | None,
    coder: str = "huffman",
    target: int | None = None,
    index_bits: int | None = None,
) -> EncodedTensor:
    """Store `values` by their positions and codebook indices, in the smallest of the layouts that `coder` has.

    Args:
        values: any shape, in ``dtype.storage``; zeros (all bits 0) are the pruned weights.
        dtype: element type.
        codebook: the shared values, distinct and none of them zero, at most `MAX_CODEBOOK`; every
            non-zero value must be one of them. None stores the surviving values themselves.
        coder: one of `CODERS`: "fixed" keeps every stream at fixed width (the paper's stage 2).
        target: index of the earlier tensor in the file that already stores this codebook.
        index_bits: width of the offsets; None takes the best, or none at all where that is smaller.

    Returns:
        A CODED tensor, or a plain one where that takes fewer bytes.
    """
    compact = coder in COMPACT
    found = survey(values, dtype, codebook)
    best = plan_plain(found, compact)
    encoded = None
    if codebook is not None and compact:
        for candidate in _write_mixed(values, found, target, coder):
            # Where all coders may be had, the newest must be worth it: older releases do not read its layout.
            worth = WORTH if coder == "auto" and candidate.info.weight_coder is Coder.RANS else 1
            if len(candidate.section) + worth <= best.section:
                best, encoded = candidate.info, candidate
    if codebook is None and coder != "fixed" and (encoded := _write_rows(values, dtype, best.section)):
        best = encoded.info
    if codebook is None or coder != "ans":
        streamed = _encode_streams(values, found, best.section, coder, target, index_bits)
        encoded = streamed or encoded
    return encoded or _write_plain(values, dtype, best)


def mixed_bytes(values: Array, dtype: DType, codebook: Array) -> int:
    """Bytes of the section that coder "ans" makes of `values`, codebook included; arguments as `encode_coded`."""
    return encode_coded(values, dtype, codebook, "ans").info.section


def _encode_streams(
    values: Array, found: Survey, limit: int, coder: str, target: int | None, index_bits: int | None
) -> EncodedTensor | None:
    """As streams of symbols, if they take less than `limit` bytes."""
    allow_huffman = coder != "fixed"
    if found.entries is None:
        plan = plan_literal(found, allow_huffman, index_bits)
    else:
        plan = plan_shared(found, allow_huffman, target, index_bits, coder in COMPACT)
    if plan.section >= limit:
        return None
    encoded = _write_coded(values, found, plan, allow_huffman)
    # The plan knows the padding of lanes only on average, so the bytes themselves have the last word.
    return encoded if len(encoded.section) < limit else None


def _write_mixed(values: Array, found: Survey, target: int | None, coder: str) -> Iterator[EncodedTensor]:
    """By the adaptive model, which sees the codebook sorted, and by the rANS coder, as `coder` says.

    The adaptive model is the smaller one for small tensors, which it decodes as soon as anything else.
    """
    assert found.entries is not None
    flat = _bits_of(values, found.dtype)
    order = codebooks.order(found.entries)
    symbols = np.zeros(len(flat), dtype=np.int16)
    start = 0
    for chunk, positions, _ in _walk(flat):
        symbols[start + positions] = _lookup(chunk[positions], found.entries[order]) + 1
        start += len(chunk)
    book = Book(len(order), codebooks.negatives(found.entries))
    info = _with_codebook(found, target, compact=True)
    head = _codebook_bytes(found, info)
    if coder != "rans" or len(flat) <= SMALL:
        scan, payload = codec.smallest(symbols, found.shape, book)
        mixed = replace(info, weights=len(payload), weight_coder=Coder.ANS, scan=scan)
        yield EncodedTensor(mixed, head + payload)
    if coder != "ans" and len(flat):
        ranks = symbols - np.int16(book.negative) - (symbols <= book.negative)
        ranks[symbols == 0] = 0
        yield integers.encode(ranks, info, head)


def _codebook_bytes(found: Survey, info: TensorInfo) -> bytes:
    if found.entries is None or info.target is not None:
        return b""
    return codebooks.pack(found.entries, info.form is not codebooks.Form.ENTRIES)[1]


def _write_plain(values: Array, dtype: DType, plan: TensorInfo) -> EncodedTensor:
    raw = np.ascontiguousarray(values, dtype=dtype.storage).tobytes()
    if plan.encoding is Encoding.CONSTANT:
        return EncodedTensor(plan, raw[: plan.weights])
    if plan.encoding is Encoding.RAW:
        return EncodedTensor(plan, raw)
    section = planes.encode(_elements(values, dtype))
    if len(section) < len(raw):
        return EncodedTensor(replace(plan, weights=len(section)), section)
    return EncodedTensor(replace(plan, encoding=Encoding.RAW, weights=len(raw)), raw)


def _write_rows(values: Array, dtype: DType, plain: int) -> EncodedTensor | None:
    """By the kinds of its rows, if that is worth it where all rows as one take `plain` bytes."""
    section = planes.encode_rows(values, dtype) if plain > WORTH else None
    if section is None or len(section) > plain - WORTH:
        return None
    return EncodedTensor(TensorInfo(values.shape, dtype, Encoding.ROWS, weights=len(section)), section)


def _write_coded(values: Array, found: Survey, plan: TensorInfo, allow_huffman: bool) -> EncodedTensor:
    flat = _bits_of(values, found.dtype)
    offset = _NO_STREAM
    if plan.offset_bits:
        symbols = _offset_symbols(flat, plan)
        offset = streams.encode(symbols, 1 << plan.offset_bits, allow_huffman)
    if found.entries is None:
        weight = Stream(plan.weight_coder, b"", flat[flat != 0].tobytes())
    else:
        weight = streams.encode(_weight_symbols(flat, found.entries, plan), plan.alphabet, allow_huffman)
    codebook = _codebook_bytes(found, plan)
    info = replace(
        plan,
        tables=len(offset.table) + len(weight.table),
        offsets=len(offset.payload),
        weights=len(weight.payload),
        offset_coder=offset.coder,
        weight_coder=weight.coder,
    )
    return EncodedTensor(info, b"".join((codebook, offset.table, weight.table, offset.payload, weight.payload)))


def _offset_symbols(flat: Array, plan: TensorInfo) -> Array:
    symbols = np.empty(plan.nonzeros + plan.fillers, dtype=lanes.symbol_type(1 << plan.offset_bits))
    at = 0
    for _, _, gap in _walk(flat):
        part = offsets.to_symbols(gap, plan.offset_bits)
        symbols[at : at + len(part)] = part
        at += len(part)
    return symbols


def _weight_symbols(flat: Array, entries: Array, plan: TensorInfo) -> Array:
    """A codebook index for each survivor, or, without offsets, 0 for zero and the index plus 1 for each element."""
    symbols = np.zeros(plan.entries, dtype=lanes.symbol_type(plan.alphabet))
    at = 0
    for chunk, positions, _ in _walk(flat):
        indices = _lookup(chunk[positions], entries)
        if plan.offset_bits:
            symbols[at : at + len(indices)] = indices
            at += len(indices)
        else:
            symbols[at + positions] = indices + 1
            at += len(chunk)
    return symbols
