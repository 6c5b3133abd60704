"""What there is to do with a .dc file: inspect, eval, export, recode, verify."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.common import example_input, is_packed, load_any, show
from deepcompress.cli.naming import build_model, data_name, needed_network, stored_network
from deepcompress.cli.options import (
    common,
    data_options,
    max_bytes_option,
    network_option,
    shape_options,
    trust_option,
)
from deepcompress.cli.outputs import claim, force_option
from deepcompress.recipe import CHOICES

if TYPE_CHECKING:
    from deepcompress.checkpoint import Checkpoint


@click.command("inspect")
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@common
def inspect_command(file: str, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Show where the bytes of a .dc file are.

    Tensor by tensor, with the columns of tables 2 and 3 of the paper: bits of a codebook index and of an offset,
    before → after entropy coding and per surviving weight; and section by section. The ratios after prune and
    quantize are those that this file's streams would have at their fixed widths.
    """
    from deepcompress.container.breakdown import inspect

    found = inspect(file)

    def report() -> None:
        from deepcompress.report import tables

        console = tables.output()
        tables.say(console, tables.headline(found))
        console.print()
        console.print(tables.layers_table(found, console.width))
        tables.say(console, f"\n{tables.layers_notes(found)}\n")
        console.print(tables.sections_table(found))

    brief = f"{file}: {found.file_bytes:,} bytes, {found.ratio:.2f}× smaller"
    show(as_json, found.as_dict(), report, brief)


@click.command("eval")
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@network_option
@data_options()
@trust_option
@max_bytes_option
@common
def eval_command(
    file: str,
    network: str | None,
    data: str | None,
    data_dir: str | None,
    device: str,
    trust_pickle: bool,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Rebuild a network and measure it on test data.

    MODEL.dc may also be a dense checkpoint.
    """
    from deepcompress.reading.arrays import dense_bytes
    from deepcompress.training.data import load_data
    from deepcompress.training.loop import check_fits, evaluate, pick_device

    source = load_any(file, trust_pickle, max_bytes)
    target = pick_device(device)
    model = build_model(source, needed_network(network, source, file, "rebuilt"), file).to(target)
    samples = load_data(data_name(data, source.data, file, is_packed(file)), data_dir).to(target)
    check_fits(model, samples.test_loader())
    found = evaluate(model, samples.test_loader())
    size = Path(file).stat().st_size
    ratio = dense_bytes(source.state) / size
    result = {
        "file": file, "accuracy": found.accuracy, "error": found.error,
        "loss": found.loss if math.isfinite(found.loss) else None, "samples": found.samples,
        "data": samples.name, "file_bytes": size, "ratio": ratio,
    }  # fmt: skip
    show(as_json, result, lambda: (
        f"{file}: error {found.error:.2f} % (accuracy {found.accuracy:.2f} %) on {found.samples:,} test samples of "
        f"{samples.name}, loss {found.loss:.4f}; {size:,} bytes, {ratio:.2f}×"
    ))  # fmt: skip


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), metavar="FILE", help="x.pt, x.safetensors or x.onnx.")
@force_option
@click.option("--shrink", is_flag=True, help="Without the neurons, filters and channels that nothing reads any more.")
@network_option
@shape_options
@max_bytes_option
@common
def export(
    file: str,
    output: str,
    force: bool,
    shrink: bool,
    network: str | None,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write the dense tensors as .pt or .safetensors, or the network as .onnx.

    ONNX (opset 18, free batch size) needs the network, the shape of its input, and pip install 'deepcompress[onnx]';
    where onnxruntime is installed, its outputs are compared.

    With --shrink they are smaller: what structured pruning emptied is taken out, and the outputs stay. That needs the
    network, and one input: samples of the data that the file names, or of --data, or any of --input-shape.
    """
    from deepcompress.checkpoint import ENDINGS, check_ending, save_checkpoint

    check_ending(output, (*ENDINGS, ".onnx"))
    claim(output)
    source = load_any(file, False, max_bytes)
    more: dict[str, Any] = {}
    if shrink:
        source, more = _shrunk(source, file, network, data, data_dir, input_shape)
    if Path(output).suffix == ".onnx":
        more |= _as_onnx(source, file, output, network, data, data_dir, input_shape)
    else:
        save_checkpoint(output, source)
    size = Path(output).stat().st_size
    result = {"file": output, "file_bytes": size, "tensors": len(source.state), **more}
    line = f"{output}: {len(source.state)} tensors, {size:,} bytes"
    show(as_json, result, lambda: "\n".join([line, *_onnx_lines(more), *_cost_lines(more)]))


def _as_onnx(
    source: Checkpoint,
    file: str,
    output: str,
    network: str | None,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Write the network as ONNX; gives what JSON says of it."""
    from deepcompress.reading.onnx import check_onnx, export_onnx

    check_onnx()
    model = build_model(source, needed_network(network, source, file, "exported as ONNX"), file)
    return export_onnx(model, example_input(source, file, data, data_dir, input_shape), output).as_dict()


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
    source: Checkpoint,
    file: str,
    network: str | None,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
) -> tuple[Checkpoint, dict[str, Any]]:
    """The smaller network as a checkpoint, and what JSON says of it."""
    from deepcompress.prune.shrink import shrink

    name = needed_network(network, source, file, "shrunk")
    model = build_model(source, name, file)
    found = shrink(model, example_input(source, file, data, data_dir, input_shape))
    named = stored_network(name) or None
    return replace(source, state=found.network.state_dict(), network=named), found.as_dict()


def _cost_lines(more: dict[str, Any]) -> list[str]:
    """What shrinking came to, for people."""
    if "before" not in more:
        return []
    before, after = more["before"], more["after"]
    stuck = f"; {more['stuck']} more are not read either, but have to stay" if more["stuck"] else ""
    lines = [
        f"{what}: {before[key]:,} → {after[key]:,} ({before[key] / max(after[key], 1):.2f}× fewer)"
        for what, key in (("parameters", "parameters"), ("multiply-accumulates of a sample", "macs"))
    ]
    return [*lines, f"{more['units']} neurons, filters or channels taken out{stuck}"]


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), metavar="OUT.dc", help="The new file.  [default: in place of the old]"
)
@force_option
@click.option("--coder", type=click.Choice(CHOICES["coder"]), default="auto", show_default=True, help="Entropy coder.")
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

    The values stay as they are, bit for bit; only how they are stored changes.
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
