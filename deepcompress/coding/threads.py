"""Work on parts of one array at a time, each part in a thread of its own.

Only for work that gives up the interpreter lock, as the compiled kernels do. Parts never overlap, so the result is
the same with any number of threads, and one tensor is worked on at a time, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

Result = TypeVar("Result")


def split(size: int, threads: int, grain: int) -> list[tuple[int, int]]:
    """(start, stop) of at most `threads` even parts of range(size), each but the last a multiple of `grain`."""
    grains = -(-size // grain)
    count = max(1, min(threads, grains))
    stops = [min(size, grains * part // count * grain) for part in range(count + 1)]
    return list(pairwise(stops))


def run(work: Callable[[int, int], Result], parts: Iterable[tuple[int, int]]) -> list[Result]:
    """``work(start, stop)`` of each part, in their order; the only part is done without another thread."""
    parts = list(parts)
    if len(parts) == 1:
        return [work(*parts[0])]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(lambda part: work(*part), parts))
