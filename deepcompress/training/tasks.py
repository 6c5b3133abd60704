"""What a network is for: what is minimized, and what is measured of it.

Six kinds of task are known by name (`TASKS`); a loss and a metric of the user's own make another (`own_task`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from deepcompress.errors import DataError, RecipeError, TaskError, first_line
from deepcompress.networks.inputs import count_samples, place_of
from deepcompress.training import measures
from deepcompress.training.measures import IGNORED, VOID, Figures, sums_of
from deepcompress.training.outputs import auxiliary, main_of
from deepcompress.usercode import original

#: A loss of the user's own: a scalar tensor from what the network gave and the targets.
Loss = Callable[[Any, Any], torch.Tensor]
#: What the user wants measured, from the same: a number, the mean over the batch.
Metric = Callable[[Any, Any], "float | torch.Tensor"]

#: Weight of the loss of each auxiliary output (Szegedy et al. 2015, section 5).
AUXILIARY = 0.3


@dataclass(frozen=True)
class Task:
    """What is minimized and what is measured.

    Attributes:
        name: of the task, as in `TASKS`; ``own`` for the user's.
        metric: what reports call the number that is measured.
        loss: of a batch, from what the network gave and the targets: a scalar, the mean over what counts.
        tally: of a batch, from the same: float64 sums (n,) that are added up over batches.
        result: what such sums come to.
        higher_is_better: which way the metric goes.
        unit: `` %`` where the metric is a percentage.
        fits: whether an output and a target are of this task; None takes all.
        shapes: what it takes, for messages.
        class_axis: of an output, along which classes lie, if it tells classes apart.
        taught: how far outputs are from those of a teacher, where there are no classes.
        ignored: labels that do not count, unless they are classes of the network.
        is_own: whether the metric is a function of the user's.
    """

    name: str
    metric: str
    loss: Loss
    tally: Callable[[Any, Any], torch.Tensor]
    result: Callable[[torch.Tensor], Figures]
    higher_is_better: bool = False
    unit: str = ""
    fits: Callable[[torch.Tensor, torch.Tensor], bool] | None = None
    shapes: str = ""
    class_axis: int | None = None
    ignored: tuple[int, ...] = (IGNORED,)
    taught: Loss = measures.square_loss
    is_own: bool = False

    def __call__(self, output: Any, x: Any, y: Any) -> torch.Tensor:
        """The loss of a batch, with that of auxiliary outputs, which some networks have in training only."""
        loss = self.loss(output, y)
        for other in auxiliary(output) if self.fits is not None else ():
            loss = loss + AUXILIARY * self.loss(other, y)
        return loss

    def lost(self, before: float, now: float) -> float:
        """Points that the metric is worse `now` than `before`: of percent, or else in percent of what it was."""
        worse = before - now if self.higher_is_better else now - before
        return worse if self.unit else 100 * worse / max(abs(before), 1e-12)

    def cost(self, value: float) -> float:
        """The metric turned so that lower is better."""
        return -value if self.higher_is_better else value

    def says(self, value: float) -> str:
        """The metric and its value in the middle of a sentence."""
        name = self.metric.lower() if self.metric in ("Error", "Loss") else self.metric
        return f"{name} {self.shown(value)}"

    @property
    def titled(self) -> str:
        """The metric over a table of numbers."""
        return f"{self.metric} in percent" if self.unit else self.metric

    def shown(self, value: float | None) -> str:
        """A value of the metric for people."""
        return "–" if value is None else f"{value:.2f}{self.unit}" if self.unit else f"{value:.4g}"


#: Known tasks, in the order in which they are looked for.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("classification", "Error", partial(measures.class_loss, measures.of_samples),
             partial(measures.class_tally, measures.of_samples), measures.class_result, False, " %",
             measures.is_samples, "outputs (N, C) and labels (N,)", 1),
        Task("tokens", "Error", partial(measures.class_loss, measures.of_tokens),
             partial(measures.class_tally, measures.of_tokens), measures.class_result, False, " %",
             measures.is_tokens, "outputs (N, T, V) and labels (N, T)", 2),
        Task("segmentation", "mIoU", partial(measures.class_loss, measures.of_pixels), measures.pixel_tally,
             measures.pixel_result, True, " %", measures.is_pixels, "outputs (N, C, ...) and labels (N, ...)",
 1, (IGNORED, VOID)),
        Task("multilabel", "F1", measures.labels_loss, measures.labels_tally, measures.labels_result, True, " %",
             measures.is_labels, "outputs (N, C) and targets (N, C) that are 0 or 1",
             taught=measures.labels_taught),
        Task("regression", "MSE", measures.square_loss, measures.square_tally, measures.square_result,
             fits=measures.is_numbers, shapes="outputs and numbers of one shape"),
        Task("embedding", "cosine", measures.cosine_loss, measures.cosine_tally, measures.cosine_result, True,
             fits=measures.is_vectors, shapes="outputs (N, D) and vectors (N, D)", taught=measures.cosine_loss),
    )
}  # fmt: skip

CLASSIFICATION = TASKS["classification"]


def find(name: str) -> Task:
    """The task called `name`.

    Raises:
        RecipeError: there is none.
    """
    if name not in TASKS:
        raise RecipeError(f"unknown task {name!r}; known: {', '.join(TASKS)}, or a loss of your own")
    return TASKS[name]


def own_task(loss: Loss | None, metric: Metric | None, base: Task | None = None) -> Task:
    """The task of a loss and a metric of the user's own; what is missing is that of `base`.

    Loss and metric are means over samples, of the means over batches. Without a metric and a base the loss is what is
    measured. Of a metric, higher is better, unless it has an attribute ``higher_is_better`` that says otherwise, as
    those of torchmetrics have.
    """
    if base is not None and loss is None and metric is None:
        return base
    minimized = base.loss if loss is None and base is not None else _checked("loss", loss)
    measured = None if metric is None else _checked("metric", metric)

    def tally(output: Any, target: Any) -> torch.Tensor:
        count = count_samples(target)
        value = 0.0 if measured is None else float(measured(output, target))
        return sums_of(count * float(minimized(output, target)), count, count * value)

    def result(sums: torch.Tensor) -> Figures:
        total, count, value = sums.tolist()
        return Figures(total / count, total / count if metric is None else value / count)

    better = metric is not None and _more_is_better(metric)
    name = "Loss" if metric is None else str(getattr(metric, "__name__", type(metric).__name__))
    made = Task("own", name, minimized, tally, result, better, is_own=metric is not None)
    if base is None or loss is not None:
        return made
    kept = {name: getattr(base, name) for name in ("fits", "shapes", "class_axis", "ignored", "taught")}
    return replace(made, **kept)


def _more_is_better(metric: Metric) -> bool:
    said = (getattr(function, "higher_is_better", None) for function in (metric, original(metric)))
    return all(word is not False for word in said)


def _checked(what: str, function: Any) -> Callable[[Any, Any], Any]:
    """The user's function; whatever it raises, or gives in place of a number, is one line."""

    def call(output: Any, target: Any) -> Any:
        try:
            found = function(output, target)
        except Exception as error:  # it is the user's code
            reason = f"{first_line(error, kind=True)}{place_of(error)}"
            raise TaskError(f"the {what} fails with {reason}") from error
        if isinstance(found, torch.Tensor) and found.numel() == 1:
            return found.reshape(())
        if what == "loss" or not isinstance(found, (int, float)):
            shape = f" of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else ""
            wanted = "a tensor with one number" if isinstance(found, (int, float)) else "one number"
            raise TaskError(f"the {what} gives a {type(found).__name__}{shape}; it must give {wanted} for the batch")
        return found

    return call


