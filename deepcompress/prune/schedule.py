"""How far pruning has come at each iteration."""

from __future__ import annotations

from collections.abc import Callable

from deepcompress.errors import RecipeError

SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-shot": lambda t: 1.0,
    "linear": lambda t: t,
    "cubic": lambda t: 1 - (1 - t) ** 3,  # Zhu and Gupta 2017, equation 1: fast first, then ever slower
}

#: The part of the retraining epochs in which pruning happens; the rest heals at the final sparsity.
PRUNING_PART = 0.6


def progress(name: str, iterations: int) -> list[float]:
    """Fraction of the final sparsity that is reached at each iteration; the last is 1.

    Raises:
        RecipeError: validation data decides in this schedule, and there is no saying in advance.
    """
    if name not in SCHEDULES:
        raise RecipeError(f"schedule {name!r} needs validation data at every step, which is not used here: choose "
                          f"one of {', '.join(SCHEDULES)}")  # fmt: skip
    if name == "one-shot":
        iterations = 1
    return [SCHEDULES[name]((i + 1) / iterations) for i in range(iterations)]


def epochs_of(steps: list[float], epochs: int, part: float = PRUNING_PART) -> dict[int, float]:
    """Which epoch begins with which step: evenly over the first `part` of `epochs`.

    Where there are more iterations than epochs for them, an epoch takes the last of its steps.
    """
    span = max(1.0, part * epochs)
    return {int(i * span / len(steps)): step for i, step in enumerate(steps)}
