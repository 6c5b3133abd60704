"""The physically smaller dense network: what nothing reads any more is taken out of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from deepcompress.errors import NetworkError, first_line
from deepcompress.layers import compressible, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import each_tensor, predict, to_device
from deepcompress.prune.coupling import TOLERANCE, channels, close, in_float64, outputs_of
from deepcompress.prune.units import Group
from deepcompress.reading.fitting import fill

Gone = tuple[Group, torch.Tensor]


@dataclass(frozen=True)
class Cost:
    """What a dense network costs: its parameters, and the multiply-accumulates of one sample."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class Shrunk:
    """A smaller network, what it and the one it came from cost, and how many units were taken out.

    `stuck` units are read by nothing either, but could not be taken out of this network without changing its outputs,
    or one had to stay for a layer to be one.
    """

    network: nn.Module
    before: Cost
    after: Cost
    units: int
    stuck: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"before": asdict(self.before), "after": asdict(self.after), "units": self.units, "stuck": self.stuck}


def shrink(model: nn.Module, example: Any) -> Shrunk:
    """A copy of `model` without the neurons, filters and channels that nothing reads: columns of zeros in all readers.

    Layers keep at least one. The outputs on `example` are the same to `TOLERANCE` of the largest, computed in float64
    (the removed terms are zeros; only the order of sums may differ); units for which they are not stay.

    Args:
        model: left as it is.
        example: a batch of two or more inputs, as the network takes them.

    Raises:
        DeepCompressError: torch-pruning is missing, or cannot trace the network.
        NetworkError: the network does not run on the example.
    """
    model = copied(model).eval()
    state = tensors_of(model)
    weights = {layer.name: state[layer.name] for layer in compressible(state)}
    before = cost(model, example)
    dead = _unread(weights, channels(model, weights, example))
    going = [(group, _but_one(group, gone)) for group, gone in dead]
    going = [(group, gone) for group, gone in going if bool(gone.any())]
    expected = outputs_of(copied(model).cpu().double(), in_float64(example))
    smaller = _without(model, going, example, expected)
    if smaller is None:  # one by one, those that can go
        done: list[Gone] = []
        for pair in going:
            if _without(model, [*done, pair], example, expected) is not None:
                done.append(pair)
        going, smaller = done, _without(model, done, example, expected)
    assert smaller is not None
    units = sum(int(gone.sum()) for _, gone in going)
    total = sum(int(gone.sum()) for _, gone in dead)
    return Shrunk(smaller, before, cost(smaller, example), units, total - units)


@torch.no_grad()
def cost(model: nn.Module, example: Any) -> Cost:
    """Parameters, and the multiply-accumulates of one sample in layers and matrix products (torch's FlopCounterMode).

    Raises:
        NetworkError: the network does not run on the example.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters(), torch.empty(0)).device
    one = to_device(each_tensor(example, lambda value: value[:1]), device)
    try:
        with FlopCounterMode(display=False) as counter:
            predict(model, one)
    except Exception as error:  # the user's forward
        raise NetworkError(
            f"the network {type(model).__name__} does not run on such an input ({first_line(error, kind=True)})"
        ) from error
    return Cost(sum(value.numel() for value in model.parameters()), counter.get_total_flops() // 2)


def _unread(weights: Mapping[str, torch.Tensor], groups: Sequence[Group]) -> list[Gone]:
    """Units of which all columns that read them are zero, or are in rows that nothing reads either."""
    alive = {name: (weight != 0).cpu() for name, weight in weights.items()}
    gone = [torch.zeros(group.count, dtype=torch.bool) for group in groups]
    changed = True
    while changed:
        changed = False
        for number, group in enumerate(groups):
            read = torch.zeros(group.count + 1, dtype=torch.bool)
            for name, units in group.columns.items():
                read[units[alive[name].transpose(0, 1).flatten(1).any(dim=1)]] = True
            now = ~read[: group.count]
            if bool((now & ~gone[number]).any()):
                gone[number], changed = now, True
                for name, units in group.rows.items():
                    alive[name][now[units]] = False
    return list(zip(groups, gone, strict=True))


def _but_one(group: Group, gone: torch.Tensor) -> torch.Tensor:
    """The same, but a unit for each layer that would be without."""
    gone = gone.clone()
    for units in group.rows.values():
        if bool(gone[units].all()):
            gone[units[0]] = False
    return gone


def _without(model: nn.Module, going: Sequence[Gone], example: Any, expected: Any) -> nn.Module | None:
    """A copy without these units; None where it would not give what is expected."""
    state = tensors_of(model)
    kept: dict[tuple[str, int], torch.Tensor] = {}
    for group, gone in going:
        for dimension, places in ((0, group.rows), (1, group.columns), (0, group.vectors)):
            for name, units in places.items():
                stays = ~torch.cat([gone, gone.new_zeros(1)])[units]
                kept[name, dimension] = kept.get((name, dimension), True) & stays
    for (name, dimension), stays in kept.items():
        state[name] = state[name].index_select(dimension, stays.nonzero().flatten().to(state[name].device))
    smaller = copied(model)
    try:
        fill(smaller, state, "the smaller network", smaller=True)
    except NetworkError:
        return None
    found = outputs_of(copied(smaller).cpu().double(), in_float64(example))
    return smaller if close(expected, found, TOLERANCE) else None
