"""From a network whose weights are pruned and shared to its file, and the proof that the file holds just that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.compression.packing import pack_state
from deepcompress.compression.result import Result, StageResult
from deepcompress.compression.small import finish_small
from deepcompress.container.breakdown import inspect
from deepcompress.container.entries import Extension
from deepcompress.container.extensions import SMALLER, pack_extra_state
from deepcompress.container.normalize import pack_normalize
from deepcompress.errors import CheckpointError
from deepcompress.files import write_atomic
from deepcompress.layers import (
    Layer,
    buffers_of,
    check_choice,
    check_finite,
    check_whole,
    compressible,
    tensors_of,
)
from deepcompress.networks.adapt import is_smaller
from deepcompress.networks.copies import copied
from deepcompress.networks.precision import given_bytes, stored_of
from deepcompress.networks.unmade import check_made
from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import Codebook
from deepcompress.reading.arrays import Array, check_tensor, dense_bytes
from deepcompress.reading.loader import fill_from
from deepcompress.recipe import Recipe
from deepcompress.training import distributed
from deepcompress.training.evaluation import Evaluation, check_measured
from deepcompress.training.journal import clock
from deepcompress.training.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class Delivery:
    """What a file is made of.

    Attributes:
        model: the network; in the end it holds the very tensors of the file.
        state: its tensors, in the order of the file; those that the file does without are taken out.
        layers: those of them that are pruned.
        recipe: all settings.
        network, data, normalize: names for the header, and how inputs are normalized.
        steps: of the rows of layers in the file that this one goes on from (`from_file.steps_in`).
    """

    model: nn.Module
    state: dict[str, torch.Tensor]
    layers: Sequence[Layer]
    recipe: Recipe
    network: str = ""
    data: str = ""
    normalize: str = ""
    steps: Mapping[str, Array] = field(default_factory=dict)

    def packed(self, codebooks: Sequence[Codebook], coder: str | None = None) -> bytes:
        """The file as it would be now, with the recipe's coder or another."""
        more = (*extensions_of(self.model), *pack_normalize(self.normalize))
        names = (self.network, self.data, coder)
        stored = stored_of(self.model)
        return pack_state(self.state, self.layers, codebooks, self.recipe, *names, stored, more, self.steps)

    def drafted(self, codebooks: Sequence[Codebook], former: Sequence[Codebook] = ()) -> bytes:
        """The file as it would be if this were the end, with all that is left to do done to a copy of the network."""
        done, vectors = self._finished(former)
        return done.packed([*codebooks, *vectors])

    def fixed_bytes(self) -> int:
        """Bytes of the file if the layers took none."""
        bare, vectors = self._finished()
        for layer in bare.layers:
            bare.state[layer.name].zero_()
        return len(bare.packed(vectors))

    def _finished(self, former: Sequence[Codebook] = ()) -> tuple[Delivery, list[Codebook]]:
        """A delivery of a copy of the network, of which all but the layers is finished, and the vectors' codebooks."""
        twin = copied(self.model)
        state = contiguous_state(twin)
        vectors = finish_small(twin, state, self.recipe, former)
        return replace(self, model=twin, state=state), vectors

    def write(
        self, path: Path, codebooks: Sequence[Codebook], masks: Masks, stages: Stages, held: Sequence[str] = ()
    ) -> Result:
        """Write the file, read it back into the network, and say what was done.

        Raises:
            OutputError: it cannot be written.
        """
        # Packed before it is measured, and read back after that: a forward may change weights and buffers.
        size, content = len(self.packed(codebooks, "fixed")), self.packed(codebooks)
        stages.finish("quantize", size)
        write_atomic(path, content)
        distributed.check_same(content)
        for name, value in tensors_of(self.model, keep_vars=True).items():
            if name in self.state and value.shape != self.state[name].shape:  # a buffer for other samples
                value.data = self.state[name].detach().clone()
        read_back(self.model, path, self.state)
        breakdown = inspect(path)
        stages.finish("encode", breakdown.file_bytes)
        return Result.of(
            breakdown,
            stages.results,
            self.recipe.as_dict(),
            kept_of(masks),
            held=list(held),
            metric=stages.task.metric,
            unit=stages.task.unit,
            source_bytes=stages.source,
        )


