"""Files into networks of every kind: those that take them do so as torch does, and the others are one line."""

from __future__ import annotations

import pytest
import torch
from samples import CLASSES, Mlp
from torch import nn

import deepcompress as dc
from deepcompress.compression.plan import plan
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.reader import ModelFile
from deepcompress.errors import CheckpointError, FormatError, NetworkError
from deepcompress.prune.shrink import shrink
from deepcompress.reading.fitting import fill
from deepcompress.recipe import Recipe

EXACT = Recipe(prune=0, bits="none", retrain=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("any") / "m.dc"
    compress_state(Mlp().state_dict(), EXACT, path)
    return path


def same(network, path):
    state = dc.load_state_dict(path)
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


# Networks without values ----------------------------------------------------------------------------------------


def test_onto_the_meta_device(file):
    with torch.device("meta"):
        network = Mlp()
    network.fc1.weight.requires_grad_(False)
    loaded = dc.load(file, into=network)
    assert loaded is network
    assert same(loaded, file)
    assert {value.device.type for value in loaded.parameters()} == {"cpu"}
    assert [value.requires_grad for value in loaded.parameters()] == [False, True, True, True, True, True]
    assert loaded(torch.randn(2, 12)).shape == (2, CLASSES)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, tokens):
        return self.head(self.embed(tokens)) * self.scale


def test_tied_weights_on_the_meta_device_stay_tied_and_what_no_file_has_is_named(tmp_path):
    compress_state(Tied().state_dict(), EXACT, tmp_path / "m.dc")
    with torch.device("meta"):
        network = Tied()
    with pytest.raises(NetworkError, match=r"^tensor scale of the network Tied is on the meta device, and"):
        dc.load(tmp_path / "m.dc", into=network)
    assert network.head.weight.is_meta
    network.scale = torch.tensor(2.0)
    loaded = dc.load(tmp_path / "m.dc", into=network)
    assert loaded.head.weight is loaded.embed.weight
    assert same(loaded, tmp_path / "m.dc")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_lazy_modules_take_their_shapes(tmp_path, device):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()
    compress_state(made.state_dict(), EXACT, tmp_path / "m.dc")
    with torch.device(device):
        lazy = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Linear(5, 3))
    loaded, x = dc.load(tmp_path / "m.dc", into=lazy), torch.randn(4, 7)
    assert torch.equal(loaded(x), made(x))


def test_networks_without_values_cannot_be_compressed(tmp_path):
    with torch.device("meta"):
        network = Mlp()
    lazy = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2))
    for step in (
        lambda network: dc.compress(network, None, None, Recipe(retrain=False), tmp_path / "m.dc"),
        lambda network: plan(network, Recipe()),
        dc.Compressor,
    ):
        with pytest.raises(NetworkError, match=r"^tensor fc1.weight of the network Mlp is on the meta device and"):
            step(network)
        with pytest.raises(NetworkError, match=r"^tensor 1.weight of the network Sequential has no shape yet"):
            step(lazy)
    assert not (tmp_path / "m.dc").exists()


def test_tensors_that_are_not_dense_are_named(tmp_path):
    network = nn.Linear(4, 3)
    network.register_buffer("mask", torch.eye(3).to_sparse())
    with pytest.raises(CheckpointError, match=r"^tensor mask is sparse_coo; only dense tensors can be stored"):
        dc.compress(network, None, None, Recipe(retrain=False), tmp_path / "m.dc")
    network = nn.Linear(4, 3)
    network.register_buffer("parts", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))
    with pytest.raises(CheckpointError, match=r"^tensor parts is (nested|jagged)"):
        plan(network)


# Inference mode and wrappers ------------------------------------------------------------------------------------


def test_networks_of_inference_mode(file):
    with torch.inference_mode():
        network = Mlp()
        assert same(dc.load(file, into=Mlp()), file)
    assert same(dc.load(file, into=network), file)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_compressing_inside_of_such_a_mode_is_as_outside(mode, flat_train, tmp_path):
    torch.manual_seed(0)
    network, recipe = Mlp(), Recipe(prune=0.5, bits=3, epochs=1, iterations=1, finetune_epochs=1)
    dc.compress(network, flat_train, None, recipe, tmp_path / "outside.dc")
    with mode():
        dc.compress(network, flat_train, None, recipe, tmp_path / "inside.dc")
    assert (tmp_path / "inside.dc").read_bytes() == (tmp_path / "outside.dc").read_bytes()


