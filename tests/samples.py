"""Small networks, and synthetic data that they learn at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune
from deepcompress.training.objective import cross_entropy

CLASSES = 4
SIDE = 8

# What a user would write into a file of their own, for --network file.py:factory.
NETWORK_FILE = f"""
from torch import nn


def small():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 20), nn.ReLU(),
        nn.Linear(20, {CLASSES}),
    )


def broken():
    raise RuntimeError("no luck")


def text():
    return "not a network"


not_callable = 3
"""


class Mlp(nn.Module):
    """Two hidden layers with dropout between them, on flat inputs."""

    def __init__(self, inputs: int = 12, classes: int = CLASSES) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, 32)
        self.drop = nn.Dropout(0.4)
        self.fc2 = nn.Linear(32, 16)
        self.fc3 = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.fc1(x)))
        logits: torch.Tensor = self.fc3(torch.relu(self.fc2(x)))
        return logits


def conv_net(batch_norm: bool = False) -> nn.Sequential:
    """Two convolutions and two linear layers, on images of one channel and SIDE x SIDE pixels."""
    norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, CLASSES),
    )  # fmt: skip


def blobs(n: int, seed: int, shape: tuple[int, ...] = (12,)) -> tuple[torch.Tensor, torch.Tensor]:
    """One noisy cloud for each class around its own fixed centre: learned by any network within an epoch or two."""
    centres = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(1000))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    return centres[y] + 0.6 * torch.randn(n, *shape, generator=generator), y


def batches(
    n: int, seed: int, shape: tuple[int, ...] = (12,), size: int = 32
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`blobs` as a list of batches, which can be passed over again and again."""
    x, y = blobs(n, seed, shape)
    return list(zip(x.split(size), y.split(size), strict=True))


def network_and_data(folder: Path) -> tuple[str, str]:
    """A user's own network and data in files, named as --network and --data take them."""
    (folder / "mine.py").write_text(NETWORK_FILE)
    (x, y), (x_test, y_test) = blobs(300, 1, (1, SIDE, SIDE)), blobs(100, 2, (1, SIDE, SIDE))
    np.savez(folder / "blobs.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return f"{folder / 'mine.py'}:small", str(folder / "blobs.npz")


def evidence_of(weights, recipe, model=None, batches=None):
    """What a criterion sees of weights that are all there."""
    return Evidence(model or nn.Module(), weights, Masks.full(weights), recipe, batches)


def pruned_losses(evidence, batches):
    """Prune by the criterion: the cross entropy with its correction of the weights that stay, and without."""
    before = {name: weight.detach().clone() for name, weight in evidence.weights.items()}
    masks = prune(evidence)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    evidence.model.eval()
    with torch.no_grad():
        corrected = float(cross_entropy(evidence.model(x), x, y))
        for name, weight in evidence.weights.items():
            weight.copy_(before[name] * masks.keep[name])
        return corrected, float(cross_entropy(evidence.model(x), x, y))
