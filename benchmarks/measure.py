"""What the benchmarks share: medians of interleaved runs, peak memory of processes, and the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from deepcompress.coding import lanes

#: A process counts the memory of the one that starts it as its own, so a small one does, and looks at it from outside.
_RUNNER = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(seconds, used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(code)
"""


def machine() -> str:
    """Cores, processor, and versions: without them a figure says nothing."""
    model = platform.processor() or "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, OMP_NUM_THREADS {threads}"


def medians(
    actions: Mapping[str, Callable[[], object]], runs: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each action, by the clock on the wall or another.

    Each round runs all of them once, so that a machine that becomes slower for a while does so for all.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(runs):
        for name, action in actions.items():
            start = clock()
            action()
            times[name].append(clock() - start)
    return {name: statistics.median(found) for name, found in times.items()}


@dataclass(frozen=True)
class Cost:
    """Of one process, from its start to its end.

    Attributes:
        seconds: by the clock.
        megabytes: the most memory it held (10^6 bytes).
        processor: seconds that it, and no other, was computed on.
    """

    seconds: float
    megabytes: float
    processor: float


def run_process(command: Sequence[str]) -> Cost:
    """Run `command` and say what it cost.

    Raises:
        RuntimeError: it fails; with what it wrote to stderr.
    """
    done = subprocess.run([sys.executable, "-c", _RUNNER, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    seconds, kilobytes, processor = map(float, done.stdout.split())
    return Cost(seconds, kilobytes * 1024 / 1e6, processor)


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The median of each."""
    return Cost(*(statistics.median(getattr(cost, field.name) for cost in costs) for field in fields(Cost)))


@contextmanager
def no_kernels() -> Iterator[None]:
    """As where numba cannot be had."""
    kernels = lanes.kernels
    lanes.kernels = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        lanes.kernels = kernels
