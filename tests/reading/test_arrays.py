"""Tensors to arrays and back, bit for bit."""

from __future__ import annotations

import pytest
import torch

from deepcompress.coding.tensors import DType
from deepcompress.errors import CheckpointError
from deepcompress.reading.arrays import TORCH_DTYPES, check_dtype, dense_bytes, to_array, to_torch


@pytest.mark.parametrize(("dtype", "torch_dtype"), TORCH_DTYPES.items())
def test_round_trip_of_every_dtype(dtype, torch_dtype):
    limit = 2 if dtype is DType.BOOL else 256
    raw = torch.randint(0, limit, (3, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    value = raw.view(torch_dtype)
    array, found = to_array("w", value)
    assert found is dtype
    assert array.dtype == dtype.storage
    back = to_torch(array, dtype)
    assert (back.dtype, back.shape) == (torch_dtype, value.shape)
    assert torch.equal(back.view(torch.uint8), raw)
    assert array.tobytes() == raw.numpy().tobytes()


def test_every_dtype_of_the_format_has_a_torch_dtype():
    assert set(TORCH_DTYPES) == set(DType)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_payloads_of_nan_and_signs_of_zero_survive(dtype):
    integers = {4: torch.int32, 2: torch.int16}[dtype.itemsize]
    patterns = torch.tensor([-(2 ** (8 * dtype.itemsize - 1)), -1, -5, 1], dtype=integers)  # -0, NaNs, a subnormal
    back = to_torch(*to_array("w", patterns.view(dtype)))
    assert torch.equal(back.view(integers), patterns)


def test_any_layout_becomes_row_by_row():
    value = torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    array, _ = to_array("w", value)
    assert array.flags.c_contiguous
    assert torch.equal(to_torch(array, DType.FLOAT32), value)
    assert torch.equal(torch.from_numpy(to_array("w", value.permute(1, 0, 2, 3))[0]), value.permute(1, 0, 2, 3))


def test_scalars_and_empty_tensors():
    for value in (torch.tensor(3), torch.tensor(1.5), torch.zeros(0, 3)):
        assert torch.equal(to_torch(*to_array("w", value)), value)


def test_lazy_signs_are_resolved():
    value = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert to_array("w", value)[0].tolist() == [1 - 2j, 3 + 4j]
    assert to_array("w", value.imag)[0].tolist() == [-2, 4]  # torch keeps it as a negative view


@pytest.mark.parametrize("dtype", [torch.bits8, torch.bits2x4])
def test_other_dtypes_are_refused_by_name(dtype):
    value = torch.empty(3, dtype=dtype, device="meta")
    for function in (check_dtype, to_array):
        with pytest.raises(CheckpointError, match=rf"tensor fc.weight: dtype {dtype} is not supported.*float32"):
            function("fc.weight", value)


def test_dense_bytes_count_floats_as_fp32_and_tied_tensors_once():
    w = torch.zeros(10, 10, dtype=torch.float16)
    assert dense_bytes({"a": w, "b": w}) == 400
    assert dense_bytes({"a": w, "b": w.clone()}) == 800
    assert dense_bytes({"a": w.double(), "n": torch.tensor(1), "flags": torch.zeros(3, dtype=torch.bool)}) == 411
