"""The one training loop: it trains, retrains under masks, and tunes shared weights.

What differs between those three is the optimizer's parameters and three hooks; see `Hooks`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import DataError, DeepCompressError, NetworkError, RecipeError
from deepcompress.networks.inputs import Batches, count_samples, in_float32, predict, tensors_in, to_device
from deepcompress.training import distributed
from deepcompress.training.journal import Phase, begin_phase
from deepcompress.training.objective import Objective, Task, cross_entropy
from deepcompress.training.progress import EpochResult, Progress
from deepcompress.training.snapshot import Training, promises


@dataclass(frozen=True)
class Evaluation:
    """`accuracy` and `error` in percent, the mean cross entropy in nats, and the number of samples."""

    accuracy: float
    error: float
    loss: float
    samples: int


@dataclass(frozen=True)
class Measurement:
    """What was measured of any network: the mean loss over `samples`, and what goes with its task, else None.

    That is accuracy and error, in percent, of a classifier, or the user's own metric.
    """

    loss: float
    samples: int
    accuracy: float | None = None
    error: float | None = None
    metric: float | None = None


class Hooks:
    """What a stage adds to the loop. Each method does nothing unless overridden.

    A run that is killed goes on from its last whole epoch (see `training.journal`), and several processes must have the
    same hooks. For both, each class says in ``changing`` which of its *own* attributes change from `__init__` to the
    end of training; those of its base classes are added. `()` says that none does::

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
    progress: Progress | None = None,
) -> None:
    """Train `model` in place for `epochs` passes over `batches`.

    Each parameter group's learning rate is its initial one times the factor that `rate_factor` has for this point of
    the run, set before every step. With `precision` ``bfloat16`` the network computes in it where torch's autocast
    finds that safe; weights, gradients of weights and the loss stay float32. Validation data, if given, is only
    reported; nothing is chosen by it. Where a journal is kept (`training.journal.recording`), epochs that an
    interrupted run has done are not done again. Several processes share every batch (`training.distributed`).

    Raises:
        DataError: `batches` is empty, or an iterator.
        DeepCompressError: the loss is no longer finite.
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
    in_bfloat16 = precision == "bfloat16"

    def step(x: Any, y: Any, done: float) -> torch.Tensor:
        factor = rate_factor(lr_schedule, done, epochs, warmup)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        x, y, part = distributed.own_part(to_device(x, device), to_device(y, device))
        with distributed.own_chance(device), torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
            output = predict(model, x)
            loss = objective(in_float32(output), x, y) * part
        # Not the optimizer's: shared weights are none of its parameters, yet their gradients must not add up.
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        distributed.add_up_gradients(model)
        hooks.after_backward()
        optimizer.step()
        hooks.after_step()
        return distributed.add_up(loss.detach())

    with _laid_out_for(precision, model):
        for epoch in range(_epochs_done(phase, training, progress), epochs):
            note = hooks.before_epoch(epoch)
            distributed.synchronize(training)
            model.train()
            losses = []
            for at, (x, y) in enumerate(batches):
                done = epoch + min((at + 0.5) / steps, 1.0)
                losses.append(step(x, y, done))
                if at % 10 == 0:
                    progress.batch(done, float(losses[-1]))
            mean_loss = _mean(losses, stage, epoch)
            distributed.average_statistics(model)
            distributed.synchronize(training)
            found = measure(model, val_batches, objective) if val_batches is not None else None
            val_error, val_loss = (None, None) if found is None else (found.error, found.loss)
            if phase is not None and promises(hooks):
                phase.save(epoch + 1, training.take(optimizer=epoch + 1 < epochs))
            progress.epoch(EpochResult(stage, epoch + 1, epochs, mean_loss, val_error, note, val_loss))


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


def _mean(losses: list[torch.Tensor], stage: str, epoch: int) -> float:
    if not losses:
        raise DataError(f"{stage}: the training data has no batches")
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise DeepCompressError(f"{stage}: the loss is {mean} in epoch {epoch + 1}; lower the learning rate")
    return mean


@contextmanager
def _laid_out_for(precision: str, model: nn.Module) -> Iterator[None]:
    """Keeps the weights of 2-D convolutions channels last meanwhile, where that is faster: in bfloat16.

    Afterwards each parameter has its own memory again, with the new values.
    """
    found = [weight for weight in model.parameters() if weight.ndim == 4 and precision == "bfloat16"]
    before = [weight.data for weight in found]
    for weight in found:
        weight.data = weight.data.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight, own in zip(found, before, strict=True):
            weight.data = own.copy_(weight.data)


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


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> Evaluation:
    """Accuracy, error and mean cross entropy of a classifier over `batches`; the model's mode is left as found.

    Raises:
        DataError: `batches` is empty.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    correct = samples = 0
    loss = 0.0
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        logits = model(x)
        correct += int((logits.argmax(dim=1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        samples += len(y)
    model.train(was_training)
    if not samples:
        raise DataError("there are no samples to evaluate on")
    accuracy = 100.0 * correct / samples
    found = Evaluation(
        accuracy=accuracy, error=100.0 * (samples - correct) / samples, loss=loss / samples, samples=samples
    )
    return distributed.as_first(found)


def measure(model: nn.Module, batches: Batches, objective: Objective = cross_entropy) -> Measurement:
    """The loss of any network over `batches`, with its metric, or as a classifier (`evaluate`) if it has no `Task`.

    Loss and metric are means over samples, of the means over batches; the model's mode is left as found.

    Raises:
        DataError: `batches` is empty.
    """
    if isinstance(objective, Task):
        return _measure_task(model, batches, objective)
    found = evaluate(model, batches)
    return Measurement(found.loss, found.samples, found.accuracy, found.error)


@torch.no_grad()
def _measure_task(model: nn.Module, batches: Batches, task: Task) -> Measurement:
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    loss = metric = 0.0
    samples = 0
    for x, y in batches:
        x, y = to_device(x, device), to_device(y, device)
        output, count = in_float32(predict(model, x)), count_samples(y)
        loss += count * float(task.loss(output, y))
        if task.metric is not None:
            metric += count * float(task.metric(output, y))
        samples += count
    model.train(was_training)
    if not samples:
        raise DataError("there are no samples to evaluate on")
    found = Measurement(loss / samples, samples, metric=None if task.metric is None else metric / samples)
    return distributed.as_first(found)


@torch.no_grad()
def check_task(model: nn.Module, batches: Batches, task: Task) -> None:
    """Run the first batch through network, loss and metric, to say before any time is spent which of them fails.

    Raises:
        DataError: there are no batches, or they are no pairs.
        NetworkError: the network cannot take the input.
        RecipeError: the loss or the metric fails, or gives no number.
    """
    first = next(iter(batches), None)
    if first is None:
        raise DataError("the data has no batches")
    if not isinstance(first, (tuple, list)) or len(first) != 2:
        raise DataError(f"the data gives {type(first).__name__}; a batch is a pair (input, target)")
    device, was_training = next(model.parameters()).device, model.training
    x, y = (to_device(part, device) for part in first)
    model.eval()
    try:
        output = in_float32(_run(model, x))
    finally:
        model.train(was_training)
    count_samples(y)
    for what, function in (("loss", task.loss), ("metric", task.metric)):
        if function is not None:
            _check_number(what, function, output, y)


def _check_number(what: str, function: Callable[[Any, Any], Any], output: Any, y: Any) -> None:
    try:
        found = function(output, y)
    except Exception as error:  # it is the user's code
        raise RecipeError(f"the {what} fails with {type(error).__name__}: {error}") from error
    if isinstance(found, torch.Tensor) and found.numel() == 1:
        return
    if what == "loss" or not isinstance(found, (int, float)):
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else ""
        raise RecipeError(f"the {what} gives a {type(found).__name__}{shape}; it must give one number for the batch")


def _run(model: nn.Module, x: Any) -> Any:
    """The output of a network for a batch.

    Raises:
        NetworkError: it cannot take it.
    """
    try:
        return predict(model, x)
    except Exception as error:  # the user's forward may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors_in(x)]
        shown = f"of shape {shapes[0]}" if len(shapes) == 1 else f"of shapes {', '.join(map(str, shapes))}"
        raise NetworkError(f"the network {type(model).__name__} cannot take samples {shown}: {reason}") from None


@torch.no_grad()
def check_fits(model: nn.Module, batches: Batches) -> None:
    """Run the first batch, to refuse data that the network is not for before any time is spent.

    The labels of all batches are looked at.

    Raises:
        DataError: there are no batches, or a label is none of the network's outputs.
        NetworkError: the network cannot take the samples.
    """
    first = next(iter(batches), None)
    if first is None:
        raise DataError("the data has no batches")
    x = first[0]
    was_training = model.training
    model.eval()
    try:
        logits = _run(model, to_device(x, next(model.parameters()).device))
    finally:
        model.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise NetworkError(f"the network gives {found}; a classifier's outputs are of shape (samples, classes)")
    labels = torch.cat([y.flatten() for _, y in batches])
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise DataError(
            f"the network tells {logits.shape[1]} classes apart, but labels go from {low} to {high}: "
            "is this the data it was trained on?"
        )
