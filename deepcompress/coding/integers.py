"""Whole numbers as tensors of a file, by the rANS coder: ranks in a codebook, or multiples of a step for each row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deepcompress.coding import scales
from deepcompress.coding.codebooks import Form
from deepcompress.coding.dtypes import DType
from deepcompress.coding.rans import codec
from deepcompress.coding.rans.tokens import LARGEST
from deepcompress.coding.streams import Coder
from deepcompress.coding.tensors import EncodedTensor, Encoding, TensorInfo

Array = np.ndarray[Any, np.dtype[Any]]

_GAPS_BELOW, _DENSE_ABOVE = 0.35, 0.12  # densities at which zeros may be skipped, and at which they may be coded
_SMALL = 1 << 20  # elements up to which that takes little time at lower densities


def encode_scaled(integers: Array, scale: np.float32, exponents: Array) -> EncodedTensor:
    """A float32 tensor of whole numbers times a step for each row (index of the first dimension).

    What is decoded is ``scales.values(integers, scales.steps(scale, exponents))``, bit for bit; `scales.fit` finds
    scale and exponents.

    Args:
        integers: any type of integers, of two dimensions or more, at most 32767 in magnitude.
        scale: the smallest step there may be, positive and not subnormal.
        exponents: of each row, in quarter octaves, 0 to 255; shape (rows,).

    Raises:
        ValueError: an argument is not as it should be, or a product is too large for float32.
    """
    exponents = np.asarray(exponents)
    if integers.ndim < 2 or exponents.shape != integers.shape[:1] or not np.issubdtype(integers.dtype, np.integer):
        raise ValueError("a scale for each row needs integers of two dimensions or more, and an exponent for each row")
    if not integers.size or np.abs(integers.astype(np.int64)).max() > LARGEST:
        raise ValueError(f"there must be integers, and none of them above {LARGEST} in magnitude")
    if exponents.min() < 0 or exponents.max() > scales.MAX_EXPONENT:
        raise ValueError(f"exponents of rows must be 0 to {scales.MAX_EXPONENT}")
    head = scales.pack(scale, exponents)
    grid = (min(int(integers.min()), 0), max(int(integers.max()), 0))
    scales.unpack(memoryview(head), len(exponents), max(-grid[0], grid[1]))
    info = TensorInfo(integers.shape, DType.FLOAT32, Encoding.CODED, codebook=len(head), form=Form.ROWS, grid=grid)
    return encode(integers.astype(np.int16).reshape(-1), info, head)


def encode(integers: Array, info: TensorInfo, head: bytes) -> EncodedTensor:
    """A tensor of `integers` (flat, int16) with these facts, and its codebook or scales `head`."""
    packed, payload = smallest(integers, info.shape)
    count = int(np.count_nonzero(integers))
    info = replace(info, nonzeros=count, tables=len(packed), weights=len(payload), weight_coder=Coder.RANS)
    return EncodedTensor(info, head + packed + payload)


def smallest(integers: Array, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The model's bytes and the streams of `codec.encode`, in the mode that makes them smaller."""
    density = np.count_nonzero(integers) / len(integers)
    dense = density >= (_DENSE_ABOVE if len(integers) > _SMALL else _DENSE_ABOVE / 4)
    modes = [gaps for gaps, fits in ((False, dense), (True, density < _GAPS_BELOW)) if fits]
    coded = [codec.encode(integers, shape, gaps) for gaps in modes]
    return min(coded, key=lambda parts: len(parts[0]) + len(parts[1]))
