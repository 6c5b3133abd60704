"""Sensitivity: one layer pruned at a time, exactly so far, and everything else as it was."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fail, from_json, succeed
from listener import Listener
from samples import CLASSES, Mlp, blobs, conv_net, network_and_data
from torch import nn

import deepcompress.studies.sensitivity
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.errors import CheckpointError, DeepCompressError, RecipeError
from deepcompress.networks.lenet import LeNet300100
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.studies.sensitivity import LayerPruned, sensitivity
from deepcompress.training.data import TensorLoader
from deepcompress.training.evaluation import evaluate

QUICK = Recipe(epochs=2, batch_size=32, seed=3)


class Probe:
    """Stands in for `evaluate` and keeps the tensors of every network that is measured."""

    def __init__(self, monkeypatch):
        self.states = []
        monkeypatch.setattr(deepcompress.studies.sensitivity, "evaluate", self)

    def __call__(self, model, batches, task):
        self.states.append({name: value.clone() for name, value in model.state_dict().items()})
        return evaluate(model, batches)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)


@pytest.fixture
def new_loader():
    """Loaders whose orders of the data are the same."""
    return lambda: TensorLoader(*blobs(256, 1), batch_size=32, seed=0)


# From Python ---------------------------------------------------------------------------------------------------


def test_one_layer_at_a_time(dense, flat_test, monkeypatch):
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    probe = Probe(monkeypatch)
    rows = sensitivity(dense, flat_test, [0.9, 0.5, 0.5])
    names = ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert [(row.layer, row.sparsity) for row in rows] == [
        (name, removed / before[name].numel())
        for name in names
        for removed in (0, before[name].numel() // 2, round(0.9 * before[name].numel()))
    ]
    assert [row.weights for row in rows] == [before[row.layer].numel() for row in rows]
    cuts = [row for row in rows if row.sparsity]
    for row, state in zip(cuts, probe.states[1:], strict=True):
        for name, value in before.items():
            if name != row.layer:
                assert torch.equal(state[name], value)
        weight, removed = state[row.layer], state[row.layer] == 0
        assert int(removed.sum()) == row.sparsity * row.weights
        assert torch.equal(weight[~removed], before[row.layer][~removed])
        assert before[row.layer][removed].abs().max() <= weight[~removed].abs().min()
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert dense.training


def test_the_errors_are_those_of_the_networks(dense, flat_test):
    rows = sensitivity(dense, flat_test, [0.75])
    reference = evaluate(dense, flat_test)
    assert [(row.error, row.loss) for row in rows[::2]] == [(reference.error, reference.loss)] * 3
    with torch.no_grad():
        flat = dense.fc2.weight.view(-1)
        flat[flat.abs().argsort()[: 3 * len(flat) // 4]] = 0
    found = evaluate(dense, flat_test)
    assert rows[3] == LayerPruned("fc2.weight", 512, 0.75, found.error, found.loss, found.value)


def test_zero_alone_and_small_fractions(dense, flat_test):
    error = evaluate(dense, flat_test).error
    for sparsities in ([], [0], [0.0, 0]):
        assert [(row.sparsity, row.error) for row in sensitivity(dense, flat_test, sparsities)] == [(0.0, error)] * 3
    rows = sensitivity(dense, flat_test, [0.001], layers=["fc3"])  # of 64 weights
    assert [(row.sparsity, row.error) for row in rows] == [(0.0, error)] * 2


def test_a_layer_keeps_one_weight(dense, flat_test, monkeypatch):
    probe, watch = Probe(monkeypatch), Listener()
    rows = sensitivity(dense, flat_test, [0.999], layers=["fc3.weight"], watch=watch)
    assert rows[1].sparsity == 63 / 64
    assert int((probe.states[1]["fc3.weight"] != 0).sum()) == 1
    assert watch.lines[0] == "fc3.weight would have been emptied: it keeps its one most salient weight"
    assert watch.lines[1].startswith("fc3.weight (1 of 1): error ")


def test_layers_by_pattern_and_rules_of_the_recipe(dense, flat_test):
    rows = sensitivity(dense, flat_test, [0.5], layers=["fc3", "fc1.*"])
    assert [row.layer for row in rows[::2]] == ["fc1.weight", "fc3.weight"]
    recipe = Recipe(distribution="std", quality=9.0, layers=(LayerRule("*", prune=0.2, bits=1),))
    assert sensitivity(dense, flat_test, [0.5], recipe=recipe, layers=["fc3", "fc1.*"]) == rows


def test_a_name_that_looks_like_a_pattern(flat_test):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("[a]*", nn.Linear(12, 8))
    model.add_module("a", nn.Linear(8, CLASSES))
    assert [row.sparsity for row in sensitivity(model, flat_test, [0.5])] == [0, 0.5, 0, 0.5]


def test_weights_that_are_no_parameters_and_not_contiguous(image_test, monkeypatch):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True).to(memory_format=torch.channels_last)
    weight = model[3].weight.data
    del model[3].weight
    model[3].register_buffer("weight", weight)
    probe = Probe(monkeypatch)
    rows = sensitivity(model, image_test, [0.5], layers=["3"])
    assert rows[1].sparsity == 0.5
    assert int((probe.states[1]["3.weight"] == 0).sum()) == weight.numel() // 2
    assert bool((weight != 0).all())


def test_retraining_keeps_pruned_weights_at_zero(dense, flat_test, new_loader, monkeypatch):
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    probe = Probe(monkeypatch)
    rows = sensitivity(dense, flat_test, [0.5, 0.9], new_loader(), QUICK)
    reference = evaluate(dense, flat_test)
    assert [row.error for row in rows[::3]] == [reference.error] * 3
    for row, state in zip([row for row in rows if row.sparsity], probe.states[1:], strict=True):
        zero = state[row.layer] == 0
        assert int(zero.sum()) == row.sparsity * row.weights
        assert before[row.layer][zero].abs().max() <= before[row.layer][~zero].abs().min()
        assert not any(torch.equal(state[name], value) for name, value in before.items())  # all of it was retrained
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert dense.drop.p == 0.4


def test_no_row_depends_on_the_rows_before_it(dense, flat_test, new_loader):
    rows = sensitivity(dense, flat_test, [0.5, 0.9], new_loader(), QUICK)
    assert sensitivity(dense, flat_test, [0.9], new_loader(), QUICK, layers=["fc2"])[1] == rows[5]


def test_retraining_helps_and_follows_the_recipe(dense, flat_test, new_loader):
    without = sensitivity(dense, flat_test, [0.9], layers=["fc1"])[1]
    found = sensitivity(dense, flat_test, [0.9], new_loader(), QUICK, layers=["fc1"])[1]
    assert found.loss < without.loss
    none = sensitivity(dense, flat_test, [0.9], new_loader(), Recipe(epochs=0), layers=["fc1"])[1]
    assert none == without
    for settings in ({"distill": 0.5}, {"label_smoothing": 0.1}, {"optimizer": "adam"}, {"precision": "bfloat16"}):
        recipe = replace(QUICK, **settings)
        assert sensitivity(dense, flat_test, [0.9], new_loader(), recipe, layers=["fc1"])[1].loss != found.loss
    with pytest.raises(DeepCompressError, match="lower the learning rate"):
        sensitivity(dense, flat_test, [0.9], new_loader(), Recipe(epochs=1, lr=1e30))


def test_what_is_refused(dense, flat_test):
    for sparsity in (1.0, -0.1, float("nan"), 1.5):
        with pytest.raises(RecipeError, match=f"sparsity {sparsity} is not a fraction"):
            sensitivity(dense, flat_test, [0.5, sparsity])
    with pytest.raises(RecipeError, match=r"'fc9' matches no layer; there are fc1.weight, fc2.weight, fc3.weight"):
        sensitivity(dense, flat_test, [0.5], layers=["fc1", "fc9"])
    with pytest.raises(CheckpointError, match="nothing to prune"):
        sensitivity(nn.BatchNorm1d(12), flat_test)
    with torch.no_grad():
        dense.fc1.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        sensitivity(dense, flat_test)


# From the command line -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained network of a user's own with its data."""
    folder = tmp_path_factory.mktemp("work")
    network, data = network_and_data(folder)
    succeed("train", network, "--data", data, "-o", folder / "dense.pt", "--epochs", "3", "--lr", "0.1")
    return {"folder": folder, "dense": folder / "dense.pt", "options": ["--network", network, "--data", data]}


