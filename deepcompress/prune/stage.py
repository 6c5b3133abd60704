"""Stage 1 as a whole: prune, and retrain what is left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from deepcompress.prune.budget import BudgetHooks, Curvature, Refine
from deepcompress.prune.criteria.base import Evidence, Verdict, find, judge, with_groups
from deepcompress.prune.early import CUTTING_PART, Start, is_back, short_run
from deepcompress.prune.hooks import MaskHooks
from deepcompress.prune.lifelines import with_paths
from deepcompress.prune.masks import Masks, check_alive, cut
from deepcompress.prune.neurons import Connection, connections, remove_dead
from deepcompress.prune.regrow import RegrowingHooks
from deepcompress.prune.schedule import PRUNING_PART, epochs_of, progress
from deepcompress.prune.units import Group, cut_units, may_be_empty, silence_units, silenced
from deepcompress.recipe import Recipe
from deepcompress.training import distributed
from deepcompress.training.loop import count_batches
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run, retrain

Weights = Mapping[str, torch.Tensor]


def prune(evidence: Evidence, links: list[Connection] | None = None, watch: Progress | None = None) -> Masks:
    """Prune the weights of `evidence`, in place, to the recipe's sparsity, without retraining.

    That is one step, but for a criterion that is `local`: it has the recipe's iterations.
    """
    evidence, watch, recipe = with_groups(evidence), watch or Progress(), evidence.recipe
    steps = progress(recipe.schedule, recipe.iterations) if find(recipe.criterion).local else [1.0]
    for step in steps[:-1]:
        masks = next_masks(evidence, step, links or [], watch)
        masks.apply(evidence.weights)
        evidence = replace(evidence, masks=masks)
    return prune_by(asked(evidence, watch), evidence, links, watch)


def prune_by(
    verdict: Verdict, evidence: Evidence, links: list[Connection] | None = None, watch: Progress | None = None
) -> Masks:
    """As `prune`, by what the criterion has said of `evidence`, which has its groups, already."""
    masks = masks_by(verdict, evidence, 1.0, links or [], watch or Progress())
    masks.apply(evidence.weights)
    silence_units(silenced(evidence.groups, masks, evidence.model.state_dict(keep_vars=True)))
    return masks


def prune_and_retrain(run: Run) -> Masks:
    """Iterative pruning with masked retraining (Han et al. 2015, section 3), in place.

    There must be training data. Validation data is reported, epoch by epoch. With a recipe's `early_stop` it says
    whether a short run is enough (`prune.early`).
    """
    short = short_run(run)
    if short:
        start = Start(run)
        masks = _retrained(run, short, CUTTING_PART)
        if is_back(run, start.dense):
            return masks
        start.go_back()
    return _retrained(run, run.recipe.epochs, PRUNING_PART)


def _retrained(run: Run, epochs: int, part: float) -> Masks:
    """Prune, in the first `part` of so many epochs of retraining."""
    evidence = Evidence.of(run)
    hooks = PruningHooks(evidence, run.watch, epochs, part)
    if epochs == 0:
        return prune(evidence, hooks.links, run.watch)
    retrain(run, make_optimizer(run.model, run.recipe), epochs, "prune", hooks)
    return hooks.masks


def retrain_under(run: Run, masks: Masks, groups: Sequence[Group] = ()) -> None:
    """Prune to just these masks, in place, and retrain what is left, if there is data.

    `groups` are the units that went as a whole, if any did.

    Raises:
        PruneError: nothing is left of a layer.
    """
    check_alive(masks)
    hooks = MaskHooks(run.model, run.weights, run.recipe)
    hooks.groups = groups
    hooks.take(masks)
    if run.batches is not None and run.recipe.epochs:
        retrain(run, make_optimizer(run.model, run.recipe), run.recipe.epochs, "prune", hooks)


def prune_to_bits(run: Run, bits: float, refine: Refine) -> tuple[Masks, Curvature]:
    """Prune little by little, retraining all the while, until positions and values fit into `bits`, in place.

    There must be training data. `refine` has a word on all new masks, and may drop more. See `prune.budget` for what
    goes first. The curvature that it found is returned as well.
    """
    assert run.batches is not None
    hooks = BudgetHooks(run.model, run.weights, run.recipe, bits, count_batches(run.batches), refine)
    retrain(run, make_optimizer(run.model, run.recipe), run.recipe.epochs, "prune", hooks)
    return hooks.masks, hooks.curvature


class CuttingHooks(RegrowingHooks):
    """Prunes when it is told to."""

    changing: ClassVar[tuple[str, ...]] = ()

    def __init__(self, evidence: Evidence, watch: Progress) -> None:
        steps = 1
        if evidence.recipe.keeps_count and evidence.batches is not None:
            steps = count_batches(evidence.batches)
        super().__init__(evidence.model, evidence.weights, evidence.recipe, steps)
        self.masks = evidence.masks
        self.watch = watch
        # Regrowth keeps the very number that was asked for, and may bring a dead neuron back to life.
        self.links = [] if evidence.recipe.keeps_count else connections(evidence.model, watch)
        self._evidence = with_groups(evidence)
        self.groups = self._evidence.groups

    @property
    def evidence(self) -> Evidence:
        """What the criterion may look at, as it is now; under surgery no weight is gone for good."""
        return replace(self._evidence, masks=self.masks if self.shadow is None else Masks.full(self.weights))

    def cut(self, step: float) -> None:
        """Prune, and regrow, so that the network is `step` (0..1) of the way to the recipe's sparsity."""
        if self.shadow is not None:
            self.shadow.restore()
        self.take(next_masks(self.evidence, step, self.links, self.watch))
        if self.shadow is not None and self.recipe.criterion == "magnitude":
            self.shadow.limits = self.shadow.smallest(self.masks) if step < 1 else {}

    def after_step(self) -> None:
        """Until the last cut, surgery removes weights and brings others back after every step.

        A weight that returns late has moved too far: as long as it is pruned, no loss holds it back.
        """
        super().after_step()
        if self.shadow is not None and self.shadow.limits:
            masks = self.shadow.spliced(self.masks)
            self.shadow.restore()
            self.take(masks)


