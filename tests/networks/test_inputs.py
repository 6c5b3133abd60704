"""Inputs and targets that are tensors, or structures of them."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from deepcompress.errors import DataError
from deepcompress.networks.inputs import count_samples, each_tensor, in_float32, predict, rows, tensors_in, to_device

A, B = torch.arange(6).reshape(3, 2), torch.arange(3.0)


def test_every_tensor_of_a_structure():
    doubled = each_tensor({"a": A, "rest": (B, [A], "text", None)}, lambda tensor: 2 * tensor)
    assert torch.equal(doubled["a"], 2 * A)
    first, second, *others = doubled["rest"]
    assert torch.equal(first, 2 * B)
    assert torch.equal(second[0], 2 * A)
    assert others == ["text", None]
    assert isinstance(doubled["rest"], tuple)
    assert [tensor.shape for tensor in tensors_in({"a": A, "rest": (B, [A], "text")})] == [(3, 2), (3,), (3, 2)]


def test_devices_and_what_moves_itself():
    class Moves:
        def to(self, device):
            return ("moved", device)

    device = torch.device("meta")
    assert to_device((A, {"b": B}), device)[1]["b"].device == device
    assert to_device(Moves(), device) == ("moved", device)


def test_only_floating_point_outputs_are_widened():
    floats, ints = in_float32((B.bfloat16(), A))
    assert (floats.dtype, ints.dtype) == (torch.float32, torch.int64)
    output = OrderedDict(logits=B.half())  # of a class of its own: left as it is
    assert in_float32(output) is output


def test_rows_and_how_many():
    cut = rows({"a": A, "b": (B,)}, 1, 3)
    assert cut["a"].tolist() == [[2, 3], [4, 5]]
    assert cut["b"][0].tolist() == [1.0, 2.0]
    assert count_samples({"a": A, "b": B}) == 3
    assert count_samples([B]) == 3
    for nothing in ({}, "text", torch.tensor(3)):
        with pytest.raises(DataError, match="without a tensor whose first dimension are samples"):
            count_samples(nothing)


def test_inputs_are_arguments():
    class Net(nn.Module):
        def forward(self, a, b=0):
            return a - b

    assert predict(Net(), B).tolist() == [0, 1, 2]
    assert predict(Net(), (B, 1)).tolist() == [-1, 0, 1]
    assert predict(Net(), [B, 1]).tolist() == [-1, 0, 1]
    assert predict(Net(), {"b": B, "a": 1}).tolist() == [1, 0, -1]
