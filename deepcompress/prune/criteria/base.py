"""What a criterion is, where all are kept by name, and how one is asked.

A criterion is a function from the evidence (a network, the weights in question, some batches) to one score for each
weight: the higher, the more worth keeping. `criterion` puts it in the table; everything after the scores, from the cut
to the file, is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from deepcompress import usercode
from deepcompress.errors import DataError, PruneError, RecipeError
from deepcompress.networks.inputs import Batches, count_samples, rows, to_device
from deepcompress.prune.blocks import blocks
from deepcompress.prune.coupling import channels
from deepcompress.prune.masks import Masks
from deepcompress.prune.units import Group
from deepcompress.recipe import Recipe
from deepcompress.training.objective import Objective, cross_entropy
from deepcompress.training.retraining import Run

Scores = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at. It leaves all of it unchanged, except that gradients are removed.

    Attributes:
        model: the network, on its device.
        weights: those of its tensors that are pruned, by fully qualified name.
        masks: which of them are still there; the others are zero.
        recipe: all settings; `score_samples` of the training data should be enough for any criterion.
        batches: training data (input, label), or None: see `samples`.
        objective: the loss of a batch, as retraining minimizes it.
        groups: for criteria of whole units, those that can go: see `with_groups`.
    """

    model: nn.Module
    weights: Mapping[str, torch.Tensor]
    masks: Masks
    recipe: Recipe
    batches: Batches | None = None
    objective: Objective = cross_entropy
    groups: tuple[Group, ...] = ()

    @classmethod
    def of(cls, run: Run) -> Evidence:
        """What there is of a run before anything more is pruned."""
        return cls(run.model, run.weights, Masks.nonzero(run.weights), run.recipe, run.batches, run.objective)


@dataclass(frozen=True)
class Verdict:
    """Scores, and by choice what is to be done to the survivors once it is decided who they are.

    Attributes:
        scores: for each weight tensor one of its shape, any floating-point dtype, finite.
        correct: called with the masks that were decided on, before pruned weights become zero: moves the weights that
            are kept, in place.
        notes: what the user should know of them, one line each.
    """

    scores: Scores
    correct: Callable[[Masks], None] | None = None
    notes: tuple[str, ...] = ()


Judge = Callable[[Evidence], Scores | Verdict]


@dataclass(frozen=True)
class Criterion:
    """A function that judges, and the scope in which its scores are compared where the recipe names none.

    `scope` is ``global`` where scores of different layers mean the same, such as estimates of loss, else ``layer``.
    `units` says of a structured criterion what goes as a whole: one of `STRUCTURES`. All weights of a row then have one
    score; None cuts single weights. `local`: what it says holds near the weights only, so that even without retraining
    it is to be asked again at each of the recipe's iterations.
    """

    judge: Judge
    scope: str
    units: str | None = None
    local: bool = False


CRITERIA: dict[str, Criterion] = {}

#: What can go as a whole, and the functions that find it in a network (model, weights, example of an input).
STRUCTURES: dict[str, Callable[[nn.Module, Mapping[str, torch.Tensor], Any], list[Group]]] = {
    "channels": channels,
    "blocks": blocks,
}


