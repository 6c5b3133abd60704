"""The step of the weights that makes a file of a given size."""

from __future__ import annotations

import math
from collections.abc import Callable

from deepcompress.errors import RecipeError
from deepcompress.training.progress import Progress

FINEST, COARSEST = 2.0**-10, 2.0**4  # in root mean squares of the weights
TRIES = 8
CLOSE = 0.01  # a file that is this part below its size is near enough
FAR = 0.1  # a file that is this part below its size is worth as many tries again
_SLOPE = -0.7  # of log2(bytes) by log2(step), where one step is known
_FLATTEST = -0.05  # what is taken for a slope: where all is overhead, steps go far


def step_for(target: int, size_of: Callable[[float], int], start: float, watch: Progress) -> float:
    """The finest step found whose file has at most `target` bytes, as a rule within 1 % of them.

    Args:
        target: most bytes.
        size_of: bytes of the file with a step; fewer for larger ones.
        start: the step to look at first.
        watch: told what comes of it.

    Raises:
        RecipeError: not even the coarsest step makes so small a file.
    """
    sizes: dict[float, int] = {}
    step = start
    while len(sizes) < TRIES or (len(sizes) < 2 * TRIES and _is_far(sizes, target)):
        sizes[step] = size_of(step)
        watch.message(f"a step of {step:.4g}: {sizes[step]:,} bytes")
        fits = _finest(sizes, target)
        if fits is not None and (sizes[fits] >= (1 - CLOSE) * target or fits == FINEST):
            return fits
        following = _next(sizes, target)
        if following in sizes:
            break
        step = following
    fits = _finest(sizes, target)
    if fits is None and COARSEST not in sizes:
        sizes[COARSEST] = size_of(COARSEST)
        fits = COARSEST if sizes[COARSEST] <= target else None
    if fits is None:
        raise RecipeError(
            f"target_size is {target} bytes, but with its weights as coarse as can be the file has "
            f"{min(sizes.values())}: what is no weight takes the most of that (--small-bits 8 makes it smaller)"
        )
    return fits


def _finest(sizes: dict[float, int], target: int) -> float | None:
    """The finest step whose file has at most `target` bytes, if any has."""
    return min((step for step in sizes if sizes[step] <= target), default=None)


def _is_far(sizes: dict[float, int], target: int) -> bool:
    """Whether lines came to the size from above only, step by step, so that what fits is still the first that did."""
    fits = _finest(sizes, target)
    return fits is not None and sizes[fits] < (1 - FAR) * target and max(sizes.values()) > target


def _next(sizes: dict[float, int], target: int) -> float:
    """Where a line through the two nearest points meets a size just below `target`: between them, if `target` is.

    After many tries it is the middle between them, for the curve is then far from a line.
    """
    above = max((step for step in sizes if sizes[step] > target), default=None)
    below = _finest(sizes, target)
    goal = math.log2(target * (1 - CLOSE / 3))
    if above is not None and below is not None:
        high, low = math.log2(sizes[above]), math.log2(sizes[below])
        part = min(max((high - goal) / max(high - low, 1e-9), 0.02), 0.98) if len(sizes) < TRIES else 0.5
        return float(above ** (1 - part) * below**part)
    nearest, *others = sorted(sizes, reverse=below is None)
    slope = _SLOPE
    if others:
        slope = min(math.log2(sizes[nearest] / sizes[others[0]]) / math.log2(nearest / others[0]), _FLATTEST)
    guess = nearest * 2 ** ((goal - math.log2(sizes[nearest])) / slope)
    guess = guess * 1.1 if above is not None else guess / 1.1
    return min(max(guess, FINEST), COARSEST)
