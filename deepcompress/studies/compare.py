"""Criteria side by side: error against sparsity with and without retraining, time, and agreement with what is measured.

Every row starts from the dense weights. Validation data decides all; the test error stands beside and decides nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from deepcompress.compression.stages import ByFraction, Job
from deepcompress.compression.writing import layers_of
from deepcompress.errors import DeepCompressError, RecipeError, first_line
from deepcompress.layers import Layer, live_tensors, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.parametrized import plain
from deepcompress.prune.criteria.base import Evidence, Verdict, find, judge, with_groups
from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import connections
from deepcompress.prune.stage import prune_by, retrain_under
from deepcompress.recipe import LayerRule, Recipe, pattern_hint, stages
from deepcompress.recipe.uses import check_stages
from deepcompress.studies.points import ForPoint, pareto
from deepcompress.studies.sensitivity import ascending
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import seed_everything
from deepcompress.training.objective import objective_of
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import CLASSIFICATION

T = TypeVar("T")

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)

#: The criterion that measures what others estimate: what their scores are held against.
REFERENCE = stages.REFERENCE

#: What the row of the network as it came has in place of a criterion.
DENSE = "dense"


@dataclass(frozen=True)
class Compared:
    """The network pruned by one criterion, to one sparsity, with one seed.

    Attributes:
        criterion: its name; that of the first row is `DENSE`.
        seed: of everything that is drawn.
        retrained: whether it was retrained after or while it was pruned.
        prune, sparsity: the fraction of weights that was to be removed, and that was.
        val_error, test_error: in percent, of tasks that have them.
        val_loss: the mean on validation data, of a classifier cross entropy in nats.
        scoring_seconds: one judgement of all weights.
        seconds: pruning and retraining, without measuring; of several judgements, all.
        spearman: rank correlation of the criterion's scores of one layer with those of `REFERENCE`, from -1 to 1; None
            where all scores are equal.
        failure: why the criterion could not go on from here; then there are no numbers.
        metric, val_value, test_value: the task's, such as the error.
        higher_is_better: which way it goes.
    """

    criterion: str
    seed: int
    retrained: bool
    prune: float
    sparsity: float | None = None
    val_error: float | None = None
    val_loss: float | None = None
    test_error: float | None = None
    scoring_seconds: float | None = None
    seconds: float | None = None
    spearman: float | None = None
    failure: str = ""
    metric: str = CLASSIFICATION.metric
    val_value: float | None = None
    test_value: float | None = None
    higher_is_better: bool = False


@dataclass(frozen=True)
class Summary:
    """Rows that differ in the seed alone: means, deviations (of a sample; 0 where there is one seed), and extremes.

    What is called error is the metric of another task, where there is one. `front` says whether it is on the Pareto
    front of sparsity and validation error, by means, of those that are
    retrained or of those that are not. What was removed beyond what was asked does not count there.
    """

    criterion: str
    retrained: bool
    prune: float
    seeds: int
    sparsity: float
    val_error: float
    val_error_deviation: float
    val_error_least: float
    val_error_most: float
    test_error: float
    test_error_deviation: float
    front: bool = False


def compare(
    model: nn.Module,
    data: DataSet,
    criteria: Sequence[str],
    sparsities: Sequence[float] = SPARSITIES,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    watch: Progress | None = None,
) -> Iterator[Compared]:
    """Prune `model`, which is not changed, by each criterion to each sparsity, and measure it, retrained and not.

    Without retraining, all goes in one cut. Retraining starts from that cut where the recipe's schedule is ``one-shot``
    and it has no `max_drop` or regrowth; else the recipe's way is gone, from the dense weights on.

    Args:
        model: a trained network, on the device that measures it.
        data: on the same device.
        criteria: names, or a user's own functions (``file.py:function``).
        sparsities: fractions of all prunable weights to remove.
        recipe: all else about pruning and retraining; with no `epochs` there is none.
        seeds: all is done once with each.
        layer: name or pattern of the layer whose scores are compared with those of `REFERENCE`; the first of
            several. None takes the smallest, on which that criterion is most likely exact.
        watch: told what happens.

    Returns:
        Rows as they come, the dense network's first. A criterion that fails has a row that says why, and no more rows
        of that seed.

    Raises:
        RecipeError: a criterion is unknown, a sparsity or a pattern is wrong.
        CheckpointError: the network has no weights to prune, or NaN among them.
    """
    recipe = recipe or Recipe()
    check_stages(recipe, "criteria are compared in stages")
    if recipe.quality is not None or recipe.target_size is not None:
        raise RecipeError(
            "criteria are compared at fractions of the weights, and quality and target_size set other ends"
        )
    if recipe.searches:
        raise RecipeError(
            f"distribution {recipe.distribution!r} finds fractions by trials, and criteria are compared without: take "
            "distribution 'lamp' or 'uniform'"
        )
    for name in criteria:
        find(name)
    steps = ascending(sparsities)
    if not recipe.retrain:
        recipe = replace(recipe, retrain=True, epochs=0)
    if not criteria or not steps or not seeds:
        raise RecipeError("there is nothing to compare: give a criterion, a sparsity above 0, and a seed at least")
    model = plain(model)
    layers = layers_of(model, tensors_of(model), recipe)
    ranked = _ranked(layers, layer)
    return _rows(_Bench(model, data, layers, ranked, watch or Progress()), list(dict.fromkeys(criteria)), steps,
                 recipe, list(dict.fromkeys(seeds)))  # fmt: skip


def ranking_layer(model: nn.Module, recipe: Recipe, layer: str | None = None) -> str:
    """The name of the layer on which `compare` holds scores against each other."""
    model = plain(model)
    return _ranked(layers_of(model, tensors_of(model), recipe), layer).name


def _ranked(layers: Sequence[Layer], pattern: str | None) -> Layer:
    if pattern is None:
        return min(layers, key=lambda layer: layer.weights)
    for layer in layers:
        if LayerRule(pattern).matches(layer.name):
            return layer
    names = [layer.name for layer in layers]
    raise RecipeError(f"{pattern!r} matches no layer; there are {', '.join(names)}{pattern_hint(names)}")


def _rows(
    bench: _Bench, criteria: Sequence[str], steps: Sequence[float], recipe: Recipe, seeds: Sequence[int]
) -> Iterator[Compared]:
    yield bench.measured(bench.model, Compared(DENSE, seeds[0], False, 0.0, 0.0))
    for seed in seeds:
        # Without a fraction, criteria have no effect; and all are trained for as long.
        settings = replace(recipe, seed=seed, prune=steps[0], early_stop=False)
        measured = bench.reference(settings)
        for name in criteria:
            yield from bench.trials(replace(settings, criterion=name), steps, measured)
            bench.watch.message(f"{name}, seed {seed}: done")


class _Bench:
    """What all rows share."""

    def __init__(
        self, model: nn.Module, data: DataSet, layers: Sequence[Layer], ranked: Layer, watch: Progress
    ) -> None:
        self.model, self.data, self.layers, self.ranked, self.watch = model, data, layers, ranked, watch

    def evidence(self, recipe: Recipe) -> Evidence:
        """A copy of the dense network, with training data that starts anew, so that no row depends on another."""
        seed_everything(recipe.seed)
        work = copied(self.model)
        tensors = live_tensors(work, tensors_of(work))
        weights = {layer.name: tensors[layer.name] for layer in self.layers}
        train = self.data.train_loader(recipe.batch_size, recipe.seed, recipe.shift, recipe.flip)
        return Evidence(
            work, weights, Masks.nonzero(weights), recipe, train, objective_of(recipe, work, self.data.task)
        )

    def reference(self, recipe: Recipe) -> torch.Tensor:
        """The scores of `REFERENCE` on the one layer."""
        evidence = self.evidence(replace(recipe, criterion=REFERENCE))
        name = self.ranked.name
        self.watch.message(f"{REFERENCE} in {name}, seed {recipe.seed}: measuring")
        return judge(replace(evidence, weights={name: evidence.weights[name]})).scores[name]

    def trials(self, recipe: Recipe, steps: Sequence[float], measured: torch.Tensor) -> Iterator[Compared]:
        """All rows of one criterion with one seed."""
        verdict: Verdict | None = None
        step = steps[0]
        try:
            for step in steps:
                trial = replace(recipe, prune=step)
                evidence = with_groups(self.evidence(trial.changed(schedule="one-shot", max_drop=None)))
                if verdict is None or verdict.correct is not None:  # what corrects weights does it to those it has seen
                    fresh, seconds = _timed(lambda: judge(evidence))  # noqa: B023
                    verdict, rho = fresh, spearman(fresh.scores[self.ranked.name], measured)
                    for note in fresh.notes:
                        self.watch.message(f"{recipe.criterion}: {note}")
                yield from self._trial(evidence, verdict, trial, Compared(
                    recipe.criterion, recipe.seed, False, step, scoring_seconds=round(seconds, 4), spearman=rho,
                ))  # fmt: skip
        except (DeepCompressError, RuntimeError, MemoryError) as error:  # torch's word for too little memory too
            reason = first_line(error)
            self.watch.message(f"{recipe.criterion}, {100 * step:g} %: {reason}")
            yield Compared(recipe.criterion, recipe.seed, False, step, failure=reason)

    def _trial(self, evidence: Evidence, verdict: Verdict, recipe: Recipe, row: Compared) -> Iterator[Compared]:
        """The row of the cut, and that of what retraining makes of it."""
        assert row.scoring_seconds is not None
        watch = ForPoint(f"{recipe.criterion} {100 * recipe.prune:g} %", self.watch)
        masks, seconds = _timed(lambda: prune_by(verdict, evidence, connections(evidence.model), watch))
        seconds += row.scoring_seconds
        yield self.measured(evidence.model, replace(row, sparsity=masks.sparsity, seconds=round(seconds, 3)))
        if not recipe.epochs:
            return
        plain = recipe.schedule == "one-shot" and recipe.max_drop is None
        if plain and recipe.regrow == "none" and recipe.rewind == "none":
            run = Run(evidence.model, evidence.weights, evidence.batches, recipe, None, watch, evidence.objective)
            _, more = _timed(lambda: retrain_under(run, masks, evidence.groups))
            model, seconds = evidence.model, seconds + more
        else:
            anew = self.evidence(recipe)
            run = Run(anew.model, anew.weights, anew.batches, recipe, self.data.val_loader(), watch, anew.objective)
            route = ByFraction(Job(run, self.layers))
            _, seconds = _timed(route.prune)
            model, masks = anew.model, route.masks
        yield self.measured(model, replace(row, retrained=True, sparsity=masks.sparsity, seconds=round(seconds, 3)))

    def measured(self, model: nn.Module, row: Compared) -> Compared:
        """The row with its errors."""
        task = self.data.task
        val, test = (evaluate(model, loader, task) for loader in (self.data.val_loader(), self.data.test_loader()))
        return replace(
            row,
            val_error=val.error,
            val_loss=val.loss if math.isfinite(val.loss) else None,
            test_error=test.error,
            metric=task.metric,
            val_value=val.value,
            test_value=test.value,
            higher_is_better=task.higher_is_better,
        )


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What comes of it, and the seconds that it took."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def spearman(scores: torch.Tensor, others: torch.Tensor) -> float | None:
    """Spearman's rank correlation of two tensors of one shape: that of their ranks, equal values sharing the mean one.

    None where there is no order: all values of one of them are equal.
    """
    one, other = (_ranks(values) for values in (scores, others))
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale else None


def _ranks(values: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Places in ascending order, less their mean."""
    _, place, count = np.unique(values.detach().cpu().double().numpy(), return_inverse=True, return_counts=True)
    ranks: np.ndarray[Any, np.dtype[np.float64]] = (count.cumsum() - (count - 1) / 2)[place.reshape(-1)]
    ranks -= ranks.mean()
    return ranks


