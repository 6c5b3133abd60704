"""Weights tied to shared values, and the gradient of a shared value (equation 3 of the paper)."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from samples import CLASSES, Mlp, conv_net, evidence_of
from torch import nn

from deepcompress.layers import compressible
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune
from deepcompress.quantize.sharing import Codebook, Grid, Member, TuningHooks, finish, share, still_kept, tune
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.retraining import Run


def shared(model, recipe):
    """Pruned and shared in place: weights, masks and codebooks."""
    layers = compressible(model.state_dict())
    parameters = dict(model.named_parameters())
    weights = {layer.name: parameters[layer.name] for layer in layers}
    masks = prune(evidence_of(weights, recipe))
    return weights, masks, share(weights, layers, recipe)


def distinct(weight):
    return torch.unique(weight.detach()[weight.detach() != 0])


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_a_layer_has_at_most_2_to_the_bits_values_and_zeros_stay(mlp, bits):
    zeros = None
    weights, masks, books = shared(mlp, Recipe(prune=0.6, bits=bits))
    for name, mask in masks.keep.items():
        zeros = ~mask
        assert weights[name].detach()[zeros].count_nonzero() == 0
        assert weights[name].detach()[mask].count_nonzero() == mask.sum()
        assert 1 <= len(distinct(weights[name])) <= 2**bits
    assert [book.levels for book in books] == [2**bits] * 3
    for book in books:
        values = torch.cat([distinct(weights[member.name]) for member in book.members])
        assert torch.equal(values.sort().values, book.centroids.detach())
        assert book.counts().sum() == masks.kept(book.members[0].name)


def test_each_weight_takes_the_nearest_value(mlp):
    before = copy.deepcopy(mlp)
    weights, masks, books = shared(mlp, Recipe(prune=0.5, bits=3))
    for book in books:
        name = book.members[0].name
        original = dict(before.named_parameters())[name].detach()[masks.keep[name]]
        distance = (original[:, None] - book.centroids.detach()[None]).abs()
        chosen = weights[name].detach()[masks.keep[name]]
        torch.testing.assert_close((original - chosen).abs(), distance.min(dim=1).values, rtol=0, atol=0)


def test_few_values_are_left_bit_for_bit():
    weight = torch.tensor([[0.1, -0.7, 0.0, 0.1], [0.3, 0.1, -0.7, 0.0]])
    weights = {"w": weight.clone()}
    (book,) = share(weights, compressible(weights), Recipe(bits=2))
    assert torch.equal(weights["w"], weight)
    assert book.centroids.tolist() == torch.tensor([-0.7, 0.1, 0.3]).tolist()
    assert book.members[0].positions.tolist() == [0, 1, 3, 4, 5, 6]
    assert book.members[0].assignment.tolist() == [1, 0, 1, 2, 1, 0]


def test_a_layer_without_weights_has_an_empty_codebook():
    weights = {"w": torch.zeros(3, 4)}
    (book,) = share(weights, compressible(weights), Recipe(bits=2))
    assert len(book.centroids) == 0
    book.write(weights)
    assert torch.equal(weights["w"], torch.zeros(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    torch.manual_seed(0)
    weights = {"w": torch.randn(40, 30).to(dtype)}
    share(weights, compressible(weights), Recipe(bits=3))
    assert weights["w"].dtype is dtype
    assert len(distinct(weights["w"])) == 8


def test_bits_by_layer_by_convolution_and_none():
    torch.manual_seed(0)
    model = conv_net()
    before = copy.deepcopy(model.state_dict())
    recipe = Recipe(prune=0.2, bits=2, conv_bits=4, layers=(LayerRule("3", bits=1), LayerRule("9", bits="none")))
    weights, masks, books = shared(model, recipe)
    assert [(book.members[0].name, book.levels) for book in books] == [
        ("0.weight", 16),
        ("3.weight", 2),
        ("7.weight", 4),
    ]
    assert [len(distinct(weights[f"{i}.weight"])) for i in (0, 3, 7)] == [16, 2, 4]
    assert torch.equal(weights["9.weight"].detach(), before["9.weight"] * masks.keep["9.weight"])
    assert share(weights, compressible(model.state_dict()), Recipe(bits="none")) == []


def test_a_group_shares_one_codebook_with_the_larger_bits():
    torch.manual_seed(0)
    model = conv_net()
    recipe = Recipe(prune=0.2, bits=2, conv_bits=3, layers=(LayerRule("[03]", group="a"), LayerRule("7", group="a")))
    weights, _, books = shared(model, recipe)
    assert [([member.name for member in book.members], book.levels) for book in books] == [
        (["0.weight", "3.weight", "7.weight"], 8),
        (["9.weight"], 4),
    ]
    together = torch.cat([distinct(weights[member.name]) for member in books[0].members])
    assert len(torch.unique(together)) == 8


def build(weight):
    """A codebook over all of `weight`'s non-zero elements."""
    positions = torch.nonzero(weight.reshape(-1), as_tuple=True)[0]
    centroids, assignment = torch.unique(weight.reshape(-1)[positions], return_inverse=True)
    return Codebook(4, nn.Parameter(centroids), (Member("w", positions, assignment),))


