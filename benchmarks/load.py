"""Load a network of AlexNet's layer shapes: a .dc file, and the dense fp32 checkpoint that one would load instead.

61 million weights at the densities and bit widths of table 4 of the paper: positions are random, and values come from
a codebook, small ones more often than large ones. Files are in the page cache, the kernels compiled. Every figure is
the median of several rounds in which each loader runs once; all of them must give the very same tensors. safetensors
maps its file and reads nothing before a tensor is used, so the row that compares with the others copies every tensor.

What the first load of a process takes is told apart, because it imports numba and fetches the kernels from their cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import machine, medians, no_kernels
from safetensors.torch import load_file, save_file

from deepcompress.coding.encoder import CODERS, encode_coded, encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.container.writer import pack
from deepcompress.reading.loader import load_state_dict

State = dict[str, torch.Tensor]

# Name, shape, density, bits of an index.
LAYERS = (
    ("conv1", (96, 3, 11, 11), 0.84, 8),
    ("conv2", (256, 48, 5, 5), 0.38, 8),
    ("conv3", (384, 256, 3, 3), 0.35, 8),
    ("conv4", (384, 192, 3, 3), 0.37, 8),
    ("conv5", (256, 192, 3, 3), 0.37, 8),
    ("fc6", (4096, 9216), 0.09, 5),
    ("fc7", (4096, 4096), 0.09, 5),
    ("fc8", (1000, 4096), 0.25, 5),
)

# Runs in a process of its own and prints seconds: the import of numba, if any, and the first load.
FIRST = """
import sys, time
import torch
from deepcompress.reading.loader import load_state_dict
torch.set_num_threads(1)
start = time.perf_counter()
if sys.argv[1] == "dc":
    import numba
imported = time.perf_counter()
load_state_dict(sys.argv[2]) if sys.argv[1] == "dc" else torch.load(sys.argv[2])
print(imported - start, time.perf_counter() - imported)
"""


def write(folder: Path, coder: str) -> None:
    """The same network as network.dc, network.pt and network.safetensors."""
    rng = np.random.default_rng(0)
    state, encoded = {}, []
    for name, shape, density, bits in LAYERS:
        shared = 1 << bits
        codebook = (np.arange(shared, dtype=np.float32) - (shared - 1) / 2) / shared  # none of them zero
        weight = np.zeros(shape, dtype=np.float32)
        kept = rng.random(shape) < density
        drawn = rng.normal((shared - 1) / 2, shared / 5, np.count_nonzero(kept))
        weight[kept] = codebook[np.clip(drawn.round(), 0, shared - 1).astype(np.intp)]
        bias = rng.normal(0, 0.1, shape[0]).astype(np.float32)
        encoded.append((f"{name}.weight", encode_coded(weight, DType.FLOAT32, codebook, coder)))
        encoded.append((f"{name}.bias", encode_plain(bias, DType.FLOAT32)))
        state |= {f"{name}.weight": torch.from_numpy(weight), f"{name}.bias": torch.from_numpy(bias)}
    (folder / "network.dc").write_bytes(pack(encoded))
    torch.save(state, folder / "network.pt")
    save_file(state, folder / "network.safetensors")


def loaders(folder: Path, threads: int, without_numba: bool) -> dict[str, Callable[[], State]]:
    """Every way to load the network, by the name of its row."""
    packed, dense, tensors = (folder / f"network.{kind}" for kind in ("dc", "pt", "safetensors"))

    def by_numpy() -> State:
        with no_kernels():
            return load_state_dict(packed, threads=1)

    rows: dict[str, Callable[[], State]] = {"deepcompress, 1 thread": lambda: load_state_dict(packed, threads=1)}
    if threads > 1:
        rows[f"deepcompress, {threads} threads"] = lambda: load_state_dict(packed, threads=threads)
    if without_numba:
        rows["deepcompress, no numba"] = by_numpy
    return rows | {
        "torch.load": lambda: torch.load(dense),
        "safetensors, copied": lambda: {name: value.clone() for name, value in load_file(tensors).items()},
        "safetensors, mapped": lambda: load_file(tensors),
    }


def check(rows: dict[str, Callable[[], State]]) -> None:
    """All of them give the same tensors; and nothing is compiled or imported for the first time afterwards."""
    expected = rows["torch.load"]()
    for name, load in rows.items():
        found = load()
        assert found.keys() == expected.keys(), name
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name


def above_tensors(rows: dict[str, Callable[[], State]]) -> float:
    """MB (10^6 bytes) that loading allocates beside what it returns, at most: of numpy's and Python's memory."""
    tracemalloc.start()
    state = rows["deepcompress, 1 thread"]()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (peak - sum(value.nbytes for value in state.values())) / 1e6


def first_load(kind: str, path: Path, repeats: int) -> tuple[float, float]:
    """Median seconds, in new processes: the import of numba, and the first load."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, "-c", FIRST, kind, str(path)]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        runs.append(tuple(map(float, done.stdout.split())))
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def main() -> None:
    """Print one row a loader, and what the first load of a process takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--coder", choices=CODERS, default="huffman")
    parser.add_argument("--only-numba", action="store_true", help="Leave out the slow row without it.")
    parser.add_argument("--processor", action="store_true", help="Processor seconds, on a machine that others use.")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.coder)
        sizes = {path.suffix[1:]: path.stat().st_size / 1e6 for path in folder.iterdir()}
        print(f"Loading: medians of {options.repeats} runs; {machine()}, torch {torch.__version__}")
        print(f"61 M weights: .dc {sizes['dc']:.1f} MB, .pt and .safetensors {sizes['pt']:.1f} MB\n")
        rows = loaders(folder, options.threads, not options.only_numba)
        check(rows)
        taken = medians(rows, options.repeats, time.process_time if options.processor else time.perf_counter)
        print(f"{'loader':<26}{'ms':>8}{'÷ torch.load':>15}{'÷ safetensors, copied':>24}")
        for row, seconds in taken.items():
            ratios = (seconds / taken["torch.load"], seconds / taken["safetensors, copied"])
            print(f"{row:<26}{1e3 * seconds:>8.1f}{ratios[0]:>14.2f}×{ratios[1]:>23.2f}×")
        print(f"\npeak memory above the tensors, 1 thread: {above_tensors(rows):.1f} MB")
        imported, loaded = first_load("dc", folder / "network.dc", options.repeats)
        _, dense = first_load("pt", folder / "network.pt", options.repeats)
        print(
            f"\nFirst load of a process, 1 thread: {1e3 * loaded:.0f} ms after {1e3 * imported:.0f} ms for importing "
            f"numba; torch.load {1e3 * dense:.0f} ms"
        )


if __name__ == "__main__":
    main()
