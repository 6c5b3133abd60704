"""LC, learning and compression in turn: what Carreira-Perpiñán and Idelbayev make of pruning and sharing.

The compressed weights are those that minimize the loss under the constraint that they are pruned and shared. The
augmented Lagrangian of it, with weights w, compressed weights c, multipliers m and a penalty mu, is::

    L(w) - sum(m * (w - c)) + mu / 2 * sum((w - c)^2)

The learning step trains w, for an epoch. The compression step is the nearest c to w - m / mu. Then m takes off
mu * (w - c), and mu grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from deepcompress.layers import Layer
from deepcompress.prune.masks import Masks, cut
from deepcompress.prune.stage import make_optimizer
from deepcompress.quantize.sharing import Codebook, share
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks, count_batches
from deepcompress.training.retraining import Run, retrain

Weights = Mapping[str, torch.Tensor]

#: Where a recipe leaves them free: mu by what the penalty alone would do to a distance in the first epoch (it falls by
#: exp(-PULL)), and how many times as large it is in the end. By the same measure the authors' example goes from 0.4 to
#: 17, with 40 steps of 20 epochs (LC-model-compression, examples/lenet300).
PULL, GROWTH = 0.15, 100.0
#: How many times the learning rate a weight moves for a gradient, in all: momentum of 0.9 adds up to ten.
STEPS = {"sgd": 10.0, "adam": 1.0}


@dataclass(frozen=True)
class Compressed:
    """What a compression step comes to: tensors by name, which weights are kept, and the values that they share."""

    weights: Weights
    masks: Masks
    codebooks: list[Codebook]


@torch.no_grad()
def nearest(weights: Weights, layers: Sequence[Layer], recipe: Recipe) -> Compressed:
    """The compression step: `weights` pruned to the recipe's fraction by magnitude, and what stays shared.

    One threshold goes through the network unless the recipe has a scope.

    Raises:
        RecipeError: as `cut`.
    """
    masks = cut(weights, recipe, scope="global").masks
    pruned = {name: weight.masked_fill(~masks.keep[name], 0.0) for name, weight in weights.items()}
    codebooks = share(pruned, list(layers), recipe)
    return Compressed(pruned, Masks({name: weight != 0 for name, weight in pruned.items()}), codebooks)


class LcHooks(Hooks):
    """Compresses before each epoch, and pulls the weights to what came of it in each step.

    Attributes:
        mu: how strongly.
        multipliers: for each layer, of its shape.
        compressed: by the last compression step.
    """

    changing: ClassVar[tuple[str, ...]] = ("mu", "multipliers", "compressed")

    def __init__(self, weights: Weights, layers: Sequence[Layer], recipe: Recipe, steps: int) -> None:
        """`steps`: batches of an epoch."""
        self.weights, self.layers, self.recipe = weights, layers, recipe
        self.mu = recipe.lc_mu or PULL / (steps * recipe.lr * STEPS[recipe.optimizer])
        self.growth = recipe.lc_growth or GROWTH ** (1 / recipe.epochs)
        self.multipliers = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.compressed = nearest({name: weight.detach() for name, weight in weights.items()}, layers, recipe).weights
        self._groups: list[dict[str, Any]] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the learning rates at hand."""
        self._groups = optimizer.param_groups

    @torch.no_grad()
    def before_epoch(self, epoch: int) -> str:
        """Compress what the last epoch has learned; the note for the epoch's report says how far it is off."""
        if epoch:
            self.compress()
        off = sum(float((weight - self.compressed[name]).square().sum()) for name, weight in self.weights.items())
        whole = sum(float(weight.square().sum()) for weight in self.weights.values())
        return f"mu {self.mu:.2g}, {100 * (off / max(whole, 1e-30)) ** 0.5:.1f} % from compressed"

    @torch.no_grad()
    def compress(self) -> Compressed:
        """A compression step, and that of the multipliers; mu grows."""
        targets = {name: weight - self.multipliers[name] / self.mu for name, weight in self.weights.items()}
        found = nearest(targets, self.layers, self.recipe)
        for name, weight in self.weights.items():
            self.multipliers[name] -= self.mu * (weight - found.weights[name])
        self.compressed = found.weights
        self.mu *= self.growth
        return found

    @torch.no_grad()
    def after_backward(self) -> None:
        """Add the gradient of the penalty; a rate above 1 / mu would overshoot (part I, section 3.3)."""
        for name, weight in self.weights.items():
            pull = self.mu * (weight - self.compressed[name]) - self.multipliers[name]
            weight.grad = pull if weight.grad is None else weight.grad.to_dense().add_(pull)
        for group in self._groups:
            group["lr"] = min(group["lr"], 1 / self.mu)


def learn_and_compress(run: Run, layers: Sequence[Layer]) -> tuple[Masks, list[Codebook]]:
    """LC for `recipe.epochs` learning steps of an epoch each, in place; what is kept, and the shared values.

    There must be training data. The last step is one of compression: the weights end compressed.
    """
    assert run.batches is not None
    hooks = LcHooks(run.weights, layers, run.recipe, count_batches(run.batches))
    retrain(run, make_optimizer(run.model, run.recipe), run.recipe.epochs, "lc", hooks)
    found = hooks.compress()
    with torch.no_grad():
        for name, weight in run.weights.items():
            weight.copy_(found.weights[name])
    return found.masks, found.codebooks
