"""What the commands say of a checkpoint, and that each takes --key."""

from __future__ import annotations

import json
from pathlib import Path

import cases
import click
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn.utils import parametrizations

from deepcompress import load, load_state_dict
from deepcompress.cli import main

NETWORK = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def test_plan_says_what_was_found():
    state = {"epoch": 1, "ema": {"module.n": torch.tensor(1), **under("module.", plain().state_dict())}}
    torch.save(state, "x.pt")
    result = run("plan", "x.pt")
    assert result.stdout.startswith(
        "This is a PyTorch checkpoint. It holds 5 tensors (4 float32, 1 int64), under the key 'ema'.\n"
        "The prefix 'module.' was removed from the names.\n"
    )
    found = json.loads(run("plan", "x.pt", "--json").stdout)["found"]
    assert (found["key"], found["prefix"], found["dtypes"]) == ("ema", "module.", {"float32": 4, "int64": 1})
    assert found["container"] == "a PyTorch checkpoint"


def test_plan_says_what_the_network_made_of_it():
    torch.save({"state_dict": {**under("model.", plain().state_dict()), "loss.weight": torch.ones(3)}}, "x.ckpt")
    said = run("plan", "x.ckpt", "--network", "net.py:make").stdout
    assert "The prefix 'model.' was removed from the names.\n1 entry was left out: loss.weight.\n" in said
    assert "0.weight" in said


@pytest.mark.parametrize("write", cases.CONTAINERS.values(), ids=lambda write: write.__name__)
def test_plan_knows_every_kind(write, tmp_path):
    path = write(cases.small(), tmp_path)
    found = json.loads(run("plan", path, "--json").stdout)["found"]
    assert found["dtypes"] == {"float32": 2}
    assert found["container"].startswith(("a ", "an "))


def test_several_state_dicts_and_the_key_of_one():
    torch.save({"model": plain().state_dict(), "ema": under("module.", plain().state_dict())}, "x.pt")
    (line,) = run("compress", "x.pt", "--no-retrain", code=1).stderr.splitlines()
    assert line.startswith("Error: x.pt: holds several state_dicts: model (4 tensors, 172 bytes), ema (4 tensors")
    run("compress", "x.pt", "--no-retrain", "--key", "ema", "-o", "m.dc", "-q")
    assert set(load_state_dict("m.dc")) == set(plain().state_dict())
    (line,) = run("plan", "m.dc", "--key", "ema", code=1).stderr.splitlines()
    assert line == "Error: m.dc: is a .dc file, which holds one network: leave out --key"


@pytest.mark.parametrize("options", [[], ["--network", "net.py:make"]])
def test_computed_weights_are_pruned_as_what_they_come_to(options):
    torch.manual_seed(0)
    first, last = parametrizations.weight_norm(nn.Linear(6, 4)), nn.utils.spectral_norm(nn.Linear(4, 3))
    network = nn.Sequential(first, nn.ReLU(), last)
    network(torch.ones(1, 6))
    network.eval()
    torch.save(network.state_dict(), "x.pt")
    result = run("compress", "x.pt", "--no-retrain", "--prune", "0.5", "--bits", "none", "-o", "m.dc", *options)
    assert "1 weight was computed by weight_norm: 0.weight." in result.stderr
    assert "1 weight was computed by spectral_norm: 2.weight." in result.stderr
    stored, expected = load_state_dict("m.dc"), network[0].weight
    kept = stored["0.weight"] != 0
    assert 0 < kept.sum() < 24
    assert torch.equal(stored["0.weight"][kept], expected[kept])
    assert set(stored) == set(plain().state_dict())


def test_names_in_the_file_are_those_of_the_network():
    torch.save(under("net.encoder.", plain().state_dict()), "x.pt")
    result = run("compress", "x.pt", "--no-retrain", "--network", "net.py:make", "-o", "m.dc")
    assert result.stderr.splitlines()[0] == "The prefix 'net.encoder.' was removed from the names."
    assert set(load_state_dict("m.dc")) == set(plain().state_dict())
    assert run("compress", "x.pt", "--no-retrain", "--network", "net.py:make", "-o", "m.dc", "-q").stderr == ""


def test_tied_tensors_of_a_lazy_file_are_stored_once():
    from safetensors.torch import save_model

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 30), nn.Linear(30, 50, bias=False)
            self.head.weight = self.embed.weight

    save_model(Tied(), "x.safetensors")
    run("compress", "x.safetensors", "--no-retrain", "-o", "m.dc")
    stored = load_state_dict("m.dc")
    assert stored["embed.weight"].data_ptr() == stored["head.weight"].data_ptr()


