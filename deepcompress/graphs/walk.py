"""Going through an ONNX model: its graphs, those inside of nodes (If, Loop, Scan), and its functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepcompress.errors import CheckpointError

#: Graphs inside of graphs. What protobuf itself reads is nested about 30 deep at most.
DEEPEST = 64


def tensors(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """Every TensorProto of a ModelProto with its name, and whether it is an initializer; in one fixed order.

    The name is the tensor's own, or that of the output of its node; it may be empty, and occur more than once.
    """
    yield from _in_graph(model.graph, 0)
    for function in model.functions:
        for node in function.node:
            yield from _in_node(node, 0)


def graphs(model: Any) -> Iterator[Any]:
    """Every GraphProto of a ModelProto, and every function, which has nodes like one."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [inner for node in graph.node for each in node.attribute for inner in subgraphs(each)]


def _in_graph(graph: Any, depth: int) -> Iterator[tuple[str, Any, bool]]:
    if depth > DEEPEST:
        raise CheckpointError(f"the model's graphs are nested more than {DEEPEST} deep")
    for tensor in graph.initializer:
        yield tensor.name, tensor, True
    for sparse in graph.sparse_initializer:
        yield from _in_sparse(sparse, sparse.values.name)
    for node in graph.node:
        yield from _in_node(node, depth)


def _in_node(node: Any, depth: int) -> Iterator[tuple[str, Any, bool]]:
    label = node.output[0] if node.output else node.name
    for attribute in node.attribute:
        name = label if attribute.name == "value" else f"{label}.{attribute.name}"
        if attribute.HasField("t"):
            yield name, attribute.t, False
        for tensor in attribute.tensors:
            yield name, tensor, False
        if attribute.HasField("sparse_tensor"):
            yield from _in_sparse(attribute.sparse_tensor, name)
        for sparse in attribute.sparse_tensors:
            yield from _in_sparse(sparse, name)
        for graph in subgraphs(attribute):
            yield from _in_graph(graph, depth + 1)


def _in_sparse(sparse: Any, name: str) -> Iterator[tuple[str, Any, bool]]:
    yield name, sparse.values, False
    yield f"{name}.indices", sparse.indices, False


def subgraphs(attribute: Any) -> list[Any]:
    """The graphs of an attribute of a node."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