def test_gradient_of_a_centroid_by_hand():
    weight = torch.tensor([[2.0, -1.0], [0.0, 2.0]]).requires_grad_()
    weight.grad = torch.tensor([[1.0, 10.0], [100.0, 5.0]])
    book = build(weight.detach())
    book.collect_gradient({"w": weight})
    assert book.centroids.grad.tolist() == [10, 6]
    book.collect_gradient({"w": weight}, decay=0.5)
    assert book.centroids.grad.tolist() == [10 - 0.5, 6 + 2 * 0.5 * 2]
    weight.grad = None
    book.collect_gradient({"w": weight})
    assert book.centroids.grad.tolist() == [0, 0]


@torch.enable_grad()
def test_gradient_of_a_centroid_is_autograds_through_the_lookup(mlp, flat_train):
    weights, _, books = shared(mlp, Recipe(prune=0.5, bits=3, layers=(LayerRule("fc[12]", group="g"),)))
    mlp.eval()
    x, y = flat_train[0]
    F.cross_entropy(mlp(x), y).backward()
    for book in books:
        book.collect_gradient(weights)

    tables = [book.centroids.detach().clone().requires_grad_() for book in books]
    state = dict(mlp.named_parameters())
    for table, book in zip(tables, books, strict=True):
        for member in book.members:
            flat = torch.zeros(weights[member.name].numel())
            state[member.name] = flat.index_put((member.positions,), table[member.assignment]).view_as(
                weights[member.name]
            )
    F.cross_entropy(torch.func.functional_call(mlp, state, (x,)), y).backward()
    assert len(tables) == 2
    for table, book in zip(tables, books, strict=True):
        assert table.grad.abs().max() > 0
        torch.testing.assert_close(book.centroids.grad, table.grad, rtol=1e-5, atol=1e-7)


def test_gradients_of_shared_weights_do_not_add_up_over_steps(mlp, flat_train, monkeypatch):
    mlp.drop.p = 0.0
    weights, masks, books = shared(mlp, Recipe(prune=0.5, bits=2))
    seen = []
    collect = TuningHooks.after_backward

    def spy(hooks):
        seen.append(weights["fc1.weight"].grad.clone())
        collect(hooks)

    monkeypatch.setattr(TuningHooks, "after_backward", spy)
    weights["fc1.weight"].grad = torch.full_like(weights["fc1.weight"], 1e6)  # as pruning may have left it
    # No movement: the same batch has the same gradient at every step.
    tune(
        Run(mlp, weights, flat_train[:1] * 4, Recipe(finetune_epochs=1, finetune_lr=0.0, penalty="none")), masks, books
    )
    assert len(seen) == 4
    assert all(torch.equal(gradient, seen[0]) for gradient in seen)
    assert seen[0].abs().max() < 100


class CheckedHooks(TuningHooks):
    """Asserts the sharing itself after every step."""

    steps = 0

    def after_step(self):
        super().after_step()
        type(self).steps += 1
        for book in self.codebooks:
            for member in book.members:
                flat = self.weights[member.name].detach().reshape(-1)
                assert torch.equal(flat[member.positions], book.centroids.detach()[member.assignment])
        for name, mask in self.masks.keep.items():
            assert self.weights[name].detach()[~mask].count_nonzero() == 0


