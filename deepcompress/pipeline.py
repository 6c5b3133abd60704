"""The stages chained: prune, quantize, encode, and the proof that the file holds what was measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from deepcompress.container.breakdown import inspect
from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.files import check_writable, write_atomic
from deepcompress.interop import check_dtype, dense_bytes
from deepcompress.layers import Layer, check_finite, check_rules, compressible
from deepcompress.loader import fill, load_state_dict
from deepcompress.packing import pack_state
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune, prune_and_retrain
from deepcompress.quantize.sharing import Codebook, share, tune
from deepcompress.recipe import Recipe
from deepcompress.result import Result, StageResult, kept_line
from deepcompress.training.loop import Batches, evaluate, seed_everything
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
    recipe, watch = recipe or Recipe(), watch or Progress()
    if recipe.retrain and train_loader is None:
        raise RecipeError("retraining needs training data: pass train_loader, or set retrain=False")
    work = copy.deepcopy(model)
    for tensor in (*work.parameters(), *work.buffers()):
        tensor.data = tensor.data.contiguous()
    state = work.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"entry {name} of the state_dict is a {type(value).__name__}; only tensors can be stored"
            )
    layers = _layers(state, recipe)
    parameters = dict(work.named_parameters(remove_duplicate=False))
    weights = {layer.name: parameters.get(layer.name, state[layer.name]) for layer in layers}
    report = test_loader if test_loader is not None else val_loader
    seed_everything(recipe.seed)

    def prune_step() -> Masks:
        if recipe.retrain and train_loader is not None:
            return prune_and_retrain(work, weights, train_loader, recipe, val_loader, watch)
        return prune(weights, recipe, watch=watch)

    def tune_step(masks: Masks, codebooks: list[Codebook]) -> None:
        if recipe.retrain and train_loader is not None:
            tune(work, weights, masks, codebooks, train_loader, recipe, val_loader, watch)

    def accuracy(reloaded: Mapping[str, torch.Tensor] | None = None) -> float | None:
        if reloaded is not None:
            fill(work, dict(reloaded), str(path))
        return evaluate(work, report).accuracy if report is not None else None

    steps = _Steps(prune_step, tune_step, accuracy)
    return _run(state, weights, layers, recipe, Path(path), steps, network, data, watch)


@dataclass(frozen=True)
class _Steps:
    """The stages as this network and this data do them."""

    prune: Callable[[], Masks]
    tune: Callable[[Masks, list[Codebook]], None]
    accuracy: Callable[..., float | None]


def _layers(state: Mapping[str, torch.Tensor], recipe: Recipe) -> list[Layer]:
    layers = compressible(state)
    if not layers:
        raise CheckpointError("there is nothing to compress: no floating-point tensor has two or more dimensions")
    for name, value in state.items():
        check_dtype(name, value)
    check_finite(state)
    check_rules(recipe, layers)
    return layers


def _run(
    state: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    layers: list[Layer],
    recipe: Recipe,
    path: Path,
    steps: _Steps,
    network: str,
    data: str,
    watch: Progress,
) -> Result:
    check_writable(path)
    dense = dense_bytes(state)
    clock = time.perf_counter()
    stages: list[StageResult] = []

    def finish(stage: str, size: int, accuracy: float | None, since: float) -> None:
        seconds = time.perf_counter() - since
        stages.append(StageResult(stage, size, dense / size, accuracy, round(seconds, 3)))

    def packed(codebooks: list[Codebook], allow_huffman: bool) -> bytes:
        return pack_state(state, layers, codebooks, recipe, network, data, allow_huffman)

    finish("dense", dense, steps.accuracy(), clock)
    clock = time.perf_counter()
    masks = steps.prune()
    kept = {name: masks.density(name) for name in masks.keep}
    watch.message(kept_line(kept, masks.sparsity))
    finish("prune", len(packed([], allow_huffman=False)), steps.accuracy(), clock)
    clock = time.perf_counter()
    codebooks = share(weights, layers, recipe)
    steps.tune(masks, codebooks)
    finish("quantize", len(packed(codebooks, allow_huffman=False)), steps.accuracy(), clock)
    clock = time.perf_counter()
    write_atomic(path, packed(codebooks, allow_huffman=recipe.coder == "huffman"))
    reloaded = load_state_dict(path, max_bytes=sum(value.nbytes for value in state.values()))
    breakdown = inspect(path)
    finish("encode", breakdown.file_bytes, steps.accuracy(reloaded), clock)
    return Result(
        file=str(path),
        file_bytes=breakdown.file_bytes,
        dense_bytes=dense,
        ratio=dense / breakdown.file_bytes,
        accuracy_before=stages[0].accuracy,
        accuracy_after=stages[-1].accuracy,
        kept=kept,
        stages=stages,
        seed=recipe.seed,
        recipe=recipe.as_dict(),
        breakdown=breakdown,
    )
