"""A network and samples in, weights as whole numbers and corrected biases out, at any fineness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepcompress.calibration.collect import collect
from deepcompress.calibration.grids import Calibrated
from deepcompress.layers import live_tensors, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.quantize.rows import RowGrid
from deepcompress.training.progress import Progress

_ERROR = 1.0  # of the output, in squared steps: a step of 0.1 allows 1 % of its variance


@dataclass(frozen=True)
class Rounded:
    """What the file gets: weights on grids, and tensors that make their mean errors good, both by name."""

    grids: Mapping[str, RowGrid]
    corrected: Mapping[str, torch.Tensor]


class Rounder:
    """Rounds the weights of a network by what samples tell of them.

    Args:
        model: the network, which is not changed.
        names: of the weights that are to be rounded.
        batches: inputs (see `networks.inputs.predict`).
        watch: told which weights nothing is known of.

    Raises:
        DataError, NetworkError: as `collect`.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], batches: Iterable[Any], watch: Progress) -> None:
        work = copied(model).eval().requires_grad_(False)
        for parameter in work.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        tensors = live_tensors(work, tensors_of(work))
        self.weights = {name: tensors[name] for name in names}
        self._calibrated = Calibrated(self.weights, collect(work, batches, watch))
        self._biases = _biases(work, tensors)
        met = set(self._calibrated.met())
        if missing := [name for name in self.weights if name not in met]:
            watch.message(f"rounded without calibration, as no product with them was seen: {', '.join(missing)}")

    def __call__(self, step: float) -> Rounded:
        """As finely as a `step` of the recipe says: the output may change by step^2 of its variance."""
        grids, corrected = {}, {}
        for name, grid in self._calibrated.grids(_ERROR * step**2):
            grids[name] = grid
            change = self._calibrated.bias_change(name, grid)
            if change is not None and name in self._biases:
                own, bias = self._biases[name]
                corrected[own] = bias.detach() - change.to(bias)
        return Rounded(grids, corrected)


def _biases(work: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, torch.Tensor]]:
    """By the name of a weight, the name and values of the bias that its module adds to its products."""
    name_of = {id(value): name for name, value in tensors.items()}
    found = {}
    for module in work.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        known = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and id(weight) in name_of
        if known and isinstance(bias, torch.Tensor) and id(bias) in name_of:
            found[name_of[id(weight)]] = name_of[id(bias)], bias
    return found
