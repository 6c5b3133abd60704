"""One place where a graph multiplies by a weight, or looks rows of it up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]
#: From the array that a product watches to what its weight meets: (positions, groups, inputs).
Meets = Callable[[Array], torch.Tensor]


def same(weight: torch.Tensor) -> torch.Tensor:
    """As it is."""
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
    turn: Callable[[torch.Tensor], torch.Tensor] = same
    back: Callable[[torch.Tensor], torch.Tensor] = same
    groups: int = 1
    bias: str = ""
    is_lookup: bool = False


def weight_at(node: Any, place: int, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The tensor that an input of a node is, if it is a weight."""
    name = held.get(node.input[place], "") if place < len(node.input) else ""
    return name if name in shapes else ""


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a node by name; those that are not given are not among them."""
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
