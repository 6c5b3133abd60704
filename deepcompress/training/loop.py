"""The one training loop: it trains, retrains under masks, and tunes shared weights.

What differs between those three is the optimizer's parameters and three hooks; see `Hooks`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from deepcompress.errors import DataError, DeepCompressError, DivergedError, NetworkError, first_line
from deepcompress.networks.batchnorm import let_train
from deepcompress.networks.inputs import Batches, count_samples, in_float32, place_of, predict, to_device
from deepcompress.training import distributed
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.journal import Phase, begin_phase
from deepcompress.training.layout import laid_out
from deepcompress.training.objective import Objective, cross_entropy, task_of
from deepcompress.training.progress import EpochResult, Progress
from deepcompress.training.snapshot import Training, promises

#: What torch's batch norm says of a batch that has no variance.
_LONE = "more than 1 value per channel"


class Hooks:
    """What a stage adds to the loop. Each method does nothing unless overridden.

    A run that is killed continues after its last complete epoch (see `training.journal`), and several processes must
    have the same hooks. For both, each class says in ``changing`` which of its *own* attributes change from `__init__`
    to the end of training; those of its base classes are added. `()` says that none does::

        class CountingHooks(MaskHooks):
            changing = ("step", "drawn")

    What such an attribute may hold, and what must not be named there, is said in `training.snapshot`. A class
    without ``changing`` in its own body promises nothing: nothing is saved of its training, which runs again from its
    beginning. Gradients are not kept from one epoch to the next.
    """

    changing: ClassVar[tuple[str, ...]] = ()

    def restored(self) -> None:
        """Called when the attributes in `changing` have been put back, for what follows from them elsewhere."""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Called with the optimizer before the first epoch."""

    def before_epoch(self, epoch: int) -> str:
        """Called before epoch `epoch` (from 0); may return a note for the epoch's report."""
        return ""

    def after_backward(self) -> None:
        """Called when the gradients are there and no parameter has moved yet."""

    def after_step(self) -> None:
        """Called right after each optimizer step."""


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and ask CUDA for repeatable kernels where it has them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; ``auto`` takes CUDA, then MPS, then the CPU. One of several processes has its own.

    Raises:
        DeepCompressError: the device is not there.
    """
    if (own := distributed.own_device()) is not None:
        return own
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(torch.device(name).type, False):
        raise DeepCompressError(f"--device {name}: this machine has no such device; use cpu or auto")
    return torch.device(name)


def warmup_cosine(progress: float, warmup: float = 0.02) -> float:
    """Factor of the learning rate at `progress` (0..1) through a run: short linear rise, then half a cosine to 0."""
    if progress <= warmup and warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


#: Factor of the learning rate at a point (0..1) of a run. ``step`` is that of He et al. 2016, section 4.2.
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": warmup_cosine,
    "constant": lambda progress: 1.0,
    "step": lambda progress: 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01,
}


def rate_factor(schedule: str, done: float, epochs: int, warmup: float | None = None) -> float:
    """Factor of the learning rate after `done` epochs of a run.

    With `warmup` it rises from 0 over so many epochs. The cosine begins at their end; other schedules are as they are
    without it, times the rise.
    """
    if warmup is None:
        return LR_SCHEDULES[schedule](done / epochs)
    if schedule == "cosine":
        return warmup_cosine(done / epochs, warmup / epochs)
    rise = min(done / warmup, 1.0) if warmup else 1.0
    return rise * LR_SCHEDULES[schedule](done / epochs)


def fit(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    *,
    stage: str,
    hooks: Hooks | None = None,
    val_batches: Batches | None = None,
    objective: Objective = cross_entropy,
    lr_schedule: str = "cosine",
    warmup: float | None = None,
    precision: str = "float32",
    clip_norm: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Train `model` in place for `epochs` passes over `batches`.

    Each parameter group's learning rate is its initial one times the factor that `rate_factor` has for this point of
    the run, set before every step. With `precision` ``bfloat16`` the network computes in it where torch's autocast
    finds that safe; weights, gradients of weights and the loss stay float32. With `clip_norm` the gradient of all that
    the optimizer moves is scaled down to this Euclidean norm in each step where it is longer; 0 is no limit. Validation
    data, if given, is only reported; nothing is chosen by it. Where a journal is kept (`training.journal.recording`),
    epochs that an interrupted run has done are not done again. Several processes share every batch
    (`training.distributed`).

    Raises:
        DataError: `batches` is empty, or an iterator.
        DivergedError: the loss is no longer finite.
        ResumeError, OutputError: the journal cannot be read, or written.
    """
    hooks, progress = hooks or Hooks(), progress or Progress()
    base_rates = [group["lr"] for group in optimizer.param_groups]
    device = next(model.parameters()).device
    progress.begin(stage, epochs)
    steps = count_batches(batches)
    hooks.attach(optimizer)
    phase = begin_phase(stage, epochs) if epochs else None
    training = Training(model, optimizer, hooks, (batches, val_batches))

    def backpropagated(network: nn.Module, x: Any, y: Any) -> torch.Tensor:
        return _backpropagated(network, to_device(x, device), to_device(y, device), objective, precision, stage)

    def step(x: Any, y: Any, done: float) -> torch.Tensor:
        factor = rate_factor(lr_schedule, done, epochs, warmup)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        loss = backpropagated(model, x, y)
        hooks.after_backward()
        if clip_norm:
            moved = (parameter for group in optimizer.param_groups for parameter in group["params"])
            torch.nn.utils.clip_grad_norm_(moved, clip_norm)
        optimizer.step()
        hooks.after_step()
        return distributed.add_up(loss)

    with laid_out(model, precision, getattr(objective, "teacher", None)) as check_layout:
        for epoch in range(_epochs_done(phase, training, progress), epochs):
            note = hooks.before_epoch(epoch)
            distributed.synchronize(training)
            let_train(model)
            losses, lone = [], 0
            for at, (x, y) in enumerate(batches):
                done = epoch + min((at + 0.5) / steps, 1.0)
                check_layout(partial(backpropagated, x=x, y=y))
                try:
                    losses.append(step(x, y, done))
                except NetworkError as error:
                    if _LONE not in str(error):
                        raise
                    lone += 1
                    continue
                if at % 10 == 0:
                    progress.batch(done, float(losses[-1]))
            mean_loss = _mean(losses, stage, epoch, lone)
            if lone and epoch == 0:
                progress.message(f"{stage}: a batch of one sample is left out, as batch norm cannot train on it")
            distributed.average_statistics(model)
            distributed.synchronize(training)
            found = evaluate(model, val_batches, objective) if val_batches is not None else None
            if phase is not None and promises(hooks):
                phase.save(epoch + 1, training.take(optimizer=epoch + 1 < epochs))
            progress.epoch(_result(EpochResult(stage, epoch + 1, epochs, mean_loss, None, note), found, objective))


