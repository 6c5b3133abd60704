"""Tensors as numpy arrays: the same numbers that torch gives."""

import numpy as np
import pytest
import torch

import deepcompress
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import alias, encode_coded, encode_plain
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError
from deepcompress.reading.arrays import TORCH_DTYPES
from deepcompress.reading.frameworks import to_numpy

BOOK = np.array([0x3F80, 0xBE80], dtype="<u2")
WEIGHT = np.where(
    np.arange(200).reshape(10, 20) % 7 == 0, BOOK[0], np.where(np.arange(200).reshape(10, 20) % 5, 0, BOOK[1])
)


@pytest.fixture
def path(tmp_path):
    tensors = [
        ("weight", encode_coded(WEIGHT.astype("<u2"), DType.BFLOAT16, BOOK)),
        ("tied", alias((10, 20), DType.BFLOAT16, 0)),
        ("bias", encode_plain(np.arange(30, dtype="<f4"), DType.FLOAT32)),
        ("steps", encode_plain(np.array(7), DType.INT64)),
        ("none", encode_plain(np.zeros((0, 3), bool), DType.BOOL)),
    ]
    (tmp_path / "m.dc").write_bytes(pack(tensors, "net", "digits"))
    return tmp_path / "m.dc"


def test_arrays_are_what_torch_gives(path):
    arrays, state = deepcompress.load_state_dict(path, framework="numpy"), deepcompress.load_state_dict(path)
    assert list(arrays) == list(state) == ["weight", "tied", "bias", "steps", "none"]
    for name, value in state.items():
        expected = value.float() if value.dtype == torch.bfloat16 else value
        assert arrays[name].shape == value.shape
        np.testing.assert_array_equal(arrays[name], expected.numpy(), strict=True)
    assert arrays["tied"] is arrays["weight"]


def test_single_arrays(path):
    with deepcompress.open(path, framework="numpy") as file:
        assert (file.network, file.data, len(file)) == ("net", "digits", 5)
        assert (file["tied"].dtype, file["tied"].shape, file["tied"][0, 0]) == (np.float32, (10, 20), 1.0)
        assert file["steps"].tolist() == 7


@pytest.mark.parametrize("door", [deepcompress.open, deepcompress.load_state_dict])
def test_frameworks_and_devices_that_there_are_not(path, door):
    with pytest.raises(ValueError, match="framework 'jax' is unknown"):
        door(path, framework="jax")
    with pytest.raises(ValueError, match="gives arrays on the CPU, not on cuda"):
        door(path, device="cuda", framework="numpy")


def test_arrays_are_bounded_and_checked(path):
    with pytest.raises(FormatError, match="more than the 100 allowed"):
        deepcompress.load_state_dict(path, max_bytes=100, framework="numpy")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FormatError, match="cut short"):
        deepcompress.load_state_dict(path, framework="numpy")


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.name.startswith("FLOAT8")], ids=lambda d: d.name)
def test_every_number_of_eight_bits(dtype):
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = torch.from_numpy(codes.copy()).view(TORCH_DTYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(to_numpy(codes, dtype), expected, strict=True)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(to_numpy(codes, dtype))[numbers], np.signbit(expected)[numbers])


def test_halves_of_complex_numbers_and_pairs_of_four_bits():
    halves = np.array([1.5, -2, 0, 65504], "<f2").view("<u4").reshape(2, 1)
    np.testing.assert_array_equal(
        to_numpy(halves, DType.COMPLEX32), np.array([[1.5 - 2j], [65504j]], "<c8"), strict=True
    )
    pairs = np.array([0x12, 0xFF], np.uint8)
    assert to_numpy(pairs, DType.FLOAT4_E2M1FN_X2) is pairs