def read_back(network: nn.Module, path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network the tensors of a file that was just made of `state`."""
    fill_from(network, path, 2 * sum(value.nbytes for value in state.values()))  # float64 may be float32 in `state`


def extensions_of(model: nn.Module) -> tuple[Extension, ...]:
    """What the header of a file of `model` says beside its tensors.

    Raises:
        CheckpointError: a module keeps something that cannot be stored.
    """
    return (*([SMALLER] if is_smaller(model) else []), *pack_extra_state(extra_states(model)))


def extra_states(model: nn.Module) -> dict[str, Any]:
    """What modules keep in the state_dict beside tensors."""
    return {name: value for name, value in model.state_dict().items() if not isinstance(value, torch.Tensor)}


def kept_of(masks: Masks) -> dict[str, float]:
    """The surviving fraction of each layer."""
    return {name: masks.density(name) for name in masks.keep}


class Stages:
    """What the stages came to: each measures from where the one before it ended, with what an interrupted run took."""

    def __init__(
        self, given: nn.Module, measured: Callable[[], Evaluation | None], task: Task = CLASSIFICATION
    ) -> None:
        """`given` is the dense network, of which sizes are counted."""
        self.dense, self.source = dense_bytes(tensors_of(given)), given_bytes(given)
        self.measured, self.task = measured, task
        self.results: list[StageResult] = []
        self._since = clock()

    def finish(self, stage: str, size: int) -> None:
        """`stage` has ended, where the file would have `size` bytes.

        Raises:
            TaskError: a metric of the user's own is no number for the dense network.
        """
        found = self.measured()
        now = clock()
        seconds, self._since = round(now - self._since, 3), now
        if found is not None and not self.results and self.task.is_own:
            check_measured(found.value, self.task)
        result = StageResult(stage, size, self.dense / size, None, seconds)
        self.results.append(result if found is None else result.measured(found))


def contiguous_state(work: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a network's state_dict, their memory made contiguous, so that they can be worked on as flat ones.

    Raises:
        NetworkError: one has no values (on the meta device, or in a lazy module).
        CheckpointError: one is not dense, or a module keeps something else that cannot be stored.
    """
    check_made(work)
    extensions_of(work)
    state = tensors_of(work)
    for name, value in state.items():
        if value.layout is not torch.strided or value.is_nested:
            kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
            raise CheckpointError(f"tensor {name} is {kind}; only dense tensors can be stored: make it one (to_dense)")
    for tensor in (*work.parameters(), *work.buffers()):
        if tensor.layout is torch.strided and not tensor.is_contiguous():
            tensor.data = tensor.data.contiguous()
    return tensors_of(work)


def refresh(state: dict[str, torch.Tensor], work: nn.Module, weights: Collection[str]) -> None:
    """Take what is no weight in `state` from the network again: a forward may have put new tensors in their place."""
    for name, value in contiguous_state(work).items():
        if name in state and name not in weights:
            state[name] = value


def layers_of(model: nn.Module, state: Mapping[str, torch.Tensor], recipe: Recipe) -> list[Layer]:
    """The tensors of `model` that the recipe prunes and shares, once it is sure that all can be stored.

    Raises:
        CheckpointError: there are none, one holds NaN or is divided between processes, or the format has no such dtype.
        RecipeError: a layer rule is about no tensor.
    """
    for name, value in state.items():
        check_tensor(name, value)
    check_whole(state)
    layers = compressible(state, recipe, buffers_of(model))
    check_finite(state, layers)
    check_choice(recipe, compressible(state), layers)
    return layers
