"""The compressed form beside the dense one: what is measured, and the command. How fast it is, benchmarks/ say."""

from __future__ import annotations

import json
import re

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from deepcompress import load
from deepcompress.cli import main
from deepcompress.compression.tensors_only import compress_state
from deepcompress.networks.lenet import LeNet300100
from deepcompress.recipe import Recipe
from deepcompress.sparse import bench as module
from deepcompress.sparse import modules
from deepcompress.sparse.bench import bench

NETWORK = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(48, 100), nn.ReLU(), nn.Linear(100, 60), nn.LayerNorm(60),
        nn.Linear(60, 4)
    )


def tokens():
    return nn.Sequential(nn.Embedding(5, 10), nn.Flatten(), nn.Linear(40, 3))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0)
    monkeypatch.setattr(modules, "MIN_WEIGHTS", dict.fromkeys(modules.MIN_WEIGHTS, 500))


def build(name="make"):
    space = {}
    exec(NETWORK, space)
    return space[name]()


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)
    (tmp_path / "mine.py").write_text(NETWORK)
    torch.manual_seed(0)
    compress_state(build().state_dict(), Recipe(prune=0.95, bits=2, retrain=False), tmp_path / "m.dc")
    compress_state(build("tokens").state_dict(), Recipe(prune=0.5, bits=2, retrain=False), tmp_path / "t.dc")
    return tmp_path / "m.dc"


def test_layers_bytes_and_times(packed):
    dense, sparse = load(packed, into=build()), load(packed, into=build(), mode="sparse")
    found = bench(dense, sparse, torch.randn(2, 2, 4, 4), (1, 5))
    assert [(row.name, row.shape, row.is_sparse) for row in found.layers] == [
        ("0", (3, 2, 1, 1), False),
        ("2", (100, 48), True),
        ("4", (60, 100), True),
        ("6", (4, 60), False),
    ]
    for row in found.layers:
        layer = sparse.get_submodule(row.name)
        assert row.dense_bytes == 4 * dense.get_submodule(row.name).weight.numel()
        assert row.bytes == (layer.matrix.nbytes if row.is_sparse else row.dense_bytes)
        assert row.density == pytest.approx(float((dense.get_submodule(row.name).weight != 0).float().mean()))
        assert [found.batch for found in row.times] == [1, 5]
        assert all((measured.sparse_ms is not None) is row.is_sparse for measured in row.times)
    vectors = 4 * sum(value.numel() for value in dense.parameters() if value.ndim == 1)
    assert found.total.dense_bytes == vectors + sum(row.dense_bytes for row in found.layers)
    assert found.total.bytes == vectors + sum(row.bytes for row in found.layers)
    assert found.total.bytes < 0.4 * found.total.dense_bytes
    assert all(measured.speedup == measured.dense_ms / measured.sparse_ms for measured in found.total.times)
    assert 0 < found.max_difference < 1e-5


def test_a_matrix_that_two_layers_share_counts_once(packed):
    shared = load(packed, into=build(), mode="sparse")
    once = module._held(shared)
    both = nn.ModuleList([shared, shared[2]])
    assert module._held(both) == once


def test_a_layer_that_is_never_called_and_one_called_by_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(input=x)

    network = Odd().eval()
    found = bench(network, network, torch.randn(1, 4), (1,))
    assert [row.name for row in found.layers] == ["used"]
    assert found.max_difference == 0
    assert found.total.times[0].sparse_ms is not None


def command(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_the_command(packed):
    threads = torch.get_num_threads()
    options = ["--network", "mine.py:make", "--input-shape", "2,4,4", "--batch", "1,3", "--threads", "1"]
    done = command(packed, *options, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["file"], found["threads"]) == (str(packed), 1)
    assert [layer["is_sparse"] for layer in found["layers"]] == [False, True, True, False]
    assert [[time["batch"] for time in layer["times"]] for layer in (*found["layers"], found["total"])] == 5 * [[1, 3]]
    assert torch.get_num_threads() == threads
    text = command(packed, *options).stdout
    assert text.splitlines()[1].split().count("batch") == 6
    assert re.search(r"× less memory, \d+\.\d\d× the dense speed at batch 1, .* 1 thread; outputs differ by", text)
    assert command(packed, *options, "-q").stdout.count("\n") == 1


def test_a_network_in_which_nothing_runs_compressed(tmp_path):
    compress_state(
        LeNet300100().state_dict(), Recipe(prune=0.1, retrain=False), tmp_path / "d.dc", network="lenet-300-100"
    )
    text = command(tmp_path / "d.dc", "--input-shape", "1,28,28", "--batch", "2").stdout
    assert "d.dc: no layer runs compressed, because that pays for none" in text
    assert "–" not in text
    assert "faster" not in text


def test_a_network_of_whole_numbers(packed):
    done = command("t.dc", "--network", "mine.py:tokens", "--input-shape", "4", "--batch", "2", "--json")
    assert done.exit_code == 0, done.stderr
    assert [layer["shape"] for layer in json.loads(done.stdout)["layers"]] == [[5, 10], [3, 40]]


def test_what_the_command_says_of_mistakes(packed):
    for arguments, code, message in (
        ([packed], 1, "names no network"),
        ([packed, "--network", "mine.py:make"], 1, "names no data set"),
        ([packed, "--network", "mine.py:make", "--input-shape", "3"], 1, "cannot take samples of shape (3,)"),
        ([packed, "--batch", "0"], 2, "0 is not in the range"),
        (["none.dc"], 1, "no such file"),
    ):
        done = command(*arguments)
        assert (done.exit_code, done.stdout) == (code, "")
        assert message in done.stderr
