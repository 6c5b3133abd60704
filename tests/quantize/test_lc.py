"""LC: the steps by hand, and the optima that they reach where loss and constraint have a closed form."""

from __future__ import annotations

import pytest
import torch
from samples import Mlp
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.errors import RecipeError
from deepcompress.layers import compressible
from deepcompress.prune.masks import Masks
from deepcompress.quantize.lc import LcHooks
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import LayerRule, Recipe


def hooks_of(values, recipe, steps=10):
    """Hooks for one layer with these weights, whose gradient is zero."""
    layer = nn.Linear(len(values), 1, bias=False)
    layer.weight.data = torch.tensor([values])
    layer.weight.grad = torch.zeros(1, len(values))
    weights = {"weight": layer.weight}
    return LcHooks(weights, compressible(weights), recipe, steps)


def test_a_learning_and_a_compression_step_by_hand():
    hooks = hooks_of([3.0, 1.0, -2.0], Recipe(method="lc", prune=0.34, bits="none", lc_mu=0.5, lc_growth=3.0))
    hooks.after_backward()
    assert hooks.weights["weight"].grad.tolist() == [[0.0, 0.5, 0.0]]  # 0.5 * (w - c), c = (3, 0, -2)
    hooks.weights["weight"].data = torch.tensor([[3.0, 1.5, -1.25]])
    found = hooks.compress()
    assert found.weights["weight"].tolist() == [[3.0, 1.5, 0.0]]
    assert found.masks.keep["weight"].tolist() == [[True, True, False]]
    assert hooks.multipliers["weight"].tolist() == [[0.0, 0.0, 0.625]]  # 0 - 0.5 * (w - c)
    assert hooks.mu == 1.5
    hooks.weights["weight"].grad.zero_()
    hooks.after_backward()
    assert hooks.weights["weight"].grad.tolist() == [[0.0, 0.0, 1.5 * -1.25 - 0.625]]
    again = hooks.compress()  # of w - m / mu: the last weight is -1.67
    assert again.weights["weight"].tolist() == [[3.0, 0.0, pytest.approx(-1.25 - 0.625 / 1.5)]]


def test_the_penalty_begins_and_grows_with_the_run():
    hooks = hooks_of([3.0, 1.0], Recipe(method="lc", prune=0.5, bits="none", lr=0.02, epochs=4), steps=50)
    assert hooks.mu == pytest.approx(0.15 / (50 * 0.02 * 10))
    first = hooks.mu
    for _ in range(4):
        hooks.compress()
    assert hooks.mu == pytest.approx(100 * first)


def test_the_learning_rate_is_at_most_one_over_mu():
    hooks = hooks_of([3.0, 1.0], Recipe(method="lc", prune=0.5, bits="none", lc_mu=4.0))
    groups = [{"params": [hooks.weights["weight"]], "lr": 0.1}, {"params": [torch.ones(1)], "lr": 2}]
    optimizer = torch.optim.SGD(groups)
    hooks.attach(optimizer)
    hooks.after_backward()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.25]


def quadratic(optimum, curvature):
    """A network of two weights, and data whose squared error is the sum of curvature * (w - optimum)^2 / 2."""
    network = nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([optimum])
    x = torch.diag(torch.tensor(curvature).sqrt())
    return network, [(x, x @ torch.tensor([optimum]).T)]


def learned(optimum, curvature, tmp_path, **settings):
    network, data = quadratic(optimum, curvature)
    recipe = Recipe(
        method="lc", epochs=100, lr=0.05, lr_schedule="constant", lc_mu=0.1, lc_growth=1.06, penalty="none",
        finetune_epochs=0, **settings,
    )  # fmt: skip
    compress(network, data, None, recipe, tmp_path / "m.dc", task="regression")
    return load_state_dict(tmp_path / "m.dc")["weight"].tolist()[0]


