"""Lossless recoding: the files in results/ by Huffman and by context mixing, beside the entropy of their streams.

The entropy is that of order 0 of each layer's gaps between weights and of its codebook indices: what a perfect coder
without context would take, tables free. Beside it the bytes of the same streams, tables included and codebooks not;
last the whole file as it is and recoded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import deepcompress as dc
from deepcompress.container.breakdown import Breakdown, inspect

RESULTS = Path(__file__).resolve().parent.parent / "results"

Array = np.ndarray[Any, np.dtype[Any]]


def entropy(symbols: Array) -> float:
    """Order-0 entropy of all symbols together, in bytes."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(counts.sum() / counts)).sum()) / 8


def floor_of(values: Array) -> float:
    """Entropy of the gaps and of the values of a layer, in bytes."""
    flat = values.reshape(-1)
    positions = np.flatnonzero(flat)
    return entropy(np.diff(positions, prepend=-1)) + entropy(flat[positions])


def streams_of(found: Breakdown, names: list[str]) -> int:
    """Bytes of the layers `names` without their codebooks."""
    return sum(layer.bytes - layer.parts.get("codebooks", 0) for layer in found.layers if layer.name in names)


def row(path: Path) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / "again.dc"
        dc.recode(path, again)
        before, after = inspect(path), inspect(again)
    with dc.open(path) as file:
        names = [layer.name for layer in before.layers if layer.kind == "coded"]
        floor = sum(floor_of(file[name].numpy()) for name in names)
    old, new = (streams_of(found, names) for found in (before, after))
    files = f"{before.file_bytes:>9,}{after.file_bytes:>9,}{100 * (after.file_bytes / before.file_bytes - 1):>+8.1f} %"
    return f"{path.stem:<32}{old:>9,}{floor:>11,.0f}{new:>9,}{100 * (new / floor - 1):>+10.1f} %{files}"


def main() -> None:
    """Print one line a file of version 1."""
    paths = [Path(name) for name in sys.argv[1:]] or sorted(RESULTS.glob("*.dc"))
    head = f"{'':<32}{'Huffman':>9}{'entropy':>11}{'context':>9}{'':>12}{'file':>9}{'recoded':>9}"
    print(head)
    for path in paths:
        if inspect(path).format_version == 1:
            print(row(path), flush=True)


if __name__ == "__main__":
    main()
