"""Batch norm that its owner froze stays frozen while a copy of its network is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepcompress as dc
from deepcompress.networks.batchnorm import freeze_norms, let_train
from deepcompress.networks.copies import copied
from deepcompress.training.loop import fit


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3)).train()
    for at in (1, 4):
        net[at].running_mean.normal_()
        net[at].running_var.uniform_(0.5, 2)
    return net


def by_momentum(net):
    net.eval()[1].momentum = 0.0


def by_mode(net):
    net[1].eval()


def by_gradient(net):
    net[1].requires_grad_(False)


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [(torch.randn(16, 6), torch.randint(0, 3, (16,))) for _ in range(4)]


@pytest.mark.parametrize("freeze", [by_momentum, by_mode, by_gradient])
def test_what_its_owner_froze_stays(freeze, batches):
    net = network()
    freeze(net)
    work = copied(net)
    assert [name for name, module in work.named_modules() if getattr(module, "momentum", None) == 0] == ["1"]
    means = [work[at].running_mean.clone() for at in (1, 4)]
    fit(work, batches, torch.optim.SGD(work.parameters(), lr=0.05), 2, stage="prune", val_batches=batches)
    assert torch.equal(work[1].running_mean, means[0])
    assert not torch.equal(work[4].running_mean, means[1])
    assert torch.equal(work[1].weight, net[1].weight) is (freeze is by_gradient)


def test_it_normalizes_by_its_statistics_in_training():
    net = network()
    freeze_norms(net, every=True)
    x = torch.randn(16, 6)
    expected = net.eval()(x)
    let_train(net)
    assert torch.equal(net(x), expected)


def test_a_network_in_evaluation_says_nothing_of_its_norms():
    assert freeze_norms(network().eval()) == []
    assert freeze_norms(network().eval().requires_grad_(False)) == []


def test_the_network_that_was_given_is_left_alone(batches, tmp_path):
    net = network()
    net[1].eval()
    recipe = dc.Recipe(prune=0.5, bits=4, epochs=1, finetune_epochs=1)
    dc.compress(net, batches, batches, recipe, tmp_path / "m.dc")
    assert net[1].momentum == 0.1
    assert not net[1].training
    stored = dc.load_state_dict(tmp_path / "m.dc")
    assert torch.equal(stored["1.running_mean"], net[1].running_mean)
    assert not torch.equal(stored["4.running_mean"], net[4].running_mean)


def test_freeze_bn_keeps_the_statistics_of_all(batches, tmp_path):
    net, recipe = network(), dc.Recipe(prune=0.5, bits=4, epochs=1, finetune_epochs=1, freeze_bn=True)
    dc.compress(net, batches, batches, recipe, tmp_path / "m.dc")
    stored = dc.load_state_dict(tmp_path / "m.dc")
    for at in (1, 4):
        assert torch.equal(stored[f"{at}.running_mean"], net[at].running_mean)
        assert torch.equal(stored[f"{at}.running_var"], net[at].running_var)
        assert not torch.equal(stored[f"{at}.weight"], net[at].weight)
