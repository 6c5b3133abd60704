"""`deepcompress compress`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import (
    build_model,
    command_line,
    data_label,
    model_and_data,
    network_name,
    output_folder,
    show,
    storable,
    versions,
)
from deepcompress.cli.options import (
    budget_options,
    build_budgeted,
    common,
    data_options,
    network_option,
    recipe_options,
    trust_option,
)
from deepcompress.errors import DeepCompressError
from deepcompress.recipe import SMALLEST, Recipe

if TYPE_CHECKING:
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.result import Result

#: Headings of the help, and the options under them; all others come under the last.
SECTIONS = {
    "What, and where to": ("output", "network", "data", "data_dir", "device", "recipe_file", "trust_pickle"),
    "How small": ("target_size", "max_drop", "trials", "keep_trials", "prune", "bits", "conv_bits", "levels", "layers"),
    "Pruning": ("scope", "distribution", "quality", "criterion", "score_samples", "schedule", "iterations", "regrow"),
    "Shared values": (
        "quantizer", "init", "weighting", "rate", "codebook_dtype", "small_bits", "finetune_epochs", "finetune_lr",
    ),
    "File": ("coder", "index_bits", "batch_norm", "small_dtype"),
    "Retraining": (
        "retrain", "epochs", "optimizer", "lr", "lr_schedule", "batch_size", "penalty", "penalty_weight",
        "label_smoothing", "distill", "temperature", "precision", "shift", "flip", "seed",
    ),
    "Other": (),
}  # fmt: skip


HELP = f"""Prune, share and code a network into one .dc file.

CKPT is a .pt or .safetensors file, or the .safetensors.index.json of several.

\b
Say how small in one of these ways:
  --prune F --bits B            so many weights, so many shared values
  --prune F --max-drop POINTS   the same, but layers that lose too much keep more
  --target-size SIZE            a file of at most this size
  --max-drop POINTS             the smallest file that loses no more than this

With the last two, what is not given is set for small files:
{" ".join(f"--{name.replace('_', '-')} {value}" for name, value in SMALLEST.items())}.

--max-drop without --prune compresses many times. Its trials are kept in OUTPUT.search until it ends: after an
interruption, the same command goes on from there.

The test data decides nothing: it is measured on for the table at the end.
"""


class Sections(click.Command):
    """A command with so many options that its help needs headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under `SECTIONS`."""
        known = {name for names in SECTIONS.values() for name in names}
        for heading, names in SECTIONS.items():
            rows = [
                record
                for param in self.get_params(ctx)
                if (param.name in names if names else param.name not in known)
                and isinstance(param, click.Option)
                and (record := param.get_help_record(ctx)) is not None
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.command(cls=Sections, help=HELP)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="model.dc", show_default=True, metavar="FILE")
@network_option
@data_options()
@budget_options
@recipe_options()
@trust_option
@common
def compress(
    checkpoint: str,
    output: str,
    network: str | None,
    data: str | None,
    data_dir: str | None,
    device: str,
    trials: int | None,
    keep_trials: bool | None,
    recipe_file: str | None,
    layers: tuple[str, ...],
    trust_pickle: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """The command; `HELP` says what it does."""
    recipe, searching = build_budgeted(recipe_file, layers, settings)
    if not searching and (trials is not None or keep_trials):
        raise click.UsageError("--trials and --keep-trials are of the search: --max-drop without --prune")

    from deepcompress.checkpoint import open_checkpoint
    from deepcompress.files import check_writable
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.streaming import compress_state

    check_writable(output)
    source = open_checkpoint(checkpoint, trust_pickle)
    name = network or network_name(source)
    more: dict[str, Any] = {}
    with ConsoleProgress(quiet) as watch:
        if searching:
            model, samples = model_and_data(source, checkpoint, name, data, data_dir, device)
            result, more = _search(model, samples, name, recipe, output, trials, bool(keep_trials), watch)
        elif recipe.retrain or data is not None or recipe.max_drop is not None:
            result = _compress_with_data(source, checkpoint, name, data, data_dir, device, recipe, output, watch)
        elif recipe.target_size is not None:
            result = _compress_without_data(source, checkpoint, name, recipe, output, watch)
        else:
            label = storable(name or "")
            result = compress_state(
                source.state, recipe, output, network=label, data=data_label(source.data), watch=watch
            )
    if more and not quiet:
        _show_trials(more["search"])

    def tables() -> None:
        from deepcompress.report import tables

        console = tables.output()
        if verbose:
            console.print(tables.layers_table(result.breakdown, console.width))
            console.print()
        console.print(tables.stages_table(result))
        console.out(f"\n{result.file}: {result.file_bytes:,} bytes, {result.ratio:.2f}× smaller", highlight=False)

    show(as_json, {**result.as_dict(), **more, "command": command_line(), "versions": versions()}, tables)


def _compress_with_data(
    source: Checkpoint,
    checkpoint: str,
    name: str | None,
    data: str | None,
    data_dir: str | None,
    device: str,
    recipe: Recipe,
    output: str,
    watch: Any,
) -> Any:
    from deepcompress import pipeline

    model, samples = model_and_data(source, checkpoint, name, data, data_dir, device)
    return pipeline.compress(
        model,
        samples.train_loader(recipe.batch_size, recipe.seed, recipe.shift, recipe.flip),
        samples.val_loader(),
        recipe,
        output,
        test_loader=samples.test_loader(),
        network=storable(name or ""),
        data=samples.name,
        watch=watch,
    )


def _compress_without_data(
    source: Checkpoint, checkpoint: str, name: str | None, recipe: Recipe, output: str, watch: Any
) -> Result:
    """To a size, which needs the network, but neither trained nor measured."""
    from deepcompress import pipeline

    if name is None:
        raise DeepCompressError(
            f"{checkpoint}: its tensors fit no known network, which --target-size needs even with --no-retrain: name "
            "it with --network (your own: --network file.py:factory)"
        )
    model = build_model(source, name, checkpoint, "compressed")
    label = storable(name)
    return pipeline.compress(
        model, None, None, recipe, output, network=label, data=data_label(source.data), watch=watch
    )


def _search(
    model: Any, samples: Any, name: str | None, recipe: Recipe, output: str, trials: int | None, keep: bool, watch: Any
) -> tuple[Result, dict[str, Any]]:
    """The smallest file within the budget, and what JSON says of the search."""
    import torch

    from deepcompress import search as library

    assert recipe.max_drop is not None
    folder = output_folder(Path(f"{output}.search"))
    try:
        found = library.search(
            model,
            samples,
            recipe,
            recipe.max_drop,
            folder,
            trials=trials or library.TRIALS,
            network=storable(name or ""),
            threads=torch.get_num_threads(),
            watch=watch,
        )
    except KeyboardInterrupt:
        raise DeepCompressError(
            f"interrupted; the trials that are done stay in {folder}, and the same command goes on from there"
        ) from None
    result = library.deliver(found, model, samples, output)
    if not keep:
        library.clear(folder)
    return result, {"budget": library.facts(found), "search": found.as_dicts()}


def _show_trials(trials: Sequence[dict[str, Any]]) -> None:
    from deepcompress.report import tables

    console = tables.output(stderr=True)
    console.print(tables.search_table(trials))
    console.print()
