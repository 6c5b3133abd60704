"""Stage 1 in somebody else's training loop, which says when an epoch begins and when its optimizer has stepped."""

from __future__ import annotations

from deepcompress.errors import DeepCompressError
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import PruningHooks


class PruningSteps:
    """Pruning whose hooks are called by epochs or by steps."""

    def __init__(self, hooks: PruningHooks, by_steps: bool, done: int = 0, more: bool = True) -> None:
        """Begin, or go on in a run that is resumed.

        Args:
            hooks: for as many epochs, or steps, as there will be.
            by_steps: whether its epochs are steps of the optimizer.
            done: how many of them were trained before.
            more: False where nothing is pruned beyond what is.
        """
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

    @property
    def masks(self) -> Masks:
        """Which weights are kept by now."""
        return self.hooks.masks

    def epoch(self) -> str:
        """An epoch begins: prune if it is time; a note that says how far."""
        if self.by_steps:
            return ""
        self.ticks += 1
        return self._ask(self.ticks - 1)

    def end(self) -> bool:
        """Prune as far as the schedule goes; whether there was anything left, though there was training."""
        last = max(self.hooks.steps, default=-1)
        if self._last >= last:
            return False
        self._ask(last)
        return self.ticks > 0

    def after_backward(self) -> None:
        """Gradients are there."""
        self._heard = True
        self.hooks.after_backward()

    def step(self) -> None:
        """The optimizer has stepped.

        Raises:
            DeepCompressError: gradients were to be changed before.
        """
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

    def restore_dropout(self) -> None:
        """Set back the rates of dropout, which are lower while a network is pruned."""
        for dropout, rate, _ in self.hooks.dropouts:
            dropout.p = rate

    def _ask(self, tick: int) -> str:
        self._last = tick
        return self.hooks.before_epoch(tick)

    def _needs_gradients(self) -> bool:
        return self.hooks.shadow is not None or self.hooks.recipe.penalty not in ("l2", "none")
