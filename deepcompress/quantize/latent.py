"""Trained quantization: weights keep learning behind their shared values, and may move to another one.

Each surviving weight has a *latent* value. The network computes with the shared value nearest to it, the gradient
passes straight through to the latent (Bengio, Leonard and Courville 2013), and the shared values learn as well: a
centroid as far as its weights would have moved on average, a grid's step as far as fits that best (what Esser et al.
2020 do with one step, equation 3). In `tuning` the assignments of weights are fixed, as in Han et al. 2016; here not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from deepcompress.prune.budget import LOOK_EVERY, Curvature, cut_to_bits
from deepcompress.prune.costs import total_bits
from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import Codebook, Grid, Member, scatter
from deepcompress.training.loop import Hooks
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import fine_tune

Weights = Mapping[str, torch.Tensor]

CUTTING_PART = 0.5  # of the epochs, in which weights still go
CUTS = 16
NUDGE = 0.999  # a little below what should do: the last bytes would take many rounds


class LatentHooks(Hooks):
    """Gives the network shared values before each batch, and the optimizer latent ones before each step."""

    changing: ClassVar[tuple[str, ...]] = ("codebooks", "masks", "latents")

    def __init__(self, codebooks: Sequence[Codebook], weights: Weights, masks: Masks) -> None:
        """`weights` still as they are before sharing: those are the first latents."""
        self.codebooks, self.weights, self.masks = list(codebooks), weights, masks
        self.latents = [
            [weights[member.name].detach().reshape(-1)[member.positions].clone() for member in book.members]
            for book in codebooks
        ]
        self._assign()

    def after_backward(self) -> None:
        """Sum the gradients of shared values, and bring the latents back for the step."""
        for book in self.codebooks:
            book.collect_gradient(self.weights)
            book.average_gradient(book.counts().clamp(min=1))
        for book, latents in zip(self.codebooks, self.latents, strict=True):
            for member, latent in zip(book.members, latents, strict=True):
                scatter(self.weights[member.name], member.positions, latent)

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the latents as the step left them, and let each take the nearest shared value."""
        self.latents = [
            [self.weights[member.name].detach().reshape(-1)[member.positions] for member in book.members]
            for book in self.codebooks
        ]
        self.masks.apply(self.weights)
        self._assign()

    @torch.no_grad()
    def _assign(self) -> None:
        for at, (book, latents) in enumerate(zip(self.codebooks, self.latents, strict=True)):
            self.codebooks[at] = nearest(book, latents)
            self.codebooks[at].write(self.weights)

    @torch.no_grad()
    def shrink(self, masks: Masks) -> None:
        """Drop the weights that `masks` do not keep."""
        self.masks = masks
        for at, (book, latents) in enumerate(zip(self.codebooks, self.latents, strict=True)):
            alive = [masks.keep[member.name].reshape(-1)[member.positions] for member in book.members]
            members = tuple(
                Member(member.name, member.positions[kept], member.assignment[kept])
                for member, kept in zip(book.members, alive, strict=True)
            )
            self.codebooks[at] = replace(book, members=members)
            self.latents[at] = [latent[kept] for latent, kept in zip(latents, alive, strict=True)]
        masks.apply(self.weights)

    def dense_latents(self) -> dict[str, torch.Tensor]:
        """The latent weights as tensors of the layers' shapes; layers that are not shared as they are."""
        found = {name: weight.detach().clone() for name, weight in self.weights.items()}
        for book, latents in zip(self.codebooks, self.latents, strict=True):
            for member, latent in zip(book.members, latents, strict=True):
                scatter(found[member.name], member.positions, latent)
        return found

    def value_bits(self) -> dict[str, float]:
        """Entropy of each layer's indices in bits a weight; 32 of those that are not shared."""
        found = dict.fromkeys(self.weights, 32.0)
        for book in self.codebooks:
            for member in book.members:
                counts = torch.bincount(member.assignment).double()
                share = counts[counts > 0] / counts.sum()
                found[member.name] = float(-(share * share.log2()).sum())
        return found