def summarize(rows: Sequence[Compared]) -> list[Summary]:
    """The rows of `compare`, but for failures and the dense one's, by criterion and sparsity, over all seeds."""
    groups: dict[tuple[str, bool, float], list[Compared]] = {}
    for row in rows:
        if not row.failure and row.criterion != DENSE:
            groups.setdefault((row.criterion, row.retrained, row.prune), []).append(row)
    found = [_summary(*key, same) for key, same in groups.items()]
    best = set()
    for retrained in (False, True):
        part = [index for index, summary in enumerate(found) if summary.retrained is retrained]
        sign = -1 if any(row.higher_is_better for row in rows) else 1
        front = pareto(
            [(1 - min(found[index].sparsity, found[index].prune), sign * found[index].val_error) for index in part]
        )
        best |= {part[place] for place in front}
    return [replace(summary, front=index in best) for index, summary in enumerate(found)]


def _summary(criterion: str, retrained: bool, prune: float, rows: Sequence[Compared]) -> Summary:
    source = {"sparsity": "sparsity", "val_error": "val_value", "test_error": "test_value"}
    numbers = {name: [float(getattr(row, field)) for row in rows] for name, field in source.items()}
    spread = {name: stdev(values) if len(values) > 1 else 0.0 for name, values in numbers.items()}
    mean = {name: fmean(values) for name, values in numbers.items()}
    return Summary(
        criterion=criterion,
        retrained=retrained,
        prune=prune,
        seeds=len(rows),
        sparsity=mean["sparsity"],
        val_error=mean["val_error"],
        val_error_deviation=spread["val_error"],
        val_error_least=min(numbers["val_error"]),
        val_error_most=max(numbers["val_error"]),
        test_error=mean["test_error"],
        test_error_deviation=spread["test_error"],
    )
