"""How fast the package and the readers decode the same files on one core: `python benchmarks/readers.py`.

Each number is the best of several tries, and they take turns. A reader whose language is not installed is left out. The
reader in Python decodes smaller tensors of the adaptive coder: it takes a tenth of a millisecond for each element.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import encode_coded
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "conformance"), str(ROOT / "readers" / "python")]
import craft  # noqa: E402
import deepcompress_reader  # noqa: E402

ROUNDS = 3
DENSITIES = {"1 % not zero": 0.01, "a tenth not zero": 0.1, "30 % not zero": 0.3, "all not zero": 1.0}


def matrix(shape: tuple[int, int], density: float) -> tuple[craft.Array, craft.Book]:
    """Weights of 31 shared values, small ones more often, of which `density` are not zero."""
    rng = np.random.default_rng(0)
    half = np.linspace(0.02, 0.3, 16)
    values = np.concatenate([-half[:15], half]).astype("<f4")
    chances = np.exp(-15 * np.abs(values))
    weights = rng.choice(values, size=shape, p=chances / chances.sum())
    weights[rng.random(shape) >= density] = 0
    return weights, craft.entries(values)


def huffman(density: float, b: int) -> bytes:
    """A file of version 1."""
    return craft.File([craft.coded("w", *matrix((1000, 4000), density), b=b)], 1).to_bytes()


def adaptive(density: float, rows: int = 500) -> bytes:
    """A file of version 2, layout 5."""
    tensor = craft.adaptive("w", *matrix((rows, 1000), density))
    return craft.File([tensor], 2, flags=craft.CHECKED).to_bytes()


def rans(density: float) -> bytes:
    """A file of version 3, layout 8, as the package writes it."""
    weights, book = matrix((1000, 4000), density)
    return pack([("w", encode_coded(weights, DType.FLOAT32, book.entries.view("<f4"), "rans"))])


def files() -> dict[str, tuple[bytes, bytes]]:
    """What is decoded, and what the reader in Python decodes."""
    floats = np.random.default_rng(0).normal(size=(1000, 1000)).astype("<f4")
    found = {
        "Huffman, a tenth not zero": huffman(0.1, 4),
        "Huffman, 30 % not zero": huffman(0.3, 3),
        "Huffman, all not zero": huffman(1.0, 0),
        "byte planes of floats": craft.File([craft.planes("w", floats)], 1).to_bytes(),
    }
    both = {name: (data, data) for name, data in found.items()}
    names = ("1 % not zero", "a tenth not zero", "all not zero")
    both |= {f"adaptive, {name}": (adaptive(DENSITIES[name]), adaptive(DENSITIES[name], 50)) for name in names}
    return both | {f"rANS, {name}": (rans(DENSITIES[name]),) * 2 for name in names}


def by_package(path: Path) -> float:
    """Millions of elements in a second of one core."""
    with ModelFile(path) as file:
        start = time.process_time()
        values, _ = file.read("w")
        return values.size / (time.process_time() - start) / 1e6


def by_python(path: Path) -> float:
    """As above, by readers/python."""
    file = deepcompress_reader.open(path)
    start = time.process_time()
    return file["w"].size / (time.process_time() - start) / 1e6


def by_command(*command: str | Path) -> Callable[[Path], float]:
    """As above, by a program that prints its speed; 0 if it cannot read the file."""

    def speed(path: Path) -> float:
        done = subprocess.run([*map(str, command), str(path)], capture_output=True, text=True, check=False)
        return max(map(float, re.findall(r"([\d.]+) (?:M elements/s|million a second)", done.stdout)), default=0.0)

    return speed


def decoders(folder: Path) -> dict[str, Callable[[Path], float]]:
    """The package, and the readers that can be run here."""
    found: dict[str, Callable[[Path], float]] = {"package": by_package, "Python": by_python}
    if shutil.which("cc"):
        sources = [ROOT / "readers" / "c" / name for name in ("deepcompress.c", "bench.c")]
        subprocess.run(["cc", "-std=c99", "-O3", "-o", folder / "bench", *sources], check=True)
        found["C"] = by_command(folder / "bench")
    if shutil.which("node"):
        found["JavaScript"] = by_command("node", ROOT / "readers" / "js" / "speed.js")
    return found


def main() -> None:
    """Prints a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        known, path, small = decoders(Path(folder)), Path(folder) / "w.dc", Path(folder) / "small.dc"
        print(f"| M elements/s | {' | '.join(known)} |\n|---|{'---|' * len(known)}")
        for name, (data, less) in files().items():
            path.write_bytes(data)
            small.write_bytes(less)
            by_package(path)  # compiles
            best = dict.fromkeys(known, 0.0)
            for _ in range(ROUNDS):
                for decoder, speed in known.items():
                    best[decoder] = max(best[decoder], speed(small if decoder == "Python" else path))
            cells = (f"{value:,.3g}" if value else "–" for value in best.values())
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
