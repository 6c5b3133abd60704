"""SECURITY.md: what a file says is never run, in any command; what a person says is."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from samples import blobs
from torch import nn

import deepcompress
from deepcompress.checkpoint import Checkpoint, save_checkpoint
from deepcompress.cli import main
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.reader import ModelFile
from deepcompress.errors import NetworkError
from deepcompress.networks.lenet import LeNet300100
from deepcompress.recipe import Recipe

NETWORK = """
import torch
from torch import nn
with open({log!r}, "a") as log: log.write("ran")
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
"""
QUICK = ["--epochs", "1", "--finetune-epochs", "1"]
CODE = ["stranger.py:make", "{folder}/stranger.py:make", "stranger.py:make()", "stranger.py", "stranger:make"]

#: What each command is given beside the file, such that it goes as far as it can.
COMMANDS = {
    "plan": [],
    "compress": ["-o", "new.dc", *QUICK],
    "compress --no-retrain": ["--no-retrain", "-o", "new.dc"],
    "compress --target-size": ["--no-retrain", "--target-size", "3KB", "-o", "new.dc"],
    "sensitivity": [],
    "compare": ["--criteria", "magnitude"],
    "sweep": ["--prune", "0.5", "--no-retrain"],
    "inspect": [],
    "eval": [],
    "export": ["-o", "new.pt"],
    "export --shrink": ["--shrink", "-o", "new.pt"],
    "export onnx": ["-o", "new.onnx"],
    "recode": ["-o", "new.dc"],
    "verify": [],
    "diff": ["d.npz", "-o", "new.dcp"],
    "patch": ["d.npz", "-o", "new.dc"],
    "bench": [],
    "plot": ["-o", "plots"],
    "view": ["-o", "page.html"],
    "train --from": ["-o", "new.pt"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text(NETWORK.format(log=str(tmp_path / "log")))
    (x, y), (x_test, y_test) = blobs(60, 1), blobs(20, 2)
    np.savez("d.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return tmp_path


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))


def written(kind, named, data="d.npz"):
    """A file of this kind that names code as its network."""
    if kind == "dc":
        compress_state(network().state_dict(), Recipe(prune=0.5, retrain=False), "x.dc", network=named, data="digits")
    else:
        save_checkpoint(f"x.{kind}", Checkpoint(network().state_dict(), named, data, {}))
    return f"x.{kind}"


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_table_has_every_command():
    assert {name.partition(" ")[0] for name in COMMANDS} == set(main.commands)


@pytest.mark.parametrize("kind", ["pt", "safetensors", "dc"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_what_a_file_names(folder, name, kind):
    command, options = name.partition(" ")[0], COMMANDS[name]
    for named in CODE[:1] if command == "plot" else CODE:  # to draw takes seconds
        file = written(kind, named.format(folder=folder))
        arguments = [command, file, *options]
        if command == "train":
            arguments = [command, "lenet5", "--from", file, *options]
        if "--data" in {flag for param in main.commands[command].params for flag in param.opts} and name != "train":
            arguments += ["--data", "d.npz"]
        done = run(*arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert not Path("log").exists(), (name, named)
        if Path("new.dc").exists():
            with ModelFile("new.dc") as opened:
                assert opened.header.network in ("", named.format(folder=folder) if command == "recode" else "")


@pytest.mark.parametrize("kind", ["pt", "safetensors", "dc"])
def test_a_person_who_gives_the_very_name_is_obeyed(folder, kind):
    file = written(kind, "stranger.py:make")
    done = run("eval", file, "--network", "stranger.py:make", "--data", "d.npz")
    assert done.exit_code == 0, done.stderr
    assert Path("log").read_text() == "ran"
    done = run("compress", file, "--network", "stranger.py:make", "--data", "d.npz", "-o", "new.dc", *QUICK)
    assert done.exit_code == 0, done.stderr
    with ModelFile("new.dc") as opened:
        assert opened.header.network == ""


def test_python_runs_nothing_that_a_file_names(folder):
    written("dc", "stranger.py:make")
    with pytest.raises(NetworkError, match=r"unknown network 'stranger\.py:make'"):
        deepcompress.load("x.dc")
    deepcompress.load("x.dc", into=network())
    deepcompress.inspect("x.dc")
    deepcompress.load_state_dict("x.dc")
    assert not Path("log").exists()


def test_code_that_only_a_person_names_is_not_in_the_settings_that_a_file_keeps(folder):
    """A criterion of a user's own leaves its name in no .dc file, so going on from one cannot run it."""
    (folder / "mine.py").write_text("def first(evidence): return {n: w.abs() for n, w in evidence.weights.items()}\n")
    save_checkpoint("x.pt", Checkpoint(network().state_dict(), None, "d.npz", {}))
    options = ["--network", "stranger.py:make", "--data", "d.npz", *QUICK]
    assert run("compress", "x.pt", *options, "--criterion", "mine.py:first", "-o", "m.dc").exit_code == 0
    assert b".py" not in Path("m.dc").read_bytes()
    (folder / "mine.py").write_text("raise SystemError('ran')")
    assert run("compress", "m.dc", *options, "-o", "n.dc").exit_code == 0


