"""Prune and regrow: hand calculations of one move, and what must hold after every one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from listener import Listener
from samples import Mlp, evidence_of
from torch import nn

from deepcompress.prune import regrow, stage
from deepcompress.prune.masks import Masks
from deepcompress.prune.regrow import (
    DeepRewiring,
    RegrowingHooks,
    Reparameterization,
    SparseEvolution,
    allot,
    forget,
    grown,
)
from deepcompress.prune.shadow import Shadow
from deepcompress.prune.stage import PruningHooks, prune_and_retrain
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.loop import fit
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run

ALL = ["set", "deepr", "dsr"]


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def layer(*values):
    return torch.tensor([values])


def masked(weights):
    return Masks({name: weight != 0 for name, weight in weights.items()})


# SET ----------------------------------------------------------------------------------------------------------


def test_set_drops_the_smallest_of_each_sign_and_grows_as_many():
    weights = {"a": layer(0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.0, 0.0)}
    method = SparseEvolution(weights, Recipe(regrow="set", regrow_fraction=0.5), steps=7)
    torch.manual_seed(0)
    masks = method.move(masked(weights), rate=0.1)
    assert weights["a"].tolist() == layer(0, 0, 0, 0, 0.5, -0.6, 0.7, -0.8, 0, 0).tolist()  # 2 of 4 of each sign
    assert masks.kept("a") == 8
    assert masks.keep["a"][0, 4:8].all()
    assert method.every == 7


def test_set_takes_weights_that_never_moved_first():
    weights = {"a": layer(0.0, 0.2, 0.3, 0.4)}
    masks = Masks({"a": torch.tensor([[True, True, True, False]])})
    SparseEvolution(weights, Recipe(regrow="set", regrow_fraction=0.4), 1).move(masks, 0.1)
    assert weights["a"].tolist() == layer(0.0, 0.2, 0.3, 0.0 * 0.4).tolist() or weights["a"][0, 3] == 0.4
    assert weights["a"][0, 1:3].tolist() == layer(0.2, 0.3)[0].tolist()


def test_set_follows_the_fraction_and_the_period_of_its_paper_or_the_recipe():
    weights = {"a": layer(*range(1, 11)).float()}
    assert SparseEvolution(weights, Recipe(regrow="set"), 5).fraction == 0.3
    assert SparseEvolution(weights, Recipe(regrow="set", regrow_fraction=0.0), 5).fraction == 0
    assert SparseEvolution(weights, Recipe(regrow="set", regrow_every=3), 5).every == 3


# Deep R -------------------------------------------------------------------------------------------------------


def test_deep_r_shrinks_and_swaps_what_crosses_zero():
    weights = {"a": layer(0.5, -0.5, 0.001, -0.001, 0.0)}
    masks = masked(weights)
    method = DeepRewiring(weights, Recipe(regrow="deepr", deepr_alpha=0.02, deepr_temperature=0.0), 1)
    torch.manual_seed(0)
    new = method.move(masks, rate=0.1)  # each theta falls by rate * alpha = 0.002
    assert weights["a"][0, :2].tolist() == pytest.approx([0.498, -0.498])
    assert weights["a"][0, 2:].tolist() == [0, 0, 0]  # two have crossed, and what is new begins at zero
    assert new.kept("a") == 4
    assert new.keep["a"][0, :2].all()


def test_deep_r_keeps_the_sign_of_a_connection():
    weights = {"a": layer(0.5, -0.5, 0.4, 0.0)}
    masks = masked(weights)
    method = DeepRewiring(weights, Recipe(regrow="deepr", deepr_alpha=0.0, deepr_temperature=0.0), 1)
    masks = method.move(masks, 0.1)
    signs = method.signs["a"].clone()
    assert signs[0, :3].tolist() == [1, -1, 1]
    assert abs(float(signs[0, 3])) == 1
    weights["a"].copy_(layer(-0.1, -0.3, 0.2, 0.0))  # an optimizer's step turned the first one's sign
    new = method.move(masks, 0.1)
    assert weights["a"][0, 0] == 0
    assert weights["a"][0, 1:3].tolist() == pytest.approx([-0.3, 0.2])
    assert new.kept("a") == 3
    assert torch.equal(method.signs["a"], signs)


@pytest.mark.parametrize(
    ("temperature", "deviation"), [(None, 0.1 * 0.3), (0.45, math.sqrt(2 * 0.1 * 0.45)), (0.0, 0.0)]
)
def test_the_noise_of_deep_r(temperature, deviation):
    weights = {"a": torch.full((100, 100), 50.0)}
    recipe = Recipe(regrow="deepr", deepr_alpha=0.3, deepr_temperature=temperature)
    torch.manual_seed(0)
    DeepRewiring(weights, recipe, 1).move(Masks.full(weights), rate=0.1)
    moved = weights["a"] - 50 + 0.1 * 0.3
    assert float(moved.std()) == pytest.approx(deviation, rel=0.03, abs=1e-5)
    assert float(moved.mean()) == pytest.approx(0, abs=0.05 * deviation + 1e-5)


# DSR ----------------------------------------------------------------------------------------------------------


def test_dsr_drops_below_one_threshold_and_grows_in_proportion_to_what_is_left():
    weights = {
        "a": layer(0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0),
        "b": layer(0.1, 0.1, 0.9, -0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    }
    method = Reparameterization(weights, Recipe(regrow="dsr", regrow_fraction=0.4), 1)
    method.threshold = 0.5
    masks = method.move(masked(weights), 0.1)
    assert [masks.kept(name) for name in "ab"] == [4 + 3, 2 + 1]  # 4 lost; 4 and 2 are left: 2.67 and 1.33 more
    assert weights["a"].count_nonzero() == 4
    assert weights["b"].count_nonzero() == 2
    assert method.threshold == 0.5  # 4 of 10 went, as wanted


@pytest.mark.parametrize(("fraction", "threshold"), [(0.2, 0.25), (0.6, 1.0), (0.38, 0.5), (0.42, 0.5)])
def test_dsr_adapts_its_threshold(fraction, threshold):
    weights = {"a": layer(*[0.1] * 4, *[0.9] * 6, *[0.0] * 4)}
    method = Reparameterization(weights, Recipe(regrow="dsr", regrow_fraction=fraction), 1)
    method.threshold = 0.5
    method.move(masked(weights), 0.1)
    assert method.threshold == threshold


def test_dsr_empties_no_layer_and_leaves_own_fractions_alone():
    weights = {"a": layer(0.1, 0.2, 0.0, 0.0), "b": layer(0.9, 0.1, 0.1, 0.0, 0.0), "c": layer(0.9, 0.1, 0.0)}
    recipe = Recipe(regrow="dsr", layers=(LayerRule("c", prune=0.4),))
    method = Reparameterization(weights, recipe, 1)
    method.threshold = 0.5
    masks = method.move(masked(weights), 0.1)
    assert weights["a"][0].tolist() == layer(0, 0.2, 0, 0)[0].tolist()  # its largest stays
    assert masks.kept("c") == 2
    assert masks.kept("a") + masks.kept("b") == 5


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=6).flatmap(
        lambda pairs: st.tuples(st.just(pairs), st.integers(0, sum(room for _, room in pairs)))
    )
)
def test_allotments_add_up_and_fit(case):
    pairs, total = case
    given_out = allot([part for part, _ in pairs], [room for _, room in pairs], total)
    assert sum(given_out) == total
    assert all(0 <= gain <= room for gain, (_, room) in zip(given_out, pairs, strict=True))


def test_allotments_are_in_proportion():
    assert allot([4, 2], [100, 100], 4) == [3, 1]
    assert allot([1, 1, 2], [100, 100, 100], 40) == [10, 10, 20]
    assert allot([1, 1], [3, 100], 40) == [3, 37]
    assert allot([1, 1], [5, 5], 0) == [0, 0]


# Common -------------------------------------------------------------------------------------------------------


def test_growth_is_even_over_what_is_free():
    torch.manual_seed(0)
    mask = torch.tensor([[True, False], [False, False]])
    counts = sum(grown(mask, 1).float() for _ in range(600))
    assert counts[0, 0] == 600
    assert sorted(counts.flatten().tolist())[0] > 150
    assert mask.sum() == 1  # not changed in place
    assert grown(mask, 3).all()
    assert torch.equal(grown(mask, 0), mask)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_the_optimizer_forgets(optimizer):
    weight = nn.Parameter(torch.ones(2, 2))
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    made = optimizer([weight], lr=0.1, **settings)
    where = torch.tensor([[True, False], [False, False]])
    forget(made, weight, where)  # before its first step there is nothing
    weight.grad = torch.ones(2, 2)
    made.step()
    forget(made, weight, where)
    kept = [value for value in made.state[weight].values() if value.shape == weight.shape]
    assert kept
    assert all(value[0, 0] == 0 and value.flatten()[1:].all() for value in kept)


class Checked(PruningHooks):
    """Asserts what must hold after every step, and remembers the number of weights in each layer."""

    changing = ()
    seen: list[dict[str, int]]

    def after_step(self):
        before = self.masks
        super().after_step()
        if not self.settled:
            return
        for name, mask in self.masks.keep.items():
            weight, new = self.weights[name].detach(), mask & ~before.keep[name]
            assert weight[~mask].count_nonzero() == 0
            assert weight[new].count_nonzero() == 0
            for value in self.optimizer.state[self.weights[name]].values():
                assert value.shape != weight.shape or value[new].count_nonzero() == 0
        type(self).seen.append({name: self.masks.kept(name) for name in self.masks.keep})


def own(method, **settings):
    """Those that the method has."""
    return {name: value for name, value in settings.items() if name.startswith("deepr") == (method == "deepr")}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ALL)
def test_the_number_of_weights_stays_from_the_last_cut_on(mlp, flat_train, method, optimizer, monkeypatch):
    monkeypatch.setattr(stage, "PruningHooks", Checked)
    monkeypatch.setattr(Checked, "seen", [], raising=False)
    recipe = Recipe(
        prune=0.8, regrow=method, epochs=6, iterations=2, optimizer=optimizer, lr=0.02,
        **own(method, regrow_fraction=0.2, regrow_every=3, deepr_alpha=0.5),
    )  # fmt: skip
    weights = weights_of(mlp)
    total = sum(weight.numel() for weight in weights.values())
    watch = Listener()
    masks = prune_and_retrain(Run(mlp, weights, flat_train, recipe, watch=watch))
    assert {sum(counts.values()) for counts in Checked.seen} == {total - round(0.8 * total)}
    if method != "dsr":  # weights stay in their layer
        assert len({tuple(counts.items()) for counts in Checked.seen}) == 1
    assert sum(masks.kept(name) for name in masks.keep) == total - round(0.8 * total)
    assert any("weights regrown" in note for note in (result.note for result in watch.results))
    for name, mask in masks.keep.items():
        weight = weights[name].detach()
        assert weight[~mask].count_nonzero() == 0
        assert weight[mask].count_nonzero() > 0.25 * mask.sum()  # dsr overshoots in so small a network


@pytest.mark.parametrize("method", ALL)
def test_the_same_seed_gives_the_same_bytes(flat_train, method):
    def trained(seed):
        torch.manual_seed(0)
        model = Mlp()
        torch.manual_seed(seed)
        recipe = Recipe(prune=0.7, regrow=method, epochs=4, iterations=1, **own(method, regrow_every=4))
        prune_and_retrain(Run(model, weights_of(model), flat_train, recipe))
        return b"".join(value.numpy().tobytes() for value in model.state_dict().values())

    first = trained(1)
    assert trained(1) == first
    assert trained(2) != first


@pytest.mark.parametrize("method", ALL)
def test_a_layer_with_one_weight_is_never_emptied(flat_train, method):
    torch.manual_seed(0)
    model = Mlp()
    rules = tuple(
        LayerRule(name, prune=1 - 1 / weight.numel() if name != "fc2.weight" else 0.5)
        for name, weight in weights_of(model).items()
    )
    recipe = Recipe(
        prune=0.7, layers=rules, regrow=method, epochs=3, iterations=1,
        **own(method, regrow_every=2, regrow_fraction=0.9, deepr_alpha=1.0),
    )  # fmt: skip
    masks = prune_and_retrain(Run(model, weights_of(model), flat_train, recipe))
    assert [masks.kept(name) for name in masks.keep] == [1, 256, 1]


@pytest.mark.parametrize("method", ALL)
def test_a_dense_and_a_frozen_layer_are_no_trouble(flat_train, method):
    torch.manual_seed(0)
    model = Mlp()
    model.fc2.weight.requires_grad_(False)
    recipe = Recipe(
        prune=0.6, regrow=method, epochs=3, iterations=1, layers=(LayerRule("fc3", prune=0.0),),
        **own(method, regrow_every=2, deepr_alpha=0.1),
    )  # fmt: skip
    masks = prune_and_retrain(Run(model, weights_of(model), flat_train, recipe))
    assert masks.density("fc3.weight") == 1


def test_nothing_moves_in_the_last_part(mlp, flat_train):
    recipe = Recipe(prune=0.5, regrow="set", epochs=10, iterations=1, regrow_every=1)
    hooks = RegrowingHooks(mlp, weights_of(mlp), recipe, len(flat_train))
    hooks.take(Masks.nonzero({name: weight.masked_fill(weight < 0, 0) for name, weight in hooks.weights.items()}))
    hooks.settle(0, Progress())
    moves = []
    move = hooks.regrowth.move
    hooks.regrowth.move = lambda *given: moves.append(hooks.batch) or move(*given)
    fit(mlp, flat_train, torch.optim.SGD(mlp.parameters(), lr=0.01), 10, stage="train", hooks=hooks)
    assert moves == list(range(1, int(regrow.REGROWING_PART * 10 * len(flat_train)) + 1))


def test_too_few_epochs_to_regrow_are_said(mlp, flat_train):
    watch = Listener()
    prune_and_retrain(Run(mlp, weights_of(mlp), flat_train, Recipe(prune=0.5, regrow="set", epochs=1), watch=watch))
    assert watch.lines == ["regrow 'set' has no time to move any weight: train for more epochs"]


def test_under_surgery_weights_come_back_at_the_next_cut(flat_train):
    """What the pruned network's gradients raise behind the mask is seen by the criterion."""
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.4, 0.5], [0.6, 0.7]]))
    weights = weights_of(net)

    recipe = Recipe(prune=0.5, regrow="surgery", schedule="linear", iterations=2, epochs=4, distribution="std")
    hooks = PruningHooks(evidence_of(weights, recipe, net), Progress())
    hooks.cut(0.5)
    assert weights["weight"].tolist() == torch.tensor([[0, 0.5], [0.6, 0.7]]).tolist()
    hooks.shadow.dense["weight"][0, 0] = 0.9
    hooks.cut(1.0)
    assert hooks.masks.keep["weight"].tolist() == [[True, False], [False, True]]
    assert weights["weight"].tolist() == torch.tensor([[0.9, 0], [0, 0.7]]).tolist()


