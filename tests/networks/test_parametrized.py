"""Computed weights made plain: the same outputs, and nothing else of the network touched."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import deepcompress as dc
from deepcompress.errors import NetworkError
from deepcompress.networks.copies import copied
from deepcompress.networks.parametrized import bake, computed


def old(name, layer):
    with warnings.catch_warnings(action="ignore"):
        return getattr(torch.nn.utils, name)(layer)


def masked(layer):
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


MAKERS = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(6, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(6, 4)),
    "old weight_norm": lambda: old("weight_norm", nn.Linear(6, 4)),
    "old spectral_norm": lambda: old("spectral_norm", nn.Linear(6, 4)),
    "mask": lambda: masked(nn.Linear(6, 4)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_plain_weights_give_the_same_outputs(kind, training):
    torch.manual_seed(0)
    net, x = nn.Sequential(MAKERS[kind](), nn.ReLU()), torch.randn(3, 6)
    net(x)
    before = copied(net.train(training))
    expected = copied(net).eval()(x)
    assert computed(net) == ["0.weight"]
    assert bake(net) == ["0.weight"]
    assert computed(net) == bake(net) == []
    assert net.training == net[0].training == training
    assert set(net.state_dict()) == {"0.weight", "0.bias"}
    assert type(net[0]) is nn.Linear
    assert isinstance(net[0].weight, nn.Parameter)
    assert net[0].weight.requires_grad
    assert torch.equal(net.eval()(x), expected)
    assert computed(before) == ["0.weight"]  # a copy is still what it was
    assert torch.equal(before.eval()(x), expected)
    plain = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    plain.load_state_dict(net.state_dict())
    net.load_state_dict(plain.state_dict())


def test_a_copy_can_be_baked_and_the_network_goes_on():
    torch.manual_seed(0)
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)))
    twin = copy.deepcopy(net)
    bake(twin)
    assert parametrize.is_parametrized(net[0])
    x = torch.randn(2, 6)
    net(x).sum().backward()
    assert torch.equal(net(x), twin(x))


def test_several_weights_of_one_module():
    cell = nn.LSTM(3, 4)
    parametrizations.weight_norm(cell, "weight_hh_l0")
    parametrizations.weight_norm(cell, "weight_ih_l0")
    x = torch.randn(5, 2, 3)
    expected = cell(x)[0]
    assert bake(cell) == ["weight_hh_l0", "weight_ih_l0"]
    assert torch.equal(cell(x)[0], expected)
    assert set(cell.state_dict()) == set(nn.LSTM(3, 4).state_dict())


def test_frozen_weights_and_plain_networks():
    with torch.no_grad():
        assert dc.bake(nn.Linear(3, 2)) == []
        net = parametrizations.weight_norm(nn.Linear(3, 2))
        assert bake(net) == ["weight"]
    assert isinstance(net.weight, nn.Parameter)


def test_a_network_that_cannot_be_copied():
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("not this one\nat all")

    with pytest.raises(NetworkError, match=r"the network Stubborn cannot be copied: not this one$"):
        copied(Stubborn(2, 2))
