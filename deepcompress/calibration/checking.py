"""Weights that samples rounded beside weights that go by their sizes alone, judged by samples held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from deepcompress.quantize.rows import RowGrid, entropy

_START = 5.0  # times the step that samples go by: where to look first for one that goes by the sizes of the weights
_NEARLY = 0.01  # of the bits: so far from as many is near enough
_NEWTON = 6
_PLAIN = (
    "the weights are rounded by their sizes alone: on the samples held out, that changes the output less than rounding "
    "by the other samples does in as many bytes (more samples may help)"
)


@dataclass(frozen=True)
class Rounded:
    """What the file gets.

    Attributes:
        grids: weights on grids, by name.
        corrected: tensors that make their mean errors good, by name.
        error: what it changes in the output for samples held out, as a part of its variance; None where nobody looked.
        is_plain: whether all weights are rounded by their sizes, although samples are there.
    """

    grids: Mapping[str, RowGrid]
    corrected: Mapping[str, torch.Tensor]
    error: float | None = None
    is_plain: bool = False

    def values(self) -> dict[str, torch.Tensor]:
        """All these tensors."""
        return {**{name: grid.values() for name, grid in self.grids.items()}, **self.corrected}

    def bits(self) -> float:
        """Of ideal codes for the whole numbers, each tensor's by itself."""
        return sum(entropy(grid.integers.numpy()) for grid in self.grids.values())

    def lines(self) -> list[str]:
        """What there is to say of it."""
        found = [_PLAIN] if self.is_plain else []
        if self.error is not None:
            found.append(f"the output for samples held out changes by {100 * self.error:.2g} % of its variance")
        return found


class Check:
    """Of two ways to round in as many bits, finds the one that changes the output for samples held out less.

    Args:
        plain: weights that are rounded by their sizes, at a step (`Rounded.is_plain`).
        error: what tensors by name change in the output for samples held out.
    """

    def __init__(self, plain: Callable[[float], Rounded], error: Callable[[Mapping[str, torch.Tensor]], float]) -> None:
        self._plain, self._error = plain, error
        self._factor, self._factors = _START, dict[float, float]()

    def better(self, found: Rounded, step: float) -> Rounded:
        """What samples made `found` with a step, or weights that go by their sizes in about as many bits."""
        found, plain = self.tried(found), self.tried(self.of_bits(found.bits(), step))
        assert found.error is not None
        assert plain.error is not None
        return plain if plain.error < found.error else found

    def tried(self, rounded: Rounded) -> Rounded:
        """With its `error`."""
        return rounded if rounded.error is not None else replace(rounded, error=self._error(rounded.values()))

    def of_bits(self, bits: float, step: float) -> Rounded:
        """Weights that go by their sizes and need about so many bits; those of samples do so with `step`.

        The search begins where the last one ended. With a step that was met before it is what it was then, so that a
        file has the size that was found for its step.
        """
        if step in self._factors:
            return self._plain(self._factors[step] * step)
        factor = self._factor
        for _ in range(_NEWTON):
            found, self._factors[step] = self._plain(factor * step), factor
            more = found.bits() - bits
            if abs(more) <= _NEARLY * bits:
                break
            factor *= 2 ** (more / sum(grid.integers.numel() for grid in found.grids.values()))
        self._factor = factor
        return found
