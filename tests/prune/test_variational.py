"""Sparse variational dropout: divergence, noise and gradients against closed forms, and what ends in the file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from listener import Listener
from samples import Mlp, batches, conv_net
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.errors import RecipeError
from deepcompress.prune.variational import VariationalHooks, divergence, log_alpha, modules_of
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import Recipe
from deepcompress.training.retraining import Run

RECIPE = Recipe(method="variational", prune=0.8, bits="none", optimizer="adam", lr=0.01, epochs=10, kl_weight=0.5)


def exact(alpha):
    """KL of N(1, alpha) from the log-uniform prior, up to a constant: E log|x| - log(alpha) / 2."""
    x = np.linspace(-12, 12, 200_000)  # in standard deviations
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return float((density * np.log(np.abs(1 + math.sqrt(alpha) * x))).sum() * (x[1] - x[0]) - math.log(alpha) / 2)


def test_the_divergence_is_that_of_the_posterior_from_the_prior():
    """Up to the constant; the paper's approximation is within 0.01 nats of the integral."""
    logs = torch.linspace(-6, 6, 13)
    wanted = np.array([exact(math.exp(value)) for value in logs.tolist()])
    found = divergence(logs).numpy()
    assert np.abs((found - found[-1]) - (wanted - wanted[-1])).max() < 0.01
    assert float(divergence(torch.tensor(8.0))) == pytest.approx(0, abs=1e-3)


def run_of(model, train=None, watch=None):
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    return Run(model, weights, train or batches(64, 1), RECIPE, **({"watch": watch} if watch else {}))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 2), (1, 3)),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="reflect"), (2, 2, 5, 5)),
        (nn.Conv1d(4, 4, 2, groups=2, dilation=2), (2, 4, 7)),
    ],
    ids=["linear", "convolution", "groups"],
)
def test_each_output_has_the_variance_of_all_its_weights(layer, shape):
    torch.manual_seed(0)  # without a weight so near to zero that its noise is held
    layer.reset_parameters()
    x = torch.randn(shape)
    run = run_of(nn.Sequential(layer))
    hooks = VariationalHooks(run, modules_of(run))
    layer.eval()
    mean = layer(x)
    layer.train()
    torch.manual_seed(7)
    drawn = layer(x)
    torch.manual_seed(7)
    noise = torch.randn_like(mean)
    squared = type(layer).forward  # with x and s in place of x and w, squared
    variance = hooks.log_variances["0.weight"].exp()
    bias, weight = layer.bias.data, layer.weight.data
    layer.weight.data, layer.bias.data = variance.detach(), torch.zeros_like(bias)
    wanted = squared(layer, x.square())
    layer.weight.data, layer.bias.data = weight, bias
    assert torch.allclose((drawn - mean) / noise, (wanted + 1e-8).sqrt(), rtol=1e-3, atol=1e-5)
    assert torch.allclose(hooks.log_variances["0.weight"], weight.square().mean().log() - 4)


def test_the_gradient_of_the_divergence_by_hand():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data = torch.tensor([[0.5]])
    run = run_of(nn.Sequential(layer))
    hooks = VariationalHooks(run, modules_of(run))
    hooks.before_epoch(5)
    layer.weight.grad = torch.tensor([[2.0]])
    hooks.log_variances["0.weight"].grad = torch.tensor([[3.0]])
    hooks.after_backward()
    logs = -4.0  # s^2 begins at exp(-4) times the mean square
    gate = 1 / (1 + math.exp(-(1.87320 + 1.48695 * logs)))
    slope = -0.63576 * 1.48695 * gate * (1 - gate) - 0.5 / (1 + math.exp(logs))
    share = 0.5 / 64  # kl_weight, a sample
    assert float(hooks.log_variances["0.weight"].grad) == pytest.approx(3 + share * slope)
    assert float(layer.weight.grad) == pytest.approx(2 - share * slope * 2 / 0.5)
    hooks.after_step()
    assert hooks.log_variances["0.weight"].grad is None


def test_the_divergence_begins_at_nothing():
    run = run_of(Mlp())
    hooks = VariationalHooks(run, modules_of(run))
    strengths = [hooks.before_epoch(epoch) and hooks.strength for epoch in (0, 1, 2)]
    assert strengths == [0.0, 1.0, 1.0]  # a tenth of ten epochs


def test_log_alpha_is_held_within_its_limits():
    found = log_alpha(torch.tensor([0.0, 1.0, 1e3]), torch.tensor([0.0, 0.0, -20.0]))
    assert found.tolist() == [8.0, 0.0, -8.0]


def test_inputs_that_say_nothing_lose_their_weights(tmp_path):
    torch.manual_seed(0)
    told = batches(512, 1)
    train = [(torch.cat((x, torch.randn_like(x)), dim=1), y) for x, y in told]
    result = compress(Mlp(inputs=24), train, train, RECIPE.changed(epochs=20), tmp_path / "m.dc")
    found = load_state_dict(tmp_path / "m.dc")
    kept = (found["fc1.weight"] != 0).sum(dim=0)
    assert kept[12:].sum() <= 0.05 * kept.sum()
    layers = [value for value in found.values() if value.ndim > 1]
    assert sum(int((value == 0).sum()) for value in layers) == round(0.8 * sum(value.numel() for value in layers))
    assert result.accuracy_after > 95


def test_convolutions_and_shared_values(tmp_path, image_train, image_test):
    torch.manual_seed(0)
    network = conv_net(batch_norm=True)
    compress(network, image_train, image_test, RECIPE.changed(bits=2, finetune_epochs=1, epochs=3), tmp_path / "m.dc")
    for value in load_state_dict(tmp_path / "m.dc").values():
        assert value.ndim < 2 or len(value[value != 0].unique()) <= 4
    assert not any(module._forward_hooks for module in network.modules())


def test_other_layers_stay_and_a_message_says_so():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Embedding(5, 4), nn.Linear(4, 2)

    watch = Listener()
    assert modules_of(run_of(Words(), watch=watch)).keys() == {"fc.weight"}
    assert any("embed.weight is of no linear layer" in text for text in watch.lines)
    with pytest.raises(RecipeError, match="the network has none"):
        modules_of(run_of(nn.Sequential(nn.Embedding(5, 4))))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "sgd"}, "set optimizer to adam"),
        ({"prune": 0.0}, "set prune"),
        ({"penalty_weight": 0.1}, "penalty_weight is for other methods"),
    ],
)
def test_what_it_needs(settings, reason):
    with pytest.raises(RecipeError, match=reason):
        Recipe(**{"method": "variational", "optimizer": "adam", **settings})
