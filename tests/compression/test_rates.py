"""Learning rates that suit the loss at hand."""

from __future__ import annotations

import pytest
import torch
from listener import Listener
from samples import Mlp, batches
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import deepcompress as dc
from deepcompress.compression.rates import _is_known, suited
from deepcompress.networks import build
from deepcompress.networks.batchnorm import freeze_norms
from deepcompress.networks.copies import copied
from deepcompress.networks.lenet import LeNet300100
from deepcompress.training.loop import fit
from deepcompress.training.objective import cross_entropy
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import own_task


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Mlp()


def run_of(model, recipe, objective=cross_entropy, data=None):
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    return Run(model, weights, data or batches(128, 1), recipe, watch=Listener(), objective=objective)


def steep(output, target):
    """A loss whose gradients are a thousand times those of cross entropy."""
    return 1000 * nn.functional.cross_entropy(output, target)


def test_a_rate_that_lowers_the_loss_stays(model):
    run = run_of(model, dc.Recipe())
    assert suited(run) is run.recipe
    assert run.watch.lines == []


def test_of_a_steep_loss_the_rates_are_lower(model):
    run = run_of(model, dc.Recipe(), own_task(steep, None))
    found = suited(run)
    assert found.lr < 0.02
    assert found.finetune_lr / 0.005 == pytest.approx(found.lr / 0.02)
    (line,) = run.watch.lines
    assert f"lr {found.lr:.3g} and finetune_lr {found.finetune_lr:.3g}" in line


def test_rates_that_were_given_stay(model):
    for given in ({"lr": 0.02}, {"epochs": 0, "finetune_lr": 0.005}, {"retrain": False}):
        run = run_of(model, dc.Recipe(**given), own_task(steep, None))
        assert suited(run) is run.recipe
    run = run_of(model, dc.Recipe(finetune_lr=0.005), own_task(steep, None))
    assert suited(run).finetune_lr == 0.005 > suited(run).lr


def test_the_settings_for_the_smallest_files_are_defaults_too(model):
    assert suited(run_of(model, dc.Recipe.smallest(target_size=900), own_task(steep, None))).lr < 0.01
    assert suited(run_of(model, dc.Recipe.smallest(target_size=900, lr=0.03), own_task(steep, None))).lr == 0.03


def test_networks_of_our_own_are_known():
    torch.manual_seed(0)
    run = run_of(LeNet300100(), dc.Recipe(), data=[])  # nothing is looked at
    assert suited(run) is run.recipe


def test_nothing_is_drawn_or_changed(model):
    (x, y), *_ = batches(128, 1, size=128)
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True)
    torch.manual_seed(5)
    before = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    suited(run_of(model, dc.Recipe(), own_task(steep, None), loader))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())


def test_it_is_part_of_compressing(model, tmp_path):
    watch = Listener()
    recipe = dc.Recipe(prune=0.5, bits=3, epochs=2, finetune_epochs=1)
    data = batches(128, 1)
    result = dc.compress(model, data, data, recipe, tmp_path / "m.dc", loss=steep, watch=watch)
    assert result.recipe["lr"] < 0.02
    assert sum("learning rate" in line for line in watch.lines) == 1
    assert result.loss_after < result.loss_before


@pytest.fixture(scope="module")
def deep():
    """A network with small weights before each norm: those that do not follow the data make its gradients long."""
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(n, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU()) for n in (12, *[16] * 7)]
    net = nn.Sequential(*parts, nn.Linear(16, 4))
    fit(net, batches(512, 1), torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), 3, stage="train")
    with torch.no_grad():
        for linear, norm, _ in parts:
            linear.weight *= 0.2
            norm.running_mean *= 0.2
            norm.running_var *= 0.04
    return net.eval()


def by_recipe(net):
    return dc.Recipe(prune=0.6, bits=None, epochs=2, freeze_bn=True)


def by_owner(net):
    freeze_norms(net, every=True)
    return dc.Recipe(prune=0.6, bits=None, epochs=2)


@pytest.mark.parametrize("freeze", [by_recipe, by_owner])
def test_with_frozen_norms_the_best_rate_counts_and_not_the_first_that_lowers_the_loss(deep, freeze, tmp_path):
    net = copied(deep)
    recipe, data = freeze(net), batches(512, 1)
    result = dc.compress(net, data, batches(256, 2), recipe, tmp_path / "m.dc")
    assert result.recipe["lr"] == pytest.approx(0.002)
    assert result.accuracy_after > 98


def test_networks_of_our_own_are_not_known_with_frozen_norms():
    torch.manual_seed(0)
    model = build("resnet20")
    assert _is_known(run_of(model, dc.Recipe()))
    assert not _is_known(run_of(model, dc.Recipe(freeze_bn=True)))
    freeze_norms(model, every=True)
    assert not _is_known(run_of(model, dc.Recipe()))
