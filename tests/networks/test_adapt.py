"""Modules made to fit smaller tensors, and shapes that are refused."""

from __future__ import annotations

import pytest
import torch
from samples import CLASSES, Mlp
from torch import nn

from deepcompress.errors import NetworkError
from deepcompress.networks.adapt import is_smaller, replacements, resized
from deepcompress.networks.copies import copied
from deepcompress.reading.fitting import fill


def shapes(module, **changed):
    return {name: torch.Size(changed.get(name, value.shape)) for name, value in module.state_dict().items()}


def state_with(model, **changed):
    return {
        name: torch.randn(changed.get(name.replace(".", "_"), value.shape))
        for name, value in model.state_dict().items()
    }


SMALLER = {
    "fc1_weight": (20, 12),
    "fc1_bias": (20,),
    "fc2_weight": (9, 20),
    "fc2_bias": (9,),
    "fc3_weight": (CLASSES, 9),
}


def test_a_network_takes_smaller_layers_and_runs():
    model = Mlp().eval()
    model.fc1.weight.requires_grad_(False)
    state = state_with(model, **SMALLER)
    with pytest.raises(NetworkError, match=r"x: tensor fc1.weight has shape \(20, 12\).* the file does not say so"):
        fill(model, state, "x")
    fill(model, state, "x", smaller=True)
    assert is_smaller(model)
    assert is_smaller(copied(model))
    assert not is_smaller(Mlp())
    assert (model.fc1.out_features, model.fc2.in_features, model.fc3.in_features) == (20, 20, 9)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.fc1.weight.requires_grad
    assert model.fc2.weight.requires_grad
    assert not model.fc1.training
    assert model(torch.randn(3, 12)).shape == (3, CLASSES)


@pytest.mark.parametrize(
    "changed",
    [
        {"fc1_weight": (20, 12)},  # and a bias of 32
        {"fc1_weight": (33, 12), "fc1_bias": (33,)},  # larger
        {"fc1_weight": (32, 11)},  # the network's input
        {"fc3_weight": (CLASSES - 1, 16), "fc3_bias": (CLASSES - 1,)},  # and its output
        {"fc1_weight": (0, 12), "fc1_bias": (0,)},
        {"fc1_weight": (32, 12, 1)},
        {"fc1_weight": (32,)},
        {"fc1_bias": (31,)},
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(changed):
    model = Mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NetworkError, match=r"x: tensor fc. ?|x: tensor fc.\.(weight|bias) has shape"):
        fill(model, state_with(model, **changed), "x", smaller=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.fc1.out_features == 32


@pytest.mark.parametrize(
    ("module", "changed", "fits"),
    [
        (nn.Conv2d(4, 6, 3), {"weight": (5, 2, 3, 3), "bias": (5,)}, {"in_channels": 2, "out_channels": 5}),
        (nn.Conv2d(4, 6, 3), {"weight": (6, 4, 2, 2)}, None),
        (nn.Conv2d(4, 4, 3, groups=4), {"weight": (3, 1, 3, 3), "bias": (3,)}, {"groups": 3, "in_channels": 3}),
        (nn.Conv2d(4, 8, 3, groups=4), {"weight": (6, 1, 3, 3), "bias": (6,)}, {"groups": 3, "in_channels": 3}),
        (nn.Conv2d(4, 8, 3, groups=4), {"weight": (5, 1, 3, 3), "bias": (5,)}, None),
        (nn.Conv2d(4, 6, 3, groups=2), {"weight": (4, 1, 3, 3), "bias": (4,)}, {"groups": 2, "in_channels": 2}),
        (nn.Conv2d(4, 6, 3, groups=2), {"weight": (5, 2, 3, 3), "bias": (5,)}, None),
        (nn.BatchNorm2d(6), dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (4,)),
         {"num_features": 4}),
        (nn.BatchNorm2d(6), {"weight": (4,), "bias": (4,)}, None),
        (nn.GroupNorm(2, 6), {"weight": (4,), "bias": (4,)}, {"num_channels": 4}),
        (nn.GroupNorm(2, 6), {"weight": (5,), "bias": (5,)}, None),
        (nn.LayerNorm(6), {"weight": (4,), "bias": (4,)}, {"normalized_shape": (4,)}),
        (nn.Embedding(9, 6), {"weight": (9, 4)}, {"embedding_dim": 4}),
        (nn.Embedding(9, 6), {"weight": (8, 6)}, None),
        (nn.LSTM(4, 4), {"weight_ih_l0": (12, 4)}, None),
        (nn.ConvTranspose2d(4, 6, 3), {"weight": (3, 6, 3, 3)}, None),
    ],
)  # fmt: skip
def test_each_kind_of_module(module, changed, fits):
    found = resized(module, shapes(module, **changed))
    if fits is None:
        assert found is None
        return
    assert {name: getattr(found, name) for name in fits} == fits
    assert shapes(found) == shapes(module, **changed)
    assert type(found) is type(module)
    assert shapes(module) != shapes(found)  # which is as it was


def test_a_resized_depthwise_convolution_runs():
    module = nn.Conv2d(4, 8, 3, groups=4)
    found = resized(module, shapes(module, weight=(6, 1, 3, 3), bias=(6,)))
    assert found(torch.randn(1, 3, 5, 5)).shape == (1, 6, 3, 3)


def thin_state(model, first, second):
    state = {name: value for name, value in model.state_dict().items() if name not in ("fc2.weight", "fc2.bias")}
    return state | {
        "fc2.0.weight": torch.randn(first),
        "fc2.1.weight": torch.randn(second),
        "fc2.1.bias": torch.randn(16),
    }


def test_two_thin_layers_take_the_place_of_one():
    model = Mlp()
    state = thin_state(model, (3, 32), (16, 3))
    fill(model, state, "x")
    assert (model.fc2[0].bias, model.fc2[0].out_features, model.fc2[1].in_features) == (None, 3, 3)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((3, 32), (16, 4)),
        ((3, 33), (16, 3)),
        ((11, 32), (16, 11)),
        ((0, 32), (16, 0)),
        ((3,), (16, 3)),
        ((3, 32), (17, 3)),
    ],
)
def test_two_layers_that_are_not_thin_or_do_not_fit_are_refused(first, second):
    model = Mlp()
    with pytest.raises(NetworkError, match=r"x: has no tensor fc2|x: tensor fc2"):
        fill(model, thin_state(model, first, second), "x")
    assert isinstance(model.fc2, nn.Linear)


def test_what_fits_is_not_replaced():
    model = Mlp()
    assert replacements(model, model.state_dict()) == {}