def nearest(book: Codebook, latents: Sequence[torch.Tensor]) -> Codebook:
    """`book` with each weight assigned to the shared value that is nearest to its latent one."""
    current = book.step * book.multiples if isinstance(book, Grid) else book.centroids
    values, order = current.detach().sort()
    midpoints = (values[1:] + values[:-1]) / 2
    members = tuple(
        replace(member, assignment=order[torch.bucketize(latent.to(values.dtype), midpoints)])
        for member, latent in zip(book.members, latents, strict=True)
    )
    return replace(book, members=members)


class FittingHooks(LatentHooks):
    """Trained quantization that drops weights until the coded bytes are no more than asked."""

    changing = ("curvature", "step", "size")

    def __init__(
        self,
        codebooks: Sequence[Codebook],
        weights: Weights,
        masks: Masks,
        curvature: Curvature,
        target: int,
        measure: Callable[[Sequence[Codebook]], int],
        refine: Callable[[Masks], Masks],
        steps: int,
    ) -> None:
        """`measure` gives the bytes of the layers if they were coded now, of which there may be `target`.

        `steps`: batches of all epochs; weights fall away during the first `CUTTING_PART` of them.
        """
        super().__init__(codebooks, weights, masks)
        self.curvature, self.target, self.measure, self.refine = curvature, target, measure, refine
        self.last = max(int(CUTTING_PART * steps), 1)
        self.every = max(1, self.last // CUTS)
        self.step = 0
        self.size = self.first = measure(self.codebooks)

    def before_epoch(self, epoch: int) -> str:
        """The note for the epoch's report."""
        return f"{self.size / 1000:.2f} KB coded, {100 * self.masks.sparsity:.1f} % pruned"

    def after_backward(self) -> None:
        """Look at every few batches' gradients, beside the rest."""
        if self.step % LOOK_EVERY == 0:
            self.curvature.look(self.masks)
        super().after_backward()

    def after_step(self) -> None:
        """Drop weights if it is time."""
        super().after_step()
        self.step += 1
        if self.step == self.last:
            self.fit_into(self.target)
        elif self.step < self.last and self.step % self.every == 0:
            part = self.step / self.last
            self._drop_towards(max(self.target, round(self.first * (self.target / self.first) ** part)))

    def fit_into(self, size: int) -> None:
        """Drop the weights that are worth least for their bits, until the layers' bytes are no more than `size`."""
        self.size = self.measure(self.codebooks)
        while self.size > size and self._drop_towards(size):
            pass

    def _drop_towards(self, size: int) -> bool:
        """Drop what the estimate, held against the coder's last word, says; whether there was anything to drop."""
        if self.size <= size:
            return True
        price = self.value_bits()
        bits = total_bits(self.masks, price) * (size / self.size) * NUDGE
        masks = self.refine(cut_to_bits(self.dense_latents(), self.masks, self.curvature.mean, bits, price))
        if masks.sparsity == self.masks.sparsity:
            return False
        self.shrink(masks)
        self.size = self.measure(self.codebooks)
        return True


def train_shared(run: Run, hooks: LatentHooks, fitted: Callable[[], object] = lambda: None) -> list[Codebook]:
    """Trained quantization with `hooks` for `recipe.finetune_epochs`, in place; returns the codebooks as they end.

    It is undone where it harms, once the network before is `fitted`: see `rollback.fine_tune`.
    """
    recipe = run.recipe
    if recipe.finetune_epochs:
        groups: list[dict[str, Any]] = [
            {"params": list(run.model.parameters()), "weight_decay": recipe.weight_decay},
            {"params": [book.parameter for book in hooks.codebooks]},
        ]
        fine_tune(run, hooks, groups, fitted)
    return hooks.codebooks
