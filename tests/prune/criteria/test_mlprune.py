"""MLPrune: the factors are those of the Fisher matrix, and what it predicts is what happens on a quadratic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from commands import from_json
from samples import SIDE, batches, conv_net, evidence_of, network_and_data, pruned_losses
from torch import nn

from deepcompress import networks
from deepcompress.errors import DataError, RecipeError
from deepcompress.prune.criteria import mlprune as module
from deepcompress.prune.criteria import obs
from deepcompress.prune.criteria.base import judge
from deepcompress.prune.criteria.mlprune import compensated, mlprune, output_moments, saliency
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe
from deepcompress.training.objective import cross_entropy

RECIPE = Recipe(criterion="mlprune", prune=0.8)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(size, seed, groups=1):
    root = random(groups, size, size + 3, seed=seed)
    return root @ root.mT / size


def rise(inputs, outputs, move):
    """1/2 d^T (A ⊗ G) d of each group, by the whole matrix."""
    flat = move.mT.flatten(1)  # columns below each other
    fisher = torch.stack([torch.kron(*pair) for pair in zip(inputs, outputs, strict=True)])
    return 0.5 * torch.einsum("gi,gij,gj->g", flat, fisher, flat)


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def evidence(model, data, recipe=RECIPE):
    return evidence_of(weights_of(model), recipe, model, data)


# The two formulas ------------------------------------------------------------------------------------------------


def test_by_hand():
    """A = G = [[2, 1], [1, 2]], whose inverse is 1/3 [[2, -1], [-1, 2]]: a weight of 3 costs 9 / (2 · 4/9)."""
    factor = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)
    weight = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    inverse = obs.inverse_diagonal(factor)
    torch.testing.assert_close(saliency(inverse, inverse, weight), torch.tensor([[[10.125, 0], [0, 1.125]]]).double())
    keep = torch.tensor([[[True, False], [False, False]]])
    # F_SS = 4 and F_SP w_P = 1 · 1 · w_22: the first weight gains a quarter
    torch.testing.assert_close(
        compensated(factor, factor, weight, keep), torch.tensor([[[3.25, 0.0], [0.0, 0.0]]]).double()
    )


@pytest.mark.parametrize("groups", [1, 3])
def test_the_predicted_rise_is_the_measured_one(groups, monkeypatch):
    monkeypatch.setattr(module, "CLOSE", 1e-12)
    inputs, outputs, weight = positive(4, 1, groups), positive(3, 2, groups), random(groups, 3, 4)
    predicted = saliency(obs.inverse_diagonal(inputs), obs.inverse_diagonal(outputs), weight)
    for o, i in ((0, 0), (1, 3), (2, 2)):
        keep = torch.ones_like(weight, dtype=torch.bool)
        keep[:, o, i] = False
        moved = compensated(inputs, outputs, weight, keep)
        torch.testing.assert_close(rise(inputs, outputs, moved - weight), predicted[:, o, i], rtol=1e-8, atol=1e-12)


def test_all_weights_of_a_layer_are_corrected_jointly(monkeypatch):
    """As a solver with the whole matrix does."""
    monkeypatch.setattr(module, "CLOSE", 1e-12)
    inputs, outputs, weight = positive(5, 1), positive(4, 2), random(1, 4, 5)
    keep = random(1, 4, 5, seed=3) > 0
    fisher, kept = torch.kron(inputs[0], outputs[0]), keep[0].T.flatten()
    flat = weight[0].T.flatten()
    move = torch.linalg.solve(fisher[kept][:, kept], fisher[kept][:, ~kept] @ flat[~kept])
    expected = torch.zeros(20, dtype=torch.float64)
    expected[kept] = flat[kept] + move
    found = compensated(inputs, outputs, weight, keep)
    torch.testing.assert_close(found[0].T.flatten(), expected, rtol=1e-8, atol=1e-10)
    assert torch.equal(found[~keep], torch.zeros(int((~keep).sum()), dtype=torch.float64))


def test_with_equal_rows_of_outputs_it_is_obs():
    """Where G is the identity, rows do not make up for each other."""
    inputs, weight = positive(6, 1), random(1, 4, 6)
    keep = random(1, 4, 6, seed=2) > 0
    found = compensated(inputs, torch.eye(4, dtype=torch.float64)[None], weight, keep)
    torch.testing.assert_close(found, obs.compensated(inputs, weight, keep), rtol=1e-3, atol=1e-4)


def test_a_group_that_loses_nothing_does_not_move():
    inputs, outputs, weight = positive(4, 1, 2), positive(3, 2, 2), random(2, 3, 4)
    keep = torch.ones_like(weight, dtype=torch.bool)
    keep[1, 0] = False
    found = compensated(inputs, outputs, weight, keep)
    assert torch.equal(found[0], weight[0])
    assert bool((found[1, 1:] != weight[1, 1:]).all())


# The factors -----------------------------------------------------------------------------------------------------


def test_the_factor_of_the_outputs_is_that_of_the_fisher_matrix(monkeypatch):
    """Of softmax, ``diag(p) - p p^T`` in the mean over samples: labels have no part in it."""
    monkeypatch.setattr(module, "PROBES", 4000)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4)), random(5, 3).float()
    found = output_moments(evidence(model, [(x[:2], torch.zeros(2).long()), (x[2:], torch.ones(3).long())]))
    chance = model(x).softmax(dim=1).detach().double()
    exact = (torch.diag_embed(chance) - chance[:, :, None] * chance[:, None]).mean(dim=0)
    ((total,), seen) = found["0.weight"].totals, found["0.weight"].seen
    torch.testing.assert_close(total[0] / seen, exact, rtol=0.05, atol=0.005)


def test_more_than_one_output_takes_the_gradients_of_the_labels():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return self.layer(x), x

    torch.manual_seed(0)
    model, x, y = Two(), random(6, 3).float(), torch.arange(6) % 4
    whole = replace(evidence(model, [(x, y)]), objective=lambda output, x, y: cross_entropy(output[0], x, y))
    found = output_moments(whole)["layer.weight"]
    slope = (model(x)[0].softmax(dim=1) - nn.functional.one_hot(y, 4)).detach().double()
    torch.testing.assert_close(found.totals[0][0] / found.seen, slope.T @ slope / 6, rtol=1e-5, atol=1e-7)


def test_a_convolution_counts_each_of_its_positions():
    """Equal positions, so that the estimate by factors is exact: P of them cost P^2 times what one costs."""
    torch.manual_seed(0)
    conv, line = nn.Conv2d(2, 3, 1), nn.Linear(2, 3)
    line.load_state_dict({"weight": conv.weight[:, :, 0, 0], "bias": conv.bias})
    x, y = random(8, 2).float(), torch.arange(8) % 3
    mean = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    wide = judge(evidence(mean, [(x[:, :, None, None].expand(-1, -1, 2, 2), y)])).scores["0.weight"][:, :, 0, 0]
    flat = judge(evidence(nn.Sequential(line), [(x, y)])).scores["0.weight"]
    torch.testing.assert_close(wide * 4, flat)  # each position feels a quarter: 4 of them, (1/4)^2 each


@pytest.mark.parametrize("groups", [1, 2])
def test_wide_layers_are_split(groups, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 3))
    data = [(random(10, 4, 4, 4).float(), torch.arange(10) % 3)]
    whole = judge(evidence(net, data)).scores
    monkeypatch.setattr(obs, "BLOCK", 2)
    parts = mlprune(evidence(net, data))
    for name, weight in weights_of(net).items():
        assert parts.scores[name].shape == weight.shape
        assert not torch.allclose(parts.scores[name], whole[name])
    before = net[0].weight.detach().clone()
    masks = Masks({name: torch.rand(weight.shape) > 0.5 for name, weight in weights_of(net).items()})
    parts.correct(masks)
    assert not bool(net[0].weight[~masks.keep["0.weight"]].any())
    assert not torch.equal(net[0].weight[masks.keep["0.weight"]], before[masks.keep["0.weight"]])


# The criterion ---------------------------------------------------------------------------------------------------


def test_it_costs_less_than_removing_without_correction(dense, flat_train):
    corrected, plain = pruned_losses(evidence(dense, flat_train), flat_train)
    assert corrected < plain


def test_the_network_is_left_as_it_was():
    model = conv_net(batch_norm=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verdict = mlprune(evidence(model, batches(64, seed=1, shape=(1, SIDE, SIDE))))
    verdict.correct(Masks.full(weights_of(model)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part._forward_hooks for part in model.modules())


def test_weights_of_no_plain_layer_are_judged_by_the_diagonal():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(5, 3), nn.Linear(3, 4)

        def forward(self, x):
            return self.out(self.words(x))

    torch.manual_seed(0)
    whole = evidence(Words(), [(torch.arange(20) % 5, torch.arange(20) % 4)])
    verdict = mlprune(whole)
    alone = {"words.weight": whole.weights["words.weight"]}
    expected = judge(
        replace(whole, weights=alone, recipe=replace(RECIPE, criterion="taylor2"), masks=Masks.full(alone))
    )
    torch.testing.assert_close(verdict.scores["words.weight"], expected.scores["words.weight"])
    assert verdict.notes == ("mlprune sees no inputs of words.weight: judged by taylor2, and not corrected",)
    before = whole.weights["words.weight"].detach().clone()
    verdict.correct(Masks.full(whole.weights))
    assert torch.equal(whole.weights["words.weight"], before)


def test_bad_data_is_one_error(dense):
    with pytest.raises(RecipeError, match="criterion mlprune looks at training data"):
        mlprune(evidence(dense, None))
    with pytest.raises(DataError, match="it has none"):
        mlprune(evidence(dense, []))
    with pytest.raises(RecipeError, match=r"criterion mlprune: inputs of the layer of fc1\.weight are NaN"):
        mlprune(evidence(dense, [(torch.full((4, 12), torch.nan), torch.zeros(4).long())]))


def test_from_a_checkpoint_to_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, data = network_and_data(tmp_path)
    torch.manual_seed(0)
    torch.save(networks.build(network).state_dict(), "dense.pt")
    found = from_json(
        "compress", "dense.pt", "--network", network, "--data", data, "--criterion", "mlprune", "--prune", "0.7",
        "--epochs", "0", "--finetune-epochs", "0", "--iterations", "2",
    )  # fmt: skip
    weights = [layer for layer in from_json("inspect", "model.dc")["layers"] if len(layer["shape"]) > 1]
    assert sum(layer["nonzeros"] for layer in weights) <= 0.3 * sum(layer["weights"] for layer in weights) + 1
    assert found["file_bytes"] == (tmp_path / "model.dc").stat().st_size
