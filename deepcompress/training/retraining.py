"""The loop with the settings that a recipe has for it."""

from __future__ import annotations

import torch
from torch import nn

from deepcompress.networks.inputs import Batches
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks, fit
from deepcompress.training.objective import Objective
from deepcompress.training.progress import Progress


def retrain(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epochs: int,
    stage: str,
    hooks: Hooks,
    val_batches: Batches | None,
    watch: Progress | None,
    objective: Objective,
) -> None:
    """`fit` with the recipe's learning rate schedule and precision; arguments and what is raised as there.

    Its warm-up is for the stage ``prune``: centroids are tuned for a few epochs, at rates of their own.
    """
    fit(
        model,
        batches,
        optimizer,
        epochs,
        stage=stage,
        hooks=hooks,
        val_batches=val_batches,
        objective=objective,
        lr_schedule=recipe.lr_schedule,
        warmup=recipe.warmup if stage == "prune" else None,
        precision=recipe.precision,
        progress=watch,
    )
