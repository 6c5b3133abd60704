"""What training minimizes: the loss of a task, by choice with smoothed labels and the word of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import in_float32, predict
from deepcompress.recipe import Recipe
from deepcompress.training.measures import of_samples, two_classes
from deepcompress.training.outputs import auxiliary, main_of
from deepcompress.training.tasks import AUXILIARY, CLASSIFICATION, Task

#: The loss of a batch, a scalar, from what the network gave, the inputs, and the targets. Of a classifier: the logits
#: (batch, classes), the inputs, and the labels (batch,).
Objective = Callable[[Any, Any, Any], torch.Tensor]


def cross_entropy(logits: Any, x: Any, y: torch.Tensor) -> torch.Tensor:
    """The plain objective: mean cross entropy in nats."""
    return CLASSIFICATION(logits, x, y)


@dataclass(frozen=True)
class Classification:
    """Cross entropy with smoothed labels, mixed with what a teacher says of the same inputs.

    ``(1 - distill) * cross_entropy + distill * temperature^2 * KL(teacher || student)``, both distributions softened
    by `temperature` (Hinton, Vinyals and Dean 2015, section 2). The teacher sees the inputs that the student sees,
    augmented or not.

    Attributes:
        label_smoothing: probability that is spread evenly over all classes (Szegedy et al. 2016, section 7).
        teacher: a network in evaluation mode; None where `distill` is 0.
        distill: weight of the teacher's term, 0 to 1.
        temperature: 1 compares probabilities as they are; higher ones let the unlikely classes speak.
        task: what is measured.
    """

    label_smoothing: float = 0.0
    teacher: nn.Module | None = None
    distill: float = 0.0
    temperature: float = 4.0
    task: Task = CLASSIFICATION

    def __call__(self, output: Any, x: Any, y: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, with that of auxiliary outputs, which some networks have in training only."""
        logits, labels = of_samples(output, y)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        for other in auxiliary(output):
            loss = loss + AUXILIARY * F.cross_entropy(other, labels, label_smoothing=self.label_smoothing)
        if self.teacher is None or not self.distill:
            return loss
        with torch.no_grad():
            taught = F.log_softmax(of_samples(predict(self.teacher, x), y)[0].float() / self.temperature, dim=1)
        student = F.log_softmax(logits / self.temperature, dim=1)
        divergence = F.kl_div(student, taught, reduction="batchmean", log_target=True)
        return (1 - self.distill) * loss + self.distill * self.temperature**2 * divergence


@dataclass(frozen=True)
class Taught:
    """Another task, mixed with what a teacher says of the same inputs.

    The classes of tokens and pixels are softened as in `Classification`; of other outputs it is how far they are from
    the teacher's, by the loss of the task (`Task.taught`).

    Attributes:
        task: what is minimized beside, and measured.
        teacher, distill, temperature: as in `Classification`.
    """

    task: Task
    teacher: nn.Module
    distill: float
    temperature: float

    def __call__(self, output: Any, x: Any, y: Any) -> torch.Tensor:
        """The loss of a batch."""
        with torch.no_grad():
            taught = main_of(in_float32(predict(self.teacher, x)))
        return (1 - self.distill) * self.task(output, x, y) + self.distill * self._followed(output, taught)

    def _followed(self, output: Any, taught: torch.Tensor) -> torch.Tensor:
        if self.task.class_axis is None:
            return self.task.taught(output, taught)
        student, teacher = (self._softened(logits, self.task.class_axis) for logits in (main_of(output), taught))
        return self.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def _softened(self, logits: torch.Tensor, axis: int) -> torch.Tensor:
        """Logarithms of probabilities (n, classes)."""
        classes = (two_classes(logits) if axis == 1 else logits).movedim(axis, -1).flatten(0, -2)
        return F.log_softmax(classes / self.temperature, dim=1)


def task_of(objective: Objective | None) -> Task:
    """What is measured where this is minimized."""
    return objective if isinstance(objective, Task) else getattr(objective, "task", CLASSIFICATION)


def objective_of(recipe: Recipe, dense: nn.Module, task: Task = CLASSIFICATION) -> Classification | Taught | Task:
    """What `recipe` asks to minimize; where it asks for a teacher, that is a copy of `dense` as it is now.

    Raises:
        RecipeError: the recipe smooths labels, and the task is no classification.
    """
    classifies = task.loss is CLASSIFICATION.loss
    if recipe.label_smoothing and not classifies:
        raise RecipeError(
            f"label_smoothing is for classification, and the task is {task.name}: make it part of your own loss"
        )
    teacher = copied(dense).eval().requires_grad_(False) if recipe.distill else None
    if not classifies:
        return task if teacher is None else Taught(task, teacher, recipe.distill, recipe.temperature)
    return Classification(recipe.label_smoothing, teacher, recipe.distill, recipe.temperature, task)
