"""Tied weights in ONNX files: once, in whatever form the exporter left them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepcompress.reading.onnx import export_onnx
from deepcompress.reading.tied import SMALL, store_once

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
WIDTH = 16


class Language(nn.Module):
    """The last layer is the embedding, whose transpose the exporter folds."""

    def __init__(self, tied=True, symbols=30):
        super().__init__()
        self.tokens, self.head = nn.Embedding(symbols, WIDTH), nn.Linear(WIDTH, symbols, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens):
        return self.head(torch.relu(self.tokens(tokens)))


class Twice(nn.Module):
    """Two layers, of which both are folded."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))


def held(path, weight):
    """Initializers that hold the weight, or its transpose."""
    arrays = [onnx.numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer]
    weight = weight.detach().numpy()
    return sum(array.tobytes() in (weight.tobytes(), weight.T.tobytes()) for array in arrays)


@pytest.mark.parametrize("kind", ["language", "twice"])
def test_a_tied_weight_is_there_once(kind, tmp_path):
    torch.manual_seed(0)
    network = Language() if kind == "language" else Twice()
    example = torch.zeros(2, 5, dtype=torch.int64) if kind == "language" else torch.randn(2, 5, WIDTH)
    found = export_onnx(network, example, tmp_path / "x.onnx")
    assert held(tmp_path / "x.onnx", network.state_dict()["head.weight" if kind == "language" else "one.weight"]) == 1
    assert found.max_difference is None or found.max_difference < 1e-6
    onnx.checker.check_model(onnx.load(tmp_path / "x.onnx"))


def test_equal_weights_that_are_not_tied_stay_two(tmp_path):
    torch.manual_seed(0)
    network = Language(tied=False)
    network.head.weight.data.copy_(network.tokens.weight)
    export_onnx(network, torch.zeros(2, 5, dtype=torch.int64), tmp_path / "x.onnx")
    assert held(tmp_path / "x.onnx", network.head.weight) == 2


def graph_of(weights, path):
    """A file that adds up products of an input with each of these."""
    helper, count = onnx.helper, len(weights)
    nodes = [helper.make_node("MatMul", ["x", f"w{number}"], [f"y{number}"]) for number in range(count)]
    nodes.append(helper.make_node("Concat", [f"y{number}" for number in range(count)], ["y"], axis=1))
    tensors = [onnx.numpy_helper.from_array(value.numpy(), f"w{number}") for number, value in enumerate(weights)]
    shape = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", shape[:1], shape[1:], tensors)), path)


@pytest.mark.parametrize(("turned", "kinds"), [
    ([False, False], ["Identity"]), ([True, False], ["Transpose"]), ([True, True, False], ["Transpose", "Transpose"]),
    ([True, True], ["Identity"]), ([True], []),
])  # fmt: skip
def test_each_form(turned, kinds, tmp_path):
    weight = torch.randn(WIDTH, WIDTH)
    forms = [(weight.t() if one else weight).contiguous() for one in turned]
    graph_of([*forms, torch.randn(WIDTH, WIDTH)], tmp_path / "x.onnx")
    before = (tmp_path / "x.onnx").stat().st_size
    lost = store_once(tmp_path / "x.onnx", {"a": weight, "b": weight})
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert [node.op_type for node in graph.node[: len(kinds)]] == kinds
    assert len(graph.initializer) == 2
    assert before - lost == (tmp_path / "x.onnx").stat().st_size
    assert lost >= len(kinds) * (weight.nbytes - SMALL)
    kept = {value.name: torch.tensor(onnx.numpy_helper.to_array(value)) for value in graph.initializer}
    for node in graph.node[: len(kinds)]:
        source = kept[node.input[0]]
        kept[node.output[0]] = source.t() if node.op_type == "Transpose" else source
    assert all(torch.equal(kept[f"w{number}"], form) for number, form in enumerate(forms))


def test_small_weights_and_files_without_ties_are_left_as_they_are(tmp_path):
    small = torch.randn(4, 4)
    graph_of([small, small], tmp_path / "x.onnx")
    before = (tmp_path / "x.onnx").read_bytes()
    assert store_once(tmp_path / "x.onnx", {"a": small, "b": small}) == 0
    assert store_once(tmp_path / "x.onnx", {"a": small, "b": small.clone()}) == 0
    assert (tmp_path / "x.onnx").read_bytes() == before
