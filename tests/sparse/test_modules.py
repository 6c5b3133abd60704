"""Networks that run from the compressed form give what their dense twins give."""

from __future__ import annotations

import copy
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from deepcompress import load
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import FormatError, NetworkError
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.sparse import modules
from deepcompress.sparse.matrix import SparseMatrix
from deepcompress.sparse.modules import SparseConv1d, SparseConv2d, SparseConv3d, SparseLinear
from deepcompress.training.evaluation import evaluate

RECIPE = Recipe(prune=0.95, bits=2, retrain=False)


@pytest.fixture(autouse=True)
def small_layers_count(monkeypatch):
    monkeypatch.setattr(modules, "MIN_WEIGHTS", dict.fromkeys(modules.MIN_WEIGHTS, 500))


def linear_net():
    return nn.Sequential(nn.Linear(100, 80), nn.ReLU(), nn.Linear(80, 60, bias=False), nn.ReLU(), nn.Linear(60, 4))


def pack(network, path, recipe=RECIPE, **names):
    compress_state(network.state_dict(), recipe, path, **names)
    return path


def both(build, path, recipe=RECIPE):
    """The network of `build`, compressed and loaded again: dense, and sparse."""
    torch.manual_seed(0)
    pack(build(), path, recipe)
    return load(path, into=build()), load(path, into=build(), mode="sparse")


def kinds(network):
    return [type(module) for module in network.modules() if isinstance(module, modules.Compressed)]


def close(dense, sparse, x):
    with torch.no_grad():
        expected, found = dense(x), sparse(x)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.is_contiguous()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    return found


@pytest.mark.parametrize("batch", [1, 3, 8, 64])
def test_linear_layers(tmp_path, batch):
    dense, sparse = both(linear_net, tmp_path / "m.dc")
    assert kinds(sparse) == [SparseLinear, SparseLinear]  # the last has less than 500 weights
    assert not sparse.training
    close(dense, sparse, torch.randn(batch, 100))


def test_other_numbers_of_dimensions(tmp_path):
    dense, sparse = both(lambda: nn.Linear(100, 80), tmp_path / "m.dc")  # the layer itself is the network
    assert type(sparse) is SparseLinear
    for shape in ((100,), (2, 3, 100), (4, 5, 6, 100)):
        close(dense, sparse, torch.randn(shape))
    assert sparse(torch.empty(0, 100)).shape == (0, 80)
    close(dense, sparse, torch.randn(100, 9).t())  # not contiguous


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        (nn.Conv1d, {}, (50,)),
        (nn.Conv1d, {"padding": "same"}, (5,)),
        (nn.Conv2d, {}, (7, 9)),
        (nn.Conv2d, {"bias": False}, (1, 1)),
        (nn.Conv2d, {"stride": 2}, (13, 12)),
        (nn.Conv3d, {"stride": (1, 2, 1)}, (3, 4, 5)),
    ],
)
def test_pointwise_convolutions(tmp_path, kind, options, size):
    dense, sparse = both(lambda: kind(40, 50, 1, **options), tmp_path / "m.dc")
    assert type(sparse) in (SparseConv1d, SparseConv2d, SparseConv3d)
    for batch in (1, 3, 20):
        close(dense, sparse, torch.randn(batch, 40, *size))
    close(dense, sparse, torch.randn(40, *size))  # without a batch


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv2d(40, 50, 3),
        lambda: nn.Conv2d(40, 40, 1, groups=2),
        lambda: nn.Conv2d(40, 50, 1, padding=1),
        lambda: nn.ConvTranspose2d(40, 50, 1),
        lambda: nn.Bilinear(10, 10, 30),
        lambda: nn.Embedding(100, 40),
    ],
)
def test_what_stays_dense(tmp_path, build):
    pack(build(), tmp_path / "m.dc")
    assert not kinds(load(tmp_path / "m.dc", into=build(), mode="sparse"))


def test_modules_of_torch_that_reach_into_their_layers_stay_dense(tmp_path):
    def build():
        layer = nn.TransformerEncoderLayer(40, 4, 80, batch_first=True)
        return nn.Sequential(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(40, 50))

    dense, sparse = both(build, tmp_path / "m.dc")
    assert kinds(sparse) == [SparseLinear]
    close(dense, sparse, torch.randn(2, 5, 40))


class Derived(nn.Linear):
    """Somebody's own layer, which does other things with its weight."""

    def forward(self, x):
        return x @ self.weight.abs().t()


def test_derived_layers_stay_dense(tmp_path):
    dense, sparse = both(lambda: Derived(40, 50), tmp_path / "m.dc")
    assert type(sparse) is Derived
    close(dense, sparse, torch.randn(2, 40))


