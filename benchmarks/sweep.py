"""A sweep against the same points one by one: processor seconds, and whether the files are the same."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from deepcompress.cli.data import Asked, read_model_and_data
from deepcompress.recipe import Recipe
from deepcompress.studies.sweep import grid, sweep

CHECKPOINT = "models/lenet5-digits.pt"
AXES = {"prune": [0.5, 0.8, 0.9], "bits": [2, 4, 5]}
ROUNDS = 3


def main() -> None:
    """Print the seconds of both ways, interleaved, and their ratio."""
    model, data = read_model_and_data(CHECKPOINT, False, None, None, Asked(device="cpu"))
    points = grid(Recipe(), AXES)
    with tempfile.TemporaryDirectory() as folder:  # imports and kernels
        sweep(model, data, grid(Recipe(epochs=1, finetune_epochs=1), {}), folder)

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
    before, now = statistics.median(alone), statistics.median(together)
    print(f"medians: {before:.1f} s, {now:.1f} s, {now / before:.2f}")


if __name__ == "__main__":
    main()