class PruningHooks(CuttingHooks):
    """Prunes before the epochs of the schedule."""

    changing: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, evidence: Evidence, watch: Progress, epochs: int | None = None, part: float = PRUNING_PART
    ) -> None:
        """`epochs`: how many there will be, if not as many as the recipe says. Pruning takes `part` of them."""
        super().__init__(evidence, watch)
        recipe = evidence.recipe
        steps = progress(recipe.schedule, recipe.iterations)
        self.steps = epochs_of(steps, recipe.epochs if epochs is None else epochs, part)

    def before_epoch(self, epoch: int) -> str:
        """Prune if the schedule says so; the note for the epoch's report says how far."""
        if epoch not in self.steps:
            return self.regrown()
        self.cut(self.steps[epoch])
        if epoch == max(self.steps):
            self.settle(epoch, self.watch)
        done = sum(1 for start in self.steps if start <= epoch)
        return f"iteration {done}/{len(self.steps)}, {100 * self.masks.sparsity:.1f} % pruned"


def next_masks(
    evidence: Evidence,
    step: float,
    links: list[Connection],
    watch: Progress,
    held: Mapping[str, torch.Tensor] | None = None,
) -> Masks:
    """The masks that the recipe asks for `step` (0..1) of the way, without dead neurons.

    Layers that are `held` have the mask given there, and the others do not make up for it. A criterion that corrects
    the weights that are kept has done so.
    """
    evidence = with_groups(evidence)
    return masks_by(asked(evidence, watch), evidence, step, links, watch, held)


def asked(evidence: Evidence, watch: Progress) -> Verdict:
    """What the recipe's criterion says, and `watch` is told of."""
    verdict = judge(evidence)
    for note in verdict.notes:
        watch.message(note)
    watch.scored(verdict.scores)
    return verdict


def masks_by(
    verdict: Verdict,
    evidence: Evidence,
    step: float,
    links: list[Connection],
    watch: Progress,
    held: Mapping[str, torch.Tensor] | None = None,
) -> Masks:
    """As `next_masks`, of what the criterion has said of `evidence` already."""
    criterion = find(evidence.recipe.criterion)
    if criterion.units is None:
        decision = cut(verdict.scores, evidence.recipe, step, criterion.scope)
        for name in decision.floored:
            watch.message(f"{name} would have been emptied: it keeps its one most salient weight")
        keep = {name: mask & evidence.masks.keep[name] for name, mask in decision.masks.keep.items()}
        masks = without_dead(Masks({**keep, **(held or {})}), links, watch, worth=lambda: _worth(verdict, evidence))
    else:
        found = cut_units(
            verdict.scores, evidence.groups, evidence.masks, evidence.recipe, step, criterion.scope, held or {}
        )
        masks = without_dead(found, links, watch, may_be_empty(evidence.groups))
    masks = distributed.as_first(masks)
    if verdict.correct is not None:
        verdict.correct(masks)
    return masks


def _worth(verdict: Verdict, evidence: Evidence) -> dict[str, torch.Tensor]:
    """What the criterion says that weights are worth; negative where they are pruned."""
    return {name: score.abs().masked_fill(~evidence.masks.keep[name], -1) for name, score in verdict.scores.items()}


def without_dead(
    masks: Masks,
    links: list[Connection],
    watch: Progress | None = None,
    empty: Collection[str] = (),
    worth: Callable[[], Mapping[str, torch.Tensor]] | None = None,
) -> Masks:
    """Without the connections of dead neurons.

    Where that would empty layers, a path through them stays, by what `worth` says that weights are worth (see
    `lifelines.with_paths`). Only then is it asked.

    Raises:
        PruneError: nothing is left of a layer that is none of `empty`.
    """
    given, watch = masks, watch or Progress()
    masks, lost = remove_dead(given, links)
    cut_off = [name for name in masks.keep if name not in empty and not masks.kept(name) and given.kept(name)]
    if cut_off and worth is not None:
        masks, lost = remove_dead(with_paths(given, cut_off, worth(), links), links)
        watch.message(f"{', '.join(cut_off)} would have been cut off: one path of weights through them stays")
    if lost:
        watch.message(f"{lost} connections of neurons without input or output were removed")
    check_alive(masks, empty)
    return masks


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of retraining, for all parameters of `model`, with the recipe's L2 penalty as weight decay."""
    decay = recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=decay)
    return torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=decay)
