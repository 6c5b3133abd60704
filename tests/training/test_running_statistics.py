"""Running statistics of batch norms are those of the weights in the file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from listener import Listener
from samples import batches, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.networks.batchnorm import averaging, freeze_norms
from deepcompress.networks.copies import copied
from deepcompress.prune.masks import Masks
from deepcompress.training.loop import fit
from deepcompress.training.retraining import Run
from deepcompress.training.running_statistics import estimate_statistics

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def data():
    return batches(256, 1, SHAPE)


@pytest.fixture(scope="module")
def trained(data):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    fit(model, data, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), 3, stage="train")
    return model.eval()


def norm_of(model):
    return next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def stale(trained):
    """The network with statistics as far off as a rounding makes them."""
    model = copied(trained).eval()
    norm_of(model).running_mean.add_(3)
    norm_of(model).running_var.mul_(9)
    return model


def run_of(model, data, recipe=None, val=True):
    return Run(model, {}, data, recipe or dc.Recipe(), batches(128, 2, SHAPE) if val else None, Listener())


def expected(model, data):
    """Mean of the means, and of the unbiased variances, of what the first batch norm meets in each batch."""
    with torch.no_grad():
        met = [model[0](x).transpose(0, 1).flatten(1) for x, _ in data]
    return torch.stack([each.mean(1) for each in met]).mean(0), torch.stack([each.var(1) for each in met]).mean(0)


def test_they_become_the_mean_over_all_batches(trained, data):
    model = stale(trained)
    momentum, counted = norm_of(model).momentum, int(norm_of(model).num_batches_tracked)
    estimate_statistics(run_of(model, data))
    mean, variance = expected(trained, data)
    torch.testing.assert_close(norm_of(model).running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm_of(model).running_var, variance, rtol=1e-4, atol=1e-5)
    assert (norm_of(model).momentum, int(norm_of(model).num_batches_tracked)) == (momentum, counted)
    assert not model.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained.get_parameter(name)), name


def test_a_norm_that_is_met_twice_averages_over_both():
    norm = nn.BatchNorm1d(1)
    low, high = torch.tensor([[0.0], [2.0]]), torch.tensor([[6.0], [8.0]])
    with averaging(norm):
        norm(low)
        norm(high)
    assert norm.running_mean.tolist() == [4.0]
    assert norm.running_var.tolist() == [2.0]


def test_without_a_counter_too(data):
    norm = nn.BatchNorm2d(1)
    norm.num_batches_tracked = None
    estimate_statistics(run_of(nn.Sequential(norm, nn.Flatten(), nn.Linear(64, 3)), data, val=False))
    means = torch.stack([x.mean() for x, _ in data])
    torch.testing.assert_close(norm.running_mean, means.mean()[None], rtol=1e-4, atol=1e-5)


def test_dropout_draws_nothing(data):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3))
    before = torch.get_rng_state()
    estimate_statistics(run_of(model, data, val=False))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("how", ["owner", "recipe", "no data", "lone samples"])
def test_they_stay(trained, data, how):
    model = stale(trained)
    before = norm_of(model).running_mean.clone()
    run = run_of(model, data)
    if how == "owner":
        freeze_norms(model, every=True)
    elif how == "recipe":
        run = replace(run, recipe=dc.Recipe(freeze_bn=True))
    elif how == "no data":
        run = replace(run, batches=None)
    else:
        run = replace(run, batches=[(x[:1], y[:1]) for x, y in data])
    estimate_statistics(run)
    assert torch.equal(norm_of(model).running_mean, before)


def test_it_is_undone_and_said_where_it_harms(trained, data):
    model = copied(trained).eval()
    before = norm_of(model).running_var.clone()
    run = run_of(model, [(100 * x, y) for x, y in data])
    estimate_statistics(run)
    assert torch.equal(norm_of(model).running_var, before)
    assert [line.partition(":")[0] for line in run.watch.lines] == ["batch norm"]


PRUNED = dc.Recipe(prune=0.3, bits=None, epochs=0, finetune_epochs=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"prune": 0.3, "bits": 1},
        {"target_size": 1500, "bits": 1},
        {"prune": 0.3, "bits": None},
        {"prune": 0.0, "bits": None, "epochs": 1},
        {"prune": 0.3, "bits": None, "epochs": 1, "method": "variational", "optimizer": "adam", "lr": 0.001},
        {"prune": 0.3, "bits": None, "epochs": 1, "method": "lc"},
    ],
    ids=["fraction", "size", "pruned", "trained", "variational", "lc"],
)
def test_a_file_has_the_statistics_of_its_own_weights(trained, data, tmp_path, settings):
    recipe = dc.Recipe(**{"epochs": 0, "finetune_epochs": 0} | settings)
    result = dc.compress(trained, data, batches(128, 2, SHAPE), recipe, tmp_path / "m.dc")
    found = dc.load(tmp_path / "m.dc", into=conv_net(batch_norm=True))
    mean, variance = expected(found, data)
    torch.testing.assert_close(norm_of(found).running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm_of(found).running_var, variance, rtol=1e-4, atol=1e-5)
    pruned, *_ = (stage.loss for stage in result.stages if stage.stage == "prune")
    assert (pruned == result.loss_after) is (settings["bits"] is None)


def test_given_masks_move_them_too(trained, data, tmp_path):
    masks = Masks({name: weight.abs() > 0.1 for name, weight in trained.named_parameters() if weight.ndim > 1})
    dc.compress(trained, data, batches(128, 2, SHAPE), dc.Recipe(bits=None, epochs=0), tmp_path / "m.dc", masks=masks)
    found = dc.load(tmp_path / "m.dc", into=conv_net(batch_norm=True))
    torch.testing.assert_close(norm_of(found).running_mean, expected(found, data)[0], rtol=1e-4, atol=1e-5)


def test_they_stay_where_no_weight_has_moved(trained, data, tmp_path):
    """Nothing is pruned, or only what was zero before."""
    first, again = tmp_path / "first.dc", tmp_path / "again.dc"
    dc.compress(trained, data, None, replace(PRUNED, prune=0.0), first)
    assert torch.equal(dc.load_state_dict(first)["1.running_mean"], norm_of(trained).running_mean)
    dc.compress(trained, data, None, PRUNED, first)
    pruned = stale(dc.load(first, into=conv_net(batch_norm=True)))
    dc.compress(pruned, data, None, PRUNED, again)
    assert torch.equal(dc.load_state_dict(again)["1.running_mean"], norm_of(pruned).running_mean)
