"""What every folder of tests uses: one thread, and the networks and data of `samples` as fixtures."""

from __future__ import annotations

import os

# Before torch starts its pools: tests are many small computations, which threads only slow down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from samples import NETWORK_FILE, SIDE, Mlp, batches, blobs

from deepcompress.training.loop import fit

torch.set_num_threads(1)
settings.register_profile("default", deadline=None)  # the first example pays for imports
settings.load_profile("default")


@pytest.fixture
def flat_train() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(256, seed=1)


@pytest.fixture
def flat_test() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(128, seed=2)


@pytest.fixture
def image_train() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(256, seed=1, shape=(1, SIDE, SIDE))


@pytest.fixture
def image_test() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(128, seed=2, shape=(1, SIDE, SIDE))


@pytest.fixture
def mlp() -> Mlp:
    torch.manual_seed(0)
    return Mlp()


@pytest.fixture
def dense(mlp, flat_train) -> Mlp:
    """An `mlp` that has learned `flat_train`."""
    fit(mlp, flat_train, torch.optim.SGD(mlp.parameters(), lr=0.1, momentum=0.9), 3, stage="train")
    return mlp


@pytest.fixture
def npz(tmp_path):
    """A data set of SIDE x SIDE images as a user's FILE.npz."""
    path = tmp_path / "blobs.npz"
    (x, y), (x_test, y_test) = blobs(300, 1, (1, SIDE, SIDE)), blobs(100, 2, (1, SIDE, SIDE))
    arrays = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
    np.savez(path, **{key: value.numpy() for key, value in arrays.items()})
    return path


@pytest.fixture
def network_file(tmp_path):
    """A user's file with a factory called ``small`` for those images."""
    path = tmp_path / "mine.py"
    path.write_text(NETWORK_FILE)
    return path
