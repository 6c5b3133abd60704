"""What it costs to prune a network in one way or another, tried for a moment on a part of the validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deepcompress.networks.inputs import Batches, rows, to_device
from deepcompress.prune.criteria.base import Evidence, judge
from deepcompress.prune.masks import share_out
from deepcompress.prune.scores import profile
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.loop import count_batches
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run

SAMPLES = 1024  # of the validation data, which a trial is measured on
WORST = 10.0  # the cost of a loss that is not finite, or so many times the one of the first trial


class Trials:
    """Prunes the network for a moment, and measures it; what was measured before is not measured again.

    Attributes:
        measure: what a cost is of: ``error`` or ``loss``.
    """

    def __init__(self, run: Run) -> None:
        assert run.val_batches is not None
        self.model, self.recipe, self.weights, self.task = run.model, run.recipe, run.weights, task_of(run.objective)
        self.batches = spread(run.val_batches, next(run.model.parameters()).device)
        scores = judge(Evidence.of(run)).scores
        self._profiles = {name: profile(score) for name, score in scores.items()}
        self._places = {name: _places(score) for name, score in scores.items()}
        self.measure, self._scale = "error", math.nan
        self._known: dict[tuple[int, ...], float] = {}

    def shares(self, distribution: str) -> dict[str, int]:
        """How many weights each layer loses by another distribution."""
        return share_out(self._profiles, replace(self.recipe, distribution=distribution))[0]

    def cost(self, losses: Mapping[str, int]) -> float:
        """Of the network without the so many weights of each layer that are worth least."""
        key = tuple(losses[name] for name in self.weights)
        if key not in self._known:
            self._known[key] = self._measured(losses)
        return self._known[key]

    @torch.no_grad()
    def _measured(self, losses: Mapping[str, int]) -> float:
        before = {name: weight.detach().clone() for name, weight in self.weights.items()}
        try:
            for name, weight in self.weights.items():
                weight.masked_fill_(self._places[name] < losses[name], 0.0)
            return self._cost_of(evaluate(self.model, self.batches, self.task))
        finally:
            for name, weight in self.weights.items():
                weight.copy_(before[name])

    def _cost_of(self, found: Evaluation) -> float:
        if found.error is not None:
            return found.error / 100 if math.isfinite(found.error) else WORST
        if math.isnan(self._scale):  # of the first trial
            self.measure = "loss"
            self._scale = abs(found.loss) if math.isfinite(found.loss) and found.loss else 1.0
        return min(found.loss / self._scale, WORST) if math.isfinite(found.loss) else WORST


def _places(scores: torch.Tensor) -> torch.Tensor:
    """Where each weight comes in the order in which they go, from 0; of equal scores the first go first."""
    order = torch.argsort(scores.reshape(-1), stable=True)
    places = torch.empty(len(order), dtype=torch.int32, device=scores.device)
    places[order] = torch.arange(len(order), dtype=torch.int32, device=scores.device)
    return places.reshape(scores.shape)


def spread(batches: Batches, device: torch.device) -> list[tuple[Any, Any]]:
    """About `SAMPLES` of all samples, as many of each batch, which may be sorted by class."""
    most = math.ceil(SAMPLES / count_batches(batches))
    return [(to_device(rows(x, 0, most), device), to_device(rows(y, 0, most), device)) for x, y in batches]
