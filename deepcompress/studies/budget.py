"""What a search allows: how much of the validation metric may be lost, and which files lose no more."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from deepcompress.studies.points import Outcome
from deepcompress.training.evaluation import Evaluation
from deepcompress.training.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class Rule:
    """What passes: at most `max_drop` points of validation accuracy lost, counted in whole samples.

    Where one sample is more than `max_drop` points, counting cannot tell: then the mean cross entropy must not have
    risen either.

    Attributes:
        max_drop: points of accuracy.
        samples: how many validation samples there are.
        dense_errors, dense_loss: errors (a count) and mean cross entropy (nats) of the dense network on them.
    """

    max_drop: float
    samples: int
    dense_errors: int
    dense_loss: float

    @classmethod
    def of(cls, dense: Evaluation, max_drop: float, task: Task = CLASSIFICATION) -> Rule | ValueRule:
        """The rule for a network that was measured as `dense`: of a classifier, errors are counted."""
        if task.name != CLASSIFICATION.name or dense.error is None:
            return ValueRule(max_drop, dense.samples, task, dense.value)
        return cls(max_drop, dense.samples, _errors(dense.error, dense.samples), dense.loss)

    def facts(self) -> dict[str, Any]:
        """What was allowed, as plain data for JSON."""
        return {**asdict(self), "most_errors": self.most_errors, "most_loss": self.most_loss}

    @property
    def most_errors(self) -> int:
        """Errors that are allowed on the validation samples."""
        return self.dense_errors + math.floor(self.max_drop * self.samples / 100 + 1e-9)

    @property
    def most_loss(self) -> float | None:
        """Mean cross entropy that is allowed; None where counting errors is enough."""
        return None if self.most_errors > self.dense_errors else self.dense_loss

    def passes(self, outcome: Outcome) -> bool:
        """Whether a trial is accurate enough."""
        if outcome.val_error is None or outcome.val_loss is None:
            return False
        enough = _errors(outcome.val_error, self.samples) <= self.most_errors
        return enough and (self.most_loss is None or outcome.val_loss <= self.most_loss)

    def is_near(self, outcome: Outcome) -> bool:
        """Whether a short trial lost so little that a smaller size may pass in full: twice the points and one more."""
        if outcome.val_error is None:
            return False
        lost = _errors(outcome.val_error, self.samples) - self.dense_errors
        return lost <= (2 * self.max_drop + 1) * self.samples / 100

    def __str__(self) -> str:
        text = (
            f"at most {self.most_errors} errors on {self.samples} validation samples (the dense network makes "
            f"{self.dense_errors}; one sample is {100 / self.samples:.2g} points)"
        )
        if self.most_loss is None:
            return text
        return f"{text}, and a cross entropy of at most {self.most_loss:.4f} (dense: {self.dense_loss:.4f})"


@dataclass(frozen=True)
class ValueRule:
    """What passes of other tasks: their metric at most `max_drop` points worse (`Task.lost`).

    Attributes:
        max_drop: points.
        samples: how many validation samples there are.
        task: what is measured.
        dense_value: the metric of the dense network on them.
    """

    max_drop: float
    samples: int
    task: Task
    dense_value: float

    def facts(self) -> dict[str, Any]:
        """What was allowed, as plain data for JSON."""
        named = {"metric": self.task.metric, "dense_value": self.dense_value}
        return {"max_drop": self.max_drop, "samples": self.samples, **named}

    def passes(self, outcome: Outcome) -> bool:
        """Whether a trial is good enough."""
        return self._lost(outcome) <= self.max_drop + 1e-9

    def is_near(self, outcome: Outcome) -> bool:
        """As `Rule.is_near`."""
        return self._lost(outcome) <= 2 * self.max_drop + 1

    def _lost(self, outcome: Outcome) -> float:
        return math.inf if outcome.val_value is None else self.task.lost(self.dense_value, outcome.val_value)

    def __str__(self) -> str:
        what = "points" if self.task.unit else "percent of that"
        return (
            f"{self.task.metric} on {self.samples} validation samples at most {self.max_drop:g} {what} worse than the "
            f"dense network's {self.task.shown(self.dense_value)}"
        )


def _errors(percent: float, samples: int) -> int:
    return round(percent * samples / 100)