def test_the_weight_that_the_loss_needs_is_kept(tmp_path):
    """Magnitude would keep the second, at a loss of 5; the optimum keeps the first, at 0.06."""
    kept = learned([1.0, 1.1], [10.0, 0.1], tmp_path, prune=0.5, bits="none")
    assert kept == [pytest.approx(1.0, abs=1e-3), 0.0]


def test_the_shared_value_is_the_optimum_of_the_loss(tmp_path):
    """k-means would take the mean, 1.5; the loss is lowest at (9 * 1 + 1 * 2) / 10."""
    first, second = learned([1.0, 2.0], [9.0, 1.0], tmp_path, prune=0, levels=1)
    assert first == second == pytest.approx(1.1, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "kept", "values"),
    [({"prune": 0.75, "levels": 2}, 0.25, 2), ({"prune": 0, "levels": 2, "quantizer": "uniform"}, 1.0, 2)],
)
def test_the_file_has_what_was_asked_for(tmp_path, flat_train, flat_test, settings, kept, values):
    torch.manual_seed(0)
    recipe = Recipe(method="lc", epochs=3, finetune_epochs=1, **settings)
    result = compress(Mlp(), flat_train, flat_test, recipe, tmp_path / "m.dc")
    layers = {name: value for name, value in load_state_dict(tmp_path / "m.dc").items() if value.ndim > 1}
    found = sum(int((value != 0).sum()) for value in layers.values())
    assert found == round(kept * sum(value.numel() for value in layers.values()))
    assert all(len(value[value != 0].unique()) <= values for value in layers.values())
    assert Recipe.from_dict(result.recipe) == recipe


def test_a_layer_with_a_rule_of_its_own(tmp_path, flat_train):
    rules = (LayerRule("fc1", prune=0.5, bits="none"), LayerRule("fc3", keep=True))
    recipe = Recipe(method="lc", prune=0.6, levels=2, epochs=2, layers=rules)
    network = Mlp()
    compress(network, flat_train, None, recipe, tmp_path / "m.dc")
    found = load_state_dict(tmp_path / "m.dc")
    assert int((found["fc1.weight"] != 0).sum()) == found["fc1.weight"].numel() // 2
    assert len(found["fc2.weight"].unique()) <= 3
    assert int((found["fc3.weight"] == 0).sum()) == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"epochs": 0}, "set epochs"),
        ({"retrain": False}, "set epochs"),
        ({"max_drop": 1.0}, "max_drop sets another end"),
        ({"penalty": "l1"}, "penalty 'l1' is for method 'stages'"),
        ({"prune": 0.0, "bits": "none"}, "neither is asked for"),
        ({"criterion": "obs"}, "criterion is for pruning and sharing stage after stage"),
        ({"rewind": "random"}, "rewind is for"),
        ({"distribution": "lamp"}, "distribution spreads pruning"),
    ],
)
def test_what_does_not_go_with_it(settings, reason):
    with pytest.raises(RecipeError, match=reason):
        Recipe(method="lc", **settings)


def test_masks_and_bases_say_what_is_pruned_already(tmp_path, flat_train):
    network = Mlp()
    weights = {name: value for name, value in network.named_parameters() if value.ndim > 1}
    with pytest.raises(RecipeError, match=r"method 'lc'.* leave method out"):
        compress(network, flat_train, None, Recipe(method="lc"), tmp_path / "m.dc", masks=Masks.full(weights))
    old = tmp_path / "old.dc"
    compress(network, None, None, Recipe(retrain=False, prune=0.5, bits=2), old)
    with pytest.raises(RecipeError, match=r"method 'lc'.* the .dc file to go on from .* leave method out"):
        compress(network, flat_train, None, Recipe(method="lc"), tmp_path / "m.dc", start=old)
    with pytest.raises(RecipeError, match=r"method is decided by the base.* leave out method, or base"):
        compress(network, flat_train, None, Recipe(method="lc"), tmp_path / "m.dc", base=old)
