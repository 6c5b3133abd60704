"""From a file to a network that runs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from samples import CLASSES, Mlp
from torch import nn

from deepcompress.coding.encoder import encode_coded
from deepcompress.coding.lanes import LANES_FROM
from deepcompress.coding.layouts.dense import Dense
from deepcompress.coding.layouts.relative import Relative
from deepcompress.coding.tensors import DType
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError, NetworkError
from deepcompress.networks.lenet import LeNet5, LeNet300100
from deepcompress.reading.fitting import fill
from deepcompress.reading.loader import load, load_state_dict
from deepcompress.recipe import Recipe

RECIPE = Recipe(prune=0.9, bits=4, retrain=False)


@pytest.fixture
def lenet_file(tmp_path):
    torch.manual_seed(0)
    compress_state(LeNet300100().state_dict(), RECIPE, tmp_path / "m.dc", network="lenet-300-100", data="digits")
    return tmp_path / "m.dc"


@pytest.fixture
def mlp_file(tmp_path, mlp):
    compress_state(mlp.state_dict(), RECIPE, tmp_path / "mlp.dc")
    return tmp_path / "mlp.dc"


def test_the_network_that_the_file_names(lenet_file):
    network = load(lenet_file)
    assert type(network) is LeNet300100
    assert not network.training
    state = load_state_dict(lenet_file)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_a_network_of_ones_own(mlp_file):
    own = Mlp()
    network = load(mlp_file, into=own)
    assert network is own
    assert not own.training
    state = load_state_dict(mlp_file)
    assert list(state) == list(own.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in own.state_dict().items())


def test_into_wins_over_the_name(lenet_file):
    own = LeNet300100()
    assert load(str(lenet_file), into=own, device="cpu") is own


def test_no_network_named(mlp_file):
    with pytest.raises(NetworkError, match=r"mlp.dc: the file names no network; give yours"):
        load(mlp_file)


@pytest.mark.parametrize("name", ["mine", "torchvision:nothing", "evil.py:run"])
def test_an_unknown_network_and_nothing_runs(tmp_path, mlp, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    compress_state(mlp.state_dict(), RECIPE, tmp_path / "m.dc", network=name)
    with pytest.raises(NetworkError, match=r"unknown network|no model named"):
        load(tmp_path / "m.dc")


def test_a_name_whose_network_has_other_tensors(tmp_path):
    compress_state(LeNet300100().state_dict(), RECIPE, tmp_path / "m.dc", network="lenet5")
    with pytest.raises(NetworkError, match=r"m.dc: has no tensor conv1.weight, which the network LeNet5 needs"):
        load(tmp_path / "m.dc")


def test_fill_names_what_is_wrong():
    state = Mlp().state_dict()
    with pytest.raises(NetworkError, match=r"x: has a tensor extra, which the network Mlp does not know"):
        fill(Mlp(), {**state, "extra": torch.ones(1)}, "x")
    with pytest.raises(NetworkError, match=r"x: has no tensor fc3.bias"):
        fill(Mlp(), {name: value for name, value in state.items() if name != "fc3.bias"}, "x")
    with pytest.raises(NetworkError, match=rf"tensor fc3.weight has shape \({CLASSES}, 16\), but .* needs \(9, 16\)"):
        fill(Mlp(classes=9), state, "x")


def test_fill_changes_nothing_when_it_fails():
    model = Mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NetworkError):
        fill(model, {**Mlp().state_dict(), "fc3.bias": torch.ones(77)}, "x")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_max_bytes(lenet_file):
    needed = 4 * 266_610
    assert len(load_state_dict(lenet_file, max_bytes=needed)) == 6
    for function in (load_state_dict, load):
        with pytest.raises(FormatError, match=f"would take {needed} bytes, more than the {needed - 1} allowed"):
            function(lenet_file, max_bytes=needed - 1)


def test_files_that_are_not_there_or_not_whole(tmp_path, lenet_file):
    raw = lenet_file.read_bytes()
    bad = tmp_path / "bad.dc"
    for content in (
        b"",
        b"hello, this is text",
        raw[:-1],
        raw[: len(raw) // 2],
        raw[:3] + b"\x07" + raw[4:],
        raw + b"\0",
    ):
        bad.write_bytes(content)
        for function in (load, load_state_dict):
            with pytest.raises(FormatError, match=r"bad.dc: "):
                function(bad)
    with pytest.raises(FormatError, match="no such file"):
        load(tmp_path / "missing.dc")
    with pytest.raises(FormatError, match="not a regular file"):
        load(tmp_path)


def test_any_changed_byte_is_found(tmp_path, mlp_file):
    raw = mlp_file.read_bytes()
    bad = tmp_path / "bad.dc"
    for at in range(0, len(raw), 7):
        bad.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        with pytest.raises(FormatError):
            load_state_dict(bad)


def test_any_number_of_threads_loads_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcompress.coding.lanes._LANES_PER_THREAD", 8)
    monkeypatch.setattr("deepcompress.coding.offsets.PER_THREAD", 1 << 12)
    rng, book = np.random.default_rng(0), np.linspace(-1, 1, 32, dtype=np.float32)
    values = {density: book[rng.binomial(31, 0.5, (900, 800))] for density in (0.3, 0.9)}
    values = {density: np.where(rng.random((900, 800)) < density, full, 0) for density, full in values.items()}
    encoded = {str(density): encode_coded(full, DType.FLOAT32, book) for density, full in values.items()}
    assert [type(tensor.info.layout) for tensor in encoded.values()] == [Relative, Dense]
    assert all(tensor.info.nonzeros >= LANES_FROM for tensor in encoded.values())
    (tmp_path / "m.dc").write_bytes(pack(encoded.items()))
    for threads in (None, 1, 2, 5):
        state = load_state_dict(tmp_path / "m.dc", threads=threads)
        for density, full in values.items():
            assert np.array_equal(state[str(density)].numpy(), full)


def test_the_host_holds_one_dense_tensor_at_a_time(tmp_path):
    rng, book = np.random.default_rng(0), np.linspace(0.1, 1, 16, dtype=np.float32)
    dense = np.where(rng.random((1000, 1000)) < 0.1, book[rng.integers(0, 16, (1000, 1000))], np.float32(0))
    encoded = encode_coded(dense, DType.FLOAT32, book)
    (tmp_path / "m.dc").write_bytes(pack((f"w{number}", encoded) for number in range(8)))
    load_state_dict(tmp_path / "m.dc", device="meta")  # what is imported and compiled is not counted
    tracemalloc.start()
    try:
        state = load_state_dict(tmp_path / "m.dc", device="meta")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [value.shape for value in state.values()] == [(1000, 1000)] * 8
    assert all(value.device.type == "meta" for value in state.values())
    assert dense.nbytes < peak < 1.4 * dense.nbytes  # the tensor, its section, its symbols; 8 of them would be 8 times


def test_every_reference_network(tmp_path):
    torch.manual_seed(0)
    compress_state(LeNet5().state_dict(), RECIPE, tmp_path / "m.dc", network="lenet5")
    assert type(load(tmp_path / "m.dc")) is LeNet5


def test_buffers_come_back(tmp_path):
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    model(torch.randn(9, 6))
    compress_state(model.state_dict(), Recipe(prune=0.2, retrain=False), tmp_path / "m.dc")
    other = load(tmp_path / "m.dc", into=nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)))
    assert torch.equal(other[1].running_var, model[1].running_var)
    assert other[1].num_batches_tracked == 1


def test_batch_norms_counters_may_be_missing_and_nothing_else(tmp_path):
    """Old checkpoints lack them, and files of folded networks; training with momentum None is lost without them."""

    def build():
        return nn.Sequential(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6), nn.InstanceNorm1d(6, track_running_stats=True))

    model, other = build(), build()
    model(torch.randn(9, 6, 4))
    full = {name: value.clone() for name, value in model.state_dict().items()}
    counters = {"1.num_batches_tracked", "2.num_batches_tracked"}
    other[1].num_batches_tracked.fill_(5)
    fill(other, {name: value for name, value in full.items() if name not in counters}, "x")
    assert all(torch.equal(value, full[name]) for name, value in other.state_dict().items() if name not in counters)
    assert other[1].num_batches_tracked == 5  # as it was
    fill(other, full, "x")
    assert other[1].num_batches_tracked == full["1.num_batches_tracked"] == 1
    for name in full.keys() - counters:
        with pytest.raises(NetworkError, match=rf"x: has no tensor {name}"):
            fill(other, {key: value for key, value in full.items() if key != name}, "x")
    averaging = nn.Sequential(nn.BatchNorm1d(6, momentum=None))
    state = {name: value for name, value in averaging.state_dict().items() if "num_batches" not in name}
    with pytest.raises(NetworkError, match=r"x: has no tensor 0.num_batches_tracked"):
        fill(averaging, state, "x")


def test_a_small_file_cannot_ask_for_a_huge_network(tmp_path, monkeypatch):
    def built(*_, **__):
        raise AssertionError("it was built")

    monkeypatch.setattr("torchvision.models.get_model", built)
    compress_state({"fc.weight": torch.ones(10, 10)}, RECIPE, tmp_path / "m.dc", network="torchvision:vit_h_14")
    with pytest.raises(NetworkError, match=r"torchvision:vit_h_14 has 632,045,800 weights, but there are only 100 "):
        load(tmp_path / "m.dc")
