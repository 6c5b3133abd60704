"""`deepcompress sensitivity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from deepcompress.cli.common import command_line, new_folder, show, versions, write_csv
from deepcompress.cli.data import Asked, axis_of, facts_of, read_model_and_data, tell
from deepcompress.cli.options import common, data_options, network_option, task_options, trust_option
from deepcompress.cli.outputs import claim, force_option
from deepcompress.cli.sections import SECTIONS, Sections
from deepcompress.cli.settings import RETRAINING, Several, build_recipe, options, recipe_file_option, setting_option

if TYPE_CHECKING:
    from deepcompress.studies.sensitivity import LayerPruned
    from deepcompress.training.tasks import Task

COLUMNS = ("layer", "weights", "sparsity", "error", "loss", "value")


class SensitivitySections(Sections):
    """As `Sections`, but what is measured comes first."""

    sections: ClassVar = {"What to measure": ("sparsities", "layers", "epochs"), **SECTIONS}


@click.command(cls=SensitivitySections)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="sensitivity", show_default=True, metavar="FOLDER",
              help="Folder for sensitivity.csv and sensitivity.png.")  # fmt: skip
@force_option
@click.option("--prune", "sparsities", type=Several(click.FloatRange(0, 1, max_open=True)), metavar="F,F,…",
              help="Fractions of a layer to remove.  [default: 0.3,0.5,0.7,0.8,0.9,0.95,0.98,0.99]")  # fmt: skip
@click.option("--layer", "layers", multiple=True, metavar="PATTERN",
              help="Measure only the layers whose name matches. Repeatable.  [default: all]")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Number of epochs of retraining after each cut. Pruned weights stay zero.")  # fmt: skip
@network_option
@data_options()
@task_options
@recipe_file_option
@options(*map(setting_option, ("criterion", "score_samples", *RETRAINING, "seed")))
@trust_option
@common
def sensitivity(
    checkpoint: str,
    output: str,
    force: bool,
    sparsities: tuple[float, ...] | None,
    layers: tuple[str, ...],
    epochs: int,
    network: str | None,
    recipe_file: str | None,
    trust_pickle: bool,
    key: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Prune one layer at a time and show how the error grows.

    The command prunes each layer alone, always from the weights in CKPT, and measures the network on the validation
    data. It does not use the test data. A layer keeps at least one weight. If the error grows early, prune that layer
    less, with --layer of compress.
    """
    asked = Asked.taken_from(settings)
    recipe = build_recipe(recipe_file, (), {**settings, "retrain": True, "epochs": epochs, "finetune_epochs": 0})

    from deepcompress.files import check_writable
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.studies import sensitivity as library

    claim(output, *(Path(output) / name for name in ("sensitivity.csv", "sensitivity.png")), ending="")
    model, samples = read_model_and_data(checkpoint, trust_pickle, key, network, asked)
    train = samples.train_loader(recipe.batch_size, recipe.seed, recipe.shift, recipe.flip)
    with new_folder(Path(output)) as folder, ConsoleProgress(quiet) as watch:
        check_writable(folder / "sensitivity.csv")
        found = library.sensitivity(
            model,
            samples.val_loader(),
            library.SPARSITIES if sparsities is None else sparsities,
            train,
            recipe,
            layers or None,
            watch,
            samples.task,
        )
    facts = {"checkpoint": checkpoint, "data": samples.name, "samples": len(samples.y_val), "epochs": epochs,
             **facts_of(samples)}  # fmt: skip
    tell(samples, quiet)
    _deliver(found, folder, facts, samples.task, as_json)


def _deliver(found: Sequence[LayerPruned], folder: Path, facts: dict[str, Any], task: Task, as_json: bool) -> None:
    """Write the CSV file and the picture, and show the table."""
    from deepcompress.report.plots import draw_sensitivity

    table, picture = folder / "sensitivity.csv", folder / "sensitivity.png"
    rows = [asdict(row) | {"loss": row.loss if math.isfinite(row.loss) else None} for row in found]
    dense = found[0].value
    write_csv(table, COLUMNS, rows)
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in found:
        curves.setdefault(row.layer, []).append((row.sparsity, row.value))
    what = "one layer pruned" + (f", retraining epochs: {facts['epochs']}" if facts["epochs"] else "")
    title = f"{Path(facts['checkpoint']).name}, {facts['data']}: {what}"
    files = [str(table)]
    if all(math.isfinite(row.value) for row in found):  # else there is nothing that a scale could show
        draw_sensitivity(curves, dense, picture, title=title, ylabel=axis_of(task))
        files.append(str(picture))
    result = {
        **facts, "dense_error": found[0].error, "dense_value": dense, "rows": rows, "files": files,
        "command": command_line(), "versions": versions(),
    }  # fmt: skip

    def report() -> None:
        from deepcompress.report import studytables, tables

        console = tables.output()
        tables.say(
            console,
            f"{task.titled} on {facts['samples']:,} validation samples of {facts['data']}, {what}; "
            f"dense {tables.number(dense, task.unit)}\n",
        )
        console.print(studytables.sensitivity_table(found, task.unit, console.width))
        tables.say(console, "\n" + ", ".join(files))

    show(as_json, result, report, ", ".join(files))
