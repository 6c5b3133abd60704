"""Pruning that watches the accuracy: what costs too much is rolled back, and the layers to blame go no further."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.schedule import epochs_of, progress
from deepcompress.prune.stage import PruningHooks, make_optimizer, next_masks
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Batches, evaluate
from deepcompress.training.objective import Objective, cross_entropy
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import retrain

Weights = Mapping[str, torch.Tensor]

BLAME = 0.5  # of what the costliest layer's step costs: a layer whose step costs as much is held back with it


def prune_guarded(
    model: nn.Module,
    weights: Weights,
    batches: Batches | None,
    recipe: Recipe,
    val_batches: Batches,
    watch: Progress | None = None,
    objective: Objective = cross_entropy,
) -> tuple[Masks, list[str]]:
    """As `prune_and_retrain`, in place, but never more than `recipe.max_drop` points below where `model` started.

    Each iteration has an optimizer and a learning rate schedule of its own, so that it ends where accuracy can be
    judged. If too much is lost by then, the network goes back to where it was before, the layers whose part of the step
    costs most (in cross entropy on validation data, each layer's new mask alone) stay as they are from then on, and the
    iteration runs again with the others. Those do not make up for it: more is kept than was asked.

    Args:
        model, weights, batches, recipe, watch, objective: as there; without batches there is one iteration, and no
            retraining.
        val_batches: what accuracy is measured on.

    Returns:
        The masks, and the names of the layers that were held back, in the order in which that happened.

    Raises:
        RecipeError: pruned weights shall regrow, which a roll-back would undo.
    """
    if recipe.regrow:
        raise RecipeError("max_drop rolls back what was pruned, and regrow brings it back by itself: choose one")
    evidence = Evidence(model, weights, Masks.full(weights), recipe, batches, objective)
    guard = _Guard(evidence, val_batches, watch or Progress())
    steps = {0: 1.0}
    if batches is not None and recipe.epochs:
        steps = epochs_of(progress(recipe.schedule, recipe.iterations), recipe.epochs)
    starts = [*steps, recipe.epochs if batches is not None else 0]
    for (start, end), step in zip(itertools.pairwise(starts), steps.values(), strict=True):
        guard.iterate(step, end - start, batches, objective)
    return guard.hooks.masks, list(guard.held)


class _Guard:
    """The network, and which of its layers are held at which mask."""

    def __init__(self, evidence: Evidence, val_batches: Batches, watch: Progress) -> None:
        self.model, self.weights, self.recipe = evidence.model, evidence.weights, evidence.recipe
        self.val_batches, self.watch = val_batches, watch
        self.hooks = _StillHooks(evidence, watch)
        self.held: dict[str, torch.Tensor] = {}
        assert self.recipe.max_drop is not None
        self.least = evaluate(self.model, val_batches).accuracy - self.recipe.max_drop

    def iterate(self, step: float, epochs: int, batches: Batches | None, objective: Objective) -> None:
        """Prune `step` of the way, retrain, and look; again with fewer layers until that is good enough."""
        former = self.hooks.masks
        before = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        while True:
            masks = next_masks(self.hooks.evidence, step, self.hooks.links, self.watch, self.held)
            changed = [name for name, mask in masks.keep.items() if not torch.equal(mask, former.keep[name])]
            if not changed and self.held:
                return
            self.hooks.take(masks)
            if batches is not None and epochs:
                self._retrain(batches, epochs, objective)
            accuracy = evaluate(self.model, self.val_batches).accuracy
            if accuracy >= self.least - 1e-9:
                return
            self.model.load_state_dict(before)
            self.hooks.take(former)
            costly = self._costliest([name for name in changed if name not in self.held], masks)
            self.held.update({name: former.keep[name] for name in costly})
            self.watch.message(
                f"accuracy fell to {accuracy:.2f} %, below {self.least:.2f} %: rolled back, and no more is pruned of "
                + (", ".join(f"{name} ({100 * former.density(name):.1f} % kept)" for name in costly) or "any layer")
            )
            if not costly:
                return

    def _retrain(self, batches: Batches, epochs: int, objective: Objective) -> None:
        optimizer = make_optimizer(self.model, self.recipe)
        retrain(
            self.model,
            batches,
            optimizer,
            self.recipe,
            epochs,
            "prune",
            self.hooks,
            self.val_batches,
            self.watch,
            objective,
        )

    @torch.no_grad()
    def _costliest(self, names: list[str], masks: Masks) -> list[str]:
        """Those of the layers whose new mask alone, on the weights as they are, costs nearly as much as any."""
        start = evaluate(self.model, self.val_batches).loss
        cost = {}
        for name in names:
            weight = self.weights[name].detach().clone()
            Masks({name: masks.keep[name]}).apply(self.weights)
            cost[name] = evaluate(self.model, self.val_batches).loss - start
            self.weights[name].copy_(weight)
        worst = max(cost, key=cost.__getitem__, default=None)
        return [name for name in names if name == worst or cost[name] >= BLAME * max(cost.values()) > 0]


class _StillHooks(PruningHooks):
    """Keeps to the masks that it has been given."""

    def before_epoch(self, epoch: int) -> str:
        """The note for the epoch's report."""
        return f"{100 * self.masks.sparsity:.1f} % pruned" if epoch == 0 else ""