WRAPPERS = {
    "data parallel": nn.DataParallel,
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "both": lambda network: torch.compile(nn.DataParallel(network), backend="eager"),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_networks(kind, file, flat_train, tmp_path):
    torch.manual_seed(0)
    network, recipe = Mlp(), Recipe(prune=0.5, bits=3, epochs=1, iterations=1, finetune_epochs=1)
    wrapped = WRAPPERS[kind](network)
    dc.compress(network, flat_train, flat_train, recipe, tmp_path / "plain.dc")
    dc.compress(wrapped, flat_train, flat_train, recipe, tmp_path / "wrapped.dc")
    assert (tmp_path / "wrapped.dc").read_bytes() == (tmp_path / "plain.dc").read_bytes()
    assert plan(wrapped, recipe) == plan(network, recipe)
    assert shrink(wrapped, flat_train[0][0]).before == shrink(network, flat_train[0][0]).before
    inner = Mlp()
    loaded = dc.load(file, into=WRAPPERS[kind](inner))
    assert type(loaded) is type(wrapped)
    if kind != "averaged":  # which averages a copy
        assert same(inner, file)


# Strict, or not --------------------------------------------------------------------------------------------------


class More(Mlp):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(2, 2)


class Less(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(12, 32)


def test_what_is_missing_or_too_much_is_told_and_the_rest_is_loaded(file):
    with pytest.raises(NetworkError, match=r"has no tensor extra.weight, which the network More needs"):
        dc.load(file, into=More())
    network = More()
    before = network.extra.weight.clone()
    with pytest.warns(UserWarning, match=r"m.dc: has no tensor extra.weight, extra.bias, which the network More needs"):
        loaded = dc.load(file, into=network, strict=False)
    assert torch.equal(loaded.extra.weight, before)
    assert torch.equal(loaded.fc1.weight, dc.load_state_dict(file)["fc1.weight"])
    with pytest.warns(UserWarning, match=r"has a tensor fc2.weight, fc2.bias, fc3.weight, fc3.bias, which"):
        assert torch.equal(dc.load(file, into=Less(), strict=False).fc1.weight, loaded.fc1.weight)
    with pytest.raises(NetworkError, match=r"fc1.weight has shape \(32, 12\), but the network Mlp needs \(32, 5\)"):
        dc.load(file, into=Mlp(inputs=5), strict=False)


def test_what_a_network_raises_while_it_loads_is_one_line(file):
    class Stubborn(Mlp):
        def _load_from_state_dict(self, *others):
            raise ValueError("not today")

    with pytest.raises(NetworkError, match=r"Stubborn cannot load it \(ValueError: not today\)$") as told:
        dc.load(file, into=Stubborn())
    assert isinstance(told.value.__cause__, ValueError)


# Smaller ---------------------------------------------------------------------------------------------------------


def tokens(rows):
    return nn.Sequential(nn.Embedding(rows, 6), nn.Linear(6, 3))


@pytest.mark.parametrize("narrow", [lambda: tokens(100), lambda: nn.Sequential(nn.Embedding(120, 4), nn.Linear(4, 3))])
def test_another_network_is_not_taken_for_a_smaller_one(narrow, tmp_path):
    compress_state(narrow().state_dict(), EXACT, tmp_path / "m.dc")
    with pytest.raises(NetworkError, match=r"0.weight has shape .* \(only what export --shrink has made"):
        dc.load(tmp_path / "m.dc", into=tokens(120))


def test_rows_of_an_embedding_are_never_fewer(tmp_path):
    compress_state(tokens(100).state_dict(), EXACT, tmp_path / "m.dc", smaller=True)
    with pytest.raises(NetworkError, match=r"has shape \(100, 6\), but the network Sequential needs \(120, 6\)$"):
        dc.load(tmp_path / "m.dc", into=tokens(120))


def narrowed():
    """A network of which half of each hidden layer is gone."""
    torch.manual_seed(0)
    network = Mlp().eval()
    with torch.no_grad():
        network.fc2.weight[:, :16] = 0
        network.fc3.weight[:, :8] = 0
    return network, shrink(network, torch.randn(2, 12)).network


@pytest.mark.parametrize("way", ["network", "compressor", "tensors", "recoded", "again"])
def test_a_file_of_a_smaller_network_says_so(way, tmp_path):
    whole, smaller = narrowed()
    path, x = tmp_path / "m.dc", torch.randn(3, 12)
    if way == "compressor":
        dc.Compressor(smaller, EXACT).finalize(path)
    elif way == "tensors":
        compress_state(smaller.state_dict(), EXACT, path, smaller=True)
    else:
        dc.compress(smaller, None, None, EXACT, path)
    if way == "recoded":
        dc.recode(path)
    if way == "again":
        dc.compress(dc.load(path, into=Mlp()), None, None, EXACT, path, start=path)
    with ModelFile(path) as opened:
        assert [extension.name for extension in opened.header.extensions] == ["smaller"]
    loaded = dc.load(path, into=Mlp())
    assert loaded.fc1.out_features == 16
    torch.testing.assert_close(loaded(x), whole(x))


def test_a_file_of_a_whole_network_says_nothing(file):
    with ModelFile(file) as opened:
        assert opened.header.extensions == ()


def test_shared_modules_become_smaller_together():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.again = self.middle

    network = Shared()
    state = {name: torch.ones([3 if size == 6 else size for size in value.shape]) for name, value in
             network.state_dict().items()}  # fmt: skip
    fill(network, state, "x", smaller=True)
    assert network.again is network.middle
    assert network.middle.weight.shape == (3, 3)


# Sparse networks, passed on ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("large") / "m.dc"
    network = nn.Sequential(nn.Linear(1100, 1000), nn.ReLU(), nn.Linear(1000, CLASSES))
    dc.compress(network, None, None, Recipe(prune=0.95, bits=4, retrain=False), path)
    return path, lambda: nn.Sequential(nn.Linear(1100, 1000), nn.ReLU(), nn.Linear(1000, CLASSES))


def test_a_network_that_runs_compressed_goes_everywhere(large, tmp_path):
    path, build = large
    sparse, dense = dc.load(path, into=build(), mode="sparse"), dc.load(path, into=build())
    assert type(sparse[0]) is not nn.Linear
    recipe = Recipe(prune=0.96, bits=3, retrain=False)
    dc.compress(sparse, None, None, recipe, tmp_path / "sparse.dc")
    dc.compress(dense, None, None, recipe, tmp_path / "dense.dc")
    assert (tmp_path / "sparse.dc").read_bytes() == (tmp_path / "dense.dc").read_bytes()
    assert [tensor.pruned for tensor in plan(sparse, recipe).tensors] == [
        tensor.pruned for tensor in plan(dense, recipe).tensors
    ]
    with pytest.raises(NetworkError, match=r"^0.weight is computed from other tensors .* call deepcompress.bake"):
        dc.Compressor(sparse)
    x = torch.randn(2, 1100)
    expected = sparse(x)
    assert dc.bake(sparse) == ["0.weight"]
    assert type(sparse[0]) is nn.Linear
    assert list(sparse.state_dict()) == list(dense.state_dict())
    torch.testing.assert_close(sparse(x), expected)
    assert torch.equal(sparse(x), dense(x))


def test_damaged_extra_states_are_refused(tmp_path):
    from deepcompress.container.entries import Extension, Header
    from deepcompress.container.extensions import extra_state

    def read(data):
        return extra_state(Header("", "", (), (Extension("extra_state", data),)))

    assert read(b'{"a._extra_state":{"()":[1,2.5]}}') == {"a._extra_state": (1, 2.5)}
    for data in (b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a": 1}', b'{"":1}', b'{"a\\n":1}', b"\xff",
                 b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"a":' + b"9" * 9999 + b"}",
                 b'{"a":"\\ud800"}', b'"' + b"x" * (1 << 20) + b'"'):  # fmt: skip
        with pytest.raises(FormatError, match=r"extension 'extra_state'|tensor name"):
            read(data)