def test_under_surgery_weights_come_and_go_between_cuts():
    """By hand: the smallest kept magnitude is 2, so a weight goes below 2 and returns above 2 * 1.1 / 0.9 = 2.44."""
    weights = {
        "w": torch.tensor([1.0, 2.0, -3.0, 0.5]),
        "all": torch.tensor([0.1, 4.0]),
        "one": torch.tensor([1.0, 9.0]),
    }
    masks = Masks({"w": weights["w"].abs() >= 2, "all": torch.tensor([True, True]), "one": torch.tensor([False, True])})
    shadow = Shadow(weights)
    shadow.limits = shadow.smallest(masks)
    assert shadow.limits == {"w": 2.0, "one": 9.0}
    assert {name: keep.tolist() for name, keep in shadow.spliced(masks).keep.items()} == {
        name: keep.tolist() for name, keep in masks.keep.items()
    }
    shadow.dense = {
        "w": torch.tensor([2.4, 1.9, -3.0, -2.5]),
        "all": torch.tensor([0.0, 4.0]),
        "one": torch.tensor([2.0, 8.0]),
    }
    found = shadow.spliced(masks)
    assert found.keep["w"].tolist() == [False, False, True, True]
    assert found.keep["all"].tolist() == [True, True]  # nothing is pruned there
    assert found.keep["one"].tolist() == [False, True]  # or nothing would be left


