"""What a long computation tells whoever is watching; the library itself never prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch. `loss` is the mean training loss; `val_error` is in percent, None without validation data."""

    stage: str
    epoch: int
    epochs: int
    loss: float
    val_error: float | None
    note: str = ""


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

    def message(self, text: str) -> None:
        """Something worth a line: a decision that was taken, a floor that was applied."""
