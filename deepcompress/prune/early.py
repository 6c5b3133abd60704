"""Retraining that ends early: once a pruned network is as good again as the dense one, more epochs gain little.

The check comes after a first run of `PART` of the epochs, which has all the cuts and a whole learning rate schedule, so
that the network is judged at rest. Where it is not as good yet, the other epochs follow with a schedule of their own
(warm restart: Loshchilov and Hutter 2017).
"""

from __future__ import annotations

from deepcompress.training.evaluation import Evaluation
from deepcompress.training.loop import count_batches
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import measured

PART = 0.4
STEPS = 1000  # of the optimizer in the first run: with fewer, no network here was as good again
POINTS = 0.1  # that the metric may be worse


def first_run(run: Run) -> int:
    """Epochs before the check; all of them where the recipe wants no check, or nothing can be checked."""
    recipe = run.recipe
    first = round(PART * recipe.epochs)
    if not recipe.early_stop or run.batches is None or run.val_batches is None or recipe.regrow != "none":
        return recipe.epochs
    return first if first * count_batches(run.batches) >= STEPS else recipe.epochs


def is_back(run: Run, dense: Evaluation) -> bool:
    """Whether the loss is no higher than the `dense` network's was, and the metric at most `POINTS` worse."""
    now, task, epochs = measured(run), task_of(run.objective), run.recipe.epochs
    assert now is not None
    back = now.loss <= dense.loss and task.lost(dense.value, now.value) <= POINTS
    run.watch.message(
        f"after {first_run(run)} of {epochs} epochs the validation loss is {now.loss:.4f} (dense: {dense.loss:.4f}), "
        f"and {task.says(now.value)} (dense: {task.shown(dense.value)}): "
        + ("retraining ends" if back else "retraining goes on")
    )
    return back
