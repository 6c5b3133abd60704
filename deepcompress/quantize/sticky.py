"""Trained quantization that keeps the assignments of an earlier file where they still serve.

A weight moves to another shared value only if that brings it nearer to its latent value by more than what a change
costs: the rate term of entropy-constrained quantization (`rate`), on changes instead of indices. Shared values stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from deepcompress.prune.masks import Masks
from deepcompress.quantize.latent import LatentHooks, Weights, nearest
from deepcompress.quantize.sharing import Codebook, scatter

EVERY = 20  # steps after which the price of a change is found anew, where so many may change


class StickyHooks(LatentHooks):
    """As `LatentHooks`, with shared values that stay, and weights that change their value only where it pays.

    Attributes:
        most: how many weights may have another value than at first; None leaves that to `hysteresis`.
    """

    def __init__(self, codebooks: Sequence[Codebook], weights: Weights, masks: Masks, most: int | None = None) -> None:
        """`weights` may be other values already: those are the first latents; codebooks are where they come from.

        Args:
            codebooks: as the earlier file has them.
            weights: of the network.
            masks: which weights there are.
            most: see the class.
        """
        self.first, self.most = list(codebooks), most
        self._price, self._step = 0.0, 0
        super().__init__(codebooks, weights, masks)

    def after_backward(self) -> None:
        """Bring the latents back for the step; shared values do not learn."""
        for book, latents in zip(self.codebooks, self.latents, strict=True):
            for member, latent in zip(book.members, latents, strict=True):
                scatter(self.weights[member.name], member.positions, latent)

    @torch.no_grad()
    def allow(self, most: int | None) -> None:
        """Let so many weights change, those that gain most, and write them."""
        self.most, self._step = most, 0
        self._assign()

    @property
    def changed(self) -> int:
        """How many weights have another value than at first."""
        pairs = zip(self.codebooks, self.first, strict=True)
        return sum(
            int((now.assignment != then.assignment).sum())
            for book, first in pairs
            for now, then in zip(book.members, first.members, strict=True)
        )

    @torch.no_grad()
    def _assign(self) -> None:
        wanted = [nearest(first, latents) for first, latents in zip(self.first, self.latents, strict=True)]
        gains = [self._gains(*part) for part in zip(self.first, wanted, self.latents, strict=True)]
        if self.most is not None and self._step % EVERY == 0:
            self._price = _highest(gains, self.most)
        self._step += 1
        for at, (first, other, gain) in enumerate(zip(self.first, wanted, gains, strict=True)):
            price = self._price if self.most is not None else hysteresis(first)
            members = tuple(
                replace(then, assignment=torch.where(better > price, now.assignment, then.assignment))
                for then, now, better in zip(first.members, other.members, gain, strict=True)
            )
            self.codebooks[at] = replace(first, members=members)
            self.codebooks[at].write(self.weights)

    def _gains(self, first: Codebook, wanted: Codebook, latents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """By how much each weight's squared error falls if it takes the nearest value."""
        found = []
        for then, now, latent in zip(first.members, wanted.members, latents, strict=True):
            error = latent - first.centroids[then.assignment].to(latent.dtype)
            less = latent - first.centroids[now.assignment].to(latent.dtype)
            found.append(error.square() - less.square())
        return found


def hysteresis(book: Codebook) -> float:
    """The price of a change where no number of them is given: a quarter of the mean square between neighbours."""
    values = book.centroids.detach().sort().values
    return float((values[1:] - values[:-1]).square().mean() / 4) if len(values) > 1 else 0.0


def _highest(gains: Sequence[Sequence[torch.Tensor]], most: int) -> float:
    """The price at which no more than `most` weights gain by a change."""
    everything = torch.cat([gain.reshape(-1) for part in gains for gain in part])
    if most >= len(everything):
        return 0.0
    ranked = everything.kthvalue(len(everything) - most).values
    return max(float(ranked), 0.0)
