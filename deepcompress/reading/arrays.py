"""torch tensors to the arrays that the coder and the container work on, and back, without changing a bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from deepcompress.coding.dtypes import DType
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
    DType.FLOAT8_E4M3FN: torch.float8_e4m3fn,
    DType.FLOAT8_E5M2: torch.float8_e5m2,
    DType.FLOAT8_E4M3FNUZ: torch.float8_e4m3fnuz,
    DType.FLOAT8_E5M2FNUZ: torch.float8_e5m2fnuz,
    DType.FLOAT8_E8M0FNU: torch.float8_e8m0fnu,
    DType.FLOAT4_E2M1FN_X2: torch.float4_e2m1fn_x2,
    DType.UINT16: torch.uint16,
    DType.UINT32: torch.uint32,
    DType.UINT64: torch.uint64,
    DType.COMPLEX32: torch.complex32,
    DType.COMPLEX64: torch.complex64,
    DType.COMPLEX128: torch.complex128,
}
#: Those that numpy does not know travel as integers of the same width.
_AS_INTEGERS = {
    DType.BFLOAT16: torch.int16,
    DType.COMPLEX32: torch.int32,
    **dict.fromkeys(map(DType, range(DType.FLOAT8_E4M3FN, DType.UINT16)), torch.uint8),
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
    """The values of `value` in the storage type of its dtype (bfloat16 and others that numpy
    does not know as their bits), on the CPU, and the dtype.

    Raises:
        CheckpointError: the file format has no such dtype; `name` is named.
    """
    dtype = check_dtype(name, value)
    value = value.detach().cpu().contiguous()
    if dtype in _AS_INTEGERS:
        return value.view(_AS_INTEGERS[dtype]).numpy().view(dtype.storage), dtype
    return value.resolve_conj().resolve_neg().numpy(), dtype


def to_torch(values: Array, dtype: DType) -> torch.Tensor:
    """A tensor on the CPU with the memory of `values`, an array in ``dtype.storage``."""
    if dtype in _AS_INTEGERS:
        signed = values.view(f"<i{values.itemsize}") if values.itemsize > 1 else values
        return torch.from_numpy(signed).view(TORCH_DTYPES[dtype])
    return torch.from_numpy(values)


def dense_bytes(state: Mapping[str, torch.Tensor]) -> int:
    """As `container.breakdown.dense_bytes`, of tensors: 4 for a floating-point element (fp32), tied ones once."""
    tied = tied_to(state)
    return sum(
        value.numel() * (4 if check_dtype(name, value).is_float else value.element_size())
        for name, value in state.items()
        if name not in tied
    )
