"""What there is to do with a .dc file: inspect, eval, export, recode, verify."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.building import SMALLER, build_model
from deepcompress.cli.common import is_packed, is_update, load_any, show
from deepcompress.cli.data import Asked, example_input, facts_of, tell
from deepcompress.cli.naming import needed_network, stored_network
from deepcompress.cli.onnx import export_onnx_model, network_of, runs_as_onnx
from deepcompress.cli.options import (
    common,
    data_options,
    max_bytes_option,
    network_option,
    shape_options,
    strict_option,
    task_options,
    trust_option,
)
from deepcompress.cli.outputs import claim, force_option
from deepcompress.recipe import CHOICES

if TYPE_CHECKING:
    import torch
    from torch import nn

    from deepcompress.checkpoint import Checkpoint


@click.command("inspect")
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@common
def inspect_command(file: str, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Show where the bytes of a .dc file are, or what an update (.dcp) changes.

    The first table has a row for each tensor, with the columns of tables 2 and 3 of the paper: bits of a codebook
    index and of an offset, before → after entropy coding, and bits per surviving weight. The second table has a row
    for each section of the file. The ratios after prune and quantize count this file's streams at their fixed widths.
    """
    from deepcompress.container.breakdown import inspect

    if is_update(file):
        _inspect_update(file, as_json)
        return
    found = inspect(file)

    def report() -> None:
        from deepcompress.report import filetables, tables

        console = tables.output()
        tables.say(console, filetables.headline(found))
        console.print()
        console.print(filetables.layers_table(found, console.width))
        tables.say(console, f"\n{filetables.layers_notes(found)}\n")
        console.print(filetables.sections_table(found))

    brief = f"{file}: {found.file_bytes:,} bytes, {found.smaller}"
    show(as_json, found.as_dict(), report, brief)


def _inspect_update(file: str, as_json: bool) -> None:
    from deepcompress.updates.describe import describe

    found = describe(file)

    def report() -> None:
        from deepcompress.report import tables, updates

        console = tables.output()
        tables.say(console, updates.headline(found))
        if found.changes:
            console.print()
            console.print(updates.changes_table(found))

    show(as_json, found.as_dict(), report, f"{file}: {found.file_bytes:,} bytes")


@click.command("eval")
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@network_option
@strict_option
@data_options()
@task_options
@click.option("--teacher", type=click.Path(), metavar="CKPT",
              help="Measure how much the network still does what the network of CKPT does, such as the dense one. Then "
              "--data may have inputs alone, as with compress --teacher-only.")  # fmt: skip
