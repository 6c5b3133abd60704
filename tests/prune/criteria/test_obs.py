"""Optimal Brain Surgeon: what it predicts is what happens on a quadratic, and it moves only what it may."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from listener import Listener
from samples import SIDE, batches, conv_net, evidence_of
from torch import nn

from deepcompress.errors import DataError, RecipeError
from deepcompress.prune.criteria import obs as module
from deepcompress.prune.criteria.base import judge
from deepcompress.prune.criteria.obs import Moments, compensated, groups_of, inputs_of, obs, saliency, second_moments
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune
from deepcompress.recipe import Recipe


def positive(size, seed, groups=1):
    """Random positive definite matrices (groups, size, size), float64."""
    root = torch.randn(groups, size, size + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT / size


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(hessian, move):
    """1/2 d^T H d for each row: (groups, rows)."""
    return 0.5 * torch.einsum("gri,gij,grj->gr", move, hessian, move)


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).double()


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


# The two formulas ------------------------------------------------------------------------------------------------


def test_by_hand():
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)  # its inverse: 1/3 [[2, -1], [-1, 2]]
    weight = torch.tensor([[[3.0, 1.0]]], dtype=torch.float64)
    all_alive = torch.ones_like(weight, dtype=torch.bool)
    torch.testing.assert_close(saliency(hessian, weight, all_alive), torch.tensor([[[6.75, 0.75]]]).double())
    keep = torch.tensor([[[True, False]]])
    # -w_2 / (2/3) times the inverse's column (-1/3, 2/3): the first weight gains 1/2
    torch.testing.assert_close(compensated(hessian, weight, keep), torch.tensor([[[3.5, 0.0]]]).double())


@pytest.mark.parametrize("groups", [1, 3])
def test_the_predicted_increase_is_the_measured_one(groups):
    """For every single weight, on a quadratic, and no other move of the survivors costs less."""
    hessian, weight = positive(6, 1, groups), random(groups, 4, 6)
    predicted = saliency(hessian, weight, torch.ones_like(weight, dtype=torch.bool))
    for q in range(6):
        keep = torch.ones_like(weight, dtype=torch.bool)
        keep[..., q] = False
        moved = compensated(hessian, weight, keep)
        torch.testing.assert_close(error(hessian, moved - weight), predicted[..., q], rtol=1e-10, atol=1e-12)
        other = moved + 0.01 * random(groups, 4, 6, seed=2) * keep
        assert bool((error(hessian, other - weight) > predicted[..., q]).all())


def test_several_weights_of_a_row_are_corrected_jointly():
    """As Hassibi's formula with the inverse says, and for the error that it predicts."""
    hessian, weight = positive(8, 3), random(1, 5, 8, seed=4)
    keep = random(1, 5, 8, seed=5) > 0
    moved = compensated(hessian, weight, keep)
    inverse = torch.linalg.inv(hessian[0])
    for row in range(5):
        gone = ~keep[0, row]
        multipliers = torch.linalg.solve(inverse[gone][:, gone], weight[0, row, gone])
        torch.testing.assert_close(moved[0, row], (weight[0, row] - inverse[:, gone] @ multipliers) * keep[0, row])
        predicted = 0.5 * weight[0, row, gone] @ multipliers
        torch.testing.assert_close(error(hessian, moved - weight)[0, row], predicted)


def test_rows_that_lose_nothing_do_not_move():
    hessian, weight = positive(4, 6), random(1, 2, 4, seed=7)
    keep = torch.ones_like(weight, dtype=torch.bool)
    keep[0, 0, 1] = False
    moved = compensated(hessian, weight, keep)
    assert torch.equal(moved[0, 1], weight[0, 1])
    assert not torch.equal(moved[0, 0], weight[0, 0])
    assert torch.equal(compensated(hessian, weight, torch.zeros_like(keep)), torch.zeros_like(weight))


