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

FEWEST = 8


def collect(network: nn.Module, batches: Iterable[Any], watch: Progress | None = None) -> Statistics:
    """What the layers of `network`, in evaluation, meet on `batches` of inputs (see `networks.inputs.predict`).

    Raises:
        DataError: there are fewer than `FEWEST` samples, NaN or infinity among them, or the output of the network is
            not finite, has no gradient, or is the same for all of them.
        NetworkError: the network does not take them.
    """
    found, watch, generator = Statistics(), watch or Progress(), torch.Generator().manual_seed(0)
    place = next(network.parameters()).device
    outputs: list[torch.Tensor] = []
    with watched(network, found), torch.enable_grad():
        for x in batches:
            _check(x, found.samples)
            watch.work("calibrate", found.samples, 0, "samples")
            flat = _flat(predict(network, to_device(x, place)), count_samples(x))
            if not flat.requires_grad:
                raise DataError("the output of the network has no gradient: calibration needs one (no torch.no_grad)")
            noise = torch.randn(flat.shape, generator=generator).to(flat)
            network.zero_grad(set_to_none=True)
            (flat * noise).sum().backward()  # type: ignore[no-untyped-call]
            found.samples += len(flat)
            outputs.append(flat.detach().cpu())
    network.zero_grad(set_to_none=True)
    if found.samples < FEWEST:
        raise DataError(
            f"there are {found.samples} samples to calibrate on, and at least {FEWEST} are needed (try 256)"
        )
    widths = {each.shape[1] for each in outputs}
    found.power = _power(outputs if len(widths) == 1 else [each.mean(1, keepdim=True) for each in outputs])
    return found


def _power(outputs: list[torch.Tensor]) -> float:
    power = float(torch.cat(outputs).double().var(0).sum())
    if not power > 0 or power == float("inf"):
        raise DataError("the output of the network is the same for all samples, so nothing tells what matters to it")
    return power


def _check(x: Any, before: int) -> None:
    for tensor in tensors_in(x):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"there is NaN or infinity in the samples to calibrate on, from number {before} on")


def _flat(output: Any, samples: int) -> torch.Tensor:
    """All floating-point numbers of an output, (samples, numbers)."""
    parts = [part.reshape(len(part), -1) for part in tensors_in(output)
             if part.is_floating_point() and part.ndim and len(part) == samples]  # fmt: skip
    if not parts:
        raise DataError(
            "the network gives no floating-point numbers for each sample, so there is nothing to calibrate to"
        )
    flat = torch.cat(parts, 1).float()
    if not torch.isfinite(flat).all():
        raise DataError("the output of the network holds NaN or infinity for the samples to calibrate on")
    return flat