def test_a_tensor_that_the_file_does_not_hold_is_told():
    hub = pytest.importorskip("huggingface_hub")
    table = torch.randn(50, 30)
    hub.save_torch_state_dict({"l.table": table, "l.part": table[:20]}, ".")
    told = run("compress", "model.safetensors", "--no-retrain", "-o", "m.dc").stderr.splitlines()[0]
    assert told == "1 tensor was taken from another one, as the metadata says: l.part is l.table."


def test_an_unknown_parametrization_says_how_to_go_on():
    layer = parametrizations.orthogonal(nn.Linear(4, 4))
    torch.save(layer.state_dict(), "x.pt")
    (line,) = run("compress", "x.pt", "--no-retrain", code=1).stderr.splitlines()
    assert "--network" in line
    assert "squash_mask()" in line


def test_every_command_that_reads_checkpoints_takes_a_key():
    for name, command in main.commands.items():
        options = {option for param in command.params if isinstance(param, click.Option) for option in param.opts}
        assert ("--trust-pickle" in options) == ("--key" in options), name


# Extra states ----------------------------------------------------------------------------------------------

EXTRA = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.note = nn.Linear(6, 4), "new"
    def get_extra_state(self):
        return self.note
    def set_extra_state(self, note):
        self.note = note
    def forward(self, x):
        return self.fc(x)
def make():
    return nn.Sequential(Net(), nn.Linear(4, 3))
"""
NOTE = {"seen": [1, 2.5], "classes": ("a", None)}


def with_extra():
    names = {}
    exec(EXTRA, names)
    network = names["make"]()
    network[0].note = NOTE
    return network


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_extra_states_of_a_checkpoint_are_kept(prefix):
    (Path.cwd() / "extra.py").write_text(EXTRA)
    network = with_extra()
    torch.save({"weights": under(prefix, network.state_dict())}, "x.pt")
    assert "left out" not in run("plan", "x.pt").output
    for options in (["--no-retrain"], ["--network", "extra.py:make", "--target-size", "400", "--no-retrain"]):
        run("compress", "x.pt", *options, "-o", "x.dc")
        fresh = with_extra()
        fresh[0].note = "new"
        loaded = load("x.dc", into=fresh)
        assert loaded[0].note == NOTE
    run("compress", "x.dc", "--network", "extra.py:make", "--no-retrain", "-o", "y.dc")
    run("export", "y.dc", "-o", "y.pt")
    fresh = with_extra()
    fresh[0].note = "new"
    fresh.load_state_dict(torch.load("y.pt")["state_dict"])
    assert fresh[0].note == NOTE


def test_extra_states_that_the_network_does_not_know():
    torch.save({**plain().state_dict(), "_extra_state": [1]}, "x.pt")
    run("compress", "x.pt", "--no-retrain", "-o", "x.dc")
    refused = run("plan", "x.pt", "--network", "net.py:make", code=1).stderr
    assert refused == "Error: x.pt: has _extra_state, which the network Sequential does not load\n"
    told = "has a tensor _extra_state, which the network Sequential does not know: left out"
    done = run(
        "export", "x.dc", "--network", "net.py:make", "--shrink", "--input-shape", 6, "--no-strict", "-o", "y.pt"
    )
    assert told in done.stderr
    with pytest.warns(UserWarning, match=told):
        load("x.dc", into=plain(), strict=False)


def test_weights_that_only_the_network_can_compute():
    """With --network and without data it is built, and what its weights come to is compressed."""
    Path("own.py").write_text(
        "from torch import nn\nfrom torch.nn.utils.parametrizations import orthogonal\n"
        "def make():\n    return nn.Sequential(orthogonal(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3))\n"
    )
    network = nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3))
    torch.save(under("model.", network.state_dict()), "x.pt")
    assert "name it (--network)" in run("compress", "x.pt", "--no-retrain", "-o", "x.dc", code=1).stderr
    done = run(
        "compress", "x.pt", "--network", "own.py:make", "--no-retrain", "--prune", 0, "--bits", "none", "-o", "x.dc"
    )
    assert "0.weight is computed from other tensors" in done.stderr
    found = load_state_dict("x.dc")
    assert found.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.equal(found["0.weight"], network[0].weight)
