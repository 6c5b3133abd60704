"""What a long computation tells whoever is watching; the library itself never prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch.

    `loss` is the mean training loss, `val_loss` that of validation data; `val_error` is in percent, and
    `val_metric` the task's metric there, for people.

    What was not measured is None: a network that is no classifier has no error.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    val_error: float | None
    note: str = ""
    val_loss: float | None = None
    val_metric: str = ""


class Progress:
    """Receives the progress of a run and ignores it: the default, and the base of what shows it."""

    def begin(self, stage: str, epochs: int) -> None:
        """`stage` starts and will run for `epochs` epochs."""

    def batch(self, done: float, loss: float) -> None:
        """`done` epochs (with a fraction) of the current stage are over; `loss` is the latest batch's."""

    def epoch(self, result: EpochResult) -> None:
        """An epoch ended."""

    def work(self, stage: str, done: int, total: int, note: str) -> None:
        """`done` of `total` weights are through a stage that has no epochs; `note` names what comes next."""

    def scored(self, scores: Mapping[str, Any]) -> None:
        """Weights are about to be pruned by these `scores` (a tensor for each layer), which must not be changed."""

    def message(self, text: str) -> None:
        """Something worth a line: a decision that was taken, a floor that was applied."""
