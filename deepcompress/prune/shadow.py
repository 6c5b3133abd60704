"""Weights that go on learning while they are pruned."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deepcompress.prune.masks import Masks

BAND = 1.1 / 0.9  # b / a in the authors' code


class Shadow:
    """Dense weights behind the pruned ones: all keep learning, and one that has grown may return.

    Dynamic network surgery (Guo, Yao and Chen 2016, equations 3 and 4): the gradient of the pruned network moves the
    dense weights, and masks are cut from those anew each time.

    Attributes:
        dense: the weights, by name.
        limits: the magnitudes between which weights go and come between two cuts (`spliced`), by name; none where
            something else than magnitudes decides.
    """

    changing = ("dense", "limits")

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.weights = weights
        self.dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self.limits: dict[str, float] = {}

    def smallest(self, masks: Masks) -> dict[str, float]:
        """The smallest magnitude that `masks` keep in each layer; not of one that keeps all, or none."""
        kept = {name: self.dense[name][keep].abs() for name, keep in masks.keep.items() if not bool(keep.all())}
        return {name: float(sizes.min()) for name, sizes in kept.items() if len(sizes)}

    def spliced(self, masks: Masks) -> Masks:
        """Masks without the weights that have come below the limit of their layer, and with those that outgrew it.

        This is the function h of equation 3. a is the limit, and b, from which on a weight returns, is `BAND` times as
        large, so that no weight comes and goes with each step. A layer that would be emptied stays as it is.
        """
        keep = dict(masks.keep)
        for name, limit in self.limits.items():
            size = self.dense[name].abs()
            mask = torch.where(keep[name], size >= limit, size > BAND * limit)
            keep[name] = mask if bool(mask.any()) else keep[name]
        return Masks(keep)

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
