"""One tensor to the bytes of its section, in the smallest layout that the format has for it.

First a *survey* counts what the tensor is made of; from the counts alone the sizes of most layouts are known (their
plans); then only the smallest is written, and compared with those whose size only their bytes tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts import adaptive, coded, ranked
from deepcompress.coding.layouts.dense import Streams
from deepcompress.coding.layouts.exact import Rows, plan_plain, write_plain
from deepcompress.coding.layouts.references import Alias
from deepcompress.coding.layouts.relative import plan_literal, plan_shared
from deepcompress.coding.survey import Survey, count_bytes, survey
from deepcompress.coding.tensors import EncodedTensor, TensorInfo

Array = np.ndarray[Any, np.dtype[Any]]

#: Names of coders. The first two write format version 1; the others take of all layouts the smallest (`ans`: wherever
#: there is a codebook, the adaptive one), of codebooks and constant tensors too.
CODERS = ("huffman", "fixed", "ans", "auto", "rans")
COMPACT = ("ans", "auto", "rans")

#: Bytes that a layout of format version 3 must save: a file that gains less stays readable for older releases.
WORTH = 1 << 10

TINY = 1 << 12  # elements up to which tables take more than they save: there the adaptive model is the smaller one
#: Elements, and bytes of a section, up to which "rans" takes the adaptive model where that is a hundredth smaller: it
#: decodes them within some hundredths of a second.
SMALL, FEW = 1 << 19, 1 << 14
#: Elements, and bytes by their entropy, up to which it does not even look at rANS: there that is hardly ever smaller.
_UNSEEN, _LEAST = 1 << 16, 1 << 13


def alias(shape: tuple[int, ...], dtype: DType, target: int) -> EncodedTensor:
    """A tensor that is the same as tensor number `target` of the file."""
    return EncodedTensor(TensorInfo(shape, dtype, Alias(target)), b"")


def encode_plain(values: Array, dtype: DType, compact: bool = False) -> EncodedTensor:
    """Store `values` (in ``dtype.storage``) exactly: byte plane by byte plane where that is smaller, else raw.

    In small float tensors such as biases the planes of sign and exponent hold few distinct bytes. `compact` stores a
    tensor whose elements are all the same as that one element (format version 2). Rows of different kinds are coded
    kind by kind (version 3) where that saves `WORTH` bytes.
    """
    plan = plan_plain(count_bytes(values, dtype), compact)
    return _by_rows(values, dtype, plan.section) or write_plain(values, plan)


def encode_coded(
    values: Array,
    dtype: DType,
    codebook: Array | None,
    coder: str = "huffman",
    target: int | None = None,
    offset_bits: int | None = None,
) -> EncodedTensor:
    """Store `values` by their positions and codebook indices, in the smallest of the layouts that `coder` has.

    Args:
        values: any shape, in ``dtype.storage``; zeros (all bits 0) are the pruned weights.
        dtype: element type.
        codebook: the shared values, distinct and none of them zero, at most `MAX_CODEBOOK`; every
            non-zero value must be one of them. None stores the surviving values themselves.
        coder: one of `CODERS`: "fixed" keeps every stream at fixed width (the paper's stage 2).
        target: index of the earlier tensor in the file that already stores this codebook.
        offset_bits: width of the offsets; None takes the best, or none at all where that is smaller.

    Returns:
        A coded tensor, or a plain one where that takes fewer bytes.
    """
    compact = coder in COMPACT
    found = survey(values, dtype, codebook)
    best = plan_plain(found, compact)
    encoded = None
    if codebook is not None and compact:
        for candidate in _sorted(values, found, target, coder):
            if len(candidate.section) + _worth(coder, candidate, best.section) <= best.section:
                best, encoded = candidate.info, candidate
    if codebook is None and coder != "fixed" and (encoded := _by_rows(values, dtype, best.section)):
        best = encoded.info
    if codebook is None or coder != "ans":
        encoded = _streams(values, found, best.section, coder, target, offset_bits) or encoded
    return encoded or write_plain(values, best)


def mixed_bytes(values: Array, dtype: DType, codebook: Array) -> int:
    """Bytes of the section that coder "ans" makes of `values`, codebook included; arguments as `encode_coded`."""
    return encode_coded(values, dtype, codebook, "ans").info.section


def _by_rows(values: Array, dtype: DType, plain: int) -> EncodedTensor | None:
    """By the kinds of its rows, if that is worth it where all rows as one take `plain` bytes."""
    encoded = Rows.of(values, dtype) if plain > WORTH else None
    return encoded if encoded and len(encoded.section) <= plain - WORTH else None


def _sorted(values: Array, found: Survey, target: int | None, coder: str) -> Iterator[EncodedTensor]:
    """By the adaptive model and by the rANS coder, as `coder` says."""
    given = coded.sort(values, found, target)
    unseen = left_to_mixing(found.index_counts, found.size) if coder == "rans" else found.size <= TINY
    static = None if coder == "ans" or unseen else ranked.encode(found, given)
    if static and coder == "rans":
        yield static
    if static is None or coder == "auto" or (found.size <= SMALL and len(static.section) <= FEW):
        yield adaptive.encode(found, given)
    if static and coder == "auto":
        yield static


def left_to_mixing(counts: Array, size: int) -> bool:
    """Whether "rans" leaves a tensor to the adaptive model, as it is so small that tables take more than they save.

    Args:
        counts: how often each value that is not zero occurs.
        size: elements in all.
    """
    each = np.append(counts, size - counts.sum())
    bits = size * np.log2(max(size, 1)) - each @ np.log2(np.maximum(each, 1))
    return size <= TINY or bool(size <= _UNSEEN and bits <= 8 * _LEAST)


def _worth(coder: str, candidate: EncodedTensor, best: int) -> int:
    """Bytes that a candidate must save where `best` are to be had.

    Older releases do not read rANS, so for "auto" it must be worth it; so must the slow adaptive model for "rans".
    """
    newest = candidate.info.layout.version > 2
    if coder == "rans" and not newest:
        return best // 100 + 1
    return WORTH if coder == "auto" and newest else 1


def _streams(
    values: Array, found: Survey, limit: int, coder: str, target: int | None, offset_bits: int | None
) -> EncodedTensor | None:
    """As streams of symbols, if they take less than `limit` bytes."""
    allow_huffman = coder != "fixed"
    if found.codebook is None:
        plan = plan_literal(found, allow_huffman, offset_bits)
    else:
        plan = plan_shared(found, allow_huffman, target, offset_bits, coder in COMPACT)
    if plan.section >= limit:
        return None
    assert isinstance(plan.layout, Streams)
    encoded = plan.layout.write(values, found, allow_huffman)
    # The plan knows the padding of lanes only on average, so the bytes themselves have the last word.
    return encoded if len(encoded.section) < limit else None
