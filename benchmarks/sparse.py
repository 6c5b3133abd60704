"""Multiply by a pruned layer with shared weights: the compressed form, torch's dense matmul, and scipy's CSR.

Positions are random, and indices normal over 32 shared values, small ones more often than large ones: the densities of
AlexNet's and VGG-16's fully connected layers in tables 4 and 5 of the paper. A plain sketch stands beside: CSR with
columns of 16 bits and codebook indices of 8, compiled by numba. Each round runs all of them once; what is shown is the
median time of torch over theirs, and in brackets the fastest of torch over the fastest of theirs. All must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from measure import machine
from numba import njit
from scipy.sparse import csr_array

from deepcompress.sparse.matrix import FEW, SparseMatrix

Array = np.ndarray[Any, np.dtype[Any]]

#: Name, rows, columns, density.
LAYERS = (
    ("4096×9216, 9 %", 4096, 9216, 0.09),
    ("4096×4096, 9 %", 4096, 4096, 0.09),
    ("4096×25088, 4 %", 4096, 25088, 0.04),
    ("AlexNet fc8, 25 %", 1000, 4096, 0.25),
    ("VGG-16 fc7, 4 %", 4096, 4096, 0.04),
    ("VGG-16 fc8, 23 %", 1000, 4096, 0.23),
)
VALUES = 32


@njit(cache=True, nogil=True)
def sketch(codebook: Array, ends: Array, columns: Array, indices: Array, x: Array, y: Array) -> None:
    """y[row, b] = the row times column b of x, straight from columns and codebook indices."""
    for row in range(y.shape[0]):
        for b in range(y.shape[1]):
            total = np.float32(0)
            for i in range(ends[row], ends[row + 1]):
                total += codebook[indices[i]] * x[b, columns[i]]
            y[row, b] = total


def layer(rows: int, columns: int, density: float) -> tuple[Array, SparseMatrix, tuple[Array, ...]]:
    """The same weights dense, compressed, and as the sketch takes them."""
    rng = np.random.default_rng(0)
    codebook = ((np.arange(VALUES) - (VALUES - 1) / 2) / VALUES).astype(np.float32)  # none of them zero
    kept = rng.random((rows, columns), dtype=np.float32) < density
    drawn = rng.normal((VALUES - 1) / 2, VALUES / 5, np.count_nonzero(kept))
    indices = np.clip(drawn.round(), 0, VALUES - 1).astype(np.uint8)
    dense = np.zeros((rows, columns), dtype=np.float32)
    dense[kept] = codebook[indices]
    ends = np.concatenate(([0], np.cumsum(kept.sum(axis=1)))).astype(np.int32)
    plain = (codebook, ends, np.nonzero(kept)[1].astype(np.uint16), indices)
    return dense, SparseMatrix.build((rows, columns), np.flatnonzero(kept), indices, codebook), plain


def actions(
    dense: Array, packed: SparseMatrix, plain: tuple[Array, ...], x: torch.Tensor, workers: int
) -> dict[str, Callable[[], Array]]:
    """The ways to multiply a batch x (vectors, columns), by name; each gives (vectors, rows)."""
    weight, csr, rows = torch.from_numpy(dense), csr_array(dense), len(dense)

    def compressed() -> Array:
        if len(x) < FEW:
            return packed.times_rows(x.numpy(), workers)
        found = packed.times_columns(x.t().contiguous().numpy(), workers)
        return torch.from_numpy(found).t().contiguous().numpy()

    def sketched() -> Array:
        y = np.empty((rows, len(x)), dtype=np.float32)
        sketch(*plain, x.numpy(), y)
        return y.T

    return {
        "torch": lambda: F.linear(x, weight).numpy(),
        "deepcompress": compressed,
        "scipy CSR": lambda: (csr @ x.numpy().T).T,
        "sketch": sketched,
    }


def measure(ways: dict[str, Callable[[], Array]], runs: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one round that checks that they agree."""
    expected = ways["torch"]()
    for name, way in ways.items():
        assert np.abs(way() - expected).max() <= 1e-5 * np.abs(expected).max(), name
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return taken


def main() -> None:
    """Print a row for each layer and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine()}, torch {torch.__version__}, scipy {scipy.__version__}, {options.threads} thread(s)")
    print(
        f"\n{'layer':<20}{'batch':>6}{'torch, ms':>11}{'deepcompress':>18}{'scipy CSR':>18}{'sketch':>18}{'memory':>9}"
    )
    for name, rows, columns, density in LAYERS:
        dense, packed, plain = layer(rows, columns, density)
        for batch in options.batch:
            x = torch.randn(batch, columns, generator=torch.Generator().manual_seed(0))
            taken = measure(actions(dense, packed, plain, x, options.threads), options.runs if batch < FEW else 9)
            base, cells = taken.pop("torch"), ""
            for found in taken.values():
                ratio, best = statistics.median(base) / statistics.median(found), min(base) / min(found)
                cells += f"{f'{ratio:.2f}× ({best:.2f}×)':>18}"
            print(
                f"{name:<20}{batch:>6}{1e3 * statistics.median(base):>11.2f}{cells}{packed.nbytes / dense.nbytes:>9.1%}"
            )


if __name__ == "__main__":
    main()