def test_tuning_moves_shared_values_together_and_everything_else_freely(mlp, flat_train, flat_test, monkeypatch):
    monkeypatch.setattr("deepcompress.quantize.sharing.TuningHooks", CheckedHooks)
    monkeypatch.setattr(CheckedHooks, "steps", 0)
    recipe = Recipe(prune=0.4, bits=2, finetune_epochs=6, finetune_lr=0.05, layers=(LayerRule("fc2", bits="none"),))
    weights, masks, books = shared(mlp, recipe)
    before = {name: value.detach().clone() for name, value in mlp.named_parameters()}
    error = evaluate(mlp, flat_test).error
    tune(Run(mlp, weights, flat_train, recipe), masks, books)
    assert CheckedHooks.steps == 6 * len(flat_train)
    for name, value in mlp.named_parameters():
        assert not torch.equal(value.detach(), before[name])
    assert len(distinct(weights["fc1.weight"])) <= 4
    assert len(distinct(weights["fc2.weight"])) > 100
    assert torch.equal(weights["fc2.weight"].detach() != 0, masks.keep["fc2.weight"])
    assert evaluate(mlp, flat_test).error < error / 2


def test_tuning_with_an_empty_layer(flat_train):
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        net[0].weight.zero_()
    weights = {"0.weight": net[0].weight, "2.weight": net[2].weight}
    books = share(weights, compressible(net.state_dict()), Recipe(bits=2))
    masks = Masks({name: weight.detach() != 0 for name, weight in weights.items()})
    tune(Run(net, weights, flat_train, Recipe(finetune_epochs=1)), masks, books)
    assert net[0].weight.count_nonzero() == 0
    assert torch.isfinite(net[2].weight).all()


@pytest.mark.parametrize("recipe", [Recipe(bits=2, finetune_epochs=0), Recipe(bits="none")])
def test_nothing_to_tune(flat_train, recipe):
    torch.manual_seed(0)
    model = Mlp()
    weights, masks, books = shared(model, recipe)
    before = copy.deepcopy(model.state_dict())
    tune(Run(model, weights, flat_train, recipe), masks, books)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Grids, rates, and what a file holds of the shared values -----------------------------------------------------------


def test_gradient_of_a_step_is_autograds(mlp, flat_train):
    weights, _, books = shared(mlp, Recipe(prune=0.5, bits=3, quantizer="uniform"))
    mlp.eval()
    x, y = flat_train[0]
    F.cross_entropy(mlp(x), y).backward()
    state = dict(mlp.named_parameters())
    steps = [book.step.detach().clone().requires_grad_() for book in books]
    for book, step in zip(books, steps, strict=True):
        (member,) = book.members
        flat = torch.zeros(weights[member.name].numel())
        flat = flat.index_put((member.positions,), step * book.multiples[member.assignment])
        state[member.name] = flat.view_as(weights[member.name])
    F.cross_entropy(torch.func.functional_call(mlp, state, (x,)), y).backward()
    for book, step in zip(books, steps, strict=True):
        book.collect_gradient(weights)
        book.average_gradient(book.counts())
        power = (book.counts() * book.multiples**2).sum()
        torch.testing.assert_close(book.step.grad * power, step.grad, rtol=1e-4, atol=1e-6)


def test_a_step_moves_to_where_least_squares_wants_it():
    weight = torch.tensor([[1.0, -2.0, 1.0]]).requires_grad_()
    member = Member("w", torch.arange(3), torch.tensor([1, 0, 1]))
    multiples = torch.tensor([-2.0, 1.0])
    book = Grid(2, nn.Parameter(multiples.clone()), (member,), nn.Parameter(torch.tensor(1.0)), multiples)
    weight.grad = torch.tensor([[0.5, -1.0, 0.5]])  # every weight wants to shrink by a half of itself
    book.collect_gradient({"w": weight})
    book.average_gradient(book.counts())
    assert float(book.step.grad) == 0.5
    assert book.parameter is book.step


@pytest.mark.parametrize("recipe", [Recipe(bits=3, quantizer="uniform"), Recipe(levels=2, quantizer="uniform")])
def test_a_grid_stays_one_through_tuning(mlp, flat_train, recipe):
    recipe = dataclasses.replace(recipe, prune=0.5, finetune_epochs=3, finetune_lr=0.05)
    weights, masks, books = shared(mlp, recipe)
    steps = [float(book.step.detach()) for book in books]
    tune(Run(mlp, weights, flat_train, recipe), masks, books)
    finish(books, weights, recipe)
    for book, old in zip(books, steps, strict=True):
        step = book.step.detach()
        assert float(step) != old
        assert torch.equal(step.bfloat16().float(), step)
        assert torch.equal(book.centroids.detach(), step * book.multiples)
        assert (book.multiples == book.multiples.round()).all()
        assert (book.multiples != 0).all()
        assert len(book.multiples) <= recipe.levels_of("w", False)
        found = weights[book.members[0].name].detach()
        assert torch.isin(found, torch.cat([torch.zeros(1), book.centroids.detach()])).all()
    for name, mask in masks.keep.items():
        assert torch.equal(weights[name].detach() != 0, mask)


