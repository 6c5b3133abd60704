"""Tensors of a file as torch tensors or as numpy arrays; torch is imported only for the former."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from deepcompress.coding.dtypes import DType
from deepcompress.container.reader import ModelFile

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]
Framework = Literal["torch", "numpy"]

_EIGHT_BITS = (
    DType.FLOAT8_E4M3FN,
    DType.FLOAT8_E5M2,
    DType.FLOAT8_E4M3FNUZ,
    DType.FLOAT8_E5M2FNUZ,
    DType.FLOAT8_E8M0FNU,
)


def check_framework(framework: str, device: Any = "cpu") -> None:
    """Raise a ValueError unless tensors can be given in this framework, and there on this device."""
    if framework not in ("torch", "numpy"):
        raise ValueError(f'framework {framework!r} is unknown; there are "torch" and "numpy"')
    if framework == "numpy" and str(device) != "cpu":
        raise ValueError(f'framework="numpy" gives arrays on the CPU, not on {device}')


@overload
def load_state_dict(
    path: str | Path,
    device: str | torch.device = "cpu",
    max_bytes: int | None = None,
    threads: int | None = None,
    framework: Literal["torch"] = "torch",
) -> dict[str, torch.Tensor]: ...


@overload
def load_state_dict(
    path: str | Path,
    device: str = "cpu",
    max_bytes: int | None = None,
    threads: int | None = None,
    *,
    framework: Literal["numpy"],
) -> dict[str, Array]: ...


def load_state_dict(
    path: str | Path,
    device: str | torch.device = "cpu",
    max_bytes: int | None = None,
    threads: int | None = None,
    framework: Framework = "torch",
) -> Mapping[str, Any]:
    """Decode all tensors of a .dc file, in the order of the file; tied tensors share their memory.

    Tensors are decoded one after the other, and each is moved to `device` before the next: beside the largest tensor
    and its section, the host holds only what stays there.

    Nothing in the file is executed or imported. The header and every checksum are verified before the first
    tensor is allocated.

    Args:
        path: the file.
        device: where the tensors go.
        max_bytes: how many bytes the decoded tensors may take together; by default 1024 times the size of the
            file, and at least 256 MiB.
        threads: how many share the work on a large tensor; by default as many as torch uses
            (``torch.get_num_threads()``), or for numpy as many as there are cores. The result is the same.
        framework: ``torch``, or ``numpy``: then torch is not imported, and bfloat16 and 8-bit floats, which numpy
            does not have, become float32 (see `to_numpy`).

    Raises:
        FormatError: the file is missing, damaged, too new, or claims more than `max_bytes`.
        ValueError: there is no such framework, or it has no such device.
    """
    check_framework(framework, device)
    if framework == "numpy":
        return _load_arrays(path, max_bytes, threads or os.cpu_count() or 1)
    from deepcompress.reading import loader

    return loader.load_state_dict(path, device, max_bytes, threads)


def _load_arrays(path: str | Path, max_bytes: int | None, workers: int) -> dict[str, Array]:
    """All tensors of a file as numpy arrays; those tied to one another are the same array."""
    found: dict[str, Array] = {}
    first: dict[str, str] = {}
    with ModelFile(path) as file:
        file.check(max_bytes)
        for name in file:
            stored = first.setdefault(file.resolved(file.entry(name)).name, name)
            found[name] = found[stored] if stored != name else to_numpy(*file.read(name, workers))
    return found


def to_numpy(values: Array, dtype: DType) -> Array:
    """What a file stores as an array of numbers: `values`, in ``dtype.storage``, unless numpy has no type for them.

    bfloat16 and 8-bit floats become float32, complex numbers of two float16 become complex64: all of them exactly. Two
    4-bit floats in a byte stay a byte.
    """
    if dtype is DType.BFLOAT16:
        return (values.astype("<u4") << 16).view("<f4")
    if dtype is DType.COMPLEX32:
        pairs = values.reshape(-1).view("<f2").astype("<f4")
        return pairs.view("<c8").reshape(values.shape)
    if dtype in _EIGHT_BITS:
        return np.asarray(_eight_bits(dtype)[values])
    return values


@cache
def _eight_bits(dtype: DType) -> Array:
    """The number that each byte stands for, float32 (OCP 8-bit Floating Point Specification; fnuz: Graphcore, AMD)."""
    code = np.arange(256)
    if dtype is DType.FLOAT8_E8M0FNU:
        return np.where(code == 255, np.nan, 2.0 ** (code - 127.0)).astype("<f4")
    digits = 3 if dtype in (DType.FLOAT8_E4M3FN, DType.FLOAT8_E4M3FNUZ) else 2
    one_zero = dtype in (DType.FLOAT8_E4M3FNUZ, DType.FLOAT8_E5M2FNUZ)  # and NaN where the other one would be
    bias = (7 if digits == 3 else 15) + one_zero
    exponent, rest = (code & 127) >> digits, code & (1 << digits) - 1
    size = np.where(exponent, (1 << digits) + rest, rest) * 2.0 ** (np.maximum(exponent, 1) - bias - digits)
    if dtype is DType.FLOAT8_E4M3FN:
        size[[127, 255]] = np.nan
    elif dtype is DType.FLOAT8_E5M2:
        size[exponent == 31] = np.where(rest[exponent == 31], np.nan, np.inf)
    found = np.where(code < 128, size, -size)
    if one_zero:
        found[128] = np.nan
    numbers: Array = found.astype("<f4")
    return numbers
