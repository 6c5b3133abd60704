"""Training a sparse network from its initialization on, under masks that stay, or whose weights move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from deepcompress.errors import NetworkError, RecipeError
from deepcompress.layers import buffers_of, check_rules, compressible, live_tensors, tensors_of
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.regrow import RegrowingHooks, allot, grown
from deepcompress.prune.stage import next_masks
from deepcompress.recipe import Recipe
from deepcompress.training.data import DataSet
from deepcompress.training.dense import DenseSettings, Keep, train_dense
from deepcompress.training.loop import count_batches, seed_everything
from deepcompress.training.objective import Classification
from deepcompress.training.progress import Progress

#: The criterion that decides before any training where nobody names one, and nothing regrows.
CRITERION = "snip"
#: Random places, at densities that depend on the shapes of layers: see `erdos_renyi`.
RANDOM = "erdos-renyi"


def train_sparse(
    model: nn.Module,
    data: DataSet,
    settings: DenseSettings,
    recipe: Recipe,
    criterion: str | None,
    device: torch.device,
    watch: Progress | None = None,
    keep: Keep | None = None,
) -> Masks:
    """As `train_dense`, in place, but `recipe.prune` of the weights are zero from the first step to the last.

    Args:
        model, data, settings, device, watch, keep: as there.
        recipe: how much is pruned and where, what regrows, and the penalty on the weights.
        criterion: decides once, on training data and the initial weights, which weights there are, at first or for
            good. None takes `CRITERION`, or, where weights regrow, `RANDOM`.

    Returns:
        The masks at the end.

    Raises:
        NetworkError: there is nothing to prune.
        RecipeError: nothing would be left, a layer rule matches no layer, or regrowth is `surgery`, which needs cuts.
    """
    if recipe.regrow == "surgery":
        raise RecipeError(
            "regrow 'surgery' needs a network to cut again and again: train sparse with set, deepr or dsr"
        )
    watch, model = watch or Progress(), model.to(device)
    seed_everything(settings.seed)
    weights = _weights(model, recipe)
    loader = data.to(device).train_loader(settings.batch_size, settings.seed, 0, False)
    chosen = choice_of(recipe, criterion)
    recipe = replace(recipe, epochs=settings.epochs, seed=settings.seed)
    if chosen not in ("none", RANDOM):
        recipe = replace(recipe, criterion=chosen)
    evidence = Evidence(model, weights, Masks.full(weights), recipe, loader, Classification(settings.label_smoothing))
    masks = first_masks(evidence, chosen, watch)
    hooks = SparseHooks(model, weights, masks, recipe, count_batches(loader), watch)
    train_dense(model, data, settings, device, watch, hooks, keep)
    return hooks.masks


def choice_of(recipe: Recipe, criterion: str | None) -> str:
    """What chooses the first weights: the name of a criterion, `RANDOM`, or ``none``."""
    if criterion is None and not recipe.prunes:
        return "none"
    return criterion or (RANDOM if recipe.keeps_count else CRITERION)


def first_masks(evidence: Evidence, chosen: str, watch: Progress) -> Masks:
    """The masks before any training, by what `choice_of` has `chosen`."""
    if chosen == "none":
        return evidence.masks
    if chosen == RANDOM:
        return random_masks(evidence.weights, evidence.recipe)
    return next_masks(evidence, 1.0, [], watch)


class SparseHooks(RegrowingHooks):
    """Holds to the masks that it is given, and moves weights if the recipe says so."""

    changing = ()

    def __init__(
        self, model: nn.Module, weights: Mapping[str, torch.Tensor], masks: Masks, recipe: Recipe, steps: int,
        watch: Progress,
    ) -> None:  # fmt: skip
        """`steps`: batches of an epoch."""
        super().__init__(model, weights, recipe, steps)
        self.take(masks)
        self.settle(0, watch)

    def before_epoch(self, epoch: int) -> str:
        """The note for the epoch's report."""
        return f"{100 * self.masks.sparsity:.1f} % pruned" if epoch == 0 else self.regrown()


def erdos_renyi(weights: Mapping[str, torch.Tensor], recipe: Recipe) -> dict[str, int]:
    """How many weights each layer has: in proportion to the sum of its dimensions, which is its neurons (or filters).

    So the density of an n x m layer is epsilon * (n + m) / (n * m) (Mocanu et al. 2018), with the one
    epsilon that leaves what the recipe asks for; kernels count with their width and height (Evci et al. 2020, section
    3, the Erdos-Renyi kernel). A layer that would be more than full is full, a layer has one weight at least, and one
    with a fraction of its own has that.

    Raises:
        RecipeError: there are fewer weights than layers.
    """
    sizes = {name: weight.numel() for name, weight in weights.items()}
    fractions = {name: recipe.prune_of(name) for name in weights}
    fixed = {name: max(sizes[name] - round(own * sizes[name]), 1) for name, own in fractions.items() if own is not None}
    free = [name for name in weights if name not in fixed]
    total = sum(sizes.values())
    wanted = total - round(recipe.prune * total) - sum(fixed.values()) - len(free)
    room = [sizes[name] - 1 for name in free]
    if wanted < 0 or (wanted > sum(room) and fixed and free):
        raise RecipeError(
            f"prune is {recipe.prune}: of {total} weights, {max(wanted + len(free), 0)} would be left for {len(free)} "
            f"layers without a fraction of their own, which can have {len(free)} to {sum(room) + len(free)}"
        )
    more = allot([sum(weights[name].shape) for name in free], room, min(wanted, sum(room)))
    return fixed | {name: 1 + count for name, count in zip(free, more, strict=True)}


def random_masks(weights: Mapping[str, torch.Tensor], recipe: Recipe) -> Masks:
    """Masks that keep random weights, as many in each layer as `erdos_renyi` says."""
    counts = erdos_renyi(weights, recipe)
    empty = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    return Masks({name: grown(empty[name], counts[name]) for name in weights})


def _weights(model: nn.Module, recipe: Recipe) -> dict[str, torch.Tensor]:
    state = tensors_of(model)
    check_rules(recipe, compressible(state))
    layers = compressible(state, recipe, buffers_of(model))
    if not layers:
        raise NetworkError(f"{type(model).__name__} has nothing to prune: no parameter has two or more dimensions")
    tensors = live_tensors(model, state)
    return {layer.name: tensors[layer.name] for layer in layers}
