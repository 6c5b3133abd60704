"""Few values with latent weights behind all of them: binary, ternary, and who is zero."""

from __future__ import annotations

import pytest
import torch
from samples import Mlp
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.layers import compressible
from deepcompress.quantize.sharing import share
from deepcompress.quantize.straight_through import StraightThroughHooks
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import Recipe


def hooks_of(values, zeros, levels=2):
    """Hooks for one layer of these weights, so many of them at zero."""
    layer = nn.Linear(len(values), 1, bias=False)
    layer.weight.data = torch.tensor([values])
    weights = {"weight": layer.weight}
    kept = layer.weight.detach().clone()
    kept.view(-1)[kept.abs().view(-1).sort().indices[:zeros]] = 0.0
    books = share({"weight": kept}, compressible(weights), Recipe(levels=levels))
    return StraightThroughHooks(books, weights, {"weight": zeros})


def step(hooks, gradient, rate=1.0):
    """A step of plain gradient descent on the latent weights and the shared values."""
    weight = hooks.weights["weight"]
    weight.grad = torch.tensor([gradient])
    hooks.after_backward()
    with torch.no_grad():
        weight -= rate * weight.grad
        for book in hooks.codebooks:
            book.parameter.sub_(rate * book.parameter.grad)
    hooks.after_step()
    return weight.detach().tolist()[0]


def test_a_step_by_hand():
    hooks = hooks_of([3.0, 1.0, -2.0, -0.5], zeros=1)
    assert hooks.weights["weight"].tolist() == [[2.0, 2.0, -2.0, 0.0]]
    # Latents become (3, 0.75, -2, -1): the second is nearest to zero now. 2 moves by the mean of its gradients.
    assert step(hooks, [0.0, 0.25, 0.0, 0.5]) == [1.875, 0.0, -2.0, -2.0]
    assert hooks.dense["weight"].tolist() == [[3.0, 0.75, -2.0, -1.0]]
    assert hooks.masks.keep["weight"].tolist() == [[True, False, True, True]]


def test_binary_weights_change_their_sign_with_their_latent():
    hooks = hooks_of([1.0, 0.25, -1.0, -1.5], zeros=0)
    assert hooks.weights["weight"].tolist() == [[0.625, 0.625, -1.25, -1.25]]
    assert step(hooks, [0.0, 1.0, 0.0, 0.0]) == [0.125, -1.25, -1.25, -1.25]


@pytest.mark.parametrize(
    ("settings", "zeros", "values"),
    [
        ({"prune": 0, "levels": 2}, 0.0, 2),
        ({"prune": 0, "levels": 2, "quantizer": "uniform"}, 0.0, 2),
        ({"prune": 0.5, "levels": 2, "distribution": "uniform"}, 0.5, 3),
    ],
    ids=["binary", "binary with a scale", "ternary"],
)
def test_the_file_has_so_many_values(tmp_path, flat_train, flat_test, settings, zeros, values):
    torch.manual_seed(0)
    recipe = Recipe(method="latent", epochs=10, finetune_epochs=1, lr=0.1, **settings)
    result = compress(Mlp(), flat_train, flat_test, recipe, tmp_path / "m.dc")
    for value in load_state_dict(tmp_path / "m.dc").values():
        if value.ndim > 1:
            assert len(value.unique()) == values
            assert float((value == 0).float().mean()) == zeros
            if settings.get("quantizer") == "uniform":
                assert len(value.abs().unique()) == 1
    assert result.accuracy_after > 90
