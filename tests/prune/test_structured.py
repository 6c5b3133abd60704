"""Criteria of whole units, each against a calculation by hand, and through stage 1."""

from __future__ import annotations

import pytest
import torch
from samples import CLASSES, SIDE, Mlp, batches, conv_net
from torch import nn

from deepcompress.errors import DeepCompressError, RecipeError
from deepcompress.prune.criteria.base import CRITERIA, Evidence, judge, with_groups
from deepcompress.prune.criteria.thinet import rescaling, thinet
from deepcompress.prune.guard import prune_guarded
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune, prune_and_retrain
from deepcompress.recipe import Recipe
from deepcompress.training.loop import fit
from deepcompress.training.retraining import Run

CHANNELS = [name for name, criterion in CRITERIA.items() if criterion.units == "channels"]


def squares(output, x, y):
    return output.square().sum(dim=1).mean() / 2


def evidence(model, data, criterion, objective=None, **settings):
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    more = {} if objective is None else {"objective": objective}
    return Evidence(model, weights, Masks.full(weights), Recipe(criterion=criterion, **settings), data, **more)


def chain():
    """Two inputs, three units, two outputs: y = V relu(W x), without biases."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -2.0], [1.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 3.0, -1.0], [2.0, 0.0, 1.0]]))
    return model


X = torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.5, 0.0], [-1.0, -2.0]])
DATA = [(X, torch.zeros(4, dtype=torch.int64))]
HIDDEN = torch.tensor([[1.0, 0.0, 2.0], [2.0, 2.0, 1.0], [0.5, 0.0, 0.5], [0.0, 4.0, 0.0]])  # relu(W x) by hand


def of_units(found):
    verdict = found if isinstance(found, dict) else found.scores
    rows = verdict["0.weight"]
    assert torch.equal(rows, rows[:, :1].expand_as(rows))  # all weights of a row alike
    return rows.flatten(1)[:, 0]


def asked(criterion, objective=None):
    given = with_groups(evidence(chain(), DATA, criterion, objective))
    return of_units(CRITERIA[criterion].judge(given))


def test_filters_l1_by_hand():
    assert asked("filters-l1").tolist() == [1, 2, 2]


def test_inactive_by_hand():
    torch.testing.assert_close(asked("inactive"), torch.tensor([3 / 4, 2 / 4, 3 / 4]))


def test_nisp_by_hand():
    """All outputs count 1: the sums of the absolute weights that read a unit."""
    torch.testing.assert_close(asked("nisp"), torch.tensor([3.0, 3.0, 2.0]))


def test_nisp_follows_every_path_and_batch_norm():
    model = nn.Sequential(
        nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, eps=1e-9), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)
    ).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-2.0, 1.0]))
        model[1].running_var.copy_(torch.tensor([4.0, 1.0]))
        model[3].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        model[5].weight.copy_(torch.tensor([[-5.0, 6.0]]))
    given = with_groups(evidence(model, DATA, "nisp"))
    found = CRITERIA["nisp"].judge(given)
    torch.testing.assert_close(found["3.weight"][:, 0], torch.tensor([5.0, 6.0]))
    torch.testing.assert_close(found["0.weight"][:, 0], torch.tensor([5.0 * 1 + 6 * 3, 5.0 * 2 + 6 * 4]))


def test_filters_taylor_by_hand():
    """The loss of a sample is |y|^2 / 2, so that its gradient by the hidden units is V^T y."""
    v = chain()[2].weight.detach()
    gradient = HIDDEN @ v.T @ v
    expected = (HIDDEN * gradient).abs().mean(dim=0)
    torch.testing.assert_close(asked("filters-taylor", squares), expected / expected.norm())


def test_filters_taylor_averages_over_positions_before_the_absolute_value():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0]]))
    images = torch.ones(3, 1, 2, 2)
    given = with_groups(evidence(model, [(images, torch.zeros(3))], "filters-taylor", lambda out, x, y: out.mean()))
    found = of_units(CRITERIA["filters-taylor"].judge(given))
    assert found.tolist() == [0, 1]  # the first map's products are 1, -1, 1, -1; the second has all 2


def test_thinet_takes_first_what_its_next_layer_feels_least():
    """With one output the contributions are V h, and the greedy order follows from their Gram matrix."""
    model = chain()
    model[2] = nn.Linear(3, 1)
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, 0.1, -1.0]]))
    verdict = thinet(with_groups(evidence(model, DATA, "thinet")))
    parts = (HIDDEN * torch.tensor([1.0, 0.1, -1.0])).double()
    scores = of_units(verdict)
    # Sums of squares: unit 1 alone 0.2; then 0 and 2 as the sums with it say, which is what their difference costs.
    total = parts.sum(dim=1).square().sum()
    first = parts[:, 1].square().sum() / total
    alone = [(parts[:, 1] + parts[:, unit]).square().sum() / total for unit in (0, 2)]
    assert scores.argmin() == 1
    torch.testing.assert_close(scores[1].double(), first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[[0, 2]].double().min(), min(alone), rtol=1e-4, atol=1e-4)


def test_thinet_rescales_by_least_squares():
    parts = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts[:, 3] += parts[:, 1]
    kept = torch.tensor([True, True, False, False, True, True])
    factors = rescaling(parts.T @ parts, kept)
    expected = torch.linalg.lstsq(parts[:, kept], parts.sum(dim=1, keepdim=True)).solution.flatten()
    torch.testing.assert_close(factors[kept], expected, rtol=1e-6, atol=1e-6)
    assert factors[~kept].tolist() == [1, 1]
    assert torch.equal(rescaling(parts.T @ parts, torch.ones(6, dtype=torch.bool)), torch.ones(6, dtype=torch.float64))
    assert torch.equal(rescaling(torch.zeros(3, 3, dtype=torch.float64), torch.tensor([True, False, True])),
                       torch.ones(3, dtype=torch.float64))  # fmt: skip


def test_thinets_rescaling_lowers_the_error_of_the_next_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1, bias=False))
    x = torch.randn(300, 4)
    given = with_groups(evidence(model, [(x, torch.zeros(300))], "thinet", prune=0.5))
    verdict = judge(given)
    masks = prune(given)
    kept = given.groups[0].kept(masks)
    with torch.no_grad():
        rescaled = model(x)
        plain = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1, bias=False))
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1, bias=False))
        target = plain(x)
        plain[2].weight[:, ~kept] = 0
        errors = [float((found - target).square().sum()) for found in (rescaled, plain(x))]
        parts = torch.relu(plain[0](x))[:, kept] * plain[2].weight[:, kept]
        best = float((parts @ torch.linalg.lstsq(parts, target).solution - target).square().sum())
    assert verdict.correct is not None
    assert errors[0] < 0.9 * errors[1]
    assert errors[0] == pytest.approx(best, rel=1e-3)


class Residual(nn.Module):
    """A stem, three blocks of which one changes its shortcut, and a classifier."""

    def __init__(self, shrink=(1.0, 1.0, 1.0)):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
            for _ in shrink
        )
        self.last = nn.Linear(4, CLASSES)
        with torch.no_grad():
            for block, factor in zip(self.blocks, shrink, strict=True):
                block[3].weight.mul_(factor)
                block[3].bias.mul_(factor)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.blocks[0](x))
        x = torch.relu(self.blocks[1](x) + x)
        x = torch.relu(2 * x + self.blocks[2](x))  # no identity
        return self.last(x.mean(dim=(2, 3)))


def test_blocks_epsilon_by_hand_and_the_identity():
    torch.manual_seed(0)
    model, data = Residual((1.0, 0.01, 1e-6)).eval(), batches(64, 1, (1, SIDE, SIDE))
    given = with_groups(evidence(model, data, "blocks-epsilon", prune=0.4))
    assert [sorted(group.rows) for group in given.groups] == [
        [f"blocks.{number}.{layer}.weight" for layer in (0, 3)] for number in (0, 1)
    ]
    with torch.no_grad():
        stem = [torch.relu(model.stem(x)) for x, _ in data]
        first = [model.blocks[0](x) for x in stem]
        second = [model.blocks[1](torch.relu(x + y)) for x, y in zip(stem, first, strict=True)]
    expected = [max(float(y.abs().max()) for y in found) for found in (first, second)]
    scores = CRITERIA["blocks-epsilon"].judge(given)
    assert [float(scores[f"blocks.{number}.0.weight"].max()) for number in (0, 1)] == pytest.approx(expected, rel=1e-5)
    masks = prune(given)
    assert [masks.kept(f"blocks.{number}.{layer}.weight") for number in (0, 1) for layer in (0, 3)] == [144, 144, 0, 0]
    with torch.no_grad():  # a strict identity
        x = torch.rand(2, 4, SIDE, SIDE)
        assert torch.equal(torch.relu(model.blocks[1](x) + x), x)
        assert not model.blocks[1][1].bias.any()


def test_blocks_need_a_graph_and_blocks():
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, CLASSES)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else self.fc(-x)

    with pytest.raises(
        DeepCompressError, match=r"residual blocks cannot be found: torch.fx cannot trace the network Opaque"
    ):
        prune(evidence(Opaque(), batches(32, 1), "blocks-epsilon"))
    with pytest.raises(DeepCompressError, match="blocks-epsilon removes whole units, and it found no unit"):
        prune(evidence(Mlp(), batches(32, 1), "blocks-epsilon"))


@pytest.mark.parametrize("criterion", CHANNELS)
def test_retraining_keeps_whole_units_and_their_biases_at_zero(criterion, image_train):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    recipe = Recipe(prune=0.5, criterion=criterion, epochs=3, iterations=2, score_samples=64, optimizer="adam")
    masks = prune_and_retrain(Run(model, weights, image_train, recipe))
    groups = with_groups(Evidence(model, weights, masks, recipe, image_train)).groups
    state = model.state_dict()
    assert 0.3 < masks.sparsity <= 0.5
    for group in groups:
        gone = ~group.kept(masks)
        for name, units in group.rows.items():
            assert not state[name][gone[units]].any()
            assert state[name][~gone[units]].flatten(1).any(dim=1).all()
        for name, units in group.columns.items():
            assert not state[name][:, gone[units]].any()
        for name, units in group.vectors.items():
            assert not state[name][gone[units]].any()
    assert any(not group.kept(masks).all() for group in groups)


@pytest.mark.parametrize("criterion", CHANNELS)
def test_nothing_of_the_network_changes_but_weights_and_again_the_same(criterion, mlp, flat_train):
    before = {name: value.clone() for name, value in mlp.state_dict().items()}
    mlp.train()
    given = with_groups(evidence(mlp, flat_train, criterion, score_samples=50))
    one, two = judge(given), judge(given)
    assert all(torch.equal(one.scores[name], two.scores[name]) for name in one.scores)
    assert all(torch.equal(value, before[name]) for name, value in mlp.state_dict().items())
    assert mlp.training
    assert all(parameter.grad is None for parameter in mlp.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in mlp.modules())


@pytest.mark.parametrize("criterion", [*CHANNELS, "blocks-epsilon"])
def test_they_need_data_and_what_they_go_without(criterion, mlp, flat_train):
    with pytest.raises(RecipeError, match=f"criterion {criterion} looks at training data"):
        prune(evidence(mlp, None, criterion))
    with pytest.raises(RecipeError, match="removes whole units, and regrow 'surgery' brings single weights back"):
        prune(evidence(mlp, flat_train, criterion, regrow="surgery"))
    with pytest.raises(RecipeError, match="schedule 'circular' prunes one layer alone"):
        prune(evidence(mlp, flat_train, criterion, schedule="circular", max_drop=1))


def test_frozen_layers_are_judged_like_others(mlp, flat_train):
    mlp.requires_grad_(False)
    for criterion in CHANNELS:
        masks = prune(evidence(mlp, flat_train, criterion, prune=0.3, score_samples=32))
        assert 0.2 < masks.sparsity <= 0.3


def test_a_guard_rolls_whole_units_back(image_train, image_test):
    torch.manual_seed(0)
    model = conv_net()
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    recipe = Recipe(prune=0.7, criterion="filters-l1", epochs=2, iterations=2, max_drop=0, lr=1e-6)
    fit(model, image_train, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 2, stage="train")
    masks, held = prune_guarded(Run(model, weights, image_train, recipe, image_test))
    groups = with_groups(Evidence(model, weights, masks, recipe, image_train)).groups
    assert held
    assert masks.sparsity < 0.7
    for group in groups:  # a layer that is held keeps its units, and whoever reads them
        kept = group.kept(masks)
        for name, units in group.columns.items():
            assert not masks.keep[name][:, ~kept[units]].any()
            assert masks.keep[name].transpose(0, 1).flatten(1).any(dim=1)[kept[units]].all()
