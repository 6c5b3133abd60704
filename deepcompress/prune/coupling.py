"""Which neurons and filters can be removed as a whole, with all that hangs on them, so that nothing else changes.

The dependencies are torch-pruning's (Fang et al. 2023, DepGraph), read off one run of the network: it follows residual
sums, concatenations, depthwise convolutions and flattening. What it takes for a channel-wise operation may be none (a
softmax over the channels, a group norm); so a group is believed only after a trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from deepcompress.errors import DeepCompressError, first_line
from deepcompress.layers import tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import each_tensor, predict, tensors_in
from deepcompress.prune.units import Group

#: Relative difference that a trial may leave, computed in float64.
TOLERANCE = 1e-9
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def channels(model: nn.Module, weights: Mapping[str, torch.Tensor], example: Any) -> list[Group]:
    """The groups of units of linear and convolutional layers that other layers read, and the network does not give.

    Args:
        model: on any device, left as it was: a copy in float64 is looked at.
        weights: the prunable ones of its tensors by name; groups that need others are left out.
        example: a batch of inputs, two samples or more, as the network takes them.

    Raises:
        DeepCompressError: torch-pruning is not installed, or the network does not run on the example.
    """
    probe = copied(model).cpu().double().eval().requires_grad_(True)
    example = in_float64(example)
    found = [group for group in _traced(probe, example) if _fits(group, probe, weights)]
    if not found or _harmless(probe, found, example):
        return found
    return [group for group in found if _harmless(probe, [group], example)]


def in_float64(value: Any) -> Any:
    """Inputs of a network on the CPU, what is floating point in float64."""
    return each_tensor(value, lambda x: x.detach().cpu().to(torch.float64 if x.is_floating_point() else x.dtype))


def _traced(model: nn.Module, example: Any) -> list[Group]:
    """What torch-pruning says, channel by channel; wrong where it misunderstands an operation."""
    try:
        import torch_pruning
    except ImportError:
        raise DeepCompressError(
            "removing whole neurons and filters needs torch-pruning: pip install 'deepcompress[shrink]'"
        ) from None
    try:
        with torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(model, example, predict, verbose=False)
            groups = list(graph.get_all_groups(root_module_types=_LAYERS))
    except Exception as error:  # it runs the user's forward, which may fail in any way
        raise DeepCompressError(
            f"the dependencies in the network {type(model).__name__} cannot be traced ({first_line(error, kind=True)})"
        ) from error
    names = {module: name for name, module in model.named_modules()}
    return [group for group in (_group(graph, items, names) for items in groups) if group is not None]


def _group(graph: Any, items: Any, names: Mapping[nn.Module, str]) -> Group | None:
    """One of torch-pruning's groups as ours; None where it involves a module of another kind."""
    rows: dict[str, torch.Tensor] = {}
    columns: dict[str, torch.Tensor] = {}
    vectors: dict[str, torch.Tensor] = {}
    count = len(items[0].idxs)
    for item in items:
        module = item.dep.target.module
        if module not in names:  # an operation without parameters
            if isinstance(module, nn.Parameter):
                return None
            continue
        name = names[module]
        if isinstance(module, (*_LAYERS, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            outputs = graph.is_out_channel_pruning_fn(item.dep.handler) or _is_depthwise(module)
        else:
            return None
        for key, tensor in tensors_of(module).items():
            if tensor.ndim == 0 or (tensor.ndim == 1 and not outputs):
                continue
            kind = vectors if tensor.ndim == 1 else rows if outputs else columns
            units = kind.setdefault(f"{name}.{key}", torch.full((tensor.shape[0 if outputs else 1],), -1))
            if not _place(units, item.idxs, item.root_idxs, count):
                return None
    return Group(count, rows, columns, vectors)


def _is_depthwise(module: nn.Module) -> bool:
    """Whether each filter reads one channel alone: its output is a unit of the same group as its input."""
    return 1 < getattr(module, "groups", 1) == getattr(module, "in_channels", 0) == getattr(module, "out_channels", 0)


def _place(units: torch.Tensor, indices: Sequence[int], roots: Sequence[int], count: int) -> bool:
    """Note in `units` which unit is where; False where an index is out of range or has another unit already."""
    where, which = torch.tensor(indices), torch.tensor(roots)
    if len(where) != len(which) or not len(where) or int(where.max()) >= len(units) or int(which.max()) >= count:
        return False
    if bool(((units[where] >= 0) & (units[where] != which)).any()):
        return False
    units[where] = which
    return True


def _fits(group: Group, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether something reads the units, and all tensors are the pruned ones, of one place and one group each."""
    owners = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    involved = [*group.rows, *group.columns]
    tensors = [parameters[name] for name in (*involved, *group.vectors) if name in parameters]
    return (
        bool(group.columns)
        and all(name in weights for name in involved)
        and all(owners[id(tensor)] == 1 for tensor in tensors)
        and all(_complete(units, group.count) for units in group.rows.values())
    )


def _complete(units: torch.Tensor, count: int) -> bool:
    """Whether each row has a unit, and no unit two rows of a layer (torch-pruning's concatenations have fewer)."""
    return bool((units >= 0).all()) and len(set(units.tolist())) == len(units) <= count


def _harmless(model: nn.Module, groups: Sequence[Group], example: Any) -> bool:
    """Whether the outputs depend on units through what reads them and nothing else.

    Tried with one unit of each group and with half of them: what norms over some channels does not fall into place by
    chance both times.
    """
    generator = torch.Generator().manual_seed(0)
    places = [torch.rand(group.count, generator=generator).argsort() for group in groups]
    halves = [place < (group.count + 1) // 2 for group, place in zip(groups, places, strict=True)]
    return all(_unseen(model, groups, gone, example) for gone in ([place == 0 for place in places], halves))


@torch.no_grad()
def _unseen(model: nn.Module, groups: Sequence[Group], gone: Sequence[torch.Tensor], example: Any) -> bool:
    """Whether units that are `gone` change nothing once nothing reads them any more."""
    trial = copied(model)
    state = tensors_of(trial)
    chosen = list(zip(groups, gone, strict=True))
    _zero(state, [(group.columns, 1, units) for group, units in chosen])
    read = outputs_of(trial, example)
    _zero(state, [(places, 0, units) for group, units in chosen for places in (group.rows, group.vectors)])
    return read is not None and close(read, outputs_of(trial, example), TOLERANCE)


def _zero(
    state: Mapping[str, torch.Tensor], parts: Iterable[tuple[Mapping[str, torch.Tensor], int, torch.Tensor]]
) -> None:
    for places, dimension, gone in parts:
        for name, units in places.items():
            if name not in state:  # a network may give it another name there
                continue
            state[name].transpose(0, dimension)[torch.cat([gone, gone.new_zeros(1)])[units]] = 0


@torch.no_grad()
def outputs_of(model: nn.Module, example: Any) -> list[torch.Tensor] | None:
    """All tensors that the network gives, in order; None where it fails, as networks with fixed sizes may."""
    try:
        return list(tensors_in(predict(model, example)))
    except Exception:  # the user's forward
        return None


def close(first: Sequence[torch.Tensor] | None, second: Sequence[torch.Tensor] | None, tolerance: float) -> bool:
    """Whether all outputs are finite and differ by no more than `tolerance` times the largest of their tensor."""
    if not first or not second or len(first) != len(second):
        return False
    return all(
        a.shape == b.shape
        and bool(torch.isfinite(a.double()).all())
        and float((a.double() - b.double()).abs().max()) <= tolerance * float(a.double().abs().max().clamp_min(1e-30))
        for a, b in zip(first, second, strict=True)
        if a.numel()
    )
