"""The whole, on small networks: what the result says is what is in the file."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from samples import CLASSES, Mlp, batches, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import (
    CheckpointError,
    DataError,
    DeepCompressError,
    FormatError,
    NetworkError,
    OutputError,
    RecipeError,
)
from deepcompress.networks.precision import remember
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import fit
from deepcompress.training.progress import Progress

QUICK = Recipe(prune=0.7, bits=3, epochs=2, iterations=2, finetune_epochs=1, batch_size=32, seed=3)


def trained(model, data):
    fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 3, stage="train")
    return model


@pytest.fixture
def dense_mlp(flat_train):
    torch.manual_seed(0)
    return trained(Mlp(), flat_train)


@pytest.fixture(params=[False, True], ids=["plain", "batch norm"])
def dense_conv(request, image_train):
    torch.manual_seed(0)
    return trained(conv_net(batch_norm=request.param), image_train)


def distinct(weight):
    return len(torch.unique(weight[weight != 0]))


def check_file(result, path):
    assert result.file == str(path)
    assert result.file_bytes == path.stat().st_size
    assert result.ratio == result.dense_bytes / path.stat().st_size
    info = dc.inspect(path)
    assert sum(info.sections.values()) == path.stat().st_size
    assert info == result.breakdown
    assert info.ratio == result.ratio


def test_result_file_and_reloaded_network_agree(dense_conv, image_train, image_test, tmp_path):
    path = tmp_path / "m.dc"
    before = {name: value.clone() for name, value in dense_conv.state_dict().items()}
    dense_conv.train()
    result = compress(dense_conv, image_train, image_test, QUICK, path, network="mine", data="blobs")
    check_file(result, path)
    assert result.dense_bytes == sum(
        value.numel() * (4 if value.is_floating_point() else 8) for value in before.values()
    )
    assert dense_conv.training
    assert all(torch.equal(value, before[name]) for name, value in dense_conv.state_dict().items())

    again = dc.load(path, into=copy.deepcopy(dense_conv))
    found = evaluate(again, image_test)
    assert result.accuracy_after == found.accuracy
    assert result.accuracy_before == evaluate(dense_conv, image_test).accuracy
    assert found.accuracy > 90

    assert [stage.stage for stage in result.stages] == ["dense", "prune", "quantize", "encode"]
    assert result.stages[0].bytes == result.dense_bytes
    assert result.stages[-1].bytes == result.file_bytes
    sizes = [stage.bytes for stage in result.stages]
    assert sizes == sorted(sizes, reverse=True)
    assert all(stage.ratio == result.dense_bytes / stage.bytes for stage in result.stages)

    state = dc.load_state_dict(path)
    weights = {name: value for name, value in state.items() if value.ndim > 1}
    total = sum(value.numel() for value in weights.values())
    assert sum(int((value != 0).sum()) for value in weights.values()) <= total - round(0.7 * total)
    assert all(1 <= distinct(value) <= 8 for value in weights.values())


def test_batch_norm_round_trip_gives_equal_outputs(image_train, image_test, tmp_path):
    torch.manual_seed(0)
    model = trained(conv_net(batch_norm=True), image_train)
    recipe = Recipe(prune=0, bits="none", retrain=False)
    compress(model, None, None, recipe, tmp_path / "m.dc")
    again = dc.load(tmp_path / "m.dc", into=conv_net(batch_norm=True))
    x = image_test[0][0]
    assert torch.equal(again(x), model.eval()(x))
    assert again[1].num_batches_tracked == model[1].num_batches_tracked > 0


def test_one_seed_one_file(dense_mlp, flat_train, flat_test, tmp_path):
    def run(name, seed, data=flat_train):
        recipe = Recipe(prune=0.7, bits=3, epochs=2, finetune_epochs=1, init="random", seed=seed)
        torch.manual_seed(ord(name[0]))  # whatever was drawn before
        compress(dense_mlp, data, flat_test, recipe, tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = run("a.dc", 1)
    assert run("b.dc", 1) == first
    assert run("c.dc", 2) != first  # dropout and the random init follow the seed


def test_watching_and_measuring_change_nothing(dense_mlp, flat_train, flat_test, tmp_path):
    compress(dense_mlp, flat_train, flat_test, QUICK, tmp_path / "a.dc", test_loader=flat_train, watch=Progress())
    result = compress(dense_mlp, flat_train, None, QUICK, tmp_path / "b.dc")
    assert (tmp_path / "a.dc").read_bytes() == (tmp_path / "b.dc").read_bytes()
    assert (result.accuracy_before, result.accuracy_after) == (None, None)


def test_the_test_data_is_what_is_reported(dense_mlp, flat_train, flat_test, tmp_path):
    x, y = flat_test[0]
    wrong = [(x, (y + 1) % CLASSES)]
    result = compress(dense_mlp, flat_train, flat_test, QUICK, tmp_path / "a.dc", test_loader=wrong)
    assert result.accuracy_before < 20 < evaluate(dense_mlp, flat_test).accuracy


def test_the_result_as_plain_data(dense_mlp, flat_train, flat_test, tmp_path):
    recipe = Recipe(prune=0.7, bits=3, epochs=1, finetune_epochs=0, seed=9, layers=(LayerRule("fc3", prune=0.2),))
    result = compress(dense_mlp, flat_train, flat_test, recipe, tmp_path / "a.dc")
    plain = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    keys = {
        "file",
        "file_bytes",
        "dense_bytes",
        "ratio",
        "accuracy_before",
        "accuracy_after",
        "stages",
        "seed",
        "recipe",
    }
    assert keys <= set(plain)
    assert plain["seed"] == 9
    assert Recipe.from_dict(plain["recipe"]) == recipe
    assert all(set(stage) >= {"stage", "bytes", "ratio", "accuracy", "seconds"} for stage in plain["stages"])


def test_without_retraining_the_network_is_only_measured(dense_mlp, flat_test, tmp_path):
    recipe = Recipe(prune=0.5, bits=4, retrain=False)
    result = compress(dense_mlp, None, flat_test, recipe, tmp_path / "a.dc")
    assert result.accuracy_after == evaluate(dc.load(tmp_path / "a.dc", into=Mlp()), flat_test).accuracy
    bare = compress_state(dense_mlp.state_dict(), recipe, tmp_path / "b.dc")
    assert (tmp_path / "a.dc").read_bytes() == (tmp_path / "b.dc").read_bytes()
    assert (bare.accuracy_before, bare.accuracy_after) == (None, None)
    with pytest.raises(RecipeError, match=r"retraining needs training data"):
        compress(dense_mlp, None, flat_test, Recipe(prune=0.5), tmp_path / "a.dc")


@pytest.mark.parametrize("setting", ["uniform", "std", "global"])
def test_other_ways_to_spread(dense_mlp, tmp_path, setting):
    where = {"scope": "global"} if setting == "global" else {"distribution": setting}
    compress_state(dense_mlp.state_dict(), Recipe(prune=0.75, retrain=False, **where), tmp_path / "a.dc")
    weights = [value for value in dc.load_state_dict(tmp_path / "a.dc").values() if value.ndim > 1]
    total = sum(value.numel() for value in weights)
    assert sum(int((value == 0).sum()) for value in weights) == round(0.75 * total)


def test_channels_last_weights(image_train, image_test, tmp_path):
    torch.manual_seed(0)
    model = trained(conv_net(), image_train)
    compress(model, image_train, image_test, QUICK, tmp_path / "a.dc")
    model = model.to(memory_format=torch.channels_last)
    assert not model[3].weight.is_contiguous()
    result = compress(model, image_train, image_test, QUICK, tmp_path / "b.dc")
    again = dc.load(tmp_path / "b.dc", into=conv_net())
    assert result.accuracy_after == evaluate(again, image_test).accuracy
    compress_state(model.state_dict(), Recipe(retrain=False), tmp_path / "c.dc")
    compress_state(conv_net_like(model), Recipe(retrain=False), tmp_path / "d.dc")
    assert (tmp_path / "c.dc").read_bytes() == (tmp_path / "d.dc").read_bytes()


def conv_net_like(model):
    return {name: value.contiguous() for name, value in model.state_dict().items()}


class Buffered(nn.Module):
    """A buffer that is a layer by its shape, and a view by its layout."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, CLASSES)
        self.register_buffer("table", torch.randn(5, 8).t())

    def forward(self, x):
        return self.fc(x)


