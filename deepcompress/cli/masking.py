"""Files of masks and scores, as `compress` reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deepcompress.errors import DeepCompressError

if TYPE_CHECKING:
    from deepcompress.compression.result import Result
    from deepcompress.prune.masks import Masks
    from deepcompress.recipe import Recipe
    from deepcompress.report.console import ConsoleProgress

#: Settings that say what is pruned, as a file of masks does.
INSTEAD = (
    "prune", "quality", "target_size", "max_drop", "criterion", "scope", "distribution", "episodes", "score_samples",
    "schedule", "iterations", "reload", "regrow",
)  # fmt: skip


@dataclass(frozen=True)
class MaskFiles:
    """What --masks, --save-masks and --save-scores name."""

    masks: str | None
    save_masks: str | None
    save_scores: str | None

    def check(self, settings: Mapping[str, Any], recipe: Recipe, searching: bool) -> None:
        """Refuse what contradicts the other options, and files that cannot be written.

        Raises:
            UsageError, CheckpointError, OutputError: saying which.
        """
        if self.masks is not None:
            given = [name for name in INSTEAD if settings.get(name) is not None]
            if given or searching:
                flag = f"--{given[0] if given else 'max_drop'}".replace("_", "-")
                raise click.UsageError(f"--masks says what is pruned, and so does {flag}: give one of them")
        if self.save_scores is not None and (self.masks is not None or searching or recipe.target_size is not None):
            raise click.UsageError("--save-scores needs a criterion, and a budget or --masks uses none")

        from deepcompress.checkpoint import check_ending
        from deepcompress.files import check_writable

        for path in self.written:
            check_ending(path)
            check_writable(path)

    @property
    def written(self) -> tuple[str, ...]:
        """The files that will be written."""
        return tuple(filter(None, (self.save_masks, self.save_scores)))

    @property
    def need_network(self) -> bool:
        """Whether bare tensors are not enough."""
        return self.masks is not None or self.save_scores is not None

    def read(self) -> Masks | None:
        """The masks to prune by, if any.

        Raises:
            CheckpointError: the file holds none.
        """
        if self.masks is None:
            return None
        from deepcompress.prune.maskfile import load_masks

        return load_masks(self.masks)

    def watch(self, quiet: bool) -> ConsoleProgress:
        """Shows progress, and keeps the last scores if they are to be saved."""
        from deepcompress.report.console import ConsoleProgress

        class Keeper(ConsoleProgress):
            scores: Mapping[str, Any] | None = None

            def scored(self, scores: Mapping[str, Any]) -> None:
                self.scores = scores

        return ConsoleProgress(quiet) if self.save_scores is None else Keeper(quiet)

    def write(self, result: Result, watch: ConsoleProgress, network: str, data: str) -> list[str]:
        """Write the masks and scores of a compression; the files that were written."""
        facts = {"network": network, "data": data, "file": result.file}
        written = []
        if self.save_masks is not None:
            from deepcompress.prune.maskfile import save_masks

            save_masks(self.save_masks, masks_of(result), facts)
            written.append(self.save_masks)
        if self.save_scores is not None:
            from deepcompress.prune.maskfile import save_scores

            scores = getattr(watch, "scores", None)
            if scores is None:
                raise DeepCompressError(f"{self.save_scores}: no criterion was asked, so there are no scores")
            recipe = result.recipe
            save_scores(self.save_scores, scores, {**facts, "criterion": recipe["criterion"], "seed": recipe["seed"],
                                                   "score_samples": recipe["score_samples"]})  # fmt: skip
            written.append(self.save_scores)
        return written


def masks_of(result: Result) -> Masks:
    """Which weights the file of a compression keeps."""
    from deepcompress.prune.masks import Masks
    from deepcompress.reading.loader import load_state_dict

    state = load_state_dict(result.file, max_bytes=2 * result.dense_bytes)
    return Masks({name: state[name] != 0 for name in result.kept})