@pytest.mark.parametrize("rule", ["2.*:prune=0.85", "2.*:bits=none"])
def test_dense_layers_and_plain_ones_stay_dense(tmp_path, rule):
    layers = (LayerRule.parse(rule),)
    recipe = Recipe(prune=0.93, bits=2, retrain=False, distribution="uniform", layers=layers)
    dense, sparse = both(linear_net, tmp_path / "m.dc", recipe)
    assert [type(layer) for layer in sparse[::2]] == [SparseLinear, nn.Linear, nn.Linear]
    close(dense, sparse, torch.randn(5, 100))


@pytest.mark.parametrize("coder", ["huffman", "ans"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_other_dtypes(tmp_path, dtype, coder):
    torch.manual_seed(0)
    compress_state(
        linear_net().to(dtype).state_dict(), Recipe(prune=0.95, bits=2, retrain=False, coder=coder), tmp_path / "m.dc"
    )
    dense, sparse = (
        load(tmp_path / "m.dc", into=linear_net()),
        load(tmp_path / "m.dc", into=linear_net(), mode="sparse"),
    )
    assert kinds(sparse) == [SparseLinear, SparseLinear]
    assert torch.equal(sparse[0].weight, dense[0].weight)
    close(dense, sparse, torch.randn(9, 100))
    assert not kinds(load(tmp_path / "m.dc", into=linear_net().bfloat16(), mode="sparse"))  # those run in bfloat16


def test_a_layer_with_one_weight_left_and_rows_without_any(tmp_path):
    def build():
        network = linear_net()
        with torch.no_grad():
            network[0].weight[1:] = 0  # one row is left
            network[2].weight.zero_()[3, 5] = 0.25
        return network

    network = build()
    compress_state(network.state_dict(), Recipe(prune=0, bits=4, retrain=False), tmp_path / "m.dc")
    dense, sparse = (
        load(tmp_path / "m.dc", into=linear_net()),
        load(tmp_path / "m.dc", into=linear_net(), mode="sparse"),
    )
    assert SparseLinear in kinds(sparse)
    for batch in (1, 3, 64):
        close(dense, sparse, torch.randn(batch, 100))


class Tied(nn.Module):
    """Two layers of one weight, a third that is the first by another name, and a weight shared with an embedding."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(60, 60), nn.Linear(60, 60)
        self.second.weight = self.first.weight
        self.again = self.first
        self.held = [self.first]
        self.embedding, self.head = nn.Embedding(40, 60), nn.Linear(60, 40)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.second(self.again(self.held[0](x))))


def test_tied_layers(tmp_path):
    dense, sparse = both(Tied, tmp_path / "m.dc")
    assert kinds(sparse) == [SparseLinear, SparseLinear]
    assert sparse.first.matrix is sparse.second.matrix
    assert sparse.held[0] is sparse.first
    assert type(sparse.head) is nn.Linear
    assert sparse.head.weight is sparse.embedding.weight
    close(dense, sparse, torch.randn(3, 60))


def test_tied_in_the_network_and_not_in_the_file(tmp_path):
    torch.manual_seed(0)
    network = Tied()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    compress_state(state, RECIPE, tmp_path / "m.dc")
    assert not kinds(load(tmp_path / "m.dc", into=Tied(), mode="sparse"))


def test_the_state_of_a_sparse_network_is_dense(tmp_path):
    dense, sparse = both(linear_net, tmp_path / "m.dc")
    state = sparse.state_dict()
    assert list(state) == list(dense.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in dense.state_dict().items())
    other = linear_net()
    other.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'0\.weight runs compressed and cannot be overwritten: .*mode="dense"'):
        sparse.load_state_dict(state)
    assert [name for name, _ in sparse.named_parameters()] == ["0.bias", "4.weight", "4.bias"]
    assert not any(value.requires_grad for value in sparse.parameters())


def test_copies_share_the_matrix(tmp_path):
    _, sparse = both(linear_net, tmp_path / "m.dc")
    other = copy.deepcopy(sparse)
    assert other[0].matrix is sparse[0].matrix
    assert other[0].bias is not sparse[0].bias
    x = torch.randn(5, 100)
    assert torch.equal(other(x), sparse(x))
    torch.save(sparse, tmp_path / "whole.pt")
    assert torch.equal(torch.load(tmp_path / "whole.pt", weights_only=False)(x), sparse(x))


def test_what_it_cannot_do_is_said(tmp_path):
    _, sparse = both(linear_net, tmp_path / "m.dc")
    x = torch.randn(2, 100)
    with pytest.raises(NetworkError, match=r"has no gradients; .*no_grad"):
        sparse(x.requires_grad_())
    with torch.no_grad():
        assert sparse(x).shape == (2, 4)
    with pytest.raises(NetworkError, match=r"the input is torch.float64 on cpu, but .* takes float32"):
        sparse(torch.randn(2, 100, dtype=torch.float64))
    with pytest.raises(NetworkError, match="the input has 99 features, but the layer takes 100"):
        sparse(torch.randn(2, 99))
    with pytest.raises(NetworkError, match="has 0 features"):
        sparse(torch.tensor(1.0))
    conv = both(lambda: nn.Conv2d(40, 50, 1), tmp_path / "c.dc")[1]
    for shape in ((1, 39, 2, 2), (40, 2), (1, 1, 40, 2, 2)):
        with pytest.raises(NetworkError, match="the layer takes 40"):
            conv(torch.randn(shape))


def test_modes_and_devices(tmp_path):
    path = pack(linear_net(), tmp_path / "m.dc")
    with pytest.raises(ValueError, match="mode 'csr' is unknown"):
        load(path, into=linear_net(), mode="csr")
    with pytest.raises(NetworkError, match='mode="sparse" runs on the CPU, not on meta'):
        load(path, into=linear_net(), mode="sparse", device="meta")
    with pytest.raises(NetworkError, match="names no network"):
        load(path, mode="sparse")
    with pytest.raises(NetworkError, match="has no tensor weight"):
        load(path, into=nn.Linear(3, 3), mode="sparse")
    with pytest.raises(FormatError, match="more than the 10 allowed"):
        load(path, into=linear_net(), mode="sparse", max_bytes=10)


def test_a_damaged_file_changes_no_layer(tmp_path):
    path = pack(linear_net(), tmp_path / "m.dc")
    raw = path.read_bytes()
    path.write_bytes(raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:])
    network = linear_net()
    with pytest.raises(FormatError):
        load(path, into=network, mode="sparse")
    assert not kinds(network)


def test_small_layers_stay_dense(tmp_path, monkeypatch):
    monkeypatch.setattr(modules, "MIN_WEIGHTS", {nn.Linear: 4801, nn.Conv2d: 1})
    _, sparse = both(linear_net, tmp_path / "m.dc")
    assert [type(layer) for layer in sparse[::2]] == [SparseLinear, nn.Linear, nn.Linear]


def test_without_numba_all_is_dense(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcompress.sparse.matrix.kernels", lambda: None)
    dense, sparse = both(linear_net, tmp_path / "m.dc")
    assert not kinds(sparse)
    assert torch.equal(dense(torch.ones(1, 100)), sparse(torch.ones(1, 100)))


def test_a_known_network_measures_the_same(tmp_path, flat_test):
    from samples import Mlp

    monkey = Mlp(inputs=12)
    path = pack(monkey, tmp_path / "m.dc", Recipe(prune=0.9, bits=3, retrain=False))
    modules.MIN_WEIGHTS[nn.Linear] = 300
    dense, sparse = load(path, into=Mlp()), load(path, into=Mlp(), mode="sparse")
    assert kinds(sparse)
    one, two = evaluate(dense, flat_test), evaluate(sparse, flat_test)
    assert one.accuracy == two.accuracy
    assert one.loss == pytest.approx(two.loss, rel=1e-5)


def test_hooks_stay(tmp_path):
    path = pack(linear_net(), tmp_path / "m.dc")
    network, seen = linear_net(), []
    network[0].register_forward_hook(lambda *_: seen.append(1))
    load(path, into=network, mode="sparse")(torch.ones(1, 100))
    assert seen == [1]


def test_the_dense_weights_are_neither_made_nor_kept(tmp_path):
    """The file's tensors are counted by tracemalloc, through numpy; the dense weight would be 16 MB of them."""
    rng = np.random.default_rng(0)
    build = lambda: nn.Linear(2000, 2000)  # noqa: E731
    weight = np.where(rng.random((2000, 2000)) < 0.08, np.float32(0.5), 0).astype(np.float32)
    network = build()
    network.weight.data = torch.from_numpy(weight)
    path = pack(network, tmp_path / "m.dc", Recipe(prune=0, bits=4, retrain=False))
    load(path, into=build(), mode="sparse")  # what is imported and compiled is not counted
    target = build()
    dense = target.weight
    tracemalloc.start()
    try:
        sparse = load(path, into=target, mode="sparse")
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert type(sparse) is SparseLinear
    assert all(value is not dense for value in (*sparse.parameters(), *vars(sparse).values()))
    assert sparse.matrix.nbytes < 0.06 * weight.nbytes
    assert now < 1.2 * sparse.matrix.nbytes + 100_000
    assert peak < 0.6 * weight.nbytes


def test_what_it_prints(tmp_path):
    _, sparse = both(lambda: nn.Linear(100, 80), tmp_path / "m.dc")
    assert repr(sparse) == "SparseLinear(in_features=100, out_features=80, bias=True, weights=400)"
    assert isinstance(sparse.matrix, SparseMatrix)
    assert isinstance(sparse, nn.Linear)
