"""Compression in a training loop of the user's own: nothing is added to the network but zeros and shared values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from deepcompress.compression.from_file import asks_for_more, renamed, restore, settings_of, steps_in
from deepcompress.compression.result import Result, kept_line
from deepcompress.compression.small import finish_small
from deepcompress.compression.stages import Job
from deepcompress.compression.writing import Delivery, Stages, contiguous_state, kept_of, layers_of
from deepcompress.errors import DeepCompressError, RecipeError
from deepcompress.files import check_writable
from deepcompress.layers import live_tensors
from deepcompress.networks.copies import counterparts, unwrapped
from deepcompress.networks.inputs import Batches
from deepcompress.networks.parametrized import check_trainable
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import PruningHooks
from deepcompress.prune.steps import PruningSteps
from deepcompress.quantize.sharing import Codebook, TuningHooks, finish, still_kept
from deepcompress.quantize.steps import TuningSteps
from deepcompress.reading.loader import fill_from, names_in
from deepcompress.recipe import Recipe
from deepcompress.recipe.uses import check_own_loop
from deepcompress.training.batches import as_pairs
from deepcompress.training.check import settle
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import Loss, Task


class Phase(Protocol):
    """What a compressor is doing, which says what the calls of the loop mean: `PruningSteps`, then `TuningSteps`."""

    @property
    def masks(self) -> Masks:
        """Which weights are kept."""

    def epoch(self) -> str:
        """An epoch begins."""

    def after_backward(self) -> None:
        """Gradients are there."""

    def step(self) -> None:
        """The optimizer has stepped."""


@dataclass(frozen=True)
class Idle:
    """Before the first phase and after the last: calls of the loop are refused, and the reason says why."""

    reason: str

    def _refuse(self) -> Any:
        raise DeepCompressError(self.reason)

    masks = property(_refuse)
    epoch = after_backward = step = _refuse


WAITING = Idle("the compressor does not know how long training takes: call prepare() first")
FINISHED = Idle("finalize() was called: continue with Compressor.from_file")


class Compressor:
    """Prunes, shares and stores a network that somebody else trains.

        compressor = dc.Compressor(model, dc.Recipe(prune=0.9, bits=5))
        compressor.prepare(epochs=10)
        for epoch in range(10):
            compressor.epoch()                      # prunes when the schedule says so
            for x, y in batches:
                loss_of(model(x), y).backward()
                optimizer.step()
                compressor.step()                   # what is pruned stays so
                optimizer.zero_grad()
        compressor.share()
        ...                                         # the same loop again tunes the shared values
        result = compressor.finalize("model.dc")

    The network stays the user's: no hooks, no parametrizations, the same parameters under the same names, changed in
    place and between steps only. So it can be copied, averaged, compiled, saved and wrapped as ever. Only the rate of
    dropout modules is lowered while it is pruned, and set back at the end.

    The recipe's settings of training (optimizer, lr, epochs, the l2 penalty, distillation and so on) are the loop's
    business; of those only ``finetune_lr`` has an effect, on the shared values, and the penalties other than l2, which
    need `after_backward`.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe | None = None,
        *,
        network: str = "",
        data: str = "",
        watch: Progress | None = None,
    ) -> None:
        """Look at a network, on the device that trains it. Weights that are zero count as pruned.

        Args:
            model: the network, or a wrapper of torch's around it (compiled, data-parallel).
            recipe: what to prune and to share.
            network, data: names to store in the file.
            watch: told what happens.

        Raises:
            RecipeError: a setting does not fit the network, or needs a loop of deepcompress's own.
            CheckpointError: the network has no weights to compress, or NaN among them.
            NetworkError: a weight is computed from other tensors.
        """
        self.model, self.recipe, self.watch = unwrapped(model), recipe or Recipe(), watch or Progress()
        check_own_loop(self.recipe)
        check_trainable(self.model)
        state = contiguous_state(self.model)
        layers = layers_of(self.model, state, self.recipe)
        tensors = live_tensors(self.model, state)
        self.weights = {layer.name: tensors[layer.name] for layer in layers}
        self.masks = Masks.nonzero(self.weights)
        self._delivery = Delivery(self.model, state, layers, self.recipe, network, data)
        self._stages = Stages(self.model, lambda: None)
        self._stages.finish("dense", self._stages.dense)
        self._former: list[Codebook] = []
        self._pruning: PruningSteps | None = None
        self._phase: Phase = WAITING

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        model: nn.Module,
        recipe: Recipe | None = None,
        *,
        network: str = "",
        data: str = "",
        watch: Progress | None = None,
    ) -> Compressor:
        """Go on from a .dc file, whose tensors are loaded into `model`.

        What is pruned there stays pruned, and weights keep the values that they share there until they move or the
        recipe asks for fewer.

        Args:
            path: the file.
            model, network, data, watch: as in `Compressor`.
            recipe: None for the settings of the file, with which nothing more is pruned: `share` and tune.

        Raises:
            FormatError: the file is missing or damaged.
            NetworkError: its tensors do not fit.
        """
        network_itself = unwrapped(model)
        called = names_in(path, network_itself)
        fill_from(network_itself, path)
        settings = renamed(recipe or Recipe.from_dict(settings_of(path), str(path)), called)
        compressor = cls(network_itself, settings, network=network, data=data, watch=watch)
        compressor._delivery = replace(compressor._delivery, steps=steps_in(path, called))
        compressor._former = restore(path, live_tensors(network_itself, compressor._delivery.state), called)
        return compressor

    @property
    def sparsity(self) -> float:
        """Fraction of the layers' weights that is pruned now."""
        return self.masks.sparsity

    @property
    def shared(self) -> bool:
        """Whether weights share values by now."""
        return isinstance(self._phase, TuningSteps) or self._phase is FINISHED

    def prepare(
        self,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        done: int = 0,
        batches: Batches | None = None,
        loss: Loss | None = None,
        task: str | None = None,
    ) -> Compressor:
        """Begin stage 1: pruning along the recipe's schedule, in the first part of so many epochs or steps.

        Args:
            epochs: how many the loop will run, calling `epoch` before each; None takes the recipe's.
            steps: in place of epochs, how many optimizer steps; `step` then prunes by itself, and here already.
            done: how many of those epochs or steps were trained before, in a run that is resumed from its checkpoint.
            batches: training data for a criterion that looks at it.
            loss: ``loss(output, target)`` for such a criterion.
            task: what the network is for, as in `compress`, in place of a loss; with neither, the batches tell.

        Returns:
            Itself.

        Raises:
            RecipeError: both epochs and steps are given.
        """
        if epochs is not None and steps is not None:
            raise RecipeError("epochs and steps are two ways to say how long training takes: give one of them")
        self._check_before_sharing("prepare() comes before share(): the weights are shared already")
        span = steps if steps is not None else self.recipe.epochs if epochs is None else epochs
        evidence = Evidence(self.model, self.weights, self.masks, self.recipe, *self._data(batches, task, loss))
        more = not self._former or asks_for_more(self.weights, self.recipe)
        self._enter_pruning(PruningSteps(PruningHooks(evidence, self.watch, span), steps is not None, done, more))
        return self

    def epoch(self) -> str:
        """Call before each epoch of stage 1: prunes if it is time; returns a note that says how far."""
        note = self._phase.epoch()
        self.masks = self._phase.masks
        return note

    def after_backward(self) -> None:
        """Call between ``backward`` and the optimizer's step where gradients must be changed.

        That is with the penalties l1, rate, hyperbolic and exponential, and with regrow. While shared values are tuned
        it may be called, for a loop that clears gradients before it calls `step`. Scaled gradients must be unscaled.
        """
        self._phase.after_backward()

    def step(self) -> None:
        """Call after each step of the optimizer, before the gradients are cleared.

        Raises:
            DeepCompressError: the recipe needs `after_backward`, or shared values are tuned and gradients are gone.
        """
        self._phase.step()
        self.masks = self._phase.masks

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set what is pruned to zero in another copy of the network, such as an average of its weights.

        The copy may stand in a wrapper that holds nothing else, as that of timm's ModelEma.

        Raises:
            NetworkError: it has not the same tensors.
        """
        shapes = {name: mask.shape for name, mask in self.masks.keep.items()}
        for name, weight in counterparts(model, shapes).items():
            mask = self.masks.keep[name]
            weight.masked_fill_(~mask.to(weight.device), 0.0)

    def share(
        self,
        *,
        steps: int | None = None,
        batches: Batches | None = None,
        loss: Loss | None = None,
        task: str | None = None,
    ) -> None:
        """Begin stage 2: weights share values, which every `step` tunes from then on, beside what is not shared.

        Pruning that training has not come to is done now, without training.

        Args:
            steps: over how many steps the learning rate of shared values falls by the recipe's ``lr_schedule``; None
                keeps it.
            batches, loss, task: as in `prepare`, for weighting fisher.

        Raises:
            RecipeError: there is no data for the weighting.
        """
        self._check_before_sharing("share() was called before: the weights are shared already")
        if self.recipe.weighting != "none" and batches is None:
            raise RecipeError(f"weighting {self.recipe.weighting!r} needs training data: pass batches to share()")
        self._end_pruning()
        self._stages.finish("prune", len(self._delivery.packed([], "fixed")))
        data, objective = self._data(batches, task, loss)
        run = Run(self.model, self.weights, data, self.recipe, None, self.watch, objective)
        codebooks = Job(run, self._delivery.layers, self._former).shared(self.weights)
        if self.recipe.rate:
            self.masks = still_kept(self.masks, codebooks, self.weights)
        hooks = TuningHooks(codebooks, self.weights, self.masks, self.recipe.weight_decay)
        self._phase = TuningSteps(hooks, self.recipe, steps)

    def finalize(self, path: str | Path = "model.dc") -> Result:
        """Write the file; the network then holds its very tensors.

        Raises:
            OutputError: it cannot be written.
        """
        check_writable(path)
        if not self.shared:
            self.share()
        if not isinstance(self._phase, TuningSteps):
            raise DeepCompressError(FINISHED.reason)
        codebooks = self._phase.hooks.codebooks
        finish(codebooks, self.weights, self.recipe)
        delivery = replace(self._delivery, state=contiguous_state(self.model))
        vectors = finish_small(self.model, delivery.state, self.recipe, self._former)
        result = delivery.write(Path(path), [*codebooks, *vectors], self.masks, self._stages)
        self._phase = FINISHED
        if self._pruning is not None:
            self._pruning.restore_dropout()
        return result

    def _data(self, batches: Batches | None, task: str | None, loss: Loss | None) -> tuple[Batches | None, Task]:
        """Batches as pairs, and what is minimized on them."""
        data = None if batches is None else as_pairs(batches, "training data")
        return data, settle(self.model, [] if data is None else [data], task, loss)

    def _enter_pruning(self, pruning: PruningSteps) -> None:
        self._pruning = self._phase = pruning
        self.masks = pruning.masks

    def _end_pruning(self) -> None:
        """Whatever of the schedule training has not come to."""
        if self._pruning is None:
            self.prepare(epochs=0)
        assert self._pruning is not None
        before = self.masks.sparsity
        if self._pruning.end():
            self.watch.message(
                f"training ended when {100 * before:.2f} % was pruned: the rest was pruned without training"
            )
        self.masks = self._pruning.masks
        contiguous_state(self.model)  # sharing works on flat weights
        self.watch.message(kept_line(kept_of(self.masks), self.masks.sparsity))

    def _check_before_sharing(self, reason: str) -> None:
        if self._phase is FINISHED:
            raise DeepCompressError(FINISHED.reason)
        if self.shared:
            raise DeepCompressError(reason)
