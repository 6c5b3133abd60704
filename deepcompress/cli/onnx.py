"""What commands do with ONNX models: .onnx files, and .dc files that hold a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import is_packed
from deepcompress.cli.data import Asked

if TYPE_CHECKING:
    from torch import nn

    from deepcompress.checkpoint import Checkpoint
    from deepcompress.compression.result import Result
    from deepcompress.recipe import Recipe
    from deepcompress.training.progress import Progress

#: Options of `compress` that are for networks of torch's.
_TORCH_ONLY = {
    "network": "--network", "resume": "--resume", "masks_file": "--masks", "save_masks": "--save-masks",
    "save_scores": "--save-scores", "rewind": "--rewind", "key": "--key", "max_drop": "--max-drop",
    "task": "--task", "loss": "--loss",
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


def check_options(file: str) -> bool:
    """Refuse options of `compress` that have no meaning for an ONNX model; True where all have one."""
    given = click.get_current_context().params
    wrong = [flag for name, flag in _TORCH_ONLY.items() if given.get(name) not in (None, False)]
    if given.get("retrain") is True:
        wrong.append("--retrain")
    if wrong:
        raise click.UsageError(
            f"{file} is an ONNX model, which is neither built nor trained here: leave out {', '.join(wrong)}"
        )
    return True


def compress_onnx(
    file: str, recipe: Recipe, output: str, calibrate: str | None, asked: Asked, watch: Progress
) -> tuple[Result, dict[str, Any]]:
    """The file that was written, and what JSON says of the model; measured before and after, where there is data."""
    from deepcompress.cli.data import facts_of
    from deepcompress.graphs.compress import compress_model
    from deepcompress.graphs.model import open_model
    from deepcompress.training.evaluation import evaluate

    model = open_model(file)
    rounder = None
    if calibrate is not None:
        from deepcompress.calibration.samples import load_samples
        from deepcompress.graphs.calibrate import OnnxRounder

        rounder = OnnxRounder(model, load_samples(calibrate), watch)
    before = None
    if asked.data is not None:
        source, network = _network(file)
        samples = asked.settled(network, asked.samples(source, file, network), test_only=True)
        before = evaluate(network, samples.test_loader(), samples.task)
    result = compress_model(model, recipe, output, watch=watch, rounder=rounder)
    facts: dict[str, Any] = {"onnx_bytes": model.bytes, "onnx_ratio": model.bytes / result.file_bytes}
    if before is not None:
        after = evaluate(_network(output)[1], samples.test_loader(), samples.task)
        result, facts = result.measured(before, after, samples.task), {**facts, **facts_of(samples)}
    return result, facts


def _network(file: str, max_bytes: int | None = None) -> tuple[Checkpoint, nn.Module]:
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.checkpoint.found import Found
    from deepcompress.graphs.restore import open_any
    from deepcompress.graphs.session import OnnxNetwork, needs_runtime

    needs_runtime()
    model = open_any(file, max_bytes)
    network = OnnxNetwork(model)
    return Checkpoint(model.tensors, found=Found("an ONNX model", model.bytes)), network


def network_of(file: str, max_bytes: int | None) -> tuple[Checkpoint, nn.Module, float]:
    """What a file holds, as a network that runs, and how many times smaller it is than its tensors as fp32."""
    source, network = _network(file, max_bytes)
    assert source.found is not None
    stored = source.state.stored.values()  # type: ignore[attr-defined]
    dense = sum(each.elements * (4 if each.dtype.is_floating_point else each.dtype.itemsize) for each in stored)
    return source, network, dense / source.found.bytes


def export_onnx_model(file: str, output: str, max_bytes: int | None) -> int:
    """Write the ONNX model of a .dc file; gives how many tensors it has."""
    from deepcompress.graphs.restore import model_in, save

    return save(model_in(file, max_bytes), output)
