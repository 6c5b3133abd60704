"""One pass over samples, forwards and backwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from deepcompress.calibration.hooks import watched
from deepcompress.calibration.statistics import Statistics
from deepcompress.errors import DataError
from deepcompress.networks.inputs import count_samples, predict, tensors_in, to_device
from deepcompress.training.progress import Progress


def collect(network: nn.Module, batches: Iterable[Any], watch: Progress | None = None) -> Statistics:
    """What the layers of `network`, in evaluation, meet on `batches` of inputs (see `networks.inputs.predict`).

    Raises:
        DataError: there is NaN or infinity among the samples, or the output of the network is not finite, has no
            gradient, or is the same for all of them.
        NetworkError: the network does not take them.
    """
    found, watch, generator = Statistics(), watch or Progress(), torch.Generator().manual_seed(0)
    outputs: list[torch.Tensor] = []
    with watched(network, found), torch.enable_grad():
        for x in batches:
            watch.work("calibrate", found.samples, 0, "samples")
            flat = output_of(network, x, found.samples)
            if not flat.requires_grad:
                raise DataError("the output of the network has no gradient: calibration needs one (no torch.no_grad)")
            noise = torch.randn(flat.shape, generator=generator).to(flat)
            network.zero_grad(set_to_none=True)
            (flat * noise).sum().backward()  # type: ignore[no-untyped-call]
            found.end_batch(len(flat), network.parameters())
            outputs.append(flat.detach().cpu())
    network.zero_grad(set_to_none=True)
    found.power = _power(outputs)
    return found


def output_of(network: nn.Module, x: Any, before: int = 0) -> torch.Tensor:
    """All floating-point numbers that `network` gives for a batch, float32 (samples, numbers).

    Args:
        network: on its device.
        x: the batch.
        before: samples before these, for messages.

    Raises:
        DataError: there is NaN or infinity in the batch or the output, or no floating-point number for each sample.
        NetworkError: the network does not take the batch.
    """
    for tensor in tensors_in(x):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"there is NaN or infinity in the samples to calibrate on, from number {before} on")
    flat = flattened(network, x)
    if not torch.isfinite(flat).all():
        raise DataError("the output of the network holds NaN or infinity for the samples to calibrate on")
    return flat


def flattened(network: nn.Module, x: Any) -> torch.Tensor:
    """As `output_of`, whatever the numbers are."""
    samples, output = count_samples(x), predict(network, to_device(x, next(network.parameters()).device))
    parts = [part.reshape(len(part), -1) for part in tensors_in(output)
             if part.is_floating_point() and part.ndim and len(part) == samples]  # fmt: skip
    if not parts:
        raise DataError(
            "the network gives no floating-point numbers for each sample, so there is nothing to calibrate to"
        )
    return torch.cat(parts, 1).float()


def _power(outputs: list[torch.Tensor]) -> float:
    """The variance of an output, summed over its numbers; of all numbers together where samples differ in length."""
    if len({each.shape[1] for each in outputs}) == 1:
        power = float(torch.cat(outputs).double().var(0).sum())
    else:
        numbers = torch.cat([each.reshape(-1) for each in outputs]).double()
        power = float(numbers.var()) * len(numbers) / sum(map(len, outputs))
    if not power > 0 or power == float("inf"):
        raise DataError("the output of the network is the same for all samples, so nothing tells what matters to it")
    return power
