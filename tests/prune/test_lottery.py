"""Lottery tickets: what the survivors go back to, bit for bit, and how often they are trained."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from commands import fail, from_json, succeed
from listener import Listener
from samples import SIDE, Mlp, batches, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.errors import NetworkError, RecipeError
from deepcompress.prune import guard as guard_module
from deepcompress.prune.lottery import origin_of, prune_and_rewind, reinitialize, rewind
from deepcompress.prune.maskfile import load_masks
from deepcompress.prune.masks import cut
from deepcompress.prune.schedule import progress
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import Recipe
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run

RECIPE = Recipe(prune=0.8, iterations=3, schedule="linear", epochs=2, rewind="start", batch_size=32)


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def state_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture
def start():
    torch.manual_seed(77)
    return state_of(Mlp())


@pytest.fixture
def untrained(monkeypatch):
    """Where training would begin: a list of the states, and of the masks. Nothing is trained."""
    seen = []

    def retrain(run, optimizer, epochs, stage, hooks):
        assert not optimizer.state  # its own, each time
        seen.append((state_of(run.model), hooks.masks, epochs))

    monkeypatch.setattr(guard_module, "retrain", retrain)
    return seen


def find(model, data, recipe, start=None, watch=None):
    return prune_and_rewind(Run(model, weights_of(model), data, recipe, watch=watch or Progress()), start)


# Where survivors go back to ---------------------------------------------------------------------------------------


def test_survivors_have_their_first_values_and_the_others_none(dense, flat_train, start, untrained):
    find(dense, flat_train, RECIPE, start)
    assert len(untrained) == 3
    for state, masks, _ in untrained:
        for name, value in state.items():
            expected = start[name] * masks.keep[name] if name in masks.keep else start[name]
            assert torch.equal(value, expected)
            if name in masks.keep:
                assert bool((value[~masks.keep[name]].view(torch.int32) == 0).all())  # +0


def test_sparsity_rises_as_the_schedule_says_and_each_ticket_has_all_epochs(dense, flat_train, start, untrained):
    find(dense, flat_train, RECIPE, start)
    total = sum(weight.numel() for weight in weights_of(dense).values())
    for (_, masks, epochs), step in zip(untrained, progress("linear", 3), strict=True):
        assert epochs == 2
        assert sum(map(masks.kept, masks.keep)) <= total - round(0.8 * step * total)  # dead neurons go beyond
        assert masks.sparsity == pytest.approx(0.8 * step, abs=0.02)
    for (_, before, _), (_, after, _) in itertools.pairwise(untrained):
        assert not any(bool((after.keep[name] & ~before.keep[name]).any()) for name in after.keep)


def test_it_is_the_trained_network_that_is_judged(dense, flat_train, start, untrained):
    expected = cut(weights_of(dense), Recipe(prune=0.5)).masks
    found = find(dense, flat_train, Recipe(prune=0.5, schedule="one-shot", rewind="start"), start)
    assert all(not bool((found.keep[name] & ~mask).any()) for name, mask in expected.keep.items())
    assert len(untrained) == 1


def test_statistics_of_batch_norm_and_biases_go_back(untrained):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    start = state_of(model)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    find(model, batches(64, seed=1, shape=(1, SIDE, SIDE)), RECIPE, start)
    state, masks, _ = untrained[-1]
    assert {"1.running_mean", "1.num_batches_tracked", "0.bias"} <= state.keys() - masks.keep.keys()
    assert all(torch.equal(state[name], start[name]) for name in state.keys() - masks.keep.keys())


def test_training_keeps_the_zeros_and_says_how_far_it_is(dense, flat_train, start):
    watch = Listener()
    masks = find(dense, flat_train, RECIPE, start, watch)
    assert watch.epochs == [(1, 2), (2, 2)] * 3
    tickets = [text for text in watch.lines if text.startswith("ticket")]
    assert [text[:13] for text in tickets] == ["ticket 1 of 3", "ticket 2 of 3", "ticket 3 of 3"]
    for name, weight in weights_of(dense).items():
        assert torch.equal(weight != 0, masks.keep[name])
        assert not torch.equal(weight, start[name] * masks.keep[name])


# The control -----------------------------------------------------------------------------------------------------


def test_the_control_has_the_same_masks_and_other_values(dense, flat_train, start, untrained):
    once = {"prune": 0.8, "schedule": "one-shot"}
    find(copy.deepcopy(dense), flat_train, Recipe(**once, rewind="start"), start)
    for seed in (0, 0, 1):
        find(copy.deepcopy(dense), flat_train, Recipe(**once, rewind="random", seed=seed))
    (ticket, masks, _), (control, same, _), (again, _, _), (other, _, _) = untrained
    for name in masks.keep:
        assert torch.equal(masks.keep[name], same.keep[name])
        kept = masks.keep[name]
        assert bool((control[name][kept] != ticket[name][kept]).all())
        assert bool((other[name][kept] != control[name][kept]).all())
    assert all(torch.equal(value, again[name]) for name, value in control.items())


def test_every_iteration_draws_anew(dense, flat_train, untrained):
    find(dense, flat_train, Recipe(**{**vars(RECIPE), "rewind": "random"}))
    (first, _, _), (second, masks, _), _ = untrained
    kept = masks.keep["fc1.weight"]
    assert bool((first["fc1.weight"][kept] != second["fc1.weight"][kept]).all())


def test_drawing_is_that_of_the_modules_and_touches_no_other_chance():
    torch.manual_seed(5)
    fresh = state_of(nn.Sequential(nn.Linear(4, 3)))
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.zero_()
    before = torch.get_rng_state()
    reinitialize(model, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())


def test_attention_and_recurrent_layers_are_drawn_as_well():
    model = nn.ModuleList([nn.MultiheadAttention(8, 2), nn.LSTM(4, 3), nn.Embedding(5, 4), nn.BatchNorm1d(3)])
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(7)
    reinitialize(model, 0)
    assert not any(bool((value == 7).any()) for value in model.state_dict().values())


def test_a_parameter_that_nobody_can_draw_is_named(dense, flat_train):
    dense.fc1.register_parameter("scale", nn.Parameter(torch.ones(1)))
    reinitialize(dense, 0)  # of a Linear, which says that it can
    dense.register_parameter("token", nn.Parameter(torch.ones(3)))
    with pytest.raises(RecipeError, match=r"reset_parameters\(\) of their module, and token belongs to a Mlp"):
        find(dense, flat_train, Recipe(**{**vars(RECIPE), "rewind": "random"}))
    rewind(dense, RECIPE, state_of(dense))


# What does not go together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_drop": 1.0}, "and max_drop continues"),
        ({"target_size": 1000}, "and target_size continues"),
        ({"regrow": "surgery"}, "and regrow 'surgery' continues"),
        ({"regrow": "set"}, "and regrow 'set' continues"),
        ({"schedule": "gap"}, "and schedule 'gap' continues"),
        ({"reload": True}, "and reload continues"),
        ({"low_rank": 0.9}, "and low_rank continues"),
        ({"epochs": 0}, "leaves an untrained network"),
        ({"retrain": False}, "leaves an untrained network"),
    ],
)
@pytest.mark.parametrize("way", ["start", "random"])
def test_what_contradicts_it_is_refused(way, settings, reason):
    with pytest.raises(RecipeError, match=f"rewind '{way}' .*{reason}"):
        Recipe(rewind=way, **settings)


def test_a_start_is_needed_and_only_where_it_is_used(dense, start):
    assert origin_of(dense, Recipe(), None) is None
    assert origin_of(dense, Recipe(rewind="random"), None) is None
    with pytest.raises(RecipeError, match="rewind is 'start', and weights to go back to are not given"):
        origin_of(dense, RECIPE, None)
    for recipe in (Recipe(), Recipe(rewind="random")):
        with pytest.raises(RecipeError, match="and weights to go back to are given"):
            origin_of(dense, recipe, start)


def test_the_start_of_another_network_is_refused(dense, start):
    with pytest.raises(NetworkError, match=r"the start to rewind to: has no tensor fc3\.weight"):
        origin_of(dense, RECIPE, {name: value for name, value in start.items() if name != "fc3.weight"})
    with pytest.raises(NetworkError, match=r"tensor fc1\.weight has shape \(2, 2\)"):
        origin_of(dense, RECIPE, {**start, "fc1.weight": torch.zeros(2, 2)})


# The whole way ---------------------------------------------------------------------------------------------------


QUICK = Recipe(prune=0.7, iterations=2, epochs=1, finetune_epochs=1, bits=4, rewind="start", lr=0.1, warmup=0.5)


def test_a_ticket_becomes_a_file_and_the_same_one_again(dense, flat_train, start, tmp_path):
    results = [
        dc.compress(dense, flat_train, None, QUICK, tmp_path / name, rewind_to=start) for name in ("a.dc", "b.dc")
    ]
    assert (tmp_path / "a.dc").read_bytes() == (tmp_path / "b.dc").read_bytes()
    assert results[0].recipe["rewind"] == "start"
    zeros = sum(int((value == 0).sum()) for value in weights_of_file(tmp_path / "a.dc"))
    assert zeros >= round(0.7 * sum(value.numel() for value in weights_of_file(tmp_path / "a.dc")))
    dc.compress(
        dense, flat_train, None, QUICK, tmp_path / "c.dc", rewind_to={**start, "fc1.bias": start["fc1.bias"] + 1}
    )
    assert (tmp_path / "c.dc").read_bytes() != (tmp_path / "a.dc").read_bytes()


def weights_of_file(path):
    return [value for value in load_state_dict(path).values() if value.ndim > 1]


def test_masks_that_are_given_are_rewound_and_trained(dense, flat_train, start, tmp_path, monkeypatch):
    """The exact control of a ticket that was found iteratively: its masks, and random values."""
    masks = cut(weights_of(dense), Recipe(prune=0.6)).masks
    seen = []
    monkeypatch.setattr("deepcompress.prune.stage.retrain", lambda run, *rest: seen.append(state_of(run.model)))
    for way, origin in (("start", start), ("random", None)):
        recipe = Recipe(**{**vars(QUICK), "rewind": way})
        dc.compress(dense, flat_train, None, recipe, tmp_path / "m.dc", rewind_to=origin, masks=masks)
    ticket, control = seen
    for name, kept in masks.keep.items():
        assert torch.equal(ticket[name], start[name] * kept)
        assert bool((control[name][kept] != ticket[name][kept]).all())
        assert torch.equal(control[name] != 0, kept)


# From the command line -------------------------------------------------------------------------------------------


def test_from_training_to_a_ticket(tmp_path, npz, network_file):
    network = f"{network_file}:small"
    files = {name: str(tmp_path / f"{name}.pt") for name in ("dense", "first", "third", "untrained")}
    common = ["--data", str(npz), "--batch-size", "64", "--epochs", "2"]
    kept = ["--keep-step", "0", files["first"], "--keep-step", "3", files["third"]]
    result = from_json("train", network, *common, *kept, "--warmup", "1", "-o", files["dense"])
    assert result["kept"] == {"0": files["first"], "3": files["third"]}
    first, third, dense = (load_checkpoint(files[name]) for name in ("first", "third", "dense"))
    assert (first.facts["step"], third.facts["step"], first.data) == (0, 3, str(npz))
    for name, value in dense.state.items():
        assert not torch.equal(value, first.state[name])
        assert not torch.equal(value, third.state[name])
    other = from_json("train", network, *common, "--warmup", "1", "-o", files["untrained"])
    assert other["error"] == result["error"]  # looking changes nothing
    for way in (files["first"], files["third"], "random"):
        arguments = ["--network", network, "--data", str(npz), "--prune", "0.6", "--iterations", "2", "--epochs", "1"]
        made = from_json(
            "compress", files["dense"], *arguments, "--rewind", way, "--warmup", "0.5", "-o", str(tmp_path / "m.dc")
        )
        assert made["recipe"]["rewind"] == ("random" if way == "random" else "start")
        assert made["recipe"]["warmup"] == 0.5


def test_mistakes_are_one_line(tmp_path, npz, network_file):
    network = f"{network_file}:small"
    line = fail("train", network, "--data", str(npz), "--epochs", "1", "--keep-step", "99", str(tmp_path / "s.pt"),
                "-o", str(tmp_path / "d.pt"))  # fmt: skip
    assert "after step 99 cannot be kept: training ends after" in line
    dense, other = str(tmp_path / "d.pt"), str(tmp_path / "other.pt")
    succeed("train", network, "--data", str(npz), "--epochs", "1", "-o", dense)
    save_checkpoint(other, Checkpoint(state_of(Mlp())))
    arguments = ["compress", dense, "--network", network, "--data", str(npz), "-o", str(tmp_path / "m.dc")]
    assert "the start to rewind to: has no tensor" in fail(*arguments, "--rewind", other)
    assert "no such file" in fail(*arguments, "--rewind", str(tmp_path / "missing.pt"))
    assert "max_drop continues" in fail(*arguments, "--rewind", other, "--prune", "0.5", "--max-drop", "1", code=2)
    (tmp_path / "r.toml").write_text('rewind = "start"\n')
    assert "--rewind FILE.pt" in fail(*arguments, "--recipe", str(tmp_path / "r.toml"), code=2)
    assert not (tmp_path / "m.dc").exists()


def test_the_ticket_saves_its_masks_for_the_control(tmp_path, npz, network_file):
    network = f"{network_file}:small"
    dense, first, masks = (str(tmp_path / name) for name in ("d.pt", "s.pt", "masks.pt"))
    succeed("train", network, "--data", str(npz), "--epochs", "1", "--keep-step", "0", first, "-o", dense)
    arguments = ["compress", dense, "--network", network, "--data", str(npz), "--epochs", "1", "--finetune-epochs", "0"]
    ticket = [*arguments, "--prune", "0.6", "--iterations", "2", "--rewind", first, "--save-masks", masks]
    succeed(*ticket, "-o", str(tmp_path / "ticket.dc"))
    succeed(*arguments, "--masks", masks, "--rewind", "random", "-o", str(tmp_path / "control.dc"))
    found = load_masks(masks)
    for file in ("ticket.dc", "control.dc"):
        state = load_state_dict(tmp_path / file)
        assert not any(bool(state[name][~mask].any()) for name, mask in found.keep.items())


class Stop(Listener):
    """Interrupts a run after so many epochs."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def epoch(self, result):
        super().epoch(result)
        if len(self.epochs) == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["start", "random"])
def test_an_interrupted_search_ends_in_the_same_file(way, dense, flat_train, start, tmp_path):
    recipe = Recipe(**{**vars(QUICK), "rewind": way, "epochs": 2})
    origin = start if way == "start" else None
    dc.compress(dense, flat_train, None, recipe, tmp_path / "whole.dc", rewind_to=origin)
    folder = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):  # within the second ticket
        dc.compress(dense, flat_train, None, recipe, tmp_path / "a.dc", rewind_to=origin, resume=folder, watch=Stop(3))
    dc.compress(dense, flat_train, None, recipe, tmp_path / "a.dc", rewind_to=origin, resume=folder)
    assert (tmp_path / "a.dc").read_bytes() == (tmp_path / "whole.dc").read_bytes()
