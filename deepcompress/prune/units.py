"""Units: what structured pruning removes as a whole, be it a neuron, a filter, or a residual block.

A `Group` says which rows of which tensors belong to which unit, and so which go together. The cut is the one of
single weights (`prune.masks`) with units in their place: the same scores, scales and fractions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from deepcompress.errors import RecipeError
from deepcompress.prune.masks import Masks
from deepcompress.prune.scores import Profile, deviation, scale_of
from deepcompress.recipe import Recipe

Array = np.ndarray[Any, np.dtype[Any]]
Places = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Group:
    """Some units, and where in the network's tensors each of them is.

    All maps are from the fully qualified name of a tensor to int64 numbers on the CPU, -1 for what belongs to none of
    these units.

    Attributes:
        count: how many units.
        rows: of weight tensors, the unit that each row (neuron, filter) computes.
        columns: of weight tensors, the unit that each input (second dimension) reads.
        vectors: of tensors of one dimension (bias; scale, shift and statistics of batch norm), the unit of each entry.
        whole: whether all units may go, which are alternatives to an identity.
    """

    count: int
    rows: Places
    columns: Places = field(default_factory=dict)
    vectors: Places = field(default_factory=dict)
    whole: bool = False

    def kept(self, masks: Masks) -> torch.Tensor:
        """Which units have a row left, by the masks; bool."""
        alive = torch.zeros(self.count + 1, dtype=torch.bool)
        for name, units in self.rows.items():
            alive[units[masks.keep[name].flatten(1).any(dim=1).cpu()]] = True
        return alive[: self.count]

    def without(self, masks: Masks, gone: torch.Tensor) -> Masks:
        """The masks without the units that are `gone` (bool): their rows, and what reads them."""
        keep = dict(masks.keep)
        for name, units in self.rows.items():
            row = _at(gone, units).to(keep[name].device)
            keep[name] = keep[name] & ~row.reshape(-1, *[1] * (keep[name].ndim - 1))
        for name, units in self.columns.items():
            column = _at(gone, units).to(keep[name].device)
            keep[name] = keep[name] & ~column.reshape(1, -1, *[1] * (keep[name].ndim - 2))
        return Masks(keep)

    def weights(self, shapes: Mapping[str, torch.Size]) -> Array:
        """How many weights each unit has, those that read it included; int64."""
        total = torch.zeros(self.count + 1, dtype=torch.int64)
        for places, dimension in ((self.rows, 0), (self.columns, 1)):
            for name, units in places.items():
                each = shapes[name].numel() // shapes[name][dimension]
                total.index_add_(0, units.remainder(self.count + 1), torch.full_like(units, each))
        counts: Array = total[: self.count].numpy()
        return counts


def _at(of_unit: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """What each of `units` has; False for those that are none."""
    return torch.cat([of_unit, of_unit.new_zeros(1)])[units]


@torch.no_grad()
def cut_units(
    scores: Mapping[str, torch.Tensor],
    groups: Sequence[Group],
    before: Masks,
    recipe: Recipe,
    progress: float = 1.0,
    scope: str = "layer",
    held: Collection[str] = (),
) -> Masks:
    """Decide which units stay, `progress` (0..1) of the way to the recipe's sparsity.

    As in `masks.cut`, the fraction is one of all prunable weights. A unit takes the weights that read it along, so the
    lowest-scored units go as long as what is gone altogether is no more than the fraction: it is met from below, to
    within one unit. Groups with a layer rule lose that fraction of their units. The best unit of each group stays,
    unless the group says that all may go.

    Args:
        scores: for each weight tensor one of its shape. A row's score is its highest (what is pruned already scores
            0), and a unit's the mean of its rows in all layers.
        groups: disjoint in their rows.
        before: weights that are gone already; those stay gone.
        recipe: how much goes, and how it is spread over the groups.
        progress: how far on the way.
        scope: where the recipe names none.
        held: names of tensors that must lose no more than they have: groups that are in these stay as they are.

    Raises:
        RecipeError: whole units do not hold so many weights.
    """
    shapes = {name: mask.shape for name, mask in before.keep.items()}
    ranked = [_ranked(_scores_of_units(scores, group), group.weights(shapes)) for group in groups]
    scale = scale_of(recipe, scope)
    scaled = [scale(profile.levels, profile.counts) for _, profile in ranked]
    gone = [np.zeros(group.count, dtype=bool) for group in groups]
    free: list[tuple[float, int, int]] = []
    for number, group in enumerate(groups):
        order, most = ranked[number][0], group.count if group.whole else group.count - 1
        own = _own_fraction(recipe, group)
        if own is not None:
            gone[number][order[: min(round(own * progress * group.count), most)]] = True
        else:
            free += [(float(scaled[number][rank]), number, int(order[rank])) for rank in range(most)]
    free.sort(key=lambda entry: entry[0])
    if recipe.quality is not None:
        threshold = recipe.quality * progress
        if (recipe.scope or scope) == "global":
            threshold *= deviation(profile for _, profile in ranked)
        last = sum(1 for score, *_ in free if score < threshold)
    else:
        last = _how_many(free, groups, gone, before, recipe, progress)
    for _, number, unit in free[:last]:
        gone[number][unit] = True
    for number, group in enumerate(groups):
        if not {*group.rows, *group.columns}.isdisjoint(held):
            gone[number] = (~group.kept(before)).numpy()
    return _without(before, groups, gone)


def _scores_of_units(scores: Mapping[str, torch.Tensor], group: Group) -> Array:
    """The mean over all layers of what the rows of each unit score; float32."""
    total, rows = torch.zeros(group.count + 1, dtype=torch.float64), torch.zeros(group.count + 1)
    for name, units in group.rows.items():
        places = units.remainder(group.count + 1)  # what is none of the units comes last, and is dropped
        total.index_add_(0, places, scores[name].flatten(1).amax(dim=1).double().cpu())
        rows.index_add_(0, places, torch.ones(len(units)))
    found: Array = (total / rows.clamp_min(1))[: group.count].float().numpy()
    return found


def _ranked(scores: Array, counts: Array) -> tuple[Array, Profile]:
    """The units from the lowest score on, ties by position, and the profile of their scores."""
    order = np.argsort(scores, kind="stable")
    return order, Profile(scores[order], counts[order])


def _own_fraction(recipe: Recipe, group: Group) -> float | None:
    fractions = [recipe.prune_of(name) for name in group.rows]
    return next((fraction for fraction in fractions if fraction is not None), None)


def _without(masks: Masks, groups: Sequence[Group], gone: Sequence[Array]) -> Masks:
    for group, units in zip(groups, gone, strict=True):
        masks = group.without(masks, torch.from_numpy(units))
    return masks


def _how_many(
    free: Sequence[tuple[float, int, int]],
    groups: Sequence[Group],
    gone: Sequence[Array],
    before: Masks,
    recipe: Recipe,
    progress: float,
) -> int:
    """The most of the `free` units, in their order, with which no more weights are gone than the recipe says."""
    total = sum(mask.numel() for mask in before.keep.values())

    def lost(count: int) -> int:
        trial = [units.copy() for units in gone]
        for _, number, unit in free[:count]:
            trial[number][unit] = True
        masks = _without(before, groups, trial)
        return total - sum(map(masks.kept, masks.keep))

    all_lost = lost(len(free))
    if all_lost < round(recipe.prune * total) and free:
        raise RecipeError(
            f"prune is {recipe.prune}, but the units that can go have only {all_lost} of {total} weights "
            f"({100 * all_lost / total:.1f} %): prune no more than that, or take a criterion of single weights"
        )
    wanted, low, high = round(recipe.prune * progress * total), 0, len(free)
    while low < high:  # the most that is not too many
        middle = (low + high + 1) // 2
        low, high = (middle, high) if lost(middle) <= wanted else (low, middle - 1)
    return low


def silenced(
    groups: Sequence[Group], masks: Masks, tensors: Mapping[str, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors with biases and batch norm of units that are gone, and which of their entries: those must be zero.

    A unit whose weights are zero and that has none of these is exactly zero before its activation, whatever comes in.
    """
    found = []
    for group in groups:
        gone = ~group.kept(masks)
        for name, units in group.vectors.items():
            entries = _at(gone, units)
            if name in tensors and bool(entries.any()):  # a network may give it another name there
                found.append((tensors[name], entries.to(tensors[name].device)))
    return found


@torch.no_grad()
def silence_units(silent: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set what `silenced` found to zero, in place."""
    for tensor, entries in silent:
        tensor.masked_fill_(entries, 0)


def may_be_empty(groups: Sequence[Group]) -> set[str]:
    """Names of the layers of which nothing need be left: those of groups that may go as a whole."""
    return {name for group in groups if group.whole for name in group.rows}
