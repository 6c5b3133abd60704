"""WoodFisher: the recursion is an inverse, what it predicts is what happens on a quadratic, and blocks are apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import SIDE, Mlp, batches, conv_net, evidence_of, pruned_losses
from torch import nn

from deepcompress.errors import DataError, RecipeError
from deepcompress.prune.criteria import per_sample
from deepcompress.prune.criteria import woodfisher as module
from deepcompress.prune.criteria.base import judge
from deepcompress.prune.criteria.per_sample import per_sample_gradients
from deepcompress.prune.criteria.woodfisher import blocks, compensated, count_in, inverse_fisher, woodfisher
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune
from deepcompress.recipe import Recipe
from deepcompress.training.objective import cross_entropy

RECIPE = Recipe(criterion="woodfisher", prune=0.8)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fisher(grads, damping):
    """(blocks, samples, size) -> (blocks, size, size), by its definition."""
    return grads.mT @ grads / grads.shape[1] + damping * torch.eye(grads.shape[2], dtype=grads.dtype)


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def evidence(model, data, recipe=RECIPE):
    return evidence_of(weights_of(model), recipe, model, data)


# The inverse -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 4, 9])
def test_the_recursion_is_the_inverse(together):
    """However many gradients are counted in at once: one at a time is the recursion of the paper."""
    grads, damping = random(3, 9, 5), 0.02
    inverse = (torch.eye(5, dtype=torch.float64) / damping).repeat(3, 1, 1)
    for part in grads.split(together, dim=1):
        count_in(inverse, part, 9)
    torch.testing.assert_close(inverse, torch.linalg.inv(fisher(grads, damping)), rtol=1e-10, atol=1e-10)


def test_one_step_by_hand():
    """F^-1 = 1 - g^2 / (N + g^2) where F_0 = 1: (1 + 4/2)^-1 = 1/3."""
    inverse = torch.ones(1, 1, 1, dtype=torch.float64)
    count_in(inverse, torch.full((1, 1, 1), 2.0, dtype=torch.float64), 2)
    torch.testing.assert_close(inverse.item(), 1 / 3)


def test_the_matrix_is_that_of_single_gradients(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)
    model, data = Mlp(inputs=5), batches(40, seed=1, shape=(5,), size=16)
    found = inverse_fisher(evidence(model.double(), [(x.double(), y) for x, y in data]))
    model.eval()
    rows = []
    inputs, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    for x, y in zip(inputs.double().split(1), labels.split(1), strict=True):
        model.zero_grad()
        cross_entropy(model(x).float(), x, y).backward()
        rows.append({name: weight.grad.clone() for name, weight in weights_of(model).items()})
    squares = sum(float(value.square().sum()) for row in rows for value in row.values())
    damping = module.DAMPING * squares / (40 * sum(weight.numel() for weight in weights_of(model).values()))
    for name in weights_of(model):
        grads = torch.stack([blocks(row[name].flatten()) for row in rows], dim=1)
        torch.testing.assert_close(found[name], torch.linalg.inv(fisher(grads, damping)), rtol=1e-5, atol=1e-3)


def test_blocks_are_filled_up_with_zeros(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    assert torch.equal(blocks(torch.arange(1.0, 7.0)), torch.tensor([[1.0, 2, 3, 4], [5, 6, 0, 0]]))
    assert blocks(torch.ones(3, 6, dtype=torch.bool)).shape == (3, 2, 4)


# The correction --------------------------------------------------------------------------------------------------


def quadratic():
    matrix = fisher(random(4, 12, 6, seed=1), 0.1)
    return matrix, torch.linalg.inv(matrix), random(4, 6, seed=2)


def increase(matrix, move):
    return 0.5 * torch.einsum("bi,bij,bj->b", move, matrix, move)


def test_the_predicted_increase_is_the_measured_one():
    matrix, inverse, values = quadratic()
    scores = values.square() / (2 * inverse.diagonal(dim1=1, dim2=2))
    for q in range(6):
        keep = torch.ones_like(values, dtype=torch.bool)
        keep[:, q] = False
        moved = compensated(inverse, values, keep)
        assert torch.equal(moved[:, q], torch.zeros(4, dtype=torch.float64))
        torch.testing.assert_close(increase(matrix, moved - values), scores[:, q], rtol=1e-10, atol=1e-12)


def test_several_weights_of_a_block_are_corrected_jointly():
    """To the minimum over the survivors; the sum of the corrections of single weights is not that."""
    matrix, inverse, values = quadratic()
    keep = torch.tensor([True, False, True, False, False, True]).expand(4, 6)
    moved = compensated(inverse, values, keep)
    summed = values - torch.einsum("bij,bj->bi", inverse, values * ~keep / inverse.diagonal(dim1=1, dim2=2))
    for block in range(4):
        kept, gone = keep[block], ~keep[block]
        best = torch.linalg.solve(matrix[block][kept][:, kept], matrix[block][kept][:, gone] @ values[block, gone])
        torch.testing.assert_close(moved[block, kept], values[block, kept] + best)
    assert torch.equal(moved[~keep], torch.zeros(int((~keep).sum()), dtype=torch.float64))
    assert bool((increase(matrix, moved - values) < increase(matrix, summed * keep - values)).all())


def test_blocks_that_lose_nothing_are_as_they_were():
    _, inverse, values = quadratic()
    keep = torch.ones_like(values, dtype=torch.bool)
    keep[2, 3] = False
    moved = compensated(inverse, values, keep)
    assert torch.equal(moved[[0, 1, 3]], values[[0, 1, 3]])
    assert bool((moved[2, keep[2]] != values[2, keep[2]]).all())


# The criterion ---------------------------------------------------------------------------------------------------


def test_scores_are_of_the_weights_that_are_left(flat_train, monkeypatch):
    """Weights that are gone have no part: scores are those of the smaller network that has none of them."""
    monkeypatch.setattr(module, "BLOCK", 6)
    torch.manual_seed(0)
    model, left = nn.Sequential(nn.Linear(12, 4)), torch.tensor([0, 3, 4, 7, 11])
    keep = torch.zeros(4, 12, dtype=torch.bool)
    keep[:, left] = True
    masks = Masks({"0.weight": keep})
    masks.apply(weights_of(model))
    small = nn.Sequential(nn.Linear(5, 4))
    small[0].load_state_dict({"weight": model[0].weight[:, left], "bias": model[0].bias})
    found = woodfisher(replace(evidence(model, flat_train), masks=masks))
    expected = woodfisher(evidence(small, [(x[:, left], y) for x, y in flat_train]))
    torch.testing.assert_close(found.scores["0.weight"][:, left], expected.scores["0.weight"])
    assert torch.equal(found.scores["0.weight"][~keep], torch.zeros(28))
    following = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    wide = torch.zeros_like(keep)
    wide[:, left] = following
    found.correct(Masks({"0.weight": wide}))
    expected.correct(Masks({"0.weight": following}))
    torch.testing.assert_close(model[0].weight[:, left], small[0].weight)
    assert torch.equal(model[0].weight[~keep], torch.zeros(28))


def test_pruned_weights_stay_out_and_survivors_move(dense, flat_train):
    before = {name: weight.detach().clone() for name, weight in weights_of(dense).items()}
    whole = evidence(dense, flat_train)
    first = prune(replace(whole, recipe=replace(RECIPE, prune=0.5)))
    second = prune(replace(whole, masks=first))
    for name, weight in whole.weights.items():
        assert not bool((second.keep[name] & ~first.keep[name]).any())
        assert torch.equal(weight != 0, second.keep[name])
    assert not torch.equal(dense.fc1.weight[second.keep["fc1.weight"]], before["fc1.weight"][second.keep["fc1.weight"]])


def test_without_retraining_it_is_asked_at_each_iteration(dense, flat_train, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "inverse_fisher", lambda whole: asked.append(whole.masks) or inverse_fisher(whole))
    masks = prune(
        evidence(dense, flat_train, Recipe(criterion="woodfisher", prune=0.8, iterations=3, schedule="linear"))
    )
    assert [round(found.sparsity, 2) for found in asked] == [0, 0.27, 0.53]
    assert round(masks.sparsity, 2) == 0.8


def test_correcting_costs_less_than_only_removing(dense, flat_train):
    """In cross entropy on the samples that were looked at."""
    corrected, plain = pruned_losses(evidence(dense, flat_train), flat_train)
    assert corrected < plain


def test_the_network_is_left_as_it_was():
    model = conv_net(batch_norm=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = batches(64, seed=1, shape=(1, SIDE, SIDE))
    verdict = woodfisher(evidence(model, data))
    verdict.correct(Masks.full(weights_of(model)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_data_gives_the_same_scores(dense, flat_train):
    one, two = (judge(evidence(dense, flat_train)).scores for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_without_any_gradient_it_is_magnitude():
    """A loss that does not depend on the weights."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    data = [(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))]
    found = replace(evidence(model, data), objective=lambda output, x, y: (0 * output).sum())
    torch.testing.assert_close(judge(found).scores["0.weight"], model[0].weight.detach() ** 2 / 2)


