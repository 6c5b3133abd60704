"""The smallest file that is accurate enough: a search over sizes, by whole compressions.

Each trial is a real file of one size, made as ``compress --target-size`` makes it, and judged by validation data alone.
A few short trials find the region, then full ones bisect it on a logarithmic scale. Trials are kept in a folder as the
points of a sweep are (`points.run_point`), and the sizes that are tried depend on nothing but the trials before: when a
search is stopped, the same search continues and ends in the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from deepcompress.compression.result import Result, StageResult
from deepcompress.container.breakdown import Breakdown, inspect
from deepcompress.errors import DeepCompressError, OutputError, PruneError, RecipeError
from deepcompress.files import check_writable, write_atomic
from deepcompress.layers import buffers_of, check_finite, check_rules, compressible, tensors_of
from deepcompress.networks.parametrized import plain
from deepcompress.networks.precision import given_bytes
from deepcompress.reading.arrays import dense_bytes
from deepcompress.recipe import Recipe, check_number
from deepcompress.recipe.uses import check_sizes
from deepcompress.studies.budget import Rule
from deepcompress.studies.points import (
    ForPoint,
    Origin,
    Outcome,
    Point,
    keep,
    origin_of,
    parts_of,
    reloaded,
    run_point,
    stored,
    torch_threads,
)
from deepcompress.studies.trials import Found, Trial, line, reason
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import Evaluation, check_measured, evaluate
from deepcompress.training.journal import discard
from deepcompress.training.progress import Progress

TRIALS = 8
CLOSE_ENOUGH = 1.05  # between the smallest size that passed and the largest that did not

_LADDER = (16, 32, 64, 128, 256, 512)  # dense bytes over the sizes of the short trials
_SHORTER = 6  # short trials have this part of the epochs
_LARGEST = 4  # dense bytes over the largest size that is tried
_UNPRUNED = "unpruned"


#: Makes the file of a point, or finds it, and says what came of it.
Attempt = Callable[[Point], Outcome]


def search(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    max_drop: float,
    folder: str | Path,
    *,
    trials: int = TRIALS,
    network: str = "",
    threads: int = 1,
    watch: Progress | None = None,
) -> Found:
    """Look for the smallest file whose accuracy on validation data is at most `max_drop` points below `model`'s.

    Args:
        model, data: what is compressed, and retrained and measured on, on one device. `model` is not changed.
        recipe: all settings but the size.
        max_drop: points of accuracy; see `Rule`.
        folder: where the trials are kept; it must exist. Those that are there already, of the same network and data
            with the same settings, are not computed again.
        trials: full compressions at most; short ones, and the one that prunes nothing, come on top.
        network: a name by which `load` can rebuild the network, stored in the files.
        threads: of torch. Another number rounds in another way, so the files can differ.
        watch: told what happens.

    Raises:
        RecipeError: settings contradict the search or do not fit the network.
        CheckpointError: there are NaN among its weights.
        TaskError: the metric of the network is no number.
        PruneError: nothing passed, not even without pruning.
    """
    folder, watch, model = Path(folder), watch or Progress(), plain(model)
    recipe = _checked(model, recipe, max_drop, trials)
    check_writable(folder / "trial.dc")
    origin = origin_of(model, data, network, threads)
    dense = evaluate(model, data.val_loader(), data.task)
    check_measured(dense.value, data.task)
    found = Found(folder, Rule.of(dense, max_drop, data.task, parts_of(model, data)))
    watch.message(f"a size passes with {found.rule}")

    def attempt(point: Point) -> Outcome:
        return stored(point, folder, origin) or _run(point, model, data, folder, origin, watch)

    look(found, recipe, dense_bytes(tensors_of(model)), attempt, trials, watch)
    if found.best is None:
        raise PruneError(
            f"no file is within {max_drop:g} points of the dense network on {dense.samples} validation samples, with "
            "what chance may hide, not even without pruning: allow a larger --max-drop, more --bits, more epochs or "
            f"more validation data{reason(found)}"
        )
    return found


def look(
    found: Found, recipe: Recipe, dense: int, attempt: Attempt, trials: int = TRIALS, watch: Progress | None = None
) -> None:
    """The search itself: adds the trials to `found`, one by one.

    Args:
        found: without trials.
        recipe: of full trials, but for the size.
        dense: bytes of the dense network.
        attempt: makes a trial.
        trials: full ones at most.
        watch: told of each.
    """
    search = _Search(found, recipe, dense, attempt, watch or Progress())
    size = search.start()
    for _ in range(trials):
        if size is None:
            break
        search.full(size)
        size = search.next_size()
    if found.best is None:
        search.unpruned()


class _Search:
    """Which size to try after what is known."""

    def __init__(self, found: Found, recipe: Recipe, dense: int, attempt: Attempt, watch: Progress) -> None:
        self.found, self.recipe, self.dense, self.attempt, self.watch = found, recipe, dense, attempt, watch
        self.failing = 0  # the largest size of a full trial that did not pass

    def start(self) -> int | None:
        """The size of the first full trial: the first rung of the ladder of short ones that lost too much."""
        short = shorter(self.recipe)
        size = max(self.dense // _LADDER[0], 1)
        if short == self.recipe:
            return size
        for divisor in _LADDER:
            size = max(self.dense // divisor, 1)
            trial = self._try(size, short, short=True)
            if not self.found.rule.is_near(trial.outcome):
                return size
        return size // 2 or None if trial.passed else size

    def full(self, size: int) -> None:
        """A full trial."""
        if not self._try(size, self.recipe).passed:
            self.failing = max(self.failing, size)

    def next_size(self) -> int | None:
        """Half or double until one passes and one does not, then the middle; None where that is close enough."""
        best = self.found.best
        if best is None:
            largest = max(self.dense // _LARGEST, 1)
            return None if self.failing >= largest else min(2 * self.failing, largest)
        passing = best.outcome.file_bytes or 0
        if not self.failing:
            return passing // 2 or None
        middle = round(math.sqrt(passing * self.failing))
        close = passing <= CLOSE_ENOUGH * self.failing or not self.failing < middle < passing
        return None if close else middle

    def unpruned(self) -> None:
        """The gentlest trial, which only shares weights."""
        self.watch.message("no size passed: trying without pruning")
        self._add(Point(_UNPRUNED, replace(self.recipe, prune=0.0)), None)

    def _try(self, size: int, recipe: Recipe, short: bool = False) -> Trial:
        name = f"{'short' if short else 'size'}{size}"
        return self._add(Point(name, replace(recipe, target_size=size)), size, short)

    def _add(self, point: Point, asked: int | None, short: bool = False) -> Trial:
        outcome = self.attempt(point)
        trial = Trial(outcome, asked, short, self.found.rule.passes(outcome))
        self.found.trials.append(trial)
        self.watch.message(line(trial, self.found))
        return trial


def shorter(recipe: Recipe) -> Recipe:
    """`recipe` with fewer epochs, for a first look; the same where it has hardly any."""
    if not recipe.retrain:
        return recipe
    return replace(
        recipe,
        epochs=min(recipe.epochs, max(recipe.epochs // _SHORTER, 2)),
        finetune_epochs=min(recipe.finetune_epochs, max(recipe.finetune_epochs // _SHORTER, 1)),
    )


def deliver(found: Found, model: nn.Module, data: DataSet, path: str | Path) -> Result:
    """Write the best file to `path`, and measure it: the one time that test data is looked at.

    The stages between the dense network and the file have no accuracy, because only validation data saw them.

    Raises:
        OutputError: `path` cannot be written; it is as it was.
    """
    best = found.best
    assert best is not None
    source, test = found.path(best), data.test_loader()
    breakdown = replace(inspect(source), file=str(path))
    tested = {
        "dense": evaluate(model, test, data.task),
        "encode": evaluate(reloaded(model, source), test, data.task),
    }
    stages = [_measured(StageResult(**stage), tested.get(stage["stage"])) for stage in best.outcome.stages]
    write_atomic(path, source.read_bytes())
    return Result.of(
        breakdown,
        stages,
        best.outcome.recipe,
        _kept(breakdown),
        metric=data.task.metric,
        unit=data.task.unit,
        source_bytes=given_bytes(model),
    )


def _measured(stage: StageResult, found: Evaluation | None) -> StageResult:
    """A stage with what test data says of it; what validation data said of it is no part of the result."""
    if found is None:
        return replace(stage, accuracy=None, loss=None, metric=None)
    loss = found.loss if math.isfinite(found.loss) else None
    return replace(stage, accuracy=found.accuracy, loss=loss, metric=found.value)


def clear(folder: str | Path) -> None:
    """Remove the trials in `folder`, and the folder itself if nothing else is in it."""
    folder = Path(folder)
    for name in ("size", "short", _UNPRUNED):
        for path in (*folder.glob(f"{name}*"), *folder.glob(f".{name}*")):  # the latter were being written when killed
            if path.suffix in (".dc", ".json", ".tmp"):
                path.unlink(missing_ok=True)
            elif path.suffix == ".resume":
                discard(path)
    with suppress(OSError):
        folder.rmdir()


def facts(found: Found) -> dict[str, Any]:
    """What was allowed, as plain data for JSON."""
    return found.rule.facts()


def _checked(model: nn.Module, recipe: Recipe, max_drop: float, trials: int) -> Recipe:
    check_number(max_drop, "max_drop", 0, 100)
    if trials < 1:
        raise RecipeError(f"trials is {trials}; there must be at least 1")
    state = tensors_of(model)
    check_finite(state, compressible(state, recipe, buffers_of(model)))
    check_rules(recipe, compressible(state))
    check_sizes(recipe)
    return replace(recipe, target_size=None, max_drop=None)


def _run(point: Point, model: nn.Module, data: DataSet, folder: Path, origin: Origin, watch: Progress) -> Outcome:
    """A trial, or why the network cannot have that size. What says nothing of the size ends the search."""
    try:
        with torch_threads(origin.threads):
            return run_point(point, model, data, folder, origin, ForPoint(point.name, watch), test=False)
    except OutputError:
        raise
    except DeepCompressError as error:
        outcome = Outcome(point.name, point.recipe.as_dict(), failure=str(error))
        keep(outcome, folder, origin)
        return outcome


def _kept(breakdown: Breakdown) -> dict[str, float]:
    return {layer.name: layer.density for layer in breakdown.layers if len(layer.shape) > 1}
