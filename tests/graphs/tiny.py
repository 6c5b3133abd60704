"""Small ONNX models."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def weights(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def value(name, *shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))


def held(name, array):
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def model(nodes, inputs, outputs, tensors=(), **more):
    """A ModelProto of opset 17, with com.microsoft beside it."""
    graph = helper.make_graph(list(nodes), "tiny", inputs, outputs, list(tensors))
    opsets = [helper.make_opsetid("", more.pop("opset", 17)), helper.make_opsetid("com.microsoft", 1)]
    opsets += more.pop("opsets", [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)


def perceptron(first=None, second=None):
    """x (N, 20) → Gemm, Relu, MatMul → y (N, 5); the second weight (as a rule 40 by 5) is that of a constant."""
    first = weights(40, 20) if first is None else first
    second = weights(40, 5, seed=1) if second is None else second
    nodes = [
        helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Constant", [], ["second.weight"], value=held("", second)),
        helper.make_node("MatMul", ["b", "second.weight"], ["y"]),
    ]
    tensors = [held("first.weight", first), held("first.bias", weights(len(first), seed=2))]
    return model(nodes, [value("x", "N", 20)], [value("y", "N", 5)], tensors)


def run(proto_or_path, feeds):
    """What onnxruntime computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    given = proto_or_path.SerializeToString() if isinstance(proto_or_path, onnx.ModelProto) else str(proto_or_path)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def tensors_of(proto):
    """All tensors of a model's main graph by name, also those of constants, as arrays."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    constants = [node for node in proto.graph.node if node.op_type == "Constant"]
    return found | {node.output[0]: numpy_helper.to_array(each.t) for node in constants for each in node.attribute}
