"""Our compression without data beside NNCodec, the software of the standard ISO/IEC 15938-17, on dense networks.

NNCodec codes each network at several quantization parameters with its own defaults (dependent quantization of 8 states,
biases and batch norm nearly exact); ours prunes nothing and takes a uniform grid, adaptive coding, and the rate that
should give the same squared error: one grid for all layers, as one quantization parameter is, or one for each. Both
store every float tensor, and what is compared is decoded from what was stored. Bytes at equal error are interpolated
between ours, logarithm against logarithm. Seconds are the processor's.

NNCodec is no dependency (`pip install nncodec` wants numpy below 2; 2.1.3 runs with 2). This script is not called
nncodec.py because it would then import itself.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from measure import machine

from deepcompress import networks
from deepcompress.checkpoint import Checkpoint, load_checkpoint
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import DataError
from deepcompress.layers import is_layer
from deepcompress.reading.loader import fill, load_state_dict
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.data import load_data
from deepcompress.training.evaluation import evaluate

T = TypeVar("T")
State = Mapping[str, torch.Tensor]
Judge = Callable[[State], float]

MODELS = ("models/lenet-300-100.pt", "models/lenet5.pt", "models/resnet20.pt")
QUANTIZATION = (-38, -34, -30, -26, -22, -18)
LEVELS = 511  # most values of a layer: more than the steps in question need


@dataclass(frozen=True)
class Point:
    """One network stored and decoded again.

    Attributes:
        size: bytes.
        error: length of the difference of all float weights, over that of the weights.
        encoding, decoding: processor seconds.
        test: error on test data in %; NaN if there are none.
    """

    size: int
    error: float
    encoding: float
    decoding: float
    test: float


def nncodec(state: State, qp: int, judge: Judge) -> Point:
    """NNCodec's bitstream, with the defaults of its `compress` for all but `qp`."""
    nnc = import_module("nncodec.nnc")
    arrays = {name: value.numpy() for name, value in state.items()}
    stored, encoding = timed(lambda: nnc.compress(arrays, bitstream_path=None, qp=qp, return_bitstream=True))
    decoded, decoding = timed(lambda: nnc.decompress(stored))
    found = {name: torch.from_numpy(np.asarray(decoded[name])) for name in state}
    return Point(len(stored), difference(state, found), encoding, decoding, judge(found))


def ours(state: State, recipe: Recipe, judge: Judge) -> Point:
    """Our file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dc"
        _, encoding = timed(lambda: compress_state(state, recipe, path))
        found, decoding = timed(lambda: load_state_dict(path))
        return Point(path.stat().st_size, difference(state, found), encoding, decoding, judge(found))


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """What `action` gives, and its processor seconds."""
    start = time.process_time()
    return action(), time.process_time() - start


def power(tensors: Sequence[torch.Tensor]) -> float:
    """Sum of squares."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors)


def difference(state: State, found: State) -> float:
    """Length of the difference of all tensors, over that of `state`."""
    return math.sqrt(power([state[name] - found[name] for name in state]) / power(list(state.values())))


def recipe_for(error: float, state: State, shared: bool, small_bits: int) -> Recipe:
    """The recipe that should give this error.

    Where a uniform step is fine the squared error falls by 2 ln 2 times itself with each bit: the price of one.
    """
    layers = power([value for value in state.values() if is_layer(value)])
    rate = 2 * math.log(2) * error**2 * power(list(state.values())) / layers
    rules = (LayerRule("*", group="all"),) if shared else ()
    settings: dict[str, Any] = {"quantizer": "uniform", "coder": "auto", "levels": LEVELS, "small_bits": small_bits}
    return Recipe(prune=0, retrain=False, rate=rate, layers=rules, **settings)


def at_error(points: Sequence[Point], error: float) -> float:
    """Bytes at `error`, from the line through the two points that are nearest: logarithm against logarithm."""
    near = sorted(points, key=lambda point: abs(math.log(point.error / error)))[:2]
    (x0, y0), (x1, y1) = ((math.log(point.error), math.log(point.size)) for point in near)
    return math.exp(y0 + (math.log(error) - x0) * (y1 - y0) / (x1 - x0))


def judge_of(source: Checkpoint, path: str, wanted: bool) -> Judge:
    """Test error of a state, if the data set is at hand."""
    try:
        data = load_data(source.data) if wanted and source.data and source.network else None
    except DataError as error:
        print(f"no test error: {error}")
        data = None
    if data is None or source.network is None:
        return lambda _: math.nan
    model, loader = networks.build_known(source.network), data.test_loader()

    def judge(found: State) -> float:
        fill(model, {**source.state, **found}, path)
        return evaluate(model, loader).error

    return judge


def compare(path: str, options: argparse.Namespace) -> None:
    """Print one table for a network."""
    source = load_checkpoint(path)
    judge = judge_of(source, path, not options.no_test)
    state = {name: value.contiguous() for name, value in source.state.items() if value.is_floating_point()}
    total = sum(value.numel() for value in state.values())
    print(f"\n{path}: {total:,} weights, {4 * total:,} bytes; test error {judge(state):.2f} %", flush=True)
    print(f"{'':<22}{'bytes':>9}{'error':>10}{'at equal error':>16}{'':>9}{'enc s':>8}{'dec s':>8}{'test %':>8}")
    theirs = []
    for qp in options.qp:
        theirs.append(nncodec(state, qp, judge))
        row(f"NNCodec, qp {qp}", theirs[-1])
    for name, shared in (("one grid", True), ("a grid per layer", False)):
        if options.grid != "both" and shared != (options.grid == "one"):
            continue
        points: list[Point] = []
        for at, wanted in enumerate(theirs):
            points.append(ours(state, recipe_for(wanted.error, state, shared, options.small_bits), judge))
            row(f"{name}, as qp {options.qp[at]}", points[-1])
        for at, wanted in enumerate(theirs):
            size = at_error(points, wanted.error)
            row(f"{name}, {options.qp[at]} at equal error", wanted, size)


def row(name: str, point: Point, size: float | None = None) -> None:
    """Print a point, or what takes `size` bytes of ours at its error."""
    if size is not None:
        print(f"{name:<36}{point.size:>9,}{point.error:>10.5f}{size:>11,.0f}{100 * (size / point.size - 1):>+8.1f} %")
        return
    seconds = f"{point.encoding:>8.2f}{point.decoding:>8.2f}"
    print(f"{name:<22}{point.size:>9,}{point.error:>10.5f}{'':>25}{seconds}{point.test:>8.2f}", flush=True)


def main() -> None:
    """Print one table a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help="checkpoints")
    parser.add_argument("--qp", type=int, nargs="+", default=QUANTIZATION, help="two or more, NNCodec's")
    parser.add_argument("--grid", choices=("one", "layer", "both"), default="both")
    parser.add_argument("--small-bits", type=int, default=10, help="of biases and scales in our files")
    parser.add_argument("--no-test", action="store_true", help="do not measure test errors")
    options = parser.parse_args()
    try:
        import_module("nncodec.nnc")
    except ImportError as error:
        print(f"not measured: NNCodec cannot be imported ({error})")
        return
    print(f"NNCodec {version('nncodec')}, numpy {np.__version__}; {machine()}")
    for path in options.models:
        compare(path, options)


if __name__ == "__main__":
    main()
