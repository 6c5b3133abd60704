"""One run: a network, what of it is pruned, the data and the settings; and the loop with the settings it has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from deepcompress.networks.batchnorm import freeze_norms
from deepcompress.networks.inputs import Batches
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks, fit
from deepcompress.training.objective import Objective, cross_entropy
from deepcompress.training.progress import Progress


@dataclass(frozen=True)
class Run:
    """What the stages work on.

    Attributes:
        model: the network, changed in place; all its parameters are trained.
        weights: those of its tensors that are pruned, by name. Those that are exactly zero are taken as pruned.
        batches: training data; None trains nothing.
        recipe: all settings.
        val_batches: what is measured on; None measures nothing. Only reported, unless the recipe looks at it.
        watch: told what happens.
        objective: what training minimizes.
    """

    model: nn.Module
    weights: Mapping[str, torch.Tensor]
    batches: Batches | None
    recipe: Recipe
    val_batches: Batches | None = None
    watch: Progress = field(default_factory=Progress)
    objective: Objective = cross_entropy


def retrain(run: Run, optimizer: torch.optim.Optimizer, epochs: int, stage: str, hooks: Hooks) -> None:
    """`fit` with the recipe's learning rate schedule, precision and longest gradient; what is raised as there.

    Its warm-up is for the stage ``prune``: centroids are tuned for a few epochs, at rates of their own.
    """
    assert run.batches is not None
    if run.recipe.freeze_bn:
        freeze_norms(run.model, every=True)
    fit(
        run.model,
        run.batches,
        optimizer,
        epochs,
        stage=stage,
        hooks=hooks,
        val_batches=run.val_batches,
        objective=run.objective,
        lr_schedule=run.recipe.lr_schedule,
        warmup=run.recipe.warmup if stage == "prune" else None,
        precision=run.recipe.precision,
        clip_norm=run.recipe.clip_norm,
        progress=run.watch,
    )
