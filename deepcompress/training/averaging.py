"""The mean of the weights along the way: it lies nearer to the middle of a minimum than the last step does."""

from __future__ import annotations

import torch
from torch import nn

#: Steps by which the mean lags at first, as if these had been taken before: it forgets the start of training sooner.
_LAG = 10


class Average:
    """Exponential moving average of all that an optimizer moves, and of the network's running statistics.

    After each step ``mean += (1 - decay) * (value - mean)``: averaging of the iterates (Polyak and Juditsky 1992) with
    weights that decay, over the last ``1 / (1 - decay)`` steps or so. In the first steps, when there are not so many,
    ``decay`` is smaller. Under masks and shared values an optimizer moves what is behind them, so that is what is
    averaged: the hooks make the network of it, as they do after a step. With a decay of 0 there is nothing to keep.
    """

    changing = ("means", "steps")

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> None:
        moved = (parameter for group in optimizer.param_groups for parameter in group["params"])
        statistics = (buffer for buffer in model.buffers() if buffer.is_floating_point())
        self.values: list[torch.Tensor] = [*moved, *statistics] if decay else []
        self.decay, self.steps = decay, 0
        self.means = [value.detach().clone() for value in self.values]

    @torch.no_grad()
    def look(self) -> None:
        """Take in the values as a step has left them."""
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + _LAG))
        for mean, value in zip(self.means, self.values, strict=True):
            mean.lerp_(value, share)

    @torch.no_grad()
    def write(self) -> None:
        """Put the means in place of the values."""
        for mean, value in zip(self.means, self.values, strict=True):
            value.copy_(mean)
