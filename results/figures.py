"""Draws results/figures/*.png, from the .json and .dc files of reproduce.py.

python results/figures.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
from pruning import NETWORKS, PRUNERS
from report import PUBLISHED, errors, load, whole_numbers
from reproduce import CONV, FEWER_BITS, MLP, PAPER_RECIPES, RESULTS, ROOT, SIZES, entries

from deepcompress.checkpoint import load_checkpoint
from deepcompress.container.breakdown import inspect
from deepcompress.container.reader import ModelFile
from deepcompress.report.plots import (
    Curve,
    draw_bytes,
    draw_curves,
    draw_image,
    draw_panels,
    draw_sensitivity,
    draw_weights,
    weight_picture,
)

FIGURES = RESULTS / "figures"


def curve(name: str, label: str, x: str, *, where: dict[str, Any] | None = None, **looks: Any) -> Curve:
    """Test error over the column `x` of a sweep, of the rows that have the settings `where`."""
    rows = [row for row in load(f"studies/{name}")["rows"] if all(row[k] == v for k, v in (where or {}).items())]
    rows.sort(key=lambda row: row[x])
    return Curve(label, [row[x] for row in rows], [row["test_error"] for row in rows], **looks)


def draw_stages() -> None:
    """Han 2016, figure 6: pruning alone, sharing alone, both."""
    curves = [
        curve("pruning-alone", "pruning alone", "ratio"),
        curve("sharing-alone", "sharing alone", "ratio"),
        curve("pruning-and-sharing", "pruning, then 5 bits", "ratio", where={"bits": 5}),
        curve("pruning-and-sharing", "pruning, then 3 bits", "ratio", where={"bits": 3}),
    ]
    curves = [Curve(c.label, [1 / ratio for ratio in c.x][::-1], c.y[::-1]) for c in curves]
    draw_curves(
        curves, FIGURES / "stages.png", xlabel="File size (% of dense fp32, log scale)", ylabel="Test error (%)",
        xlog=True, xpercent=True, ylim=(0.5, 4), reference=("dense", errors(load("lenet-300-100-mnist"))[0]),
        points=[("Han 2016", 1 / 40, 1.58)],
    )  # fmt: skip


def draw_bits() -> None:
    """Han 2016, figure 7: bits of convolutions, and of fully connected layers, dense and pruned."""
    panels = [
        (title, [curve(f"bits-{kind}", "dense", axis), curve(f"bits-{kind}-pruned", "92 % pruned", axis, dashed=True)])
        for title, kind, axis in (("Convolutions", "conv", "conv_bits"), ("Fully connected layers", "fc", "bits"))
    ]
    draw_panels(
        panels, FIGURES / "bits.png", xlabel="Bits of a codebook index", ylabel="Test error (%)", ylim=(0, 6)
    )  # fmt: skip


#: Criteria told apart in one picture.
SHOWN = ("magnitude", "obs", "woodfisher", "taylor1", "taylor2", "l1-factor", "empirical", "random")


def draw_pruners() -> None:
    """Error against sparsity without retraining, for criteria that differ."""
    panels = []
    for network, (title, _) in NETWORKS.items():
        rows = load(f"pruners/{network}-not-retrained")["rows"]
        curves = []
        for index, criterion in enumerate(SHOWN):
            points = sorted((row["prune"], row["test_error"]) for row in rows if row["criterion"] == criterion)
            if points:
                curves.append(Curve(criterion, *map(list, zip(*points, strict=True)), color=index))
        panels.append((title, curves))
    draw_panels(
        panels, PRUNERS / "not-retrained.png", xlabel="Weights removed (%)", ylabel="Test error (%, log scale)",
        ylog=True, xsparsity=True, size=(6.5, 3.2),
    )  # fmt: skip


def draw_inits() -> None:
    """Han 2016, figure 8: where k-means starts."""
    panels = [
        (title, [curve(name, init, "bits", where={"init": init}) for init in ("linear", "density", "random")])
        for title, name in (
            ("LeNet-300-100, centroids tuned", "init-tuned"),
            ("LeNet-5, not tuned", "init-lenet5"),
        )
    ]
    draw_panels(
        panels, FIGURES / "initialization.png", xlabel="Bits of a codebook index", ylabel="Test error (%, log scale)",
        ylog=True, size=(5.5, 2.9),
    )  # fmt: skip


def draw_retraining() -> None:
    """Han 2015, figure 5: penalties, with and without retraining, at once and step by step."""
    draw_curves(
        [
            curve("l2-no-retraining", "L2, no retraining", "prune", dashed=True),
            curve("l1-no-retraining", "L1, no retraining", "prune", dashed=True),
            curve("l1-retraining", "L1, one shot, retrained", "prune"),
            curve("l2-retraining", "L2, one shot, retrained", "prune"),
            curve("l2-iterative", "L2, iterative, retrained", "prune"),
        ],
        FIGURES / "retraining.png", xlabel="Weights removed (%)", ylabel="Test error (%)", xpercent=True, ylim=(0.5, 8),
        reference=("dense", errors(load("lenet-300-100-mnist"))[0]),
    )  # fmt: skip


SENSITIVITIES = ("lenet-300-100", "lenet-300-100-retrained", "lenet5")


def draw_sensitivities() -> None:
    """Han 2015, figure 6: one layer at a time."""
    for name in SENSITIVITIES:
        found = load(f"studies/sensitivity-{name}")
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in found["rows"]:
            curves.setdefault(row["layer"], []).append((row["sparsity"], row["error"]))
        draw_sensitivity(curves, found["dense_error"], FIGURES / f"sensitivity-{name}.png")


def draw_weight_histograms() -> None:
    """Weights before, and the shared values after."""
    for recipe, checkpoint in (("lenet-300-100-han2016", MLP), ("lenet5-han2016", CONV)):
        path = RESULTS / f"{recipe}-seed0.dc"
        dense = load_checkpoint(ROOT / checkpoint).state
        with ModelFile(path) as file:
            names = [name for name in file if name.endswith(".weight")]
            pictures = [weight_picture(file, name, dense[name].flatten().to(torch.float32).numpy()) for name in names]
        draw_weights(pictures, FIGURES / f"weights-{recipe}.png")
        draw_bytes(inspect(path), FIGURES / f"bytes-{recipe}.png")


def draw_pixels() -> None:
    """Which pixels LeNet-300-100 still reads: connections of each to the first layer (Han 2015, section 3.5)."""
    with ModelFile(RESULTS / "lenet-300-100-han2016-seed0.dc") as file:
        weights, dtype = file.read("fc1.weight")
    alive = np.count_nonzero(weights.view(dtype.bits), axis=0).reshape(28, 28)
    draw_image(alive, FIGURES / "pixels.png", label="connections to the 300 units of fc1")


def draw_resnet() -> None:
    """Size against error of ResNet-20."""
    names = ("resnet20-distilled", *(f"resnet20-distilled-bits{bits}" for bits in FEWER_BITS))
    found = [load(name) for name in names]
    others = {"resnet20-prune0.8-bits4": "80 % pruned, 4 bits, 9 epochs", "resnet20-44kb": "--target-size, 16 epochs"}
    draw_curves(
        [Curve("73 % pruned; 4, 3 and 2 bits", *zip(*sorted(map(size_and_error, found)), strict=True))],
        FIGURES / "resnet20.png", xlabel="File size (KB)", ylabel="Test error (%, log scale)", ylog=True,
        reference=("dense", errors(load("resnet20-44kb"))[0]),
        points=[(label, *size_and_error(load(name))) for name, label in others.items()],
    )  # fmt: skip


def draw_fronts() -> None:
    """Size against error on MNIST of what is made to be small, seed by seed, with what is published."""
    recipes = (*PAPER_RECIPES, *SIZES)
    for record in PUBLISHED["records"]:
        network = record["network"]
        draw_front(network, [recipe for recipe in recipes if recipe.startswith(network)], record["points"])


def draw_spotter() -> None:
    """The same of the keyword spotter, with whole numbers and brotli."""
    rounded = [(setting, size / 1000, error) for setting, size, error in whole_numbers("ds-cnn-xs")]
    draw_front("ds-cnn-xs", [name for name in SIZES if name.startswith("ds-cnn-xs")], rounded)


def draw_front(network: str, recipes: Sequence[str], points: Iterable[Sequence[Any]]) -> None:
    """Size against error of all seeds of some recipes, with `points`: name, size in KB, and error."""
    groups = [seeds_of(recipe) for recipe in recipes]
    x, y = zip(*sorted(tuple(map(mean, zip(*group, strict=True))) for group in groups), strict=True)
    runs = [run for group in groups for run in group]
    draw_curves(
        [Curve("deepcompress: whole files, each seed and their means", x, y, runs=runs)],
        FIGURES / f"front-{network}.png", xlabel="File size (KB, log scale)", ylabel="Test error (%)", xlog=True,
        points=[tuple(point) for point in points], size=(5.5, 3.6),
    )  # fmt: skip


def seeds_of(recipe: str) -> list[tuple[float, float]]:
    """Size in KB, and test error in percent, of each file of a recipe."""
    return [size_and_error(load(name)) for name in entries() if name.rpartition("-seed")[0] == recipe]


def size_and_error(entry: dict[str, Any]) -> tuple[float, float]:
    """Size of a file in KB, and test error of the network in it in percent."""
    return entry["file_bytes"] / 1000, errors(entry)[1]


def main() -> None:
    """Draw every figure."""
    FIGURES.mkdir(exist_ok=True)
    for draw in (
        draw_stages, draw_bits, draw_inits, draw_retraining, draw_sensitivities, draw_weight_histograms, draw_pixels,
        draw_resnet, draw_fronts, draw_spotter, draw_pruners,
    ):  # fmt: skip
        draw()


if __name__ == "__main__":
    main()
