"""What a command writes: not over what it reads, not under another ending, and not silently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from commands import fail, run, succeed

from deepcompress.checkpoint import Checkpoint, save_checkpoint
from deepcompress.cli import main
from deepcompress.compression.tensors_only import compress_state
from deepcompress.networks.lenet import LeNet300100
from deepcompress.recipe import Recipe

NAMES = ("x.pt", "./x.pt", "../{folder}/x.pt", "{path}/x.pt", "hard.dc", "soft.dc", "chain.dc")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = LeNet300100().state_dict()
    save_checkpoint("x.pt", Checkpoint(state, "lenet-300-100", "digits", {}))
    compress_state(state, Recipe(prune=0.9, retrain=False), "x.dc", network="lenet-300-100", data="digits")
    os.link("x.pt", "hard.dc")
    Path("soft.dc").symlink_to("x.pt")
    Path("chain.dc").symlink_to("soft.dc")
    return {name: Path(name).read_bytes() for name in ("x.pt", "x.dc")}


def untouched(files):
    return all(Path(name).read_bytes() == content for name, content in files.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_input_under_any_name_is_not_written_over(name, files, tmp_path):
    name = name.format(folder=tmp_path.name, path=tmp_path)
    line = fail("compress", "x.pt", "--no-retrain", "-o", name)
    assert ("this command reads it" in line) if name.endswith(".dc") else ("the ending says a checkpoint" in line)
    assert "--force" in line
    assert untouched(files)


COMMANDS = {
    "compress": ["compress", "x.pt", "--no-retrain", "-o", "hard.dc"],
    "compress a .dc": ["compress", "x.dc", "--no-retrain", "-o", "./x.dc"],
    "compress masks": ["compress", "x.pt", "--no-retrain", "--save-masks", "x.pt"],
    "compress scores": ["compress", "x.pt", "--no-retrain", "--save-scores", "./x.pt"],
    "compress recipe": ["compress", "x.pt", "--no-retrain", "--recipe", "r.dc", "-o", "r.dc"],
    "compress network": ["compress", "x.pt", "--no-retrain", "--network", "net.py:make", "-o", "./net.py"],
    "train": ["train", "lenet-300-100", "--from", "x.pt", "-o", "../{folder}/x.pt"],
    "train steps": ["train", "lenet-300-100", "--from", "x.pt", "-o", "y.pt", "--keep-step", "0", "x.pt"],
    "export": ["export", "soft.pt", "-o", "real.pt"],
    "export shrunk": ["export", "soft.pt", "--shrink", "-o", "./soft.pt"],
    "recode": ["recode", "x.dc", "-o", "./x.dc"],
    "diff": ["diff", "x.dc", "r.dc", "-o", "./x.dc"],
    "diff over an update": ["diff", "x.dc", "u.dcp", "-o", "./u.dcp"],
    "patch": ["patch", "x.dc", "u.dcp", "-o", "./x.dc"],
    "sweep": ["sweep", "sweep/sweep.csv", "--prune", "0.5", "--no-retrain", "-o", "sweep"],
    "sensitivity": ["sensitivity", "x.pt", "--recipe", "out/sensitivity.csv", "-o", "out"],
    "compare": ["compare", "out/compare.png", "-o", "out"],
    "plot": ["plot", "out/bytes.png", "-o", "out"],
    "view": ["view", "x.dc", "-o", "./x.dc"],
}


def test_the_table_has_every_command_that_writes():
    takes = {name for name, command in main.commands.items() if any(param.name == "output" for param in command.params)}
    assert {name.partition(" ")[0] for name in COMMANDS} == takes


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_over_what_it_reads(name, files, tmp_path):
    for folder in ("sweep", "out"):
        Path(folder).mkdir()
        for file in ("sweep.csv", "compare.png", "bytes.png"):
            Path(folder, file).write_bytes(files["x.dc"])
    for file in ("r.dc", "out/sensitivity.csv"):
        Path(file).write_text("prune = 0.5\n")
    Path("net.py").write_text("from deepcompress.networks.lenet import LeNet300100 as make\n")
    for file in ("real.pt", "u.dcp"):
        Path(file).write_bytes(files["x.dc"])
    Path("soft.pt").symlink_to("real.pt")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    line = fail(*(part.format(folder=tmp_path.name) for part in COMMANDS[name]))
    assert "this command reads it" in line or (
        name in ("compress network", "diff", "view") and "the ending says " in line
    )
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["compress", "x.pt", "--no-retrain", "-o", "new.pt"], "and this command writes a .dc file"),
        (["compress", "x.pt", "--no-retrain", "-o", "new.ONNX"], "the ending says a network for another runtime"),
        (["compress", "x.pt", "--no-retrain", "-o", "new.safetensors"], "give a name that ends in .dc, or --force"),
        (["recode", "x.dc", "-o", "new.pt"], "the ending says a checkpoint"),
        (["export", "x.dc", "-o", "new.dc"], "unknown ending '.dc'; write .pt, .safetensors, .onnx, .npz or .h"),
        (["train", "lenet5", "-o", "new.dc"], "unknown ending '.dc'; write .pt or .safetensors"),
        (["sweep", "x.pt", "--prune", "0.5", "--no-retrain", "-o", "new.dc"], "this command writes a folder"),
        (["plot", "x.dc", "-o", "new.png"], "this command writes a folder: give another name"),
    ],
)  # fmt: skip
def test_an_ending_that_says_another_format(arguments, line):
    assert line in fail(*arguments)
    assert not list(Path().glob("new.*"))


def test_a_shard_of_what_is_read_is_not_written_over():
    save_checkpoint("one.safetensors", Checkpoint({"w": torch.ones(3, 3)}))
    Path("m.index.json").write_text('{"weight_map": {"w": "one.safetensors"}}')
    line = fail("compress", "m.index.json", "--no-retrain", "--save-masks", "./one.safetensors")
    assert "one.safetensors: this command reads it" in line


def test_two_outputs_are_two_files():
    line = fail("compress", "x.pt", "--no-retrain", "--prune", "0.5", "--save-masks", "m.pt", "--save-scores", "./m.pt")
    assert "two options of this command write it" in line


def test_force_writes_all_the_same(files):
    succeed("compress", "x.pt", "--no-retrain", "-o", "new.pt", "--force")
    assert Path("new.pt").read_bytes()[:3] == files["x.dc"][:3]  # the version may be another
    succeed("compress", "x.dc", "--no-retrain", "-o", "x.dc", "--force")
    succeed("recode", "x.dc", "-o", "x.dc", "--force", "--coder", "ans")
    succeed("verify", "x.dc")
    succeed("compress", "x.pt", "--no-retrain", "-o", "hard.dc", "--force")
    assert Path("x.pt").read_bytes() == files["x.pt"]  # the other name of the file keeps what it had


def test_any_other_ending_is_fine():
    for name in ("model", "model.dcx", "model.v2"):
        succeed("compress", "x.pt", "--no-retrain", "-o", name)
        succeed("verify", name)


def test_a_file_that_is_replaced_is_named(files):
    arguments = ["compress", "x.pt", "--no-retrain", "-o", "m.dc"]
    assert "Replaced" not in succeed(*arguments).stderr
    size = Path("m.dc").stat().st_size
    assert f"Replaced m.dc ({size:,} bytes)\n" in succeed(*arguments).stderr
    assert "Replaced" not in succeed(*arguments, "-q").stderr
    succeed("export", "x.dc", "-o", "y.pt")
    assert "Replaced y.pt (" in run("export", "x.dc", "-o", "y.pt", "--json").stderr
    assert "Replaced" not in run("export", "x.dc", "-o", "y.pt", "--input-shape", "0").stderr
