"""What judging costs: time and memory of every registered criterion, for networks of random weights and random data.

    python benchmarks/criteria.py [--samples 256] [--limit 300] [--sizes 1,10] [--only NAME,...]

Each criterion judges each network once, in a process of its own. Seconds are the processor's, so that a machine that
does other things at the same time tells the same. They are compared with those of magnitude, and with one pass of
training over the same samples (forward and backward, in the same process). Memory is by how much the peak of the
process grew while judging, after such a pass: beside the network, and what training takes anyway.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from measure import machine

if TYPE_CHECKING:
    from torch import nn

BATCH = 128
SHAPES = {"mlp": (784,), "conv": (3, 8, 8)}


@dataclass(frozen=True)
class Judged:
    """One criterion on one network: processor seconds, those of a pass, and MB (10^6 bytes); or why there are none."""

    seconds: float = 0.0
    one_pass: float = 0.0
    megabytes: float = 0.0
    failed: str = ""


def network(kind: str, millions: int) -> nn.Module:
    """A plain network of about so many million weights, for 10 classes."""
    from torch import nn

    if kind == "mlp":
        width = {1: 680, 10: 2790}[millions]
        return nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    a = {1: 64, 10: 208}[millions]
    return nn.Sequential(
        nn.Conv2d(3, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, 2 * a, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(2 * a, 4 * a, 3, padding=1), nn.ReLU(), nn.Conv2d(4 * a, 4 * a, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * a, 10),
    )  # fmt: skip


def child(name: str, kind: str, millions: int, samples: int) -> Judged:
    """Judge, in this process."""
    import torch

    from deepcompress.errors import DeepCompressError
    from deepcompress.prune.criteria.base import Evidence, judge
    from deepcompress.prune.masks import Masks
    from deepcompress.recipe import Recipe

    torch.manual_seed(0)
    model = network(kind, millions)
    x, y = torch.randn(samples, *SHAPES[kind]), torch.randint(0, 10, (samples,))
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    weights = {key: value for key, value in model.named_parameters() if value.ndim > 1}
    recipe = Recipe().changed(criterion=name, score_samples=samples)
    evidence = Evidence(model, weights, Masks.full(weights), recipe, batches)
    one_pass(evidence)
    start = time.process_time()
    one_pass(evidence)
    training, before = time.process_time() - start, peak()
    start = time.process_time()
    try:
        judge(evidence)
    except DeepCompressError as error:
        return Judged(failed=str(error))
    return Judged(time.process_time() - start, training, peak() - before)


def one_pass(evidence: object) -> None:
    """Forward and backward over the samples."""
    for x, y in evidence.batches:  # type: ignore[attr-defined]
        evidence.objective(evidence.model(x), x, y).backward()  # type: ignore[attr-defined]
    evidence.model.zero_grad(set_to_none=True)  # type: ignore[attr-defined]


def peak() -> float:
    """The most memory that this process held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measured(name: str, kind: str, millions: int, samples: int, limit: float) -> Judged:
    """The same in a process of its own, for at most `limit` seconds."""
    command = [sys.executable, __file__, "--child", name, kind, str(millions), str(samples)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return Judged(failed=f"more than {limit:.0f} s")
    return Judged(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--sizes", default="1,10")
    parser.add_argument("--only")
    parser.add_argument("--child", nargs=4)
    arguments = parser.parse_args()
    if arguments.child:
        name, kind, millions, samples = arguments.child
        print(json.dumps(asdict(child(name, kind, int(millions), int(samples)))))
        return
    from deepcompress.prune.criteria import CRITERIA

    names = arguments.only.split(",") if arguments.only else list(CRITERIA)
    print(f"{machine()}; {arguments.samples} samples, batches of {BATCH}\n")
    print("| weights | criterion | seconds | ÷ magnitude | passes | MB |\n|---|---|---|---|---|---|", flush=True)
    for millions in map(int, arguments.sizes.split(",")):
        for kind in SHAPES:
            where = kind, millions, arguments.samples, arguments.limit
            plain = measured("magnitude", *where)
            for name in names:
                found = plain if name == "magnitude" else measured(name, *where)
                print(f"| {millions} M, {kind} | `{name}` | {_cells(found, plain)} |", flush=True)


def _cells(found: Judged, plain: Judged) -> str:
    if found.failed:
        return f"{found.failed} | | | "
    ratios = f"{found.seconds / plain.seconds:.1f}× | {found.seconds / found.one_pass:.2f}"
    return f"{found.seconds:.2f} | {ratios} | {found.megabytes:.0f}"


if __name__ == "__main__":
    main()
