"""SNIP and GraSP: both by hand on a tiny network, and by autograd on explicit masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from samples import SIDE, Mlp, batches, conv_net, evidence_of
from torch import nn
from torch.func import functional_call

from deepcompress.errors import DataError, RecipeError
from deepcompress.prune.criteria.base import judge
from deepcompress.prune.criteria.initial import TEMPERATURE, grasp, snip
from deepcompress.prune.stage import prune
from deepcompress.recipe import Recipe
from deepcompress.training.objective import cross_entropy


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def evidence(model, data, criterion="snip", **settings):
    return evidence_of(weights_of(model), Recipe(criterion=criterion, **settings), model, data)


def squared(output, x, y):
    """A loss of which everything can be worked out: half the squared output, the mean over the samples."""
    return output.square().sum() / (2 * len(output))


def tiny():
    """y = 2·x1 - 3·x2, and the samples (1, 0) and (1, 2): outputs 2 and -4."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, -3.0]]))
    x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    return model, [(x[:1], x[:1, 0]), (x[1:], x[1:, 0])]


def test_snip_by_hand():
    """g = (2·(1, 0) - 4·(1, 2)) / 2 = (-1, -4), so |g·w| = (2, 12), over 14."""
    model, data = tiny()
    found = snip(replace(evidence(model, data), objective=squared))
    torch.testing.assert_close(found["0.weight"], torch.tensor([[2 / 14, 12 / 14]]))


def test_grasp_by_hand():
    """H = ((1, 0)(1, 0)^T + (1, 2)(1, 2)^T) / 2 = ((1, 1), (1, 2)); Hg = (-5, -9), and the score w·Hg = (-10, 27).

    The loss is quadratic, and outputs are divided by T, so all of it is: once in g, and once in H, each by T^2.
    """
    model, data = tiny()
    found = grasp(replace(evidence(model, data, "grasp"), objective=squared))
    torch.testing.assert_close(found["0.weight"] * TEMPERATURE**4, torch.tensor([[-10.0, 27.0]]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("made", [Mlp, conv_net])
def test_snip_is_the_gradient_by_the_mask(made):
    """|dL/dc| at c = 1 where c multiplies the weights, over its sum."""
    torch.manual_seed(0)
    model, shape = made(), (12,) if made is Mlp else (1, SIDE, SIDE)
    data = batches(70, seed=1, shape=shape)
    found = snip(evidence(model, data))
    model.eval()
    masks = {name: torch.ones_like(weight, requires_grad=True) for name, weight in weights_of(model).items()}
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    masked = {name: mask * weights_of(model)[name].detach() for name, mask in masks.items()}
    slopes = torch.autograd.grad(F.cross_entropy(functional_call(model, masked, (x,)), y), list(masks.values()))
    total = sum(slope.abs().sum() for slope in slopes)
    for name, slope in zip(masks, slopes, strict=True):
        torch.testing.assert_close(found[name], slope.abs() / total, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(sum(value.sum() for value in found.values()), torch.tensor(1.0))


def test_grasp_is_the_change_of_the_squared_gradient():
    """Its slope along a weight, times the weight, is twice the score."""
    torch.manual_seed(0)
    model = Mlp(inputs=4).double().eval()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(20) % 4
    found = grasp(evidence(model, [(x, y)], "grasp"))

    def flow():
        slopes = torch.autograd.grad(cross_entropy(model(x) / TEMPERATURE, x, y), list(weights_of(model).values()))
        return float(sum(slope.square().sum() for slope in slopes))

    for name, at in (("fc1.weight", (3, 2)), ("fc2.weight", (5, 7)), ("fc3.weight", (1, 4))):
        weight, step = weights_of(model)[name], 1e-3
        flows = []
        for sign in (1, -1):
            with torch.no_grad():
                old = weight[at].clone()
                weight[at] *= 1 + sign * step
            flows.append(flow())
            with torch.no_grad():
                weight[at] = old
        slope = (flows[0] - flows[1]) / (2 * step)
        assert slope == pytest.approx(2 * float(found[name][at]), rel=1e-2, abs=1e-13)


def test_grasp_removes_what_hinders_the_gradient_first():
    model, data = tiny()
    masks = prune(replace(evidence(model, data, "grasp", prune=0.5), objective=squared))
    assert masks.keep["0.weight"].tolist() == [[False, True]]


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_the_scores_do_not_depend_on_how_samples_are_batched(criterion, dense):
    one, few = batches(96, seed=1, size=96), batches(96, seed=1, size=20)
    first, second = (judge(evidence(dense, data, criterion)).scores for data in (one, few))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-6 * float(value.max()))


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_new_batch_norm_uses_the_batch_and_forgets_it(criterion):
    torch.manual_seed(0)
    model, data = conv_net(batch_norm=True), batches(64, seed=1, shape=(1, SIDE, SIDE))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = judge(evidence(model, data, criterion)).scores
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    model[1].num_batches_tracked += 1  # now it has statistics of its own: mean 0 and variance 1
    known = judge(evidence(model, data, criterion)).scores
    assert not torch.allclose(fresh["0.weight"], known["0.weight"], rtol=0.1)


def test_a_loss_without_gradient_keeps_the_scores_finite():
    model = nn.Sequential(nn.Linear(4, 3))
    data = [(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))]
    assert snip(evidence(model, data))["0.weight"].tolist() == torch.zeros(3, 4).tolist()
    assert grasp(evidence(model, data, "grasp"))["0.weight"].tolist() == torch.zeros(3, 4).tolist()


def test_a_loss_that_is_linear_bends_nowhere():
    model, data = tiny()
    found = grasp(replace(evidence(model, data, "grasp"), objective=lambda output, x, y: output.mean()))
    assert found["0.weight"].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("criterion", [snip, grasp])
def test_without_data_it_says_so(criterion, dense):
    with pytest.raises(RecipeError, match="looks at training data"):
        criterion(evidence(dense, None))
    with pytest.raises(DataError, match="it has none"):
        criterion(evidence(dense, []))
