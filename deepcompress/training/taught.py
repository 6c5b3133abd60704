"""Data without labels: the targets are what the dense network says of the inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from deepcompress.errors import DataError
from deepcompress.networks.inputs import in_float32, predict, to_device
from deepcompress.training.data import DataSet
from deepcompress.training.measures import Figures, sums_of, two_classes
from deepcompress.training.outputs import main_of
from deepcompress.training.tasks import Loss, Metric, Task, find, own_task

BATCH = 256


def taught_by(
    model: nn.Module, data: DataSet, task: str | None = None, loss: Loss | None = None, metric: Metric | None = None
) -> DataSet:
    """`data` with the outputs of `model` as its targets, and with a task that measures how far others are from them.

    Args:
        model: the network as it is, on the device of the data.
        data: its targets, if it has any, are not looked at.
        task: what outputs mean. Classes, of samples, tokens or pixels, are those of the highest output, and what is
            measured is for which part others are found (disagreement, in percent). For ``multilabel`` and ``embedding``
            it is what is measured with labels. With None, or ``regression``, outputs are numbers, and what is measured
            is their mean squared error as a part of their variance, in percent.
        loss, metric: of the user's own, of an output and that of `model`.

    Raises:
        DataError: outputs are not finite, not one for each input, or all the same; or not of this task.
        NetworkError: the network does not take the inputs.
    """
    outputs = {part: _outputs(model, getattr(data, f"x_{part}")) for part in ("train", "val", "test")}
    known, targets = _by_numbers(outputs) if task in (None, "regression") else _by_meaning(str(task), outputs)
    if loss is not None or metric is not None:
        known = own_task(loss, metric, known)
    if loss is not None:
        known = replace(known, taught=loss)
    y_train, y_val, y_test = targets.values()
    return replace(data, task=known, y_train=y_train, y_val=y_val, y_test=y_test)


@torch.no_grad()
def _outputs(model: nn.Module, x: Any) -> torch.Tensor:
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        parts = (x[start : start + BATCH] for start in range(0, len(x), BATCH))
        found = [main_of(in_float32(predict(model, to_device(part, device)))) for part in parts]
    finally:
        model.train(was_training)
    samples = len(x)
    if any(not part.ndim for part in found) or sum(map(len, found)) != samples:
        raise DataError(f"the network gives no output for each of {samples} inputs, so it cannot teach by them")
    if any(part.shape[1:] != found[0].shape[1:] for part in found):
        raise DataError("the outputs of the network differ in shape from input to input: they cannot be targets")
    if not all(bool(torch.isfinite(part).all()) for part in found):
        raise DataError("the network gives NaN or infinity for some of the inputs, so it cannot teach by them")
    return torch.cat(found)


Targets = dict[str, torch.Tensor]


def _by_meaning(task: str, outputs: Targets) -> tuple[Task, Targets]:
    known = find(task)
    if known.name in ("classification", "tokens"):
        known = replace(known, metric="Disagreement")
    shape = tuple(outputs["train"].shape)
    if len(shape) > (known.class_axis or 0) or known.class_axis == 1:
        targets = {part: _meant(known, output) for part, output in outputs.items()}
        if known.fits is None or all(known.fits(outputs[part], target) for part, target in targets.items()):
            return known, targets
    raise DataError(f"the network gives shape {shape}: task {known.name} takes {known.shapes}")


def _meant(task: Task, output: torch.Tensor) -> torch.Tensor:
    """Targets as the task takes them."""
    if task.name == "multilabel":
        return (output > 0).float()
    if task.class_axis is None:
        return output
    return (two_classes(output) if task.class_axis == 1 else output).argmax(task.class_axis)


def _by_numbers(outputs: Targets) -> tuple[Task, Targets]:
    variance = float(outputs["train"].double().var(0, unbiased=False).mean())
    if not variance > 0:
        raise DataError("the output of the network is the same for all inputs, so nothing can be learned from it")
    return output_task(variance), outputs


def output_task(variance: float) -> Task:
    """Outputs that are to stay what they were: the mean squared error is a part of this `variance` of theirs."""
    loss = partial(_error, variance)
    return Task(
        "outputs", "Output error", loss, partial(_tally, variance), _result, unit=" %", taught=loss,
        shapes="outputs of one shape",
    )  # fmt: skip


def _error(variance: float, output: Any, target: torch.Tensor) -> torch.Tensor:
    return (main_of(output) - target).square().mean() / variance


def _tally(variance: float, output: Any, target: torch.Tensor) -> torch.Tensor:
    samples = len(target)
    return sums_of(samples * float(_error(variance, output, target)), samples)


def _result(sums: torch.Tensor) -> Figures:
    total, samples = sums.tolist()
    return Figures(total / samples, 100 * total / samples)
