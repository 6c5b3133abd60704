"""A short tuning of a rounded network against the outputs of the dense one: no labels.

Each weight is a whole number of steps in the forward pass, and gradients pass straight through the rounding (Bengio et
al. 2013) to a number behind it, which is not whole. What is zero stays so, as zeros are what makes the file small.
Biases and gains of norms are tuned beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from deepcompress.calibration.collect import flattened
from deepcompress.calibration.samples import pieces
from deepcompress.calibration.trial import Trial
from deepcompress.layers import live_tensors, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import count_samples
from deepcompress.quantize.rows import RowGrid
from deepcompress.training.progress import Progress

EPOCHS = 16
RATE = 0.02  # of Adam, in steps of a weight
_SPEEDS = (1.0, 0.15)  # of the rates: recurrent networks need the second
_PATIENCE, _WORSE = 2, 2.0  # from this epoch on, an error so many times as large as before ends a try
_BATCH = 8
_INSIDE = 0.45  # of a step: how far from its whole number a weight may begin, on the side where it was
_RATE_OF_VECTORS = 0.004  # in root mean squares of a bias or gain


@dataclass(frozen=True)
class _Tuned:
    """A tensor that is tuned, as `latent` times `unit`; of a weight on a grid the latent is rounded first."""

    tensor: torch.Tensor
    latent: torch.Tensor
    unit: torch.Tensor
    alive: torch.Tensor | None = None  # where the whole number is not zero; None of a vector
    most: int = 0

    def numbers(self) -> torch.Tensor:
        """The latent, rounded where it must be; none becomes zero that is not, as none comes back."""
        if self.alive is None:
            return self.latent
        whole = self.latent.round().clamp(-self.most, self.most)
        sign = torch.where(self.latent < 0, -1.0, 1.0)
        return torch.where(whole == 0, sign, whole) * self.alive

    def value(self, grid: RowGrid | None) -> torch.Tensor:
        """What the file has of it, where its numbers are those of `grid`."""
        value = (self.numbers() * self.unit).detach()
        return value if grid is None else value.to(grid.dtype)

    @torch.no_grad()
    def show(self) -> None:
        """Put the values into the network."""
        self.tensor.copy_((self.numbers() * self.unit).reshape(self.tensor.shape))

    def pull(self) -> None:
        """The gradient of the network's tensor as that of the latent."""
        found = self.tensor.grad
        if found is None:
            self.latent.grad = None
            return
        gradient = found.reshape(self.latent.shape) * self.unit
        self.latent.grad = gradient if self.alive is None else gradient * self.alive


def taught(
    network: nn.Module,
    grids: Mapping[str, RowGrid],
    corrected: Mapping[str, torch.Tensor],
    batches: Sequence[Any],
    trial: Trial,
    watch: Progress,
) -> tuple[dict[str, RowGrid], dict[str, torch.Tensor]]:
    """Grids and vectors tuned so that the outputs come nearer to those of `network`; as they were, if they do not.

    Args:
        network: the dense network, which is not changed.
        grids: of weights, by name.
        corrected: other tensors that are not as in `network`, by name.
        batches: inputs to tune on.
        trial: judges after each epoch, by samples that are not among them.
        watch: told what came of it.
    """
    student = copied(network).eval().requires_grad_(False)
    small = [piece for batch in batches for piece in pieces(batch, -(-count_samples(batch) // _BATCH))]
    with torch.no_grad():
        expected = [flattened(student, x) for x in small]
    best = before = trial.error({**{name: grid.values() for name, grid in grids.items()}, **corrected})
    pairs, tuned, found = list(zip(small, expected, strict=True)), {}, None
    for speed in _SPEEDS:
        tuned = _tuned(student, network, grids, corrected)
        for epoch in _epochs(student, tuned, pairs, speed, watch):
            error = trial.error({name: each.value(grids.get(name)) for name, each in tuned.items()})
            if error < best:
                best, found = error, {name: each.numbers().clone() for name, each in tuned.items()}
            if epoch >= _PATIENCE and error > _WORSE * before:
                break
        if found is not None:
            break
    if found is None:
        watch.message("teaching did not bring the outputs nearer to those of the dense network: it is left out")
        return dict(grids), dict(corrected)
    watch.message(f"taught: the output changes by {100 * best:.2g} % of its variance, and not by {100 * before:.2g} %")
    whole = {name: replace(grid, integers=found[name].reshape(grid.integers.shape).to("cpu", torch.int32))
             for name, grid in grids.items()}  # fmt: skip
    vectors = {name: (found[name] * each.unit).reshape(each.tensor.shape)
               for name, each in tuned.items() if each.alive is None}  # fmt: skip
    return whole, {**corrected, **vectors}


def _epochs(
    student: nn.Module,
    tuned: Mapping[str, _Tuned],
    pairs: Sequence[tuple[Any, torch.Tensor]],
    speed: float,
    watch: Progress,
) -> Iterator[int]:
    """Tune by Adam, at rates that fall along a cosine; give the number of each epoch when it is done."""
    rates = [speed * (RATE if each.alive is not None else _RATE_OF_VECTORS) for each in tuned.values()]
    groups = [{"params": [each.latent], "lr": rate} for each, rate in zip(tuned.values(), rates, strict=True)]
    optimizer, generator = torch.optim.Adam(groups), torch.Generator().manual_seed(0)
    total, done = EPOCHS * len(pairs), 0
    for epoch in range(EPOCHS):
        for place in torch.randperm(len(pairs), generator=generator).tolist():
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 + math.cos(math.pi * done / total)) / 2
            x, expected = pairs[place]
            _step(student, x, expected, tuned)
            optimizer.step()
            done += 1
            watch.work("teach", done, total, f"epoch {epoch + 1}")
        yield epoch


def _tuned(
    student: nn.Module, network: nn.Module, grids: Mapping[str, RowGrid], corrected: Mapping[str, torch.Tensor]
) -> dict[str, _Tuned]:
    tensors, found = live_tensors(student, tensors_of(student)), {}
    given = live_tensors(network, tensors_of(network))
    all_frozen = not any(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(corrected.get(name, given[name]))
    for name, tensor in tensors.items():
        grid = grids.get(name)
        if grid is not None:
            numbers = grid.integers.reshape(len(grid.integers), -1).float().to(tensor.device)
            unit, most = grid.steps[:, None].to(tensor.device), max(int(numbers.abs().max()), 1)
            left = (tensor.detach().reshape(numbers.shape) / unit - numbers).clamp(-_INSIDE, _INSIDE)
            found[name] = _Tuned(tensor, numbers + left, unit, (numbers != 0).float(), most)
        elif isinstance(tensor, nn.Parameter) and tensor.ndim == 1 and (given[name].requires_grad or all_frozen):
            unit = tensor.detach().square().mean().sqrt().clamp_min(1e-3)
            found[name] = _Tuned(tensor, tensor.detach() / unit, unit)
    for each in found.values():
        each.tensor.requires_grad_(True)
    return found


def _step(student: nn.Module, x: Any, expected: torch.Tensor, tuned: Mapping[str, _Tuned]) -> None:
    """Gradients of the latents for a batch."""
    for each in tuned.values():
        each.show()
        each.tensor.grad = None
    with torch.enable_grad():
        loss = (flattened(student, x) - expected).square().sum(1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
    for each in tuned.values():
        each.pull()
