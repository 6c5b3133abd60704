"""Training a dense reference network, from scratch or on from weights that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from deepcompress.errors import DataError
from deepcompress.recipe import check_number
from deepcompress.training.data import DataSet
from deepcompress.training.loop import Hooks, count_batches, fit, seed_everything
from deepcompress.training.objective import Classification
from deepcompress.training.progress import Progress

#: What is to be done with a copy of the network's tensors after so many of the optimizer's steps; 0: at the start.
Keep = Mapping[int, Callable[[dict[str, torch.Tensor]], None]]


@dataclass(frozen=True)
class DenseSettings:
    """SGD with Nesterov momentum 0.9.

    `shift`, `flip`: random shifts of the training images in pixels, and mirror images; None takes the data set's own.
    `lr_schedule`, `warmup`, `precision`, `clip_norm`: see `training.loop.fit`.
    """

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.02
    weight_decay: float = 5e-4
    shift: int | None = None
    flip: bool | None = None
    label_smoothing: float = 0.0
    lr_schedule: str = "cosine"
    warmup: float | None = None
    precision: str = "float32"
    clip_norm: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            check_number(getattr(self, name), name, 0)
        check_number(self.label_smoothing, "label_smoothing", 0, 0.99)
        if self.warmup is not None:
            check_number(self.warmup, "warmup", 0)
        if self.clip_norm is not None:
            check_number(self.clip_norm, "clip_norm", 0)


def train_dense(
    model: nn.Module,
    data: DataSet,
    settings: DenseSettings,
    device: torch.device,
    progress: Progress | None = None,
    hooks: Hooks | None = None,
    keep: Keep | None = None,
) -> nn.Module:
    """Train `model`, in place, on the training part of `data`; the last epoch's weights are the result.

    Raises:
        DataError: there are not as many steps as `keep` names.
    """
    seed_everything(settings.seed)
    data = data.to(device)
    model.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    batches = data.train_loader(settings.batch_size, settings.seed, settings.shift, settings.flip)
    if keep:
        _check_steps(max(keep), settings.epochs * count_batches(batches))
        hooks = KeepingHooks(model, keep, hooks or Hooks())
    fit(
        model,
        batches,
        optimizer,
        settings.epochs,
        stage="train",
        val_batches=data.val_loader(),
        objective=Classification(settings.label_smoothing),
        lr_schedule=settings.lr_schedule,
        warmup=settings.warmup,
        precision=settings.precision,
        clip_norm=settings.clip_norm,
        progress=progress,
        hooks=hooks,
    )
    return model


def _check_steps(asked: int, steps: int) -> None:
    if asked > steps:
        raise DataError(f"the weights after step {asked} cannot be kept: training ends after {steps} steps")


class KeepingHooks(Hooks):
    """Other hooks, and what is to be done after some of the optimizer's steps."""

    changing = ("step", "hooks")

    def __init__(self, model: nn.Module, keep: Keep, hooks: Hooks) -> None:
        self.model, self.keep, self.hooks = model, keep, hooks
        self.step = 0

    def restored(self) -> None:
        """As the other hooks."""
        self.hooks.restored()

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """As the other hooks."""
        self.hooks.attach(optimizer)

    def before_epoch(self, epoch: int) -> str:
        """As the other hooks; the start is what they leave of it."""
        note = self.hooks.before_epoch(epoch)
        if epoch == 0:
            self._look()
        return note

    def after_backward(self) -> None:
        """As the other hooks."""
        self.hooks.after_backward()

    def after_step(self) -> None:
        """As the other hooks; one step more is done."""
        self.hooks.after_step()
        self.step += 1
        self._look()

    def _look(self) -> None:
        keep = self.keep.get(self.step)
        if keep is not None:
            keep({name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()})
