"""Which tensors are layers, and what is refused before any work is done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.layers import (
    Layer,
    buffers_of,
    check_choice,
    check_finite,
    check_plain,
    check_rules,
    compressible,
    is_kept,
    tied_to,
)
from deepcompress.recipe import LayerRule, Recipe


def test_layers_are_floating_point_tensors_of_two_or_more_dimensions():
    state = {
        "w": torch.zeros(3, 4),
        "b": torch.zeros(3),
        "conv": torch.zeros(2, 1, 3, 3, dtype=torch.float16),
        "count": torch.tensor(3),
        "ids": torch.zeros(3, 4, dtype=torch.int64),
        "flags": torch.zeros(3, 4, dtype=torch.bool),
        "empty": torch.zeros(0, 4),
        "a": torch.zeros(1, 1, dtype=torch.bfloat16),
    }
    assert compressible(state) == [Layer("w", (3, 4)), Layer("conv", (2, 1, 3, 3)), Layer("a", (1, 1))]
    assert [layer.weights for layer in compressible(state)] == [12, 18, 1]
    assert [layer.is_conv for layer in compressible(state)] == [False, True, False]


def test_batch_norm_is_no_layer():
    assert compressible(nn.BatchNorm2d(4).state_dict()) == []
    assert [layer.name for layer in compressible(nn.Conv1d(2, 3, 5).state_dict())] == ["weight"]


def test_tied_weights_are_one_layer():
    w = torch.randn(4, 4)
    state = {"a": w, "b": w, "view": w.view(2, 8), "same values": w.clone(), "transposed": w.t(), "c": w}
    assert tied_to(state) == {"b": "a", "c": "a"}
    assert [layer.name for layer in compressible(state)] == ["a", "view", "same values", "transposed"]


def test_empty_tensors_are_not_tied():
    assert tied_to({"a": torch.zeros(0), "b": torch.zeros(0)}) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_that_are_not_finite_are_named_and_counted(value, dtype):
    bias = torch.zeros(10, dtype=dtype)
    bias[3:5] = value
    state, layers = {"mask": bias.clone(), "fc.weight": bias.reshape(2, 5)}, [Layer("fc.weight", (2, 5))]
    with pytest.raises(CheckpointError, match=r"fc.weight: 2 of 10 values are NaN or infinite.*'fc.weight:keep'"):
        check_finite(state, layers)
    check_finite({**state, "fc.weight": torch.ones(2, 5)}, layers)


def test_a_rule_about_no_layer_is_refused():
    layers = [Layer("conv1.weight", (1, 1, 3, 3)), Layer("fc.weight", (2, 2))]
    check_rules(Recipe(layers=(LayerRule("conv*"), LayerRule("fc.weight"))), layers)
    with pytest.raises(RecipeError, match=r"'cnv\*' matches no layer; there are conv1.weight, fc.weight"):
        check_rules(Recipe(layers=(LayerRule("*"), LayerRule("cnv*"))), layers)


def test_a_rule_leaves_a_tensor_alone_and_a_later_one_takes_it_back():
    def kept(*rules, buffer=False):
        return is_kept("fc.weight", Recipe(layers=rules), buffer)

    keep, prune = LayerRule("fc*", keep=True), LayerRule("fc", prune=0.5)
    assert not is_kept("fc.weight", None)
    assert not kept()
    assert kept(keep)
    assert not kept(LayerRule("conv*", keep=True))
    assert not kept(keep, prune)
    assert kept(prune, keep)
    assert kept(keep, LayerRule("fc", prune=0.0, bits="none"))  # says no more than keep does
    assert kept(keep, LayerRule("fc", group="a"))
    assert not kept(keep, LayerRule("fc", keep=False))
    assert kept(buffer=True)
    assert not kept(prune, buffer=True)
    assert not kept(LayerRule("fc.weight", levels=3), buffer=True)
    assert kept(LayerRule("conv*", bits=3), buffer=True)


def test_layers_without_buffers_and_what_is_kept():
    state = {"a": torch.zeros(3, 4), "mask": torch.zeros(3, 4), "b": torch.zeros(2, 2)}
    recipe = Recipe(layers=(LayerRule("b", keep=True),))
    assert [layer.name for layer in compressible(state, recipe, {"mask"})] == ["a"]
    assert [layer.name for layer in compressible(state, None, {"mask"})] == ["a", "b"]
    assert [layer.name for layer in compressible(state)] == ["a", "mask", "b"]


def test_buffers_of_a_network():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    net.register_buffer("mask", torch.zeros(3, 3))
    assert buffers_of(net) == {"1.running_mean", "1.running_var", "1.num_batches_tracked", "mask"}


def test_a_choice_that_leaves_nothing():
    layer = Layer("w", (2, 2))
    with pytest.raises(CheckpointError, match="no floating-point tensor has two or more dimensions"):
        check_choice(Recipe(), [], [])
    with pytest.raises(CheckpointError, match="w and all others like it are buffers, or kept by rules"):
        check_choice(Recipe(), [layer], [])
    check_choice(Recipe(), [layer], [layer])


def test_tensors_that_a_weight_is_computed_from():
    check_plain(["parametrizations_weight", "a.weight"])
    for name in ("parametrizations.weight.original", "a.b.parametrizations.weight.original1"):
        with pytest.raises(CheckpointError, match=f"tensor {name}"):
            check_plain(["w", name])
