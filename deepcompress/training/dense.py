"""Training a dense reference network, from scratch or on from weights that it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from deepcompress.recipe import check_number
from deepcompress.training.data import DataSet
from deepcompress.training.loop import fit, seed_everything
from deepcompress.training.objective import Classification
from deepcompress.training.progress import Progress


@dataclass(frozen=True)
class DenseSettings:
    """SGD with Nesterov momentum 0.9.

    `shift`, `flip`: random shifts of the training images in pixels, and mirror images; None takes the data set's own.
    `lr_schedule`, `precision`: see `training.loop.fit`.
    """

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.02
    weight_decay: float = 5e-4
    shift: int | None = None
    flip: bool | None = None
    label_smoothing: float = 0.0
    lr_schedule: str = "cosine"
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_number(self.label_smoothing, "label_smoothing", 0, 0.99)


def train_dense(
    model: nn.Module,
    data: DataSet,
    settings: DenseSettings,
    device: torch.device,
    progress: Progress | None = None,
) -> nn.Module:
    """Train `model`, in place, on the training part of `data`; the last epoch's weights are the result."""
    seed_everything(settings.seed)
    data = data.to(device)
    model.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    fit(
        model,
        data.train_loader(settings.batch_size, settings.seed, settings.shift, settings.flip),
        optimizer,
        settings.epochs,
        stage="train",
        val_batches=data.val_loader(),
        objective=Classification(settings.label_smoothing),
        lr_schedule=settings.lr_schedule,
        precision=settings.precision,
        progress=progress,
    )
    return model
