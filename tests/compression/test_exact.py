"""What a tensor holds is stored exactly where nothing else is asked, and quantized weights are let be."""

import time

import numpy as np
import pytest
import torch
from listener import Listener
from torch import nn

import deepcompress as dc
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.coding.encoder import encode_coded, encode_plain
from deepcompress.coding.tensors import DType, Encoding
from deepcompress.compression.from_file import restore, settings_of
from deepcompress.compression.pipeline import compress
from deepcompress.compression.plan import plan
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import save
from deepcompress.errors import CheckpointError
from deepcompress.layers import compressible, scales_of
from deepcompress.networks.precision import Stored, remember, stored_of
from deepcompress.reading.arrays import TORCH_DTYPES
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.report.plots import _as_numbers

INF, NAN = float("inf"), float("nan")
PLAIN = Recipe(prune=0.5, bits=3, retrain=False)
KEPT = Recipe(retrain=False, layers=(LayerRule("*", keep=True),))


def stored(state, path, recipe=PLAIN):
    """The tensors of the file that these become, and what was said."""
    watch = Listener()
    compress_state(state, recipe, path, watch=watch)
    return dc.load_state_dict(path), watch.lines


def same(first, second):
    """Equal type, shape and bits."""
    raw = (value.contiguous().reshape(-1).view(torch.uint8) for value in (first, second))
    return (first.dtype, first.shape) == (second.dtype, second.shape) and torch.equal(*raw)


def random_bits(dtype, *shape, seed=0):
    limit = 2 if dtype is torch.bool else 256
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, limit, (*shape[:-1], shape[-1] * dtype.itemsize), dtype=torch.uint8, generator=generator)
    return raw.view(dtype)


WEIGHT = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))


# Types -----------------------------------------------------------------------------------------------------


def test_every_type_is_stored_exactly(tmp_path):
    state = {"fc.weight": WEIGHT}
    for dtype in TORCH_DTYPES.values():
        name = str(dtype).removeprefix("torch.")
        state |= {f"{name}.kept": random_bits(dtype, 3, 4), f"{name}.vector": random_bits(dtype, 5)}
        state |= {f"{name}.empty": random_bits(dtype, 0, 2), f"{name}.scalar": random_bits(dtype, 1).reshape(())}
    recipe = Recipe(prune=0.5, bits=3, retrain=False, layers=(LayerRule("*.kept", keep=True),))
    plan(state, recipe)
    found, _ = stored(state, tmp_path / "a.dc", recipe)
    assert list(found) == list(state)
    assert all(same(found[name], value) for name, value in state.items() if name != "fc.weight")


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
)
@pytest.mark.parametrize("coder", ["huffman", "ans"])
def test_float8_weights_are_pruned_and_shared(tmp_path, dtype, coder):
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    recipe = Recipe(prune=0.75, bits=3, retrain=False, coder=coder)
    assert plan({"w": weight}, recipe).pruned == pytest.approx(0.75)
    found = stored({"w": weight}, tmp_path / "a.dc", recipe)[0]["w"]
    values = found.float().unique()
    assert found.dtype is dtype
    assert 0.75 <= float((found.float() == 0).float().mean()) < 0.77
    assert len(values) <= 9
    assert (tmp_path / "a.dc").stat().st_size < 0.4 * weight.numel()
    # Shared, each weight has a value near its own.
    moved = (found.float() - weight.float())[found.float() != 0].abs().max()
    assert moved < 0.5 * weight.float().abs().max()
    again = compress_state({"w": found}, Recipe.from_dict(settings_of(tmp_path / "a.dc")), tmp_path / "b.dc")
    assert same(dc.load_state_dict(again.file)["w"], found)


def test_float8_is_entropy_coded(tmp_path):
    weight = (0.02 * torch.randn(300, 300, generator=torch.Generator().manual_seed(0))).to(torch.float8_e4m3fn)
    found, _ = stored({"w": weight}, tmp_path / "a.dc", KEPT)
    assert same(found["w"], weight)
    assert (tmp_path / "a.dc").stat().st_size < 0.85 * weight.numel()


# Values that are not finite --------------------------------------------------------------------------------


def test_only_weights_that_are_compressed_must_be_finite(tmp_path):
    mask = torch.full((8, 8), -INF).triu(1)
    state = {"fc.weight": WEIGHT, "fc.bias": torch.tensor([NAN, INF, 1.0]), "min_val": torch.tensor(INF)}
    for recipe in (PLAIN, Recipe(bits=3, retrain=False, small_bits=4), Recipe(retrain=False, small_dtype="float16")):
        found, _ = stored(state, tmp_path / "a.dc", recipe)
        assert same(found["fc.bias"], state["fc.bias"])
        assert found["min_val"] == INF
    with pytest.raises(CheckpointError, match=r"tensor mask: 28 of 64 values are NaN or infinite.*'mask:keep'"):
        plan({**state, "mask": mask}, PLAIN)
    kept = Recipe(bits=3, retrain=False, layers=(LayerRule("mask", keep=True),))
    plan({**state, "mask": mask}, kept)
    assert same(stored({**state, "mask": mask}, tmp_path / "a.dc", kept)[0]["mask"], mask)


