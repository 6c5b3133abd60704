"""torch tensors to the arrays that the coder and the container work on, and back, without changing a bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from deepcompress.coding.tensors import DType
from deepcompress.errors import CheckpointError
from deepcompress.layers import tied_to

Array = np.ndarray[Any, np.dtype[Any]]

TORCH_DTYPES = {
    DType.FLOAT32: torch.float32,
    DType.FLOAT16: torch.float16,
    DType.BFLOAT16: torch.bfloat16,
    DType.FLOAT64: torch.float64,
    DType.INT8: torch.int8,
    DType.UINT8: torch.uint8,
    DType.INT16: torch.int16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.BOOL: torch.bool,
}
_FILE_DTYPES = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items()}


def check_dtype(name: str, value: torch.Tensor) -> DType:
    """The dtype of `value` in the file format.

    Raises:
        CheckpointError: the format has none for it; `name` is named.
    """
    if value.dtype not in _FILE_DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _FILE_DTYPES)
        raise CheckpointError(f"tensor {name}: dtype {value.dtype} is not supported; supported are {known}")
    return _FILE_DTYPES[value.dtype]


def to_array(name: str, value: torch.Tensor) -> tuple[Array, DType]:
    """The values of `value` in the storage type of its dtype (bfloat16 as its 16 bits), on the CPU, and the dtype.

    Raises:
        CheckpointError: the file format has no such dtype; `name` is named.
    """
    dtype = check_dtype(name, value)
    value = value.detach().cpu().contiguous()
    if dtype is DType.BFLOAT16:
        return value.view(torch.int16).numpy().view(dtype.storage), dtype
    return value.numpy(), dtype


def to_torch(values: Array, dtype: DType) -> torch.Tensor:
    """A tensor on the CPU with the memory of `values`, an array in ``dtype.storage``."""
    if dtype is DType.BFLOAT16:
        return torch.from_numpy(values.view("<i2")).view(torch.bfloat16)
    return torch.from_numpy(values)


def dense_bytes(state: Mapping[str, torch.Tensor]) -> int:
    """As `container.breakdown.dense_bytes`, of tensors: 4 for a floating-point element (fp32), tied ones once."""
    tied = tied_to(state)
    return sum(
        value.numel() * (4 if value.is_floating_point() else value.element_size())
        for name, value in state.items()
        if name not in tied
    )
