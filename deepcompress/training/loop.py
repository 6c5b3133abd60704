"""The one training loop: it trains, retrains under masks, and tunes shared weights.

What differs between those three is the optimizer's parameters and three hooks; see `Hooks`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import DataError, DeepCompressError, NetworkError
from deepcompress.training.objective import Objective, cross_entropy
from deepcompress.training.progress import EpochResult, Progress

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """`accuracy` and `error` in percent, the mean cross entropy in nats, and the number of samples."""

    accuracy: float
    error: float
    loss: float
    samples: int


class Hooks:
    """What a stage adds to the loop. Each method does nothing unless overridden."""

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
    """The device called `name`; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        DeepCompressError: the device is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(torch.device(name).type, False):
        raise DeepCompressError(f"--device {name}: this machine has no such device; use cpu or auto")
    return torch.device(name)


def warmup_cosine(progress: float, warmup: float = 0.02) -> float:
    """Factor of the learning rate at `progress` (0..1) through a run: short linear rise, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


#: Factor of the learning rate at a point (0..1) of a run. ``step`` is that of He et al. 2016, section 4.2.
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": warmup_cosine,
    "constant": lambda progress: 1.0,
    "step": lambda progress: 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01,
}


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
    precision: str = "float32",
    progress: Progress | None = None,
) -> None:
    """Train `model` in place for `epochs` passes over `batches`.

    Each parameter group's learning rate is its initial one times the factor that `LR_SCHEDULES` has for this point
    of the run, set before every step. With `precision` ``bfloat16`` the network computes in it where torch's autocast
    finds that safe; weights, gradients of weights and the loss stay float32. Validation data, if given, is only
    reported; nothing is chosen by it.

    Raises:
        DataError: `batches` is empty, or an iterator.
        DeepCompressError: the loss is no longer finite.
    """
    hooks, progress = hooks or Hooks(), progress or Progress()
    lr_factor = LR_SCHEDULES[lr_schedule]
    base_rates = [group["lr"] for group in optimizer.param_groups]
    device = next(model.parameters()).device
    progress.begin(stage, epochs)
    steps = count_batches(batches)

    def step(x: torch.Tensor, y: torch.Tensor, done: float) -> torch.Tensor:
        factor = lr_factor(done / epochs)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        x, y = x.to(device), y.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(x)
            loss = objective(logits.float(), x, y)
        # Not the optimizer's: shared weights are none of its parameters, yet their gradients must not add up.
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        hooks.after_backward()
        optimizer.step()
        hooks.after_step()
        return loss.detach()

    with _laid_out_for(precision, model):
        for epoch in range(epochs):
            note = hooks.before_epoch(epoch)
            model.train()
            losses = []
            for at, (x, y) in enumerate(batches):
                done = epoch + min((at + 0.5) / steps, 1.0)
                losses.append(step(x, y, done))
                if at % 10 == 0:
                    progress.batch(done, float(losses[-1]))
            mean_loss = _mean(losses, stage, epoch)
            val_error = evaluate(model, val_batches).error if val_batches is not None else None
            progress.epoch(EpochResult(stage, epoch + 1, epochs, mean_loss, val_error, note))


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
    return Evaluation(
        accuracy=accuracy, error=100.0 * (samples - correct) / samples, loss=loss / samples, samples=samples
    )


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
        logits = model(x.to(next(model.parameters()).device))
    except Exception as error:  # the user's forward may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NetworkError(
            f"the network {type(model).__name__} cannot take samples of shape {tuple(x.shape[1:])}: {reason}"
        ) from None
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
