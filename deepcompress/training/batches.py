"""What people's loaders give, as pairs of input and target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from deepcompress.errors import DataError
from deepcompress.networks.inputs import Batches
from deepcompress.training.snapshot import chance_kept

#: Under which of these names a batch that is a dictionary holds its target.
TARGETS = ("labels", "label", "targets", "target", "y")


def pair_of(batch: Any) -> tuple[Any, Any]:
    """A batch as (input, target).

    Of a tuple or list the last is the target, and all before it are the inputs: one as it is, several as a tuple. Of a
    dictionary the target is under one of `TARGETS`, and the rest are inputs by name.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return (batch[0] if len(batch) == 2 else tuple(batch[:-1])), batch[-1]
    if isinstance(batch, Mapping):
        target = next((key for key in TARGETS if key in batch), None)
        if target is not None and len(batch) > 1:
            return {key: value for key, value in batch.items() if key != target}, batch[target]
        keys = ", ".join(map(str, batch))
        raise DataError(f"a batch is a dictionary of {keys}; its target must be under one of {', '.join(TARGETS)}")
    raise DataError(f"the data gives {type(batch).__name__}; a batch is a pair (input, target)")


class Pairs:
    """Batches of a loader as pairs (see `pair_of`); everything else is as the loader has it."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.generator = getattr(batches, "generator", None)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return map(pair_of, self.batches)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == "batches":  # a copy that is being made has nothing yet
            raise AttributeError(name)
        return getattr(self.batches, name)


def as_pairs(batches: Iterable[Any], what: str) -> Batches:
    """The same batches as pairs.

    Args:
        batches: a DataLoader, a list of batches, or anything else that can be passed over again.
        what: what errors call them.

    Raises:
        DataError: they can be passed over once only, or there are none, or they are arrays of numpy.
    """
    if isinstance(batches, Iterator):
        raise DataError(f"the {what} is an iterator, spent after one pass; give a DataLoader, or a list of batches")
    first = first_batch(batches, what)
    if any(isinstance(part, np.ndarray) for part in pair_of(first)):
        raise DataError(f"the {what} gives arrays of numpy; a batch has tensors: make them with torch.from_numpy")
    plain = isinstance(first, (tuple, list)) and len(first) == 2
    return batches if plain else Pairs(batches)


def first_batch(batches: Iterable[Any], what: str = "data") -> Any:
    """The first batch; all random generators are set back, so that nobody sees that it was asked.

    Raises:
        DataError: there are no batches.
    """
    with chance_kept(torch.device("cpu"), batches):
        first = next(iter(batches), None)
    if first is None:
        raise DataError(f"the {what} has no batches")
    return first
