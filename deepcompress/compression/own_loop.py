"""Compression in a training loop of the user's own: nothing is added to the network but zeros and shared values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from deepcompress.compression.from_file import asks_for_more, renamed, restore, settings_of
from deepcompress.compression.result import Result, kept_line
from deepcompress.compression.stages import Job
from deepcompress.compression.writing import Delivery, Stages, contiguous_state, finish_small, kept_of, layers_of
from deepcompress.errors import DeepCompressError, NetworkError, RecipeError
from deepcompress.files import check_writable
from deepcompress.layers import live_tensors, tensors_of
from deepcompress.networks.copies import unwrapped
from deepcompress.networks.inputs import Batches
from deepcompress.networks.parametrized import computed
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import PruningHooks
from deepcompress.quantize.sharing import Codebook, TuningHooks, finish, still_kept
from deepcompress.reading.loader import fill_from, names_in
from deepcompress.recipe import Recipe
from deepcompress.recipe.conflicts import check_own_loop
from deepcompress.training.batches import as_pairs
from deepcompress.training.check import settle
from deepcompress.training.loop import LR_SCHEDULES
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import Loss, Task


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
        """Look at a network, on the device where it shall be trained. Weights that are zero are taken as pruned.

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
        _check(self.model)
        state = contiguous_state(self.model)
        layers = layers_of(self.model, state, self.recipe)
        tensors = live_tensors(self.model, state)
        self.weights = {layer.name: tensors[layer.name] for layer in layers}
        self.masks = Masks.nonzero(self.weights)
        self._delivery = Delivery(self.model, state, layers, self.recipe, network, data)
        self._stages = Stages(self.model, lambda: None)
        self._stages.finish("dense", self._stages.dense)
        self._former: list[Codebook] = []
        self._pruning: _Pruning | None = None
        self._tuning: _Tuning | None = None
        self._finished = False

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
        compressor._former = restore(path, live_tensors(network_itself, compressor._delivery.state), called)
        return compressor

    @property
    def sparsity(self) -> float:
        """Fraction of the layers' weights that is pruned now."""
        return self.masks.sparsity

    @property
    def shared(self) -> bool:
        """Whether weights share values by now."""
        return self._tuning is not None

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
        self._check_open()
        if self._tuning is not None:
            raise DeepCompressError("prepare() comes before share(): the weights are shared already")
        span = steps if steps is not None else self.recipe.epochs if epochs is None else epochs
        recipe = replace(self.recipe, epochs=span)
        evidence = Evidence(self.model, self.weights, self.masks, recipe, *self._data(batches, task, loss))
        more = not self._former or asks_for_more(self.weights, self.recipe)
        self._pruning = _Pruning(PruningHooks(evidence, self.watch), more, steps is not None, done)
        self.masks = self._pruning.hooks.masks
        return self

    def epoch(self) -> str:
        """Call before each epoch of stage 1: prunes if it is time; returns a note that says how far."""
        self._check_open()
        if self._tuning is not None:
            return ""
        pruning = self._begun()
        note = "" if pruning.by_steps else pruning.advance()
        self.masks = pruning.hooks.masks
        return note

    def after_backward(self) -> None:
        """Call between ``backward`` and the optimizer's step where gradients must be changed.

        That is with the penalties l1, rate, hyperbolic and exponential, and with regrow. While shared values are tuned
        it may be called, for a loop that clears gradients before it calls `step`. Scaled gradients must be unscaled.
        """
        self._check_open()
        (self._tuning or self._begun()).after_backward()

    def step(self) -> None:
        """Call after each step of the optimizer, before the gradients are cleared.

        Raises:
            DeepCompressError: the recipe needs `after_backward`, or shared values are tuned and gradients are gone.
        """
        self._check_open()
        (self._tuning or self._begun()).step()
        if self._tuning is None:
            self.masks = self._begun().hooks.masks

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set what is pruned to zero in another copy of the network, such as an average of its weights.

        The copy may stand in a wrapper that holds nothing else, as that of timm's ModelEma.

        Raises:
            NetworkError: it has not the same tensors.
        """
        for name, weight in self._counterparts(model).items():
            mask = self.masks.keep[name]
            weight.masked_fill_(~mask.to(weight.device), 0.0)

    def _counterparts(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The tensors of `model`, or of the one network that it wraps, that stand for those that are pruned here."""
        shapes = {name: mask.shape for name, mask in self.masks.keep.items()}
        inner: nn.Module | None = unwrapped(model)
        while inner is not None:
            tensors = live_tensors(inner, tensors_of(inner))
            wrong = [name for name, shape in shapes.items() if name not in tensors or tensors[name].shape != shape]
            if not wrong:
                return {name: tensors[name] for name in shapes}
            children = list(inner.children())
            inner = children[0] if len(children) == 1 else None
        raise NetworkError(f"the network {type(model).__name__} has no tensor {wrong[0]} of shape {shapes[wrong[0]]}")

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
        self._check_open()
        if self._tuning is not None:
            raise DeepCompressError("share() was called before: the weights are shared already")
        if self.recipe.weighting != "none" and batches is None:
            raise RecipeError(f"weighting {self.recipe.weighting!r} needs training data: pass batches to share()")
        self._end_pruning()
        self._stages.finish("prune", len(self._delivery.packed([], "fixed")))
        data, objective = self._data(batches, task, loss)
        run = Run(self.model, self.weights, data, self.recipe, None, self.watch, objective)
        codebooks = Job(run, self._delivery.layers, self._former).shared(self.weights)
        if self.recipe.rate:
            self.masks = still_kept(self.masks, codebooks, self.weights)
        self._tuning = _Tuning(
            TuningHooks(codebooks, self.weights, self.masks, self.recipe.weight_decay), self.recipe, steps
        )

    def finalize(self, path: str | Path = "model.dc") -> Result:
        """Write the file; the network then holds its very tensors.

        Raises:
            OutputError: it cannot be written.
        """
        self._check_open()
        check_writable(path)
        if self._tuning is None:
            self.share()
        assert self._tuning is not None
        codebooks = self._tuning.hooks.codebooks
        finish(codebooks, self.weights, self.recipe)
        delivery = replace(self._delivery, state=contiguous_state(self.model))
        vectors = finish_small(self.model, delivery.state, self.recipe, self._former)
        result = delivery.write(Path(path), [*codebooks, *vectors], self.masks, self._stages)
        self._finished = True
        for dropout, rate, _ in self._begun().hooks.dropouts:
            dropout.p = rate
        return result

    def _data(self, batches: Batches | None, task: str | None, loss: Loss | None) -> tuple[Batches | None, Task]:
        """Batches as pairs, and what is minimized on them."""
        data = None if batches is None else as_pairs(batches, "training data")
        return data, settle(self.model, [] if data is None else [data], task, loss)

    def _begun(self) -> _Pruning:
        if self._pruning is None:
            raise DeepCompressError("the compressor does not know how long training takes: call prepare() first")
        return self._pruning

    def _end_pruning(self) -> None:
        """Whatever of the schedule training has not come to."""
        if self._pruning is None:
            self.prepare(epochs=0)
        pruning = self._begun()
        before = pruning.hooks.masks.sparsity
        trained = pruning.ticks > 0
        if pruning.end() and trained:
            self.watch.message(
                f"training ended when {100 * before:.2f} % was pruned: the rest was pruned without training"
            )
        self.masks = pruning.hooks.masks
        contiguous_state(self.model)  # sharing works on flat weights
        self.watch.message(kept_line(kept_of(self.masks), self.masks.sparsity))

    def _check_open(self) -> None:
        if self._finished:
            raise DeepCompressError("finalize() was called: continue with Compressor.from_file")


