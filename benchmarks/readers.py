"""How fast the package and the C reader decode the same files on one core: `python benchmarks/readers.py`.

Each number is the best of several tries, and package and C take turns. It needs a C compiler.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from deepcompress.container.reader import ModelFile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "conformance"))
import craft  # noqa: E402

ROUNDS = 5


def matrix(shape: tuple[int, int], density: float) -> tuple[craft.Array, craft.Book]:
    """Weights of 31 shared values, small ones more often, of which `density` are not zero."""
    rng = np.random.default_rng(0)
    half = np.linspace(0.02, 0.3, 16)
    values = np.concatenate([-half[:15], half]).astype("<f4")
    chances = np.exp(-15 * np.abs(values))
    weights = rng.choice(values, size=shape, p=chances / chances.sum())
    weights[rng.random(shape) >= density] = 0
    return weights, craft.entries(values)


def tensors() -> dict[str, tuple[craft.Tensor, int]]:
    """What is decoded, each with the version of its file."""
    huffman, adaptive = (1000, 4000), (500, 1000)
    floats = np.random.default_rng(0).normal(size=(1000, 1000)).astype("<f4")
    return {
        "Huffman, a tenth not zero": (craft.coded("w", *matrix(huffman, 0.1), b=4), 1),
        "Huffman, 30 % not zero": (craft.coded("w", *matrix(huffman, 0.3), b=3), 1),
        "Huffman, all not zero": (craft.coded("w", *matrix(huffman, 1.0)), 1),
        "byte planes of floats": (craft.planes("w", floats), 1),
        "adaptive, 1 % not zero": (craft.adaptive("w", *matrix(adaptive, 0.01)), 2),
        "adaptive, a tenth not zero": (craft.adaptive("w", *matrix(adaptive, 0.1)), 2),
        "adaptive, all not zero": (craft.adaptive("w", *matrix(adaptive, 1.0)), 2),
    }


def by_package(path: Path) -> float:
    """Seconds of one core."""
    with ModelFile(path) as file:
        start = time.process_time()
        file.read("w")
        return time.process_time() - start


def main() -> None:
    """Prints a table in Markdown."""
    print("| tensor | package, M elements/s | C | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bench, path = Path(folder) / "bench", Path(folder) / "w.dc"
        sources = [ROOT / "readers" / "c" / name for name in ("deepcompress.c", "bench.c")]
        subprocess.run(["cc", "-std=c99", "-O3", "-o", bench, *sources], check=True)
        for name, (tensor, version) in tensors().items():
            path.write_bytes(craft.File([tensor], version, flags=craft.CHECKED if version > 1 else 0).to_bytes())
            seconds, rates = [by_package(path) for _ in range(2)], []
            for _ in range(ROUNDS):
                seconds.append(by_package(path))
                said = subprocess.run([bench, path], capture_output=True, text=True, check=True).stdout
                rates += map(float, re.findall(r"([\d.]+) M elements/s", said))
            package = len(tensor.raw) / 4 / min(seconds) / 1e6
            print(f"| {name} | {package:.1f} | {max(rates):.1f} | {max(rates) / package:.2f} |", flush=True)


if __name__ == "__main__":
    main()
