"""`deepcompress compress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from deepcompress.cli.building import SMALLER, build_model, check_shapes, outline, tell_found
from deepcompress.cli.common import (
    command_line,
    file_settings,
    is_packed,
    load_any,
    output_folder,
    resumable,
    show,
    versions,
)
from deepcompress.cli.data import Asked, facts_of, model_and_data, said, tell
from deepcompress.cli.masking import MaskFiles
from deepcompress.cli.naming import needed_network, network_name, stored_data, stored_network
from deepcompress.cli.onnx import check_options, compress_onnx, graph_of, runs_as_onnx
from deepcompress.cli.options import (
    budget_options,
    calibrate_option,
    common,
    data_options,
    mask_options,
    network_option,
    rewind_option,
    task_options,
    trust_option,
)
from deepcompress.cli.outputs import claim, force_option
from deepcompress.cli.settings import HEADINGS, build_budgeted, recipe_options
from deepcompress.errors import DeepCompressError
from deepcompress.recipe import SMALLEST, Recipe

if TYPE_CHECKING:
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.compression.result import Result

#: Options that stand under a heading beside its settings.
MORE = {
    "How small": ("calibrate", "trials", "keep_trials", "layers"),
    "Pruning": ("masks_file", "save_masks", "save_scores"),
}
#: Headings of the help, and the options under them; all others come under the last.
SECTIONS = {
    "What, and where to": (
        "output", "force", "resume", "network", "key", "data", "data_dir", "device", "recipe_file", "trust_pickle",
    ),
    "What it is for, and how inputs are fed": ("task", "loss", "metric", "normalize"),
    **{heading: (*names, *MORE.get(heading, ())) for heading, names in HEADINGS.items()},
    "Other": (),
}  # fmt: skip

#: The options that `--help` shows: with them most networks are compressed. `--help-all` shows the others, too.
ESSENTIAL = {
    "output", "resume", "network", "data", "recipe_file", "target_size", "max_drop", "prune", "bits", "layers",
    "calibrate", "criteria", "sparsities", "seeds", "jobs", "retrain", "epochs", "as_json", "quiet",
}  # fmt: skip


HELP = f"""Prune, share and code a network into one .dc file.

CKPT is a .pt or .safetensors file, or the .safetensors.index.json of several. It can also be a .dc file. Then its
pruned weights stay pruned, its shared values are fine-tuned further (--finetune-epochs N), and every setting that you
do not give is that of the file.

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


#: What `_need` says where the data is needed, too.
RETRAINED = "retrained (--no-retrain compresses without it)"


#: What is said where no data was at hand.
NOT_MEASURED = (
    "Not measured: what the network makes of these weights. With --network and --data (or eval FILE, later) it is."
)

MEASURE_ONNX = "Not measured: what the network makes of these weights. With --data (or eval FILE, later) it is."


