"""Dropout in a network that is pruned: fewer connections need less of it (Han et al. 2015, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn


def rescaled_dropout(rate: float, density: float) -> float:
    """D_new = D_old * sqrt(C_new / C_old) (Han et al. 2015, equation 2); `density` is C_new / C_old."""
    return rate * math.sqrt(density)


def preceded_dropouts(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> list[tuple[nn.Dropout, float, str]]:
    """Each dropout module with its rate and the pruned layer that comes before it, in the order of definition."""
    found = []
    last = None
    for name, module in model.named_modules():
        if f"{name}.weight" in weights:
            last = f"{name}.weight"
        if isinstance(module, nn.Dropout) and last is not None:
            found.append((module, module.p, last))
    return found
