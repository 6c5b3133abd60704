"""Compression in a loop of the user's own: the network stays theirs, and ends as the file says."""

from __future__ import annotations

import copy
import runpy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from listener import Listener
from samples import Mlp, batches, conv_net
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import deepcompress as dc
from deepcompress.errors import DeepCompressError, NetworkError, RecipeError
from deepcompress.prune.stage import make_optimizer, prune_and_retrain
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.loop import seed_everything
from deepcompress.training.retraining import Run

RECIPE = Recipe(prune=0.75, bits=3, iterations=2)
EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"


def zeros(model):
    return {name: weight == 0 for name, weight in model.named_parameters() if weight.ndim > 1}


def sparsity(model):
    found = list(zeros(model).values())
    return sum(int(mask.sum()) for mask in found) / sum(mask.numel() for mask in found)


def train(model, compressor, data, optimizer=None, forward=None):
    """One epoch of a loop such as users write."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in data:
        F.cross_entropy((model if forward is None else forward)(x), y).backward()
        optimizer.step()
        compressor.step()
        optimizer.zero_grad()


def check_file(model, path, recipe):
    """The file holds the network's own tensors, few of them and few values."""
    stored = dc.load_state_dict(path)
    state = model.state_dict()
    assert list(stored) == list(state)
    assert all(torch.equal(stored[name], state[name]) for name in state)
    assert sparsity(model) >= recipe.prune
    assert all(len(w[w != 0].unique()) <= 1 << recipe.bits for w in state.values() if w.ndim > 1)


def test_the_example_of_the_guide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(EXAMPLE))
    assert found["result"].ratio > 14
    assert found["correct"] > 0.97
    check_file(found["model"], tmp_path / "model.dc", Recipe(prune=0.8, bits=4))
    assert capsys.readouterr().out.startswith(f"{found['result'].file_bytes} bytes, ")


def test_without_a_loop_the_file_is_that_of_compress(dense, tmp_path):
    recipe = replace(RECIPE, retrain=False)
    dc.compress(dense, None, None, recipe, tmp_path / "a.dc")
    dc.Compressor(dense, recipe).finalize(tmp_path / "b.dc")
    assert (tmp_path / "a.dc").read_bytes() == (tmp_path / "b.dc").read_bytes()


def test_stage_one_is_that_of_the_loop_of_ours(dense, flat_train):
    recipe = replace(RECIPE, epochs=3, lr_schedule="constant", penalty="l1", penalty_weight=1e-4)
    ours, theirs = copy.deepcopy(dense), copy.deepcopy(dense)
    seed_everything(0)
    weights = {name: weight for name, weight in ours.named_parameters() if weight.ndim > 1}
    masks = prune_and_retrain(Run(ours, weights, flat_train, recipe))
    seed_everything(0)
    compressor = dc.Compressor(theirs, recipe).prepare(epochs=3)
    optimizer = make_optimizer(theirs, recipe)
    for _ in range(3):
        compressor.epoch()
        theirs.train()
        for x, y in flat_train:
            optimizer.zero_grad()
            F.cross_entropy(theirs(x), y).backward()
            compressor.after_backward()
            optimizer.step()
            compressor.step()
    assert all(torch.equal(masks.keep[name], compressor.masks.keep[name]) for name in masks.keep)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("by_steps", [False, True], ids=["epochs", "steps"])
def test_pruning_follows_the_schedule(dense, flat_train, by_steps):
    recipe = replace(RECIPE, schedule="linear", iterations=3)
    span = {"steps": 5 * len(flat_train)} if by_steps else {"epochs": 5}
    compressor = dc.Compressor(dense, recipe).prepare(**span)
    seen = []
    for _ in range(5):
        note = compressor.epoch()
        assert bool(note) == (not by_steps and len(seen) < 3)
        train(dense, compressor, flat_train)
        seen.append(round(sparsity(dense), 2))
        assert compressor.sparsity == pytest.approx(sparsity(dense))
    assert seen[0] < seen[2] == seen[4]
    assert seen[2:] == pytest.approx([0.75] * 3, abs=0.02)


