"""Stage 2 in somebody else's training loop: shared values are tuned at each step of its optimizer."""

from __future__ import annotations

import torch

from deepcompress.errors import DeepCompressError
from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import TuningHooks
from deepcompress.recipe import Recipe
from deepcompress.training.loop import LR_SCHEDULES


class TuningSteps:
    """Shared values with an optimizer of their own, as in `quantize.sharing.tune`."""

    def __init__(self, hooks: TuningHooks, recipe: Recipe, steps: int | None) -> None:
        """Over `steps` the learning rate falls by the recipe's ``lr_schedule``; None keeps it."""
        self.hooks, self._steps = hooks, steps
        self._factor, self._rate, self._done = LR_SCHEDULES[recipe.lr_schedule], recipe.finetune_lr, 0
        self._heard = False
        self._parameters = [book.parameter for book in hooks.codebooks]
        self._optimizer = torch.optim.SGD(
            self._parameters or [torch.zeros(0)], lr=self._rate, momentum=0.9, nesterov=True
        )

    @property
    def masks(self) -> Masks:
        """Which weights are kept."""
        return self.hooks.masks

    def epoch(self) -> str:
        """An epoch begins, which means nothing here."""
        return ""

    def after_backward(self) -> None:
        """Gradients are there.

        Raises:
            DeepCompressError: there are none for the weights that share values.
        """
        self._heard = True
        members = [member.name for book in self.hooks.codebooks for member in book.members]
        if members and not any(self.hooks.weights[name].requires_grad for name in members):
            raise DeepCompressError(
                f"shared values are tuned by the gradients of weights, and {members[0]} and all others that share "
                "values ask for none: set requires_grad, or call finalize() without tuning"
            )
        if members and all(self.hooks.weights[name].grad is None for name in members):
            raise DeepCompressError(
                "shared values are tuned by the gradients of weights, and there are none: call step() before gradients "
                "are cleared, or after_backward() after backward()"
            )
        self.hooks.after_backward()

    @torch.no_grad()
    def step(self) -> None:
        """The loop's optimizer has stepped, and gradients are still there."""
        for book in self.hooks.codebooks:  # the loop's optimizer has moved the weights
            book.write(self.hooks.weights)
        if not self._heard:
            self.after_backward()
        self._heard = False
        if self._steps:
            done = min((self._done + 0.5) / self._steps, 1.0)
            self._optimizer.param_groups[0]["lr"] = self._rate * self._factor(done)
        self._done += 1
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):  # a scaler skips steps that are not
            self._optimizer.step()
        self.hooks.after_step()
