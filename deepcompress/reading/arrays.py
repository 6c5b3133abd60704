"""torch tensors to the arrays that the coder and the container work on, and back, without changing a bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from deepcompress.coding.dtypes import DType
from deepcompress.container.entries import MAX_DIMENSIONS, MAX_NAME
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


def check_tensor(name: str, value: torch.Tensor) -> None:
    """Refuse what a file cannot hold: a name, a shape, a type, or something that has no elements of its own.

    Raises:
        CheckpointError: naming the tensor, what it is, and what is allowed.
    """
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(f"entry {name!a} is a {type(value).__name__}; only torch tensors can be stored")
    size = len(name.encode("utf-8", errors="surrogateescape"))
    if not 0 < size <= MAX_NAME or not name.isprintable():
        raise CheckpointError(
            f"tensor name {name[:80]!a} cannot be stored: allowed are 1 to {MAX_NAME} bytes of characters that can be "
            f"printed, and it has {size}; rename it"
        )
    if value.is_nested or value.layout is not torch.strided or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else str(value.layout)
        raise CheckpointError(f"tensor {name}: it is {kind}; only dense tensors can be stored")
    if value.device.type == "meta":
        raise CheckpointError(f"tensor {name}: it is on the meta device, and has no values; load them first")
    if value.ndim > MAX_DIMENSIONS:
        raise CheckpointError(
            f"tensor {name}: it has {value.ndim} dimensions; at most {MAX_DIMENSIONS} can be stored: reshape it"
        )
    check_dtype(name, value)


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


def source_bytes(state: Mapping[str, torch.Tensor]) -> int:
    """Bytes of tensors in their own types; tied ones once."""
    tied = tied_to(state)
    return sum(value.numel() * value.element_size() for name, value in state.items() if name not in tied)


def dense_bytes(state: Mapping[str, torch.Tensor]) -> int:
    """As `container.breakdown.dense_bytes`, of tensors: 4 for a floating-point element (fp32), tied ones once.

    Raises:
        CheckpointError: as `check_tensor`.
    """
    for name, value in state.items():
        check_tensor(name, value)
    tied = tied_to(state)
    return sum(
        value.numel() * (4 if check_dtype(name, value).is_float else value.element_size())
        for name, value in state.items()
        if name not in tied
    )