@trust_option
@max_bytes_option
@common
def eval_command(
    file: str,
    network: str | None,
    no_strict: bool,
    teacher: str | None,
    trust_pickle: bool,
    key: str | None,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Rebuild a network and measure it on test data.

    MODEL.dc may also be a dense checkpoint, or an ONNX model, which needs no --network.
    """
    from deepcompress.reading.arrays import dense_bytes, source_bytes
    from deepcompress.training.evaluation import evaluate
    from deepcompress.training.loop import pick_device

    asked = replace(Asked.taken_from(settings), teacher_only=teacher is not None)
    if network is None and runs_as_onnx(file):
        if teacher is not None:
            raise click.UsageError(f"--teacher is for networks of torch, and {file} is an ONNX model: leave it out")
        source, model = network_of(file, max_bytes)
        target = next(model.parameters()).device
    else:
        source = load_any(file, trust_pickle, max_bytes, key)
        target = pick_device(asked.device)
        name = needed_network(network, source, file, "rebuilt")
        model = build_model(source, name, file, not no_strict, quiet).to(target)
    judge = model
    if teacher is not None:
        judge = build_model(load_any(teacher, trust_pickle, max_bytes, None), name, teacher, quiet=quiet).to(target)
    samples = asked.settled(judge, asked.samples(source, file, model).to(target), test_only=True)
    task = samples.task
    found = evaluate(model, samples.test_loader(), task)
    tell(samples, quiet)
    size = source.found.bytes if source.found else Path(file).stat().st_size
    dense, given = dense_bytes(source.state), source_bytes(source.state)
    ratios = f"{dense / size:.2f}×" + ("" if given == dense else f" to fp32, {given / size:.2f}× to its own types")
    result = {
        "file": file, "accuracy": found.accuracy, "error": found.error,
        "loss": found.loss if math.isfinite(found.loss) else None, "samples": found.samples,
        "data": samples.name, "file_bytes": size, "ratio": dense / size, "source_bytes": given,
        "source_ratio": given / size, "value": found.value, **facts_of(samples),
    }  # fmt: skip
    accuracy = "" if found.accuracy is None else f" (accuracy {found.accuracy:.2f} %)"
    show(as_json, result, lambda: (
        f"{file}: {task.says(found.value)}{accuracy} on {found.samples:,} test samples of {samples.name}, loss "
        f"{found.loss:.4f}; {size:,} bytes, {ratios}"
    ))  # fmt: skip


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="File to write. Its ending chooses the format: .pt, .safetensors, .npz, .onnx or .h.",
)
@force_option
@click.option("--shrink", is_flag=True, help="Take out the neurons, filters and channels that nothing reads any more.")
@click.option(
    "--stable",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Take out the ReLU units that are proved, in that time, to be always off, or always on and replaceable. The "
    "outputs stay the same. It needs --box.",
)
@click.option(
    "--box", nargs=2, type=float, metavar="LOW HIGH", help="Range of the network's inputs, after normalization."
)
@network_option
@strict_option
@shape_options
@max_bytes_option
@common
def export(
    file: str,
    output: str,
    force: bool,
    shrink: bool,
    stable: float | None,
    box: tuple[float, float] | None,
    network: str | None,
    no_strict: bool,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write the dense tensors as .pt, .safetensors or .npz, the network as .onnx, or the file itself as .h.

    A .npz stores bfloat16 as float32, because numpy has no bfloat16. A .h (C99) holds the bytes of MODEL.dc for flash
    memory, a table of its tensors, and sizes as macros. These two formats need no torch.

    A file that was made from an .onnx model gives that model back. This needs pip install 'deepcompress[onnx]'. Any
    other network becomes ONNX (opset 18, free batch size) with the network and the shape of its input. If onnxruntime
    is installed, the command compares the outputs with those of the network.

    --shrink makes the network smaller: it takes out what structured pruning has emptied, and the outputs stay the
    same. It needs the network and one input. The input comes from the data that the file names, from --data, or is
    random with --input-shape.

    --stable makes it smaller, too: in a chain of Linear layers and ReLUs it takes out units that are linear for all
    inputs of --box. Intervals prove that first, and then mixed-integer programs, for that many seconds at most.
    """
    claim(output)
    if (stable is None) != (box is None):
        raise click.UsageError("--stable and --box go together: --stable 60 --box 0 1")
    as_it_is = not shrink and stable is None and is_packed(file)
    if Path(output).suffix == ".onnx" and network is None and as_it_is and runs_as_onnx(file):
        _show_export(as_json, output, export_onnx_model(file, output, max_bytes), {})
        return
    if Path(output).suffix in _WITHOUT_TORCH and as_it_is:
        _show_export(as_json, output, _WITHOUT_TORCH[Path(output).suffix](file, output, max_bytes), {})
        return
    from deepcompress.checkpoint import ENDINGS, check_ending, save_checkpoint
    from deepcompress.prune.stable import merge_stable
    from deepcompress.reading.onnx import check_onnx, export_onnx

    check_ending(output, (*ENDINGS, ".onnx", ".npz", ".h"))
    if Path(output).suffix == ".h":
        wrong = "leave out --shrink and --stable" if is_packed(file) else f"give one, and not {file}"
        raise click.UsageError(f"a .h file holds the bytes of a .dc file unchanged: {wrong}")
    source = load_any(file, False, max_bytes)
    more: dict[str, Any] = {}
    if shrink:
        name = needed_network(network, source, file, "shrunk")
        model = build_model(source, name, file, not no_strict, quiet)
        example = example_input(source, file, Asked(data, data_dir), input_shape, model)
        source, more = _shrunk(model, source, name, example)
    if stable is not None and box is not None:
        name = needed_network(network, source, file, "merged")
        found = merge_stable(build_model(source, name, file, not no_strict, quiet), *box, stable)
        source, more = _smaller(found.network, source, name), more | found.as_dict()
    if Path(output).suffix == ".onnx":
        check_onnx()
        name = needed_network(network, source, file, "exported as ONNX")
        model = build_model(source, name, file, not no_strict, quiet)
        example = example_input(source, file, Asked(data, data_dir), input_shape, model)
        more |= export_onnx(model, example, output).as_dict()
    elif Path(output).suffix == ".npz":
        _save_npz(source, output)
    else:
        save_checkpoint(output, source)
    _show_export(as_json, output, len(source.state), more)


def _show_export(as_json: bool, output: str, tensors: int, more: dict[str, Any]) -> None:
    size = Path(output).stat().st_size
    result = {"file": output, "file_bytes": size, "tensors": tensors, **more}
    line = f"{output}: {tensors} tensors, {size:,} bytes"
    show(as_json, result, lambda: "\n".join([line, *_onnx_lines(more), *_cost_lines(more), *_stable_lines(more)]))


def _export_npz(file: str, output: str, max_bytes: int | None) -> int:
    from deepcompress.reading.npz import export_npz

    return export_npz(file, output, max_bytes)


def _export_header(file: str, output: str, max_bytes: int | None) -> int:
    from deepcompress.reading.cheader import export_header

    return export_header(file, output, max_bytes)


_WITHOUT_TORCH = {".npz": _export_npz, ".h": _export_header}


def _save_npz(source: Checkpoint, output: str) -> None:
    """The tensors of a checkpoint, or of a network that was made smaller."""
    from deepcompress.reading.arrays import to_array
    from deepcompress.reading.frameworks import to_numpy
    from deepcompress.reading.npz import save_npz

    save_npz(output, source.state, (to_numpy(*to_array(name, value)) for name, value in source.state.items()))


def _onnx_lines(more: dict[str, Any]) -> list[str]:
    """How an ONNX file was checked, for people."""
    if "opset" not in more:
        return []
    shape = "×".join(map(str, more["input_shape"]))
    checked = "not checked, because onnxruntime is not installed"
    if more["checked"]:
        checked = f"outputs of onnxruntime differ by at most {more['max_difference']:.1e}"
    return [f"ONNX opset {more['opset']}, input N×{shape}; {checked}"]


def _shrunk(
    model: nn.Module, source: Checkpoint, name: str, example: torch.Tensor
) -> tuple[Checkpoint, dict[str, Any]]:
    """The smaller network as a checkpoint, and what JSON says of it."""
    from deepcompress.prune.shrink import shrink

    found = shrink(model, example)
    return _smaller(found.network, source, name), found.as_dict()


def _smaller(network: nn.Module, source: Checkpoint, name: str) -> Checkpoint:
    """A smaller network as a checkpoint."""
    from deepcompress.layers import tensors_of
    from deepcompress.networks.adapt import is_smaller

    facts = {**source.facts, SMALLER: 1} if is_smaller(network) else source.facts
    named, state = stored_network(name) or None, tensors_of(network)
    extra = {name: value for name, value in network.state_dict().items() if name not in state}
    return replace(source, state=state, network=named, facts=facts, extra=extra)


def _stable_lines(more: dict[str, Any]) -> list[str]:
    """What became of each layer with --stable, for people."""
    if "stable" not in more:
        return []
    lines = [
        f"{layer['layer']}: of {layer['units']} units {layer['off']} are always off, {layer['merged']} always on and "
        f"replaced" + (f"; {layer['undecided']} were not decided in the time" if layer["undecided"] else "")
        for layer in more["stable"]
    ]
    if not more["units_gone"]:
        lines.append("no unit was proved to be stable: a smaller --box, more seconds or training with L1 may help")
    return [*lines, f"outputs differ by at most {more['max_difference']:.1e} on random inputs of the box"]


def _cost_lines(more: dict[str, Any]) -> list[str]:
    """What shrinking came to, for people."""
    if "before" not in more:
        return []
    before, after = more["before"], more["after"]
    stuck = f"; {more['stuck']} more are not read either, but they cannot be taken out" if more["stuck"] else ""
    lines = [
        f"{what}: {before[key]:,} → {after[key]:,} ({before[key] / max(after[key], 1):.2f}× fewer)"
        for what, key in (("parameters", "parameters"), ("multiply-accumulates of a sample", "macs"))
    ]
    return [*lines, f"{more['units']} neurons, filters or channels taken out{stuck}"]


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), metavar="OUT.dc", help="File to write.  [default: MODEL.dc is replaced]"
)
@force_option
@click.option(
    "--coder",
    type=click.Choice(CHOICES["coder"]),
    default="auto",
    show_default=True,
    help="Entropy coder. auto takes the smallest for each tensor; ans decodes slowly, rans fast.",
)
@max_bytes_option
@common
def recode(
    file: str,
    output: str | None,
    force: bool,
    coder: str,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write the same tensors in fewer bytes.

    The values stay the same, bit for bit. Only their coding changes.
    """
    from deepcompress.reading.recode import recode

    if output is not None:
        claim(output, ending=".dc")
    found = recode(file, output, coder, max_bytes)
    change = 100 * (found.file_bytes / found.bytes_before - 1)
    show(as_json, found.as_dict(), lambda: (
        f"{found.file}: {found.bytes_before:,} → {found.file_bytes:,} bytes ({change:+.1f} %)"
    ))  # fmt: skip


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@max_bytes_option
@common
def verify(file: str, max_bytes: int | None, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Check every checksum and decode everything."""
    from deepcompress.container.reader import ModelFile

    with ModelFile(file) as opened:
        opened.check(max_bytes)
        names = list(opened)
        for name in names:
            opened.read(name)
        size = opened.file_bytes
    result = {"file": file, "ok": True, "file_bytes": size, "tensors": len(names)}
    show(as_json, result, lambda: f"{file}: intact, {len(names)} tensors in {size:,} bytes")
