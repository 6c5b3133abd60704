"""The command line: it translates options, calls the library, and prints what comes back.

Heavy modules are imported inside the commands, so that ``--help`` and ``inspect`` answer at once.
"""

from __future__ import annotations

import click

from deepcompress.cli.bench import bench
from deepcompress.cli.compare import compare
from deepcompress.cli.compress import compress
from deepcompress.cli.files import eval_command, export, inspect_command, recode, verify
from deepcompress.cli.group import OneLineErrors
from deepcompress.cli.plan import plan
from deepcompress.cli.plot import plot
from deepcompress.cli.sensitivity import sensitivity
from deepcompress.cli.sweep import sweep
from deepcompress.cli.train import train
from deepcompress.cli.updates import diff, patch
from deepcompress.cli.view import view
from deepcompress.version import __version__


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="deepcompress")
def main() -> None:
    """Trained networks to small files: Deep Compression (Han, Mao, Dally 2016).

    Prune, share weights, and Huffman-code a network into one .dc file, and get a runnable network back.

    \b
      deepcompress train lenet5 --data digits -o lenet5.pt
      deepcompress compress lenet5.pt --prune 0.92 --bits 5 -o model.dc
      deepcompress inspect model.dc
      deepcompress eval model.dc
    """


for command in (
    train, plan, compress, sensitivity, compare, sweep, inspect_command, eval_command, export, recode, verify, diff,
    patch, bench, plot, view,
):  # fmt: skip
    main.add_command(command)
