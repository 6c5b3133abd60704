"""Stages 1 and 2, two ways: to a fraction of the weights, as in the paper, or to a size in bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from deepcompress.compression.from_file import still_shared
from deepcompress.compression.packing import encode_state
from deepcompress.errors import PruneError, RecipeError
from deepcompress.layers import Layer
from deepcompress.prune.amc import Allocation, allocate
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
from deepcompress.prune.ordering import sort_neurons
from deepcompress.prune.stage import prune, prune_and_retrain, prune_to_bits, retrain_under, without_dead
from deepcompress.prune.variational import prune_variational
from deepcompress.quantize.latent import FittingHooks, train_shared
from deepcompress.quantize.lc import learn_and_compress
from deepcompress.quantize.sharing import Codebook, finish, groups, share, still_kept, tune
from deepcompress.quantize.soft_sharing import train_softly_shared
from deepcompress.quantize.straight_through import train_straight_through
from deepcompress.recipe import Circular, Gap, Rewind
from deepcompress.recipe.uses import check_masks
from deepcompress.training.loop import count_batches
from deepcompress.training.retraining import Run
from deepcompress.training.running_statistics import estimate_statistics


@dataclass(frozen=True)
class Job:
    """What the two stages work on.

    Attributes:
        run: network, weights, data and settings.
        layers: the weights as layers.
        former: codebooks that weights shared before (`from_file.restore`); they hold on as long as they can.
        origin: for a recipe that rewinds, the tensors that the network goes back to.
    """

    run: Run
    layers: Sequence[Layer]
    former: Sequence[Codebook] = ()
    origin: State | None = None

    @property
    def moves(self) -> bool:
        """Whether the file may differ from one that is gone on from: without tuning, what is no weight stays."""
        return not self.former or bool(self.run.recipe.finetune_epochs)

    def shared(self, weights: Weights) -> list[Codebook]:
        """Shared values for `weights`, written into them: the former ones where they hold on, else new ones."""
        kept, layers = still_shared(self.former, weights, self.layers, self.run.recipe)
        return [*kept, *share(weights, layers, self.run.recipe, self.importance())] if layers else kept

    def importance(self) -> dict[str, torch.Tensor] | None:
        """What the squared error of each weight counts when values are chosen; None: all alike."""
        run = self.run
        if run.recipe.weighting != "fisher" or run.batches is None:
            return None
        return diagonal(run.model, run.weights, run.batches, run.objective)


class Route(Protocol):
    """A way through the two stages.

    Attributes:
        masks: which weights are kept.
        codebooks: what they share.
        held: layers that `max_drop` kept from being pruned further.
        allocation: what trials said of the fractions of layers, if there were any.
    """

    masks: Masks
    codebooks: list[Codebook]
    held: list[str]
    allocation: Allocation | None

    def prune(self) -> None:
        """Stage 1, with retraining if there is data."""

    def share(self) -> None:
        """Stage 2, with tuning if there is data."""

    def settle(self, size: Callable[[], int]) -> None:
        """The last word before the file is written, which would have `size` bytes."""


class ByFraction:
    """The way of the paper: prune to the recipe's fractions, or to given masks, share, tune the shared values."""

    def __init__(self, job: Job, given: Masks | None = None) -> None:
        """`given` are masks that somebody has decided on already.

        Raises:
            RecipeError: the recipe has another way to say what is pruned than they.
            CheckpointError: they are for other weights.
        """
        self.job, self.given = job, given is not None
        if given is not None:
            check_masks(job.run.recipe)
            self.masks = fitted(given, job.run.weights)
        else:
            self.masks = Masks.nonzero(job.run.weights) if job.former else Masks.full(job.run.weights)
        self.codebooks: list[Codebook] = []
        self.held: list[str] = []
        self.allocation: Allocation | None = None

    def prune(self) -> None:
        """Stage 1; running statistics are estimated anew where it has moved weights and no stage 2 does so."""
        run = self.job.run
        before = _nonzeros(run.weights)
        self._prune()
        if not groups(self.job.layers, run.recipe) and (run.recipe.epochs or _nonzeros(run.weights) != before):
            estimate_statistics(run)

    def _prune(self) -> None:
        if self.given:
            prune_as_given(self.job, self.masks)
        else:
            self.masks, self.held = prune_by_recipe(self._allocated(), self.masks)

    def _allocated(self) -> Job:
        """The job with a fraction for each layer, where those are found by trials."""
        run = self.job.run
        if not run.recipe.searches:
            return self.job
        recipe, self.allocation = allocate(run)
        return replace(self.job, run=replace(run, recipe=recipe))

    def share(self) -> None:
        """Stage 2."""
        run = self.job.run
        self.codebooks = self.job.shared(run.weights)
        if run.recipe.rate:
            self.masks = still_kept(self.masks, self.codebooks, run.weights)
        self._tune()

    def _tune(self) -> None:
        """Tune the shared values, if there is data, and round them as the file has them."""
        run = self.job.run
        if run.batches is not None:
            tune(run, self.masks, self.codebooks)
        finish(self.codebooks, run.weights, run.recipe)
        if self.codebooks and self.job.moves:
            estimate_statistics(run)

    def settle(self, size: Callable[[], int]) -> None:
        """Nothing is left to say."""


