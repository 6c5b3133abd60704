"""The user's own data, tasks, losses and metrics from the command line: how inputs are fed, and what is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fail, from_json, run, succeed
from torch import nn

from deepcompress.checkpoint import Checkpoint, save_checkpoint
from deepcompress.container.normalize import normalize_in
from deepcompress.container.reader import ModelFile
from deepcompress.recipe import TASKS
from deepcompress.training.tasks import TASKS as KNOWN

NETWORKS = """
import torch
from torch import nn

def pixels():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))

def numbers():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))

def vectors():
    return nn.Linear(6, 4)

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, x):
        return self.head(self.embed(x))

def tokens():
    return Tokens()

class Trains(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        if self.training:
            raise KeyError("only in training")
        return self.layer(x)
"""

FUNCTIONS = """
import torch.nn.functional as F

def loss(output, target):
    return F.smooth_l1_loss(output, target)

def distance(output, target):
    return (output - target).abs().mean()

distance.higher_is_better = False

def broken(output, target):
    raise ZeroDivisionError("by zero")

number = 3
"""

QUICK = ("--prune", "0.5", "--epochs", "1", "--iterations", "1", "--finetune-epochs", "1", "--batch-size", "16")
SIZED = ("--epochs", "1", "--finetune-epochs", "1", "--batch-size", "16")


def made(kind):
    """Inputs and targets."""
    chance = np.random.default_rng(3)
    if kind == "pixels":
        x = chance.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
        return x, x.argmax(-1).astype(np.uint8)
    if kind == "tokens":
        x = chance.integers(0, 11, (60, 5), dtype=np.int32)
        return x, (x * 3) % 11
    x = chance.normal(size=(60, 6))
    return x, np.tanh(x[:, : 4 if kind == "vectors" else 2])


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "nets.py").write_text(NETWORKS)
    (folder / "own.py").write_text(FUNCTIONS)
    space: dict[str, object] = {"__name__": "nets"}
    exec(NETWORKS, space)
    torch.manual_seed(0)
    for kind in ("pixels", "numbers", "vectors", "tokens"):
        x, y = made(kind)
        np.savez(folder / f"{kind}.npz", x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])
        network = space[kind]()
        assert isinstance(network, nn.Module)
        save_checkpoint(folder / f"{kind}.pt", Checkpoint(network.state_dict()))
    return folder


def given(work, kind):
    return [work / f"{kind}.pt", "--network", f"{work / 'nets.py'}:{kind}", "--data", work / f"{kind}.npz"]


def test_the_names_of_tasks_are_one_list():
    assert tuple(KNOWN) == TASKS


@pytest.mark.parametrize(
    ("kind", "task", "metric", "shown"),
    [
        ("pixels", "segmentation", "mIoU", "mIoU"),
        ("numbers", "regression", "MSE", "MSE"),
        ("tokens", "tokens", "Error", "error"),
        ("vectors", "embedding", "cosine", "cosine"),
    ],
)
def test_compress_and_eval_of_each_task(work, kind, task, metric, shown):
    named = ["--task", task] if task == "embedding" else []
    found = from_json("compress", *given(work, kind), *named, *QUICK)
    assert (found["metric"], found["task"], found["normalize"]) == (metric, task, "none")
    again = from_json("eval", "model.dc", *given(work, kind)[1:], *named)
    assert (again["metric"], again["value"], again["accuracy"]) == (metric, found["value"], found["accuracy_after"])
    assert found["stages"][-1]["metric"] == found["value"]
    text = succeed("eval", "model.dc", *given(work, kind)[1:], *named).stdout
    assert f"model.dc: {shown} " in text
    assert ("accuracy" in text) is (again["accuracy"] is not None)
    table = succeed("compress", *given(work, kind), *named, "--prune", "0.5", "--no-retrain").stdout
    assert table.splitlines()[0].split()[:4] == ["Stage", "Bytes", "Ratio", metric]
    assert ("%" in table) is (metric in ("mIoU", "Error"))


def test_a_loss_and_a_metric_of_your_own(work):
    own = ["--loss", f"{work / 'own.py'}:loss", "--metric", f"{work / 'own.py'}:distance"]
    found = from_json("compress", *given(work, "numbers"), *own, *QUICK)
    assert (found["metric"], found["accuracy_after"]) == ("distance", None)
    again = from_json("eval", "model.dc", *given(work, "numbers")[1:], *own)
    assert again["value"] == found["value"] > 0
    only = from_json("eval", "model.dc", *given(work, "numbers")[1:], *own[2:])
    assert (only["value"], only["loss"] == again["loss"]) == (again["value"], False)  # the task's loss
    plain = from_json("eval", "model.dc", *given(work, "numbers")[1:], *own[:2])
    assert (plain["metric"], plain["value"]) == ("Loss", again["loss"])


@pytest.mark.parametrize(
    ("options", "reason", "code"),
    [
        (["--loss", "own.py:missing"], "own.py defines no function named 'missing'", 2),
        (["--loss", "own.py:number"], "own.py defines no function named 'number'", 2),
        (["--metric", "gone.py:f"], "--metric gone.py:f: the file gone.py does not exist", 2),
        (["--metric", "accuracy"], "--metric accuracy: write FILE.py:FUNCTION", 2),
        (["--loss", "own.py:broken"], "the loss fails with ZeroDivisionError: by zero (own.py:13)", 1),
        (["--task", "detection"], "'--task'", 2),
        (["--task", "regression", "--loss", "own.py:loss"], "task and loss are two ways", 2),
        (["--task", "segmentation"], "task segmentation takes outputs (N, C, ...) and labels (N, ...)", 1),
        (["--normalize", "half"], "'half' is not a normalization", 1),
        (["--normalize", "imagenet"], "is for 3 channels, but inputs of shape (6,) have 6", 1),
    ],
)
def test_what_cannot_be_is_one_line(work, options, reason, code):
    Path("own.py").write_text(FUNCTIONS)
    for command in ("compress", "eval", "sweep", "compare", "sensitivity"):
        assert reason in fail(command, *given(work, "numbers"), *options, code=code), command


def test_with_v_the_users_own_traceback_is_shown(work, monkeypatch):
    save_checkpoint("trains.pt", Checkpoint(nn.ModuleDict({"layer": nn.Linear(6, 2)}).state_dict()))
    arguments = [
        "compress",
        "trains.pt",
        "--network",
        f"{work / 'nets.py'}:Trains",
        "--data",
        str(work / "numbers.npz"),
    ]
    line = "Error: the network Trains cannot take samples of shape (6,): KeyError: 'only in training' (nets.py:32)"
    assert fail(*arguments, "-q") == line
    monkeypatch.setattr("sys.argv", ["deepcompress", *map(str, arguments), "-v"])
    shown = run(*arguments, "-v", "-q").stderr.splitlines()
    assert shown[-1] == line
    assert shown[-2] == "KeyError: 'only in training'"
    assert any("nets.py" in text and "in forward" in text for text in shown)


# How inputs are fed ----------------------------------------------------------------------------------------------


def test_the_users_data_is_fed_as_it_is_and_that_is_said(work):
    result = succeed("eval", *given(work, "pixels"))
    assert result.stderr.splitlines() == [
        "pixels: inputs divided by 255, channels moved to the front; not normalized; task segmentation, of which "
        "mIoU is measured"
    ]
    with np.load(work / "pixels.npz") as stored:
        arrays = dict(stored)
    floats = {name: arrays[name].transpose(0, 3, 1, 2).astype(np.float32) / 255 for name in ("x_train", "x_test")}
    np.savez("pixels.npz", **{**arrays, **floats})
    same = from_json("eval", *given(work, "pixels")[:3], "--data", "pixels.npz")
    assert same["value"] == from_json("eval", *given(work, "pixels"))["value"]


@pytest.mark.parametrize(
    ("normalize", "kept"),
    [("0.5,0.25", "0.5,0.25"), ("imagenet", "imagenet"), ("data", None), ("none", ""), (None, "")],
)
def test_how_inputs_are_normalized_is_kept_in_the_file(work, normalize, kept):
    option = [] if normalize is None else ["--normalize", normalize]
    found = from_json("compress", *given(work, "pixels"), *option, *QUICK)
    with ModelFile("model.dc") as file:
        stored = normalize_in(file.header.extensions)
    assert stored == (kept if kept is not None else found["normalize"])
    assert stored.count(",") == (5 if normalize == "data" else stored.count(","))
    assert from_json("inspect", "model.dc")["normalize"] == stored
    assert ("inputs normalized" in succeed("inspect", "model.dc").stdout) is bool(stored)
    again = from_json("eval", "model.dc", *given(work, "pixels")[1:])
    assert (again["value"], again["normalize"]) == (found["value"], stored or "none")
    succeed("recode", "model.dc", "-o", "recoded.dc")
    assert from_json("eval", "recoded.dc", *given(work, "pixels")[1:])["value"] == found["value"]
    succeed("compress", "recoded.dc", *given(work, "pixels")[1:3], "--bits", "3", "--no-retrain", "-o", "on.dc")
    assert from_json("inspect", "on.dc")["normalize"] == stored


def test_a_checkpoint_of_train_keeps_it_too(work):
    x = np.random.default_rng(0).normal(3, 2, (60, 6))
    y = (x.sum(1) > 18).astype(int)
    np.savez("rows.npz", x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])
    network = f"{work / 'nets.py'}:numbers"
    trained = from_json("train", network, "--data", "rows.npz", "--normalize", "3,2", "--epochs", "2", "-o", "a.pt")
    measured = from_json("eval", "a.pt", "--network", network)
    assert (measured["error"], measured["normalize"]) == (trained["error"], "3,2")
    found = from_json("compress", "a.pt", "--network", network, "--no-retrain", "--data", "rows.npz", "--prune", "0.5")
    assert (found["normalize"], found["accuracy_before"]) == ("3,2", trained["accuracy"])


def test_what_others_keep_under_that_name_is_ignored(work):
    state = torch.load(work / "pixels.pt", weights_only=True)["state_dict"]
    save_checkpoint("theirs.pt", Checkpoint(state, facts={"normalize": "by hand"}))
    assert from_json("eval", "theirs.pt", *given(work, "pixels")[1:])["normalize"] == "none"


def test_known_data_is_as_ever(tmp_path):
    succeed("train", "lenet-300-100", "--data", "digits", "--epochs", "1", "-o", "d.pt")
    found = from_json("eval", "d.pt")
    assert (found["normalize"], found["metric"], found["value"]) == ("data", "Error", found["error"])
    assert succeed("eval", "d.pt").stderr == ""
    assert from_json("eval", "d.pt", "--normalize", "none")["value"] != found["value"]


# Studies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "metric", "better"), [("pixels", "mIoU", max), ("numbers", "MSE", min)])
def test_studies_of_other_tasks(work, kind, metric, better):
    swept = from_json("sweep", *given(work, kind), "--no-retrain", "--prune", "0,0.9", "--bits", "6")
    values = [row["val_value"] for row in swept["rows"]]
    assert (swept["metric"], better(values)) == (metric, values[0])
    assert swept["front"] == ["prune0.9-bits6", "prune0-bits6"]  # the smallest file first: both are on it
    assert {row["val_error"] is None for row in swept["rows"]} == {kind == "numbers"}
    text = succeed("sweep", *given(work, kind), "--no-retrain", "--prune", "0,0.9", "--bits", "6").stdout
    assert text.split()[5:9] == ["Val", metric, "Test", metric]
    found = from_json("sensitivity", *given(work, kind), "--prune", "0.5,0.9", "--layer", "0")
    assert found["dense_value"] == found["rows"][0]["value"]
    assert f"{metric} on 4 val" in (
        succeed("sensitivity", *given(work, kind), "--prune", "0.5").stdout.replace(" in percent", "")
    )
    once = ["--prune", "0.5", "--epochs", "0"]
    compared = from_json("compare", *given(work, kind), "--criteria", "magnitude,random", *once)
    assert compared["dense_value"] == found["dense_value"]
    assert sum(row["front"] for row in compared["summary"]) == 1
    table = succeed("compare", *given(work, kind), "--criteria", "magnitude", *once).stdout
    assert table.replace(" in percent", "").startswith(f"{metric} on 4 validation samples of {kind}, not retrained")


@pytest.mark.parametrize(("kind", "metric"), [("pixels", "mIoU"), ("numbers", "MSE")])
def test_the_smallest_file_within_a_budget_of_another_metric(work, kind, metric):
    arguments = ["compress", *given(work, kind), *SIZED, "--max-drop", "20", "--trials", "2"]
    result = succeed(*arguments, "--json")
    found = json.loads(result.stdout)
    assert (found["metric"], found["budget"]["metric"], found["budget"]["max_drop"]) == (metric, metric, 20)
    dense, (chosen,) = found["budget"]["dense_value"], [trial for trial in found["search"] if trial["chosen"]]
    lost = dense - chosen["val_value"] if metric == "mIoU" else 100 * (chosen["val_value"] - dense) / dense
    assert lost <= 20
    assert f"Val {metric}" in result.stderr
    assert found["value"] == from_json("eval", "model.dc", *given(work, kind)[1:])["value"]


def test_what_overflows_is_null(work):
    state = {name: value * 1e30 for name, value in torch.load(work / "numbers.pt")["state_dict"].items()}
    save_checkpoint("huge.pt", Checkpoint(state))
    arguments = ["huge.pt", *given(work, "numbers")[1:]]
    assert from_json("eval", *arguments)["value"] is None
    assert " MSE inf on 15 test samples" in succeed("eval", *arguments).stdout
    found = from_json("compress", *arguments, "--no-retrain", "--prune", "0.5")
    assert (found["value"], found["stages"][0]["loss"]) == (None, None)
    found = from_json("sensitivity", *arguments, "--prune", "0.5")
    assert (found["dense_value"], found["files"]) == (None, ["sensitivity/sensitivity.csv"])


def test_a_size_and_an_own_metric(work):
    own = ["--loss", f"{work / 'own.py'}:loss", "--metric", f"{work / 'own.py'}:distance"]
    found = from_json("compress", *given(work, "numbers"), *SIZED, *own, "--target-size", "250")
    assert found["file_bytes"] <= 250
    swept = from_json("sweep", *given(work, "numbers"), *own, "--no-retrain", "--prune", "0.5", "--jobs", "2")
    assert (swept["metric"], swept["rows"][0]["failure"]) == ("distance", "")
