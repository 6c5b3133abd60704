"""`deepcompress sweep`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from deepcompress.cli.common import command_line, new_folder, show, versions, write_csv
from deepcompress.cli.data import Asked, axis_of, facts_of, model_and_data, read_model_and_data, tell
from deepcompress.cli.naming import needed_network, stored_network
from deepcompress.cli.options import (
    common,
    data_options,
    network_option,
    task_options,
    trust_option,
)
from deepcompress.cli.outputs import claim, force_option
from deepcompress.cli.sections import SECTIONS, Sections
from deepcompress.cli.settings import AXES, build_recipe, recipe_options
from deepcompress.errors import DeepCompressError

if TYPE_CHECKING:
    from deepcompress.studies.points import Outcome
    from deepcompress.training.tasks import Task

NUMBERS = ("file_bytes", "ratio", "kept", "val_error", "test_error", "seconds")
#: What is measured, for tasks that have no error, and what came later.
METRIC = ("metric", "val_value", "test_value", "source_ratio")
#: Axes that say how small, of which one at most is given.
SIZES = ("target_size", "prune")
COLUMNS = ("name", *AXES, *NUMBERS, "front", "failure", *METRIC)


class SweepSections(Sections):
    """As `Sections`, and how many points are worked on at a time."""

    sections: ClassVar = {"Processes": ("jobs", "threads"), **SECTIONS}


@click.command(cls=SweepSections)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="sweep", show_default=True, metavar="FOLDER",
              help="Folder for sweep.csv, sweep.png, and points/NAME.dc and .json.")  # fmt: skip
@force_option
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Number of points to compute in parallel, each in a process. The files are the same.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="CPU threads of each process. Another number rounds differently, so files can differ.")  # fmt: skip
@network_option
@data_options()
@task_options
@recipe_options(several=True)
@trust_option
@common
def sweep(
    checkpoint: str,
    output: str,
    force: bool,
    jobs: int,
    threads: int,
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
    """Compress with many settings, and find the best trades of size for error.

    --target-size, --prune, --bits, --conv-bits, --init and --seed take several values, and every combination is
    compressed, just as compress does it (with --threads threads):

    \b
      deepcompress sweep lenet5.pt --prune 0,0.8,0.9 --bits none,2,4,5 --seed 0,1,2 --jobs 2

    The table marks the Pareto front of file size and validation error. The test data decides nothing; the test error
    is only shown. --no-retrain is fast, but it needs data for the evaluation.

    Points that FOLDER already has for the same network, data and settings are not computed again. So after an
    interruption the same command continues the sweep.
    """
    asked = Asked.taken_from(settings)
    axes = {axis: settings.pop(axis) for axis in AXES}
    axes = {axis: values for axis, values in axes.items() if values is not None}
    # One value stands for all of them, one beside which most settings have an effect: settings that suit small files
    # are the same for each size.
    settings |= {axis: next((value for value in values if value not in (0, "none")), values[0])
                 for axis, values in axes.items()}  # fmt: skip
    recipe = build_recipe(recipe_file, layers, settings)

    from deepcompress.checkpoint import open_checkpoint
    from deepcompress.files import check_writable
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.studies import sweep as library

    points = library.grid(recipe, axes)
    claim(output, *(Path(output) / name for name in ("sweep.csv", "sweep.png")), ending="")
    source = open_checkpoint(checkpoint, trust_pickle, key=key)
    name = needed_network(network, source, checkpoint, "retrained")
    label = stored_network(name)
    model, samples = model_and_data(source, checkpoint, name, asked)
    make = partial(read_model_and_data, checkpoint, trust_pickle, key, network, asked)
    with new_folder(Path(output)) as folder, new_folder(folder / "points") as place:
        check_writable(folder / "sweep.csv")
        try:
            with ConsoleProgress(quiet) as watch:
                found = library.sweep(
                    model, samples, points, place, network=label, make=make, jobs=jobs, threads=threads, watch=watch
                )
        except KeyboardInterrupt:
            raise DeepCompressError(
                f"interrupted; the finished points stay in {place}, and the same command continues the sweep"
            ) from None
    tell(samples, quiet)
    named = {"checkpoint": checkpoint, "network": label, "data": samples.name, **facts_of(samples)}
    _deliver(found, list(axes), folder, named, samples.task, as_json)
    failed = [outcome for outcome in found if outcome.failure]
    if failed:
        raise DeepCompressError(
            f"{len(failed)} of {len(found)} points failed, the first of them {failed[0].name}: {failed[0].failure}"
        )


def _deliver(
    found: Sequence[Outcome], swept: Sequence[str], folder: Path, origin: dict[str, str], task: Task, as_json: bool
) -> None:
    """Write the CSV file and, if any point is there, the picture, and show the table."""
    from deepcompress.studies.points import front_of

    front = front_of(found)
    rows = [_row(outcome, index in front) for index, outcome in enumerate(found)]
    table, picture = folder / "sweep.csv", folder / "sweep.png"
    write_csv(table, COLUMNS, rows)
    done = [outcome for outcome in found if outcome.val_value is not None and math.isfinite(outcome.val_value)]
    if done:
        _draw(done, picture, f"{origin['network'] or Path(origin['checkpoint']).name}, {origin['data']}", task)
    files = [str(path) for path in (table, *([picture] if done else []), folder / "points")]
    result = {
        **origin, "points": len(rows), "rows": rows, "front": [found[index].name for index in front], "files": files,
        "command": command_line(), "versions": versions(),
    }  # fmt: skip

    def report() -> None:
        from deepcompress.report import studytables, tables

        console = tables.output()
        console.print(studytables.sweep_table(rows, swept, console.width, task.metric, task.unit))
        for outcome in found:
            if outcome.failure:
                tables.say(console, f"\n{outcome.name} failed: {outcome.failure}")
        tables.say(console, "\n" + ", ".join(files))

    show(as_json, result, report, ", ".join(files))


def _row(outcome: Outcome, on_front: bool) -> dict[str, Any]:
    settings = {axis: outcome.recipe.get(axis) for axis in AXES}
    numbers = {number: getattr(outcome, number) for number in (*NUMBERS, *METRIC)}
    return {"name": outcome.name, **settings, **numbers, "front": on_front, "failure": outcome.failure}


def _draw(done: Sequence[Outcome], picture: Path, title: str, task: Task) -> None:
    from deepcompress.report.plots import draw_front
    from deepcompress.studies.points import front_of

    dots = [(float(outcome.file_bytes or 0), float(outcome.val_value or 0), outcome.name) for outcome in done]
    dense = float(done[0].stages[0]["metric"])
    draw_front(dots, front_of(done), picture, reference=dense, title=title, ylabel=axis_of(task))
