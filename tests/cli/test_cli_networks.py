"""Networks named on the command line: their shapes are compared, and smaller ones are known by what their file says."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import deepcompress as dc
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.cli import main
from deepcompress.container.reader import ModelFile

FILE = """
from torch import nn


class Mine(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))
        self.note = None

    def get_extra_state(self):
        return self.note

    def set_extra_state(self, note):
        self.note = note


def wide():
    return Mine(24)


def narrow():
    return Mine(16)


def headless():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 24), nn.ReLU())


def fails():
    class Failing(Mine):
        def forward(self, x):
            raise KeyError("missing part")

    return Failing(24)
"""


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    (folder / "net.py").write_text(FILE)
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(784, 24), nn.ReLU(), nn.Linear(24, 10))
    with torch.no_grad():
        wide[3].weight[:, :8] = 0  # nothing reads eight units
    save_checkpoint(folder / "wide.pt", Checkpoint(wide.state_dict()))
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))
    save_checkpoint(folder / "narrow.pt", Checkpoint(narrow.state_dict()))
    return folder


@pytest.mark.parametrize("command", [["plan"], ["compress", "--no-retrain", "-o", "OUT"], ["eval", "--data", "digits"]])
@pytest.mark.parametrize(("checkpoint", "network", "message"), [
    ("narrow.pt", "net.py:wide", "tensor 1.weight has shape (16, 784), but the network Mine needs (24, 784) (only"),
    ("wide.pt", "net.py:narrow", "tensor 1.weight has shape (24, 784), but the network Mine needs (16, 784)"),
    ("wide.pt", "net.py:headless", "has a tensor 3.weight, which the network Sequential does not know"),
    ("wide.pt", "lenet5", "has no tensor conv1.weight, which the network LeNet5 needs"),
])  # fmt: skip
def test_the_wrong_network_is_refused(folder, tmp_path, command, checkpoint, network, message):
    out = tmp_path / "m.dc"
    network = folder / network if ".py" in network else network
    command = [str(out) if part == "OUT" else part for part in command]
    done = run(command[0], folder / checkpoint, "--network", network, *command[1:])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert not out.exists()


def test_what_shrink_makes_goes_all_the_way(folder, tmp_path):
    network = f"{folder / 'net.py'}:wide"
    shape = ("--input-shape", "1,28,28")
    trained = ("--epochs", "1", "--finetune-epochs", "0", "--data", "digits")
    for name, more in (("small.safetensors", ["--no-retrain"]), ("small.pt", trained)):
        small = tmp_path / name
        done = run("export", folder / "wide.pt", "--shrink", "-o", small, "--network", network, *shape, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["units"] == 8
        assert load_checkpoint(small).state["1.weight"].shape == (16, 784)
        done = run("compress", small, "--network", network, *more, "--prune", "0.2", "-o", tmp_path / "m.dc", "-q")
        assert done.exit_code == 0, done.output
        with ModelFile(tmp_path / "m.dc") as opened:
            assert opened.header.extensions[0].name == "smaller"
    done = run("eval", tmp_path / "m.dc", "--network", network, "--data", "digits", "--json")
    assert done.exit_code == 0, done.output
    done = run("compress", tmp_path / "m.dc", "--no-retrain", "--prune", "0.5", "-o", tmp_path / "n.dc", "-q")
    assert done.exit_code == 0, done.output
    assert run("plan", tmp_path / "n.dc", "--network", network).exit_code == 0
    assert run("export", tmp_path / "n.dc", "-o", tmp_path / "again.pt").exit_code == 0
    assert run("eval", tmp_path / "again.pt", "--network", network, "--data", "digits").exit_code == 0


def test_no_strict_loads_the_rest_and_says_what_it_left(folder, tmp_path):
    packed = tmp_path / "m.dc"
    assert run("compress", folder / "wide.pt", "--no-retrain", "-o", packed, "-q").exit_code == 0
    headless = f"{folder / 'net.py'}:headless"
    told = f"{packed}: has a tensor 3.weight, 3.bias, which the network Sequential does not know: left out\n"
    shape = ("--input-shape", "1,28,28")
    for command in (["bench", packed, "--batch", "1", *shape], ["export", packed, "-o", tmp_path / "x.onnx", *shape]):
        done = run(*command, "--network", headless)
        assert done.exit_code == 1
        assert "has a tensor 3.weight, which the network Sequential does not know" in done.stderr
        done = run(*command, "--network", headless, "--no-strict")
        assert done.exit_code == 0, done.output
        assert told in done.stderr
    assert told not in run("bench", packed, "--batch", "1", *shape, "--network", headless, "--no-strict", "-q").stderr
    done = run("eval", packed, "--network", "lenet-300-100", "--no-strict", "--data", "digits")
    assert done.exit_code == 0, done.output
    assert f"{packed}: has no tensor fc1.weight, fc1.bias, fc2.weight" in done.stderr


def test_what_a_network_of_ones_own_raises_is_one_line(folder, tmp_path):
    packed, network = tmp_path / "m.dc", f"{folder / 'net.py'}:fails"
    assert run("compress", folder / "wide.pt", "--no-retrain", "-o", packed, "-q").exit_code == 0
    for command in (
        ["export", packed, "-o", tmp_path / "x.onnx"],
        ["export", packed, "--shrink", "-o", tmp_path / "x.pt"],
        ["bench", packed],
    ):
        done = run(*command, "--network", network, "--input-shape", "1,28,28")
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
        assert done.stderr.startswith("Error: the network Failing ")
        assert "missing part" in done.stderr


def test_extra_states_go_through_the_command_line(folder, tmp_path):
    network = f"{folder / 'net.py'}:wide"
    names = {}
    exec(compile(FILE, "net.py", "exec"), names)
    model = names["wide"]()
    model.note = {"version": 3, "classes": ["a", "b"]}
    dc.compress(model, None, None, dc.Recipe(retrain=False), tmp_path / "m.dc")
    for name in (["--network", network], []):
        done = run(
            "compress", tmp_path / "m.dc", "--prune", "0.99", "--no-retrain", *name, "-o", tmp_path / "n.dc", "-q"
        )
        assert done.exit_code == 0, done.output
        assert dc.load(tmp_path / "n.dc", into=names["wide"]()).note == model.note
