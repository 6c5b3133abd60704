"""A state_dict to a file and back: what is stored, how often, and exactly."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from samples import conv_net, evidence_of
from torch import nn

from deepcompress.compression.packing import codebook_entries, pack_state
from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.breakdown import inspect
from deepcompress.layers import compressible
from deepcompress.prune.stage import prune
from deepcompress.quantize.sharing import Codebook, Member, share
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import LayerRule, Recipe


def packed(tmp_path, state, recipe, **how):
    """`state` pruned and shared in place, written, and read back; with the file's breakdown."""
    layers = compressible(state)
    weights = {layer.name: state[layer.name] for layer in layers}
    prune(evidence_of(weights, recipe))
    books = share(weights, layers, recipe)
    path = tmp_path / "m.dc"
    path.write_bytes(pack_state(state, layers, books, recipe, **how))
    found = inspect(path)
    assert sum(found.sections.values()) == found.file_bytes == path.stat().st_size
    for layer in found.layers:
        assert sum(layer.parts.values()) == layer.bytes
    return load_state_dict(path), found


def same(back, state):
    assert list(back) == list(state)
    for name, value in state.items():
        assert back[name].dtype is value.dtype
        assert torch.equal(back[name], value)
    return True


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {name: value.clone() for name, value in conv_net(batch_norm=True).state_dict().items()}


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("bits", [1, 5, "none"])
@pytest.mark.parametrize("fraction", [0, 0.5, 0.95])
def test_what_was_shared_comes_back_bit_for_bit(tmp_path, state, bits, fraction, huffman):
    back, _ = packed(tmp_path, state, Recipe(prune=fraction, bits=bits), coder="huffman" if huffman else "fixed")
    assert same(back, state)


def test_names_of_network_and_data(tmp_path, state):
    _, found = packed(tmp_path, state, Recipe(), network="lenet5", data="mnist")
    assert (found.network, found.data) == ("lenet5", "mnist")


def test_a_group_stores_its_codebook_once(tmp_path):
    torch.manual_seed(0)
    state = {"a": torch.randn(40, 50), "b": torch.randn(30, 50), "c": torch.randn(20, 50)}
    recipe = Recipe(prune=0.5, bits=5, layers=(LayerRule("[ab]", group="g"),))
    back, found = packed(tmp_path, state, recipe)
    assert same(back, state)
    assert [layer.parts["codebooks"] for layer in found.layers] == [128, 0, 128]


def test_layers_of_one_group_with_different_dtypes(tmp_path):
    torch.manual_seed(0)
    state = {"a": torch.randn(40, 50), "b": torch.randn(40, 50).half(), "c": torch.randn(40, 50).half()}
    recipe = Recipe(prune=0.5, bits=5, layers=(LayerRule("*", group="g"),))
    back, found = packed(tmp_path, state, recipe)
    assert same(back, state)
    books = [layer.parts["codebooks"] for layer in found.layers]
    assert books[0] == 128
    assert 0 < books[1] <= 64
    assert books[2] == 0


def test_the_owner_of_a_codebook_may_be_a_later_layer(tmp_path):
    # The first layer is so small that it is stored raw: then it stores no codebook for the others.
    torch.manual_seed(0)
    state = {"tiny": torch.randn(1, 2), "a": torch.randn(40, 50), "b": torch.randn(40, 50)}
    recipe = Recipe(prune=0, bits=4, layers=(LayerRule("*", group="g"),))
    back, found = packed(tmp_path, state, recipe)
    assert same(back, state)
    assert [layer.kind == "coded" for layer in found.layers] == [False, True, True]
    assert [layer.parts.get("codebooks", 0) for layer in found.layers] == [0, 64, 0]


def test_tied_tensors_are_stored_once_and_share_memory_again(tmp_path):
    w = torch.randn(30, 40)
    state = {"a": w, "n": torch.tensor(3), "b": w, "c": w}
    back, found = packed(tmp_path, state, Recipe(prune=0.5, bits=3))
    assert same(back, state)
    assert back["a"].data_ptr() == back["b"].data_ptr() == back["c"].data_ptr()
    assert [layer.bytes > 0 for layer in found.layers] == [True, True, False, False]
    assert found.dense_bytes == 30 * 40 * 4 + 8


def test_negative_zeros_are_pruned_weights(tmp_path):
    w = torch.randn(30, 40)
    w[:, ::2] = -0.0
    layers = compressible({"w": w})
    recipe = Recipe(prune=0, bits="none")
    (tmp_path / "m.dc").write_bytes(pack_state({"w": w}, layers, [], recipe))
    found = inspect(tmp_path / "m.dc")
    assert found.layers[0].nonzeros == 600
    back = load_state_dict(tmp_path / "m.dc")["w"]
    assert torch.equal(back, w)
    assert not torch.signbit(back[:, ::2]).any()


def test_small_tensors_are_exact_and_only_fp32_ones_become_halves(tmp_path):
    state = {
        "w": torch.ones(4, 4),
        "b": torch.tensor([0.1, -0.0, 1e-3]),
        "large": torch.tensor([1e6, 0.1]),  # infinite as a half: kept
        "double": torch.tensor([0.1], dtype=torch.float64),
        "bf": torch.tensor([0.1], dtype=torch.bfloat16),
        "n": torch.tensor(2**40),
    }
    layers = compressible(state)
    path = tmp_path / "m.dc"
    for recipe in (Recipe(), Recipe(small_dtype="float16")):
        path.write_bytes(pack_state(state, layers, [], recipe))
        back = load_state_dict(path)
        expected = dict(state)
        if recipe.small_dtype == "float16":
            expected["b"] = state["b"].half()
        assert same(back, expected)
        assert torch.signbit(back["b"]).tolist() == [False, True, False]


