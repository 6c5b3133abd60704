"""Stage 1 as a whole: prune, and retrain what is left."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from deepcompress.prune.masks import Masks, check_alive, cut
from deepcompress.prune.neurons import Connection, connections, remove_dead
from deepcompress.prune.schedule import epochs_of, progress
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Batches, Hooks, fit
from deepcompress.training.objective import Objective, cross_entropy
from deepcompress.training.progress import Progress

Weights = Mapping[str, torch.Tensor]


def prune(
    weights: Weights, recipe: Recipe, links: list[Connection] | None = None, watch: Progress | None = None
) -> Masks:
    """Prune `weights`, in place, to the recipe's sparsity in one step, without retraining."""
    masks = _next_masks(weights, recipe, 1.0, links or [], watch or Progress())
    masks.apply(weights)
    return masks


def prune_and_retrain(
    model: nn.Module,
    weights: Weights,
    batches: Batches,
    recipe: Recipe,
    val_batches: Batches | None = None,
    watch: Progress | None = None,
    objective: Objective = cross_entropy,
) -> Masks:
    """Iterative magnitude pruning with masked retraining (Han et al. 2015, section 3), in place.

    Args:
        model: the network; all its parameters are retrained.
        weights: the parameters of `model` that are pruned, by name.
        batches: training data.
        recipe: sparsity, schedule, and the settings of retraining.
        val_batches: only reported, epoch by epoch.
        watch: told what happens.
        objective: what retraining minimizes.
    """
    hooks = PruningHooks(model, weights, recipe, watch or Progress())
    if recipe.epochs == 0:
        return prune(weights, recipe, hooks.links, watch)
    optimizer = make_optimizer(model, recipe)
    fit(
        model,
        batches,
        optimizer,
        recipe.epochs,
        stage="prune",
        hooks=hooks,
        val_batches=val_batches,
        objective=objective,
        lr_schedule=recipe.lr_schedule,
        precision=recipe.precision,
        progress=watch,
    )
    return hooks.masks


class PruningHooks(Hooks):
    """Prunes before the epochs of the schedule, and keeps pruned weights at zero through every optimizer step."""

    def __init__(self, model: nn.Module, weights: Weights, recipe: Recipe, watch: Progress) -> None:
        self.weights, self.recipe, self.watch = weights, recipe, watch
        self.masks = Masks.full(weights)
        self.links = connections(model)
        self.steps = epochs_of(progress(recipe.schedule, recipe.iterations), recipe.epochs)
        self.dropouts = preceded_dropouts(model, weights)

    def before_epoch(self, epoch: int) -> str:
        """Prune if the schedule says so; the note for the epoch's report says how far."""
        if epoch not in self.steps:
            return ""
        self.masks = _next_masks(self.weights, self.recipe, self.steps[epoch], self.links, self.watch)
        self.masks.apply(self.weights)
        for dropout, rate, name in self.dropouts:
            dropout.p = rescaled_dropout(rate, self.masks.density(name))
        done = sum(1 for start in self.steps if start <= epoch)
        return f"iteration {done}/{len(self.steps)}, {100 * self.masks.sparsity:.1f} % pruned"

    def after_backward(self) -> None:
        """Add the gradient of an L1 penalty; L2 is the optimizer's weight decay."""
        if self.recipe.penalty == "l1":
            for weight in self.weights.values():
                if weight.grad is not None:
                    weight.grad.add_(weight.detach().sign(), alpha=self.recipe.penalty_weight)

    def after_step(self) -> None:
        """Momentum, Adam's moments and weight decay may have moved pruned weights: back to zero."""
        self.masks.apply(self.weights)


def _next_masks(weights: Weights, recipe: Recipe, step: float, links: list[Connection], watch: Progress) -> Masks:
    decision = cut(weights, recipe, step)
    for name in decision.floored:
        watch.message(f"{name} would have been emptied: it keeps its one most salient weight")
    masks, lost = remove_dead(decision.masks, links)
    if lost:
        watch.message(f"{lost} connections of neurons without input or output were removed")
    check_alive(masks)
    return masks


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of retraining, for all parameters of `model`, with the recipe's L2 penalty as weight decay."""
    decay = recipe.penalty_weight if recipe.penalty == "l2" else 0.0
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=decay)
    return torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=decay)


def rescaled_dropout(rate: float, density: float) -> float:
    """D_new = D_old * sqrt(C_new / C_old) (Han et al. 2015, equation 2); `density` is C_new / C_old."""
    return rate * math.sqrt(density)


def preceded_dropouts(model: nn.Module, weights: Weights) -> list[tuple[nn.Dropout, float, str]]:
    """Each dropout module with its rate and the pruned layer that comes before it, in the order of definition."""
    found = []
    last = None
    for name, module in model.named_modules():
        if f"{name}.weight" in weights:
            last = f"{name}.weight"
        if isinstance(module, nn.Dropout) and last is not None:
            found.append((module, module.p, last))
    return found
