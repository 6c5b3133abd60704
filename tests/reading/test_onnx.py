"""ONNX files that compute what the network computes; and the command that writes them."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from samples import NETWORK_FILE, SIDE, Mlp, conv_net
from torch import nn

from deepcompress.cli import main
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import DeepCompressError, NetworkError, OutputError
from deepcompress.reading import onnx
from deepcompress.reading.onnx import OPSET, export_onnx, fitting_input
from deepcompress.recipe import Recipe

RECIPE = Recipe(prune=0.8, bits=3, retrain=False)


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; pip install -e '.[onnx]'")


writes = needs("onnx", "onnxscript")
runs = needs("onnx", "onnxscript", "onnxruntime")


def run_onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x.numpy()})


class TwoHeads(nn.Module):
    """Whole numbers in, two outputs."""

    def __init__(self):
        super().__init__()
        self.embedding, self.one, self.two = nn.Embedding(11, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, tokens):
        x = self.embedding(tokens).mean(dim=1)
        return self.one(x), {"two": self.two(x)}


class Branching(nn.Module):
    """What it computes depends on the values."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


BRANCHING = """

class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def branching():
    return Branching(*small())
"""


@runs
def test_any_batch_gives_the_outputs_of_the_network(tmp_path):
    import onnx

    torch.manual_seed(0)
    network = conv_net(batch_norm=True)
    network(torch.randn(9, 1, SIDE, SIDE))  # running statistics of its own
    found = export_onnx(network, torch.randn(2, 1, SIDE, SIDE), tmp_path / "x.onnx")
    assert network.training  # as it was
    assert found.input_shape == (1, SIDE, SIDE)
    assert 0 <= found.max_difference < 1e-5
    model = onnx.load(tmp_path / "x.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [OPSET] == [found.opset]
    (given,) = model.graph.input
    first, *others = given.type.tensor_type.shape.dim
    assert given.name == "input"
    assert first.dim_param and [dimension.dim_value for dimension in others] == [1, SIDE, SIDE]
    assert [value.name for value in model.graph.output] == ["output"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    network.eval()
    for batch in (1, 2, 7):
        x = torch.randn(batch, 1, SIDE, SIDE)
        (output,) = run_onnx(tmp_path / "x.onnx", x)
        assert np.allclose(output, network(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@runs
def test_whole_numbers_and_several_outputs(tmp_path):
    found = export_onnx(TwoHeads(), torch.randn(2, 5), tmp_path / "x.onnx")
    assert found.input_shape == (5,)
    one, two = run_onnx(tmp_path / "x.onnx", torch.ones(3, 5, dtype=torch.int64))
    assert (one.shape, two.shape) == ((3, 3), (3, 2))


def test_the_input_that_fits():
    x = torch.randn(2, 5)
    assert fitting_input(nn.Linear(5, 1), x) is x
    assert fitting_input(TwoHeads(), x).dtype is torch.int64
    with pytest.raises(NetworkError, match=r"Linear cannot take samples of shape \(5,\): .*mat1 and mat2"):
        fitting_input(nn.Linear(6, 1), x)


@writes
def test_a_network_that_cannot_be_traced(tmp_path):
    (tmp_path / "x.onnx").write_text("old")
    with pytest.raises(NetworkError, match=r"the network Branching cannot be exported with a free batch size: .+"):
        export_onnx(Branching(), torch.randn(2, 4), tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").read_text() == "old"


@runs
def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_text("old")
    monkeypatch.setattr(onnx, "_outputs", lambda path, x: [np.full((len(x), 4), 3.0, dtype=np.float32)])
    with pytest.raises(NetworkError, match=r"the exported network is not the network: an output .* is off by"):
        export_onnx(Mlp(), torch.randn(2, 12), tmp_path / "x.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    assert (tmp_path / "x.onnx").read_text() == "old"


def test_differences():
    zero, one, nan = (np.float32([[value]]) for value in (0, 1, np.nan))
    assert onnx._difference([one, nan], [one, nan]) == 0
    assert onnx._difference([np.float32([100.001])], [np.float32([100])]) == pytest.approx(0.001, rel=0.01)
    for found, expected in ((zero, one), (nan, one), (one, nan), (np.float32([1]), one)):
        with pytest.raises(NetworkError, match="is off by"):
            onnx._difference([found], [expected])


@writes
def test_without_onnxruntime_it_is_not_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else object())
    found = export_onnx(Mlp(), torch.randn(2, 12), tmp_path / "x.onnx")
    assert found.as_dict() == {"opset": 18, "input_shape": [12], "max_difference": None, "checked": False}


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(DeepCompressError, match=r"needs onnx and onnxscript: pip install 'deepcompress\[onnx\]'"):
        export_onnx(Mlp(), torch.randn(2, 12), tmp_path / "x.onnx")


@writes
def test_too_large_and_nowhere_to_write(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="does not exist"):
        export_onnx(Mlp(), torch.randn(2, 12), tmp_path / "no" / "x.onnx")
    monkeypatch.setattr(onnx, "MAX_BYTES", 100)
    with pytest.raises(NetworkError, match="one ONNX file holds at most 100"):
        export_onnx(Mlp(), torch.randn(2, 12), tmp_path / "x.onnx")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A compressed network of a user's own, and its options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)
    (tmp_path / "mine.py").write_text(NETWORK_FILE)
    space = {}
    exec(NETWORK_FILE, space)
    torch.manual_seed(0)
    compress_state(space["small"]().state_dict(), RECIPE, tmp_path / "m.dc")
    return ["m.dc", "-o", "x.onnx"], ["--network", "mine.py:small"], ["--input-shape", f"1,{SIDE},{SIDE}"]


def command(*arguments):
    return CliRunner().invoke(main, ["export", *arguments])


@runs
def test_the_command(small, tmp_path):
    files, network, shape = small
    done = command(*files, *network, *shape, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["file_bytes"] == (tmp_path / "x.onnx").stat().st_size
    assert (found["opset"], found["input_shape"], found["checked"]) == (18, [1, SIDE, SIDE], True)
    assert found["max_difference"] < 1e-5
    text = command(*files, *network, *shape).stdout
    assert f"ONNX opset 18, input N×1×{SIDE}×{SIDE}; outputs of onnxruntime differ by at most " in text


@writes
def test_what_the_command_says_of_mistakes(small, tmp_path, capfd):
    files, network, shape = small
    with (tmp_path / "mine.py").open("a") as stream:
        stream.write(BRANCHING)
    for arguments, message in (
        ([*files, *shape], "fit no known network, so it cannot be exported as ONNX: name it with --network"),
        ([*files, *network], "names no data set"),
        ([*files, *network, "--input-shape", "3,8,8"], "cannot take samples of shape (3, 8, 8)"),
        ([*files, "--network", "mine.py:broken", *shape], "no luck"),
        ([*files, "--network", "mine.py:branching", *shape], "cannot be exported with a free batch size"),
    ):
        done = command(*arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert capfd.readouterr() == ("", "")  # nor past click, as logging does it


def test_the_command_without_onnx(small, monkeypatch, tmp_path):
    files, network, shape = small
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    done = command(*files, *network, *shape)
    assert done.exit_code == 1
    assert "pip install 'deepcompress[onnx]'" in done.stderr
    assert not (tmp_path / "x.onnx").exists()
