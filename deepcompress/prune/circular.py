"""Circular pruning: a little of each layer in turn, as long as the accuracy on validation data holds."""

from __future__ import annotations

import glob
from dataclasses import replace

from deepcompress.errors import PruneError, RecipeError
from deepcompress.prune.criteria.base import find
from deepcompress.prune.guard import Guard
from deepcompress.prune.masks import Masks
from deepcompress.prune.schedule import PRUNING_PART
from deepcompress.prune.stage import next_masks
from deepcompress.recipe import LayerRule
from deepcompress.training.retraining import Run


def prune_in_turn(run: Run) -> tuple[Masks, list[str]]:
    """Prune layer after layer by `recipe.prune_step` of what is left of it, round after round, in place.

    After each turn the network is measured. Where it has lost more than `recipe.max_drop` points, it is retrained for
    an epoch; where that does not bring them back, the turn is rolled back, and the layer is held as it was, for good.
    It ends when `recipe.prune` of all weights are gone, or every layer is held or has lost its own fraction. The first
    `PRUNING_PART` of `recipe.epochs` are there for the turns; once they are spent, turns are judged as they are. All
    epochs that are left in the end retrain the result.

    Results as in `guard.prune_guarded`; without training data nothing is retrained.

    Raises:
        RecipeError: there is no validation data, or the criterion is not of single weights.
    """
    recipe = run.recipe
    if find(recipe.criterion).units is not None:
        raise RecipeError(
            f"criterion {recipe.criterion} removes units that reach through several layers, and schedule 'circular' "
            "prunes one layer at a time: choose one"
        )
    circle = _Circle(Guard(run), recipe.epochs if run.batches is not None else 0)
    rounds = 0
    while circle.round():
        rounds += 1
        circle.tell(rounds)
    circle.heal()
    return circle.guard.hooks.masks, list(circle.guard.held)


def _most(fraction: float | None, size: int) -> int:
    """How many weights a layer may lose; it keeps one at least."""
    return size - 1 if fraction is None else min(round(fraction * size), size - 1)


class _Circle:
    """How much may go of each layer and of all, and how many epochs there are left."""

    def __init__(self, guard: Guard, epochs: int) -> None:
        self.guard, self.recipe = guard, guard.recipe
        self.epochs, self.reserve = epochs, epochs - int(PRUNING_PART * epochs)
        sizes = {name: weight.numel() for name, weight in guard.weights.items()}
        self.target = round(self.recipe.prune * sum(sizes.values()))
        self.most = {name: _most(self.recipe.prune_of(name), size) for name, size in sizes.items()}

    def round(self) -> bool:
        """A turn for each layer of which more can go; whether there was any."""
        turns = 0
        for name in self.most:
            count = self._next(name)
            if count:
                self._turn(name, count)
                turns += 1
        return turns > 0

    def tell(self, number: int) -> None:
        """Where things stand after a round."""
        masks, held = self.guard.hooks.masks, len(self.guard.held)
        self.guard.watch.message(
            f"round {number}: {100 * masks.sparsity:.2f} % pruned, {self.guard.task.says(self.guard.value)}, "
            f"{held} of {len(self.most)} layers held"
        )

    def heal(self) -> None:
        """Retrain for the epochs that are left, unless that loses what may not be lost."""
        guard = self.guard
        masks, before = guard.hooks.masks, guard.state()
        guard.retrain(self.epochs)
        if self.epochs and not guard.holds():
            guard.go_back(before, masks)
            guard.watch.message(f"retraining ended at {guard.task.says(guard.value)}: rolled back")

    def _removed(self, name: str) -> int:
        mask = self.guard.hooks.masks.keep[name]
        return mask.numel() - int(mask.sum())

    def _next(self, name: str) -> int:
        """How many weights of a layer go in its next turn."""
        if name in self.guard.held:
            return 0
        left = self.target - sum(map(self._removed, self.most))
        kept = self.guard.hooks.masks.kept(name)
        return max(min(max(1, round(self.recipe.prune_step * kept)), self.most[name] - self._removed(name), left), 0)

    def _turn(self, name: str, count: int) -> None:
        guard = self.guard
        former, before = guard.hooks.masks, guard.state()
        try:
            guard.hooks.take(self._without(name, count))
        except PruneError:  # nothing would be left of a layer: it has come to its end
            self.most[name] = self._removed(name)
            return
        if guard.hooks.masks.kept(name) == former.kept(name):  # the criterion takes whole groups, and this was none
            self.most[name] = self._removed(name)
        if guard.holds():
            return
        found = guard.value
        if self.epochs > self.reserve:
            self.epochs -= 1
            guard.retrain(1)
            if guard.holds():
                return
            found = min(found, guard.value, key=guard.task.cost)
        guard.go_back(before, former)
        guard.hold([name], found)

    def _without(self, name: str, count: int) -> Masks:
        """The masks with `count` fewer weights of one layer, all others held, and no dead neurons."""
        hooks = self.guard.hooks
        fraction = (self._removed(name) + count) / hooks.masks.keep[name].numel()
        rule = LayerRule(glob.escape(name), prune=fraction)
        evidence = replace(
            hooks.evidence,
            weights={name: hooks.weights[name]},
            recipe=replace(self.recipe, layers=(*self.recipe.layers, rule)),
        )
        others = {other: mask for other, mask in hooks.masks.keep.items() if other != name}
        masks = next_masks(evidence, 1.0, hooks.links, self.guard.watch, others)
        return Masks({layer: masks.keep[layer] for layer in self.most})
