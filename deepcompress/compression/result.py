"""What a compression did, stage by stage."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deepcompress.container.breakdown import Breakdown
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


@dataclass(frozen=True)
class Result:
    """What a compression did.

    Accuracies are in percent, None where nothing measured them; `accuracy_after` is that of the network reloaded from
    the file. `kept` is the surviving fraction of each layer after pruning; `held` are the layers that `max_drop` kept
    from being pruned as far as asked. `errors`, where weights were rounded row by row, is what that changed in each
    layer: the norm of the difference as a part of the norm of the weights. `metric` is what was measured, such as
    ``Error``, ``mIoU`` or ``MSE``, and `unit` what follows its values.
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
    errors: dict[str, float] = field(default_factory=dict)

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
        first, last = _with_facts(self.stages[0], before), _with_facts(self.stages[-1], after)
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
        return {**plain, "value": self.metric_after}


def _with_facts(stage: StageResult, found: Evaluation) -> StageResult:
    loss = found.loss if math.isfinite(found.loss) else None
    return replace(stage, accuracy=found.accuracy, loss=loss, metric=found.value)


def kept_line(kept: dict[str, float], sparsity: float) -> str:
    """The surviving fraction of each layer, and of all together, in a line; of many layers only the extremes."""
    parts = [f"{name.removesuffix('.weight')} {100 * density:.1f} %" for name, density in kept.items()]
    if len(parts) > MOST_LAYERS_IN_A_LINE:
        low, high = min(kept, key=kept.__getitem__), max(kept, key=kept.__getitem__)
        parts = [f"from {100 * kept[low]:.2f} % ({low}) to {100 * kept[high]:.2f} % ({high}) over {len(kept)} layers"]
    return f"weights kept: {', '.join(parts)}; {100 * (1 - sparsity):.2f} % in all"
