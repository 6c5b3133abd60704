"""The stages chained: prune, quantize, encode, and the proof that the file holds what was measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from deepcompress.batchnorm import fold_statistics
from deepcompress.container.breakdown import inspect
from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.files import check_writable, write_atomic
from deepcompress.interop import check_dtype, dense_bytes
from deepcompress.layers import Layer, check_finite, check_rules, compressible
from deepcompress.loader import fill, load_state_dict
from deepcompress.packing import pack_state
from deepcompress.prune.stage import prune, prune_and_retrain
from deepcompress.quantize.sharing import Codebook, share, tune
from deepcompress.recipe import Recipe
from deepcompress.result import Result, StageResult, kept_line
from deepcompress.training.loop import Batches, evaluate, seed_everything
from deepcompress.training.objective import objective_of
from deepcompress.training.progress import Progress


def compress(
    model: nn.Module,
    train_loader: Batches | None,
    val_loader: Batches | None,
    recipe: Recipe | None = None,
    path: str | Path = "model.dc",
    *,
    test_loader: Batches | None = None,
    network: str = "",
    data: str = "",
    watch: Progress | None = None,
) -> Result:
    """Compress a network and write it to `path`. `model` itself is not changed.

    Args:
        model: a trained network, on the device where it shall be retrained.
        train_loader: batches (input, label) for retraining, passed over again each epoch: a DataLoader, for
            example. May be None if `recipe.retrain` is False.
        val_loader: batches that the progress is measured on; None measures nothing.
        recipe: all settings.
        path: the file to write; an old one is replaced at the very end, or not at all.
        test_loader: batches for the accuracies of the result; `val_loader` where there are none. They decide nothing.
        network: a name by which `load` can rebuild the network, stored in the file.
        data: the name of the data set, stored in the file.
        watch: told what happens.

    Raises:
        RecipeError: a setting does not fit the network, or training data is missing.
        CheckpointError: the network has no weights to compress, or NaN among them.
        PruneError: a layer would be emptied.
        OutputError: `path` cannot be written.
    """
    recipe, watch, path = recipe or Recipe(), watch or Progress(), Path(path)
    if recipe.retrain and train_loader is None:
        raise RecipeError("retraining needs training data: pass train_loader, or set retrain=False")
    batches = train_loader if recipe.retrain else None
    report = test_loader if test_loader is not None else val_loader
    work = copy.deepcopy(model)
    state = _contiguous_state(work)
    layers = _layers(state, recipe)
    parameters = dict(work.named_parameters(remove_duplicate=False))
    weights = {layer.name: parameters.get(layer.name, state[layer.name]) for layer in layers}
    check_writable(path)
    objective = objective_of(recipe, model)
    seed_everything(recipe.seed)
    stages = _Stages(dense_bytes(state), lambda: evaluate(work, report).accuracy if report is not None else None)

    def packed(codebooks: list[Codebook], allow_huffman: bool) -> bytes:
        return pack_state(state, layers, codebooks, recipe, network, data, allow_huffman)

    stages.finish("dense", stages.dense)
    if batches is None:
        masks = prune(weights, recipe, watch=watch)
    else:
        masks = prune_and_retrain(work, weights, batches, recipe, val_loader, watch, objective)
    kept = {name: masks.density(name) for name in masks.keep}
    watch.message(kept_line(kept, masks.sparsity))
    stages.finish("prune", len(packed([], allow_huffman=False)))
    codebooks = share(weights, layers, recipe)
    if batches is not None:
        tune(work, weights, masks, codebooks, batches, recipe, val_loader, watch, objective)
    if recipe.batch_norm == "fold":
        for counter in fold_statistics(work):
            del state[counter]
    stages.finish("quantize", len(packed(codebooks, allow_huffman=False)))
    write_atomic(path, packed(codebooks, allow_huffman=recipe.coder == "huffman"))
    fill(work, load_state_dict(path, max_bytes=sum(value.nbytes for value in state.values())), str(path))
    breakdown = inspect(path)
    stages.finish("encode", breakdown.file_bytes)
    return Result(
        file=str(path),
        file_bytes=breakdown.file_bytes,
        dense_bytes=stages.dense,
        ratio=stages.dense / breakdown.file_bytes,
        accuracy_before=stages.results[0].accuracy,
        accuracy_after=stages.results[-1].accuracy,
        kept=kept,
        stages=stages.results,
        seed=recipe.seed,
        recipe=recipe.as_dict(),
        breakdown=breakdown,
    )


class _Stages:
    """What the stages came to: each measures from where the one before it ended."""

    def __init__(self, dense: int, accuracy: Callable[[], float | None]) -> None:
        self.dense, self.accuracy = dense, accuracy
        self.results: list[StageResult] = []
        self._since = time.perf_counter()

    def finish(self, stage: str, size: int) -> None:
        accuracy = self.accuracy()
        now = time.perf_counter()
        self.results.append(StageResult(stage, size, self.dense / size, accuracy, round(now - self._since, 3)))
        self._since = now


def _contiguous_state(work: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict of a network, its memory made contiguous, so that tensors can be worked on as flat ones."""
    for tensor in (*work.parameters(), *work.buffers()):
        tensor.data = tensor.data.contiguous()
    state = dict(work.state_dict())
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"entry {name} of the state_dict is a {type(value).__name__}; only tensors can be stored"
            )
    return state


def _layers(state: Mapping[str, torch.Tensor], recipe: Recipe) -> list[Layer]:
    layers = compressible(state)
    if not layers:
        raise CheckpointError("there is nothing to compress: no floating-point tensor has two or more dimensions")
    for name, value in state.items():
        check_dtype(name, value)
    check_finite(state)
    check_rules(recipe, layers)
    return layers
