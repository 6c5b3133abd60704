"""`deepcompress compare`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import click

from deepcompress.cli.common import command_line, new_folder, show, versions, write_csv
from deepcompress.cli.data import Asked, axis_of, facts_of, read_model_and_data, tell
from deepcompress.cli.options import (
    common,
    data_options,
    network_option,
    task_options,
    trust_option,
)
from deepcompress.cli.outputs import claim, force_option
from deepcompress.cli.sections import SECTIONS, Sections
from deepcompress.cli.settings import (
    APART,
    HEADINGS,
    Several,
    build_recipe,
    help_of,
    layers_option,
    options,
    recipe_file_option,
    setting_option,
)
from deepcompress.errors import DeepCompressError
from deepcompress.recipe import DEFAULTS, read_toml
from deepcompress.recipe.stages import REFERENCE

if TYPE_CHECKING:
    from deepcompress.studies.compare import Compared, Summary
    from deepcompress.training.tasks import Task

#: Of the options of a recipe, those that have no part in pruning and retraining, or that are given in another way here.
LEFT_OUT = {"prune", "criterion", "seed", "quality", "retrain", "target_size", "early_stop", "episodes"}


class ComparingSections(Sections):
    """As `Sections`, but what is compared comes first."""

    sections: ClassVar = {"What to compare": ("criteria", "sparsities", "seeds", "rank_layer"), **SECTIONS}


#: The options of a recipe that are about pruning and retraining; the schedule has another default here.
pruning_options = options(
    recipe_file_option,
    *(setting_option(name) for name in (*HEADINGS["Pruning"], *HEADINGS["Retraining"])
      if name not in {*LEFT_OUT, *APART, "schedule"}),
    setting_option("schedule", help=help_of("schedule", "one-shot")),
    layers_option,
)  # fmt: skip


@click.command(cls=ComparingSections)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="compare", show_default=True, metavar="FOLDER",
              help="Folder for compare.csv and compare.png.")  # fmt: skip
@force_option
@click.option("--criteria", type=Several(click.STRING), default="magnitude,taylor2,woodfisher", show_default=True,
              metavar="NAME,…", help="Criteria to compare. Your own is file.py:function.")  # fmt: skip
@click.option("--prune", "sparsities", type=Several(click.FloatRange(0, 1, max_open=True)), metavar="F,F,…",
              help="Fractions of all prunable weights to remove.  [default: 0.5,0.8,0.9,0.95,0.98]")  # fmt: skip
@click.option("--seed", "seeds", type=Several(click.IntRange(min=0)), default="0", show_default=True, metavar="N,…",
              help="Seeds. Each run is repeated with each; the table has means and standard deviations.")  # fmt: skip
@click.option("--rank-layer", metavar="LAYER",
              help="Layer whose scores are compared with the empirical ones.  [default: the smallest one]")  # fmt: skip
@setting_option("max_drop", help="With retraining: maximum loss of validation accuracy, in percentage points. Layers "
                "that lose more are rolled back.")  # fmt: skip
@network_option
@data_options()
@task_options
@pruning_options
@trust_option
@common
def compare(
    checkpoint: str,
    output: str,
    force: bool,
    criteria: tuple[str, ...],
    sparsities: tuple[float, ...] | None,
    seeds: tuple[int, ...],
    rank_layer: str | None,
    network: str | None,
    recipe_file: str | None,
    layers: tuple[str, ...],
    trust_pickle: bool,
    key: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Compare criteria of pruning: error against sparsity, time, and rank correlation.

    Each criterion prunes the dense weights of CKPT to each sparsity. The network is evaluated before and after
    retraining (--epochs; 0: no retraining):

    \b
      deepcompress compare lenet5.pt --criteria magnitude,taylor2,obs --prune 0.5,0.9,0.98 --seed 0,1,2 --epochs 4

    Without --schedule all weights are removed at once, before retraining. Errors are measured on the validation data.
    compare.csv also has the test error, which decides nothing. The table marks the Pareto front of sparsity and error
    over all criteria, and the picture shows it as a grey line.

    Spearman is a rank correlation over the weights of one layer. It compares a criterion's scores with the measured
    rise of the loss when a single weight is removed (criterion empirical). compare.csv gets each row as soon as it is
    known.
    """
    asked = Asked.taken_from(settings)
    file = read_toml(recipe_file) if recipe_file else {}
    epochs = file.get("epochs", DEFAULTS["epochs"]) if settings["epochs"] is None else settings["epochs"]
    if settings["schedule"] is None and "schedule" not in file and epochs:
        settings["schedule"] = "one-shot"
    # In place of what a recipe file may have: sparsities and criteria follow, and scores are held against this one's.
    settings |= {"prune": DEFAULTS["prune"], "criterion": REFERENCE, "retrain": True}
    recipe = build_recipe(recipe_file, layers, settings)

    from deepcompress.report.console import ConsoleProgress
    from deepcompress.studies import compare as library

    claim(output, *(Path(output) / name for name in ("compare.csv", "compare.png")), ending="")
    model, samples = read_model_and_data(checkpoint, trust_pickle, key, network, asked)
    steps = library.SPARSITIES if sparsities is None else sparsities
    found: list[Compared] = []
    with new_folder(Path(output)) as folder, ConsoleProgress(quiet) as watch:
        for row in library.compare(model, samples, criteria, steps, recipe, seeds, rank_layer, watch):
            found.append(row)
            _write(folder, found)
    facts = {
        "checkpoint": checkpoint, "data": samples.name, "samples": len(samples.y_val), "epochs": recipe.epochs,
        "schedule": recipe.schedule if epochs else "one-shot", "seeds": list(seeds), "reference": library.REFERENCE,
        "rank_layer": library.ranking_layer(model, recipe, rank_layer), **facts_of(samples),
    }  # fmt: skip
    tell(samples, quiet)
    _deliver(found, folder, facts, samples.task, as_json)
    failed = [row for row in found if row.failure]
    if failed:
        raise DeepCompressError(f"{failed[0].criterion} failed: {failed[0].failure}")


