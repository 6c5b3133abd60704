"""Samples to calibrate an ONNX model on, as its inputs take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deepcompress.calibration.samples import BATCHES, check_enough, held_apart
from deepcompress.errors import DataError
from deepcompress.graphs import restore
from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.session import Session
from deepcompress.networks.inputs import arguments

Array = np.ndarray[Any, np.dtype[Any]]
Feed = Mapping[str, Array]

_TRIED = 32  # samples that a change of a weight is tried on


class Feeds:
    """Samples as a session takes them.

    Attributes:
        batches: those to learn from, arrays by the names of inputs.
        samples: how many these have.
        kept: those to judge by, which are not among them unless there is a single one.
        outputs: names of what comes out.
    """

    def __init__(self, model: OnnxModel, batches: Iterable[Any]) -> None:
        session = Session(restore.complete(model))
        self.outputs = session.outputs
        given = [_named(batch, session.inputs) for batch in batches]
        pieces = -(-BATCHES // max(len(given), 1))  # a single batch tells nothing of what in it is chance
        whole = [part for batch in given for part in _split(batch, session.batch, pieces)]
        check_enough(sum(map(count_of, whole)))
        learned, self.kept = held_apart(whole)
        self.batches = learned or whole
        self.samples = sum(map(count_of, self.batches))

    def some(self) -> Iterator[dict[str, Array]]:
        """The first batches, up to about `_TRIED` samples."""
        taken = 0
        for batch in self.batches:
            if taken >= _TRIED:
                return
            taken += count_of(batch)
            yield batch


def _named(batch: Any, inputs: Sequence[str]) -> dict[str, Array]:
    positional, named = arguments(batch)
    if len(positional) > len(inputs) or any(name not in inputs for name in named):
        raise DataError(
            f"--calibrate: the model takes the inputs {', '.join(inputs)}, and a batch has "
            f"{', '.join(named) or len(positional)}"
        )
    given = {**dict(zip(inputs, positional, strict=False)), **named}
    if missing := [name for name in inputs if name not in given]:
        raise DataError(
            f"--calibrate: the model needs the inputs {', '.join(missing)}, too: give arrays of these names"
        )
    arrays = {name: torch.as_tensor(value).numpy() for name, value in given.items()}
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError(f"--calibrate: there is NaN or infinity in the samples for {name}")
    return arrays


def count_of(batch: Mapping[str, Array]) -> int:
    """How many samples a batch has."""
    return next((len(value) for value in batch.values() if value.ndim), 1)


def _split(batch: dict[str, Array], size: int | None, pieces: int) -> Iterator[dict[str, Array]]:
    """A batch in parts of `size` samples, without what is left over; of any size in so many `pieces`, of 2 at least.

    A batch whose arrays do not all have the samples in their first dimension stays as it is.
    """
    counts = {len(value) for value in batch.values() if value.ndim}
    if len(counts) != 1:
        yield batch
        return
    count = counts.pop()
    each = size or max(-(-count // pieces), 2)
    for start in range(0, count - each + 1 if size else count, each):
        yield {name: value[start : start + each] if value.ndim else value for name, value in batch.items()}
