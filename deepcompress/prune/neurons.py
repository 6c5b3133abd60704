"""Neurons that pruning left without input or without output (Han et al. 2015, section 3.5).

Which layer feeds which is read off the network's graph (torch.fx), so no names are needed. Only chains are
followed: from one layer through operations that work channel by channel to the next layer. Where a result is
used twice, added or concatenated, or a weight is, nothing is concluded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import NetworkError
from deepcompress.networks.copies import traced
from deepcompress.prune.masks import Masks
from deepcompress.training.progress import Progress

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, *_NORMS,
)  # fmt: skip
_POOLING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS = (  # and methods of tensors, by name
    F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.sigmoid, F.tanh, torch.sigmoid, torch.tanh,
    F.dropout, "relu", "sigmoid", "tanh", "contiguous",
)  # fmt: skip
_POOLING_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d,
    torch.max_pool1d, torch.max_pool2d, torch.max_pool3d,
)  # fmt: skip
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_Path = list[tuple[torch.fx.Node, str]]  # operations, and what `_kind` says of them


@dataclass(frozen=True)
class Connection:
    """The outputs of weight tensor `source` are, in order, the inputs of weight tensor `target`.

    `repeat`: consecutive inputs of the target for each output of the source (more than 1 after a flatten).
    `depthwise`: the target has a row for each input, and no other row reads that input.
    `norms`: the batch norms on the way, by the names of their modules; None where one of them has other uses as well.
    """

    source: str
    target: str
    repeat: int
    depthwise: bool = False
    norms: tuple[str, ...] | None = ()

    def read(self, kept: torch.Tensor) -> torch.Tensor:
        """For each output of the source, whether one of the target's weights that are `kept` reads it."""
        if self.depthwise:
            return kept.flatten(1).any(dim=1)
        by_input = kept.flatten(2).any(dim=2) if kept.ndim > 2 else kept
        return by_input.any(dim=0).reshape(-1, self.repeat).any(dim=1)

    def drop(self, kept: torch.Tensor, dead: torch.Tensor) -> None:
        """Take what reads the `dead` outputs of the source from the target's weights that are `kept`, in place."""
        if self.depthwise:
            kept[dead] = False
        else:
            kept[:, dead.repeat_interleave(self.repeat)] = False


def connections(model: nn.Module, watch: Progress | None = None) -> list[Connection]:
    """All direct connections between linear and convolutional layers that the graph shows beyond doubt.

    A network that torch.fx cannot trace has none, and `watch` is told so.
    """
    try:
        graph = traced(model)
    except NetworkError as error:
        if watch is not None:
            watch.message(f"dead neurons cannot be found, so they keep their weights: {error}")
        return []
    modules = dict(model.named_modules())
    uses = Counter(str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr"))
    names = _followed(model, uses)
    found = []
    for node in graph.nodes:
        target, path = _next_layer(node, modules) if node.op == "call_module" and node.target in names else (None, [])
        if target not in names:
            continue
        source_layer, target_layer = modules[str(node.target)], modules[str(target)]
        repeat = _repeat(source_layer, target_layer, [kind for _, kind in path])
        if repeat is not None:
            depthwise = _is_depthwise(target_layer)
            norms = tuple(str(step.target) for step, _ in path if isinstance(modules.get(str(step.target)), _NORMS))
            own = norms if all(uses[name] == 1 for name in norms) else None
            found.append(Connection(f"{node.target}.weight", f"{target}.weight", repeat, depthwise, own))
    return found


def _followed(model: nn.Module, uses: Mapping[str, int]) -> set[str]:
    """Layers of which a connection may be concluded: called once, and their weight is nobody else's.

    They are not divided into groups, unless each channel is one.
    """
    owners = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
        and (getattr(module, "groups", 1) == 1 or _is_depthwise(module))
        and owners[id(module.weight)] == 1
        and (uses[name], uses[f"{name}.weight"]) == (1, 0)
    }


