"""`deepcompress compress`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import command_line, data_label, model_and_data, network_name, show, storable, versions
from deepcompress.cli.options import build_recipe, common, data_options, network_option, recipe_options, trust_option
from deepcompress.recipe import Recipe

if TYPE_CHECKING:
    from deepcompress.checkpoint import Checkpoint


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="model.dc", show_default=True, metavar="FILE")
@network_option
@data_options()
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
    recipe_file: str | None,
    layers: tuple[str, ...],
    trust_pickle: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Prune, share and code a network into one .dc file.

    CKPT is a .pt or .safetensors file, or the .safetensors.index.json of several.

    The test data decides nothing: it is measured on for the table at the end.
    """
    recipe = build_recipe(recipe_file, layers, settings)

    from deepcompress.checkpoint import open_checkpoint
    from deepcompress.files import check_writable
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.streaming import compress_state

    check_writable(output)
    source = open_checkpoint(checkpoint, trust_pickle)
    name = network or network_name(source)
    with ConsoleProgress(quiet) as watch:
        if not recipe.retrain and data is None:
            label = storable(name or "")
            result = compress_state(
                source.state, recipe, output, network=label, data=data_label(source.data), watch=watch
            )
        else:
            result = _compress_with_data(source, checkpoint, name, data, data_dir, device, recipe, output, watch)

    def tables() -> None:
        from deepcompress.report import tables

        console = tables.output()
        if verbose:
            console.print(tables.layers_table(result.breakdown, console.width))
            console.print()
        console.print(tables.stages_table(result))
        console.out(f"\n{result.file}: {result.file_bytes:,} bytes, {result.ratio:.2f}× smaller", highlight=False)

    show(as_json, {**result.as_dict(), "command": command_line(), "versions": versions()}, tables)


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
