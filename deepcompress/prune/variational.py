"""Sparse variational dropout: each weight learns how much noise it bears, and the noisiest go.

A weight is drawn from N(w, s^2), and alpha = s^2 / w^2 is its noise. Training minimizes the loss of the drawn network,
and the divergence from a log-uniform prior, which falls as alpha grows (Molchanov, Ashukha and Vetrov 2017; equation 14
is the approximation of the divergence). What is learned is w and log s^2, the paper's additive noise. The noise is
drawn once for each output of a layer, not for each weight (local reparametrization).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.prune.masks import Masks, check_alive, cut
from deepcompress.training import distributed
from deepcompress.training.loop import Hooks, samples_of_a_pass
from deepcompress.training.retraining import Run, retrain

Weights = Mapping[str, torch.Tensor]

#: The approximation of the divergence, equation 14.
K1, K2, K3 = 0.63576, 1.87320, 1.48695
#: log alpha at the beginning, for a weight of a layer's typical size. With weights of 0.05, log s^2 is -10, as there.
START = -4.0
LIMIT = 8.0  # log alpha is held within so much of 0, as in the authors' code
WARMING_PART = 0.1  # of the epochs, in which the divergence rises to its full weight
NOISY = 3.0  # log alpha above which the paper removes a weight

_LAYERS: dict[type[nn.Module], Callable[..., torch.Tensor]] = {
    nn.Linear: lambda layer, x, weight: F.linear(x, weight),
    **{
        kind: lambda layer, x, weight: layer._conv_forward(x, weight, None)
        for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    },
}


def log_alpha(weight: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """log(s^2 / w^2), within `LIMIT` of 0."""
    return (log_variance - (weight.square() + 1e-16).log()).clamp(-LIMIT, LIMIT)


def divergence(log_alpha: torch.Tensor) -> torch.Tensor:
    """KL(q || p) of each weight in nats, up to a constant, which makes it 0 as alpha grows (equation 14)."""
    return K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)


class VariationalHooks(Hooks):
    """Draws noise in each layer, and adds the gradient of the divergence.

    Attributes:
        log_variances: log s^2 of each weight.
        strength: how much of its weight the divergence has by now, from 0 to 1.
    """

    changing: ClassVar[tuple[str, ...]] = ("log_variances", "strength")

    def __init__(self, run: Run, layers: Mapping[str, Sequence[nn.Module]]) -> None:
        """`layers`: the modules that each weight is of."""
        assert run.batches is not None
        self.weights = {name: run.weights[name] for name in layers}
        self.epochs, self.samples = run.recipe.epochs, samples_of_a_pass(run.batches)
        self.strength, self.kl_weight = 0.0, run.recipe.kl_weight
        self.log_variances = {
            name: nn.Parameter(torch.full_like(weight, math.log(float(weight.detach().square().mean()) or 1.0) + START))
            for name, weight in self.weights.items()
        }
        self.handles = [
            module.register_forward_hook(self._noise(name)) for name, modules in layers.items() for module in modules
        ]

    def _noise(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor | None]:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            if not module.training:
                return None
            variance = _LAYERS[type(module)](module, inputs[0].square(), self.variance(name))
            return output + (variance + 1e-8).sqrt() * torch.randn_like(output)

        return add

    def variance(self, name: str) -> torch.Tensor:
        """s^2 of each weight of a layer."""
        weight = self.weights[name].detach()
        return log_alpha(weight, self.log_variances[name]).exp() * (weight.square() + 1e-16)

    def before_epoch(self, epoch: int) -> str:
        """The divergence counts more; the note for the epoch's report says how many weights are noise by now."""
        self.strength = min(1.0, epoch / max(WARMING_PART * self.epochs, 1))
        return f"{100 * self.noisy():.1f} % of the weights are noise"

    @torch.no_grad()
    def noisy(self) -> float:
        """The part of the weights that the paper would remove."""
        found = {name: log_alpha(weight, self.log_variances[name]) for name, weight in self.weights.items()}
        return sum(int((each > NOISY).sum()) for each in found.values()) / sum(map(torch.numel, found.values()))

    def after_backward(self) -> None:
        """Add the gradient of the divergence, for one sample of all: the loss is a mean over samples."""
        for name, weight in self.weights.items():
            log_variance = self.log_variances[name]
            if log_variance.grad is not None:
                log_variance.grad = distributed.add_up(log_variance.grad)
            with torch.enable_grad():
                kl = divergence(log_alpha(weight, log_variance)).sum() * (self.strength * self.kl_weight / self.samples)
            kl.backward(inputs=[weight, log_variance])  # type: ignore[no-untyped-call]

    def after_step(self) -> None:
        """Forget the gradients of the variances, which are no parameters of the network."""
        for log_variance in self.log_variances.values():
            log_variance.grad = None

    @torch.no_grad()
    def scores(self) -> dict[str, torch.Tensor]:
        """How far each weight is from zero in standard deviations of its noise."""
        return {
            name: torch.exp(-0.5 * log_alpha(weight, self.log_variances[name])) for name, weight in self.weights.items()
        }


def prune_variational(run: Run) -> Masks:
    """Train with noise for `recipe.epochs`, in place, and remove the noisiest weights, `recipe.prune` of all.

    There must be training data. One threshold goes through the network, unless the recipe has a scope. Weights of other
    layers than linear ones and convolutions have no noise of their own and stay.

    Raises:
        RecipeError: there is no such layer.
        PruneError: nothing is left of a layer.
    """
    layers = modules_of(run)
    hooks = VariationalHooks(run, layers)
    optimizer = torch.optim.Adam([*run.model.parameters(), *hooks.log_variances.values()], lr=run.recipe.lr)
    try:
        retrain(run, optimizer, run.recipe.epochs, "variational", hooks)
    finally:
        for handle in hooks.handles:
            handle.remove()
    run.watch.message(f"{100 * hooks.noisy():.2f} % of the weights have a log alpha above {NOISY:g}")
    found = cut(hooks.scores(), run.recipe, scope="global").masks
    masks = Masks({**Masks.full(run.weights).keep, **found.keep})
    check_alive(masks)
    masks.apply(run.weights)
    return masks


def modules_of(run: Run) -> dict[str, list[nn.Module]]:
    """The modules of each weight that all its uses are in: linear layers and convolutions.

    Raises:
        RecipeError: there is none.
    """
    found: dict[str, list[nn.Module]] = {}
    for name, weight in run.weights.items():
        modules = [
            module for module in run.model.modules() if any(own is weight for own in module._parameters.values())
        ]
        if modules and all(type(module) in _LAYERS for module in modules):
            found[name] = modules
        else:
            run.watch.message(f"{name} is of no linear layer or convolution: it has no noise, and is not pruned")
    if not found:
        raise RecipeError("method 'variational' is for linear layers and convolutions, and the network has none")
    return found
