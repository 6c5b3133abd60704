"""What `deepcompress compress` costs in epochs of dense training, both measured in one run on this machine.

Times are of the processor. Dense epochs are timed before and after the compression, because a shared machine changes
its speed even so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from deepcompress import networks
from deepcompress.checkpoint import load_checkpoint
from deepcompress.compression import pipeline
from deepcompress.reading.loader import fill
from deepcompress.recipe import Recipe
from deepcompress.training.data import DataSet, load_data
from deepcompress.training.dense import DenseSettings, train_dense

DENSE_EPOCHS = 2


def dense_epoch_seconds(network: str, data: DataSet) -> float:
    """Processor seconds of one epoch of dense training, validation included, as `deepcompress train` does it."""
    start = time.process_time()
    train_dense(networks.build_known(network), data, DenseSettings(epochs=DENSE_EPOCHS), torch.device("cpu"))
    return (time.process_time() - start) / DENSE_EPOCHS


def main() -> None:
    """Print the cost of compression in dense epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="models/lenet5.pt")
    parser.add_argument("--prune", type=float, default=0.92)
    parser.add_argument("--bits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = load_checkpoint(options.checkpoint)
    if source.network is None or source.data is None:
        raise SystemExit(f"{options.checkpoint} names no network or no data")
    data = load_data(source.data)
    model = networks.build_known(source.network)
    fill(model, source.state, options.checkpoint)
    recipe = Recipe(prune=options.prune, bits=options.bits, seed=options.seed)

    before = dense_epoch_seconds(source.network, data)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = pipeline.compress(
            model,
            data.train_loader(recipe.batch_size, recipe.seed, recipe.shift),
            data.val_loader(),
            recipe,
            Path(folder) / "model.dc",
            test_loader=data.test_loader(),
        )
    seconds = time.process_time() - start
    after = dense_epoch_seconds(source.network, data)
    epoch = (before + after) / 2
    print(f"dense epoch: {before:.2f} s before, {after:.2f} s after; compress: {seconds:.1f} s")
    print(f"compress costs {seconds / epoch:.1f} epochs of dense training; {result.file_bytes:,} bytes")


if __name__ == "__main__":
    main()