def test_weights_that_are_gone_do_not_make_up_for_others():
    """Scores are those of the smaller quadratic, which has only the weights that are left."""
    hessian, weight = positive(5, 8), random(1, 2, 5, seed=9)
    alive = torch.ones_like(weight, dtype=torch.bool)
    alive[0, 1, [0, 3]] = False
    weight = weight * alive
    found = saliency(hessian, weight, alive)
    left = torch.tensor([1, 2, 4])
    small = torch.linalg.inv(hessian[0][left[:, None], left]).diagonal()
    torch.testing.assert_close(found[0, 1, left], weight[0, 1, left] ** 2 / (2 * small))
    assert torch.equal(found[0, 1, [0, 3]], torch.zeros(2).double())
    torch.testing.assert_close(found[:, :1], saliency(hessian, weight[:, :1], alive[:, :1]))
    keep = alive.clone()
    keep[0, 1, 1] = False
    assert torch.equal(compensated(hessian, weight, keep)[~keep], torch.zeros(3).double())


# The inputs of layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (4, 5)),
        (nn.Linear(5, 3), (4, 7, 5)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 11)),
        (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 2, 7, 8)),
        (nn.Conv2d(4, 8, 3, padding="same", dilation=2, groups=2), (2, 4, 6, 6)),
        (nn.Conv2d(4, 4, 3, padding="valid", groups=4), (2, 4, 6, 6)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 5)),
        (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1)), (2, 2, 3, 4, 5)),
        (nn.Conv2d(2, 3, 3), (2, 6, 6)),
    ],
    ids=str,
)
def test_outputs_are_the_weights_times_the_inputs(layer, shape, monkeypatch):
    monkeypatch.setattr(module, "ELEMENTS", 1)  # sample by sample
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat(list(inputs_of(layer, x)), dim=1)
    groups = inputs.shape[0]
    found = inputs @ layer.weight.reshape(groups, -1, inputs.shape[2]).mT  # (groups, number, outputs of a group)
    found += layer.bias.reshape(groups, 1, -1)
    if isinstance(layer, nn.Linear):
        expected = layer(x)
    else:
        outputs = layer(x if x.ndim == len(layer.kernel_size) + 2 else x[None])
        expected = outputs.unflatten(1, (groups, -1)).movedim(1, 0).movedim(2, -1)
    torch.testing.assert_close(found, expected.reshape(found.shape), atol=1e-5, rtol=1e-4)


def test_the_second_moment_is_that_of_the_inputs():
    model, x = network(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), random(20, 4)
    evidence = evidence_of(weights_of(model), Recipe(criterion="obs"), model, [(x[:9], x[:9]), (x[9:], x[9:])])
    moments = second_moments(evidence)
    hidden = torch.relu(model[0](x)).detach()
    for name, inputs in (("0.weight", x), ("2.weight", hidden)):
        exact = inputs.T @ inputs / 20
        damped = exact + module.DAMPING * exact.diagonal().mean() * torch.eye(len(exact))
        (found,) = moments[name].matrices()
        torch.testing.assert_close(found, damped[None])


def test_wide_layers_are_split(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 3)
    layer = nn.Linear(7, 2, bias=False).double()
    moments = Moments(groups_of(layer), layer.weight[0].numel())
    x = random(30, 7)
    moments.add(x[None])
    exact = x.T @ x / 30
    sizes = [len(found[0]) for found in moments.matrices()]
    assert sizes == [3, 2, 2]
    first = next(iter(moments.matrices()))[0]
    off = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(first[off], exact[:3, :3][off])
    weight = layer.weight.detach()
    assert torch.equal(moments.joined(list(moments.rows(weight)), weight), weight.float())


# The criterion -------------------------------------------------------------------------------------------------------


def linear_case(samples=200):
    """A linear layer without bias, and inputs that hang together: its output error is a quadratic."""
    model = network(nn.Linear(6, 4, bias=False))
    x = random(samples, 6, seed=1) @ random(6, 6, seed=2)
    return model, x, evidence_of(weights_of(model), Recipe(criterion="obs", prune=0.5), model, [(x, x)])


def test_the_output_error_is_the_predicted_one(monkeypatch):
    """Of the network itself, measured: half the mean squared change of an output, pruning one weight of each row."""
    monkeypatch.setattr(module, "DAMPING", 0.0)
    model, x, evidence = linear_case()
    before, weight = model(x).detach(), model[0].weight
    verdict = obs(evidence)
    keep = torch.ones_like(weight, dtype=torch.bool)
    keep[:, 2] = False
    verdict.correct(Masks({"0.weight": keep}))
    measured = (model(x) - before).square().mean(0) / 2
    torch.testing.assert_close(measured.float(), verdict.scores["0.weight"][:, 2], rtol=1e-4, atol=1e-7)
    removed = torch.linalg.lstsq(x, before).solution[2]  # what the weights were
    assert bool(((x[:, 2:3] * removed).square().mean(0) / 2 > 2 * measured).all())


