"""Programs of the reader in C, for the tests that run them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

READER = Path(__file__).parent.parent / "readers" / "c"
CC = shutil.which("cc")
SWITCHES = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]

needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler")


def build(folder, name, *switches, sources=("deepcompress.c", "cli.c")):
    """The program `name` in a folder, of sources of the reader, or of others by their whole paths."""
    assert CC is not None
    program = folder / name
    paths = [READER / source for source in sources]
    subprocess.run([CC, *SWITCHES, *switches, "-I", READER, "-o", program, *paths], check=True)
    return program