#: Methods that prune and train in their own way, by the recipe's names for them; most share values as well.
METHODS: dict[str, Callable[[Run, Sequence[Layer]], tuple[Masks, list[Codebook]]]] = {
    "lc": learn_and_compress,
    "latent": train_straight_through,
    "sws": train_softly_shared,
    "variational": lambda run, layers: (prune_variational(run), []),
}


class ByMethod(ByFraction):
    """The way of a method that prunes while it trains, and mostly shares as well."""

    def _prune(self) -> None:
        """All of the method; `share` is left to tune what it found."""
        run = self._allocated().run
        self.masks, self.codebooks = METHODS[run.recipe.method](run, self.job.layers)

    def share(self) -> None:
        """Tuning of the shared values, or all of stage 2 where the method shares none."""
        if self.codebooks:
            self._tune()
        else:
            super().share()


def _nonzeros(weights: Weights) -> int:
    return sum(int(weight.count_nonzero()) for weight in weights.values())


def prune_by_recipe(job: Job, masks: Masks) -> tuple[Masks, list[str]]:
    """Stage 1 in the recipe's way, on from `masks`: the masks it ends with, and which layers were held back."""
    run, way = job.run, job.run.recipe.way
    match way:
        case Circular():
            return prune_in_turn(run)
        case Gap():
            return prune_by_gap(run), []
        case Rewind():
            return prune_and_rewind(run, job.origin), []
    if way.max_drop is not None or (way.reload and run.batches is not None and run.recipe.epochs):
        return prune_guarded(run)
    if run.batches is None:
        return prune(Evidence(run.model, run.weights, masks, run.recipe), watch=run.watch), []
    return prune_and_retrain(run), []


def prune_as_given(job: Job, masks: Masks) -> None:
    """Stage 1 to given masks: what they leave is retrained, from its origin if the recipe rewinds."""
    run = job.run
    if run.recipe.rewind != "none":
        rewind(run.model, run.recipe, job.origin)
    retrain_under(run, masks)


class BySize:
    """To a file of at most `target_size` bytes: what is least worth its bits goes, until the coded bytes fit."""

    def __init__(self, job: Job, fixed: Callable[[], int]) -> None:
        """`fixed` gives the bytes that the file would have now beside those of the layers."""
        assert job.run.recipe.target_size is not None
        self.job, self.target, self._fixed = job, job.run.recipe.target_size, fixed
        self.masks = Masks.nonzero(job.run.weights) if job.former else Masks.full(job.run.weights)
        self.codebooks: list[Codebook] = []
        self.held: list[str] = []
        self.allocation: Allocation | None = None
        self._links = connections(job.run.model, job.run.watch)
        self._hooks: FittingHooks | None = None

    def prune(self) -> None:
        """Stage 1: as many weights as are expected to fit, and, with data, how the loss bends along those."""
        run, bits = self.job.run, 8.0 * self._room()
        if run.batches is not None and run.recipe.epochs:
            self.masks, self._curvature = prune_to_bits(run, bits, self._without_dead)
        else:
            self._curvature = Curvature.of_scale(run.weights)
            self.masks = self._without_dead(cut_to_bits(run.weights, self.masks, self._curvature.mean, bits))
            self.masks.apply(run.weights)
        if run.recipe.sort_neurons:
            self.masks = sort_neurons(run.model, run.weights, self.masks, self._links)

    def share(self) -> None:
        """Stage 2: shared values, trained with the weights behind them while those that do not fit fall away."""
        job, run = self.job, self.job.run
        shared = {name: weight.detach().clone() for name, weight in run.weights.items()}
        codebooks = job.shared(shared)
        masks = still_kept(self.masks, codebooks, shared)
        masks.apply(run.weights)
        steps = 0 if run.batches is None else count_batches(run.batches) * run.recipe.finetune_epochs
        hooks = FittingHooks(
            codebooks, run.weights, masks, self._curvature, self._room(), self._layer_bytes, self._without_dead, steps
        )
        if run.batches is not None:
            train_shared(run, hooks, lambda: hooks.fit_into(hooks.target))
        finish(hooks.codebooks, run.weights, run.recipe)
        if job.moves:
            estimate_statistics(run)
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
            return without_dead(masks, self._links, worth=self._worth)
        except PruneError as error:
            raise RecipeError(f"target_size is {self.target} bytes, too few for this network: {error}") from None

    def _worth(self) -> dict[str, torch.Tensor]:
        """What the weights are worth within their layers; negative where they are pruned."""
        weights = {name: weight.detach().float() for name, weight in self.job.run.weights.items()}
        scale = Curvature.of_scale(weights).mean
        return {name: (weight.square() * scale[name]).where(weight != 0, -1.0) for name, weight in weights.items()}

    def _layer_bytes(self, codebooks: Sequence[Codebook]) -> int:
        """Bytes of the layers' sections if they were coded now."""
        run, layers = self.job.run, self.job.layers
        return sum(tensor.info.section for _, tensor in encode_state(run.weights, layers, codebooks, run.recipe))
