"""The lottery ticket: pruned networks that learn from where the dense one started (Frankle and Carbin 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.layers import buffers_of, check_finite, compressible, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.parametrized import bake
from deepcompress.prune.guard import Guard
from deepcompress.prune.masks import Masks
from deepcompress.prune.schedule import progress
from deepcompress.reading.fitting import fill
from deepcompress.recipe import Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run

State = Mapping[str, torch.Tensor]


def prune_and_rewind(run: Run, origin: State | None) -> Masks:
    """Find a ticket, in place: prune, send the survivors back to where they started, train them, and again.

    Each of the recipe's iterations asks the criterion about the trained network, rewinds all of it (biases and the
    statistics of batch norm, too), and trains it for all of `recipe.epochs`, with an optimizer and a learning rate
    schedule of its own: the survivors learn from the start again. With the schedule ``one-shot`` that happens once.

    `origin` are the tensors that it goes back to: see `rewind`. Validation data is only reported.

    Raises:
        RecipeError: the network cannot be drawn anew, if the recipe asks for that.
    """
    recipe, guard = run.recipe, Guard(run)
    steps = progress(recipe.schedule, recipe.iterations)
    if recipe.rewind == "random":
        _drawn(run.model)
    for number, step in enumerate(steps, 1):
        guard.hooks.cut(step)
        masks = guard.hooks.masks
        rewind(run.model, recipe, origin, number)
        guard.hooks.take(masks)
        guard.retrain(recipe.epochs)
        task, error = task_of(run.objective), ""
        if run.val_batches is not None:
            error = f", validation {task.says(evaluate(run.model, run.val_batches, task).value)}"
        run.watch.message(f"ticket {number} of {len(steps)}: {100 * masks.sparsity:.2f} % pruned{error}")
    return guard.hooks.masks


def rewind(model: nn.Module, recipe: Recipe, origin: State | None, number: int = 1) -> None:
    """Give the network the tensors of `origin`, or, where the recipe's rewind is ``random``, new ones, in place.

    Those are the control of Frankle and Carbin (2019, section 2): the structure that was found, without the values that
    it was found with. They are drawn by the recipe's seed and the `number` of the iteration.

    Raises:
        RecipeError: some cannot be drawn.
    """
    if recipe.rewind == "random":
        reinitialize(model, recipe.seed + number)
    else:
        assert origin is not None
        model.load_state_dict(origin, strict=False)  # extra states stay


def reinitialize(model: nn.Module, seed: int) -> None:
    """Draw all parameters anew, in place, as the modules do when they are made; other randomness is not touched.

    That is each module's own `reset_parameters`, those of outer modules last; batch norm forgets its statistics.

    Raises:
        RecipeError: a parameter is of a module that has no such method.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        for reset in _drawn(model):
            reset()


def _drawn(model: nn.Module) -> list[Callable[[], None]]:
    """The methods that draw all parameters anew, those of inner modules first.

    Raises:
        RecipeError: naming a parameter of one that cannot.
    """
    found = []
    for prefix, module in reversed(list(model.named_modules())):
        own = [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        reset = _reset(module)
        if reset is not None:
            found.append(reset)
        elif own:
            raise RecipeError(
                f"rewind 'random' resets parameters with reset_parameters() of their module, and {own[0]} belongs to a "
                f"{type(module).__name__}, which has no such method: add one, or rewind to a checkpoint"
            )
    return found


def _reset(module: nn.Module) -> Callable[[], None] | None:
    """The method that draws a module's parameters anew; that of MultiheadAttention has an underscore."""
    found = (getattr(module, name, None) for name in ("reset_parameters", "_reset_parameters"))
    return next((method for method in found if callable(method)), None)


def origin_of(model: nn.Module, recipe: Recipe, state: State | None) -> State | None:
    """The tensors that `model`, as the user has it, goes back to when it starts from `state`; it is not changed.

    None where the recipe goes back to none.

    Raises:
        RecipeError: there is a `state`, and the recipe does not rewind to it; or the other way around.
        NetworkError: it is of another network.
        CheckpointError: it has NaN or infinite values.
    """
    if (recipe.rewind == "start") != (state is not None):
        raise RecipeError(
            f"rewind is {recipe.rewind!r}, and weights to go back to are {'not ' if state is None else ''}given: "
            "rewind 'start' needs them, a state_dict (--rewind FILE.pt), and nothing else does"
        )
    if state is None:
        return None
    check_finite(state, compressible(state, recipe, buffers_of(model)))
    start = copied(model)
    fill(start, dict(state), "the start to rewind to")
    bake(start)
    return {name: value.detach().clone() for name, value in tensors_of(start).items()}
