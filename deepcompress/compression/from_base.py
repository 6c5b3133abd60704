"""A file that is a small update of another: masks and shared values stay, and so do assignments that still serve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepcompress.calibration.budget import Budget
from deepcompress.coding.layouts.ranked import Multiples
from deepcompress.compression.from_file import settings_of
from deepcompress.compression.revision import Level, Revision
from deepcompress.compression.stages import Job
from deepcompress.container.reader import ModelFile
from deepcompress.errors import RecipeError
from deepcompress.prune.amc import Allocation
from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import Codebook
from deepcompress.recipe import SETTINGS, Recipe, on_top
from deepcompress.recipe.effects import BESIDE_BASE

FIRST, EACH = 0.5, 0.125  # of the epochs, for all changes that pay, and for each level after that
FEWER = 0.6  # of the bytes are left by each level
PATIENCE = 3  # levels in a row that are not good enough: the last
TOLERANCE = 0.05  # of the lowest validation loss: a smaller update may have so much more
#: Of training, where a file is to be a small update of another and nobody says otherwise: the network that was given is
#: the teacher.
TRAINING: dict[str, Any] = {"finetune_epochs": 16, "finetune_lr": 0.02, "distill": 0.5, "temperature": 2.0}


@dataclass(frozen=True)
class Limits:
    """What an update may be: at most `size` bytes, or as small as it can be for so many points (`drop`).

    With neither it is as small as it can be without a loss that tells.
    """

    size: int | None = None
    drop: float | None = None

    def check(self, base: str | Path | None) -> None:
        """Refuse limits without a base, and those that no update has (`RecipeError`)."""
        if base is None and (self.size is not None or self.drop is not None):
            raise RecipeError("update_size and update_drop are about the update to a file: name that file with base")
        if self.size is not None and self.drop is not None:
            raise RecipeError("update_size and update_drop are two budgets: give one of them")
        if self.size is not None and self.size < 1:
            raise RecipeError(f"update_size is {self.size}; it must be at least 1 byte")
        if self.drop is not None:
            SETTINGS["max_drop"].kind.check(self.drop, "update_drop")


def settings_beside(base: str | Path, retrain: bool = True) -> dict[str, Any]:
    """The settings, for `Recipe.from_dict`, under which a file becomes a small update of `base`.

    Raises:
        FormatError: the file is missing or damaged.
    """
    return settings_of(base) | (TRAINING if retrain else {})


def recipe_beside(recipe: Recipe, base: str | Path, others: bool) -> Recipe:
    """The settings of the file `base`, and on top those of `recipe` that it leaves free.

    Raises:
        RecipeError: `recipe` says what the file decides, and something else; or `others` do; or the file's weights are
            rounded row by row.
        FormatError: the file is missing or damaged.
    """
    if others:
        raise RecipeError("base says what is pruned and which values are shared: leave out masks, start and calibrate")
    _check_shared(base)
    own, told = settings_beside(base, recipe.retrain), recipe.as_dict()
    given = {name: told[name] for name in (*(recipe.given or ()), "layer") if name in told}
    for name, why in BESIDE_BASE.items():
        if name in given and given[name] != own.get(name):
            raise RecipeError(f"{name} {why}: leave out {name}, or base")
    free = {name: value for name, value in given.items() if name not in BESIDE_BASE}
    return Recipe.from_dict(on_top(free, own))


def _check_shared(base: str | Path) -> None:
    """Refuse a file whose weights are rounded row by row: it has no shared values to keep (`RecipeError`)."""
    with ModelFile(base) as file:
        for entry in file.header.entries:
            if isinstance(entry.info.layout, Multiples):
                raise RecipeError(
                    f"base {base}: {entry.name} is rounded row by row (compress --no-retrain, --calibrate), and has no "
                    "shared values to keep: leave base out, and make the difference of the two files (diff)"
                )


class FromBase:
    """The way of ``--base``: a `compression.stages.Route` that starts from the tensors of a file.

    With data, the network of the file is trained on with its weights behind their shared values; without, weights move
    towards those of the network that was given. How many change is up to the limits, or to validation data: there are
    fewer and fewer, level by level, and the others are trained on, as long as that is good enough.
    """

    def __init__(self, job: Job, begin: Callable[[], Revision], limits: Limits, budget: Budget | None) -> None:
        """Start.

        Args:
            job: what to work on; its weights are those of the file.
            begin: starts to revise the file.
            limits: of the update.
            budget: measures on validation data, and has measured the network that was given; None if there is none.
        """
        self.job, self.limits, self.budget = job, limits, budget
        self.masks = Masks.nonzero(job.run.weights)
        self.codebooks: list[Codebook] = []
        self.held: list[str] = []
        self.allocation: Allocation | None = None
        self.levels: list[Level] = []
        self._begin = begin

    def prune(self) -> None:
        """Stage 1: what is pruned in the file."""
        self.masks.apply(self.job.run.weights)

    def share(self) -> None:
        """Stage 2: weights behind the shared values of the file.

        Raises:
            RecipeError: the update is larger than it may be even if no weight changes, or more points are lost even if
                all do.
        """
        self.revision = revision = self._begin()
        if self.limits.size is not None:
            self._fit_into(self.limits.size)
        elif self.budget is None:  # nothing tells how many changes are enough
            revision.train(revision.epochs)
        else:
            self._descend()
        self.masks, self.codebooks = revision.hooks.masks, revision.codebooks
        if revision.is_same:
            self.job.run.watch.message("nothing changes: the network of the base is as good as any that was found")

    def settle(self, size: Callable[[], int]) -> None:
        """Nothing is left to say."""

    def facts(self, file: str | Path) -> dict[str, Any]:
        """What came of it, for JSON: the update from the base to the file that was written, and the levels before."""
        levels = [level.as_dict() for level in self.levels]
        return {
            "base": str(self.revision.base),
            "bytes": self.revision.bytes_to(Path(file)),
            "changed": self.revision.hooks.changed,
            "update_size": self.limits.size,
            "max_drop": self.limits.drop,
            "levels": levels,
        }

    def _fit_into(self, size: int) -> None:
        """As many changes as fit into the update."""
        revision, first = self.revision, math.ceil(self.revision.epochs * FIRST)
        if revision.epochs:
            self._check_size(revision.bytes())
            revision.aim_at(size)
            revision.train(first)
            revision.cut_to(size)
            revision.train(revision.epochs - first)
        self._check_size(revision.cut_to(size))
        self._add_level()
        if revision.is_same and revision.hooks.wanting:
            raise RecipeError(f"update_size is {size} bytes, and no change of a weight fits into them: ask for more")

    def _check_size(self, found: int) -> None:
        """Refuse a size that an update exceeds which has `found` bytes and changes no weight (`RecipeError`)."""
        size = self.limits.size
        if size is not None and found > size:
            raise RecipeError(
                f"update_size is {size} bytes, but the update has {found} without a weight that changes: ask for more"
            )

    def _descend(self) -> None:
        """Fewer changes, level by level, and back to the last level that was good enough.

        What validation data says of one level is partly chance, so that only several in a row that are not good enough
        end this.
        """
        revision = self.revision
        base = self._base()
        if self.limits.drop is not None and self._holds(base):
            revision.go_back(base)
            return
        revision.train(math.ceil(revision.epochs * FIRST))
        level = self._add_level()
        self._check(level)
        last, failed, size = level if self._holds(level) else base, 0, float(level.bytes)
        while level.changed and failed < PATIENCE:
            size = min(size, level.bytes) * FEWER
            revision.cut_to(size)
            revision.train(math.ceil(revision.epochs * EACH))
            level = self._add_level()
            last, failed = (level, 0) if self._holds(level) else (last, failed + 1)
        revision.go_back(base if self._holds(base) else last)

    def _base(self) -> Level:
        """The base as it is, which the levels after it have to be worth more than."""
        revision = self.revision
        revision.hooks.allow(0.0)
        level = self._add_level()
        revision.hooks.allow(None)
        revision.finish()
        return level

    def _add_level(self) -> Level:
        level = self.revision.level()
        self.levels.append(replace(level, state=None))  # states that nothing goes back to need not stay in memory
        if level.found is not None and self.budget is not None:
            shown = self.budget.task.says(level.found.value)
            self.job.run.watch.message(
                f"{level.changed:,} weights change: an update of {level.bytes:,} bytes, validation {shown}, loss "
                f"{level.found.loss:.4f}"
            )
        return level

    def _check(self, first: Level) -> None:
        """Refuse a drop that is exceeded with all changes that pay (`RecipeError`)."""
        if self.limits.drop is not None and not self._holds(first):
            assert first.found is not None
            assert self.budget is not None
            task, before = self.budget.task, self.budget.before.value
            raise RecipeError(
                f"the update may lose {self.limits.drop:g} points, but with all changes that pay the network has "
                f"{task.says(first.found.value)} on validation data, and the one that was given {task.shown(before)}: "
                "allow a larger drop, train for more finetune_epochs, or leave base out"
            )

    def _holds(self, level: Level) -> bool:
        """Whether the network of a level is good enough."""
        assert level.found is not None
        assert self.budget is not None
        if self.limits.drop is not None:
            lost = self.budget.task.lost(self.budget.before.value, level.found.value)
            return lost <= self.limits.drop + 1e-9
        lowest = min(other.found.loss for other in self.levels if other.found is not None)
        return level.found.loss <= lowest + TOLERANCE * abs(lowest)
