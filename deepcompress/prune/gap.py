"""Pruning by the generalization gap: a step whenever the network knows its training data better than it should."""

from __future__ import annotations

from deepcompress.errors import RecipeError
from deepcompress.networks.inputs import Batches
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import CuttingHooks, make_optimizer
from deepcompress.training.evaluation import evaluate
from deepcompress.training.objective import task_of
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run, retrain


def prune_by_gap(run: Run) -> Masks:
    """Retrain for `recipe.epochs`, in place, and prune before each epoch that begins with too wide a gap.

    The gap is the error on validation data less that on training data (as it comes, augmented or not, in evaluation
    mode). Where it is more than `recipe.gap` points, `recipe.prune_step` of the surviving weights go, up to
    `recipe.prune` of all. Where it never is, none go.

    Raises:
        RecipeError: there is no data for one of the two errors, or no epoch to look before.
    """
    recipe = run.recipe
    if run.batches is None or not recipe.epochs:
        raise RecipeError("schedule 'gap' looks at the network before each epoch of retraining, and there is none")
    if run.val_batches is None:
        raise RecipeError("schedule 'gap' needs validation data to measure the gap on")
    hooks = GapHooks(Evidence.of(run), run.val_batches, run.watch)
    retrain(run, make_optimizer(run.model, recipe), recipe.epochs, "prune", hooks)
    if hooks.step < 1:
        run.watch.message(
            f"before {hooks.cuts} of {recipe.epochs} epochs the validation error was more than {recipe.gap:g} points "
            f"above the training error: {100 * hooks.masks.sparsity:.2f} % pruned, of {100 * recipe.prune:g} % asked"
        )
    return hooks.masks


class GapHooks(CuttingHooks):
    """Looks at the gap before each epoch. `step` is how far on the way to the recipe's sparsity it is, of 1."""

    changing = ("step", "cuts")

    def __init__(self, evidence: Evidence, val_batches: Batches, watch: Progress) -> None:
        super().__init__(evidence, watch)
        self.val_batches = val_batches
        self.step, self.cuts = 0.0, 0

    def before_epoch(self, epoch: int) -> str:
        """Prune if the gap is too wide; the note for the epoch's report says how wide it is."""
        if self.step == 1:
            return f"{100 * self.masks.sparsity:.1f} % pruned"
        evidence = self.evidence
        assert evidence.batches is not None
        task = task_of(evidence.objective)
        val, train = (evaluate(evidence.model, data, task).value for data in (self.val_batches, evidence.batches))
        gap = task.lost(train, val)
        if gap > self.recipe.gap + 1e-9:
            survivors = (1 - self.step * self.recipe.prune) * (1 - self.recipe.prune_step)
            self.step = min(1.0, (1 - survivors) / self.recipe.prune) if self.recipe.prune else 1.0
            self.cuts += 1
            self.cut(self.step)
        return f"gap {gap:.2f}, {100 * self.masks.sparsity:.1f} % pruned"
