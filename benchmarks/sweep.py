"""A sweep against the same points one by one: processor seconds, and whether the files are the same."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from deepcompress import networks
from deepcompress.checkpoint import load_checkpoint
from deepcompress.reading.loader import fill
from deepcompress.recipe import Recipe
from deepcompress.studies.sweep import grid, sweep
from deepcompress.training.data import load_data

CHECKPOINT = "models/lenet5-digits.pt"
AXES = {"prune": [0.5, 0.8, 0.9], "bits": [2, 4, 5]}
ROUNDS = 3


def main() -> None:
    """Print the seconds of both ways, interleaved, and their ratio."""
    source = load_checkpoint(CHECKPOINT)
    assert source.network is not None and source.data is not None
    model, data = networks.build_known(source.network), load_data(source.data)
    fill(model, source.state, CHECKPOINT)
    points = grid(Recipe(), AXES)
    sweep(model, data, grid(Recipe(epochs=1, finetune_epochs=1), {}), tempfile.mkdtemp())  # imports and kernels

    def seconds(folder: str, *parts: slice) -> float:
        start = time.process_time()
        for part in parts:
            sweep(model, data, points[part], folder)
        return time.process_time() - start

    alone, together = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as all_of_them:
            alone.append(seconds(one, *(slice(at, at + 1) for at in range(len(points)))))
            together.append(seconds(all_of_them, slice(None)))
            names = [f"{point.name}.dc" for point in points]
            same = sum(Path(one, name).read_bytes() == Path(all_of_them, name).read_bytes() for name in names)
            print(f"one by one {alone[-1]:.1f} s, together {together[-1]:.1f} s, {same} of {len(names)} files the same")
    ratio = statistics.median(together) / statistics.median(alone)
    print(f"medians: {statistics.median(alone):.1f} s, {statistics.median(together):.1f} s, {ratio:.2f}")


if __name__ == "__main__":
    main()
