"""Going on from a file: the same tensors without training, the same shared weights with it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from samples import SIDE, batches, conv_net, network_and_data
from torch import nn

import deepcompress as dc
from deepcompress.cli import main
from deepcompress.compression.from_file import asks_for_more, restore, settings_of, steps_in, still_shared, unmoved
from deepcompress.compression.tensors_only import compress_state
from deepcompress.layers import Layer
from deepcompress.quantize.sharing import Grid
from deepcompress.recipe import LayerRule, Recipe, going_on
from deepcompress.training.loop import fit

RECIPE = Recipe(prune=0.8, epochs=1, finetune_epochs=1, iterations=1, bits=4)
WAYS = {
    "plain": {},
    "smallest": {"coder": "auto", "quantizer": "uniform", "bits": 3, "small_bits": 5, "batch_norm": "fold"},
    "small codebooks": {"coder": "ans", "codebook_dtype": "float16", "small_dtype": "float16"},
    "not shared": {"bits": "none"},
    "groups": {"layers": (LayerRule("[03]*", group="convs"), LayerRule("7*", bits=2), LayerRule("9*", bits="none"))},
    "kept": {"layers": (LayerRule("9*", keep=True),)},
    "rate": {"rate": 0.03, "quantizer": "uniform", "bits": 3, "coder": "auto"},
    "one value": {"levels": 1},
}


@pytest.fixture(scope="module")
def data():
    return batches(64, seed=1, shape=(1, SIDE, SIDE))


@pytest.fixture(scope="module")
def trained(data):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 3, stage="train")
    return model


@pytest.fixture
def file(trained, data, tmp_path):
    dc.compress(trained, data, None, RECIPE, tmp_path / "a.dc")
    return tmp_path / "a.dc"


def fresh():
    return conv_net(batch_norm=True)


def zeros(path):
    return {name: value == 0 for name, value in dc.load_state_dict(path).items() if value.ndim > 1}


@pytest.mark.parametrize("way", WAYS)
def test_without_training_nothing_changes(way, trained, data, tmp_path):
    path, again, bare = tmp_path / "a.dc", tmp_path / "b.dc", tmp_path / "c.dc"
    dc.compress(trained, data, None, replace(RECIPE, **WAYS[way]), path)
    settings = settings_of(path)
    dc.compress(fresh(), data, None, Recipe.from_dict(settings), again, start=path)
    assert again.read_bytes() == path.read_bytes()
    dc.compress(fresh(), None, None, Recipe.from_dict({**settings, "retrain": False}), again, start=path)
    assert again.read_bytes() == path.read_bytes()
    recipe = Recipe.from_dict({**settings, "retrain": False, "batch_norm": "keep"})
    compress_state(dc.load_state_dict(path), recipe, bare)
    assert bare.read_bytes() == path.read_bytes()


@pytest.fixture
def rounded(trained, tmp_path):
    dc.compress(trained, None, None, Recipe(retrain=False), tmp_path / "a.dc")
    return tmp_path / "a.dc"


def test_rounded_weights_stay_whole_numbers_times_their_steps(rounded, data, tmp_path):
    path, bare, own = tmp_path / "b.dc", tmp_path / "c.dc", tmp_path / "d.dc"
    settings = settings_of(rounded)
    dc.compress(fresh(), data, None, Recipe.from_dict(settings), path, start=rounded)
    assert path.read_bytes() == rounded.read_bytes()
    dc.compress(fresh(), None, None, Recipe.from_dict({**settings, "retrain": False}), path, start=rounded)
    assert path.read_bytes() == rounded.read_bytes()
    recipe = Recipe.from_dict({**settings, "retrain": False, "batch_norm": "keep"})
    compress_state(dc.load_state_dict(rounded), recipe, bare, steps=steps_in(rounded))
    assert bare.read_bytes() == rounded.read_bytes()
    compressor = dc.Compressor.from_file(rounded, fresh())
    compressor.finalize(own)
    assert own.read_bytes() == rounded.read_bytes()


def test_rounded_weights_stay_so_where_more_are_pruned(rounded, tmp_path):
    path = tmp_path / "b.dc"
    recipe = replace(Recipe.from_dict(settings_of(rounded)), prune=0.5, retrain=False)
    dc.compress(fresh(), None, None, recipe, path, start=rounded)
    before, after = dc.load_state_dict(rounded), dc.load_state_dict(path)
    for name, gone in zeros(path).items():
        assert torch.equal(after[name], torch.where(gone, 0.0, before[name]))
    assert sum(gone.float().mean() for gone in zeros(path).values()) > 1
    assert path.stat().st_size < rounded.stat().st_size


def test_steps_are_left_where_they_do_not_tell_the_weights_exactly(rounded, tmp_path):
    state, steps = dc.load_state_dict(rounded), steps_in(rounded)
    assert set(steps) == {"0.weight", "3.weight", "7.weight", "9.weight"}
    state["7.weight"][0, 0] += 1e-4
    recipe = Recipe.from_dict({**settings_of(rounded), "retrain": False})
    given = {**steps, "0.weight": steps["0.weight"][:-1]}
    compress_state(state, recipe, tmp_path / "b.dc", steps=given)
    assert all(torch.equal(value, state[name]) for name, value in dc.load_state_dict(tmp_path / "b.dc").items())
    assert set(steps_in(tmp_path / "b.dc")) == {"3.weight", "9.weight"}
    compress_state(state, replace(recipe, coder="huffman"), tmp_path / "b.dc", steps=steps)
    assert not steps_in(tmp_path / "b.dc")  # which readers of version 1 can read


@pytest.mark.parametrize("way", ["plain", "smallest", "groups"])
def test_tuning_moves_values_and_keeps_who_shares_them(way, trained, data, tmp_path):
    path, again = tmp_path / "a.dc", tmp_path / "b.dc"
    dc.compress(trained, data, None, replace(RECIPE, **WAYS[way]), path)
    dc.compress(
        fresh(),
        data,
        None,
        Recipe.from_dict({**settings_of(path), "finetune_epochs": 2, "finetune_lr": 0.05}),
        again,
        start=path,
    )
    before, after = dc.load_state_dict(path), dc.load_state_dict(again)
    assert again.stat().st_size <= path.stat().st_size + 20  # a codebook or a bias may take other forms
    layers = ("0.weight", "3.weight", "7.weight")
    assert any(not torch.equal(before[name], after[name]) for name in layers)
    for name in layers:
        assert torch.equal(before[name] == 0, after[name] == 0)
        assert all(len(after[name][before[name] == value].unique()) == 1 for value in before[name].unique())


def test_more_pruning_and_fewer_values(file, data, tmp_path):
    first = zeros(file)
    recipe = Recipe.from_dict(going_on({"prune": 0.9, "bits": 2, "epochs": 1}, settings_of(file)))
    dc.compress(fresh(), data, None, recipe, tmp_path / "b.dc", start=file)
    state = dc.load_state_dict(tmp_path / "b.dc")
    assert all(bool((mask | ~first[name]).all()) for name, mask in zeros(tmp_path / "b.dc").items())
    total = sum(mask.numel() for mask in first.values())
    assert sum(int(mask.sum()) for mask in zeros(tmp_path / "b.dc").values()) >= 0.9 * total - 1
    assert all(len(value[value != 0].unique()) <= 4 for value in state.values() if value.ndim > 1)


def test_more_pruning_without_training_keeps_the_values(file, tmp_path):
    recipe = replace(Recipe.from_dict(settings_of(file)), prune=0.9, retrain=False)
    dc.compress(fresh(), None, None, recipe, tmp_path / "b.dc", start=file)
    before, after = dc.load_state_dict(file), dc.load_state_dict(tmp_path / "b.dc")
    for name in zeros(file):
        assert torch.equal(after[name], torch.where(after[name] == 0, after[name], before[name]))


def test_a_size_without_training_keeps_the_values_too(trained, data, tmp_path):
    """The settings for the smallest files have a quantizer, and nobody asked for it."""
    path, again = tmp_path / "a.dc", tmp_path / "b.dc"
    dc.compress(trained, data, None, replace(RECIPE, bits=3, coder="auto"), path)
    network = f"{inspect.getfile(conv_net)}:conv_net(batch_norm=True)"
    most = path.stat().st_size - 100
    options = [str(path), "--network", network, "--no-retrain", "--target-size", str(most), "-o", str(again)]
    run = CliRunner().invoke(main, ["compress", *options])
    assert run.exit_code == 0, run.output
    assert again.stat().st_size <= most
    before, after = dc.load_state_dict(path), dc.load_state_dict(again)
    for name in zeros(path):
        assert torch.equal(after[name], torch.where(after[name] == 0, after[name], before[name]))
    asked = CliRunner().invoke(main, ["compress", *options, "--force", "--quantizer", "kmeans"])
    assert asked.exit_code == 2
    assert "leave quantizer out" in asked.output


@pytest.mark.parametrize("prune", [0.0, 0.5])
def test_retraining_brings_nothing_back(file, data, tmp_path, prune):
    recipe = replace(RECIPE, prune=prune, epochs=2)
    dc.compress(fresh(), data, None, recipe, tmp_path / "b.dc", start=file)
    first = zeros(file)
    assert all(torch.equal(mask, first[name]) for name, mask in zeros(tmp_path / "b.dc").items())


class Wrapped(nn.Module):
    """The network under names with a beginning that the file does not have."""

    def __init__(self):
        super().__init__()
        self.net = fresh()

    def forward(self, x):
        return self.net(x)


def test_names_of_the_network_s_own(trained, data, tmp_path):
    recipe = replace(RECIPE, **WAYS["groups"])
    dc.compress(trained, data, None, recipe, tmp_path / "a.dc")
    settings = Recipe.from_dict(settings_of(tmp_path / "a.dc"), "a.dc")
    before = dc.load_state_dict(tmp_path / "a.dc")
    dc.compress(Wrapped(), None, None, replace(settings, retrain=False), tmp_path / "b.dc", start=tmp_path / "a.dc")
    dc.Compressor.from_file(tmp_path / "a.dc", Wrapped()).finalize(tmp_path / "c.dc")
    for path in ("b.dc", "c.dc"):
        after = dc.load_state_dict(tmp_path / path)
        assert after.keys() == {f"net.{name}" for name in before}
        assert all(torch.equal(after[f"net.{name}"], value) for name, value in before.items())


def test_what_is_restored(trained, data, tmp_path):
    for quantizer in ("kmeans", "uniform"):
        dc.compress(trained, data, None, replace(RECIPE, quantizer=quantizer, small_bits=4), tmp_path / "a.dc")
        model = dc.load(tmp_path / "a.dc", into=fresh())
        tensors = dict(model.named_parameters())
        books = {book.members[0].name: book for book in restore(tmp_path / "a.dc", tensors)}
        assert {"0.weight", "3.weight", "7.weight", "9.weight", "7.bias"} <= set(books)
        book = books["7.weight"]
        assert isinstance(book, Grid) == (quantizer == "uniform")
        before = tensors["7.weight"].detach().clone()
        assert len(book.centroids) == len(before[before != 0].unique())
        book.write(tensors)
        assert torch.equal(tensors["7.weight"], before)
        assert unmoved(book, tensors) is not None
        with torch.no_grad():
            tensors["7.weight"].view(-1)[book.members[0].positions[:5]] = 0.0
        assert len(unmoved(book, tensors).members[0].positions) == len(book.members[0].positions) - 5
        with torch.no_grad():
            tensors["7.weight"].view(-1)[book.members[0].positions[7]] += 1.0
        assert unmoved(book, tensors) is None
        assert restore(tmp_path / "a.dc", {"7.weight": tensors["7.weight"]}) == []


def test_a_codebook_holds_on_while_its_layers_and_values_do(file):
    tensors = dict(dc.load(file, into=fresh()).named_parameters())
    layers = [Layer(name, tuple(tensors[name].shape)) for name in ("0.weight", "3.weight")]
    books = restore(file, tensors)
    kept, rest = still_shared(books, tensors, layers, Recipe(bits=4))
    assert [book.members[0].name for book in kept] == ["0.weight", "3.weight"]
    assert rest == []
    assert still_shared(books, tensors, layers, Recipe(bits=2)) == ([], layers)
    assert still_shared(books, tensors, layers, Recipe(bits="none")) == ([], layers)
    assert still_shared(books, tensors, layers, Recipe(layers=(LayerRule("*", group="a"),))) == ([], layers)


def test_what_asks_for_more(file):
    weights = {name: value for name, value in dc.load_state_dict(file).items() if value.ndim > 1}
    assert not asks_for_more(weights, Recipe(prune=0.0))
    assert not asks_for_more(weights, Recipe(prune=0.75))
    assert asks_for_more(weights, Recipe(prune=0.95))
    assert asks_for_more(weights, Recipe(prune=0.0, layers=(LayerRule("7*", prune=0.99),)))
    assert asks_for_more(weights, Recipe(target_size=1000))


def test_settings_of_names_that_look_like_patterns(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_parameter("w[1]*", nn.Parameter(torch.randn(20, 20)))
            self.register_parameter("w1x", nn.Parameter(torch.randn(20, 20)))

    recipe = Recipe(prune=0.5, bits=3, retrain=False, layers=(LayerRule("w1x", bits=1),))
    dc.compress(Odd(), None, None, recipe, tmp_path / "a.dc")
    found = Recipe.from_dict(settings_of(tmp_path / "a.dc"))
    assert found.levels_of("w[1]*", False) == 8
    assert found.levels_of("w1x", False) == 2


def test_options_on_top_of_a_file():
    base = {"prune": 0.0, "epochs": 0, "finetune_epochs": 0, "coder": "auto", "layer": [{"pattern": "a", "levels": 9}]}
    assert going_on({}, base) == base
    assert going_on({"finetune_epochs": 3}, base) == {**base, "finetune_epochs": 3}
    assert going_on({"prune": 0.9}, base) == {"prune": 0.9, "coder": "auto", "layer": base["layer"]}
    assert going_on({"bits": 4, "layer": [{"pattern": "b"}]}, base) == {**base, "bits": 4, "layer": [{"pattern": "b"}]}
    assert going_on({"layer": [{"pattern": "b"}]}, base)["layer"] == [*base["layer"], {"pattern": "b"}]


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, data = network_and_data(tmp_path)
    torch.save(dc.networks.build(network).state_dict(), "m.pt")

    def run(*arguments):
        done = CliRunner().invoke(main, ["compress", *arguments, "-q", "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    named = ["--network", network, "--data", data]
    run("m.pt", *named, "--prune", "0.7", "--bits", "3", "--epochs", "1", "--finetune-epochs", "0", "-o", "a.dc")
    first = (tmp_path / "a.dc").read_bytes()
    run("a.dc", *named, "-o", "b.dc")
    assert (tmp_path / "b.dc").read_bytes() == first
    run("a.dc", "--no-retrain", "-o", "b.dc")  # nobody says which network it is
    assert (tmp_path / "b.dc").read_bytes() == first
    run("m.pt", "--no-retrain", "-o", "r.dc")
    run("r.dc", "--no-retrain", "-o", "b.dc")
    assert (tmp_path / "b.dc").read_bytes() == (tmp_path / "r.dc").read_bytes()
    run("r.dc", *named, "-o", "b.dc")
    assert steps_in("b.dc").keys() == steps_in("r.dc").keys() > set()
    found = run("a.dc", *named, "--finetune-epochs", "1", "-o", "b.dc")
    assert found["recipe"]["finetune_epochs"] == 1
    assert all(torch.equal(mask, zeros("a.dc")[name]) for name, mask in zeros("b.dc").items())
    found = run("a.dc", *named, "--prune", "0.85", "--epochs", "1", "-o", "b.dc")
    assert found["recipe"]["prune"] == 0.85
    assert found["file_bytes"] < len(first)
