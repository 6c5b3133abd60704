"""The one look at network, data and task together, before any time is spent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from deepcompress.errors import DataError, NetworkError, RecipeError
from deepcompress.networks.inputs import Batches, count_samples, in_float32, predict, to_device
from deepcompress.training.batches import first_batch, pair_of
from deepcompress.training.evaluation import check_measured
from deepcompress.training.outputs import main_of
from deepcompress.training.tasks import CLASSIFICATION, Loss, Metric, Task, check_shapes, detect, find, own_task


@torch.no_grad()
def settle(
    model: nn.Module,
    loaders: Sequence[Batches],
    task: str | Task | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
) -> Task:
    """What `model` is for, found out by the first batch of each loader, or as it was said; and that all of it works.

    Args:
        model: the network, which is left as it is.
        loaders: of training and of what is measured on; with none of them the task is taken at its word.
        task: one of `tasks.TASKS`, or a task; None for whatever outputs and targets are of.
        loss, metric: of the user's own, in place of the task's.

    Raises:
        DataError: a loader has no batches, or they are of no task, or not of this one.
        NetworkError: the network cannot take the inputs.
        RecipeError: there is no such task.
        TaskError: the loss or the metric fails, or gives no number.
    """
    chosen = find(task) if isinstance(task, str) else task
    if chosen is not None and loss is not None:
        raise RecipeError("task and loss are two ways to say what is minimized: give one of them")
    for loader in loaders:
        output, target = _first(model, loader)
        if chosen is None and loss is None:
            chosen = detect(output, target)
        asked = own_task(loss, metric, chosen)
        count_samples(target)
        check_shapes(asked, output, target)
        in_memory = isinstance(loader, (list, tuple))
        check_labels(asked, output, [pair_of(batch)[1] for batch in loader] if in_memory else [target])
        asked.loss(output, target)
        sums = asked.tally(output, target)
        if metric is not None:
            check_measured(asked.result(sums).value, asked)
    if chosen is None and loss is None:
        chosen = CLASSIFICATION
    return own_task(loss, metric, chosen)


def _first(model: nn.Module, loader: Batches) -> tuple[Any, Any]:
    """Output and target of the first batch."""
    device, was_training = next(model.parameters()).device, model.training
    x, target = (to_device(part, device) for part in pair_of(first_batch(loader)))
    model.eval()
    try:
        return in_float32(predict(model, x)), target
    finally:
        model.train(was_training)


def check_labels(task: Task, output: Any, targets: Iterable[Any]) -> None:
    """Refuse labels that are none of the network's classes.

    Raises:
        DataError: with the smallest and the largest.
    """
    if task.class_axis is None:
        return
    found = main_of(output)
    classes = max(found.shape[task.class_axis], 2) if found.ndim > 1 else 2
    ignored = torch.tensor([label for label in task.ignored if label < 0 or label >= classes])
    whole = (target if target.is_floating_point() else target.long() for target in targets)
    counted = (target[~torch.isin(target, ignored.to(target))] for target in whole)
    ends = [labels.aminmax() for labels in counted if len(labels)]
    low, high = min(int(end.min) for end in ends) if ends else 0, max(int(end.max) for end in ends) if ends else 0
    if low < 0 or high >= classes:
        raise DataError(
            f"the network has {classes} classes, but labels go from {low} to {high}: "
            "is this the data it was trained on?"
        )


def takes_input(model: nn.Module, x: torch.Tensor) -> bool:
    """Whether `model` takes such inputs as a batch, and gives an output for each: tried with two samples and three.

    A convolution would take two images without channels for one image that has two.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad():
            return all(len(main_of(predict(model, x[:count].to(device)))) == len(x[:count]) for count in (2, 3))
    except (DataError, NetworkError, TypeError):  # TypeError: an output without dimensions
        return False
    finally:
        model.train(was_training)