def test_results_of_others_in_a_folder_run_nothing(folder):
    """What a sweep finds in its folder is compared with what it is about to do, and never built from."""
    save_checkpoint("x.pt", Checkpoint(LeNet300100().state_dict(), "lenet-300-100", "digits", {}))
    arguments = ["sweep", "x.pt", "--prune", "0.5", "--no-retrain", "--data", "digits"]
    assert run(*arguments).exit_code == 0
    (point,) = Path("sweep/points").glob("*.json")
    facts = json.loads(point.read_text())
    text = json.dumps(facts).replace("lenet-300-100", "stranger.py:make").replace('"magnitude"', '"stranger.py:make"')
    point.write_text(text)
    assert run(*arguments).exit_code == 0
    assert not Path("log").exists()


def test_masks_name_no_code_that_is_run(folder):
    masks = {name: value != 0 for name, value in network().state_dict().items() if value.ndim > 1}
    save_checkpoint("m.safetensors", Checkpoint(masks, "stranger.py:make", "stranger.py", {"holds": "masks"}))
    save_checkpoint("x.pt", Checkpoint(network().state_dict(), None, None, {}))
    for arguments in (["plot", "m.safetensors"], ["compress", "x.pt", "--no-retrain", "--masks", "m.safetensors"]):
        done = run(*arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert not Path("log").exists()


@pytest.mark.parametrize(
    ("named", "state", "reason"),
    [
        ("lenet5", network, "its tensors do not fit"),
        ("bert-base-uncased", network, "there is no such network here"),
        ("torchvision:resnet18", network, "its tensors do not fit"),
    ],
)
def test_a_name_that_does_not_fit_is_ignored_with_a_message_and_not_written(folder, named, state, reason):
    save_checkpoint("x.safetensors", Checkpoint(state().state_dict(), named, "LAION-5B", {}))
    done = run("compress", "x.safetensors", "--no-retrain", "-o", "m.dc")
    assert done.exit_code == 0, done.stderr
    assert f"x.safetensors: names the network {named!r}, which is not used: {reason}" in done.stderr
    assert "names the data 'LAION-5B', which is neither a known data set nor a path" in done.stderr
    with ModelFile("m.dc") as opened:
        assert (opened.header.network, opened.header.data) == ("", "")
    assert "LAION" not in run("compress", "x.safetensors", "--no-retrain", "-o", "m.dc", "-q").stderr


def test_a_wrong_name_gives_way_to_the_network_that_fits(folder):
    torch.manual_seed(0)
    save_checkpoint("x.pt", Checkpoint(LeNet300100().state_dict(), "lenet5", "digits", {}))
    done = run("compress", "x.pt", "--no-retrain", "-o", "m.dc")
    assert "names the network 'lenet5', which is not used" in done.stderr
    assert deepcompress.inspect("m.dc").network == "lenet-300-100"


def test_every_option_that_takes_code_is_in_the_text():
    text = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")
    takes = {flag for command in main.commands.values() for param in command.params for flag in param.opts
             if isinstance(param, click.Option) and "file.py" in (param.help or "")}  # fmt: skip
    for flag in takes:
        assert f"`{flag}`" in text, flag
