"""What rounding does to the output of an ONNX model, on samples that rounding has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from deepcompress.graphs.feeds import Feed, count_of
from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.restore import complete
from deepcompress.graphs.sensing import apart
from deepcompress.graphs.session import Session


class OnnxTrial:
    """A model beside itself with other tensors.

    Args:
        model: the model.
        batches: inputs that nothing was learned from.
        outputs: names of what it gives.
        power: what errors are measured against, the summed variance of the output (`Statistics.power`).
    """

    def __init__(self, model: OnnxModel, batches: Sequence[Feed], outputs: Sequence[str], power: float) -> None:
        self._model, self._batches, self._outputs = model, batches, outputs
        self._power = power * sum(map(count_of, batches))
        session = Session(complete(model))
        self._expected = [session.run(batch, outputs) for batch in batches]

    def error(self, values: Mapping[str, torch.Tensor]) -> float:
        """The mean squared change of the output with these tensors, as a part of its variance; it may be infinite."""
        stored = self._model.tensors.stored
        session = Session(complete(self._model, {name: each.to(stored[name].dtype) for name, each in values.items()}))
        found = (session.run(batch, self._outputs) for batch in self._batches)
        changed = sum(apart(*pair) for pair in zip(self._expected, found, strict=True))
        return changed / self._power if math.isfinite(changed) else math.inf