def test_buffers_of_any_layout_are_left_alone_unless_a_rule_names_them(flat_train, tmp_path):
    model = Buffered()
    compress(model, flat_train, flat_train, replace(QUICK, small_dtype="float16"), tmp_path / "a.dc")
    assert torch.equal(dc.load_state_dict(tmp_path / "a.dc")["table"], model.table)
    recipe = replace(QUICK, layers=(LayerRule("tab*", prune=0.7),))
    compress(model, flat_train, flat_train, recipe, tmp_path / "a.dc")
    assert distinct(dc.load_state_dict(tmp_path / "a.dc")["table"]) <= 8


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(12, 12, bias=False)
        self.again = nn.Linear(12, 12, bias=False)
        self.again.weight = self.embed.weight
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(torch.relu(self.again(torch.relu(self.embed(x)))))


def test_tied_weights_are_trained_tied_and_stored_once(flat_train, flat_test, tmp_path):
    torch.manual_seed(0)
    model = trained(Tied(), flat_train)
    result = compress(model, flat_train, flat_test, QUICK, tmp_path / "a.dc")
    assert result.dense_bytes == 4 * (144 + 12 * CLASSES + CLASSES)
    again = dc.load(tmp_path / "a.dc", into=Tied())
    assert again.embed.weight is again.again.weight
    assert result.accuracy_after == evaluate(again, flat_test).accuracy