def test_pruning_by_it_keeps_the_output_better_than_by_magnitude():
    def lost(criterion):
        model, x, evidence = linear_case()
        before = model(x).detach()
        masks = prune(replace(evidence, recipe=replace(evidence.recipe, criterion=criterion)))
        assert masks.kept("0.weight") == 12
        assert torch.equal(model[0].weight != 0, masks.keep["0.weight"])
        return float((model(x) - before).detach().square().mean())

    assert lost("obs") < 0.8 * lost("magnitude")


def test_the_network_is_left_as_it_was_but_for_what_is_corrected():
    model = conv_net(batch_norm=True).train()
    evidence = evidence_of(
        weights_of(model), Recipe(criterion="obs"), model, batches(64, seed=1, shape=(1, SIDE, SIDE))
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verdict = obs(evidence)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model[1].training
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    verdict.correct(evidence.masks)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_input_that_is_always_zero_goes_first():
    model = network(nn.Linear(5, 3))
    x = random(50, 5)
    x[:, 4] = 0
    evidence = evidence_of(weights_of(model), Recipe(criterion="obs"), model, [(x, x)])
    scores = judge(evidence).scores["0.weight"]
    assert float(scores[:, 4].max()) < float(scores[:, :4].min())
    nothing = evidence_of(weights_of(model), Recipe(criterion="obs"), model, [(0 * x, x)])
    torch.testing.assert_close(judge(nothing).scores["0.weight"], model[0].weight.float() ** 2 / 2)


def test_layers_without_inputs_are_judged_by_magnitude_and_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 6), nn.LSTM(6, 4, batch_first=True))

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = model, nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.body(x)[0][:, -1])

    net, watch = Tagger(), Listener()
    x = torch.randint(0, 10, (30, 5), generator=torch.Generator().manual_seed(0))
    evidence = evidence_of(weights_of(net), Recipe(criterion="obs", prune=0.5), net, [(x, x[:, 0] % 2)])
    before = net.body[0].weight.detach().clone()
    masks = prune(evidence, watch=watch)
    kept = masks.keep["body.0.weight"]
    assert torch.equal(net.body[0].weight, before * kept)
    assert float(before[kept].abs().min()) >= float(before[~kept].abs().max())
    (note,) = [text for text in watch.lines if text.startswith("obs")]
    assert "body.0.weight, body.1.weight_ih_l0, body.1.weight_hh_l0" in note
    assert "head" not in note


def test_tied_layers_count_all_their_inputs():
    model = network(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    x = random(25, 4)
    evidence = evidence_of({"0.weight": model[0].weight}, Recipe(criterion="obs"), model, [(x, x)])
    (found,) = second_moments(evidence)["0.weight"].matrices()
    both = torch.cat([x, torch.tanh(model[0](x)).detach()])
    exact = both.T @ both / 50
    torch.testing.assert_close(found[0], exact + module.DAMPING * exact.diagonal().mean() * torch.eye(4))


def test_what_it_cannot_do_is_said():
    model = network(nn.Linear(3, 2))
    weights = weights_of(model)
    with pytest.raises(RecipeError, match="criterion obs looks at training data"):
        obs(evidence_of(weights, Recipe(criterion="obs"), model))
    with pytest.raises(DataError, match="it has none"):
        obs(evidence_of(weights, Recipe(criterion="obs"), model, []))
    bad = torch.full((4, 3), torch.nan, dtype=torch.float64)
    with pytest.raises(RecipeError, match=r"inputs of the layer of 0\.weight are NaN or infinite"):
        obs(evidence_of(weights, Recipe(criterion="obs"), model, [(bad, bad)]))


def test_a_layer_of_which_nothing_is_left_is_let_be(mlp, flat_train):
    with torch.no_grad():
        mlp.fc2.weight.zero_()
    whole = evidence_of(weights_of(mlp), Recipe(criterion="obs", prune=0.5), mlp, flat_train)
    whole = replace(whole, masks=Masks({name: weight != 0 for name, weight in whole.weights.items()}))
    verdict = obs(whole)
    assert not bool(verdict.scores["fc2.weight"].any())
    verdict.correct(whole.masks)
    assert not bool(mlp.fc2.weight.any())
