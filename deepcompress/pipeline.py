"""The stages chained: prune, quantize, encode, and the proof that the file holds what was measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.container.breakdown import Breakdown, inspect
from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.files import check_writable, write_atomic
from deepcompress.interop import check_dtype, dense_bytes
from deepcompress.layers import Layer, check_finite, check_rules, compressible, tied_to
from deepcompress.loader import fill, load_state_dict
from deepcompress.packing import pack_state
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import prune, prune_and_retrain
from deepcompress.quantize.sharing import Codebook, share, tune
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Batches, evaluate, seed_everything
from deepcompress.training.progress import Progress


@dataclass(frozen=True)
class StageResult:
    """Where things stood after a stage: bytes of the .dc file then, its ratio to dense fp32, accuracy in percent."""

    stage: str
    bytes: int
    ratio: float
    accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Result:
    """What a compression did.

    Accuracies are in percent, None where nothing measured them; `accuracy_after` is that of the network reloaded from
    the file. `kept` is the surviving fraction of each layer after pruning.
    """

    file: str
    file_bytes: int
    dense_bytes: int
    ratio: float
    accuracy_before: float | None
    accuracy_after: float | None
    kept: dict[str, float]
    stages: list[StageResult]
    seed: int
    recipe: dict[str, Any]
    breakdown: Breakdown = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        del plain["breakdown"]
        return plain


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


def compress_state(
    state: Mapping[str, torch.Tensor],
    recipe: Recipe | None = None,
    path: str | Path = "model.dc",
    *,
    network: str = "",
    data: str = "",
    watch: Progress | None = None,
) -> Result:
    """Compress bare tensors, with neither network code nor data: no retraining, no tuning, nothing measured.

    `state` is not changed. Arguments, results and errors are otherwise those of `compress`.
    """
    recipe, watch = recipe or Recipe(), watch or Progress()
    tied = tied_to(state)
    own = {name: value.detach().cpu().clone().contiguous() for name, value in state.items() if name not in tied}
    copied = {name: own[tied.get(name, name)] for name in state}
    layers = _layers(copied, recipe)
    weights = {layer.name: copied[layer.name] for layer in layers}
    seed_everything(recipe.seed)
    steps = _Steps(lambda: prune(weights, recipe, watch=watch), _tune_nothing, _measure_nothing)
    return _run(copied, weights, layers, recipe, Path(path), steps, network, data, watch)


def _tune_nothing(masks: Masks, codebooks: list[Codebook]) -> None:
    """Without data there is nothing to tune by."""


def _measure_nothing(reloaded: Mapping[str, torch.Tensor] | None = None) -> None:
    """Without data there is nothing to measure on."""


@dataclass(frozen=True)
class _Steps:
    """What differs with and without a network at hand."""

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
    watch.message(_kept_line(masks))
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
        kept={name: masks.density(name) for name in masks.keep},
        stages=stages,
        seed=recipe.seed,
        recipe=recipe.as_dict(),
        breakdown=breakdown,
    )


def _kept_line(masks: Masks) -> str:
    kept = ", ".join(f"{name.removesuffix('.weight')} {100 * masks.density(name):.1f} %" for name in masks.keep)
    return f"weights kept: {kept}; {100 * (1 - masks.sparsity):.2f} % in all"