class _Pruning:
    """Stage 1, whose hooks are called by epochs or by steps."""

    def __init__(self, hooks: PruningHooks, more: bool, by_steps: bool, done: int = 0) -> None:
        self.hooks, self.by_steps = hooks, by_steps
        self.ticks = done  # epochs that have begun, or steps that are done
        self._last = -1  # for which the schedule was asked
        self._heard = False
        if not more:
            hooks.steps = {}
        hooks.take(hooks.masks)
        due = [tick for tick in hooks.steps if tick < done or (by_steps and tick == done)]
        if due:
            self._ask(max(due))

    def advance(self) -> str:
        """An epoch begins."""
        self.ticks += 1
        return self._ask(self.ticks - 1)

    def end(self) -> bool:
        """Prune as far as the schedule goes; whether there was anything left."""
        last = max(self.hooks.steps, default=-1)
        if self._last >= last:
            return False
        self._ask(last)
        return True

    def after_backward(self) -> None:
        self._heard = True
        self.hooks.after_backward()

    def step(self) -> None:
        if not self._heard and self._needs_gradients():
            recipe = self.hooks.recipe
            raise DeepCompressError(
                f"penalty {recipe.penalty!r} with regrow {recipe.regrow!r} changes gradients: call after_backward() "
                "between backward() and the optimizer's step"
            )
        self._heard = False
        self.hooks.after_step()
        if self.by_steps:
            self.ticks += 1
            self._ask(self.ticks)

    def _ask(self, tick: int) -> str:
        self._last = tick
        return self.hooks.before_epoch(tick)

    def _needs_gradients(self) -> bool:
        return self.hooks.shadow is not None or self.hooks.recipe.penalty not in ("l2", "none")


