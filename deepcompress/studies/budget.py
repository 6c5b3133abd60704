"""What a search allows: how much of the validation metric may be lost, and which files lose no more.

A file is chosen because it lost little on the validation samples, and on others it loses more: the smallest that passes
had luck. So what chance may hide is counted as lost (`margin`), as far as the budget goes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepcompress.studies.points import Outcome
from deepcompress.training.evaluation import Evaluation
from deepcompress.training.tasks import CLASSIFICATION, Task

CONFIDENCE = 1.73  # standard errors that 19 times of 20 are not exceeded, by 20 parts (Student's t)


@dataclass(frozen=True)
class Rule:
    """What passes: at most `max_drop` points of validation accuracy lost, counted in whole samples.

    The points are less the `margin` of the trial. Where one sample is more than what is left of them, counting cannot
    tell: then there must be no more errors, and the mean cross entropy must not have risen either.

    Attributes:
        max_drop: points of accuracy.
        samples: how many validation samples there are.
        dense_errors, dense_loss: errors (a count) and mean cross entropy (nats) of the dense network on them.
        dense_parts: its error on each part of them, as in `Outcome.val_parts`.
    """

    max_drop: float
    samples: int
    dense_errors: int
    dense_loss: float
    dense_parts: Sequence[float] = ()

    @classmethod
    def of(
        cls, dense: Evaluation, max_drop: float, task: Task = CLASSIFICATION, parts: Sequence[float] = ()
    ) -> Rule | ValueRule:
        """The rule for a network that was measured as `dense`: of a classifier, errors are counted.

        `parts` is its metric on each part of the samples.
        """
        if task.name != CLASSIFICATION.name or dense.error is None:
            return ValueRule(max_drop, dense.samples, task, dense.value, parts)
        return cls(max_drop, dense.samples, _errors(dense.error, dense.samples), dense.loss, parts)

    def facts(self) -> dict[str, Any]:
        """What was allowed, as plain data for JSON."""
        allowed = {"most_errors": self.most_errors, "most_loss": self.most_loss}
        return {**asdict(self), **allowed}

    @property
    def most_errors(self) -> int:
        """Errors that are allowed on the validation samples of a trial that leaves nothing to chance."""
        return self._most_errors(0.0)

    @property
    def most_loss(self) -> float | None:
        """Mean cross entropy that is then allowed; None where counting errors is enough."""
        return None if self.most_errors > self.dense_errors else self.dense_loss

    def margin(self, outcome: Outcome) -> float:
        """Points that a trial may lose beyond what it lost here; see `margin_of`."""
        return margin_of(self.dense_parts, outcome.val_parts, CLASSIFICATION)

    def passes(self, outcome: Outcome) -> bool:
        """Whether a trial is accurate enough."""
        if outcome.val_error is None or outcome.val_loss is None:
            return False
        errors, most = _errors(outcome.val_error, self.samples), self._most_errors(self.margin(outcome))
        return errors <= most and (most > self.dense_errors or outcome.val_loss <= self.dense_loss)

    def _most_errors(self, margin: float) -> int:
        points = max(self.max_drop - margin, 0.0)
        return self.dense_errors + math.floor(points * self.samples / 100 + 1e-9)

    def is_near(self, outcome: Outcome) -> bool:
        """Whether a short trial lost so little that a smaller size may pass in full: twice the points and one more."""
        if outcome.val_error is None:
            return False
        lost = _errors(outcome.val_error, self.samples) - self.dense_errors
        return lost <= (2 * self.max_drop + 1) * self.samples / 100

    def __str__(self) -> str:
        text = (
            f"at most {self.most_errors} errors on {self.samples} validation samples (the dense network makes "
            f"{self.dense_errors}; one sample is {100 / self.samples:.2g} points), less what chance may hide"
        )
        if self.most_loss is None:
            return text
        return f"{text}, and a cross entropy of at most {self.most_loss:.4f} (dense: {self.dense_loss:.4f})"


@dataclass(frozen=True)
class ValueRule:
    """What passes of other tasks: their metric at most `max_drop` points worse (`Task.lost`), less the `margin`.

    Where the margin is all of that, the metric must be no worse.

    Attributes:
        max_drop: points.
        samples: how many validation samples there are.
        task: what is measured.
        dense_value: the metric of the dense network on them.
        dense_parts: the same on each part of them.
    """

    max_drop: float
    samples: int
    task: Task
    dense_value: float
    dense_parts: Sequence[float] = ()

    def facts(self) -> dict[str, Any]:
        """What was allowed, as plain data for JSON."""
        named = {"metric": self.task.metric, "dense_value": self.dense_value, "dense_parts": self.dense_parts}
        return {"max_drop": self.max_drop, "samples": self.samples, **named}

    def passes(self, outcome: Outcome) -> bool:
        """Whether a trial is good enough."""
        return self._lost(outcome) <= max(self.max_drop - self.margin(outcome), 0.0) + 1e-9

    def margin(self, outcome: Outcome) -> float:
        """Points that a trial may lose beyond what it lost here; see `margin_of`."""
        return margin_of(self.dense_parts, outcome.val_parts, self.task)

    def is_near(self, outcome: Outcome) -> bool:
        """As `Rule.is_near`."""
        return self._lost(outcome) <= 2 * self.max_drop + 1

    def _lost(self, outcome: Outcome) -> float:
        return math.inf if outcome.val_value is None else self.task.lost(self.dense_value, outcome.val_value)

    def __str__(self) -> str:
        what = "points" if self.task.unit else "percent of that"
        return (
            f"{self.task.metric} on {self.samples} validation samples at most {self.max_drop:g} {what} worse than the "
            f"dense network's {self.task.shown(self.dense_value)}, less what chance may hide"
        )


def margin_of(dense: Sequence[float], found: Sequence[float], task: Task) -> float:
    """How many points more may be lost on other samples, by how much the parts of these differ in what they lost.

    That is `CONFIDENCE` standard errors of the mean over the parts. The same samples are compared, so that what is hard
    for both networks cancels out.

    Args:
        dense, found: the metric of the dense network and of a trial, on each part of the samples. Parts on which one is
            not finite are left out.
        task: says what is lost.

    Returns:
        points, 0 where there are fewer than two parts.
    """
    pairs = [pair for pair in zip(dense, found, strict=False) if all(map(math.isfinite, pair))]
    if len(pairs) < 2:
        return 0.0
    return CONFIDENCE * statistics.stdev(task.lost(*pair) for pair in pairs) / math.sqrt(len(pairs))


def _errors(percent: float, samples: int) -> int:
    return round(percent * samples / 100)
