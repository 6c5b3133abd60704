"""Which tensors of a graph are weights, and what all others come back as: bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs pip install -e '.[onnx]'")
from listener import Listener  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tiny import FLOAT, INT64, held, model, perceptron, tensors_of, value, weights  # noqa: E402

from deepcompress.errors import CheckpointError  # noqa: E402
from deepcompress.graphs import roles  # noqa: E402
from deepcompress.graphs.compress import compress_model  # noqa: E402
from deepcompress.graphs.model import open_model  # noqa: E402
from deepcompress.graphs.restore import complete, model_in  # noqa: E402
from deepcompress.graphs.roles import weights_of  # noqa: E402
from deepcompress.recipe import Recipe  # noqa: E402

ROUNDED = Recipe(retrain=False)
node = helper.make_node


def opened(proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    return open_model(tmp_path / "m.onnx")


def found_in(nodes, tensors, tmp_path, outputs=("y",), **more):
    proto = model(nodes, [value("x", "N", 6)], [value(name, None) for name in outputs], tensors, **more)
    return weights_of(opened(proto, tmp_path))


W = held("w", weights(6, 8))

USED = {
    "MatMul": [node("MatMul", ["x", "w"], ["y"])],
    "MatMul from the left": [node("MatMul", ["w", "x"], ["y"])],
    "Gemm": [node("Gemm", ["x", "w"], ["y"])],
    "Conv": [node("Conv", ["x", "w"], ["y"])],
    "ConvTranspose": [node("ConvTranspose", ["x", "w"], ["y"])],
    "LSTM": [node("LSTM", ["x", "w", "w"], ["y"], hidden_size=2)],
    "GRU": [node("GRU", ["x", "", "w"], ["y"], hidden_size=2)],
    "Gather": [node("Gather", ["w", "x"], ["y"])],
    "Einsum": [node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")],
    "Attention": [node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft")],
    "Transpose": [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["y"])],
    "Cast": [node("Cast", ["w"], ["t"], to=10), node("MatMul", ["x", "t"], ["y"])],
    "Slice and Concat": [
        node("Slice", ["w", "a", "b"], ["s"]), node("Concat", ["s", "s"], ["t"], axis=0),
        node("Unsqueeze", ["t", "a"], ["u"]), node("LSTM", ["x", "u", "u"], ["y"], hidden_size=2),
    ],
    "Split": [node("Split", ["w"], ["s", "t"]), node("MatMul", ["x", "t"], ["y"])],
    "Shape, too": [node("Shape", ["w"], ["s"]), node("MatMul", ["x", "w"], ["y"])],
}  # fmt: skip
NOT_USED = {
    "Mul": [node("Mul", ["x", "w"], ["y"])],
    "Mul, too": [node("MatMul", ["x", "w"], ["y"]), node("Mul", ["x", "w"], ["z"])],
    "an output, too": [node("MatMul", ["x", "w"], ["y"]), node("Identity", ["w"], ["z"])],
    "Add of few values": [node("Add", ["x", "w"], ["y"])],
    "a bias of LSTM": [node("LSTM", ["x", "a", "b", "w"], ["y"], hidden_size=2)],
    "somebody's": [node("MatMul", ["x", "w"], ["y"], domain="somebody")],
    "scales": [node("DequantizeLinear", ["x", "w"], ["y"])],
    "only its shape": [node("Shape", ["w"], ["y"])],
    "nothing": [node("Relu", ["x"], ["y"])],
    "the indices": [node("Gather", ["x", "w"], ["y"])],
}


@pytest.mark.parametrize("name", USED)
def test_weights_of_products_and_look_ups(name, tmp_path):
    assert found_in(USED[name], [W], tmp_path) == {"w"}


@pytest.mark.parametrize("name", NOT_USED)
def test_what_may_be_anything_is_no_weight(name, tmp_path):
    outputs = ("y", "z") if len(NOT_USED[name]) > 1 else ("y",)
    opsets = [helper.make_opsetid("somebody", 1)]
    assert found_in(NOT_USED[name], [W], tmp_path, outputs, opsets=opsets) == set()


def test_vectors_integers_and_what_is_not_finite_are_no_weights(tmp_path):
    mask = weights(6, 8)
    mask[0, 0] = -np.inf
    tensors = [held("v", weights(6)), held("i", np.ones((6, 8), np.int8)), held("m", mask)]
    nodes = [node("MatMul", ["x", each], ["y"]) for each in "vim"]
    assert found_in(nodes, tensors, tmp_path) == set()


def test_a_table_that_is_added_is_one_where_its_values_are_many(tmp_path):
    tensors = [held("w", weights(20, 20)), held("few", np.round(weights(20, 20))), held("row", weights(1, 400))]
    nodes = [node("Add", ["x", name], ["y"]) for name in ("w", "few", "row")]
    assert found_in(nodes, tensors, tmp_path) == {"w"}


def test_inside_of_branches_loops_and_functions(tmp_path):
    inner = helper.make_graph([node("MatMul", ["x", "outer"], ["a"]), node("MatMul", ["a", "inner"], ["z"])], "g", [],
                              [value("z", "N", 6)], [held("inner", weights(8, 6))])  # fmt: skip
    other = helper.make_graph([node("Identity", ["given"], ["z"])], "h", [], [value("z", "N", 6)])
    body = helper.make_graph([node("MatMul", ["v", "looped"], ["u"]), node("Identity", ["go"], ["on"])], "b",
                             [value("i", kind=INT64), value("go", kind=9), value("v", "N", 6)],
                             [value("on", kind=9), value("u", "N", 6)])  # fmt: skip
    function = helper.make_function(
        "own", "linear", ["a", "b"], ["c"], [node("Transpose", ["b"], ["t"]), node("MatMul", ["a", "t"], ["c"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        node("If", ["c"], ["k"], then_branch=inner, else_branch=other),
        node("MatMul", ["x", "k"], ["l"]),
        node("Loop", ["n", "c", "l"], ["m"], body=body),
        node("linear", ["m", "called"], ["y"], domain="own"),
    ]
    tensors = [held(name, weights(6, 8, seed=3)) for name in ("outer", "looped", "called", "given")]
    proto = model(nodes, [value("x", "N", 6), value("c", kind=9), value("n", kind=INT64)], [value("y", None)], tensors,
                  functions=[function], opsets=[helper.make_opsetid("own", 1)])  # fmt: skip
    assert weights_of(opened(proto, tmp_path)) == {"outer", "inner", "looped", "called", "given"}


def test_functions_that_call_each_other_too_often(tmp_path, monkeypatch):
    monkeypatch.setattr(roles, "_MOST_NODES", 1000)
    functions = [
        helper.make_function("own", f"f{each}", ["a"], ["b"],
                             [node(f"f{each + 1}", ["a"], ["b"], domain="own")] * 2, [helper.make_opsetid("own", 1)])
        for each in range(20)
    ]  # fmt: skip
    recursive = helper.make_function("own", "f20", ["a"], ["b"], [node("f20", ["a"], ["b"], domain="own")],
                                     [helper.make_opsetid("own", 1)])  # fmt: skip
    for start in ("f0", "f20"):
        proto = model([node(start, ["x"], ["y"], domain="own")], [value("x", 2)], [value("y", 2)],
                      functions=[*functions, recursive], opsets=[helper.make_opsetid("own", 1)])  # fmt: skip
        with pytest.raises(CheckpointError, match="or calls itself"):
            weights_of(opened(proto, tmp_path))


def quantized():
    """Integers with a scale for each column, a product with them, and another that is not quantized."""
    codes = np.random.default_rng(0).integers(-20, 20, (30, 40)).astype(np.int8)
    nodes = [
        node("DequantizeLinear", ["codes", "scale", "zero"], ["d"], axis=1),
        node("MatMul", ["x", "d"], ["a"]),
        node("MatMul", ["a", "plain"], ["y"]),
    ]
    tensors = [held("codes", codes), held("scale", np.abs(weights(40))), held("zero", np.zeros(40, np.int8)),
               held("plain", weights(40, 50))]  # fmt: skip
    return model(nodes, [value("x", "N", 30)], [value("y", "N", 50)], tensors)


def test_quantized_weights_and_their_scales_stay_as_they_are(tmp_path):
    proto = quantized()
    compress_model(opened(proto, tmp_path), ROUNDED, tmp_path / "m.dc")
    back, old = tensors_of(complete(model_in(tmp_path / "m.dc"))), tensors_of(proto)
    assert [name for name in old if old[name].tobytes() != back[name].tobytes()] == ["plain"]
    assert np.linalg.norm(back["plain"] - old["plain"]) < 0.02 * np.linalg.norm(old["plain"])


def test_weights_in_eight_bits_are_quantized_already(tmp_path):
    codes = numpy_helper.from_array(
        weights(30, 40).astype(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)), "w"
    )
    nodes = [node("DequantizeLinear", ["w", "scale"], ["d"]), node("MatMul", ["x", "d"], ["y"])]
    proto = model(
        nodes, [value("x", "N", 30)], [value("y", "N", 40)], [codes, held("scale", np.float32(0.1))], opset=21
    )
    compress_model(opened(proto, tmp_path), ROUNDED, tmp_path / "m.dc")
    assert complete(model_in(tmp_path / "m.dc")) == proto


def test_a_model_of_integers_alone_is_stored_exactly(tmp_path):
    proto = quantized()
    del proto.graph.node[2], proto.graph.initializer[3]
    proto.graph.output[0].name = "a"
    compress_model(opened(proto, tmp_path), ROUNDED, tmp_path / "m.dc")
    assert complete(model_in(tmp_path / "m.dc")) == proto
    assert (tmp_path / "m.dc").stat().st_size < (tmp_path / "m.onnx").stat().st_size


def test_what_is_large_and_left_alone_is_told(tmp_path):
    said = Listener()
    proto = model([node("Mul", ["x", "w"], ["y"])], [value("x", 60, 80)], [value("y", 60, 80)],
                  [held("w", weights(60, 80))])  # fmt: skip
    compress_model(opened(proto, tmp_path), ROUNDED, tmp_path / "m.dc", watch=said)
    assert said.lines[0] == (
        "stored exactly, because not only products, look-ups and sums use them: w (100 % of the bytes of all tensors)"
    )


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, FLOAT])
def test_weights_of_every_width_are_rounded_in_their_type(kind, tmp_path):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    proto = perceptron(weights(400, 20).astype(dtype), weights(400, 5).astype(dtype))
    compress_model(opened(proto, tmp_path), ROUNDED, tmp_path / "m.dc")
    back, old = tensors_of(complete(model_in(tmp_path / "m.dc"))), tensors_of(proto)
    for name in ("first.weight", "second.weight"):
        assert back[name].dtype == dtype
        change = np.linalg.norm(back[name].astype(float) - old[name].astype(float))
        assert 0 < change < 0.03 * np.linalg.norm(old[name].astype(float))
    size = sum(array.nbytes for array in old.values())
    assert (tmp_path / "m.dc").stat().st_size < 0.6 * size


def test_shared_initializers_are_stored_once(tmp_path):
    same = weights(80, 90)
    nodes = [node("Transpose", ["b"], ["t"]), node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "t"], ["y"])]
    proto = model(nodes, [value("x", "N", 80)], [value("y", "N", 80)], [held("a", same), held("b", same)])
    compress_model(opened(proto, tmp_path), ROUNDED, tmp_path / "two.dc")
    del proto.graph.initializer[1]
    proto.graph.node[0].input[0] = "a"
    compress_model(opened(proto, tmp_path), ROUNDED, tmp_path / "one.dc")
    assert (tmp_path / "two.dc").stat().st_size < (tmp_path / "one.dc").stat().st_size + 60
    back = tensors_of(complete(model_in(tmp_path / "two.dc")))
    assert (back["a"] == back["b"]).all()
    assert numpy_helper.to_array(complete(model_in(tmp_path / "one.dc")).graph.initializer[0]).shape == (80, 90)
