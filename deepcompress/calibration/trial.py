"""Rounded weights in a copy of the network, judged by samples that rounding has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from deepcompress.calibration.collect import flattened, output_of
from deepcompress.layers import live_tensors, tensors_of

FINEST, COARSEST = 2.0**-12, 2.0**4  # steps
TRIES = 7
CLOSE = 0.75  # an error that is this part of what is allowed, or more, is near enough

Made = TypeVar("Made")


class Trial:
    """What rounding does to the output of a network.

    Args:
        model: the network, which is not changed.
        twin: a copy of it, to put tensors into.
        batches: inputs that nothing was learned from.
        power: what errors are measured against, the summed variance of the output (`Statistics.power`).

    Raises:
        DataError, NetworkError: as `collect.output_of`.
    """

    def __init__(self, model: nn.Module, twin: nn.Module, batches: Iterable[Any], power: float) -> None:
        self.network = twin.eval().requires_grad_(False)
        self._dense = live_tensors(model, tensors_of(model))
        self._tensors = live_tensors(twin, tensors_of(twin))
        self._filled: set[str] = set()
        self._batches, self._power = list(batches), power
        with torch.no_grad():
            self._expected = [output_of(self.network, x) for x in self._batches]

    @torch.no_grad()
    def fill(self, values: Mapping[str, torch.Tensor]) -> None:
        """Put tensors into the copy, by name; all others are those of the network."""
        for name in self._filled - values.keys():
            self._tensors[name].copy_(self._dense[name])
        self._filled = set(values)
        for name, value in values.items():
            self._tensors[name].copy_(value.reshape(self._tensors[name].shape))

    @torch.no_grad()
    def error(self, values: Mapping[str, torch.Tensor]) -> float:
        """The mean squared change of the output with these tensors, as a part of its variance; it may be infinite."""
        self.fill(values)
        changed = samples = 0.0
        for x, expected in zip(self._batches, self._expected, strict=True):
            changed += float((flattened(self.network, x) - expected).double().square().sum())
            samples += len(expected)
        return changed / (samples * self._power) if math.isfinite(changed) else math.inf


def coarsest(allowed: float, loss_of: Callable[[float], tuple[float, Made]], start: float) -> Made:
    """What comes of the coarsest step found whose loss is at most `allowed`; of the least loss where there is no such.

    Only the best so far is kept, as each may be as large as the network.

    Args:
        allowed: most loss, in any unit.
        loss_of: the loss at a step, as a rule larger for larger steps, by their square; and what comes of it.
        start: the step to look at first.
    """
    losses: dict[float, float] = {}
    best: tuple[tuple[bool, float], Made] | None = None
    step = start
    while best is None or (len(losses) < TRIES and step not in losses):
        losses[step], made = loss_of(step)
        good = losses[step] <= allowed
        rank = (good, step if good else -losses[step])
        if best is None or rank > best[0]:
            best = rank, made
        del made
        if CLOSE * allowed <= losses[step] <= allowed:
            break
        step = _next(losses, allowed)
    return best[1]


def _next(losses: Mapping[float, float], allowed: float) -> float:
    """Between the nearest steps on both sides, where a line in logarithms says; else further out."""
    above = min((step for step, loss in losses.items() if not loss <= allowed), default=None)
    below = max((step for step in losses if above is None or step < above), default=None)
    if above is None or below is None:
        step = above if below is None else below
        assert step is not None
        least, most, usual = (0.1, 0.7, 0.3) if below is None else (1.4, 10.0, 3.0)
        told = 0 < losses[step] < math.inf and allowed > 0
        factor = (allowed / losses[step]) ** 0.5 if told else usual
        return min(max(step * min(max(factor, least), most), FINEST), COARSEST)
    high, low, part = losses[above], losses[below], 0.5
    if high < math.inf and low > 0 and allowed > 0:
        aim = (CLOSE * allowed * allowed) ** 0.5
        part = min(max(math.log(aim / low) / math.log(high / low), 0.1), 0.9)
    return float(below ** (1 - part) * above**part)