class Causal(nn.Module):
    """Adds a buffer of minus infinities, as attention does."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("mask", torch.full((6, 6), -INF).triu(1))

    def forward(self, x):
        return (self.fc(x)[..., None] + self.mask).softmax(-1).sum(-2)


def test_buffers_of_a_network_are_stored_exactly(tmp_path):
    net = Causal()
    compress(net, None, None, Recipe(prune=0.5, bits=3, retrain=False), tmp_path / "a.dc")
    assert same(dc.load(tmp_path / "a.dc", into=Causal()).mask, net.mask)
    assert plan(net, Recipe(prune=0.5)).layers == 1


def test_a_rule_keep_works_on_everything(tmp_path):
    state = {"w": torch.tensor([[1.0, NAN], [INF, -0.0]]), "v": WEIGHT}
    found, said = stored(state, tmp_path / "a.dc", KEPT)
    assert all(same(found[name], state[name]) for name in state)
    assert said == ["no tensor is pruned or shared: all are stored exactly"]


# Weights that are quantized already ------------------------------------------------------------------------


def integers(dtype, *shape):
    return random_bits(dtype, *shape, seed=7)


def scale(*shape):
    return (0.01 * torch.rand(shape, generator=torch.Generator().manual_seed(3)) + 0.001).half()


FORMATS = {
    "gptq": {
        "l.0.proj.qweight": integers(torch.int32, 16, 64), "l.0.proj.qzeros": integers(torch.int32, 4, 8),
        "l.0.proj.scales": scale(4, 64), "l.0.proj.g_idx": torch.arange(128, dtype=torch.int32) // 32,
    },
    "awq": {
        "l.0.proj.qweight": integers(torch.int32, 128, 8), "l.0.proj.qzeros": integers(torch.int32, 4, 8),
        "l.0.proj.scales": scale(4, 64),
    },
    "compressed-tensors": {
        "m.weight_packed": integers(torch.int32, 64, 16), "m.weight_scale": scale(64, 4),
        "m.weight_zero_point": integers(torch.int8, 64, 4), "m.weight_shape": torch.tensor([64, 128]),
    },
    "float8": {
        "m.weight": random_bits(torch.uint8, 64, 64).remainder(120).view(torch.float8_e4m3fn),
        "m.weight_scale": scale(64, 1).float(),
    },
    "microscaling": {
        "m.blocks": integers(torch.float4_e2m1fn_x2, 64, 32), "m.scales": integers(torch.float8_e8m0fnu, 64, 2),
    },
    "bitsandbytes": {
        "m.weight": integers(torch.uint8, 2048, 1), "m.weight.absmax": scale(64).float(),
        "m.weight.quant_map": scale(16).float(), "m.weight.nested_absmax": scale(2, 2).float(),
    },
    "quanto": {"m.weight._data": integers(torch.int8, 64, 64), "m.weight._scale": scale(64, 1)},
    "half-quadratic": {"m.W_q": integers(torch.uint8, 32, 64), "m.scale": scale(1, 64), "m.zero": scale(1, 64)},
    "torch.ao": {
        "fc.weight": integers(torch.int8, 64, 64), "fc.weight_scale": scale(64, 1), "act.scale": torch.tensor(0.017),
        "act.zero_point": torch.tensor(3),
    },
    "fake": {"q.scale": scale(16).float(), "q.zero_point": torch.zeros(16, dtype=torch.int32)},
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "recipe", [PLAIN, Recipe(prune=0.5, bits=3, retrain=False, small_bits=4, small_dtype="float16")]
)
def test_quantized_weights_and_their_scales_are_let_be(tmp_path, kind, recipe):
    quantized = FORMATS[kind]
    state = {"embed.weight": WEIGHT, "embed.bias": WEIGHT[0].clone(), **quantized}
    found, said = stored(state, tmp_path / "a.dc", recipe)
    pruned = {"m.weight"} if kind == "float8" else set()
    assert all(same(found[name], value) for name, value in quantized.items() if name not in pruned)
    assert not torch.equal(found["embed.weight"], WEIGHT)
    floats = [name for name, value in quantized.items() if value.is_floating_point() and name not in pruned]
    floats = [name for name in floats if name != "m.blocks"]
    assert said[0].startswith(
        f"{len(floats)} tensor{'s are scales or zero points' if len(floats) > 1 else ' is a scale or a zero point'} of "
        "weights that are quantized already ("
    )
    assert said[0] in plan(state, recipe).notes


def test_masks_and_indices_have_no_scales():
    weight = {"a.weight": WEIGHT}
    assert scales_of({**weight, "a.mask": (WEIGHT > 0).to(torch.uint8).repeat(8, 8)}) == set()
    assert scales_of({**weight, "a.index": torch.arange(4096).reshape(64, 64)}) == set()
    assert scales_of({**weight, "a.small": torch.arange(100, dtype=torch.int32).reshape(10, 10)}) == set()
    assert scales_of({**weight, "b.qweight": integers(torch.int32, 64, 64)}) == set()
    assert scales_of({**weight, "a.qweight": integers(torch.int32, 64, 64)}) == {"a.weight"}
    norm = {"n.running_mean": torch.zeros(1), "n.num_batches_tracked": torch.tensor(1)}
    assert scales_of(norm) == set()


def test_a_rule_has_the_last_word_on_scales():
    state = FORMATS["gptq"]
    asked = Recipe(bits=3, layers=(LayerRule("*.scales", bits=4),))
    assert [layer.name for layer in compressible(state, asked)] == ["l.0.proj.scales"]
    assert compressible(state, Recipe(bits=3)) == []


def test_a_checkpoint_of_quantized_weights_alone(tmp_path):
    weight = (3 * torch.randn(200, 200, generator=torch.Generator().manual_seed(0))).round().to(torch.int8)
    state = {"fc.weight": weight, "fc.weight_scale": scale(200, 1)}
    found, _ = stored(state, tmp_path / "a.dc")
    assert all(same(found[name], value) for name, value in state.items())
    share = np.unique(weight.numpy(), return_counts=True)[1] / weight.numel()
    entropy = float(-(share * np.log2(share)).sum()) / 8
    assert (tmp_path / "a.dc").stat().st_size < 1.02 * entropy * weight.numel() + 700


# What tensors have in common -------------------------------------------------------------------------------


def test_equal_tensors_are_stored_once_and_stay_two(tmp_path):
    state = {"a": WEIGHT.repeat(4, 4), "b": WEIGHT.repeat(4, 4).clone(), "c": torch.ones(3)}
    state["d"] = state["b"]
    found, _ = stored(state, tmp_path / "a.dc", KEPT)
    assert all(same(found[name], value) for name, value in state.items())
    assert found["a"].data_ptr() != found["b"].data_ptr() == found["d"].data_ptr()
    with ModelFile(tmp_path / "a.dc") as file:
        assert [file.entry(name).info.encoding for name in "abd"] == [Encoding.PLANES, Encoding.COPY, Encoding.ALIAS]
    assert (tmp_path / "a.dc").stat().st_size < 1.1 * state["a"].nbytes


def test_going_on_from_a_copy_of_a_shared_layer(tmp_path):
    """Both have a codebook of their own, though the file has it once."""
    weight = torch.randn(80, 90, generator=torch.Generator().manual_seed(0))
    found, _ = stored({"a": weight, "b": weight.clone()}, tmp_path / "a.dc")
    with ModelFile(tmp_path / "a.dc") as file:
        assert file.entry("b").info.encoding is Encoding.COPY
    books = restore(tmp_path / "a.dc", found)
    assert [[member.name for member in book.members] for book in books] == [["a"], ["b"]]
    settings = settings_of(tmp_path / "a.dc")
    assert [set(rule) for rule in settings["layer"]] == [{"pattern", "levels"}] * 2
    again, _ = stored(found, tmp_path / "b.dc", Recipe.from_dict(settings))
    assert all(same(again[name], found[name]) for name in found)


def test_rows_that_were_never_trained(tmp_path):
    embedding = 0.04 * torch.randn(400, 96, generator=torch.Generator().manual_seed(0))
    embedding[::3] = embedding[::3].half().float()
    embedding[1::10] = 0
    state = {"embed.weight": embedding}
    found, _ = stored(state, tmp_path / "a.dc", KEPT)
    assert same(found["embed.weight"], embedding)
    with ModelFile(tmp_path / "a.dc") as file:
        assert file.entry("embed.weight").info.encoding is Encoding.ROWS
    spoilt = encode_plain(embedding.flatten().numpy(), DType.FLOAT32)
    assert (tmp_path / "a.dc").stat().st_size < 0.9 * len(spoilt.section)


def test_an_empty_matrix_when_going_on(tmp_path):
    state = {"w": WEIGHT, "none": torch.zeros(0, 5), "no": torch.zeros(4, 0, 2)}
    found, _ = stored(state, tmp_path / "a.dc")
    settings = settings_of(tmp_path / "a.dc")
    assert [rule["pattern"] for rule in settings["layer"]] == ["w"]
    assert plan(found, Recipe.from_dict(settings), going_on=True).layers == 1
    again, _ = stored(found, tmp_path / "b.dc", Recipe.from_dict(settings))
    assert all(same(again[name], found[name]) for name in state)


# Many tensors ----------------------------------------------------------------------------------------------


def test_settings_of_thousands_of_layers_take_no_time(tmp_path):
    """The time grows with the number of tensors, not its square: 8,000 here."""
    book = np.array([-1, 1], "<f4")
    values = np.tile(np.array([[0, 1], [-1, 0]], "<f4"), (2, 2))
    weight, bias = encode_coded(values, DType.FLOAT32, book), encode_plain(np.ones(3, "<f4"), DType.FLOAT32)
    names = [f"model.layers.{number}.[x]" for number in range(4_000)]
    save(tmp_path / "a.dc", [(f"{name}.{end}", part) for name in names for end, part in (("w", weight), ("b", bias))])
    started = time.process_time()
    recipe = Recipe.from_dict(settings_of(tmp_path / "a.dc"))
    assert len(recipe.layers) == 4_000
    state = dc.load_state_dict(tmp_path / "a.dc")
    layers = compressible(state, recipe)
    assert len(layers) == 4_000
    assert {recipe.levels_of(layer.name, False) for layer in layers} == {
        2
    } or weight.info.encoding is not Encoding.CODED
    assert time.process_time() - started < 10


# A network computes in float32, and its file keeps its types ------------------------------------------------


def test_what_has_not_moved_keeps_the_digits_of_a_double():
    net, before = nn.Linear(3, 2), {"weight": torch.rand(2, 3).double(), "bias": torch.rand(2, dtype=torch.float64)}
    net.load_state_dict(before)
    remember(net, before)
    moved = net.bias.detach().clone()
    moved[0] += 1
    found = stored_of(net).cast("bias", moved)
    assert found.dtype is torch.float64
    assert (float(found[1]), float(found[0])) == (float(before["bias"][1]), float(moved[0]))
    assert stored_of(net).cast("weight", net.weight.detach(), shared=True).equal(before["weight"].float().double())


def test_a_number_that_a_type_cannot_hold_keeps_its_own():
    half = Stored({"w": torch.float16, "v": torch.float16})
    assert half.cast("w", torch.tensor([1e6])).dtype is torch.float32
    assert half.cast("v", torch.tensor([INF, 2.0])).dtype is torch.float16
    assert half.cast("other", torch.tensor([2.0])).dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_the_types_of_a_network_are_kept(tmp_path, flat_train, flat_test, mlp, dtype):
    before = {name: value.to(dtype) for name, value in mlp.state_dict().items()}
    mlp.load_state_dict(before)
    remember(mlp, before)
    recipe = Recipe(prune=0.5, bits=3, epochs=1, finetune_epochs=1, layers=(LayerRule("fc3", keep=True),))
    result = compress(mlp, flat_train, flat_test, recipe, tmp_path / "a.dc")
    found = dc.load_state_dict(tmp_path / "a.dc")
    assert {value.dtype for value in found.values()} == {dtype}
    assert result.accuracy_after is not None
    untrained = compress(mlp, None, None, Recipe(prune=0.5, bits=3, retrain=False), tmp_path / "b.dc")
    left = dc.load_state_dict(untrained.file)
    assert all(same(left[name], before[name]) for name in before if name.endswith("bias"))


# What others can take --------------------------------------------------------------------------------------


def test_a_type_that_safetensors_has_not_is_named(tmp_path):
    state = {"w": WEIGHT, "c": random_bits(torch.complex128, 2, 2), "f": random_bits(torch.float8_e8m0fnu, 2, 2)}
    with pytest.raises(CheckpointError, match=r"tensor c has dtype torch\.complex128, which .* write a .pt file"):
        save_checkpoint(tmp_path / "a.safetensors", Checkpoint(state))
    assert not (tmp_path / "a.safetensors").exists()
    save_checkpoint(tmp_path / "a.pt", Checkpoint(state))
    save_checkpoint(tmp_path / "b.safetensors", Checkpoint({"w": WEIGHT, "f": state["f"]}))
    for file in ("a.pt", "b.safetensors"):
        found = load_checkpoint(tmp_path / file).state
        assert all(same(found[name], state[name]) for name in found)


def test_pictures_of_float8_show_its_numbers():
    bits = np.array([0x30, 0xC0, 0], "|u1")
    assert _as_numbers(bits, DType.FLOAT8_E4M3FN).tolist() == [0.5, -2, 0]
    assert _as_numbers(bits, DType.FLOAT8_E5M2).tolist() == [0.125, -2, 0]
