"""`deepcompress plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import show
from deepcompress.cli.options import common, max_bytes_option, trust_option
from deepcompress.errors import CheckpointError, DeepCompressError, OutputError
from deepcompress.recipe import LayerRule

if TYPE_CHECKING:
    import torch

    from deepcompress.container.breakdown import Breakdown, LayerBreakdown
    from deepcompress.container.reader import ModelFile
    from deepcompress.report.page import Array
    from deepcompress.report.plots import WeightPicture

LARGEST = 8
MOST_PANELS = 24  # more would not fit on a sheet, and the time to lay them out grows with the square


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.option("-o", "--output", type=click.Path(), metavar="FOLDER", help="[default: MODEL-plots, in this folder]")
@click.option("--before", type=click.Path(), metavar="CKPT", help="Draw the weights of this dense checkpoint behind.")
@click.option("--layer", "patterns", multiple=True, metavar="PATTERN",
              help=f"Draw the weights of matching layers; repeatable.  [default: the {LARGEST} largest]")  # fmt: skip
@trust_option
@max_bytes_option
@common
def plot(
    file: str,
    output: str | None,
    before: str | None,
    patterns: tuple[str, ...],
    trust_pickle: bool,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Draw a .dc file: its weights and its bytes.

    FOLDER/weights.png has a histogram of each layer and its shared values, FOLDER/bytes.png the bytes of the largest
    tensors and of each section.
    """
    from deepcompress.container.breakdown import breakdown
    from deepcompress.container.reader import ModelFile
    from deepcompress.report import plots
    from deepcompress.report.page import short

    folder = Path(output or f"{Path(file).stem}-plots")
    with ModelFile(file) as opened:
        opened.check(max_bytes)
        found = breakdown(opened.header, file, opened.file_bytes)
        layers = _chosen(found, patterns)
        pictures = _pictures(opened, layers, before, trust_pickle)
    _make_folder(folder)
    title = f"{short(Path(file).name)}: {found.file_bytes:,} bytes, {found.ratio:.1f}× smaller"
    written = [folder / "bytes.png"]
    plots.draw_bytes(found, written[0], title=title)
    if pictures:
        written.append(folder / "weights.png")
        plots.draw_weights(pictures, written[1], title=title)
    elif not quiet:
        click.echo(f"{file}: no tensor is coded, so there are no weights to draw", err=True)
    result = {"file": file, "pictures": [str(path) for path in written]}
    show(as_json, result, lambda: "\n".join(map(str, written)))


def _chosen(found: Breakdown, patterns: Sequence[str]) -> list[LayerBreakdown]:
    """The coded layers that match, or the largest ones, in the order of the file.

    Raises:
        DeepCompressError: a pattern matches none, or all together match too many for a picture.
    """
    layers = [layer for layer in found.layers if layer.kind == "coded"]
    if not patterns:
        largest = sorted(layers, key=lambda layer: -layer.weights)[:LARGEST]
        return [layer for layer in layers if layer in largest]
    chosen: set[str] = set()
    for rule in map(LayerRule, patterns):
        matching = {layer.name for layer in layers if rule.matches(layer.name)}
        if not matching:
            raise DeepCompressError(
                f"{found.file}: --layer {rule.pattern!r} matches no coded layer; deepcompress inspect shows them"
            )
        chosen |= matching
    if len(chosen) > MOST_PANELS:
        raise DeepCompressError(f"--layer matches {len(chosen)} layers; a picture has room for {MOST_PANELS}")
    return [layer for layer in layers if layer.name in chosen]


def _pictures(
    opened: ModelFile, layers: Sequence[LayerBreakdown], before: str | None, trust_pickle: bool
) -> list[WeightPicture]:
    from deepcompress.report.plots import weight_picture

    if before is None:
        return [weight_picture(opened, layer.name) for layer in layers]

    from deepcompress.checkpoint import open_checkpoint

    dense = open_checkpoint(before, trust_pickle).state
    return [weight_picture(opened, layer.name, _dense_weights(dense, layer, before)) for layer in layers]


def _dense_weights(state: Any, layer: LayerBreakdown, before: str) -> Array:
    """The dense weights of a layer, as few as are drawn.

    Raises:
        CheckpointError: the checkpoint does not have them.
    """
    from deepcompress.report.plots import stride

    if layer.name not in state:
        raise CheckpointError(f"{before}: has no tensor {layer.name}; is it the checkpoint that was compressed?")
    tensor: torch.Tensor = state[layer.name]
    if tuple(tensor.shape) != layer.shape:
        raise CheckpointError(
            f"{before}: tensor {layer.name} has shape {tuple(tensor.shape)}, not {layer.shape}; "
            "is it the checkpoint that was compressed?"
        )
    weights: Array = tensor.reshape(-1)[:: stride(layer.weights)].float().numpy()
    return weights


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from None