@pytest.mark.parametrize("by_steps", [False, True], ids=["epochs", "steps"])
def test_a_loop_that_goes_on_from_its_checkpoint_ends_in_the_same_network(dense, flat_train, by_steps):
    recipe, each = replace(RECIPE, schedule="linear", iterations=3), len(flat_train) if by_steps else 1
    span = {"steps" if by_steps else "epochs": 6 * each}
    optimizer_of = partial(torch.optim.SGD, lr=0.05)  # without a state of its own

    def go_on(model, compressor, epochs):
        for epoch in epochs:
            torch.manual_seed(epoch)
            compressor.epoch()
            train(model, compressor, flat_train, optimizer_of(model.parameters()))

    compressor = dc.Compressor(dense, recipe).prepare(**span)
    go_on(dense, compressor, range(2))
    again = Mlp()
    again.load_state_dict(dense.state_dict())
    resumed = dc.Compressor(again, recipe).prepare(**span, done=2 * each)
    assert resumed.sparsity == compressor.sparsity < 0.7
    go_on(dense, compressor, range(2, 6))
    go_on(again, resumed, range(2, 6))
    assert compressor.sparsity >= 0.75
    assert all(torch.equal(a, b) for a, b in zip(dense.parameters(), again.parameters(), strict=True))


def test_shared_values_are_tuned_and_nothing_else_of_their_weights(dense, flat_train, tmp_path):
    compressor = dc.Compressor(dense, RECIPE).prepare(epochs=0)
    compressor.share(steps=len(flat_train))
    before, pruned = dense.fc1.weight.detach().clone(), zeros(dense)
    train(dense, compressor, flat_train)
    after = dense.fc1.weight.detach()
    assert not torch.equal(after, before)
    for value in before.unique():  # weights that shared a value still do
        assert len(after[before == value].unique()) == 1
    assert all(torch.equal(mask, pruned[name]) for name, mask in zeros(dense).items())
    compressor.finalize(tmp_path / "m.dc")
    check_file(dense, tmp_path / "m.dc", RECIPE)


@pytest.mark.parametrize("quantizer", ["kmeans", "uniform"])
def test_tuning_lowers_the_loss(dense, flat_train, tmp_path, quantizer):
    def loss():
        with torch.no_grad():
            return sum(float(F.cross_entropy(dense.eval()(x), y)) for x, y in flat_train)

    compressor = dc.Compressor(dense, replace(RECIPE, bits=2, quantizer=quantizer)).prepare(epochs=0)
    compressor.share()
    before = loss()
    for _ in range(3):
        train(dense, compressor, flat_train)
    assert loss() < 0.9 * before


def test_what_training_did_not_come_to_is_pruned_at_the_end(dense, flat_train, tmp_path):
    watch = Listener()
    compressor = dc.Compressor(dense, RECIPE, watch=watch).prepare(epochs=10)
    compressor.epoch()
    train(dense, compressor, flat_train)
    assert sparsity(dense) < 0.7
    result = compressor.finalize(tmp_path / "m.dc")
    check_file(dense, tmp_path / "m.dc", RECIPE)
    assert sum(result.kept.values()) / 3 < 0.6
    assert any("training ended when" in text for text in watch.lines)


def test_the_result(dense, flat_train, tmp_path):
    recipe = replace(RECIPE, seed=7)
    result = dc.Compressor(dense, recipe, network="mine", data="blobs").prepare(steps=3).finalize(tmp_path / "m.dc")
    assert [stage.stage for stage in result.stages] == ["dense", "prune", "quantize", "encode"]
    assert result.file_bytes == (tmp_path / "m.dc").stat().st_size == result.stages[-1].bytes
    assert (result.accuracy_before, result.accuracy_after, result.seed) == (None, None, 7)
    assert Recipe.from_dict(result.recipe) == recipe
    assert (result.breakdown.network, result.breakdown.data) == ("mine", "blobs")


# What users do with a network while it is pruned -----------------------------------------------------------------


@pytest.fixture
def masked(dense, flat_train):
    """A network in the middle of stage 1."""
    compressor = dc.Compressor(dense, RECIPE).prepare(epochs=2)
    for _ in range(2):
        compressor.epoch()
        train(dense, compressor, flat_train)
    return dense, compressor


