"""Stage 1 as a whole: prune, and retrain what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from deepcompress.prune.budget import BudgetHooks, Curvature, Refine
from deepcompress.prune.criteria.base import Evidence, find, judge
from deepcompress.prune.hooks import MaskHooks
from deepcompress.prune.masks import Masks, check_alive, cut
from deepcompress.prune.neurons import Connection, connections, remove_dead
from deepcompress.prune.schedule import epochs_of, progress
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Batches, count_batches
from deepcompress.training.objective import Objective, cross_entropy
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import retrain

Weights = Mapping[str, torch.Tensor]


def prune(evidence: Evidence, links: list[Connection] | None = None, watch: Progress | None = None) -> Masks:
    """Prune the weights of `evidence`, in place, to the recipe's sparsity in one step, without retraining."""
    masks = next_masks(evidence, 1.0, links or [], watch or Progress())
    masks.apply(evidence.weights)
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
    """Iterative pruning with masked retraining (Han et al. 2015, section 3), in place.

    Args:
        model: the network; all its parameters are retrained.
        weights: the parameters of `model` that are pruned, by name.
        batches: training data.
        recipe: criterion, sparsity, schedule, and the settings of retraining.
        val_batches: only reported, epoch by epoch.
        watch: told what happens.
        objective: what retraining minimizes.
    """
    evidence = Evidence(model, weights, Masks.full(weights), recipe, batches, objective)
    hooks = PruningHooks(evidence, watch or Progress())
    if recipe.epochs == 0:
        return prune(evidence, hooks.links, watch)
    optimizer = make_optimizer(model, recipe)
    retrain(model, batches, optimizer, recipe, recipe.epochs, "prune", hooks, val_batches, watch, objective)
    return hooks.masks


def prune_to_bits(
    model: nn.Module,
    weights: Weights,
    batches: Batches,
    recipe: Recipe,
    bits: float,
    refine: Refine,
    val_batches: Batches | None = None,
    watch: Progress | None = None,
    objective: Objective = cross_entropy,
) -> tuple[Masks, Curvature]:
    """Prune little by little, retraining all the while, until positions and values fit into `bits`, in place.

    Arguments as in `prune_and_retrain`; `refine` has a word on all new masks, and may drop more. See `prune.budget` for
    what goes first. The curvature that it found is returned as well.
    """
    hooks = BudgetHooks(model, weights, recipe, bits, count_batches(batches), refine)
    optimizer = make_optimizer(model, recipe)
    retrain(model, batches, optimizer, recipe, recipe.epochs, "prune", hooks, val_batches, watch, objective)
    return hooks.masks, hooks.curvature


class PruningHooks(MaskHooks):
    """Prunes before the epochs of the schedule."""

    def __init__(self, evidence: Evidence, watch: Progress) -> None:
        recipe = evidence.recipe
        super().__init__(evidence.model, evidence.weights, recipe)
        self.watch = watch
        self.links = connections(evidence.model)
        self.steps = epochs_of(progress(recipe.schedule, recipe.iterations), recipe.epochs)
        self._evidence = evidence

    @property
    def evidence(self) -> Evidence:
        """What the criterion may look at, as it is now."""
        return replace(self._evidence, masks=self.masks)

    def before_epoch(self, epoch: int) -> str:
        """Prune if the schedule says so; the note for the epoch's report says how far."""
        if epoch not in self.steps:
            return ""
        if self.shadow is not None:
            self.shadow.restore()
        self.take(next_masks(self.evidence, self.steps[epoch], self.links, self.watch))
        done = sum(1 for start in self.steps if start <= epoch)
        return f"iteration {done}/{len(self.steps)}, {100 * self.masks.sparsity:.1f} % pruned"


def next_masks(
    evidence: Evidence,
    step: float,
    links: list[Connection],
    watch: Progress,
    held: Mapping[str, torch.Tensor] | None = None,
) -> Masks:
    """The masks that the recipe asks for `step` (0..1) of the way, without dead neurons.

    Layers that are `held` have the mask given there, and the others do not make up for it. A criterion that corrects
    the weights that are kept has done so.
    """
    verdict = judge(evidence)
    decision = cut(verdict.scores, evidence.recipe, step, find(evidence.recipe.criterion).scope)
    for name in decision.floored:
        watch.message(f"{name} would have been emptied: it keeps its one most salient weight")
    masks = without_dead(Masks({**decision.masks.keep, **(held or {})}), links, watch)
    if verdict.correct is not None:
        verdict.correct(masks)
    return masks


def without_dead(masks: Masks, links: list[Connection], watch: Progress | None = None) -> Masks:
    """Without the connections of dead neurons.

    Raises:
        PruneError: nothing is left of a layer.
    """
    masks, lost = remove_dead(masks, links)
    if lost and watch is not None:
        watch.message(f"{lost} connections of neurons without input or output were removed")
    check_alive(masks)
    return masks


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of retraining, for all parameters of `model`, with the recipe's L2 penalty as weight decay."""
    decay = recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=decay)
    return torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=decay)
