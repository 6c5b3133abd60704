"""How much each layer minds being pruned: one at a time, everything else as it was (Han et al. 2015, figure 6)."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.layers import Layer, check_finite, check_rules, compressible, live_tensors, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import Batches
from deepcompress.networks.parametrized import plain
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune, prune_and_retrain
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.recipe.uses import check_stages
from deepcompress.training.batches import as_pairs
from deepcompress.training.check import settle
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import seed_everything
from deepcompress.training.objective import objective_of
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import Task

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class LayerPruned:
    """The network with one layer pruned.

    `weights` are those of the layer, `sparsity` the fraction of them that was removed (exactly, so not quite what was
    asked for), `error` that of the network in percent, if its task has one, `loss` the mean (of a classifier, cross
    entropy in nats), and `value` that of the task's metric.
    """

    layer: str
    weights: int
    sparsity: float
    error: float | None
    loss: float
    value: float


def sensitivity(
    model: nn.Module,
    val_loader: Batches,
    sparsities: Sequence[float] = SPARSITIES,
    train_loader: Batches | None = None,
    recipe: Recipe | None = None,
    layers: Iterable[str] | None = None,
    watch: Progress | None = None,
    task: str | Task | None = None,
) -> list[LayerPruned]:
    """Prune one layer at a time, each time from the weights of `model`, which is not changed, and measure the network.

    Args:
        model: a trained network, on the device that measures it.
        val_loader: batches (input, label) to measure on. Not the test data: settings are chosen by what comes out.
        sparsities: fractions of a layer to remove, 0 <= fraction < 1. A layer keeps one weight at least. 0 is always
            among them: the network as it came, for reference.
        train_loader: batches to retrain on for `recipe.epochs` (0: none) after each cut, pruned weights held at zero,
            and for a criterion to look at; None: no retraining, and only criteria that need no data. If it has a random
            generator of its own, that is set back for each cut, so that no row depends on the rows before it.
        recipe: the criterion, and the settings of retraining; the others have no effect.
        layers: patterns of names, as in `LayerRule`; None: all layers that the pipeline would prune.
        watch: told what happens.
        task: as in `pipeline.compress`.

    Returns:
        Layer by layer in the network's order, from sparsity 0 upwards.

    Raises:
        RecipeError: a sparsity is no such fraction, a pattern matches no layer, or the criterion needs training data.
        CheckpointError: the network has no weights to prune, or NaN among them.
        DeepCompressError: retraining diverges.
    """
    recipe, watch = recipe or Recipe(), watch or Progress()
    check_stages(recipe, "layers are pruned here one at a time")
    if not recipe.retrain:
        recipe = replace(recipe, retrain=True, epochs=0)
    steps, model = ascending(sparsities), plain(model)
    state = tensors_of(model)
    chosen = _chosen(compressible(state), layers)
    check_finite(state, chosen)
    val_loader = as_pairs(val_loader, "validation data")
    train_loader = None if train_loader is None else as_pairs(train_loader, "training data")
    rewind = _rewinder(train_loader)
    known = settle(model, [val_loader], task)
    dense = evaluate(model, val_loader, known)
    rows = []
    for number, layer in enumerate(chosen, 1):
        rows.append(LayerPruned(layer.name, layer.weights, 0.0, dense.error, dense.loss, dense.value))
        for step in steps:
            rewind()
            work = copied(model)
            removed = layer.weights - _cut(work, layer.name, step, train_loader, recipe, watch, known).kept(layer.name)
            found = evaluate(work, val_loader, known)
            removed_part = removed / layer.weights
            rows.append(LayerPruned(layer.name, layer.weights, removed_part, found.error, found.loss, found.value))
        watch.message(f"{layer.name} ({number} of {len(chosen)}): {known.says(rows[-1].value)} without "
                      f"{100 * rows[-1].sparsity:.4g} % of its weights")  # fmt: skip
    return rows


def ascending(sparsities: Sequence[float]) -> list[float]:
    """The sparsities above 0, each once.

    Raises:
        RecipeError: one is not a fraction to prune.
    """
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise RecipeError(f"sparsity {sparsity} is not a fraction to prune; it must be at least 0 and below 1")
    return sorted({float(sparsity) for sparsity in sparsities} - {0.0})


def _chosen(layers: list[Layer], patterns: Iterable[str] | None) -> list[Layer]:
    if not layers:
        raise CheckpointError("there is nothing to prune: no floating-point tensor has two or more dimensions")
    if patterns is None:
        return layers
    rules = tuple(LayerRule(pattern) for pattern in patterns)
    check_rules(Recipe(layers=rules), layers)
    return [layer for layer in layers if any(rule.matches(layer.name) for rule in rules)]


def _rewinder(batches: Batches | None) -> Callable[[], object]:
    """What sets the random generator of a loader, if it has one, back to where it is now."""
    generator = getattr(batches, "generator", None)
    if not isinstance(generator, torch.Generator):
        return lambda: None
    return partial(generator.set_state, generator.get_state())


def _cut(
    model: nn.Module, name: str, sparsity: float, batches: Batches | None, recipe: Recipe, watch: Progress, task: Task
) -> Masks:
    """Prune the one layer in place, and retrain the network if there are batches to do it with."""
    rule = LayerRule(glob.escape(name), prune=sparsity)
    recipe = recipe.changed(schedule="one-shot", layers=(rule,))
    weights = {name: live_tensors(model, tensors_of(model))[name]}
    if batches is None:
        return prune(Evidence(model, weights, Masks.full(weights), recipe), watch=watch)
    objective = objective_of(recipe, model, task)
    seed_everything(recipe.seed)
    return prune_and_retrain(Run(model, weights, batches, recipe, watch=watch, objective=objective))
