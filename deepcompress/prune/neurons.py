"""Neurons that pruning left without input or without output (Han et al. 2015, section 3.5).

Which layer feeds which is read off the network's graph (torch.fx), so no names are needed. Only chains are
followed: from one layer through operations that work channel by channel to the next layer. Where a result is
used twice, added or concatenated, nothing is concluded.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from deepcompress.prune.masks import Masks

_ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip
_POOLING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS = (
    F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.sigmoid, F.tanh, torch.sigmoid, torch.tanh,
    F.dropout,
)  # fmt: skip
_POOLING_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d,
    torch.max_pool1d, torch.max_pool2d, torch.max_pool3d,
)  # fmt: skip
_ELEMENTWISE_METHODS = ("relu", "sigmoid", "tanh", "contiguous")
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Connection:
    """The outputs of weight tensor `source` are, in order, the inputs of weight tensor `target`.

    `repeat`: consecutive inputs of the target for each output of the source (more than 1 after a flatten).
    """

    source: str
    target: str
    repeat: int


def connections(model: nn.Module) -> list[Connection]:
    """All direct connections between linear and convolutional layers that the graph shows beyond doubt.

    A network that torch.fx cannot trace has none.
    """
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception:  # tracing runs the user's forward, which may fail in any way
        return []
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    used_once = {node.target for node in calls if sum(other.target == node.target for other in calls) == 1}
    found = []
    for node in calls:
        target = _next_layer(node, modules)
        if target is None or node.target not in used_once or target not in used_once:
            continue
        source_layer, target_layer = modules[str(node.target)], modules[target]
        if not _is_simple(source_layer) or not _is_simple(target_layer):
            continue
        outputs, inputs = source_layer.weight.shape[0], target_layer.weight.shape[1]
        if inputs % outputs == 0:
            found.append(Connection(f"{node.target}.weight", f"{target}.weight", inputs // outputs))
    return found


def _is_simple(module: nn.Module) -> bool:
    return isinstance(module, _LAYERS) and getattr(module, "groups", 1) == 1


def _next_layer(node: torch.fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """Name of the layer that alone uses this node's result, through channelwise operations only."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "call_module":
            module = modules[str(node.target)]
            if isinstance(module, _LAYERS):
                return str(node.target)
            if not isinstance(module, _CHANNELWISE_MODULES):
                return None
        elif not _is_channelwise(node):
            return None
    return None


def _is_channelwise(node: torch.fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _CHANNELWISE_METHODS
    return node.op == "call_function" and node.target is not operator.add and node.target in _CHANNELWISE_FUNCTIONS


def remove_dead(masks: Masks, links: list[Connection]) -> tuple[Masks, int]:
    """Drop the connections of neurons that have no input or no output left, until nothing changes.

    Returns:
        The new masks, and how many weights they lost.
    """
    keep = {name: mask.clone() for name, mask in masks.keep.items()}
    links = [link for link in links if link.source in keep and link.target in keep]
    before = sum(int(mask.sum()) for mask in keep.values())
    changed = True
    while changed:
        changed = False
        for link in links:
            source, target = keep[link.source], keep[link.target]
            has_input = source.flatten(1).any(dim=1)
            by_input = target.flatten(2).any(dim=2) if target.ndim > 2 else target
            has_output = by_input.any(dim=0).reshape(-1, link.repeat).any(dim=1)
            dead = ~(has_input & has_output)
            if bool((dead & (has_input | has_output)).any()):
                source[dead] = False
                target[:, dead.repeat_interleave(link.repeat)] = False
                changed = True
    lost = before - sum(int(mask.sum()) for mask in keep.values())
    return Masks(keep), lost