def test_one_sample_of_a_gradient_beyond_all_others_does_no_harm(dense, flat_train):
    loud = replace(
        evidence(dense, flat_train), objective=lambda output, x, y: cross_entropy(output, x, y) * x[0, 0].exp() ** 8
    )
    assert all(bool(torch.isfinite(value).all()) for value in judge(loud).scores.values())


def test_without_data_it_says_so(dense):
    with pytest.raises(RecipeError, match="criterion woodfisher looks at training data"):
        woodfisher(evidence(dense, None))
    with pytest.raises(DataError, match="it has none"):
        woodfisher(evidence(dense, []))


# Gradients of single samples -------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Does what vmap cannot: looks at a value."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x):
        return self.layer(x) * (2.0 if float(x.sum()) > 0 else 1.0)


@pytest.mark.parametrize("make", [Mlp, Odd], ids=["vmap", "one by one"])
def test_gradients_are_those_of_batches_of_one(make, flat_train, monkeypatch):
    monkeypatch.setattr(per_sample, "CHUNK", 5)
    torch.manual_seed(0)
    model = make()
    whole = evidence(model, flat_train, Recipe(criterion="woodfisher", score_samples=43))
    rows = list(per_sample_gradients(whole))
    assert max(len(next(iter(row.values()))) for row in rows) == 5
    x, y = (torch.cat(parts)[:43] for parts in zip(*flat_train, strict=True))
    model.eval()
    for name, weight in whole.weights.items():
        found = torch.cat([row[name] for row in rows])
        assert not found.requires_grad
        assert len(found) == 43
        for i in (0, 6, 42):
            model.zero_grad()
            cross_entropy(model(x[i : i + 1]), x, y[i : i + 1]).backward()
            torch.testing.assert_close(found[i], weight.grad)
    model.zero_grad(set_to_none=True)


def test_inputs_may_be_structures():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, a, b):
            return self.layer(a + b)

    model, x = Two(), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % 4
    named = list(per_sample_gradients(evidence(model, [({"a": x, "b": x}, y)])))
    plain = list(per_sample_gradients(evidence(model, [((x, x), y)])))
    assert len(named[0]["layer.weight"]) == 6
    assert torch.equal(named[0]["layer.weight"], plain[0]["layer.weight"])


def test_a_layer_of_which_nothing_is_left_is_let_be(mlp, flat_train):
    with torch.no_grad():
        mlp.fc2.weight.zero_()
    whole = evidence_of(weights_of(mlp), Recipe(criterion="woodfisher", prune=0.5), mlp, flat_train)
    whole = replace(whole, masks=Masks({name: weight != 0 for name, weight in whole.weights.items()}))
    verdict = woodfisher(whole)
    assert not bool(verdict.scores["fc2.weight"].any())
    verdict.correct(whole.masks)
    assert not bool(mlp.fc2.weight.any())
