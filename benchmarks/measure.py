"""What the benchmarks share: medians of interleaved runs, peak memory of processes, and the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from deepcompress.coding import lanes


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
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.strip()}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6, usage.ru_utime + usage.ru_stime)


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
