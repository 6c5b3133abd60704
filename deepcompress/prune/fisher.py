"""How much the loss minds a change of each weight: the diagonal of the empirical Fisher matrix.

It stands in for the diagonal of the Hessian (Choi, El-Khamy and Lee 2017; LeCun, Denker and Solla 1990).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from deepcompress.errors import DataError
from deepcompress.networks.inputs import Batches, count_samples, in_float32, predict, rows, to_device
from deepcompress.training import distributed
from deepcompress.training.objective import Objective, cross_entropy

SAMPLES = 4096  # whose gradients are averaged
# What is added to each weight's, in means of its layer: gradients of some samples say little of rare inputs, and after
# training they are small. Less makes files of the same error larger (measured on LeNet-300-100, with a rate).
DAMPING = 3.0


def diagonal(
    model: nn.Module,
    weights: Mapping[str, torch.Tensor],
    batches: Batches,
    objective: Objective = cross_entropy,
    samples: int = SAMPLES,
) -> dict[str, torch.Tensor]:
    """The mean over training samples of the squared gradient of the loss by each weight.

    Each gradient is of *one* sample, by a batch of one, in evaluation mode: dropout passes everything, and batch norm
    uses its running statistics. Gradients of whole batches would be cheaper, but their noise averages out, and what is
    left when it is squared depends on the batch size. The first `samples` that `batches` gives are taken, or all there
    are. Beside the gradients of the model it needs one float32 for each weight.

    Args:
        model: left as it was found, except that its gradients are removed.
        weights: parameters of `model` by name; others in it (buffers) count evenly.
        batches: training data.
        objective: the loss, as retraining minimizes it.
        samples: how many to take.

    Returns:
        float32 like each weight, all positive: `DAMPING` times the layer's mean is added to each.

    Raises:
        DataError: there are no samples.
    """
    was_training, device = model.training, next(model.parameters()).device
    totals = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    model.eval()
    done = 0
    for x, y in _singles(batches, samples):
        x, y = to_device(x, device), to_device(y, device)
        model.zero_grad(set_to_none=True)
        objective(in_float32(predict(model, x)), x, y).backward()  # type: ignore[no-untyped-call]
        for name, weight in weights.items():
            if weight.grad is not None:
                totals[name] += weight.grad.detach().to_dense().float().square()
        done += 1
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    if not done:
        raise DataError("the gradients of training samples are wanted, but the training data has none")
    return distributed.as_first({name: _damped(total / done) for name, total in totals.items()})


def _singles(batches: Batches, samples: int) -> Iterator[tuple[Any, Any]]:
    """The first samples as batches of one."""
    left = samples
    for x, y in batches:
        count = min(count_samples(y), left)
        for index in range(count):
            yield rows(x, index, index + 1), rows(y, index, index + 1)
        left -= count
        if not left:
            return


def _damped(mean: torch.Tensor) -> torch.Tensor:
    """No weight is free: those of dead inputs have gradients of zero, and k-means needs a say of each."""
    level = float(mean.mean()) if mean.numel() else 0.0
    return mean + DAMPING * level if level > 0 else torch.ones_like(mean)
