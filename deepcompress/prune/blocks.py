"""Residual blocks that may be replaced by the identity: y = x + F(x), with nothing on the way around F.

They are read off the network's graph (torch.fx), so no names are needed.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepcompress.errors import NetworkError
from deepcompress.layers import tensors_of
from deepcompress.networks.copies import traced
from deepcompress.prune.units import Group

_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Block:
    """One residual block: the modules in its branch, in order; `last` gives what is added to the block's input."""

    modules: tuple[str, ...]
    last: str


def blocks(model: nn.Module, weights: Mapping[str, torch.Tensor], example: Any) -> list[Group]:
    """Each block as a group of one unit: all rows of all layers in its branch, and all that is added to them.

    Args:
        model: whose graph is looked at.
        weights: the prunable ones of its tensors by name.
        example: not needed here.

    Raises:
        NetworkError: torch.fx cannot trace the network.
    """
    state = tensors_of(model)
    return [_group(block, state, weights) for block in residual_blocks(model) if _prunable(block, model, weights)]


def residual_blocks(model: nn.Module) -> list[Block]:
    """All sums of a value and of a branch that is computed from it alone.

    Raises:
        NetworkError: torch.fx cannot trace the network.
    """
    try:
        graph = traced(model)
    except NetworkError as error:
        raise NetworkError(f"residual blocks cannot be found: {error}") from error
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    found = []
    for node in graph.nodes:
        if node.target not in _SUMS or len(node.all_input_nodes) != 2 or len(node.args) != 2 or node.kwargs:
            continue
        one, other = node.all_input_nodes
        branches = [
            (end, inside) for start, end in ((one, other), (other, one)) if (inside := _between(start, end)) is not None
        ]
        if not branches:
            continue
        end, inside = branches[0]
        names = tuple(str(step.target) for step in inside if step.op == "call_module")
        if end.op == "call_module" and all(calls[name] == 1 for name in names):
            found.append(Block(names, str(end.target)))
    return found


def _between(start: torch.fx.Node, end: torch.fx.Node) -> list[torch.fx.Node] | None:
    """The operations that lead from `start` to `end`, in order; None where anything else goes into `end` as well.

    Nor may anything outside read what is computed on the way, but for the sum that reads `end`.
    """
    inside: dict[torch.fx.Node, None] = {}
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is start or node in inside:
            continue
        if node.op in ("placeholder", "output"):
            return None
        inside[node] = None
        waiting += node.all_input_nodes
    private = all(user in inside or node is end for node in inside for user in node.users)
    if not inside or not private or len(end.users) != 1 or not any(start in node.all_input_nodes for node in inside):
        return None
    return list(reversed(inside))


def _prunable(block: Block, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether all parameters of the branch are pruned weights and vectors, with which its end becomes zero."""
    owners = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    last = model.get_submodule(block.last)
    if not isinstance(last, (*_LAYERS, _BatchNorm)) or (isinstance(last, _BatchNorm) and last.weight is None):
        return False
    parameters = [
        (f"{name}.{key}", value)
        for name in block.modules
        for key, value in model.get_submodule(name).named_parameters()
    ]
    return any(name in weights for name, _ in parameters) and all(
        owners[id(value)] == 1 and (value.ndim == 1 or name in weights) for name, value in parameters
    )


def _group(block: Block, state: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> Group:
    tensors = {name: state[name] for name in state if name.rpartition(".")[0] in block.modules}
    first = {name: torch.zeros(len(value), dtype=torch.int64) for name, value in tensors.items() if value.ndim}
    return Group(
        1,
        {name: units for name, units in first.items() if name in weights},
        vectors={name: units for name, units in first.items() if tensors[name].ndim == 1},
        whole=True,
    )
