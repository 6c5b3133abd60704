"""What training minimizes: cross entropy, by choice with smoothed labels and the word of a teacher, or any loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.networks.inputs import predict
from deepcompress.recipe import Recipe
from deepcompress.training.measures import auxiliary, of_samples
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


def task_of(objective: Objective | None) -> Task:
    """What is measured where this is minimized."""
    return objective if isinstance(objective, Task) else getattr(objective, "task", CLASSIFICATION)


def objective_of(recipe: Recipe, dense: nn.Module, task: Task = CLASSIFICATION) -> Classification | Task:
    """What `recipe` asks to minimize; where it asks for a teacher, that is a copy of `dense` as it is now.

    Raises:
        RecipeError: the recipe asks for what only classification has.
    """
    if task.loss is not CLASSIFICATION.loss:
        for field in ("label_smoothing", "distill"):
            if getattr(recipe, field):
                raise RecipeError(
                    f"{field} is of classification, and the task is {task.name}: make it part of a loss of your own"
                )
        return task
    teacher = copy.deepcopy(dense).eval().requires_grad_(False) if recipe.distill else None
    if teacher is not None and recipe.precision == "bfloat16":
        teacher.to(memory_format=torch.channels_last)
    return Classification(recipe.label_smoothing, teacher, recipe.distill, recipe.temperature, task)
