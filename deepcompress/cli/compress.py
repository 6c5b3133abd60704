"""`deepcompress compress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import command_line, load_any, show, versions
from deepcompress.cli.naming import needed_network, network_name, stored_network
from deepcompress.cli.options import (
    base_options,
    budget_options,
    calibrate_option,
    common,
    data_options,
    mask_options,
    network_option,
    rewind_option,
    task_options,
    teach_option,
    teacher_only_option,
    trust_option,
)
from deepcompress.cli.order import Order
from deepcompress.cli.outputs import claim, force_option
from deepcompress.cli.routes import Job, Made, route_of
from deepcompress.cli.sections import Sections
from deepcompress.cli.settings import recipe_options
from deepcompress.errors import DeepCompressError
from deepcompress.recipe import SMALLEST

if TYPE_CHECKING:
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.compression.result import Result

HELP = f"""Prune, share and code a network into one .dc file.

CKPT is a .pt or .safetensors file, or the .safetensors.index.json of several (docs/checkpoints.md lists more). It can
also be an .onnx model. Then the file keeps its graph, and it is not retrained. It can also be a .dc file. Then its
pruned weights stay pruned, its shared values are fine-tuned further (--finetune-epochs N), and settings that you do not
give come from the file.

\b
Choose one of these ways to say how small the file is:
  --prune F --bits B            fraction of weights to remove, bits of a codebook index
  --prune F --max-drop POINTS   the same, but layers that lose too much keep more
  --target-size SIZE            a file of at most this size
  --max-drop POINTS             the smallest file that loses no more accuracy

The last two use these settings for small files, unless you give others:
{" ".join(f"--{name.replace('_', '-')} {value}" for name, value in SMALLEST.items())}.

A run that retrains keeps its state in OUTPUT.resume until it ends. If it is interrupted, the same command with --resume
continues after the last complete epoch and writes the same file. --max-drop without --prune compresses many times and
keeps its trials in OUTPUT.search. The same command continues such a search, with or without --resume.

The test data decides nothing. It is used only for the table at the end.
"""

#: What is said where no data was at hand.
NOT_MEASURED = "The accuracy was not measured. Give {} to measure it, or run deepcompress eval later."


@click.command(cls=Sections, help=HELP)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="model.dc", show_default=True, metavar="FILE",
              help="File to write.")  # fmt: skip
@force_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run, if there is one.")
@network_option
@data_options()
@task_options
@teacher_only_option
@budget_options
@recipe_options()
@mask_options
@rewind_option
@calibrate_option
@teach_option
@base_options
@trust_option
@common
def compress(**options: Any) -> None:
    """The command; `HELP` says what it does."""
    order = Order.of(options)

    from deepcompress.files import check_writable
    from deepcompress.training import distributed

    first, order = _together(order)
    if first:
        claim(order.output, *order.files.written, ending=".dc")
        check_writable(order.output)
    elif not order.recipe.retrain:
        return  # what needs no training is the first process's alone
    source = _opened(order)
    label = (order.network, source, order.checkpoint)
    name = None
    if not order.is_model:
        name = needed_network(*label, order.need) if order.need else network_name(*label)
    masks, origin = order.files.read(), order.origin()
    with order.files.watch(order.quiet or not first) as watch:
        made = route_of(order, name)(Job(order, source, name, watch, masks, origin))
    distributed.stop()
    if not first:
        return
    result = made.result
    saved = order.files.write(result, watch, stored_network(name), made.label)
    if order.searching and not order.quiet:
        _show_trials(made.facts["search"], result)
    facts = {**result.as_dict(), **made.facts, "saved": saved, "command": command_line(), "versions": versions()}
    show(options["as_json"], facts, lambda: _show_stages(made, saved, options["verbose"]), _line(made))


def _opened(order: Order) -> Checkpoint:
    """What CKPT holds: all of a .dc file, and of another the tensors as they are asked for."""
    from deepcompress.checkpoint import Checkpoint, open_checkpoint

    if order.is_model:
        return Checkpoint({})  # the way that it goes reads it
    if order.start is not None:
        return load_any(order.start, order.trust_pickle, None, order.key)
    return open_checkpoint(order.checkpoint, order.trust_pickle, key=order.key)


def _together(order: Order) -> tuple[bool, Order]:
    """Join the processes that a launcher has started; whether this is the first, and the order in its precision."""
    from deepcompress.training import distributed

    if not distributed.start(order.asked.device):
        return True, order
    if order.searching:
        raise DeepCompressError(
            "--max-drop without --prune runs in one process only: for several processes, give "
            "--target-size, or add --prune"
        )
    precision = distributed.mixed_precision()
    if precision not in ("no", "bf16"):
        raise DeepCompressError(f"--mixed_precision {precision}: only bf16 and no are supported")
    if precision == "bf16" and order.recipe.retrain:
        order = replace(order, recipe=replace(order.recipe, precision="bfloat16"))
    first = distributed.is_first()
    if not order.recipe.retrain:
        distributed.stop()
    return first, order


def _show_trials(trials: Sequence[dict[str, Any]], result: Result) -> None:
    from deepcompress.report import studytables, tables

    console = tables.output(stderr=True)
    console.print(studytables.search_table(trials, result.metric, result.unit))
    console.print()


def _line(made: Made) -> str:
    error = "" if made.result.accuracy_after is None else f", error {100 - made.result.accuracy_after:.2f} %"
    return f"{_size(made)}{error}"


def _size(made: Made) -> str:
    result, ratio = made.result, made.facts.get("onnx_ratio")
    model = "" if ratio is None else f"; {ratio:.2f}× smaller than the .onnx model"
    return f"{result.file}: {result.file_bytes:,} bytes, {result.smaller}{model}"


def _show_stages(made: Made, saved: Sequence[str], verbose: bool) -> None:
    from deepcompress.report import filetables, tables

    console, result = tables.output(), made.result
    if verbose:
        console.print(filetables.layers_table(result.breakdown, console.width))
        tables.say(console, f"\n{filetables.layers_notes(result.breakdown)}")
        console.print()
    if result.errors:
        console.print(tables.errors_table(result, verbose))
        console.print()
    console.print(tables.stages_table(result))
    if result.accuracy_after is None and result.metric_after is None:
        tables.say(
            console, f"\n{NOT_MEASURED.format('--data' if 'onnx_ratio' in made.facts else '--network and --data')}"
        )
    tables.say(console, f"\n{_size(made)}")
    if saved:
        tables.say(console, ", ".join(saved))
