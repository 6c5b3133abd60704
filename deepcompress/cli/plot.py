"""`deepcompress plot`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import is_packed, output_folder, show
from deepcompress.cli.options import common, max_bytes_option, trust_option
from deepcompress.cli.outputs import claim, force_option
from deepcompress.errors import CheckpointError, DeepCompressError
from deepcompress.recipe import LayerRule, pattern_hint

if TYPE_CHECKING:
    import torch

    from deepcompress.container.breakdown import Breakdown, LayerBreakdown
    from deepcompress.container.reader import ModelFile
    from deepcompress.report.page import Array
    from deepcompress.report.plots import WeightPicture

LARGEST = 8
MOST_PANELS = 24  # more would not fit on a sheet, and the time to lay them out grows with the square


@click.command()
@click.argument("file", metavar="FILE", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), metavar="FOLDER", help="Folder for the pictures.  [default: FILE-plots]"
)
@force_option
@click.option(
    "--before", type=click.Path(), metavar="CKPT", help="Draw the weights of this dense checkpoint in the background."
)
@click.option("--layer", "patterns", multiple=True, metavar="PATTERN",
              help=f"Draw the layers whose name matches. Repeatable.  [default: the {LARGEST} largest]")  # fmt: skip
@click.option("--masks", "masks_file", type=click.Path(), metavar="FILE",
              help="For a file of scores: show which of the weights these masks keep.")  # fmt: skip
@trust_option
@max_bytes_option
@common
def plot(
    file: str,
    output: str | None,
    force: bool,
    before: str | None,
    patterns: tuple[str, ...],
    masks_file: str | None,
    trust_pickle: bool,
    key: str | None,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Draw the weights and bytes of a .dc file, or a file of masks or scores.

    For a .dc file, FOLDER/weights.png shows a histogram of each layer with its shared values, and FOLDER/bytes.png
    shows the bytes of the largest tensors and of each section.

    FILE can also come from --save-masks or --save-scores of compress. FOLDER/masks.png then shows which weights are
    kept, or FOLDER/scores.png shows a histogram of each layer.
    """
    folder, kind = Path(output or f"{Path(file).stem}-plots"), kind_of(file)
    pictures = (f"{kind}.png",) if kind is not None else ("bytes.png", "weights.png")
    claim(folder, *(folder / name for name in pictures), ending="")
    if kind is not None:
        written = [draw_saved(file, kind, folder, patterns, masks_file)]
    elif masks_file is not None:
        raise click.UsageError(f"--masks is for a file of scores, and {file} holds no scores: leave it out")
    else:
        written = draw_packed(file, folder, before, patterns, trust_pickle, key, max_bytes)
        if len(written) == 1 and not quiet:
            click.echo(f"{file}: no tensor is coded, so there are no weights to draw", err=True)
    result = {"file": file, "pictures": [str(path) for path in written]}
    show(as_json, result, lambda: "\n".join(map(str, written)))


def draw_packed(
    file: str,
    folder: Path,
    before: str | None,
    patterns: Sequence[str],
    trust_pickle: bool,
    key: str | None,
    max_bytes: int | None,
) -> list[Path]:
    """Draw the bytes of a .dc file and, if there are any, the weights of its coded layers; the pictures' paths."""
    from deepcompress.container.breakdown import breakdown
    from deepcompress.container.reader import ModelFile
    from deepcompress.report import plots
    from deepcompress.report.page import short

    with ModelFile(file) as opened:
        opened.check(max_bytes)
        found = breakdown(opened.header, file, opened.file_bytes)
        layers = _chosen(found, patterns)
        pictures = _pictures(opened, layers, before, trust_pickle, key)
    output_folder(folder)
    title = f"{short(Path(file).name)}: {found.file_bytes:,} bytes, {found.ratio:.1f}× smaller"
    written = [folder / "bytes.png"]
    plots.draw_bytes(found, written[0], title=title)
    if pictures:
        written.append(folder / "weights.png")
        plots.draw_weights(pictures, written[1], title=title)
    return written