def test_codebook_entries_are_distinct_sorted_and_not_zero():
    state = {"w": torch.tensor([[1.0, 2.0, 3.0, -4.0]])}
    (book,) = share(state, compressible(state), Recipe(bits=2))
    with torch.no_grad():
        book.centroids.copy_(torch.tensor([3.0, 0.0, -1.0, 3.0]))
    assert codebook_entries(book.centroids, torch.float32).tolist() == [-1, 3]
    with torch.no_grad():
        book.centroids.copy_(torch.tensor([1.0, 1.0001, 1e-9, 2.0]))  # the same, and zero, as halves
    entries = codebook_entries(book.centroids, torch.float16)
    assert entries.dtype == np.float16
    assert entries.tolist() == [1, 2]


@pytest.fixture
def sparse_state():
    """Layers that are large enough for offsets of any width to be smaller than the dense tensor."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (40, 20, 5, 5), "fc.weight": (100, 300), "fc.bias": (100,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("width", [1, 4, 5, 12])
@pytest.mark.parametrize("bits", [4, "none"])
@pytest.mark.parametrize("huffman", [True, False])
def test_offsets_of_a_width_that_the_recipe_names(tmp_path, sparse_state, width, bits, huffman):
    recipe = Recipe(prune=0.9, bits=bits, index_bits=width)
    back, found = packed(tmp_path, sparse_state, recipe, coder="huffman" if huffman else "fixed")
    assert same(back, sparse_state)
    assert [(layer.kind == "coded", layer.index_bits) for layer in found.layers] == [(True, width)] * 2 + [(False, 0)]
    for layer in found.layers[:2]:
        ends = [-1, *sparse_state[layer.name].flatten().nonzero().flatten().tolist()]
        gaps = [after - before - 1 for before, after in pairwise(ends)]
        assert layer.fillers == sum(gap // ((1 << width) - 1) for gap in gaps)


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.98])
def test_without_a_width_no_fixed_one_makes_a_smaller_file(tmp_path, sparse_state, fraction):
    sizes = {}
    for width in (None, *range(1, 13)):
        state = {name: value.clone() for name, value in sparse_state.items()}
        sizes[width] = packed(tmp_path, state, Recipe(prune=fraction, bits=4, index_bits=width))[1].file_bytes
    assert sizes[None] == min(sizes.values()) < max(sizes.values())


@pytest.mark.parametrize("width", [None, 1, 4, 5, 12])
@pytest.mark.parametrize("bits", [4, "none"])
def test_a_width_on_every_way_to_a_file_and_in_the_sizes_of_its_stages(tmp_path, sparse_state, width, bits):
    """Tensors one at a time, a network, and the three stages by hand."""
    recipe = Recipe(prune=0.9, bits=bits, index_bits=width, retrain=False)
    network = nn.Module()
    network.conv, network.fc = nn.Conv2d(20, 40, 5, bias=False), nn.Linear(300, 100)
    network.load_state_dict(sparse_state)
    streamed = compress_state(sparse_state, recipe, tmp_path / "s.dc")
    chained = compress(network, None, None, recipe, tmp_path / "n.dc")
    layers = compressible(sparse_state)
    prune(evidence_of({layer.name: sparse_state[layer.name] for layer in layers}, recipe))
    pruned = pack_state(sparse_state, layers, [], recipe, coder="fixed")
    books = share({layer.name: sparse_state[layer.name] for layer in layers}, layers, recipe)
    shared = pack_state(sparse_state, layers, books, recipe, coder="fixed")
    coded = pack_state(sparse_state, layers, books, recipe)
    assert (tmp_path / "s.dc").read_bytes() == (tmp_path / "n.dc").read_bytes() == coded
    for result in (streamed, chained):
        assert [stage.bytes for stage in result.stages[1:]] == [len(pruned), len(shared), len(coded)]
        assert result.recipe.get("index_bits") == width


def test_same_input_same_bytes(state):
    layers, recipe = compressible(state), Recipe(prune=0.5, bits="none")
    assert pack_state(state, layers, [], recipe) == pack_state(dict(state), layers, [], recipe)


@pytest.mark.parametrize("coder", ["ans", "auto"])
def test_every_coder_stores_the_same_tensors(tmp_path, state, coder):
    recipe = Recipe(prune=0.8, bits=3, coder=coder)
    back, found = packed(tmp_path, state, recipe)
    assert same(back, state)
    assert found.format_version == 2
    assert "ans" in {layer.coder for layer in found.layers}
    back, huffman = packed(tmp_path, state, recipe, coder="huffman")
    assert same(back, state)
    assert found.file_bytes < huffman.file_bytes
    assert huffman.format_version == 1


@pytest.mark.parametrize("coder", ["huffman", "auto"])
def test_a_vector_that_has_a_codebook_is_coded(tmp_path, coder):
    centroids = torch.tensor([-0.3, 0.1, 0.77])
    bias = torch.where(torch.arange(500) % 3 > 0, centroids[torch.arange(500) * 7 % 3], 0.0)
    state = {"bias": bias, "other": torch.randn(5)}
    positions = bias.nonzero().reshape(-1)
    member = Member("bias", positions, positions * 7 % 3)
    book = Codebook(3, nn.Parameter(centroids), (member,))
    path = tmp_path / "m.dc"
    path.write_bytes(pack_state(state, [], [book], Recipe(), coder=coder))
    assert same(load_state_dict(path), state)
    layers = {layer.name: layer for layer in inspect(path).layers}
    assert (layers["bias"].kind, layers["other"].kind) == ("coded", "raw")
