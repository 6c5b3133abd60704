"""Retraining that ends early: once a pruned network is as good again as the dense one, more epochs gain little.

The check comes after a first run of `PART` of the epochs, which has all the cuts and a whole learning rate schedule, so
that the network is judged at rest. Where it is not as good yet, the other epochs follow with a schedule of their own
(warm restart: Loshchilov and Hutter 2017).
"""

from __future__ import annotations

from deepcompress.prune.schedule import PRUNING_PART
from deepcompress.training.evaluation import Evaluation
from deepcompress.training.loop import count_batches
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import measured

PART = 0.4
STEPS = 1000  # of the optimizer in the first run: with fewer, no network here was as good again
CUTTING_PART = 0.4  # of the first run, in which pruning happens: a short run needs most of its epochs to heal
POINTS = 0.1  # that the metric may be worse


def first_run(run: Run) -> tuple[int, float]:
    """Epochs before the check, and the part of them in which pruning happens.

    They are all where the recipe wants no check, or nothing can be checked.
    """
    recipe, whole = run.recipe, (run.recipe.epochs, PRUNING_PART)
    if not recipe.early_stop or run.batches is None or run.val_batches is None or recipe.regrow != "none":
        return whole
    first = round(PART * recipe.epochs)
    return (first, CUTTING_PART) if first * count_batches(run.batches) >= STEPS else whole


def is_back(run: Run, dense: Evaluation) -> bool:
    """Whether the loss is no higher than the `dense` network's was, and the metric at most `POINTS` worse."""
    now, task, (first, _) = measured(run), task_of(run.objective), first_run(run)
    assert now is not None
    back = now.loss <= dense.loss and task.lost(dense.value, now.value) <= POINTS
    run.watch.message(
        f"after {first} of {run.recipe.epochs} epochs the validation loss is {now.loss:.4f} (dense: {dense.loss:.4f}), "
        f"and {task.says(now.value)} (dense: {task.shown(dense.value)}): "
        + ("retraining ends" if back else "retraining goes on")
    )
    return back