def test_a_tensor_under_many_names(tmp_path):
    w = torch.randn(30, 20)
    state = dict.fromkeys("abcdef", w)
    result = compress_state(state, Recipe(prune=0.5, retrain=False), tmp_path / "a.dc")
    assert result.dense_bytes == w.numel() * 4
    back = dc.load_state_dict(tmp_path / "a.dc")
    assert list(back) == list("abcdef")
    assert len({value.data_ptr() for value in back.values()}) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_come_back_as_they_were(dtype, tmp_path, mlp):
    state = mlp.to(dtype).state_dict()
    recipe = Recipe(prune=0.5, bits=3, retrain=False)
    result = compress_state(state, recipe, tmp_path / "a.dc")
    check_file(result, tmp_path / "a.dc")
    back = dc.load_state_dict(tmp_path / "a.dc")
    for name, value in state.items():
        assert back[name].dtype is dtype
        if value.ndim == 1:
            assert torch.equal(back[name], value)
        else:
            assert distinct(back[name]) <= 8
            assert ((back[name] == 0) | (torch.sign(back[name]) == torch.sign(value))).all()


def test_odd_tensors(tmp_path):
    state = {
        "constant": torch.full((20, 20), 0.3),
        "zeros": torch.zeros(20, 20),
        "one": torch.tensor([[2.5]]),
        "w": torch.randn(30, 30),
        "count": torch.tensor(12345),
        "ids": torch.arange(12).reshape(3, 4),
        "mask": torch.tensor([[True, False], [False, True]]),
        "nothing": torch.zeros(0, 3),
        "scalar": torch.tensor(0.1),
        "b": torch.tensor([0.1, -0.0]),
    }
    result = compress_state(state, Recipe(prune=0.4, bits=2, retrain=False), tmp_path / "a.dc")
    check_file(result, tmp_path / "a.dc")
    back = dc.load_state_dict(tmp_path / "a.dc")
    assert list(back) == list(state)
    for name in ("zeros", "one", "count", "ids", "mask", "nothing", "scalar", "b"):
        assert back[name].dtype is state[name].dtype
        assert torch.equal(back[name], state[name])
    assert torch.signbit(back["b"]).tolist() == [False, True]
    assert set(back["constant"].flatten().tolist()) <= {0.0, float(torch.tensor(0.3))}
    assert distinct(back["w"]) <= 4