def _show_all(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.meta["help_all"] = True
        click.echo(context.get_help())
        context.exit()


class Sections(click.Command):
    """A command with so many options that its help needs headings, and shows the essential ones only."""

    sections: ClassVar[dict[str, tuple[str, ...]]] = SECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        help_all = click.Option(
            ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
            help="Show all options and exit.",
        )  # fmt: skip
        self.params.append(help_all)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; all of them if `--help-all` asked for them."""
        known = {name for names in self.sections.values() for name in names}
        written: set[str] = set()  # an option stands under the first heading that has it
        for heading, names in self.sections.items():
            rows = [
                record
                for param in self.get_params(ctx)
                if (param.name in names and param.name not in written if names else param.name not in known)
                and isinstance(param, click.Option)
                and (param.name in ESSENTIAL or param.is_eager or "help_all" in ctx.meta)  # help itself is eager
                and (record := param.get_help_record(ctx)) is not None
            ]
            written |= set(names)
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


@click.command(cls=Sections, help=HELP)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="model.dc", show_default=True, metavar="FILE")
@force_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run, if there is one.")
@network_option
@data_options()
@task_options
@budget_options
@recipe_options()
@mask_options
@rewind_option
@calibrate_option
@trust_option
@common
def compress(
    checkpoint: str,
    output: str,
    force: bool,
    resume: bool,
    network: str | None,
    trials: int | None,
    keep_trials: bool | None,
    recipe_file: str | None,
    layers: tuple[str, ...],
    masks_file: str | None,
    save_masks: str | None,
    save_scores: str | None,
    rewind: str | None,
    calibrate: str | None,
    trust_pickle: bool,
    key: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """The command; `HELP` says what it does."""
    start = checkpoint if is_packed(checkpoint) else None
    as_onnx = runs_as_onnx(checkpoint) and check_options(checkpoint)
    asked = Asked.taken_from(settings)
    settings |= {
        "rewind": rewind if rewind in (None, "random") else "start",
        "retrain": settings["retrain"] if calibrate is None and not as_onnx else False,
    }
    recipe, searching = build_budgeted(recipe_file, layers, settings, file_settings(start) if start else None)
    _check_search(searching, trials is not None or bool(keep_trials), resume and save_scores is not None)
    files = MaskFiles(masks_file, save_masks, save_scores)
    files.check(settings, recipe, searching)

    from deepcompress.checkpoint import load_checkpoint, open_checkpoint
    from deepcompress.files import check_writable
    from deepcompress.training import distributed

    first, recipe = _together(recipe, searching, asked.device)
    if first:
        claim(output, *files.written, ending=".dc")
        check_writable(output)
    elif not recipe.retrain:
        return  # what needs no training is the first process's alone
    if as_onnx and start is None:
        _onnx(checkpoint, recipe, output, calibrate, asked, files.watch(quiet), as_json, verbose)
        return
    source = (
        open_checkpoint(checkpoint, trust_pickle, key=key)
        if start is None
        else load_any(start, trust_pickle, None, key)
    )
    need = _need(searching, recipe, asked.data, files, calibrate)
    name = needed_network(network, source, checkpoint, need) if need else network_name(network, source, checkpoint)
    more: dict[str, Any] = {}
    masks = files.read()
    origin = load_checkpoint(str(rewind), trust_pickle, key).state if settings["rewind"] == "start" else None
    with files.watch(quiet or not first) as watch:
        if need == RETRAINED:
            assert name is not None
            model, samples = model_and_data(source, checkpoint, name, asked)
            label = samples.name
            if searching:
                result, more = _search(model, samples, name, recipe, output, trials, bool(keep_trials), watch)
            else:
                result = _compress_with_data(
                    model, samples, name, recipe, output, resume, watch, masks, start, origin, calibrate
                )
                more = facts_of(samples)
            tell(samples, quiet or not first)
        else:
            label = stored_data(source, checkpoint, packed=start is not None)
            if name is not None and (need or start is not None):
                result = _compress_without_data(
                    source, checkpoint, name, label, recipe, output, watch, masks, start, calibrate
                )
            else:
                result = _compress_tensors(source, checkpoint, name, label, recipe, output, watch, start)
    distributed.stop()
    if not first:
        return
    saved = files.write(result, watch, stored_network(name), label)
    if searching and not quiet:
        _show_trials(more["search"], result)
    facts = {**result.as_dict(), **more, "saved": saved, "command": command_line(), "versions": versions()}
    show(as_json, facts, lambda: _show_stages(result, saved, verbose), _line(result))


def _check_search(searching: bool, tuned: bool, scores_resumed: bool) -> None:
    if tuned and not searching:
        raise click.UsageError("--trials and --keep-trials are for the search only: give --max-drop without --prune")
    if scores_resumed:
        raise click.UsageError("--save-scores needs a run that computes all scores itself: leave out --resume")


def _onnx(
    file: str,
    recipe: Recipe,
    output: str,
    calibrate: str | None,
    asked: Asked,
    watching: Any,
    as_json: bool,
    verbose: bool,
) -> None:
    """An ONNX model, which brings its own network."""
    with watching as watch:
        result, more = compress_onnx(file, recipe, output, calibrate, asked, watch)
    line = f"{_line(result)}; {more['onnx_ratio']:.2f}× smaller than {file}"
    facts = {**result.as_dict(), **more, "command": command_line(), "versions": versions()}
    show(as_json, facts, lambda: _show_stages(result, (), verbose, line, MEASURE_ONNX), line)


def _need(searching: bool, recipe: Recipe, data: str | None, files: MaskFiles, calibrate: str | None) -> str:
    """What the network is needed for, if it is."""
    if searching or recipe.retrain or data is not None or recipe.max_drop is not None:
        return RETRAINED
    if calibrate is not None:
        return "calibrated (--no-retrain alone rounds its weights without it)"
    sized = recipe.target_size is not None and recipe.quantizer != "rows"
    if sized or recipe.low_rank is not None or files.need_network:
        return "compressed with --target-size, --low-rank, --masks or --save-scores, which look at it"
    return ""


def _samples(calibrate: str | None) -> Any:
    """What --calibrate names, read; None without it."""
    if calibrate is None:
        return None
    from deepcompress.calibration.samples import load_samples

    return load_samples(calibrate)


def _together(recipe: Recipe, searching: bool, device: str) -> tuple[bool, Recipe]:
    """Join the processes that a launcher has started; whether this is the first, and the recipe in its precision."""
    from deepcompress.training import distributed

    if not distributed.start(device):
        return True, recipe
    if searching:
        raise DeepCompressError(
            "--max-drop without --prune runs in one process only: for several processes, give "
            "--target-size, or add --prune"
        )
    precision = distributed.mixed_precision()
    if precision not in ("no", "bf16"):
        raise DeepCompressError(f"--mixed_precision {precision}: only bf16 and no are supported")
    if precision == "bf16":
        recipe = replace(recipe, precision="bfloat16")
    first = distributed.is_first()
    if not recipe.retrain:
        distributed.stop()
    return first, recipe


def _compress_with_data(
    model: Any,
    samples: Any,
    name: str | None,
    recipe: Recipe,
    output: str,
    resume: bool,
    watch: Any,
    masks: Any,
    start: str | None,
    origin: Any,
    calibrate: str | None,
) -> Result:
    from deepcompress.compression import pipeline
    from deepcompress.training import distributed

    journal = Path(f"{output}.resume") if recipe.retrain else None
    with resumable(journal if distributed.is_first() else None, resume, watch):
        return pipeline.compress(
            model,
            samples.train_loader(recipe.batch_size, recipe.seed, recipe.shift, recipe.flip),
            samples.val_loader(),
            recipe,
            output,
            test_loader=samples.test_loader(),
            network=stored_network(name),
            data=samples.name,
            normalize=samples.normalize,
            task=samples.task,
            watch=watch,
            resume=journal,
            rewind_to=origin,
            masks=masks,
            start=start,
            calibrate=_samples(calibrate),
        )


def _compress_without_data(
    source: Checkpoint,
    checkpoint: str,
    name: str,
    label: str,
    recipe: Recipe,
    output: str,
    watch: Any,
    masks: Any,
    start: str | None,
    calibrate: str | None,
) -> Result:
    """To a size, by masks, with scores, or on from a file: with the network, but neither trained nor measured."""
    from deepcompress.compression import pipeline

    model = build_model(source, name, checkpoint)
    return pipeline.compress(
        model,
        None,
        None,
        recipe,
        output,
        network=stored_network(name),
        data=label,
        normalize=said(source) or "",
        watch=watch,
        masks=masks,
        start=start,
        calibrate=_samples(calibrate),
    )


def _compress_tensors(
    source: Checkpoint,
    checkpoint: str,
    name: str | None,
    label: str,
    recipe: Recipe,
    output: str,
    watch: Any,
    start: str | None,
) -> Result:
    """Without data and without the network: tensor by tensor."""
    from deepcompress.compression.tensors_only import compress_state
    from deepcompress.layers import buffers_of, part_of_computed
    from deepcompress.networks.names import fitted

    if name is not None and part_of_computed(source.state) is not None:  # what it comes to, only the network knows
        return _compress_without_data(source, checkpoint, name, label, recipe, output, watch, None, start, None)
    if start is not None:  # whose batch norm is folded, if it is
        recipe = replace(recipe, batch_norm="keep")
    network = outline(name, source)
    source = source if network is None else fitted(source, network, plain=True)
    tell_found(source)
    if network is not None:
        check_shapes(network, source, name, checkpoint)
    return compress_state(
        source.state,
        recipe,
        output,
        network=stored_network(name),
        data=label,
        normalize=said(source) or "",
        buffers=set() if network is None else buffers_of(network),
        smaller=SMALLER in source.facts,
        extra=source.extra,
        watch=watch,
        graph=graph_of(start) if start is not None else b"",
    )


def _search(
    model: Any, samples: Any, name: str | None, recipe: Recipe, output: str, trials: int | None, keep: bool, watch: Any
) -> tuple[Result, dict[str, Any]]:
    """The smallest file within the budget, and what JSON says of the search."""
    import torch

    from deepcompress.studies import search as library

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
            network=stored_network(name),
            threads=torch.get_num_threads(),
            watch=watch,
        )
    except KeyboardInterrupt:
        raise DeepCompressError(
            f"interrupted; the finished trials stay in {folder}, and the same command continues the search"
        ) from None
    result = library.deliver(found, model, samples, output)
    if not keep:
        library.clear(folder)
    return result, {"budget": library.facts(found), "search": found.as_dicts(), **facts_of(samples)}


def _show_trials(trials: Sequence[dict[str, Any]], result: Result) -> None:
    from deepcompress.report import tables

    console = tables.output(stderr=True)
    console.print(tables.search_table(trials, result.metric, result.unit))
    console.print()


def _line(result: Result) -> str:
    error = "" if result.accuracy_after is None else f", error {100 - result.accuracy_after:.2f} %"
    return f"{result.file}: {result.file_bytes:,} bytes, {result.smaller}{error}"


def _show_stages(
    result: Result, saved: Sequence[str], verbose: bool, line: str | None = None, unmeasured: str = NOT_MEASURED
) -> None:
    from deepcompress.report import tables

    console = tables.output()
    if verbose:
        console.print(tables.layers_table(result.breakdown, console.width))
        tables.say(console, f"\n{tables.layers_notes(result.breakdown)}")
        console.print()
    if result.errors:
        console.print(tables.errors_table(result, verbose))
        console.print()
    console.print(tables.stages_table(result))
    if result.accuracy_after is None and result.metric_after is None:
        tables.say(console, f"\n{unmeasured}")
    tables.say(console, f"\n{line or f'{result.file}: {result.file_bytes:,} bytes, {result.smaller}'}")
    if saved:
        tables.say(console, ", ".join(saved))
