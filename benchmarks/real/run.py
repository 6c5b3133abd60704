"""Trained networks after training: bytes and what the network is for, beside what a person would do instead.

    python benchmarks/real/run.py                              # all networks; some minutes to half an hour each
    python benchmarks/real/run.py resemblyzer minilm           # some
    python benchmarks/real/run.py --ways calibrated            # measure one way anew; the others stay as they are
    python benchmarks/real/run.py --only-show                  # tables and picture of what was measured

Our default file is that of the command line as a person types it. Without data that is `compress FILE --no-retrain`;
with 128 to 384 samples without labels it is `compress FILE --network CODE --calibrate SAMPLES`. Other sizes are those
of other steps, as --target-size finds them; they are made in one process, so that samples are looked at once.
What is measured is the network that is read again from what was stored. Of an ONNX model the graph does not count,
which our files hold and the others do not. A way is left at its first size that loses more than twice what "moderate"
allows. Points go into --folder, a file for each network.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from baselines import missing, ways
from curves import Curves, Point, draw, table
from networks import NETWORKS, MissingError, Real, load

from deepcompress.calibration.checking import Rounded
from deepcompress.calibration.rounding import Rounder
from deepcompress.checkpoint import load_checkpoint
from deepcompress.compression.tensors_only import compress_state
from deepcompress.graphs.calibrate import OnnxRounder
from deepcompress.graphs.compress import compress_model
from deepcompress.graphs.model import open_model
from deepcompress.layers import compressible
from deepcompress.networks.copies import copied
from deepcompress.reading.loader import fill, load_state_dict
from deepcompress.recipe import Recipe
from deepcompress.training.progress import Progress

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # a folder of scripts, each of which finds its neighbours
from measure import machine, run_process  # noqa: E402

WITHOUT, CALIBRATED = "without data", "calibrated"
STEPS = {
    WITHOUT: (None, 0.12, 0.18, 0.23, 0.28, 0.36, 0.45, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.8, 3.4, 4.0),
    CALIBRATED: (None, 0.04, 0.055, 0.07, 0.085, 0.1, 0.12, 0.15, 0.2, 0.27, 0.35, 0.45, 0.6, 0.8, 1.0, 1.4, 1.8),
}
LOOKS = {WITHOUT: "tab:blue", CALIBRATED: "tab:red", "int-N + brotli": "0.35", "NNCodec": "tab:orange"}

_SAMPLES = """import torch


def batches():
    return torch.load({path!r})