def _write(folder: Path, found: Sequence[Compared]) -> Path:
    path = folder / "compare.csv"
    columns = [field.name for field in fields(found[0])]
    write_csv(path, columns, [asdict(row) for row in found])
    return path


def _deliver(found: Sequence[Compared], folder: Path, facts: dict[str, Any], task: Task, as_json: bool) -> None:
    """Draw the picture if there is anything to draw, and show the tables."""
    from deepcompress.studies.compare import summarize

    summary, files = summarize(found), [str(folder / "compare.csv")]
    if summary and all(math.isfinite(row.val_error_most) for row in summary):
        files.append(str(folder / "compare.png"))
        what = _retraining(facts)
        _draw(
            summary, found[0], folder / "compare.png", f"{Path(facts['checkpoint']).name}, {facts['data']}", what, task
        )
    scoring = {
        name: (fmean(row.scoring_seconds or 0.0 for row in rows), _mean([row.spearman for row in rows]))
        for name in dict.fromkeys(row.criterion for row in summary)
        if (rows := [row for row in found if row.criterion == name and not row.retrained and not row.failure])
    }
    dense = found[0]
    result = {
        **facts, "dense_error": dense.val_error, "dense_test_error": dense.test_error, "dense_value": dense.val_value,
        "criteria": [{"criterion": name, "scoring_seconds": seconds, "spearman": rho}
                     for name, (seconds, rho) in scoring.items()],
        "summary": [asdict(row) for row in summary], "rows": [asdict(row) for row in found], "files": files,
        "command": command_line(), "versions": versions(),
    }  # fmt: skip
    show(as_json, result, _report(summary, scoring, dense, facts, files, task), ", ".join(files))


def _retraining(facts: dict[str, Any]) -> str:
    return f"retrained ({facts['schedule']}, epochs: {facts['epochs']})"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _report(
    summary: Sequence[Summary],
    scoring: dict[str, tuple[float, float | None]],
    dense: Compared,
    facts: dict[str, Any],
    files: Sequence[str],
    task: Task,
) -> Callable[[], None]:
    def report() -> None:
        from deepcompress.report import studytables, tables

        console = tables.output()
        for retrained in (False, True):
            rows = [asdict(row) for row in summary if row.retrained is retrained]
            if not rows:
                continue
            what = _retraining(facts) if retrained else "not retrained"
            tables.say(
                console,
                f"{task.titled} on {facts['samples']:,} validation samples of {facts['data']}, {what}; "
                f"dense {tables.number(dense.val_value or 0.0, task.unit)}\n",
            )
            console.print(studytables.compare_table(rows, None if retrained else scoring, task.unit, console.width))
            tables.say(console, "")
        tables.say(console, f"Spearman: with {facts['reference']}, in {facts['rank_layer']}\n")
        tables.say(console, ", ".join(files))

    return report


def _draw(summary: Sequence[Summary], dense: Compared, picture: Path, title: str, retrained: str, task: Task) -> None:
    from deepcompress.report.plots import draw_panels

    panels = []
    for heading, which in (("not retrained", False), (retrained, True)):
        rows = [row for row in summary if row.retrained is which]
        if rows:
            panels.append((heading, _curves(rows)))
    errors = [row.val_error_least for row in summary] + [dense.val_value or 0.0]
    draw_panels(
        panels, picture, title=title, xlabel="Sparsity", ylabel=axis_of(task), xsparsity=True,
        ylog=min(errors) > 0, reference=("dense", dense.val_value or 0.0), size=(3.6 * len(panels) + 0.4, 3.9),
    )  # fmt: skip


def _curves(rows: Sequence[Summary]) -> list[Any]:
    """The front beneath, and a line for each criterion."""
    from deepcompress.report.plots import Curve

    front = sorted((row.sparsity, row.val_error) for row in rows if row.front)
    curves = [Curve("Pareto front", [x for x, _ in front], [y for _, y in front], beneath=True)]
    for name in dict.fromkeys(row.criterion for row in rows):
        own = sorted((row for row in rows if row.criterion == name), key=lambda row: row.sparsity)
        low, high = [row.val_error_least for row in own], [row.val_error_most for row in own]
        curves.append(Curve(name, [row.sparsity for row in own], [row.val_error for row in own], low, high, ticks=True))
    return curves
