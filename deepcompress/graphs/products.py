"""Where a graph multiplies by a weight or looks rows of one up, and what the weight meets there.

A weight is turned so that its rows are outputs, as torch has them: what the rows of a Conv are already, and the columns
of a MatMul. The directions of a recurrent operator are groups of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from deepcompress.calibration.hooks import patches
from deepcompress.graphs.values import EXTERNAL

Array = np.ndarray[Any, np.dtype[Any]]
#: From the array that a product watches to what its weight meets: (positions, groups, inputs).
Meets = Callable[[Array], torch.Tensor]


def _same(weight: torch.Tensor) -> torch.Tensor:
    return weight


@dataclass(frozen=True)
class Product:
    """A node of the main graph that uses a weight.

    Attributes:
        weight: name of the tensor.
        value: its name in the graph.
        watched: name of the value in the graph that tells what it meets.
        meets: what it meets, from that.
        turn, back: the weight as (rows, …), and the inverse for its integers.
        groups: into which the rows are divided.
        bias: name of the tensor that is added to the outputs, a number for each row; empty if there is none.
        is_lookup: the weight's rows are looked up by whole numbers.
    """

    weight: str
    value: str
    watched: str
    meets: Meets
    turn: Callable[[torch.Tensor], torch.Tensor] = _same
    back: Callable[[torch.Tensor], torch.Tensor] = _same
    groups: int = 1
    bias: str = ""
    is_lookup: bool = False


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
        if tensor.data_location == EXTERNAL:
            yield name, next(entry.value for entry in tensor.external_data if entry.key == "location")


def _weight(node: Any, place: int, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The tensor that an input of a node is, if it is a weight."""
    name = held.get(node.input[place], "") if place < len(node.input) else ""
    return name if name in shapes else ""


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _convolution(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    name, known = _weight(node, 1, held, shapes), _attributes(node)
    if not name or len(shapes[name]) < 3:
        return []
    kernel = shapes[name][2:]
    groups = known.get("group", 1)
    like = SimpleNamespace(
        padding_mode="zeros", kernel_size=kernel, stride=tuple(known.get("strides", [1] * len(kernel))),
        dilation=tuple(known.get("dilations", [1] * len(kernel))), groups=groups,
    )  # fmt: skip

    def meets(x: Array) -> torch.Tensor:
        pads = _pads(known, kernel, like.stride, like.dilation, x.shape[2:])
        like._reversed_padding_repeated_twice = [part for pair in reversed(pads) for part in pair]
        return patches(like, torch.from_numpy(x).float())  # type: ignore[arg-type]

    bias = held.get(node.input[2], "") if len(node.input) > 2 else ""
    return [Product(name, node.input[1], node.input[0], meets, groups=groups, bias=bias)]


def _pads(
    known: Mapping[str, Any], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], size: Any
) -> list[tuple[int, int]]:
    """What is put before and after each dimension of an input of a convolution."""
    given = known.get("pads", [0] * 2 * len(kernel))
    way = known.get("auto_pad", b"NOTSET")
    if way in (b"NOTSET", b"VALID"):
        half = len(kernel)
        return [(given[each], given[half + each]) if way == b"NOTSET" else (0, 0) for each in range(half)]
    found = []
    for width, step, spread, length in zip(kernel, stride, dilation, size, strict=True):
        total = max((math.ceil(length / step) - 1) * step + (width - 1) * spread + 1 - length, 0)
        found.append((total // 2, total - total // 2) if way == b"SAME_UPPER" else (total - total // 2, total // 2))
    return found


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
        name = _weight(node, place, held, shapes)
        if name and len(shapes[name]) == 2 and place:
            found.append(Product(name, node.input[place], node.input[other], _rows, _turned, _turned))
        elif name and len(shapes[name]) == 2:
            found.append(Product(name, node.input[place], node.input[other], _columns))
    return found


def _general_product(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """Of Gemm: x B or x B^T."""
    name, known = _weight(node, 1, held, shapes), _attributes(node)
    if not name or len(shapes[name]) != 2:
        return []
    meets = _columns if known.get("transA") else _rows
    bias = held.get(node.input[2], "") if len(node.input) > 2 and known.get("beta", 1.0) == 1 else ""
    turn = _same if known.get("transB") else _turned
    return [Product(name, node.input[1], node.input[0], meets, turn, turn, bias=bias)]


def _recurrent(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """Of LSTM, GRU and RNN: inputs by W, and states by R, which are the outputs of the step before."""
    known, found = _attributes(node), []
    if known.get("layout"):
        return []
    for place, watched in ((1, node.input[0]), (2, node.output[0] if node.output else "")):
        name = _weight(node, place, held, shapes)
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
    name = _weight(node, 0, held, shapes)
    if not name or len(shapes[name]) != 2 or _attributes(node).get("axis", 0) or node.input[1] in held:
        return []
    return [Product(name, node.input[0], node.input[1], _places, is_lookup=True)]


def _places(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.int64)).reshape(-1)


_KINDS: dict[str, Callable[[Any, Mapping[str, str], Mapping[str, tuple[int, ...]]], list[Product]]] = {
    "Conv": _convolution,
    "Gather": _lookup,
    "Gemm": _general_product,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "MatMul": _product,
    "RNN": _recurrent,
}
