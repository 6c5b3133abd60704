"""What commands do with ONNX models: .onnx files, and .dc files that hold a graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import is_packed

if TYPE_CHECKING:
    from torch import nn

    from deepcompress.checkpoint import Checkpoint
    from deepcompress.cli.data import Asked
    from deepcompress.compression.result import Result
    from deepcompress.recipe import Recipe
    from deepcompress.training.progress import Progress

#: Options of `compress` that are for networks of torch's.
_TORCH_ONLY = {
    "network": "--network", "resume": "--resume", "masks_file": "--masks", "save_masks": "--save-masks",
    "save_scores": "--save-scores", "rewind": "--rewind", "key": "--key", "max_drop": "--max-drop",
    "task": "--task", "loss": "--loss", "teach": "--teach", "base": "--base", "update_size": "--update-size",
    "teacher_only": "--teacher-only",
}  # fmt: skip


def is_onnx(file: str) -> bool:
    """Whether a file is an .onnx model."""
    return Path(file).suffix.lower() == ".onnx"


def runs_as_onnx(file: str) -> bool:
    """Whether a file is an ONNX model that can be run: an .onnx file, or a .dc file that holds a graph."""
    if not is_packed(file):
        return is_onnx(file)
    from deepcompress.container.graph import has_graph
    from deepcompress.container.reader import ModelFile

    with ModelFile(file) as opened:
        return has_graph(opened.header.extensions)


def graph_of(file: str) -> bytes:
    """The graph that a .dc file holds; empty if it holds none."""
    from deepcompress.container.graph import graph_in
    from deepcompress.container.reader import ModelFile

    with ModelFile(file) as opened:
        return graph_in(opened.header.extensions)


def refuse_options(file: str, given: Mapping[str, Any]) -> None:
    """Refuse options of `compress` that have no meaning for an ONNX model (`UsageError`)."""
    wrong = [flag for name, flag in _TORCH_ONLY.items() if given.get(name) not in (None, False)]
    if wrong:
        raise click.UsageError(
            f"{file} is an ONNX model, which is neither built nor trained here: leave out {', '.join(wrong)}"
        )


def compress_onnx(
    file: str, recipe: Recipe, output: str, samples: Any, asked: Asked, watch: Progress
) -> tuple[Result, dict[str, Any]]:
    """The file that was written, and what JSON says of the model; measured before and after, where there is data."""
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.cli.data import facts_of
    from deepcompress.graphs.compress import compress_model
    from deepcompress.graphs.model import open_model
    from deepcompress.graphs.restore import model_in
    from deepcompress.graphs.session import OnnxNetwork
    from deepcompress.training.evaluation import evaluate

    model = open_model(file)
    rounder = None
    if samples is not None:
        from deepcompress.graphs.calibrate import OnnxRounder

        rounder = OnnxRounder(model, samples, watch)
    before = None
    if asked.data is not None:
        network = OnnxNetwork(model)
        data = asked.settled(network, asked.samples(Checkpoint({}), file, network), test_only=True)
        before = evaluate(network, data.test_loader(), data.task)
    result = compress_model(model, recipe, output, watch=watch, rounder=rounder)
    facts: dict[str, Any] = {"onnx_bytes": model.bytes, "onnx_ratio": model.bytes / result.file_bytes}
    if before is not None:
        after = evaluate(OnnxNetwork(model_in(output)), data.test_loader(), data.task)
        result, facts = result.measured(before, after, data.task), {**facts, **facts_of(data)}
    return result, facts


def network_of(file: str, max_bytes: int | None = None) -> tuple[Checkpoint, nn.Module]:
    """What a file holds, and as a network that runs."""
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.checkpoint.found import Found
    from deepcompress.graphs.restore import open_any
    from deepcompress.graphs.session import OnnxNetwork, needs_runtime

    needs_runtime()
    model = open_any(file, max_bytes)
    network = OnnxNetwork(model)
    return Checkpoint(model.tensors.in_memory(), found=Found("an ONNX model", model.bytes)), network


def export_onnx_model(file: str, output: str, max_bytes: int | None) -> int:
    """Write the ONNX model of a .dc file; gives how many tensors it has."""
    from deepcompress.graphs.restore import model_in, save

    return save(model_in(file, max_bytes), output)