def test_an_already_pruned_and_shared_network_is_recoded_exactly(dense_mlp, flat_train, tmp_path):
    compress(dense_mlp, flat_train, None, QUICK, tmp_path / "a.dc")
    state = dc.load_state_dict(tmp_path / "a.dc")
    for bits in (3, 8):
        result = compress_state(state, Recipe(prune=0, bits=bits, retrain=False), tmp_path / "b.dc")
        back = dc.load_state_dict(tmp_path / "b.dc")
        assert all(torch.equal(value, back[name]) for name, value in state.items())
        assert result.file_bytes == (tmp_path / "a.dc").stat().st_size


def test_no_sharing(dense_mlp, flat_train, flat_test, tmp_path):
    recipe = Recipe(prune=0.7, bits="none", epochs=1)
    result = compress(dense_mlp, flat_train, flat_test, recipe, tmp_path / "a.dc")
    state = dc.load_state_dict(tmp_path / "a.dc")
    assert distinct(state["fc1.weight"]) > 30
    assert result.stages[2].accuracy == result.stages[1].accuracy
    compress_state(dense_mlp.state_dict(), Recipe(prune=0, bits="none", retrain=False), tmp_path / "b.dc")
    assert all(torch.equal(v, dense_mlp.state_dict()[k]) for k, v in dc.load_state_dict(tmp_path / "b.dc").items())


def test_halves_for_small_tensors(dense_mlp, tmp_path):
    state = dense_mlp.state_dict()
    full = compress_state(state, Recipe(prune=0.5, retrain=False), tmp_path / "a.dc")
    half = compress_state(state, Recipe(prune=0.5, retrain=False, small_dtype="float16"), tmp_path / "b.dc")
    assert half.file_bytes < full.file_bytes
    assert half.dense_bytes == full.dense_bytes
    back = dc.load_state_dict(tmp_path / "b.dc")
    assert torch.equal(back["fc1.bias"], state["fc1.bias"].half())
    assert torch.equal(back["fc1.weight"], dc.load_state_dict(tmp_path / "a.dc")["fc1.weight"])
    network = dc.load(tmp_path / "b.dc", into=Mlp())
    assert network.fc1.bias.dtype is torch.float32


