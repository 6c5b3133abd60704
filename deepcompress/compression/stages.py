"""Stages 1 and 2, two ways: to a fraction of the weights, as in the paper, or to a size in bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from deepcompress.compression.from_file import still_shared
from deepcompress.compression.packing import encode_state
from deepcompress.errors import PruneError, RecipeError
from deepcompress.layers import Layer
from deepcompress.networks.inputs import Batches
from deepcompress.prune.budget import Curvature, Weights, cut_to_bits
from deepcompress.prune.circular import prune_in_turn
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.fisher import diagonal
from deepcompress.prune.gap import prune_by_gap
from deepcompress.prune.guard import prune_guarded
from deepcompress.prune.lottery import State, prune_and_rewind, rewind
from deepcompress.prune.maskfile import fitted
from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import connections
from deepcompress.prune.stage import prune, prune_and_retrain, prune_to_bits, retrain_under, without_dead
from deepcompress.quantize.latent import FittingHooks, train_shared
from deepcompress.quantize.sharing import Codebook, finish, share, still_kept, tune
from deepcompress.recipe import Recipe
from deepcompress.recipe.conflicts import check_masks
from deepcompress.training.loop import count_batches
from deepcompress.training.objective import Objective
from deepcompress.training.progress import Progress


@dataclass(frozen=True)
class Job:
    """What the stages work on.

    Attributes:
        model: changed in place.
        weights: those of its tensors that are pruned, by name.
        layers: the same, as layers.
        recipe: all settings.
        batches, val_batches: of training; None trains nothing, and measures nothing.
        objective: what training minimizes.
        watch: told what happens.
        former: codebooks that weights shared before (`continuation.restore`); they hold on as long as they can.
        origin: for a recipe that rewinds, the tensors that the network goes back to.
    """

    model: nn.Module
    weights: Weights
    layers: Sequence[Layer]
    recipe: Recipe
    batches: Batches | None
    val_batches: Batches | None
    objective: Objective
    watch: Progress
    former: Sequence[Codebook] = ()
    origin: State | None = None

    def shared(self, weights: Weights) -> list[Codebook]:
        """Shared values for `weights`, written into them: the former ones where they hold on, else new ones."""
        kept, layers = still_shared(self.former, weights, self.layers, self.recipe)
        return [*kept, *share(weights, layers, self.recipe, self.importance())] if layers else kept

    def importance(self) -> dict[str, torch.Tensor] | None:
        """What the squared error of each weight counts when values are chosen; None: all alike."""
        if self.recipe.weighting != "fisher" or self.batches is None:
            return None
        return diagonal(self.model, self.weights, self.batches, self.objective)


class ByFraction:
    """The way of the paper: prune to the recipe's fractions, share, tune the shared values.

    Attributes:
        masks: which weights are kept.
        codebooks: what they share.
        held: layers that `max_drop` kept from being pruned further.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.masks = Masks.nonzero(job.weights) if job.former else Masks.full(job.weights)
        self.codebooks: list[Codebook] = []
        self.held: list[str] = []

    def prune(self) -> None:
        """Stage 1, with retraining if there is data."""
        job = self.job
        recipe, with_data = job.recipe, (job.recipe, job.val_batches, job.watch, job.objective)
        if recipe.schedule == "circular":
            self.masks, self.held = prune_in_turn(job.model, job.weights, job.batches, *with_data)
        elif recipe.schedule == "gap":
            self.masks = prune_by_gap(job.model, job.weights, job.batches, *with_data)
        elif recipe.rewind != "none":
            evidence = Evidence(job.model, job.weights, Masks.nonzero(job.weights), recipe, job.batches, job.objective)
            self.masks = prune_and_rewind(evidence, job.origin, job.val_batches, job.watch)
        elif recipe.max_drop is not None or (recipe.reload and job.batches is not None and recipe.epochs):
            self.masks, self.held = prune_guarded(job.model, job.weights, job.batches, *with_data)
        elif job.batches is None:
            evidence = Evidence(job.model, job.weights, self.masks, recipe)
            self.masks = prune(evidence, watch=job.watch)
        else:
            self.masks = prune_and_retrain(job.model, job.weights, job.batches, *with_data)

    def share(self) -> None:
        """Stage 2, with tuning if there is data."""
        job = self.job
        self.codebooks = job.shared(job.weights)
        if job.recipe.rate:
            self.masks = still_kept(self.masks, self.codebooks, job.weights)
        if job.batches is not None:
            tune(
                job.model,
                job.weights,
                self.masks,
                self.codebooks,
                job.batches,
                job.recipe,
                job.val_batches,
                job.watch,
                job.objective,
            )
        finish(self.codebooks, job.weights, job.recipe)

    def settle(self, size: Callable[[], int]) -> None:
        """The last word before the file is written, which would have `size` bytes: here nothing."""


