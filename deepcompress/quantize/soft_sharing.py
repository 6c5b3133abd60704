"""Soft weight sharing: a mixture of Gaussians is learned with the weights, as their prior, and draws them together.

Training minimizes the loss and tau times the negative logarithm of the mixture's density at all weights (Ullrich, Meeds
and Welling 2017, section 4, after Nowlan and Hinton 1992). In the end each weight takes the mean of its most probable
component, and that of one component is zero. So pruning and sharing are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from deepcompress.layers import Layer
from deepcompress.prune.masks import Masks, cut
from deepcompress.quantize.line import ends
from deepcompress.quantize.mixture import Components, begin
from deepcompress.quantize.sharing import CHUNK, Codebook, Member, groups
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks, samples_of_a_pass
from deepcompress.training.retraining import Run, retrain

Weights = Mapping[str, torch.Tensor]

#: Learning rates of means, logarithms of precisions, and logits of parts, in those of the weights. In the authors'
#: example they are 0.2, 6 and 6; precisions follow faster here, as there are fewer epochs.
MEANS_RATE, PRECISIONS_RATE, LOGITS_RATE = 0.2, 30.0, 6.0

#: How many times as large tau is in the last epoch as in the first.
RISE = 100.0


class SoftSharingHooks(Hooks):
    """Adds the gradient of the prior, whose weight rises with each epoch.

    Attributes:
        mixture: the prior.
        strength: its weight by now, in that of the first epoch.
    """

    changing: ClassVar[tuple[str, ...]] = ("mixture", "strength")

    def __init__(self, run: Run, components: int) -> None:
        """`components`: how many there are beside the one at zero."""
        assert run.batches is not None
        self.weights, self.recipe = run.weights, run.recipe
        self.mixture = begin([weight.detach() for weight in run.weights.values()], components, run.recipe.prune)
        self.factor, self.strength = run.recipe.sws_tau / samples_of_a_pass(run.batches), 1.0

    @torch.no_grad()
    def before_epoch(self, epoch: int) -> str:
        """The prior counts more; the note for the epoch's report says how far the weights are off their means."""
        self.strength = RISE ** (epoch / max(self.recipe.epochs - 1, 1))
        found = Collapse(self.weights, self.mixture.components(), self.recipe)
        off = sum(float((weight.cpu() - found.values[name]).square().sum()) for name, weight in self.weights.items())
        whole = sum(float(weight.square().sum()) for weight in self.weights.values())
        return f"{100 * (off / max(whole, 1e-30)) ** 0.5:.1f} % from their means"

    def after_backward(self) -> None:
        """Add the gradient of the prior, for one sample of all: the loss is a mean over samples."""
        weights = [weight.detach() for weight in self.weights.values()]
        pulls = self.mixture.gradients(weights, self.strength * self.factor)
        for weight, pull in zip(self.weights.values(), pulls, strict=True):
            if weight.requires_grad:
                own = pull.to(weight.dtype)
                weight.grad = own if weight.grad is None else weight.grad.to_dense().add_(own)


class Collapse:
    """Weights with the means of their components; zeros stay.

    Attributes:
        values: of the layers' shapes (float32, on the CPU). As many are zero as the recipe says: those of the lowest
            odds.
    """

    @torch.no_grad()
    def __init__(self, weights: Weights, mixture: Components, recipe: Recipe) -> None:
        """One threshold goes through the network unless the recipe has a scope.

        Raises:
            RecipeError: as `cut`.
            DivergedError: the weights are no longer finite.
        """
        ends([*weights.values(), mixture.means])
        odds: dict[str, torch.Tensor] = {}
        self.values: dict[str, torch.Tensor] = {}
        for name, given in weights.items():
            weight = given.detach().cpu().float()
            found = [mixture.chosen(part) for part in torch.split(weight.reshape(-1), CHUNK)]
            component, odds[name] = (torch.cat(parts).view(weight.shape) for parts in zip(*found, strict=True))
            self.values[name] = mixture.means.float()[component].masked_fill_(weight == 0, 0.0)
        lowest = min(float(each.min()) for each in odds.values())
        cut({name: each - lowest for name, each in odds.items()}, recipe, scope="global").masks.apply(self.values)

    def codebook(self, names: Sequence[str], levels: int, device: torch.device) -> Codebook:
        """The means that some layers take, for weights on `device`."""
        values = [self.values[name].reshape(-1) for name in names]
        places = [value.nonzero().reshape(-1) for value in values]
        taken = [value[place] for value, place in zip(values, places, strict=True)]
        centroids, assignment = torch.unique(torch.cat(taken), return_inverse=True)
        parts = assignment.split([len(place) for place in places])
        members = tuple(
            Member(name, place.to(device), part.to(device))
            for name, place, part in zip(names, places, parts, strict=True)
        )
        return Codebook(levels, nn.Parameter(centroids.to(device)), members)


def train_softly_shared(run: Run, layers: Sequence[Layer]) -> tuple[Masks, list[Codebook]]:
    """Train with the prior for `recipe.epochs`, in place, and collapse; what is kept, and the shared values.

    There must be training data. There is one mixture for the network; each layer's codebook has the means that it
    takes. No layer loses all its weights.

    Raises:
        RecipeError: as `cut`.
        DivergedError: the loss or the weights are no longer finite.
    """
    recipe = run.recipe
    books = groups(list(layers), recipe)
    hooks = SoftSharingHooks(run, books[0][1])
    mixture = hooks.mixture
    rates = {mixture.means: MEANS_RATE, mixture.log_precisions: PRECISIONS_RATE, mixture.logits: LOGITS_RATE}
    optimizer = torch.optim.Adam(
        [
            {"params": list(run.model.parameters()), "lr": recipe.lr},
            *({"params": [parameter], "lr": rate * recipe.lr} for parameter, rate in rates.items()),
        ]
    )
    retrain(run, optimizer, recipe.epochs, "sws", hooks)
    found = Collapse(run.weights, hooks.mixture.components().merged(), recipe)
    codebooks = [found.codebook(names, levels, run.weights[names[0]].device) for names, levels in books]
    with torch.no_grad():
        for name, weight in run.weights.items():
            weight.copy_(found.values[name])
    used = {value for codebook in codebooks for value in codebook.centroids.tolist()}
    run.watch.message(f"the weights take {len(used)} of the {len(mixture.means)} means")
    return Masks.nonzero(run.weights), codebooks
