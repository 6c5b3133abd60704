"""What a compression did, stage by stage."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deepcompress.container.breakdown import Breakdown, smaller
from deepcompress.training.evaluation import Evaluation
from deepcompress.training.tasks import Task

MOST_LAYERS_IN_A_LINE = 24


@dataclass(frozen=True)
class StageResult:
    """Where things stood after a stage: bytes of the .dc file then, its ratio to dense fp32, accuracy in percent.

    `loss` is the mean on the same data, `metric` the value of the task's metric there (of a classifier, the error);
    what was not measured is None.
    """

    stage: str
    bytes: int
    ratio: float
    accuracy: float | None
    seconds: float
    loss: float | None = None
    metric: float | None = None

    def measured(self, found: Evaluation) -> StageResult:
        """With what was measured then; what is not finite is None."""
        loss, value = (each if math.isfinite(each) else None for each in (found.loss, found.value))
        return replace(self, accuracy=found.accuracy, loss=loss, metric=value)


@dataclass(frozen=True)
class Result:
    """What a compression did.

    Accuracies are in percent, None where nothing measured them; `accuracy_after` is that of the network reloaded from
    the file. `kept` is the surviving fraction of each layer after pruning; `held` are the layers that `max_drop` kept
    from being pruned as far as asked. `dense_bytes` counts four bytes for each float, `source_bytes` those of the types
    in which the tensors were given; `ratio` and `source_ratio` are these over the bytes of the file. `metric` is what
    was measured, such as ``Error``, ``mIoU`` or ``MSE``, and `unit` what follows its values. `errors`, where weights
    were rounded row by row, is what that changed in each layer: the norm of the difference as a part of the weights'.
    `update`, where the file is a small update of another, says what came of that: `base`, `bytes` of the update, how
    many weights `changed`, what was asked (`update_size`, `max_drop`), and the `levels` that were measured on the way.
    `allocation`, where the distribution is found by trials, has the `fractions` of the layers, the `rewards` of the
    trials, and those of `others`.
    """

    file: str
    file_bytes: int
    dense_bytes: int
    ratio: float
    accuracy_before: float | None
    accuracy_after: float | None
    kept: dict[str, float]
    stages: list[StageResult]
    seed: int
    recipe: dict[str, Any]
    breakdown: Breakdown = field(repr=False)
    held: list[str] = field(default_factory=list)
    metric: str = "Error"
    unit: str = " %"
    source_bytes: int | None = None
    errors: dict[str, float] = field(default_factory=dict)
    update: dict[str, Any] | None = None
    allocation: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        breakdown: Breakdown,
        stages: list[StageResult],
        recipe: dict[str, Any],
        kept: dict[str, float],
        **more: Any,
    ) -> Result:
        """The result that `stages` (from dense to the file) and the finished file say; `more` are other attributes."""
        first, last = stages[0], stages[-1]
        return cls(
            file=breakdown.file,
            file_bytes=breakdown.file_bytes,
            dense_bytes=first.bytes,
            ratio=first.bytes / breakdown.file_bytes,
            accuracy_before=first.accuracy,
            accuracy_after=last.accuracy,
            kept=kept,
            stages=stages,
            seed=recipe["seed"],
            recipe=recipe,
            breakdown=breakdown,
            **more,
        )

    @property
    def source_ratio(self) -> float | None:
        """How many times smaller the file is than the tensors that were given, in the types that they had."""
        return None if self.source_bytes is None else self.source_bytes / self.file_bytes

    @property
    def smaller(self) -> str:
        """How much smaller the file is, in words: against fp32, and against what was given where that differs."""
        return smaller(self.file_bytes, self.dense_bytes, self.source_bytes)

    @property
    def loss_before(self) -> float | None:
        """The dense network's loss."""
        return self.stages[0].loss

    @property
    def loss_after(self) -> float | None:
        """The loss of the network reloaded from the file."""
        return self.stages[-1].loss

    @property
    def metric_after(self) -> float | None:
        """The task's metric of the network reloaded from the file."""
        return self.stages[-1].metric

    def measured(self, before: Evaluation, after: Evaluation, task: Task) -> Result:
        """With what was measured of the dense network and of the file's, in the first and the last stage."""
        first, last = self.stages[0].measured(before), self.stages[-1].measured(after)
        return replace(
            self,
            stages=[first, *self.stages[1:-1], last],
            accuracy_before=before.accuracy,
            accuracy_after=after.accuracy,
            metric=task.metric,
            unit=task.unit,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        del plain["breakdown"], plain["unit"]
        for stage in plain["stages"]:
            stage["source_ratio"] = None if self.source_bytes is None else self.source_bytes / stage["bytes"]
        return {**plain, "source_ratio": self.source_ratio, "value": self.metric_after}


def kept_line(kept: dict[str, float], sparsity: float) -> str:
    """The surviving fraction of each layer, and of all together, in a line; of many layers only the extremes."""
    parts = [f"{name.removesuffix('.weight')} {100 * density:.1f} %" for name, density in kept.items()]
    if len(parts) > MOST_LAYERS_IN_A_LINE:
        low, high = min(kept, key=kept.__getitem__), max(kept, key=kept.__getitem__)
        parts = [f"from {100 * kept[low]:.2f} % ({low}) to {100 * kept[high]:.2f} % ({high}) over {len(kept)} layers"]
    return f"weights kept: {', '.join(parts)}; {100 * (1 - sparsity):.2f} % in all"
