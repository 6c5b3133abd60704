"""The trials of a search: what was asked, what came of it, and which is the best."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepcompress.studies.budget import Rule, ValueRule
from deepcompress.studies.points import Outcome, front_of


@dataclass(frozen=True)
class Trial:
    """One compression of the search. `asked` is its size in bytes, None for the one that prunes nothing."""

    outcome: Outcome
    asked: int | None
    short: bool
    passed: bool


@dataclass
class Found:
    """The trials of a search so far, in their order, and the folder where their files are."""

    folder: Path
    rule: Rule | ValueRule
    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """The smallest file that passed; of equal ones the first."""
        passed = [trial for trial in self.trials if trial.passed]
        return min(passed, key=lambda trial: trial.outcome.file_bytes or 0, default=None)

    def path(self, trial: Trial) -> Path:
        """Where a trial's file is."""
        return self.folder / f"{trial.outcome.name}.dc"

    def as_dicts(self) -> list[dict[str, Any]]:
        """The trials as plain data for JSON."""
        front = {id(self.trials[index]) for index in front_of([trial.outcome for trial in self.trials])}
        best = self.best
        return [
            {
                "target_size": trial.asked,
                "file_bytes": trial.outcome.file_bytes,
                "val_error": trial.outcome.val_error,
                "val_loss": trial.outcome.val_loss,
                "metric": trial.outcome.metric,
                "val_value": trial.outcome.val_value,
                "epochs": trial.outcome.recipe["epochs"],
                "finetune_epochs": trial.outcome.recipe["finetune_epochs"],
                "short": trial.short,
                "passed": trial.passed,
                "front": id(trial) in front,
                "chosen": trial is best,
                "seconds": trial.outcome.seconds,
                "margin": self.rule.margin(trial.outcome),
                "failure": trial.outcome.failure,
            }
            for trial in self.trials
        ]


def reason(found: Found) -> str:
    """The last failure, for a message."""
    failure = next((trial.outcome.failure for trial in reversed(found.trials) if trial.outcome.failure), "")
    return f" (the last failure: {failure})" if failure else ""


def line(trial: Trial, found: Found) -> str:
    """What came of a trial, the last of those that are `found`."""
    number = len(found.trials)
    asked = "without pruning" if trial.asked is None else f"{trial.asked:,} bytes asked"
    start = f"trial {number}{' (short)' if trial.short else ''}: {asked}"
    outcome = trial.outcome
    if outcome.failure:
        return f"{start}; rolled back: {outcome.failure}"
    verdict = f"{found.rule.margin(outcome):.2f} more by chance; {'passed' if trial.passed else 'rolled back'}"
    if isinstance(found.rule, ValueRule) and outcome.val_value is not None:
        return f"{start}, {outcome.file_bytes:,} got; validation {found.rule.task.says(outcome.val_value)}; {verdict}"
    return (
        f"{start}, {outcome.file_bytes:,} got; validation error {outcome.val_error:.2f} %, cross entropy "
        f"{outcome.val_loss:.4f}; {verdict}"
    )