def test_json_csv_and_picture(work):
    found = from_json("sensitivity", work["dense"], *work["options"], "--prune", "0.25, 0.9")
    assert {
        "checkpoint", "data", "samples", "epochs", "dense_error", "rows", "files", "command", "versions",
        "dense_value", "metric", "normalize", "task",
    } == set(found)  # fmt: skip
    assert (found["data"], found["samples"], found["epochs"]) == ("blobs", 30, 0)
    assert [(row["layer"], row["weights"], row["sparsity"]) for row in found["rows"]] == [
        (name, weights, round(sparsity * weights) / weights)
        for name, weights in (("0.weight", 54), ("4.weight", 1080), ("6.weight", 80))
        for sparsity in (0, 0.25, 0.9)
    ]
    assert {row["error"] for row in found["rows"][::3]} == {found["dense_error"]}
    text = Path("sensitivity/sensitivity.csv").read_text()
    assert text.splitlines()[0] == "layer,weights,sparsity,error,loss,value"
    expected = [{key: str(value) for key, value in row.items()} for row in found["rows"]]
    assert list(csv.DictReader(io.StringIO(text))) == expected
    assert found["files"] == ["sensitivity/sensitivity.csv", "sensitivity/sensitivity.png"]
    assert Path("sensitivity/sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_the_test_data_has_no_part(work):
    arrays = dict(np.load(work["options"][3]))
    first = from_json("sensitivity", work["dense"], *work["options"], "--prune", "0.9")
    np.savez("blobs.npz", **{**arrays, "x_test": arrays["x_test"][:7] + 5, "y_test": arrays["y_test"][:7]})
    second = from_json("sensitivity", work["dense"], *work["options"][:2], "--data", "blobs.npz", "--prune", "0.9")
    assert first["rows"] == second["rows"]


def test_the_table(work):
    result = succeed("sensitivity", work["dense"], *work["options"], "--layer", "4", "--layer", "6", "-o", "a [b]")
    heading, _, columns, _, *lines, _, files = result.stdout.splitlines()
    assert heading.startswith("Error in percent on 30 validation samples of blobs, one layer pruned; dense ")
    assert columns.replace(" %", "%").split() == [
        "Layer", "Weights", "30%", "50%", "70%", "80%", "90%", "95%", "98%", "99%",
    ]  # fmt: skip
    assert [line.split()[:2] for line in lines] == [["4.weight", "1,080"], ["6.weight", "80"]]
    assert files == "a [b]/sensitivity.csv, a [b]/sensitivity.png"
    rows = list(csv.DictReader(io.StringIO(Path("a [b]/sensitivity.csv").read_text())))
    assert lines[0].split()[2:] == [f"{float(row['error']):.2f}" for row in rows[1:9]]
    *lines, fed = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["4.weight (1 of 2)", "6.weight (2 of 2)"]
    assert fed == "blobs: inputs as the data holds them; not normalized"
    assert succeed("sensitivity", work["dense"], *work["options"], "-q").stderr == ""


def test_retraining_from_the_command_line(work):
    Path("r.toml").write_text('lr = 0.05\nbatch_size = 32\nbits = 3\n[[layer]]\npattern = "0"\nprune = 0.1\n')
    options = [*work["options"], "--prune", "0.9", "--layer", "4"]
    result = succeed("sensitivity", work["dense"], *options, "--epochs", "2", "--recipe", "r.toml")
    assert "one layer pruned, retraining epochs: 2; dense" in result.stdout
    assert "epoch 2/2" in result.stderr
    found = from_json("sensitivity", work["dense"], *options, "--epochs", "2", "--recipe", "r.toml")
    without = from_json("sensitivity", work["dense"], *options, "--recipe", "r.toml")
    other = from_json("sensitivity", work["dense"], *options, "--epochs", "2", "--recipe", "r.toml", "--lr", "0.01")
    assert len({run["rows"][1]["loss"] for run in (found, without, other)}) == 3
    assert found["epochs"] == 2
    assert {run["rows"][0]["loss"] for run in (found, without, other)} == {found["rows"][0]["loss"]}


def test_a_loss_that_json_has_no_number_for(work):
    checkpoint = load_checkpoint(work["dense"])
    state = {name: value * 1e20 for name, value in checkpoint.state.items()}
    save_checkpoint("huge.pt", Checkpoint(state))
    found = from_json("sensitivity", "huge.pt", *work["options"], "--prune", "0.5", "--layer", "0")
    assert found["rows"][0]["loss"] is None
    assert Path("sensitivity/sensitivity.csv").read_text().splitlines()[1].split(",")[4] == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--prune", "0.5,1"], "--prune"),
        (["--prune", "0.5,,0.6"], "--prune"),
        (["--prune", "much"], "--prune"),
        (["--prune", "nan"], "sparsity nan"),
        (["--layer", "cnv*"], "'cnv*' matches no layer"),
        (["--layer", ""], "pattern"),
        (["--epochs", "-1"], "--epochs"),
        (["--bits", "4"], "--bits"),
        (["--recipe", "missing.toml"], "missing.toml"),
    ],
)
def test_wrong_usage(work, options, named):
    assert named in fail("sensitivity", work["dense"], *work["options"], *options, "-o", "made", code=2)
    assert not Path("made").exists()


def test_what_is_not_there(work):
    assert "missing.pt: no such file" in fail("sensitivity", "missing.pt")
    assert "unknown data set 'mnits'" in fail("sensitivity", work["dense"], *work["options"][:2], "--data", "mnits")
    Path("file").write_text("")
    line = fail("sensitivity", work["dense"], *work["options"], "-o", "file")
    assert "cannot write into file: it is not a folder" in line
    torch.save(LeNet300100().state_dict(), "x.pt")
    assert "names no data set" in fail("sensitivity", "x.pt")
    torch.save(Mlp().state_dict(), "x.pt")
    assert "fit no known network" in fail("sensitivity", "x.pt", "--data", "digits")
    assert not Path("sensitivity").exists()


def test_a_row_is_plain_data():
    row = LayerPruned("a", 4, 0.5, 1.0, 0.1, 1.0)
    assert asdict(row) == {"layer": "a", "weights": 4, "sparsity": 0.5, "error": 1.0, "loss": 0.1, "value": 1.0}
