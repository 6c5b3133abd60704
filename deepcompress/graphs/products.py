"""Where a graph multiplies by a weight or looks rows of one up, and what the weight meets there.

A weight is turned so that its rows are outputs, as torch has them: what the rows of a Conv are already, and the columns
of a MatMul. The directions of a recurrent operator are groups of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from deepcompress.graphs.convolutions import convolution, transposed
from deepcompress.graphs.model import pointed_to
from deepcompress.graphs.product import Array, Meets, Product, attributes_of, same, weight_at


def products(proto: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """The products of the main graph with tensors that are taken out of it.

    Args:
        proto: a model without its values.
        shapes: of the tensors that are weights, by name.
    """
    held = dict(_held(proto.graph))
    found = []
    for node in proto.graph.node:
        if node.op_type in _KINDS and node.domain in ("", "ai.onnx"):
            found += _KINDS[node.op_type](node, held, shapes)
    return found


def _held(graph: Any) -> Iterator[tuple[str, str]]:
    """Names of values in the graph that are a tensor of the file, and which."""
    pairs = [(tensor.name, tensor) for tensor in graph.initializer]
    constants = (node for node in graph.node if node.op_type == "Constant" and node.output)
    pairs += [(node.output[0], each.t) for node in constants for each in node.attribute if each.name == "value"]
    for name, tensor in pairs:
        if held := pointed_to(tensor):
            yield name, held


def _turned(weight: torch.Tensor) -> torch.Tensor:
    return weight.T.contiguous()


def _rows(x: Array) -> torch.Tensor:
    return torch.from_numpy(x).float().reshape(-1, 1, x.shape[-1])


def _columns(x: Array) -> torch.Tensor:
    return _rows(np.swapaxes(x, -1, -2))


def _product(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """Of MatMul: x B, or A x."""
    found = []
    for place, other in ((1, 0), (0, 1)):
        name = weight_at(node, place, held, shapes)
        if name and len(shapes[name]) == 2 and place:
            found.append(Product(name, node.input[place], node.input[other], _rows, _turned, _turned))
        elif name and len(shapes[name]) == 2:
            found.append(Product(name, node.input[place], node.input[other], _columns))
    return found


def _general_product(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """Of Gemm: x B or x B^T."""
    name, known = weight_at(node, 1, held, shapes), attributes_of(node)
    if not name or len(shapes[name]) != 2:
        return []
    meets = _columns if known.get("transA") else _rows
    bias = held.get(node.input[2], "") if len(node.input) > 2 and known.get("beta", 1.0) == 1 else ""
    turn = same if known.get("transB") else _turned
    return [Product(name, node.input[1], node.input[0], meets, turn, turn, bias=bias)]


def _recurrent(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """Of LSTM, GRU and RNN: inputs by W, and states by R, which are the outputs of the step before."""
    known, found = attributes_of(node), []
    if known.get("layout"):
        return []
    for place, watched in ((1, node.input[0]), (2, node.output[0] if node.output else "")):
        name = weight_at(node, place, held, shapes)
        if name and watched and len(shapes[name]) == 3:
            sides, rows, width = shapes[name]
            meets = _inputs_of(sides) if place == 1 else _states_of(known.get("direction", b"forward"))
            turn, back = _flat(sides * rows, width), _flat(sides, rows, width)
            found.append(Product(name, node.input[place], watched, meets, turn, back, groups=sides))
    return found


def _flat(*shape: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: weight.reshape(shape)


def _inputs_of(sides: int) -> Meets:
    return lambda x: _rows(x).expand(-1, sides, -1)


def _states_of(direction: bytes) -> Meets:
    """From all outputs (time, sides, samples, width): those of each side at the step before its last."""

    def meets(states: Array) -> torch.Tensor:
        earlier = []
        for side in range(states.shape[1]):
            backwards = direction == b"reverse" or side == 1
            steps = states[1:, side] if backwards else states[:-1, side]
            earlier.append(torch.from_numpy(steps).float().reshape(-1, states.shape[-1]))
        return torch.stack(earlier, 1)

    return meets


def _lookup(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    name = weight_at(node, 0, held, shapes)
    if not name or len(shapes[name]) != 2 or attributes_of(node).get("axis", 0) or node.input[1] in held:
        return []
    return [Product(name, node.input[0], node.input[1], _places, is_lookup=True)]


def _places(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.int64)).reshape(-1)


_KINDS: dict[str, Callable[[Any, Mapping[str, str], Mapping[str, tuple[int, ...]]], list[Product]]] = {
    "Conv": convolution,
    "ConvTranspose": transposed,
    "Gather": _lookup,
    "Gemm": _general_product,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "MatMul": _product,
    "RNN": _recurrent,
}