"""


def measure(real: Real, chosen: list[str], scratch: Path) -> Iterator[Point]:
    """The points of the ways that were chosen."""
    most = 2 * real.losses[-1]
    dense = next(iter(real.dense.values()))
    makers: dict[str, dict[str, Callable[[], Point]]] = {}
    for way, settings in ways(real.last).items():
        makers[way] = {name: partial(_theirs, real, way, name, store) for name, store in settings.items()}
    ours = Ours(real, scratch)
    for way, steps in STEPS.items():
        makers[way] = {_named(step): partial(ours.point, way, step) for step in steps}
    for way in chosen:
        for name, make in makers.get(way, {}).items():
            try:
                point = make()
            except RuntimeError as error:  # of others' code: NNCodec refuses magika's largest weights
                if way in STEPS:
                    raise
                print(f"{way} {name}: {' '.join(str(error).split())}")
                break
            yield point
            if dense - point.metric > most:
                break


def _named(step: float | None) -> str:
    return "default" if step is None else f"step {step:g}"


def _theirs(real: Real, way: str, setting: str, store: Callable[..., tuple[int, dict[str, torch.Tensor]]]) -> Point:
    start = time.process_time()
    size, found = store(real.state)
    seconds = time.process_time() - start
    return Point(way, setting, size, real.measure(found), round(seconds, 2))


@dataclass
class Ours:
    """Our files of one network."""

    real: Real
    scratch: Path

    def point(self, way: str, step: float | None) -> Point:
        """The file of a step; without one, that of the command line."""
        path = self.scratch / "model.dc"
        if step is None:
            cost = run_process(self._command(way, path))
            seconds, megabytes = cost.processor, round(cost.megabytes)
        else:
            start = time.process_time()
            self._compress(way, step, path)
            seconds, megabytes = time.process_time() - start, None
        found = {name: value.float() for name, value in load_state_dict(path).items() if name in self.real.state}
        size = path.stat().st_size - self.real.graph_bytes
        return Point(way, _named(step), size, self.real.measure(found), round(seconds, 1), megabytes)

    def _command(self, way: str, path: Path) -> list[str]:
        command = [sys.executable, "-m", "deepcompress", "compress", str(self.real.file), "-o", str(path), "--force"]
        if way == WITHOUT:
            return [*command, "--no-retrain"]
        code, saved = self.scratch / "samples.py", self.scratch / "samples.pt"
        torch.save([torch.as_tensor(b) if isinstance(b, np.ndarray) else b for b in self.real.samples()], saved)
        code.write_text(_SAMPLES.format(path=str(saved)))
        network = [] if self.real.module is None else ["--network", self.real.code]
        return [*command, *network, "--calibrate", f"{code}:batches"]

    def _compress(self, way: str, step: float, path: Path) -> None:
        recipe, rounder = Recipe(retrain=False, step=step), None if way == WITHOUT else self._rounder
        if self.real.module is None:
            compress_model(open_model(str(self.real.file)), recipe, path, rounder=rounder)
        else:
            compress_state(load_checkpoint(self.real.file).state, recipe, path, rounder=rounder)

    @cached_property
    def _rounder(self) -> Callable[[float], Rounded]:
        batches, watch = self.real.samples(), Progress()
        if self.real.module is None:
            return OnnxRounder(open_model(str(self.real.file)), batches, watch)
        module = copied(self.real.module)
        fill(module, load_checkpoint(self.real.file).state, str(self.real.file))
        return Rounder(module, [layer.name for layer in compressible(module.state_dict())], batches, watch).checked


def go_through(name: str, wheels: Path, folder: Path, chosen: list[str]) -> None:
    """Measure one network, print each point, and keep them all."""
    real = load(name, wheels)
    path = folder / f"{name}.json"
    kept = [point for point in Curves.read(path).points if point.way not in chosen] if path.exists() else []
    float32 = 4 * sum(value.numel() for value in real.state.values())
    print(f"\n{name}: {real.file.stat().st_size:,} bytes, {float32:,} of float tensors; dense {_said(real.dense)}")
    with tempfile.TemporaryDirectory() as scratch:
        for point in measure(real, chosen, Path(scratch)):
            memory = "" if point.megabytes is None else f"{point.megabytes:>8,} MB"
            line = f"{point.way:<18}{point.setting:<12}{point.size:>12,}  {_said(point.metrics)}"
            print(f"{line}{point.seconds:>9.1f} s{memory}", flush=True)
            kept.append(point)
            Curves(name, real.dense, real.file.stat().st_size, float32, real.losses, kept).save(path)


def _said(metrics: dict[str, float]) -> str:
    return "".join(f"{name} {value:<10.4f}" for name, value in metrics.items())


def show(folder: Path, picture: Path) -> None:
    """Print bytes at equal metric, in Markdown, and draw the picture."""
    found = [Curves.read(path) for name in NETWORKS if (path := folder / f"{name}.json").exists()]
    ours, theirs = (WITHOUT, CALIBRATED), ("int-N + brotli", "NNCodec")
    head = ["network", "loss", *ours, *theirs, *(f"{own} ÷ {other}" for own in ours for other in theirs)]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for curves in found:
        for row in table(curves, ours, theirs):
            print(f"| {' | '.join(row)} |")
    if found:
        draw(found, picture, LOOKS)


def main() -> None:
    """Measure and show."""
    every = ["fp16 + zstandard", "int-N + brotli", "NNCodec", WITHOUT, CALIBRATED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--wheels", type=Path, help="folder of unpacked wheels, and for those that are downloaded")
    parser.add_argument("--ways", nargs="+", choices=every, default=every)
    parser.add_argument("--folder", type=Path, default=HERE / "measured", help="where points are kept")
    parser.add_argument("--picture", type=Path, help="[default: size.png in --folder]")
    parser.add_argument("--only-show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    if not options.only_show:
        print(machine(), *(f"not measured, as it is not installed: {name}" for name in missing()), sep="\n")
        with tempfile.TemporaryDirectory() as scratch:
            for name in options.names:
                try:
                    go_through(name, options.wheels or Path(scratch), options.folder, options.ways)
                except MissingError as missed:
                    print(missed)
    show(options.folder, options.picture or options.folder / "size.png")


if __name__ == "__main__":
    main()
