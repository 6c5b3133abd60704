"""What training minimizes: cross entropy, by choice with smoothed labels and the word of a teacher, or any loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.networks.copies import copied
from deepcompress.recipe import Recipe

#: The loss of a batch, a scalar, from what the network gave, the inputs, and the targets. Of a classifier: the logits
#: (batch, classes), the inputs, and the labels (batch,).
Objective = Callable[[Any, Any, Any], torch.Tensor]
#: A loss of the user's own: a scalar tensor from what the network gave and the targets.
Loss = Callable[[Any, Any], torch.Tensor]
#: What the user wants measured, from the same: a number, the mean over the batch. Higher or lower is theirs to know.
Metric = Callable[[Any, Any], "float | torch.Tensor"]


def cross_entropy(logits: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The plain objective: mean cross entropy in nats."""
    return F.cross_entropy(logits, y)


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
    """

    label_smoothing: float = 0.0
    teacher: nn.Module | None = None
    distill: float = 0.0
    temperature: float = 4.0

    def __call__(self, logits: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of a batch."""
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        if self.teacher is None or not self.distill:
            return loss
        with torch.no_grad():
            taught = F.log_softmax(self.teacher(x).float() / self.temperature, dim=1)
        student = F.log_softmax(logits / self.temperature, dim=1)
        divergence = F.kl_div(student, taught, reduction="batchmean", log_target=True)
        return (1 - self.distill) * loss + self.distill * self.temperature**2 * divergence


@dataclass(frozen=True)
class Task:
    """A task of the user's own, of any network: what is minimized, and what is measured beside it.

    Attributes:
        loss: of a batch, from what the network gave and the targets; the mean over samples, where sizes of batches
            differ.
        metric: the same for a number of interest; None measures the loss alone.
    """

    loss: Loss
    metric: Metric | None = None

    def __call__(self, output: Any, x: Any, y: Any) -> torch.Tensor:
        """The loss of a batch."""
        return self.loss(output, y)


def objective_of(
    recipe: Recipe, dense: nn.Module, loss: Loss | None = None, metric: Metric | None = None
) -> Classification | Task:
    """What `recipe` asks to minimize; where it asks for a teacher, that is a copy of `dense` as it is now.

    With a `loss` it is that, and `metric` is measured.

    Raises:
        RecipeError: the recipe asks for what only classification has, or a metric comes without a loss.
    """
    if loss is not None:
        _check_general(recipe)
        return Task(loss, metric)
    if metric is not None:
        raise RecipeError("a metric is measured beside a loss of your own; of classification it is accuracy: pass loss")
    teacher = copied(dense).eval().requires_grad_(False) if recipe.distill else None
    if teacher is not None and recipe.precision == "bfloat16":
        teacher.to(memory_format=torch.channels_last)
    return Classification(recipe.label_smoothing, teacher, recipe.distill, recipe.temperature)


def _check_general(recipe: Recipe) -> None:
    for field in ("label_smoothing", "distill"):
        if getattr(recipe, field):
            raise RecipeError(f"{field} is of classification; with a loss of your own, make it part of that loss")
    if recipe.max_drop is not None or recipe.schedule in ("circular", "gap") or recipe.reload:
        raise RecipeError(
            "max_drop, reload and the schedules circular and gap go by a classifier's accuracy, and with a loss of "
            "your own there is none: set prune or target_size"
        )
