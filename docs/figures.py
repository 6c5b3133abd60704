"""Draws the pictures of docs/concepts.md, docs/figures/*.png, from checkpoints and .dc files of the project.

python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

import deepcompress as dc
from deepcompress.checkpoint import load_checkpoint
from deepcompress.coding.huffman import code_lengths
from deepcompress.coding.offsets import gaps, to_symbols
from deepcompress.quantize.kmeans import cluster, condense, init_linear
from deepcompress.report.page import GREY, PALETTE, page

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
DENSE = ROOT / "models" / "lenet-300-100.pt"
PACKED = ROOT / "results" / "lenet-300-100-mnist.dc"
LAYER = "fc1.weight"

Array = np.ndarray[Any, np.dtype[Any]]


def weights() -> tuple[Array, Array]:
    """The layer before, dense, and as the .dc file has it: pruned, retrained and shared."""
    dense = load_checkpoint(DENSE).state[LAYER].numpy()
    return dense.reshape(-1), dc.load_state_dict(PACKED)[LAYER].numpy().reshape(-1)


def draw_pruning(dense: Array, packed: Array) -> None:
    """The dense weights of a layer, and the part of them that stays."""
    kept = np.count_nonzero(packed)
    threshold = np.sort(np.abs(dense))[-kept]
    edges = threshold * (1 - 1e-6) * np.arange(-60, 61) / 9  # with the threshold among them
    with page(FIGURES / "pruning.png", (6.5, 2.6)) as figure:
        axes = figure.subplots()
        stays = np.abs(dense) >= threshold
        axes.hist(dense[~stays], edges, color="#c8c8c8", label=f"removed, {100 - 100 * kept / dense.size:.0f} %")
        axes.hist(dense[stays], edges, color=PALETTE[0], label=f"kept, {100 * kept / dense.size:.0f} %")
        for side in (-threshold, threshold):
            axes.axvline(side, color=PALETTE[1], linestyle="--", linewidth=1)
        axes.set_yscale("log")
        axes.set(xlabel="Weight", ylabel="Weights (log scale)")
        axes.legend()


def draw_sharing(dense: Array, packed: Array) -> None:
    """Sixteen shared values: where k-means starts, where it ends, and the steps that it makes of the weights."""
    threshold = np.sort(np.abs(dense))[-np.count_nonzero(packed)]
    alive = dense[np.abs(dense) >= threshold].astype(np.float32)
    start = init_linear(*condense(alive), 16, np.random.default_rng(0))
    found = cluster(alive, 16, "linear", 0)
    with page(FIGURES / "sharing.png", (6.5, 3.2)) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.hist(alive, np.linspace(-0.25, 0.25, 161), color=PALETTE[0])
        top.set_ylabel("Weights")
        for height, (values, mark) in enumerate([(found, "o"), (start, "|")]):
            bottom.plot(values, np.full(len(values), height), mark, color=PALETTE[1 - height], markersize=6)
        bottom.set_yticks([0, 1], ["after\nk-means", "linear\nstart"])
        bottom.set_ylim(-0.6, 1.6)
        bottom.grid(visible=False, axis="y")
        bottom.set_xlabel("Weight, and shared values")


def draw_offsets() -> None:
    """A pruned row as the file has it: offsets and indices, with a filler where a gap is too long for 3 bits."""
    row = np.zeros(24, dtype=np.int64)  # 1 + the index of each weight's shared value
    row[[1, 4, 15, 17, 22]] = [3, 1, 2, 2, 1]
    filler = 7
    ends, at = [], -1
    for symbol in to_symbols(gaps(np.flatnonzero(row)), 3).tolist():
        at += filler if symbol == filler else symbol + 1
        ends.append((at, symbol))
    with page(FIGURES / "offsets.png", (6.5, 1.5)) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_xlim(-0.1, 24.1)
        axes.set_ylim(-2.6, 1.1)
        for x, value in enumerate(row):
            axes.add_patch(_box(x, 0, PALETTE[value - 1] if value else "white", "#b0b0b0"))
            if value:
                axes.text(x + 0.5, 0.5, f"{value - 1}", ha="center", va="center", color="white", weight="bold")
        for place, symbol in ends:
            axes.annotate("", (place + 0.5, -0.1), (place + 0.5, -1.0), arrowprops={"arrowstyle": "->", "color": GREY})
            axes.text(place + 0.5, -1.5, str(symbol), ha="center", va="center", size=9)
            if symbol == filler:
                axes.text(place + 0.5, -2.3, "filler", ha="center", va="center", size=8, color=GREY)


def _box(x: float, y: float, color: str, edge: str) -> Rectangle:
    return Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, facecolor=color, edgecolor=edge, linewidth=0.8)


def draw_huffman(packed: Array) -> None:
    """How often each shared value occurs in a layer, and the length of the code that it gets."""
    alive = packed[packed != 0]
    values, counts = np.unique(alive, return_counts=True)
    lengths = code_lengths(counts.tolist())
    shares = counts / counts.sum()
    with page(FIGURES / "huffman.png", (6.5, 2.6)) as figure:
        axes = figure.subplots()
        axes.bar(range(len(values)), 100 * shares, color=PALETTE[0])
        for index, (share, length) in enumerate(zip(shares, lengths, strict=True)):
            axes.text(index, 100 * share, str(length), ha="center", va="bottom", size=8)
        mean = float((shares * lengths).sum())
        entropy = float(-(shares * np.log2(shares)).sum())
        axes.set_xlabel(f"Shared value (above: bits of its code; {mean:.2f} on average, entropy {entropy:.2f})")
        axes.set_ylabel("Of the weights (%)")
        axes.set_xticks([0, len(values) - 1], [f"{values[0]:.3f}", f"{values[-1]:.3f}"])


def main() -> None:
    """Draw all of them."""
    FIGURES.mkdir(exist_ok=True)
    dense, packed = weights()
    draw_pruning(dense, packed)
    draw_sharing(dense, packed)
    draw_offsets()
    draw_huffman(packed)


if __name__ == "__main__":
    main()
