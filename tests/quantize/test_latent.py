"""Trained quantization: weights learn behind shared values, and what does not fit falls away."""

from __future__ import annotations

import pytest
import torch
from samples import Mlp
from torch import nn

from deepcompress.layers import compressible
from deepcompress.prune.budget import Curvature
from deepcompress.prune.masks import Masks, cut
from deepcompress.quantize.latent import FittingHooks, LatentHooks, train_shared
from deepcompress.quantize.sharing import Grid, share
from deepcompress.recipe import Recipe
from deepcompress.training.retraining import Run

GRID = Recipe(prune=0.5, quantizer="uniform", bits=2, finetune_epochs=2, finetune_lr=0.05)
KMEANS = Recipe(prune=0.5, bits=2, finetune_epochs=2, finetune_lr=0.05)


def prepared(recipe, seed=0):
    """A pruned network, its codebooks, and its weights as they were before sharing."""
    torch.manual_seed(seed)
    model = Mlp()
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    masks = cut(weights, recipe).masks
    masks.apply(weights)
    copies = {name: weight.detach().clone() for name, weight in weights.items()}
    books = share(copies, compressible(dict(model.state_dict())), recipe)
    return model, weights, masks, books


def batches(model, count=6):
    generator = torch.Generator().manual_seed(5)
    width = next(model.parameters()).shape[1]
    classes = list(model.parameters())[-1].shape[0]
    return [
        (torch.randn(8, width, generator=generator), torch.randint(0, classes, (8,), generator=generator))
        for _ in range(count)
    ]


def distinct(weight):
    return torch.unique(weight.detach()[weight.detach() != 0])


@pytest.mark.parametrize("recipe", [GRID, KMEANS])
def test_the_network_sees_shared_values_and_the_optimizer_latent_ones(recipe):
    _, weights, masks, books = prepared(recipe)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    hooks = LatentHooks(books, weights, masks)
    for name, weight in weights.items():
        assert len(distinct(weight)) <= 4 < len(distinct(before[name]))
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    hooks.after_backward()
    for name, weight in weights.items():
        assert torch.equal(weight, before[name])
    hooks.after_step()
    for weight in weights.values():
        assert len(distinct(weight)) <= 4


@pytest.mark.parametrize("recipe", [GRID, KMEANS])
def test_each_weight_takes_the_value_nearest_to_its_latent(recipe):
    _, weights, masks, books = prepared(recipe)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    hooks = LatentHooks(books, weights, masks)
    for book in hooks.codebooks:
        for member in book.members:
            latent = before[member.name].reshape(-1)[member.positions]
            chosen = weights[member.name].detach().reshape(-1)[member.positions]
            gaps = (latent[:, None] - book.centroids[None]).abs()
            assert torch.allclose((latent - chosen).abs(), gaps.min(dim=1).values)


def test_a_weight_moves_to_another_value_when_its_latent_does():
    _, weights, masks, books = prepared(KMEANS)
    hooks = LatentHooks(books, weights, masks)
    name = hooks.codebooks[0].members[0].name
    where = hooks.codebooks[0].members[0].positions[0]
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    hooks.after_backward()
    target = hooks.codebooks[0].centroids.max().item()
    with torch.no_grad():
        weights[name].view(-1)[where] = target
    hooks.after_step()
    assert weights[name].detach().view(-1)[where].item() == target


@pytest.mark.parametrize("recipe", [GRID, KMEANS])
def test_training_keeps_the_codebook_the_zeros_and_the_grid(recipe):
    model, weights, masks, books = prepared(recipe)
    hooks = LatentHooks(books, weights, masks)
    trained = train_shared(Run(model, {}, batches(model), recipe), hooks)
    for book in trained:
        if isinstance(book, Grid):
            assert torch.equal(book.centroids, book.step * book.multiples)
        for member in book.members:
            assert set(distinct(weights[member.name]).tolist()) <= set(book.centroids.tolist())
    for name, weight in weights.items():
        assert torch.equal(weight != 0, masks.keep[name])


def test_the_same_seed_gives_the_same_weights():
    outcomes = []
    for _ in range(2):
        model, weights, masks, books = prepared(GRID)
        train_shared(Run(model, {}, batches(model), GRID), LatentHooks(books, weights, masks))
        outcomes.append(torch.cat([weight.detach().flatten() for weight in weights.values()]))
    assert torch.equal(*outcomes)


def test_no_epochs_change_nothing_but_the_sharing():
    model, weights, masks, books = prepared(GRID)
    hooks = LatentHooks(books, weights, masks)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    train_shared(Run(model, {}, batches(model), Recipe(finetune_epochs=0)), hooks)
    for name, weight in weights.items():
        assert torch.equal(weight, before[name])


def fitting(target, steps=12):
    model, weights, masks, books = prepared(GRID)

    def measure(books):
        return sum(int((weights[member.name] != 0).sum()) for book in books for member in book.members)

    curvature = Curvature.of_scale(weights)
    return model, weights, FittingHooks(books, weights, masks, curvature, target, measure, lambda found: found, steps)


def test_weights_fall_away_until_the_measure_is_met():
    model, weights, hooks = fitting(40)
    start = hooks.size
    assert start > 40
    train_shared(Run(model, {}, batches(model), GRID), hooks)
    assert hooks.measure(hooks.codebooks) <= 40
    for name, weight in weights.items():
        assert torch.equal(weight != 0, hooks.masks.keep[name])
        assert hooks.masks.keep[name].any()


def test_what_fits_already_stays():
    model, _, hooks = fitting(10**6)
    before = hooks.masks.sparsity
    train_shared(Run(model, {}, batches(model), GRID), hooks)
    assert hooks.masks.sparsity == before


def test_a_size_that_cannot_be_met_ends_with_one_weight_a_layer():
    _, weights, hooks = fitting(1)
    hooks.fit_into(0)
    assert all(hooks.masks.kept(name) == 1 for name in weights)


def test_latents_of_layers_that_are_not_shared_are_their_weights():
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    weights = dict(model.named_parameters())
    hooks = LatentHooks([], weights, Masks.full(weights))
    assert torch.equal(hooks.dense_latents()["0.weight"], weights["0.weight"])
    assert hooks.value_bits() == {"0.weight": 32.0}