def criterion(
    name: str, scope: str = "global", units: str | None = None, local: bool = False
) -> Callable[[Judge], Judge]:
    """Decorator that makes a function known as the criterion `name`: to recipes, and so to everything.

    The other arguments are as in `Criterion`.

    Raises:
        ValueError: the name is taken by another function, or the scope is none.
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope of criterion {name!r} is {scope!r}; it must be 'layer' or 'global'")

    def register(judge: Judge) -> Judge:
        known = CRITERIA.get(name)
        if known is not None and known.judge.__qualname__ != judge.__qualname__:
            raise ValueError(f"there is a criterion {name!r} already: {known.judge.__qualname__}")
        CRITERIA[name] = Criterion(judge, scope, units, local)
        return judge

    return register


def find(name: str) -> Criterion:
    """The criterion called `name`, or the function that ``file.py:function`` names: only a person may name a file.

    Raises:
        RecipeError: there is none, or the user's file is missing or fails.
    """
    if not usercode.names_code(name):
        if name not in CRITERIA:
            known = ", ".join(CRITERIA)
            raise RecipeError(f"criterion is {name!r}; allowed are {known}, or your own: file.py:function")
        return CRITERIA[name]
    judge = usercode.find(name, "criterion", RecipeError)
    registered = (known for known in CRITERIA.values() if known.judge is usercode.original(judge))
    return replace(next(registered, Criterion(judge, "global")), judge=judge)


def judge(evidence: Evidence) -> Verdict:
    """Ask the recipe's criterion, and make its scores fit for a cut, in which only their order counts.

    They come out as non-negative float32 tensors: where some are negative, as their ranks in the whole network. A
    weight that is pruned already scores 0, and one that is not scores more.

    Raises:
        RecipeError: the criterion is unknown, or returns no finite score for each weight.
    """
    name, evidence = evidence.recipe.criterion, with_groups(evidence)
    found = find(name).judge(evidence)
    verdict = found if isinstance(found, Verdict) else Verdict(found)
    return replace(verdict, scores=_fit_for_a_cut(name, verdict.scores, evidence))


def with_groups(evidence: Evidence) -> Evidence:
    """The evidence with the groups of units that its criterion removes, if it is a structured one.

    Raises:
        RecipeError: there is no training data to run the network on, or a setting is of single weights.
        DeepCompressError: the units cannot be found.
        PruneError: there are none.
    """
    units = find(evidence.recipe.criterion).units
    if units is None or evidence.groups:
        return evidence
    if evidence.recipe.regrow != "none":
        raise RecipeError(
            f"criterion {evidence.recipe.criterion} removes whole units, and regrow {evidence.recipe.regrow!r} brings "
            "single weights back: choose one"
        )
    if evidence.recipe.schedule == "circular":
        raise RecipeError(
            f"criterion {evidence.recipe.criterion} removes whole units, which reach into the next layer, and schedule "
            "'circular' prunes one layer alone: choose one"
        )
    example = rows(next(samples(evidence))[0], 0, 2)
    groups = tuple(STRUCTURES[units](evidence.model, evidence.weights, example))
    if not groups:
        raise PruneError(
            f"criterion {evidence.recipe.criterion} removes whole units, and it found no unit in this network that can "
            "be removed safely"
        )
    return replace(evidence, groups=groups)


@torch.no_grad()
def _fit_for_a_cut(name: str, scores: Scores, evidence: Evidence) -> Scores:
    keep, signed = evidence.masks.keep, False
    for layer, weight in evidence.weights.items():
        if layer not in scores:
            raise RecipeError(f"criterion {name}: there are no scores for {layer}")
        values = scores[layer]
        if values.shape != weight.shape:
            raise RecipeError(
                f"criterion {name}: the scores of {layer} have shape {tuple(values.shape)}, not {tuple(weight.shape)}"
            )
        alive = values[keep[layer]]
        if not bool(torch.isfinite(alive).all()):
            raise RecipeError(f"criterion {name}: scores of {layer} are NaN or infinite")
        signed = signed or bool((alive < 0).any())
    fit = {layer: scores[layer].detach() for layer in evidence.weights}
    if signed:
        fit = _ranks(fit, evidence.masks)
    tiny = torch.finfo(torch.float32).tiny
    return {layer: value.float().clamp_min(tiny).masked_fill(~keep[layer], 0.0) for layer, value in fit.items()}


def _ranks(scores: Scores, masks: Masks) -> dict[str, torch.Tensor]:
    """Places from 1 among the scores of all weights that are there; equal scores share one.

    To raise all by the lowest would be simpler, but rounds away what tells small scores apart.
    """
    alive = torch.cat([scores[layer][masks.keep[layer]].double() for layer in scores])
    _, place = torch.unique(alive, return_inverse=True)
    sizes = [masks.kept(layer) for layer in scores]
    parts = zip(scores.items(), place.split(sizes), strict=True)
    return {
        layer: torch.zeros_like(value, dtype=torch.float32).masked_scatter_(masks.keep[layer], 1.0 + part)
        for (layer, value), part in parts
    }


def samples(evidence: Evidence) -> Iterator[tuple[Any, Any]]:
    """The first `score_samples` of the training data in batches (input, target), on the network's device.

    Raises:
        RecipeError: there is no training data.
        DataError: it has no samples.
    """
    name = evidence.recipe.criterion
    if evidence.batches is None:
        raise RecipeError(
            f"criterion {name} looks at training data, and without retraining there is none: to have it looked at, but "
            "nothing trained, set epochs and finetune_epochs to 0 (--epochs 0 --finetune-epochs 0)"
        )
    device, left = next(evidence.model.parameters()).device, evidence.recipe.score_samples
    for x, y in evidence.batches:
        yield to_device(rows(x, 0, left), device), to_device(rows(y, 0, left), device)
        left -= min(count_samples(y), left)
        if not left:
            return
    if left == evidence.recipe.score_samples:
        raise DataError(f"criterion {name} looks at samples of the training data, and it has none")
