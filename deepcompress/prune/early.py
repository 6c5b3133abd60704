"""Retraining that ends early: once a pruned network is as good again as the dense one, more epochs gain little.

A short run of `PART` of the epochs is tried first, with all the cuts and a whole learning rate schedule, so that the
network is judged at rest. Where it is not as good again, it goes back to its `Start`, and has all epochs as if nothing
had been tried.
"""

from __future__ import annotations

from deepcompress.networks.inputs import Batches
from deepcompress.prune.dropout import preceded_dropouts
from deepcompress.recipe import Recipe
from deepcompress.training.evaluation import Evaluation
from deepcompress.training.loop import count_batches
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import measured
from deepcompress.training.snapshot import chance_kept, fill_tensors, put_back_chance, take_chance, tensors_of

PART = 0.4
STEPS = 1000  # of the optimizer in the short run: with fewer, no network here was as good again
CUTTING_PART = 0.4  # of the short run, in which pruning happens: it needs most of its epochs to heal
POINTS = 0.1  # that the metric may be worse


def short_run(run: Run) -> int:
    """Epochs of the short run; 0 where the recipe wants none, or it would be too short, or nothing can be checked.

    Why there is none is said where one was asked for.
    """
    recipe = run.recipe
    if not recipe.early_stop or run.batches is None or recipe.regrow != "none":
        return 0
    why = _why_not(run, run.batches)
    if why and "early_stop" in (recipe.given or ()):
        run.watch.message(f"early stop: {why}; all {recipe.epochs} epochs are trained at once")
    return 0 if why else _part_of(recipe)


def _why_not(run: Run, batches: Batches) -> str:
    """Why there is no short run; "" if there is."""
    if run.val_batches is None:
        return "there is no validation data to check on"
    with chance_kept(next(run.model.parameters()).device, batches):  # counting them may draw
        steps = _part_of(run.recipe) * count_batches(batches)
    if steps >= STEPS:
        return ""
    return f"{100 * PART:g} % of the epochs are {steps:,} steps of the optimizer, fewer than {STEPS:,}"


def _part_of(recipe: Recipe) -> int:
    return round(PART * recipe.epochs)


def is_back(run: Run, dense: Evaluation) -> bool:
    """Whether the loss is no higher than the `dense` network's was, and the metric at most `POINTS` worse."""
    now, task = measured(run), task_of(run.objective)
    assert now is not None
    back = now.loss <= dense.loss and task.lost(dense.value, now.value) <= POINTS
    run.watch.message(
        f"after {_part_of(run.recipe)} epochs the validation loss is {now.loss:.4f} (dense: {dense.loss:.4f}), and "
        f"{task.says(now.value)} (dense: {task.shown(dense.value)}): "
        + ("retraining ends" if back else f"all {run.recipe.epochs} epochs follow, from the dense network on")
    )
    return back


class Start:
    """A network before it is pruned, what validation data says of it, and where chance stands then."""

    def __init__(self, run: Run) -> None:
        dense = measured(run)
        assert dense is not None
        self.dense = dense
        self.run, self._device = run, next(run.model.parameters()).device
        self._tensors = {name: value.detach().clone() for name, value in tensors_of(run.model).items()}
        self._chance = take_chance(self._device, run.batches, run.val_batches)
        self._dropouts = preceded_dropouts(run.model, run.weights)

    def go_back(self) -> None:
        """Everything is as it was."""
        fill_tensors(self.run.model, self._tensors)
        put_back_chance(self._chance, self._device, self.run.batches, self.run.val_batches)
        for dropout, rate, _ in self._dropouts:
            dropout.p = rate
