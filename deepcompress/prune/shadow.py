"""Weights that go on learning while they are pruned."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Shadow:
    """Dense weights behind the pruned ones: all keep learning, and one that has grown may return.

    Dynamic network surgery (Guo, Yao and Chen 2016, equation 3): the gradient of the pruned network moves the dense
    weights, and masks are cut from those anew each time.
    """

    changing = ("dense",)

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.weights = weights
        self.dense = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """The dense weights into the network, for the optimizer's step."""
        for name, weight in self.weights.items():
            weight.copy_(self.dense[name])

    @torch.no_grad()
    def take(self) -> None:
        """The dense weights as the step has left them."""
        for name, weight in self.weights.items():
            self.dense[name].copy_(weight)
