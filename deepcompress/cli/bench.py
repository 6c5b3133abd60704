"""``deepcompress bench``: latency and memory of the compressed form."""

from __future__ import annotations

import warnings

import click

from deepcompress.cli.common import show
from deepcompress.cli.data import Asked, example_of_file
from deepcompress.cli.options import common, max_bytes_option, network_option, shape_options, strict_option
from deepcompress.cli.settings import Several


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.option(
    "--batch",
    type=Several(click.IntRange(min=1)),
    default="1,64",
    show_default=True,
    metavar="N,…",
    help="Batch sizes to measure.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads of both networks.  [default: as many as torch uses]",
)
@network_option
@strict_option
@shape_options
@max_bytes_option
@common
def bench(
    file: str,
    batch: tuple[int, ...],
    threads: int | None,
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
    """Compare the network that runs in compressed form with the dense one.

    For each layer, the table shows the bytes in memory and the latency in milliseconds. A latency is the median of
    rounds in which both networks take turns. Layers that gain nothing from the compressed form stay dense
    (docs/sparse.md).

    The command needs the network and the shape of its input. The shape comes from the data that the file names, from
    --data, or from --input-shape.
    """
    import torch

    from deepcompress.container.reader import ModelFile
    from deepcompress.networks import build
    from deepcompress.reading.loader import load, outlines
    from deepcompress.reading.onnx import fitting_input
    from deepcompress.sparse.bench import bench as measure

    with ModelFile(file) as opened:
        tensors = outlines(opened)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with warnings.catch_warnings(record=True) as told:  # what is missing, or too much
            warnings.simplefilter("always")
            dense, sparse = (
                load(
                    file,
                    build(network, tensors) if network else None,
                    max_bytes=max_bytes,
                    mode=mode,
                    strict=not no_strict,
                )
                for mode in ("dense", "sparse")
            )
        for line in () if quiet else dict.fromkeys(str(warning.message) for warning in told):
            click.echo(line, err=True)
        example = fitting_input(dense, example_of_file(file, Asked(data, data_dir), input_shape, dense))
        found = measure(dense, sparse, example, batch)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    result = {"file": file, "threads": used, **found.as_dict()}

    def report() -> None:
        from deepcompress.report import filetables, tables

        console = tables.output()
        console.print(filetables.bench_table(found, console.width))
        tables.say(console, f"\n{filetables.bench_line(found, file, used)}")

    from deepcompress.report.filetables import bench_line

    show(as_json, result, report, bench_line(found, file, used))