def _backpropagated(model: nn.Module, x: Any, y: Any, objective: Objective, precision: str, stage: str) -> torch.Tensor:
    """The loss of this process's part of a batch, whose gradients of all parts are in the parameters now."""
    device = next(model.parameters()).device
    x, y, part = distributed.own_part(x, y)
    in_bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with distributed.own_chance(device), in_bfloat16:
        output = predict(model, x)
        loss = objective(in_float32(output), x, y) * part
    # Not the optimizer's: shared weights are none of its parameters, yet their gradients must not add up.
    model.zero_grad(set_to_none=True)
    _backward(loss, stage)
    distributed.add_up_gradients(model)
    return loss.detach()


def _backward(loss: torch.Tensor, stage: str) -> None:
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # operations of the user's own, and losses without a gradient
        raise NetworkError(f"{stage}: the gradient of the loss fails: {first_line(error)}{place_of(error)}") from error


def _epochs_done(phase: Phase | None, training: Training, progress: Progress) -> int:
    """How many epochs an interrupted run has done; `training` is as it was after them."""
    found = phase.load() if phase is not None and promises(training.hooks) else None
    found = distributed.from_first(found)
    if found is None:
        return 0
    done, state = found
    training.put_back(state)
    training.model.train()
    if phase is not None:
        progress.message(f"{phase.stage}: {done} of {phase.epochs} epochs were done before")
    return int(done)


def _result(result: EpochResult, found: Evaluation | None, objective: Objective) -> EpochResult:
    """With what was measured of validation data."""
    if found is None:
        return result
    task = task_of(objective)
    return replace(result, val_error=found.error, val_loss=found.loss, val_metric=task.says(found.value))


def _mean(losses: list[torch.Tensor], stage: str, epoch: int, lone: int) -> float:
    if not losses and lone:
        raise DataError(f"{stage}: batch norm cannot train on batches of one sample; use a larger batch size")
    if not losses:
        raise DataError(f"{stage}: the training data has no batches")
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise DivergedError(f"{stage}: the loss is {mean} in epoch {epoch + 1}; lower the learning rate")
    return mean


def count_batches(batches: Batches) -> int:
    """Batches per pass; an iterable without a length is passed over once to count it."""
    if isinstance(batches, Iterator):
        raise DataError(
            "the training data is an iterator, spent after one pass; give a DataLoader, or a list of batches"
        )
    try:
        return max(len(batches), 1)  # type: ignore[arg-type]
    except TypeError:
        return max(sum(1 for _ in batches), 1)


def samples_of_a_pass(batches: Batches) -> int:
    """Samples per pass, as if all batches were as large as the first."""
    return count_batches(batches) * count_samples(next(iter(batches))[1])
