"""Pruning that can go back: to what was there before a step that cost too much, or to the dense weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch

from deepcompress.errors import RecipeError
from deepcompress.layers import tensors_of
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.schedule import PRUNING_PART, epochs_of, progress
from deepcompress.prune.stage import CuttingHooks, make_optimizer, next_masks
from deepcompress.training.evaluation import evaluate
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run, retrain

Weights = Mapping[str, torch.Tensor]
State = Mapping[str, torch.Tensor]

BLAME = 0.5  # of what the costliest layer's step costs: a layer whose step costs as much is held back with it


def prune_guarded(run: Run) -> tuple[Masks, list[str]]:
    """As `prune_and_retrain`, in place, but never more than `recipe.max_drop` points worse than `model` was.

    Each iteration has an optimizer and a learning rate schedule of its own, so that it ends where it can be
    judged. If too much is lost by then, the network goes back to where it was before, the layers whose part of the step
    costs most (in the loss on validation data, each layer's new mask alone) stay as they are from then on, and the
    iteration runs again with the others. Those do not make up for it: more is kept than was asked.

    With `recipe.reload`, each iteration prunes the weights with which `model` came, and not those that the one before
    it left. All then have the same number of epochs, and what is told of them is a curve of error against sparsity.

    Without training data there is one iteration, and no retraining. Validation data is what the metric is measured on;
    a recipe without a `max_drop` needs none.

    Returns:
        The masks, and the names of the layers that were held back, in the order in which that happened.

    Raises:
        RecipeError: there is no validation data for a `max_drop`.
    """
    recipe, epochs = run.recipe, run.recipe.epochs if run.batches is not None else 0
    guard = Guard(run)
    steps = {0: 1.0}
    if epochs:
        part = 1.0 if recipe.reload else PRUNING_PART
        steps = epochs_of(progress(recipe.schedule, recipe.iterations), epochs, part)
    starts = [*steps, epochs]
    for number, ((start, end), step) in enumerate(zip(itertools.pairwise(starts), steps.values(), strict=True), 1):
        guard.iterate(step, end - start)
        guard.tell(number, len(steps))
    return guard.hooks.masks, list(guard.held)


class Guard:
    """The network, how good it was before, and which of its layers are held at which mask.

    Raises:
        RecipeError: as `prune_guarded`.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.model, self.weights, self.recipe = run, run.model, run.weights, run.recipe
        if self.recipe.max_drop is not None and run.val_batches is None:
            raise RecipeError("max_drop needs validation data to measure on")
        self.val_batches, self.watch = run.val_batches, run.watch
        self.hooks = StillHooks(Evidence.of(run), run.watch)
        self.held: dict[str, torch.Tensor] = {}
        self.start = self.hooks.masks
        self.dense = self.state() if self.recipe.reload else None
        self.task = task_of(run.objective)
        self.before = None if self.recipe.max_drop is None else self._value()
        self.value = math.nan  # of the metric, as last measured

    def iterate(self, step: float, epochs: int) -> None:
        """Prune `step` of the way, retrain, and look; again with fewer layers until that is good enough."""
        former, before = self.hooks.masks, self.state()
        while True:
            if self.dense is not None:
                self.go_back(self.dense, self.start)
            masks = next_masks(self.hooks.evidence, step, self.hooks.links, self.watch, self.held)
            changed = [name for name, mask in masks.keep.items() if not torch.equal(mask, former.keep[name])]
            if not changed and self.held:
                break
            self.hooks.take(masks)
            self.retrain(epochs)
            if self.holds():
                return
            self.go_back(before, former)
            costly = self._costliest([name for name in changed if name not in self.held], masks)
            self.hold(costly, self.value)
            if not costly:
                break
        self.go_back(before, former)

    def tell(self, number: int, of: int) -> None:
        """Where a level that began with the dense weights has ended."""
        if self.dense is not None and self.val_batches is not None:
            self.watch.message(
                f"level {number} of {of}, from the dense weights: {100 * self.hooks.masks.sparsity:.2f} % pruned, "
                f"validation {self.task.says(self._value())}"
            )

    def state(self) -> State:
        """A copy of the network's tensors."""
        return {name: value.detach().clone() for name, value in tensors_of(self.model).items()}

    def go_back(self, state: State, masks: Masks) -> None:
        """Put the network into a former `state`, which had these masks."""
        self.model.load_state_dict(state, strict=False)  # extra states stay
        self.hooks.take(masks)

    def holds(self) -> bool:
        """Whether the network is as good as it must be."""
        if self.before is None or self.recipe.max_drop is None:
            return True
        self.value = self._value()
        return self.task.lost(self.before, self.value) <= self.recipe.max_drop + 1e-9

    def hold(self, names: list[str], value: float) -> None:
        """Keep layers at the masks that they have, because this `value` of the metric is what came of other ones."""
        masks = self.hooks.masks
        self.held.update({name: masks.keep[name] for name in names})
        self.watch.message(
            f"{self.task.says(value)}, more than {self.recipe.max_drop:g} points worse than "
            f"{self.task.shown(self.before)}: rolled back, and no more is pruned of "
            + (", ".join(f"{name} ({100 * masks.density(name):.1f} % kept)" for name in names) or "any layer")
        )

    def retrain(self, epochs: int) -> None:
        """Train what the masks leave, if there is data, with an optimizer of its own."""
        if self.run.batches is not None and epochs:
            retrain(self.run, make_optimizer(self.model, self.recipe), epochs, "prune", self.hooks)

    def _value(self) -> float:
        assert self.val_batches is not None
        return evaluate(self.model, self.val_batches, self.task).value

    @torch.no_grad()
    def _costliest(self, names: list[str], masks: Masks) -> list[str]:
        """Those of the layers whose new mask alone, on the weights as they are, costs nearly as much as any."""
        assert self.val_batches is not None
        start = evaluate(self.model, self.val_batches, self.task).loss
        cost = {}
        for name in names:
            weight = self.weights[name].detach().clone()
            Masks({name: masks.keep[name]}).apply(self.weights)
            cost[name] = evaluate(self.model, self.val_batches, self.task).loss - start
            self.weights[name].copy_(weight)
        worst = max(cost, key=cost.__getitem__, default=None)
        return [name for name in names if name == worst or cost[name] >= BLAME * max(cost.values()) > 0]


class StillHooks(CuttingHooks):
    """Keeps to the masks that it has been given."""

    changing = ()

    def before_epoch(self, epoch: int) -> str:
        """The note for the epoch's report."""
        return f"{100 * self.masks.sparsity:.1f} % pruned" if epoch == 0 else ""