@pytest.mark.parametrize("quantizer", ["kmeans", "uniform"])
def test_weights_that_a_rate_makes_zero_stay_zero(mlp, flat_train, quantizer):
    recipe = Recipe(prune=0.3, bits=4, quantizer=quantizer, rate=0.3, finetune_epochs=2, finetune_lr=0.05)
    weights, masks, books = shared(mlp, recipe)
    kept = still_kept(masks, books, weights)
    for book in books:
        (member,) = book.members
        assert torch.equal(member.positions, kept.keep[member.name].reshape(-1).nonzero().flatten())
        assert 0 < kept.kept(member.name) < masks.kept(member.name)
    tune(Run(mlp, weights, flat_train, recipe), kept, books)
    finish(books, weights, recipe)
    for name, mask in kept.keep.items():
        assert torch.equal(weights[name].detach() != 0, mask)


def test_layers_that_are_not_shared_keep_their_masks(mlp):
    weights, masks, books = shared(mlp, Recipe(prune=0.3, rate=0.3, layers=(LayerRule("fc2", bits="none"),)))
    weights["fc2.weight"].data[masks.keep["fc2.weight"]] = 0  # as training may do
    assert torch.equal(still_kept(masks, books, weights).keep["fc2.weight"], masks.keep["fc2.weight"])


def test_importance_pulls_the_values():
    weights = {"w": torch.tensor([[1.0, 2.0, 10.0, 12.0]])}
    share(weights, compressible(weights), Recipe(levels=2), {"w": torch.tensor([[3.0, 1.0, 1.0, 3.0]])})
    assert weights["w"].tolist() == [[1.25, 1.25, 11.5, 11.5]]


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("quantizer", ["kmeans", "uniform"])
def test_any_number_of_levels(mlp, levels, quantizer):
    weights, _, books = shared(mlp, Recipe(prune=0.4, levels=levels, quantizer=quantizer))
    for book in books:
        assert book.levels == levels
        assert 1 <= len(distinct(weights[book.members[0].name])) <= levels


@pytest.mark.parametrize("quantizer", ["kmeans", "uniform"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_every_quantizer_in_other_dtypes(dtype, rate, quantizer):
    torch.manual_seed(0)
    weights = {"w": torch.randn(40, 30).to(dtype)}
    recipe = Recipe(bits=3, quantizer=quantizer, rate=rate)
    (book,) = share(weights, compressible(weights), recipe)
    finish([book], weights, recipe)
    assert weights["w"].dtype is dtype
    assert 3 <= len(distinct(weights["w"])) <= 8
    assert torch.isin(distinct(weights["w"]).float(), book.centroids.detach().to(dtype).float()).all()


@pytest.mark.parametrize("quantizer", ["kmeans", "uniform"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_constant_and_empty_layers(quantizer, rate):
    weights = {"a": torch.full((4, 5), 0.75), "b": torch.zeros(3, 4), "c": torch.tensor([[-2.5]])}
    before = copy.deepcopy(weights)
    books = share(weights, compressible(weights), Recipe(bits=3, quantizer=quantizer, rate=rate))
    assert [len(book.centroids) for book in books] == [1, 0, 1]
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_values_that_float16_holds(mlp):
    recipe = Recipe(prune=0.5, bits=3, codebook_dtype="float16")
    weights, _, books = shared(mlp, recipe)
    before = [book.centroids.detach().clone() for book in books]
    finish(books, weights, recipe)
    for book, old in zip(books, before, strict=True):
        found = book.centroids.detach()
        assert torch.equal(found, old.half().float())
        assert not torch.equal(found, old)
        assert torch.equal(distinct(weights[book.members[0].name]), found)


def test_by_default_nothing_is_rounded(mlp):
    weights, _, books = shared(mlp, Recipe(prune=0.5, bits=3))
    before = copy.deepcopy(weights)
    finish(books, weights, Recipe())
    assert all(torch.equal(weights[name], before[name]) for name in weights)