def check_shapes(task: Task, output: Any, target: Any) -> None:
    """Refuse a batch that is not of this task.

    Raises:
        DataError: with the shapes that were found, and what the task takes.
    """
    if task.fits is None:
        return
    found = main_of(output)
    if not isinstance(target, torch.Tensor) or not task.fits(found, target):
        raise DataError(f"{_found(found, target)}: task {task.name} takes {task.shapes}; {_CHOICES}")


def detect(output: Any, target: Any) -> Task:
    """The task that an output and a target are of.

    Raises:
        DataError: of no task, or of two.
    """
    found = main_of(output)
    if isinstance(target, torch.Tensor):
        names = [name for name, task in TASKS.items() if task.fits is not None and task.fits(found, target)]
        if names[:2] == ["tokens", "segmentation"]:
            raise DataError(f"{_found(found, target)}: that may be tokens or segmentation; say which with --task")
        if names and not (names[0] == "regression" and measures.is_whole(target)):
            return TASKS[names[0]]
    raise DataError(f"{_found(found, target)}, which fits no task that shapes can identify; {_CHOICES}")


_CHOICES = (
    f"name the task with --task (task=): {', '.join(TASKS)}, or give a loss and a metric of your own with --loss and "
    "--metric file.py:function (loss=, metric=)"
)


def _found(output: torch.Tensor, target: Any) -> str:
    what = (
        f"{_dtype(target)} of shape {tuple(target.shape)}"
        if isinstance(target, torch.Tensor)
        else type(target).__name__
    )
    return f"the network gives shape {tuple(output.shape)}, and the targets are {what}"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
