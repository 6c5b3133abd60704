"""A stage of tuning that leaves the network worse than it was is undone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from deepcompress.errors import DivergedError
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.loop import Hooks
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run, retrain
from deepcompress.training.snapshot import chance_kept, promises, put_back_learned, take, tensors_of
from deepcompress.training.tasks import Task


def fine_tune(
    run: Run, hooks: Hooks, groups: list[dict[str, Any]], fitted: Callable[[], object] = lambda: None
) -> None:
    """Train `groups` of parameters for `recipe.finetune_epochs`, in place, unless that is `undone_if_worse`."""
    recipe = run.recipe
    optimizer = torch.optim.SGD(groups, lr=recipe.finetune_lr, momentum=0.9, nesterov=True)

    def train() -> None:
        retrain(run, optimizer, recipe.finetune_epochs, "quantize", hooks)

    undone_if_worse(run, hooks, "quantize", train, fitted)


def undone_if_worse(
    run: Run, hooks: Hooks, stage: str, train: Callable[[], None], fitted: Callable[[], object] = lambda: None
) -> None:
    """Train in place, and go back to the state before where validation says that it was better.

    Args:
        run: the network, and what it is measured on; without validation data only a loss that is no longer finite is
            undone.
        hooks: those of the training. If they do not promise what changes (`Hooks.changing`), nothing is undone.
        stage: what messages call it.
        train: trains.
        fitted: what has to be done with the state before so that it can be compared, such as to fit it into a size.

    Raises:
        DivergedError: the loss is no longer finite, and `hooks` promise nothing.
    """
    if not promises(hooks):
        train()
        return
    before, first = taken(run, hooks), measured(run)
    try:
        train()
    except DivergedError as error:
        put_back_learned(run.model, hooks, before)
        fitted()
        run.watch.message(f"{error}: rolled back to the network before")
        return
    last, task = measured(run), task_of(run.objective)
    if first is None or last is None or not is_worse(last, first, task):
        return
    trained = taken(run, hooks)
    put_back_learned(run.model, hooks, before)
    fitted()
    again = measured(run)
    if again is None or not is_worse(last, again, task):
        put_back_learned(run.model, hooks, trained)
        return
    run.watch.message(
        f"{stage}: the validation loss went from {again.loss:.4g} to {last.loss:.4g}, which is worse: rolled back"
    )


def is_worse(now: Evaluation, before: Evaluation, task: Task) -> bool:
    """Whether the loss is higher, or not finite, and the metric no better."""
    return not now.loss <= before.loss and not task.cost(now.value) < task.cost(before.value)


def measured(run: Run) -> Evaluation | None:
    """What validation data says, if there is any; the random numbers to come are those that would have come without."""
    if run.val_batches is None:
        return None
    with chance_kept(next(run.model.parameters()).device, run.val_batches):
        return evaluate(run.model, run.val_batches, run.objective)


def taken(run: Run, hooks: Hooks) -> Any:
    """A copy of what training changes in the network and in `hooks`, for `put_back_learned`."""
    model = {name: value.detach() for name, value in tensors_of(run.model).items()}
    return copy.deepcopy({"model": model, "hooks": take(hooks)})
