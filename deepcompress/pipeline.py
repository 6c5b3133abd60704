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
from deepcompress.layers import Layer, check_finite, check_rules, compressible, tied_to
from deepcompress.loader import fill, load_state_dict
from deepcompress.packing import pack_state
from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import connections, silence
from deepcompress.quantize.sharing import Codebook
from deepcompress.quantize.vectors import is_vector, share_vectors
from deepcompress.recipe import Recipe
from deepcompress.result import Result, StageResult, kept_line
from deepcompress.routes import ByFraction, BySize, Job
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
    if recipe.weighting != "none" and not recipe.retrain:
        raise RecipeError(f"weighting {recipe.weighting!r} needs training data, and retrain=False uses none")
    if recipe.max_drop is not None and val_loader is None:
        raise RecipeError("max_drop needs validation data to measure accuracy on: pass val_loader")
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

    def packed(codebooks: list[Codebook], coder: str) -> bytes:
        return pack_state(state, layers, codebooks, recipe, network, data, coder)

    stages.finish("dense", stages.dense)
    job = Job(work, weights, layers, recipe, batches, val_loader, objective, watch)
    route = (
        ByFraction(job)
        if recipe.target_size is None
        else BySize(job, lambda: _fixed_bytes(work, recipe, network, data))
    )
    route.prune()
    pruned = route.masks
    watch.message(kept_line(_kept(pruned), pruned.sparsity))
    stages.finish("prune", len(packed([], "fixed")))
    route.share()
    if route.masks is not pruned:
        watch.message(f"after sharing, {kept_line(_kept(route.masks), route.masks.sparsity)}")
    vectors = _finish_small(work, state, recipe)
    route.settle(lambda: len(packed([*route.codebooks, *vectors], recipe.coder)))
    codebooks = [*route.codebooks, *vectors]
    stages.finish("quantize", len(packed(codebooks, "fixed")))
    write_atomic(path, packed(codebooks, recipe.coder))
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
        kept=_kept(route.masks),
        stages=stages.results,
        seed=recipe.seed,
        recipe=recipe.as_dict(),
        breakdown=breakdown,
        held=route.held,
    )


def _kept(masks: Masks) -> dict[str, float]:
    return {name: masks.density(name) for name in masks.keep}


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


def _fixed_bytes(work: nn.Module, recipe: Recipe, network: str, data: str) -> int:
    """Bytes of the file that `work` would make now if its layers took none."""
    bare = copy.deepcopy(work)
    state = _contiguous_state(bare)
    layers = compressible(state)
    vectors = _finish_small(bare, state, recipe)
    for layer in layers:
        state[layer.name].zero_()
    return len(pack_state(state, layers, vectors, recipe, network, data))


def _finish_small(work: nn.Module, state: dict[str, torch.Tensor], recipe: Recipe) -> list[Codebook]:
    """What is no layer, as the file shall have it, in place: batch norm folded, vectors shared, if the recipe says so.

    Of neurons that nothing reads, biases become zero where vectors are shared. Returns the vectors' codebooks.
    """
    if recipe.batch_norm == "fold":
        for counter in fold_statistics(work):
            del state[counter]
    if recipe.small_bits is None:
        return []
    silence(state, connections(work))
    return share_vectors(state, _vectors(work, state), recipe.small_bits)


def _vectors(work: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the vectors that are parameters, each once; buffers such as running variances are left alone."""
    tied = tied_to(state)
    parameters = dict(work.named_parameters(remove_duplicate=False))
    return [name for name, value in state.items() if name in parameters and name not in tied and is_vector(value)]


def _layers(state: Mapping[str, torch.Tensor], recipe: Recipe) -> list[Layer]:
    layers = compressible(state)
    if not layers:
        raise CheckpointError("there is nothing to compress: no floating-point tensor has two or more dimensions")
    for name, value in state.items():
        check_dtype(name, value)
    check_finite(state)
    check_rules(recipe, layers)
    return layers