class ByMasks(ByFraction):
    """To masks that somebody has decided on already."""

    def __init__(self, job: Job, masks: Masks) -> None:
        """`masks` must be for the weights of `job`.

        Raises:
            RecipeError: the recipe has another way to say what is pruned.
            CheckpointError: they are for others.
        """
        super().__init__(job)
        check_masks(job.recipe)
        self.masks = fitted(masks, job.weights)

    def prune(self) -> None:
        """Stage 1: what is left is retrained if there is data."""
        job = self.job
        if job.recipe.rewind != "none":
            rewind(job.model, job.recipe, job.origin)
        retrain_under(
            self.masks,
            job.model,
            job.weights,
            job.batches,
            job.recipe,
            job.val_batches,
            job.watch,
            job.objective,
        )


class BySize(ByFraction):
    """To a file of at most `target_size` bytes: what is least worth its bits goes, until the coded bytes fit."""

    def __init__(self, job: Job, fixed: Callable[[], int]) -> None:
        """`fixed` gives the bytes that the file would have now beside those of the layers."""
        super().__init__(job)
        assert job.recipe.target_size is not None
        self.target = job.recipe.target_size
        self._fixed = fixed
        self._links = connections(job.model, job.watch)
        self._hooks: FittingHooks | None = None

    def prune(self) -> None:
        """Stage 1: as many weights as are expected to fit, and, with data, how the loss bends along those."""
        job, bits = self.job, 8.0 * self._room()
        if job.batches is not None and job.recipe.epochs:
            self.masks, self._curvature = prune_to_bits(
                job.model,
                job.weights,
                job.batches,
                job.recipe,
                bits,
                self._without_dead,
                job.val_batches,
                job.watch,
                job.objective,
            )
        else:
            self._curvature = Curvature.of_scale(job.weights)
            self.masks = self._without_dead(cut_to_bits(job.weights, self.masks, self._curvature.mean, bits))
            self.masks.apply(job.weights)

    def share(self) -> None:
        """Stage 2: shared values, trained with the weights behind them while those that do not fit fall away."""
        job = self.job
        shared = {name: weight.detach().clone() for name, weight in job.weights.items()}
        codebooks = job.shared(shared)
        masks = still_kept(self.masks, codebooks, shared)
        masks.apply(job.weights)
        steps = 0 if job.batches is None else count_batches(job.batches) * job.recipe.finetune_epochs
        hooks = FittingHooks(
            codebooks, job.weights, masks, self._curvature, self._room(), self._layer_bytes, self._without_dead, steps
        )
        if job.batches is not None:
            train_shared(job.model, hooks, job.batches, job.recipe, job.val_batches, job.watch, job.objective)
        finish(hooks.codebooks, job.weights, job.recipe)
        self.masks, self.codebooks, self._hooks = hooks.masks, hooks.codebooks, hooks

    def settle(self, size: Callable[[], int]) -> None:
        """Drop weights until the file has no more bytes than asked.

        Raises:
            RecipeError: it has more even with one weight a layer.
        """
        hooks = self._hooks
        assert hooks is not None
        while (over := size() - self.target) > 0:
            before = hooks.masks.sparsity
            hooks.fit_into(max(self._layer_bytes(hooks.codebooks) - over, 0))
            self.masks, self.codebooks = hooks.masks, hooks.codebooks
            if self.masks.sparsity == before:
                smallest = self.target + over
                raise RecipeError(
                    f"target_size is {self.target} bytes, but the smallest file of this network has {smallest}"
                )

    def _room(self) -> int:
        """Bytes that there are for the layers.

        Raises:
            RecipeError: none.
        """
        fixed = self._fixed()
        if fixed >= self.target:
            raise RecipeError(
                f"target_size is {self.target} bytes, but what is not pruned (header, biases, batch norm) takes "
                f"{fixed} already: ask for more, or for less of that (--small-bits, --batch-norm fold)"
            )
        return self.target - fixed

    def _without_dead(self, masks: Masks) -> Masks:
        try:
            return without_dead(masks, self._links)
        except PruneError as error:
            raise RecipeError(f"target_size is {self.target} bytes, too few for this network: {error}") from None

    def _layer_bytes(self, codebooks: Sequence[Codebook]) -> int:
        """Bytes of the layers' sections if they were coded now."""
        job = self.job
        return sum(tensor.info.section for _, tensor in encode_state(job.weights, job.layers, codebooks, job.recipe))