@pytest.mark.parametrize("criterion", ["magnitude", "taylor2"])
def test_surgery_ends_with_the_masks_of_its_last_cut(criterion, mlp, flat_train):
    recipe = Recipe(prune=0.6, regrow="surgery", criterion=criterion, iterations=3, epochs=6)
    weights, seen = weights_of(mlp), []

    class Spy(PruningHooks):
        def after_step(self):
            super().after_step()
            seen.append({name: keep.clone() for name, keep in self.masks.keep.items()})

    hooks = Spy(evidence_of(weights, recipe, mlp, flat_train), Progress())
    fit(mlp, flat_train, torch.optim.SGD(mlp.parameters(), lr=0.3), 6, stage="prune", hooks=hooks)
    moved = [any(not torch.equal(new[name], old[name]) for name in new) for old, new in itertools.pairwise(seen)]
    per_epoch, last = len(flat_train), max(hooks.steps) * len(flat_train)
    within = [change for step, change in enumerate(moved, 1) if step % per_epoch and step < last]
    assert any(within) is (criterion == "magnitude")
    assert not any(moved[last:])
    assert hooks.masks.sparsity == pytest.approx(0.6, abs=0.02)
    assert all(bool((weights[name][~keep] == 0).all()) for name, keep in hooks.masks.keep.items())


def test_zeros_of_a_network_that_comes_pruned_stay(dense, flat_train):
    weights = weights_of(dense)
    first = Masks({name: torch.rand_like(weight) > 0.6 for name, weight in weights.items()})
    first.apply(weights)
    recipe = Recipe(prune=first.sparsity, epochs=4, iterations=3)
    masks = prune_and_retrain(Run(dense, weights, flat_train, recipe))
    assert first.sparsity == pytest.approx(0.6, abs=0.05)
    assert all(not (mask & ~first.keep[name]).any() for name, mask in masks.keep.items())
    assert masks.sparsity == pytest.approx(first.sparsity, abs=0.02)  # dead neurons have gone as well
