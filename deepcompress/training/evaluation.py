"""A network measured on batches of data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from deepcompress.errors import DataError, TaskError
from deepcompress.networks.inputs import Batches, count_samples, in_float32, predict, to_device
from deepcompress.training import distributed
from deepcompress.training.objective import Objective, task_of
from deepcompress.training.tasks import Task


@dataclass(frozen=True)
class Evaluation:
    """What was measured over `samples`.

    Attributes:
        accuracy, error: in percent, of tasks that have them (of pixels or tokens, where those are labelled), else None.
        loss: the mean; cross entropy in nats, for a classifier.
        samples: how many there were.
        value: of the task's metric, such as the error of a classifier.
    """

    accuracy: float | None
    error: float | None
    loss: float
    samples: int
    value: float


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, objective: Objective | None = None) -> Evaluation:
    """Loss and metric of a network over `batches`; the model's mode is left as found.

    Args:
        model: the network, on its device.
        batches: pairs (input, target).
        objective: a task, or what training minimizes; None is classification.

    Raises:
        DataError: `batches` is empty.
        NetworkError: the user's forward raises something.
    """
    task, device, was_training = task_of(objective), next(model.parameters()).device, model.training
    samples, sums = 0, torch.zeros(1, dtype=torch.float64)
    model.eval()
    try:
        for x, y in batches:
            x, y = to_device(x, device), to_device(y, device)
            sums = sums + task.tally(in_float32(predict(model, x)), y)
            samples += count_samples(y)
    finally:
        model.train(was_training)
    if not samples:
        raise DataError("there are no samples to evaluate on")
    found = task.result(sums)
    return distributed.as_first(Evaluation(found.accuracy, found.error, found.loss, samples, found.value))


def check_measured(value: float, task: Task) -> None:
    """Refuse a metric of the network as it was given that is NaN or infinite: nothing can be compared with it.

    Raises:
        TaskError: naming the metric.
    """
    if not math.isfinite(value):
        raise TaskError(f"the metric {task.metric} is {value} for the network as it is: it tells nothing then")
