"""A plan says what compressing then does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from samples import Mlp, conv_net
from torch import nn
from torch.nn.utils import parametrizations

import deepcompress as dc
from deepcompress.cli import main
from deepcompress.compression.from_file import settings_of
from deepcompress.compression.plan import kinds_of, plan
from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.recipe import LayerRule, Recipe

RECIPE = Recipe(prune=0.7, bits=4, retrain=False)


class Mixed(nn.Module):
    """Some of everything, a tied weight among it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.cell = nn.GRU(24, 24)
        self.attention = nn.MultiheadAttention(24, 2)
        self.convs = nn.Sequential(nn.Conv1d(24, 24, 3, groups=24), nn.BatchNorm1d(24), nn.Conv1d(24, 12, 1, groups=2))
        self.up = nn.ConvTranspose1d(12, 24, 2)
        self.norm = nn.LayerNorm(24)
        self.scale = nn.Parameter(torch.ones(24))
        self.register_buffer("table", torch.randn(10, 24))
        self.head = nn.Linear(24, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        raise NotImplementedError


@pytest.fixture
def mixed():
    torch.manual_seed(0)
    return Mixed()


def by_name(found):
    return {tensor.name: tensor for tensor in found.tensors}


def test_what_each_tensor_is(mixed):
    kinds = kinds_of(mixed)
    assert kinds["embed.weight"] == "embedding"
    assert kinds["cell.weight_hh_l0"] == "recurrent"
    assert kinds["attention.in_proj_weight"] == "attention"
    assert kinds["attention.out_proj.weight"] == "linear"
    assert kinds["convs.0.weight"] == "depthwise convolution"
    assert kinds["convs.1.running_mean"] == "batch norm"
    assert kinds["convs.2.weight"] == "grouped convolution"
    assert kinds["up.weight"] == "transposed convolution"
    assert kinds["norm.weight"] == "normalization"
    assert (kinds["scale"], kinds["table"]) == ("parameter", "buffer")
    assert set(kinds) == set(mixed.state_dict())


def test_what_is_done_with_each(mixed):
    before = {name: value.clone() for name, value in mixed.state_dict().items()}
    rules = (LayerRule("embed", keep=True), LayerRule("cell*", group="cell", bits=3), LayerRule("up", bits="none"))
    found = by_name(plan(mixed, replace(RECIPE, layers=rules)))
    assert list(found) == list(mixed.state_dict())
    assert (found["embed.weight"].stored, found["embed.weight"].levels) == ("exact", None)
    assert (found["head.weight"].stored, found["head.weight"].tied_to) == ("same", "embed.weight")
    assert (found["table"].stored, found["table"].pruned) == ("exact", 0.0)
    assert found["cell.weight_ih_l0"].group == ("cell.weight_ih_l0", "cell.weight_hh_l0")
    assert (found["cell.weight_ih_l0"].levels, found["cell.weight_ih_l0"].bits) == (8, 3)
    assert (found["up.weight"].stored, found["up.weight"].bits) == ("values", None)
    assert (found["convs.0.weight"].stored, found["convs.0.weight"].levels) == ("indices", 16)
    assert found["scale"].stored == "exact"
    assert all(torch.equal(value, before[name]) for name, value in mixed.state_dict().items())


SETTINGS = [
    {},
    {"distribution": "uniform", "prune": 0.9},
    {"scope": "global"},
    {"coder": "auto", "quantizer": "uniform", "small_bits": 5, "batch_norm": "fold"},
    {"bits": "none"},
    {"bits": "none", "small_dtype": "float16"},
    {"layers": (LayerRule("7", prune=0.9), LayerRule("*", group="all"))},
    {"target_size": 4000, "coder": "auto"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_plan_comes_true(settings, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(*conv_net(batch_norm=True)[:7], nn.Linear(32, 100), nn.ReLU(), nn.Linear(100, 60))
    recipe = replace(RECIPE, **settings)
    found = plan(model, recipe)
    result = dc.compress(model, None, None, recipe, tmp_path / "m.dc")
    tensors = by_name(found)
    layers = [name for name, tensor in tensors.items() if tensor.stored in ("indices", "values")]
    assert layers == list(result.kept)
    assert found.layers == len(layers)
    if "target_size" not in settings:  # the last bytes are settled by the coder
        assert {name: 1 - tensors[name].pruned for name in layers} == pytest.approx(result.kept, abs=1e-3)
    assert found.dense_bytes == result.dense_bytes
    assert found.file_bytes == pytest.approx(result.file_bytes, rel=0.2)


def test_bare_tensors_are_known_by_their_shapes():
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    bare, known = plan(dict(model.state_dict()), RECIPE), plan(model, RECIPE)
    assert [tensor.kind for tensor in bare.tensors[:3]] == ["convolution", "vector", "vector"]
    assert by_name(bare)["7.weight"].kind == "matrix"
    assert by_name(bare)["1.num_batches_tracked"].kind == "integers"
    assert bare.pruned == pytest.approx(known.pruned, abs=0.02)  # the network also shows neurons that are dead
    assert [tensor.stored for tensor in bare.tensors] == [tensor.stored for tensor in known.tensors]


def test_computed_weights_and_unknown_losses_are_noted():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(12, 30)), nn.Linear(30, 10))
    found = plan(model, replace(RECIPE, criterion="taylor1", retrain=True))
    assert [tensor.name for tensor in found.tensors] == ["0.bias", "0.weight", "1.weight", "1.bias"]
    assert len(found.notes) == 2
    with pytest.raises(CheckpointError, match="a weight is computed from it"):
        plan(dict(model.state_dict()), RECIPE)


def test_a_plan_for_a_compressed_file(tmp_path, dense):
    dc.compress(dense, None, None, RECIPE, tmp_path / "m.dc")
    recipe = Recipe.from_dict(settings_of(tmp_path / "m.dc"))
    again = plan(dc.load(tmp_path / "m.dc", into=Mlp()), recipe, going_on=True)
    assert again.pruned == pytest.approx(0.7, abs=0.01)
    assert again.file_bytes == pytest.approx((tmp_path / "m.dc").stat().st_size, rel=0.2)


def test_what_compress_would_refuse():
    with pytest.raises(RecipeError, match="matches no layer"):
        plan(Mlp(), replace(RECIPE, layers=(LayerRule("conv*", prune=0.5),)))
    with pytest.raises(CheckpointError, match="NaN"):
        plan({"w": torch.full((3, 3), float("nan"))}, RECIPE)
    found = plan({"w": torch.randn(9, 9), "zeros": torch.zeros(4, 4), "none": torch.zeros(0, 2)}, RECIPE)
    assert by_name(found)["zeros"].pruned == 1.0
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(conv_net(batch_norm=True).state_dict(), "m.pt")
    options = ["m.pt", "--prune", "0.8", "--bits", "3", "--layer", "9*:keep"]
    done = CliRunner().invoke(main, ["plan", *options, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["recipe"]["layer"] == [{"pattern": "9*", "keep": True}]
    assert {tensor["name"]: tensor["levels"] for tensor in found["tensors"]}["7.weight"] == 8
    CliRunner().invoke(main, ["compress", *options, "--no-retrain", "-q"])
    assert found["file_bytes"] == pytest.approx((tmp_path / "model.dc").stat().st_size, rel=0.25)
    shown = CliRunner().invoke(main, ["plan", *options]).stdout
    assert "9.weight" in shown
    assert "as it is" in shown
    assert "tensors are compressed: " in shown
    again = CliRunner().invoke(main, ["plan", "model.dc"])
    assert again.exit_code == 0
    assert CliRunner().invoke(main, ["plan", "m.pt", "--layer", "x:keep"]).exit_code == 2