class _Tuning:
    """Stage 2: shared values with an optimizer of their own, as in `quantize.sharing.tune`."""

    def __init__(self, hooks: TuningHooks, recipe: Recipe, steps: int | None) -> None:
        self.hooks, self._steps = hooks, steps
        self._factor, self._rate, self._done = LR_SCHEDULES[recipe.lr_schedule], recipe.finetune_lr, 0
        self._heard = False
        self._parameters = [book.parameter for book in hooks.codebooks]
        self._optimizer = torch.optim.SGD(
            self._parameters or [torch.zeros(0)], lr=self._rate, momentum=0.9, nesterov=True
        )

    def after_backward(self) -> None:
        self._heard = True
        members = [member.name for book in self.hooks.codebooks for member in book.members]
        if members and not any(self.hooks.weights[name].requires_grad for name in members):
            raise DeepCompressError(
                f"shared values are tuned by the gradients of weights, and {members[0]} and all others that share "
                "values ask for none: set requires_grad, or call finalize() without tuning"
            )
        if members and all(self.hooks.weights[name].grad is None for name in members):
            raise DeepCompressError(
                "shared values are tuned by the gradients of weights, and there are none: call step() before gradients "
                "are cleared, or after_backward() after backward()"
            )
        self.hooks.after_backward()

    @torch.no_grad()
    def step(self) -> None:
        for book in self.hooks.codebooks:  # the loop's optimizer has moved the weights
            book.write(self.hooks.weights)
        if not self._heard:
            self.after_backward()
        self._heard = False
        if self._steps:
            done = min((self._done + 0.5) / self._steps, 1.0)
            self._optimizer.param_groups[0]["lr"] = self._rate * self._factor(done)
        self._done += 1
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):  # a scaler skips steps that are not
            self._optimizer.step()
        self.hooks.after_step()


def _check(model: nn.Module) -> None:
    """Refuse a network that a loop of the user's cannot train in place."""
    for name, value in model.named_parameters():
        if not is_lazy(value) and value.is_inference():
            raise NetworkError(
                f"tensor {name} was made under torch.inference_mode, and cannot be changed or trained: build the "
                "network outside of it, or call compress(), which works on a copy"
            )
    names = computed(model)
    if names:
        raise NetworkError(
            f"{names[0]} is computed from other tensors (a parametrization, weight norm, a mask of torch's pruning): "
            "call deepcompress.bake(model) first, and make the optimizer after that"
        )
