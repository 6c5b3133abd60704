"""Compression of bare tensors one at a time gives what the stages give on all of them at once."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from samples import evidence_of

from deepcompress.checkpoint import LazyTensors, open_checkpoint
from deepcompress.coding import survey
from deepcompress.compression.packing import pack_state
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import CheckpointError
from deepcompress.layers import compressible
from deepcompress.prune import scores
from deepcompress.prune.stage import prune
from deepcompress.quantize import kmeans, sharing
from deepcompress.quantize.sharing import finish, share
from deepcompress.quantize.vectors import is_vector, share_vectors
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.progress import Progress


def network(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shapes = {"conv": (12, 3, 3, 3), "fc1": (60, 48), "fc2": (10, 60)}
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = (torch.randn(shape, generator=generator) * 0.1).to(dtype)
        state[f"{name}.bias"] = (torch.randn(shape[0], generator=generator) * 0.1).to(dtype)
    state["steps"] = torch.tensor(7)
    return state


def at_once(state, recipe):
    """The three stages on all tensors together: bytes of the files after each."""
    state = {name: value.clone() for name, value in state.items()}
    layers = compressible(state)
    weights = {layer.name: state[layer.name] for layer in layers}
    prune(evidence_of(weights, recipe))
    pruned = pack_state(state, layers, [], recipe, coder="fixed")
    books = share(weights, layers, recipe)
    finish(books, weights, recipe)
    if recipe.small_bits is not None:
        books += share_vectors(state, [name for name, value in state.items() if is_vector(value)], recipe.small_bits)
    shared = pack_state(state, layers, books, recipe, coder="fixed")
    return pruned, shared, pack_state(state, layers, books, recipe)


RECIPES = {
    "plain": Recipe(prune=0.8, bits=4),
    "unshared": Recipe(prune=0.8, bits="none"),
    "dense": Recipe(prune=0, bits=3),
    "grouped": Recipe(prune=0.7, bits=4, layers=(LayerRule("fc*", group="fc"),)),
    "rules": Recipe(prune=0.6, bits=4, conv_bits=6, layers=(LayerRule("fc2", prune=0.2, bits="none"),)),
    "grid": Recipe(prune=0.8, bits=4, quantizer="uniform"),
    "ternary": Recipe(prune=0.8, levels=2),
    "halves": Recipe(prune=0.8, bits=4, codebook_dtype="float16"),
    "vectors": Recipe(prune=0.8, bits=4, small_bits=3),
    "rate": Recipe(prune=0.5, bits=4, rate=0.1),
    "rate on a grid": Recipe(prune=0.5, bits=5, rate=0.1, quantizer="uniform", layers=(LayerRule("fc*", group="fc"),)),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_file_and_the_sizes_of_the_stages_are_those_of_all_at_once(tmp_path, name, dtype):
    state, recipe = network(dtype), RECIPES[name]
    pruned, shared, coded = at_once(state, recipe)
    result = compress_state(state, recipe, tmp_path / "m.dc")
    assert (tmp_path / "m.dc").read_bytes() == coded
    assert [stage.bytes for stage in result.stages[1:]] == [len(pruned), len(shared), len(coded)]
    assert [stage.stage for stage in result.stages] == ["dense", "prune", "quantize", "encode"]


@pytest.mark.parametrize("chunk", [5, 64, 1000])
def test_chunks_do_not_change_the_file(tmp_path, monkeypatch, chunk):
    state, recipe = network(), RECIPES["rules"]
    compress_state(state, recipe, tmp_path / "whole.dc")
    for module, name in ((survey, "CHUNK"), (scores, "_CHUNK"), (sharing, "CHUNK")):
        monkeypatch.setattr(module, name, chunk)
    compress_state(state, recipe, tmp_path / "chunks.dc")
    assert (tmp_path / "chunks.dc").read_bytes() == (tmp_path / "whole.dc").read_bytes()


def test_chunks_of_a_histogram_give_the_same_clusters(monkeypatch):
    values = np.random.default_rng(0).normal(size=40_000).astype(np.float32)
    monkeypatch.setattr(kmeans, "CHUNK", 30_000)
    few = kmeans.cluster(values, 16)
    monkeypatch.setattr(kmeans, "CHUNK", 1000)
    np.testing.assert_allclose(kmeans.cluster(values, 16), few, rtol=1e-6)


def sharded(folder, state):
    """`state` in two files and an index."""
    names = list(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    ordered = {name: index["weight_map"][name] for name in names}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": ordered}))
    return path


def test_all_kinds_of_files_give_the_same_bytes(tmp_path):
    state, recipe = network(torch.bfloat16), RECIPES["plain"]
    compress_state(state, recipe, tmp_path / "dict.dc")
    expected = (tmp_path / "dict.dc").read_bytes()
    torch.save(state, tmp_path / "m.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "m.pt", tmp_path / "old.pt", sharded(tmp_path, state)):
        opened = open_checkpoint(path)
        assert list(opened.state) == list(state)
        compress_state(opened.state, recipe, tmp_path / "m.dc")
        assert (tmp_path / "m.dc").read_bytes() == expected, path
    assert torch.equal(torch.load(tmp_path / "m.pt")["fc1.weight"], state["fc1.weight"])  # pruned in memory only


def test_lazy_tensors_are_new_each_time_and_the_file_stays(tmp_path):
    state = network()
    save_file(state, tmp_path / "m.safetensors", {"network": "mine", "epochs": "3"})
    opened = open_checkpoint(tmp_path / "m.safetensors")
    assert isinstance(opened.state, LazyTensors)
    assert (opened.network, opened.data, opened.facts) == ("mine", None, {"epochs": "3"})
    assert set(opened.state) == set(state)
    assert len(opened.state) == len(state)
    opened.state["fc1.weight"].zero_()
    assert torch.equal(opened.state["fc1.weight"], state["fc1.weight"])


def test_tied_tensors_of_a_state_dict_are_stored_once(tmp_path):
    state = network()
    state["head.weight"] = state["fc1.weight"]
    compress_state(state, RECIPES["plain"], tmp_path / "m.dc")
    back = load_state_dict(tmp_path / "m.dc")
    assert back["head.weight"].data_ptr() == back["fc1.weight"].data_ptr()
    assert torch.equal(state["fc1.weight"], network()["fc1.weight"])


@pytest.mark.parametrize("broken", ["no map", "not json", "missing file", "elsewhere", "missing tensor", "empty"])
def test_a_broken_index_is_one_clear_error(tmp_path, broken):
    state = network()
    path = sharded(tmp_path, state)
    index = json.loads(path.read_text())
    if broken == "missing file":
        (tmp_path / "a.safetensors").unlink()
    if broken == "elsewhere":
        index["weight_map"]["steps"] = "../a.safetensors"
    if broken == "missing tensor":
        index["weight_map"]["more"] = "a.safetensors"
    if broken == "empty":
        index["weight_map"] = {}
    path.write_text({"no map": "{}", "not json": "{"}.get(broken, json.dumps(index)))
    with pytest.raises(CheckpointError, match=path.name):
        open_checkpoint(path)


def test_the_watcher_hears_of_every_weight(tmp_path):
    heard = []

    class Watch(Progress):
        def work(self, stage, done, total, note):
            heard.append((stage, done, total, note))

    state = network()
    compress_state(state, RECIPES["plain"], tmp_path / "m.dc", watch=Watch())
    total = sum(value.numel() for value in state.values())
    encoded = [call[1:] for call in heard if call[0] == "encode"]
    assert [note for _, _, note in encoded] == list(state)
    assert encoded[0] == (0, total, "conv.weight")
    assert encoded[-1] == (total - 1, total, "steps")


def test_both_ratios_against_fp32_and_against_what_was_given(tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(60, 40).bfloat16()
    state = {"w": weight, "tied": weight, "b": torch.randn(60, dtype=torch.float64), "n": torch.tensor(3)}
    result = compress_state(state, Recipe(prune=0.8, retrain=False), tmp_path / "m.dc")
    assert (result.dense_bytes, result.source_bytes) == (4 * 2460 + 8, 2 * 2400 + 8 * 60 + 8)
    assert result.as_dict()["source_ratio"] == result.source_bytes / result.file_bytes
    assert result.smaller == (
        f"{result.ratio:.2f}× smaller than fp32, {result.source_ratio:.2f}× smaller than what was given"
    )
    plain = compress_state({"w": weight.float()}, Recipe(prune=0.8, retrain=False), tmp_path / "m.dc")
    assert plain.source_ratio == plain.ratio
    assert plain.smaller == f"{plain.ratio:.2f}× smaller"
