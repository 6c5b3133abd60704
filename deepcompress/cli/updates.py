"""`deepcompress diff` and `deepcompress patch`."""

from __future__ import annotations

from pathlib import Path

import click

from deepcompress.cli.common import is_packed, show
from deepcompress.cli.options import common, max_bytes_option
from deepcompress.cli.outputs import claim, force_option

#: Endings of the checkpoints that have updates.
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors", ".sft")


@click.command()
@click.argument("old", metavar="OLD", type=click.Path())
@click.argument("new", metavar="NEW", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), metavar="UPDATE.dcp", help="The update.")
@force_option
@common
def diff(old: str, new: str, output: str, force: bool, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Write the difference of two files: what turns OLD into NEW.

    OLD and NEW are two .dc files, or two checkpoints (.safetensors or .pt). Whoever has OLD gets NEW from the update
    with deepcompress patch, bit for bit. The update is small where the two have weights in common.
    """
    from deepcompress.updates.update import diff as write

    claim(output, ending=".dcp")
    found = write(old, new, output)
    share = 100 * found.file_bytes / max(found.new_bytes, 1)
    note = "; the two files are equal" if found.equal else ""
    show(as_json, found.as_dict(), lambda: (
        f"{found.file}: {found.file_bytes:,} bytes, {share:.1f} % of the {found.new_bytes:,} bytes of {new}{note}"
    ))  # fmt: skip


@click.command()
@click.argument("old", metavar="OLD", type=click.Path())
@click.argument("update", metavar="UPDATE.dcp", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), metavar="NEW", help="The new file.")
@force_option
@max_bytes_option
@common
def patch(
    old: str,
    update: str,
    output: str,
    force: bool,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write the new file from the old one and an update.

    OLD must be the file that the update was made for: its SHA-256 is checked first, and that of the new file before it
    takes its name. With --force, NEW may be OLD itself.
    """
    from deepcompress.updates.update import patch as apply

    claim(output, ending=".dc" if is_packed(old) else _ending_of_checkpoint(old, output))
    found = apply(old, update, output, max_bytes)
    show(as_json, found.as_dict(), lambda: (
        f"{found.file}: {found.file_bytes:,} bytes, from {old} and an update of {found.update_bytes:,} bytes"
    ))  # fmt: skip


def _ending_of_checkpoint(old: str, output: str) -> str | None:
    """What a new checkpoint is to be called: as any checkpoint is. None: the old file is none."""
    before, after = Path(old).suffix.lower(), Path(output).suffix.lower()
    if before not in CHECKPOINTS:
        return None
    return after if after in CHECKPOINTS else before
