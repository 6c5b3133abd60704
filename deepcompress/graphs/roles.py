"""Which tensors of a graph are weights: those that products, look-ups or sums alone use, directly or rearranged.

The rule knows operators, and no names of tensors. What any other operator uses may be anything: a scale of quantized
weights, a mask, an input of a custom operator. It is stored exactly.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import torch

from deepcompress.errors import CheckpointError
from deepcompress.graphs import walk
from deepcompress.graphs.model import OnnxModel, pointed_to
from deepcompress.layers import WIDE

_ANY = range(1 << 16)
#: Operators whose result is linear in some of their inputs (by number): there an error of a weight stays an error.
LINEAR: dict[str, dict[str, Sequence[int]]] = {
    "": {
        "Conv": (1,), "ConvTranspose": (1,), "DeformConv": (1,), "Einsum": _ANY, "Gather": (0,),
        "GatherElements": (0,), "GatherND": (0,), "Gemm": (0, 1), "GRU": (1, 2), "LSTM": (1, 2), "MatMul": _ANY,
        "RNN": (1, 2),
    },
    "com.microsoft": {
        "Attention": (1,), "EmbedLayerNormalization": (2, 3, 4), "FusedConv": (1,), "FusedGemm": (0, 1),
        "FusedMatMul": (0, 1), "FusedMatMulActivation": (0, 1),
    },
}  # fmt: skip
#: Operators that rearrange their first input, or all that `_ANY` says, or give it another type.
MOVES: dict[str, Sequence[int]] = {
    "Cast": (0,), "CastLike": (0,), "Concat": _ANY, "Expand": (0,), "Flatten": (0,), "Identity": (0,), "If": (),
    "QuantizeLinear": (0,), "DequantizeLinear": (0,), "Reshape": (0,), "Slice": (0,), "Split": (0,), "Squeeze": (0,),
    "Transpose": (0,), "Unsqueeze": (0,),
}  # fmt: skip
#: Operators to which only the shape of an input matters.
_SHAPES = ("Shape", "Size", "ConstantOfShape")
#: A tensor that is added is as a rule a bias or a mask. From so many different values on it is a table of positions.
_TABLE = 256
_MOST_NODES = 1 << 20

_Sources = MutableMapping[str, frozenset[str]]


def weights_of(model: OnnxModel) -> set[str]:
    """Names of the tensors of two or more dimensions that are weights."""
    uses = _Uses(model.proto())
    found = set()
    for name, stored in model.tensors.stored.items():
        wide = stored.is_weights and stored.dtype in WIDE  # float8 is quantized already
        if wide and stored.elements and name in uses.linear | uses.added and name not in uses.others:
            value = model.tensors[name]
            if torch.isfinite(value).all() and (name in uses.linear or _is_table(value)):
                found.add(name)
    return found


def _is_table(value: torch.Tensor) -> bool:
    wide = sum(size > 1 for size in value.shape) > 1
    return wide and len(torch.unique(value)) >= _TABLE


class _Uses:
    """Follows each tensor from where it is to the operators that use it.

    Attributes:
        linear: tensors that an operator of `LINEAR` uses.
        added: those that are added to something.
        others: those that anything else uses.
    """

    def __init__(self, proto: Any) -> None:
        self.linear: set[str] = set()
        self.added: set[str] = set()
        self.others: set[str] = set()
        self._functions = {(each.domain, each.name): each for each in proto.functions}
        self._nodes = 0
        outputs = self._graph(proto.graph, ChainMap(), 0)
        self.others |= frozenset().union(*outputs)

    def _graph(self, graph: Any, known: ChainMap[str, frozenset[str]], depth: int) -> list[frozenset[str]]:
        """What the outputs of a graph hold; `known` is what names from outside of it hold."""
        inside = known.new_child()
        for tensor in graph.initializer:
            inside[tensor.name] = _named(tensor)
        self._all(graph.node, inside, depth)
        return [inside.get(value.name, frozenset()) for value in graph.output]

    def _all(self, nodes: Iterable[Any], known: ChainMap[str, frozenset[str]], depth: int) -> None:
        for node in nodes:
            self._nodes += 1
            if self._nodes > _MOST_NODES or depth > walk.DEEPEST:
                raise CheckpointError(f"the graph has more than {_MOST_NODES:,} nodes, or calls itself")
            self._node(node, known, depth)

    def _node(self, node: Any, known: ChainMap[str, frozenset[str]], depth: int) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        given = [known.get(name, frozenset()) for name in node.input]
        inner = [self._graph(graph, known, depth + 1) for each in node.attribute for graph in walk.subgraphs(each)]
        function = self._functions.get((node.domain, node.op_type))
        if function is not None:
            self._call(function, given, node.output, known, depth)
        elif not domain and node.op_type in MOVES:
            self._moved(node, given, inner, known)
        elif not domain and node.op_type == "Constant":
            held = (_named(each.t) for each in node.attribute if each.HasField("t"))
            known[node.output[0] if node.output else ""] = frozenset().union(*held)
        else:
            self._used(node, domain, given)
            self.others |= frozenset().union(*(held for outputs in inner for held in outputs))

    def _moved(
        self, node: Any, given: list[frozenset[str]], inner: list[list[frozenset[str]]], known: _Sources
    ) -> None:
        moved = MOVES[node.op_type]
        held = frozenset().union(*(each for place, each in enumerate(given) if place in moved))
        self.others |= frozenset().union(*(each for place, each in enumerate(given) if place not in moved))
        for place, name in enumerate(node.output):
            branches = (outputs[place] for outputs in inner if place < len(outputs))
            known[name] = held.union(*branches)

    def _used(self, node: Any, domain: str, given: list[frozenset[str]]) -> None:
        if not domain and node.op_type in _SHAPES:
            return
        if not domain and node.op_type == "Add":
            self.added.update(*given)
            return
        linear = LINEAR.get(domain, {}).get(node.op_type, ())
        for place, held in enumerate(given):
            (self.linear if place in linear else self.others).update(held)

    def _call(
        self, function: Any, given: list[frozenset[str]], outputs: Iterable[str], known: _Sources, depth: int
    ) -> None:
        inside: ChainMap[str, frozenset[str]] = ChainMap(dict(zip(function.input, given, strict=False)))
        self._all(function.node, inside, depth + 1)
        for name, inner in zip(outputs, function.output, strict=False):
            known[name] = inside.get(inner, frozenset())


def _named(tensor: Any) -> frozenset[str]:
    """The tensor of the file that a TensorProto says its values are, if it says so."""
    name = pointed_to(tensor)
    return frozenset((name,)) if name else frozenset()
