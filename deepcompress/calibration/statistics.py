"""What a layer meets on samples, and how much the network's output feels an error of each of its rows.

The layer's output a = W x at a position changes by e x where the weights of a row change by e. H is the sum of x x^T
over the positions of a sample, and g the mean squared gradient at the row of a random projection v f of the network's
output f (v standard normal). Then the expected squared change of f is about g e H e^T: Kronecker-factored curvature
(Martens and Grosse 2015) of the squared error of the output, for which no labels are needed.

Of a few samples H knows too little: it takes inputs that these samples do not have for inputs that no sample has. So
its off-diagonal part counts as much less as it differs from batch to batch (Ledoit and Wolf 2004).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

#: Rows of more inputs than this are taken apart: inputs of different parts count as if they had nothing in common.
WIDEST = 2048
_PART = 1024
#: Positions of a batch that H is summed over, drawn at random.
MOST_POSITIONS = 2048
_UNSEEN = 0.25  # of the average: how often a row of an embedding is looked up at least


@dataclass
class Moments:
    """Sums over samples, for one weight.

    A position counts in H as much as the output feels it: by its squared gradient, as a part of the mean.

    Attributes:
        groups: of a convolution; the weight's rows are divided into as many, each of which meets inputs of its own.
        second: sum of x x^T (groups x parts, inputs, inputs); None until the first batch is over.
        first: sum of x (groups, inputs).
        gradient: sum of squared gradients at the outputs (rows).
        positions: how many x there were.
        batches: how many have been added to `second`.
        squares: of the off-diagonal part of each batch's x x^T, summed (groups x parts).
    """

    groups: int = 1
    second: torch.Tensor | None = None
    first: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    positions: int = 0
    batches: int = 0
    squares: torch.Tensor | None = None
    _batch: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take positions into account: inputs (positions, groups, inputs), gradient (positions, rows)."""
        felt = gradient.square().sum(1)
        mean = float(felt.mean())
        if not mean:  # nothing of this reaches the output
            return
        first, squares = inputs.sum(0), gradient.square().sum(0)
        self.positions += len(inputs)
        scale = 1.0
        if len(inputs) > MOST_POSITIONS:
            some = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:MOST_POSITIONS]
            scale, inputs, felt = len(inputs) / MOST_POSITIONS, inputs[some], felt[some]
        inputs = inputs * (scale * felt / mean).sqrt()[:, None, None]
        inputs = inputs.reshape(len(inputs), -1, inputs.shape[2] // parts_of(inputs.shape[2])).transpose(0, 1)
        second = inputs.transpose(1, 2) @ inputs
        self._batch = second if self._batch is None else self._batch.add_(second)
        self.first = first if self.first is None else self.first.add_(first)
        self.gradient = squares if self.gradient is None else self.gradient.add_(squares)

    def end_batch(self) -> None:
        """All that the samples of one batch show of the weight has been added."""
        if self._batch is None:
            return
        apart = _apart(self._batch)
        self.squares = apart if self.squares is None else self.squares + apart
        self.second = self._batch if self.second is None else self.second.add_(self._batch)
        self._batch = None
        self.batches += 1

    def noise(self) -> torch.Tensor:
        """The part of H's off-diagonal squares that is chance, 0 to 1 (groups x parts); 1 after a single batch."""
        assert self.second is not None
        assert self.squares is not None
        if self.batches < 2:
            return torch.ones_like(self.squares)
        whole = _apart(self.second)
        chance = (self.squares - whole / self.batches) * self.batches / (self.batches - 1)
        return (chance / whole.clamp_min(torch.finfo(whole.dtype).tiny)).clamp(0, 1)


def _apart(second: torch.Tensor) -> torch.Tensor:
    """Sum of squares off the diagonal of each matrix."""
    return second.square().sum((1, 2)) - second.diagonal(dim1=1, dim2=2).square().sum(1)


def parts_of(inputs: int) -> int:
    """Into how many parts of one width a row of so many inputs is taken apart."""
    if inputs <= WIDEST:
        return 1
    return next((parts for parts in range(2, inputs // 64) if inputs % parts == 0 and inputs // parts <= _PART), 1)


@dataclass
class Lookups:
    """Sums over samples, for an embedding: how often each row is looked up, and squared gradients of its columns."""

    counts: torch.Tensor
    gradient: torch.Tensor
    positions: int = 0

    def add(self, indices: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take look-ups into account: indices (positions), gradient (positions, columns)."""
        self.counts += torch.bincount(indices, minlength=len(self.counts))
        self.gradient += gradient.square().sum(0)
        self.positions += len(indices)

    def often(self) -> torch.Tensor:
        """How often each row is looked up, of all look-ups together (rows), float32, summing up to 1.

        Those that samples never look up have together the part of those that they look up once (Good 1953), and each
        at least a part of the average: other samples may be of another kind.
        """
        once, never = int((self.counts == 1).sum()), int((self.counts == 0).sum())
        unseen = max(once / max(never, 1), _UNSEEN * self.positions / len(self.counts))
        found = self.counts + unseen
        return found / found.sum()


@dataclass
class Slopes:
    """Sums over samples, for a weight whose products are out of sight: squared gradients of its rows."""

    rows: torch.Tensor

    def add(self, gradient: torch.Tensor) -> None:
        """Take the gradient of the weight for a batch into account; that of its samples are at right angles."""
        self.rows += gradient.reshape(len(gradient), -1).square().sum(1)


@dataclass
class Statistics:
    """What samples told of a network.

    Attributes:
        of: of each weight that was met, by the id of its parameter.
        samples: how many there were.
        power: the summed variance of the output, which errors are measured against.
    """

    of: dict[int, Moments | Lookups | Slopes] = field(default_factory=dict)
    samples: int = 0
    power: float = 0.0

    def moments(self, weight: torch.Tensor, groups: int = 1) -> Moments | None:
        """Where to add what `weight` meets; None if another kind of layer has the same weight."""
        found = self.of.setdefault(id(weight), Moments(groups))
        return found if isinstance(found, Moments) else None

    def lookups(self, weight: torch.Tensor) -> Lookups | None:
        """As `moments`, for an embedding."""
        empty = Lookups(weight.new_zeros(len(weight)), weight.new_zeros(weight.shape[1]))
        found = self.of.setdefault(id(weight), empty)
        return found if isinstance(found, Lookups) else None

    def end_batch(self, samples: int, parameters: Iterable[torch.Tensor]) -> None:
        """A batch of so many samples is over, and has left gradients at `parameters`."""
        self.samples += samples
        for found in self.of.values():
            if isinstance(found, Moments):
                found.end_batch()
        for parameter in parameters:
            if parameter.grad is not None and parameter.ndim > 1:
                known = self.of.setdefault(id(parameter), Slopes(parameter.new_zeros(len(parameter))))
                if isinstance(known, Slopes):
                    known.add(parameter.grad)