def test_nothing_is_added_to_the_network(masked, flat_train):
    model, _ = masked
    assert list(model.state_dict()) == list(Mlp().state_dict())
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        assert type(module) in (Mlp, nn.Linear, nn.Dropout)
    assert all(not weight._backward_hooks for weight in model.parameters())
    fresh = Mlp()
    fresh.load_state_dict(model.state_dict())
    x = flat_train[0][0]
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_a_deep_copy_is_a_network_of_its_own(masked, flat_train):
    model, compressor = masked
    twin = copy.deepcopy(model)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    train(model, compressor, flat_train)
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    assert not torch.equal(model.fc1.weight, twin.fc1.weight)
    assert sparsity(model) == sparsity(twin)


def test_averaged_weights_can_be_pruned_alike(dense, flat_train, tmp_path):
    compressor = dc.Compressor(dense, RECIPE).prepare(epochs=2)
    average = AveragedModel(dense, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(dense)
    for _ in range(2):
        compressor.epoch()
        for batch in flat_train:
            train(dense, compressor, [batch])
            average.update_parameters(dense)
    assert sparsity(average.module) < 0.1  # it remembers weights that are gone
    compressor.apply(average)
    assert all(torch.equal(mask, zeros(average.module)[name]) for name, mask in zeros(dense).items())
    dense.load_state_dict(average.module.state_dict())
    compressor.finalize(tmp_path / "m.dc")
    check_file(dense, tmp_path / "m.dc", RECIPE)
    with pytest.raises(NetworkError, match=r"Sequential has no tensor fc1.weight of shape"):
        compressor.apply(conv_net())


def test_a_compiled_network(dense, flat_train, tmp_path):
    compiled = torch.compile(dense, backend="eager")
    compressor = dc.Compressor(compiled, RECIPE).prepare(steps=2 * len(flat_train))
    for _ in range(2):
        train(dense, compressor, flat_train, forward=compiled)
    compressor.share()
    train(dense, compressor, flat_train, forward=compiled)
    compressor.finalize(tmp_path / "m.dc")
    check_file(dense, tmp_path / "m.dc", RECIPE)
    again = dc.load(tmp_path / "m.dc", into=Mlp())
    x = flat_train[0][0]
    compiled.eval()
    assert torch.equal(compiled(x), again(x))


def test_wrapped_networks_are_looked_through(dense, tmp_path):
    dc.Compressor(nn.DataParallel(dense), RECIPE).finalize(tmp_path / "m.dc")
    assert list(dc.load_state_dict(tmp_path / "m.dc")) == list(dense.state_dict())


def test_dropout_is_lowered_while_pruned_and_set_back(dense, flat_train, tmp_path):
    compressor = dc.Compressor(dense, RECIPE).prepare(epochs=1)
    compressor.epoch()
    assert dense.drop.p < 0.3
    compressor.finalize(tmp_path / "m.dc")
    assert dense.drop.p == 0.4


def test_gradients_that_are_not_finite_move_no_shared_value(dense, flat_train):
    compressor = dc.Compressor(dense, RECIPE).prepare(epochs=0)
    compressor.share()
    before = dense.fc1.weight.detach().clone()
    F.cross_entropy(dense(flat_train[0][0]), flat_train[0][1]).backward()
    for weight in dense.parameters():
        weight.grad.fill_(float("inf"))
    compressor.step()
    assert torch.equal(dense.fc1.weight, before)


# Going on from a file ------------------------------------------------------------------------------------------


@pytest.fixture
def file(dense, tmp_path):
    dc.Compressor(dense, replace(RECIPE, quantizer="uniform", coder="auto")).finalize(tmp_path / "start.dc")
    return tmp_path / "start.dc"


def test_from_a_file_and_back_is_the_same_file(file, tmp_path):
    dc.Compressor.from_file(file, Mlp()).finalize(tmp_path / "again.dc")
    assert file.read_bytes() == (tmp_path / "again.dc").read_bytes()


def test_tuning_goes_on_from_a_file(file, flat_train, tmp_path):
    model = Mlp()
    compressor = dc.Compressor.from_file(file, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compressor.share()
    train(model, compressor, flat_train)
    result = compressor.finalize(tmp_path / "again.dc")
    assert result.file_bytes <= file.stat().st_size + 16
    for name, mask in zeros(model).items():
        assert torch.equal(mask, before[name] == 0)
        assert not torch.equal(model.state_dict()[name], before[name])
        for value in before[name].unique():
            assert len(model.state_dict()[name][before[name] == value].unique()) == 1


def test_more_pruning_from_a_file(file, flat_train, tmp_path):
    model = Mlp()
    compressor = dc.Compressor.from_file(file, model, replace(RECIPE, prune=0.9)).prepare(epochs=1)
    first = zeros(model)
    compressor.epoch()
    train(model, compressor, flat_train)
    compressor.finalize(tmp_path / "again.dc")
    assert sparsity(model) >= 0.9
    assert all(bool((mask | ~first[name]).all()) for name, mask in zeros(model).items())


def test_less_pruning_from_a_file_brings_nothing_back(file, flat_train):
    model = Mlp()
    compressor = dc.Compressor.from_file(file, model, replace(RECIPE, prune=0.2)).prepare(epochs=1)
    first = zeros(model)
    compressor.epoch()
    train(model, compressor, flat_train)
    assert all(torch.equal(mask, first[name]) for name, mask in zeros(model).items())


# What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"target_size": 1000}, "use compress"),
        ({"max_drop": 1.0}, "use compress"),
        ({"regrow": "set"}, "training loop of their own"),
        ({"reload": True}, "training loop of their own"),
        ({"low_rank": 0.9}, "low_rank replaces layers"),
        ({"layers": (LayerRule("nothing", prune=0.1),)}, "matches no layer"),
    ],
)
def test_recipes_that_need_another_loop(dense, settings, reason):
    with pytest.raises(RecipeError, match=reason):
        dc.Compressor(dense, Recipe(**settings))


