"""Learning rates that suit the loss at hand."""

from __future__ import annotations

import pytest
import torch
from listener import Listener
from samples import Mlp, batches
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import deepcompress as dc
from deepcompress.compression.rates import suited
from deepcompress.networks.lenet import LeNet300100
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