def test_fixed_widths_are_not_smaller_than_huffman(dense_mlp, tmp_path):
    state = dense_mlp.state_dict()
    huffman = compress_state(state, Recipe(prune=0.5, retrain=False), tmp_path / "a.dc")
    fixed = compress_state(state, Recipe(prune=0.5, retrain=False, coder="fixed"), tmp_path / "b.dc")
    assert fixed.file_bytes >= huffman.file_bytes
    assert fixed.file_bytes == fixed.stages[2].bytes == huffman.stages[2].bytes
    first, second = (dc.load_state_dict(tmp_path / name) for name in ("a.dc", "b.dc"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("state", "kind", "reason"),
    [
        ({"b": torch.ones(3)}, CheckpointError, "there is nothing to compress"),
        ({}, CheckpointError, "there is nothing to compress"),
        ({"w": torch.tensor([[1.0, float("nan")]])}, CheckpointError, "tensor w: 1 of 2 values are NaN"),
        ({"w": torch.tensor([[1.0, -float("inf")]]).half()}, CheckpointError, "tensor w: 1 of 2 values are NaN"),
        ({"w": torch.tensor([[1.0, float("nan")]]).to(torch.float8_e5m2)}, CheckpointError, "tensor w: 1 of 2 values"),
        ({"w" * 600: torch.randn(3, 3)}, CheckpointError, "allowed are 1 to 512 bytes of .* it has 600; rename it"),
        ({"a\nb": torch.randn(3, 3)}, CheckpointError, r"tensor name 'a\\nb' cannot be stored"),
        ({"": torch.randn(3, 3)}, CheckpointError, "tensor name '' cannot be stored"),
        ({"w": torch.zeros((1,) * 9)}, CheckpointError, "tensor w: it has 9 dimensions; at most 8"),
        ({"w": torch.ones(3, 3).to_sparse()}, CheckpointError, "tensor w: it is torch.sparse_coo"),
        ({"w": torch.empty(3, 3, device="meta")}, CheckpointError, "tensor w: it is on the meta device"),
        ({"w": [1.0]}, CheckpointError, "entry w of the state_dict is a list; only tensors can be stored"),
    ],
)
def test_what_cannot_be_compressed_leaves_the_old_file(state, kind, reason, tmp_path):
    path = tmp_path / "a.dc"
    path.write_bytes(b"what was here before")
    with pytest.raises(kind, match=reason):
        compress_state(state, Recipe(prune=0, retrain=False), path)
    assert path.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [path]


def test_training_that_fails_leaves_the_old_file(mlp, flat_train, tmp_path):
    path = tmp_path / "a.dc"
    path.write_bytes(b"what was here before")
    for recipe, reason in (
        (Recipe(prune=0.5, epochs=2, lr=1e30), "lower the learning rate"),
        (Recipe(prune=0.5, layers=(LayerRule("conv*"),)), "matches no layer"),
        (Recipe(prune=0.99999), "prune less"),
    ):
        with pytest.raises(DeepCompressError, match=reason):
            compress(mlp, flat_train, None, recipe, path)
    assert path.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_found_before_any_work(mlp, flat_train, tmp_path):
    class Untouched(list):
        def __iter__(self):
            raise AssertionError("work was done")

    for path in (tmp_path / "no" / "a.dc", tmp_path):
        with pytest.raises(OutputError, match="cannot write"):
            compress(mlp, Untouched(flat_train), None, QUICK, path)


def test_a_network_name_that_no_file_can_hold(mlp, tmp_path):
    with pytest.raises(FormatError, match="network"):
        compress_state(mlp.state_dict(), Recipe(retrain=False), tmp_path / "a.dc", network="x" * 300)
    assert not (tmp_path / "a.dc").exists()


def test_the_readme_api(tmp_path, flat_train, flat_test, dense_mlp):
    recipe = dc.Recipe(prune=0.8, bits=4, epochs=1, finetune_epochs=1)
    dc.compress(dense_mlp, flat_train, flat_test, recipe=recipe, path=tmp_path / "m.dc")
    network = dc.load(tmp_path / "m.dc", into=Mlp())
    assert evaluate(network, batches(64, seed=9)).accuracy > 80


def test_extra_state_that_is_no_plain_data_is_refused(tmp_path):
    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return {"steps": {3}}

    with pytest.raises(CheckpointError, match=r"entry 0\._extra_state of the state_dict \(a dict\) is no tensor"):
        compress(torch.nn.Sequential(Extra(4, 4)), None, None, Recipe(retrain=False), tmp_path / "m.dc")


def test_a_network_of_a_half_precision_checkpoint_knows_what_was_given(dense, tmp_path):
    work = copy.deepcopy(dense)
    remember(work, {name: value.bfloat16() for name, value in work.state_dict().items()})
    result = compress(work, None, None, Recipe(prune=0.5, retrain=False), tmp_path / "m.dc")
    assert result.source_bytes == result.dense_bytes / 2


@pytest.mark.parametrize("call", [dc.compress, lambda model, *rest: dc.Compressor(model)])
def test_what_is_no_network_is_refused_in_one_line(call, dense, flat_train, tmp_path):
    with pytest.raises(NetworkError, match=r"the network is a OrderedDict; give a torch\.nn\.Module"):
        call(dense.state_dict(), flat_train, None, Recipe(), tmp_path / "x.dc")


def test_arrays_of_numpy_are_refused_in_one_line(dense, flat_train, tmp_path):
    arrays = [(x.numpy(), y.numpy()) for x, y in flat_train]
    with pytest.raises(DataError, match=r"the training data gives arrays of numpy; .* torch\.from_numpy"):
        dc.compress(dense, arrays, None, Recipe(), tmp_path / "x.dc")
