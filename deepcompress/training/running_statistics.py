"""Running statistics of batch norms, estimated anew for weights that have just been rounded.

Rounding moves the outputs of a layer all at once, and weights that jump between two shared values keep them moving:
running statistics then lag behind what evaluation meets. Layers with few inputs to a channel, such as depthwise
convolutions, suffer most (Nagel, Fournarakis, Bondarenko and Blankevoort 2022).
"""

from __future__ import annotations

from itertools import islice

import torch

from deepcompress.networks.batchnorm import averaging, running_norms
from deepcompress.networks.inputs import Batches, count_samples, predict, to_device
from deepcompress.training import distributed
from deepcompress.training.loop import Hooks
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import undone_if_worse

MOST = 100  # batches, as many as estimate a mean and a variance well


def estimate_statistics(run: Run) -> None:
    """Estimate the running statistics of all norms that are not frozen from training data, in place.

    It is undone where validation says that they were better before. Nothing happens without training data.
    """
    batches = run.batches
    if batches is None or run.recipe.freeze_bn or not running_norms(run.model):
        return
    undone_if_worse(run, Hooks(), "batch norm", lambda: _estimate(run.model, batches))


@torch.no_grad()
def _estimate(model: torch.nn.Module, batches: Batches) -> None:
    device = next(model.parameters()).device
    with averaging(model):
        for x, y in islice(batches, MOST):
            x, y, _ = distributed.own_part(to_device(x, device), to_device(y, device))
            if count_samples(y) > 1:  # one sample may have no variance
                predict(model, x)
    distributed.average_statistics(model)