def _is_depthwise(module: nn.Module) -> bool:
    """Whether a layer is a convolution of each channel by itself."""
    if not isinstance(module, _LAYERS) or isinstance(module, nn.Linear):
        return False
    return module.groups > 1 and module.groups == module.in_channels == module.out_channels


def _next_layer(node: torch.fx.Node, modules: dict[str, nn.Module]) -> tuple[str | None, _Path]:
    """The layer that alone uses this node's result through the operations of `_kind`, and those on the way."""
    path: _Path = []
    rank = modules[str(node.target)].get_parameter("weight").ndim
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "call_module" and isinstance(modules[str(node.target)], _LAYERS):
            return str(node.target), path
        kinds = [kind for _, kind in path]
        kind = _mean_kind(node, rank, kinds) if node.target in ("mean", torch.mean) else _kind(node, modules)
        if kind is None:
            break
        path.append((node, kind))
    return None, path


def _kind(node: torch.fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """``elementwise``, ``pool``, or ``flatten`` (of all dimensions but the first); None for anything else."""
    what = modules[str(node.target)] if node.op == "call_module" else node.target
    if isinstance(what, nn.Flatten):
        return "flatten" if (what.start_dim, what.end_dim) == (1, -1) else None
    if what in ("flatten", torch.flatten):
        start, end = (*node.args[1:], None, None)[:2]
        given = (node.kwargs.get("start_dim", start), node.kwargs.get("end_dim", end))
        return "flatten" if given in ((1, None), (1, -1)) else None
    if isinstance(what, _ELEMENTWISE_MODULES) or what in _ELEMENTWISE_FUNCTIONS:
        return "elementwise"
    return "pool" if isinstance(what, _POOLING_MODULES) or what in _POOLING_FUNCTIONS else None


def _mean_kind(node: torch.fx.Node, rank: int, path: list[str]) -> str | None:
    """As `_kind`, of a mean: over all places of each channel it pools, and flattens unless the dimensions stay.

    `rank`: dimensions of the outputs of a convolution, batch and channels among them.
    """
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
    dim = given.get("dim", given.get("axis"))
    dims = dim if isinstance(dim, tuple | list) else (dim,)
    if rank == 2 or "flatten" in path or not all(isinstance(each, int) for each in dims):
        return None
    if sorted(each % rank for each in dims) != list(range(2, rank)):
        return None
    return "pool" if given.get("keepdim", False) else "flatten"


def _repeat(source: nn.Module, target: nn.Module, path: list[str]) -> int | None:
    """Inputs of `target` for each output of `source`; None where they are not the channels in order.

    Channels are a convolution's second dimension, and a linear layer's last: pooling and flattening keep the
    first in order, not the second.
    """
    outputs = source.get_parameter("weight").shape[0]
    inputs = target.get_parameter("weight").shape[0 if _is_depthwise(target) else 1]
    if isinstance(source, nn.Linear):
        fits = isinstance(target, nn.Linear) and "pool" not in path and inputs == outputs
    elif isinstance(target, nn.Linear):
        fits = "flatten" in path and "pool" not in path[path.index("flatten") :] and inputs % outputs == 0
    else:
        fits = "flatten" not in path and inputs == outputs
    return int(inputs // outputs) if fits else None


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
            has_output = link.read(target)
            dead = ~(has_input & has_output)
            if bool((dead & (has_input | has_output)).any()):
                source[dead] = False
                link.drop(target, dead)
                changed = True
    lost = before - sum(int(mask.sum()) for mask in keep.values())
    return Masks(keep), lost


@torch.no_grad()
def silence(state: Mapping[str, torch.Tensor], links: list[Connection]) -> None:
    """Set the biases of neurons whose output nothing reads to 0, in place: they cost bytes and do nothing.

    `state` holds the weights, pruned, and the biases; a layer ``x.weight`` has ``x.bias``, or none.
    """
    for link in links:
        if link.target not in state:  # a network may give it another name there
            continue
        read = link.read(state[link.target] != 0)
        bias = state.get(f"{link.source.removesuffix('weight')}bias")
        if bias is not None:
            bias.masked_fill_(~read, 0.0)
