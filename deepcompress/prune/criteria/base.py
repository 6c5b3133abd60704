"""What a criterion is, where all are kept by name, and how one is asked.

A criterion is a function from the evidence (a network, the weights in question, some batches) to one score for each
weight: the higher, the more worth keeping. `criterion` puts it in the table; everything after the scores, from the cut
to the file, is the same for all.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Batches
from deepcompress.training.objective import Objective, cross_entropy

Scores = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at; it leaves all of it as it was, but for gradients, which are gone afterwards.

    Attributes:
        model: the network, on its device.
        weights: those of its tensors that are pruned, by fully qualified name.
        masks: which of them are still there; the others are zero.
        recipe: all settings; `score_samples` of the training data should be enough for any criterion.
        batches: training data (input, label), or None: see `samples`.
        objective: the loss of a batch, as retraining minimizes it.
    """

    model: nn.Module
    weights: Mapping[str, torch.Tensor]
    masks: Masks
    recipe: Recipe
    batches: Batches | None = None
    objective: Objective = cross_entropy


@dataclass(frozen=True)
class Verdict:
    """Scores, and by choice what is to be done to the survivors once it is decided who they are.

    Attributes:
        scores: for each weight tensor one of its shape, any floating-point dtype, finite.
        correct: called with the masks that were decided on, before pruned weights become zero: moves the weights that
            are kept, in place.
    """

    scores: Scores
    correct: Callable[[Masks], None] | None = None


Judge = Callable[[Evidence], Scores | Verdict]


@dataclass(frozen=True)
class Criterion:
    """A function that judges, and the scope in which its scores are compared where the recipe names none.

    `scope` is ``global`` where scores of different layers mean the same, such as estimates of loss, else ``layer``.
    """

    judge: Judge
    scope: str


CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, scope: str = "global") -> Callable[[Judge], Judge]:
    """Decorator that makes a function known as the criterion `name`: to recipes, and so to everything.

    Raises:
        ValueError: the name is taken by another function, or the scope is none.
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope of criterion {name!r} is {scope!r}; it must be 'layer' or 'global'")

    def register(judge: Judge) -> Judge:
        known = CRITERIA.get(name)
        if known is not None and known.judge.__qualname__ != judge.__qualname__:
            raise ValueError(f"there is a criterion {name!r} already: {known.judge.__qualname__}")
        CRITERIA[name] = Criterion(judge, scope)
        return judge

    return register


def find(name: str) -> Criterion:
    """The criterion called `name`, or the function that ``file.py:function`` names: only a person may name a file.

    Raises:
        RecipeError: there is none, or the user's file is missing or fails.
    """
    path, colon, function = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        if name not in CRITERIA:
            known = ", ".join(CRITERIA)
            raise RecipeError(f"criterion is {name!r}; allowed are {known}, or your own: file.py:function")
        return CRITERIA[name]
    if not Path(path).is_file():
        raise RecipeError(f"criterion {name}: the file {path} does not exist")
    try:
        judge = runpy.run_path(path).get(function)
    except Exception as error:  # it is the user's code
        raise RecipeError(f"criterion {name}: {path} fails with {type(error).__name__}: {error}") from error
    if not callable(judge):
        raise RecipeError(f"criterion {name}: {path} defines no function named {function!r}")
    return Criterion(judge, "global")


def judge(evidence: Evidence) -> Verdict:
    """Ask the recipe's criterion, and make its scores fit for a cut, in which only their order counts.

    They come out as non-negative float32 tensors: where some are negative, all are raised by the lowest. A weight that
    is pruned already scores 0, and one that is not scores more.

    Raises:
        RecipeError: the criterion is unknown, or returns no finite score for each weight.
    """
    name = evidence.recipe.criterion
    found = find(name).judge(evidence)
    verdict = found if isinstance(found, Verdict) else Verdict(found)
    return replace(verdict, scores=_fit_for_a_cut(name, verdict.scores, evidence))


@torch.no_grad()
def _fit_for_a_cut(name: str, scores: Scores, evidence: Evidence) -> Scores:
    lowest = 0.0
    for layer, weight in evidence.weights.items():
        if layer not in scores:
            raise RecipeError(f"criterion {name}: there are no scores for {layer}")
        values = scores[layer]
        if values.shape != weight.shape:
            raise RecipeError(
                f"criterion {name}: the scores of {layer} have shape {tuple(values.shape)}, not {tuple(weight.shape)}"
            )
        alive = values[evidence.masks.keep[layer]]
        if not bool(torch.isfinite(alive).all()):
            raise RecipeError(f"criterion {name}: scores of {layer} are NaN or infinite")
        lowest = min(lowest, float(alive.min()) if alive.numel() else 0.0)
    tiny = torch.finfo(torch.float32).tiny
    return {
        layer: (scores[layer].detach() - lowest).float().clamp_min(tiny).masked_fill(~evidence.masks.keep[layer], 0.0)
        for layer in evidence.weights
    }


def samples(evidence: Evidence) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The first `score_samples` of the training data in batches (input, label), on the network's device.

    Raises:
        RecipeError: there is no training data.
    """
    if evidence.batches is None:
        raise RecipeError(f"criterion {evidence.recipe.criterion} needs training data, and here is none")
    device, left = next(evidence.model.parameters()).device, evidence.recipe.score_samples
    for x, y in evidence.batches:
        yield x[:left].to(device), y[:left].to(device)
        left -= min(len(y), left)
        if not left:
            return