def _chosen(found: Breakdown, patterns: Sequence[str]) -> list[LayerBreakdown]:
    """The coded layers that match, or the largest ones, in the order of the file; raises as `_matching`."""
    layers = {layer.name: layer for layer in found.layers if layer.kind == "coded"}
    sizes = {name: layer.weights for name, layer in layers.items()}
    return [layers[name] for name in _matching(found.file, "coded layer", sizes, patterns)]


def _matching(file: str, what: str, sizes: Mapping[str, int], patterns: Sequence[str]) -> list[str]:
    """Names of the layers that match, or of the largest ones, in the order of the file.

    Raises:
        DeepCompressError: a pattern matches none, or all together match too many for a picture.
    """
    if not patterns:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]
        return [name for name in sizes if name in largest]
    chosen: set[str] = set()
    for rule in map(LayerRule, patterns):
        matching = {name for name in sizes if rule.matches(name)}
        if not matching:
            known = ", ".join(list(sizes)[:LARGEST]) + (", …" if len(sizes) > LARGEST else "")
            raise DeepCompressError(
                f"{file}: --layer {rule.pattern!r} matches no {what}; there are {known or 'none'}{pattern_hint(sizes)}"
            )
        chosen |= matching
    if len(chosen) > MOST_PANELS:
        raise DeepCompressError(f"--layer matches {len(chosen)} layers; a picture has room for {MOST_PANELS}")
    return [name for name in sizes if name in chosen]


def _pictures(
    opened: ModelFile, layers: Sequence[LayerBreakdown], before: str | None, trust_pickle: bool, key: str | None
) -> list[WeightPicture]:
    from deepcompress.report.plots import weight_picture

    if before is None:
        return [weight_picture(opened, layer.name) for layer in layers]

    from deepcompress.checkpoint import open_checkpoint

    dense = open_checkpoint(before, trust_pickle, key=key).state
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


# Masks and scores ------------------------------------------------------------------------------------------


def kind_of(file: str) -> str | None:
    """``masks`` or ``scores``, if that is what a file says that it holds."""
    if Path(file).suffix not in (".safetensors", ".pt") or not Path(file).is_file() or is_packed(file):
        return None
    from deepcompress.checkpoint import open_checkpoint

    try:
        kind = open_checkpoint(file).facts.get("holds")
    except CheckpointError:
        return None
    return str(kind) if kind in ("masks", "scores") else None


def draw_saved(file: str, kind: str, folder: Path, patterns: Sequence[str], masks_file: str | None) -> Path:
    """Draw the layers that match of a file of masks or scores, or the largest ones; the picture's path."""
    from deepcompress.prune.maskfile import fitted, load_masks, load_scores
    from deepcompress.report.masks import MaskPicture, ScorePicture, draw_masks, draw_scores
    from deepcompress.report.page import short

    tensors = load_masks(file).keep if kind == "masks" else load_scores(file)
    keep = None if masks_file is None else fitted(load_masks(masks_file), tensors).keep
    if kind == "masks" and masks_file is not None:
        raise click.UsageError(f"--masks is for a file of scores, and {file} holds masks: leave it out")
    sizes = {name: value.numel() for name, value in tensors.items() if value.ndim}
    names = _matching(file, "layer", sizes, patterns)
    title, place = short(Path(file).name), output_folder(folder) / f"{kind}.png"
    if kind == "masks":
        kept = sum(int(mask.sum()) for mask in tensors.values()) / sum(mask.numel() for mask in tensors.values())
        title = f"{title}: {100 * kept:.3g} % of all weights kept"
        draw_masks([MaskPicture(name, tensors[name].numpy()) for name in names], place, title=title)
    else:
        criterion = _facts(file).get("criterion", "")
        draw_scores(
            [ScorePicture(name, tensors[name].float().numpy(), None if keep is None else keep[name].numpy())
             for name in names], place, title=f"{title}: {criterion}" if criterion else title,
        )  # fmt: skip
    return place


def _facts(file: str) -> Mapping[str, Any]:
    """What a file says of itself."""
    from deepcompress.checkpoint import open_checkpoint

    return open_checkpoint(file).facts