def test_computed_weights_are_to_be_baked_first(dense, tmp_path):
    parametrizations.weight_norm(dense.fc2)
    with pytest.raises(NetworkError, match=r"fc2.weight is computed from other tensors .* deepcompress.bake"):
        dc.Compressor(dense, RECIPE)
    assert dc.bake(dense) == ["fc2.weight"]
    dc.Compressor(dense, RECIPE).finalize(tmp_path / "m.dc")


def test_calls_in_the_wrong_order(dense, flat_train, tmp_path):
    compressor = dc.Compressor(dense, RECIPE)
    for call in (compressor.step, compressor.epoch, compressor.after_backward):
        with pytest.raises(DeepCompressError, match=r"call prepare\(\) first"):
            call()
    with pytest.raises(RecipeError, match="give one of them"):
        compressor.prepare(epochs=1, steps=1)
    compressor.share()
    with pytest.raises(DeepCompressError, match="shared already"):
        compressor.share()
    with pytest.raises(DeepCompressError, match="shared already"):
        compressor.prepare()
    dense.zero_grad()
    with pytest.raises(DeepCompressError, match="before gradients are cleared"):
        compressor.step()
    compressor.finalize(tmp_path / "m.dc")
    for call in (compressor.step, compressor.epoch, compressor.finalize, compressor.share, compressor.prepare):
        with pytest.raises(DeepCompressError, match="finalize"):
            call()


@pytest.mark.parametrize("settings", [{"penalty": "l1"}, {"regrow": "surgery"}])
def test_what_changes_gradients_must_see_them(dense, flat_train, settings):
    compressor = dc.Compressor(dense, replace(RECIPE, **settings)).prepare(epochs=1)
    F.cross_entropy(dense(flat_train[0][0]), flat_train[0][1]).backward()
    with pytest.raises(DeepCompressError, match=r"call after_backward\(\)"):
        compressor.step()
    compressor.after_backward()
    compressor.step()


def test_a_weighting_needs_data(dense, flat_train, tmp_path):
    compressor = dc.Compressor(dense, replace(RECIPE, weighting="fisher"))
    with pytest.raises(RecipeError, match=r"pass batches to share"):
        compressor.share()
    compressor.share(batches=batches(16, seed=5))
    compressor.finalize(tmp_path / "m.dc")
    check_file(dense, tmp_path / "m.dc", RECIPE)


def test_a_criterion_that_looks_at_data(dense, flat_train, tmp_path):
    recipe = replace(RECIPE, criterion="taylor1")
    with pytest.raises(RecipeError, match="looks at training data"):
        dc.Compressor(dense, recipe).finalize(tmp_path / "m.dc")
    compressor = dc.Compressor(dense, recipe).prepare(epochs=0, batches=flat_train, loss=F.cross_entropy)
    compressor.finalize(tmp_path / "m.dc")
    check_file(dense, tmp_path / "m.dc", RECIPE)
