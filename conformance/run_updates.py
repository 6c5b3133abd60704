"""Hold a program that applies updates against the suite: `python conformance/run_updates.py -- COMMAND...`."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from run import Answer, by_command, cases, report

HERE = Path(__file__).resolve().parent / "updates"
VERSION = 2  # the last one
Apply = Callable[[Path, Path, Path], Answer]  # of old file, update, and the path of the new file


def updates(pattern: str = "") -> list[Path]:
    """The updates whose names contain `pattern`, valid ones first."""
    return cases(HERE, pattern, ".dcp")


def old_of(path: Path) -> Path:
    """The old file of an update."""
    return path.with_suffix(".dc") if path.parent.name == "valid" else path.parent / "old.dc"


def complaint(path: Path, apply: Apply, version: int = VERSION) -> str:
    """What is wrong with what a program does with one update; empty if nothing is.

    The program applies updates up to this version, and must refuse others.
    """
    is_valid = path.parent.name == "valid" and path.read_bytes()[3] <= version
    old = old_of(path)
    before = old.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "new.dc"
        answer = apply(old, path, new)
        said = answer.err.strip()
        if old.read_bytes() != before:
            return "the old file is not what it was"
        left = [each.name for each in Path(folder).iterdir()]
        if is_valid:
            if answer.code != 0 or left != ["new.dc"]:
                return f"it is valid, but the exit code is {answer.code}, and there are the files {left}: {said[-300:]}"
            digest = hashlib.sha256(new.read_bytes()).digest()[:16]
            return "" if digest == path.read_bytes()[12:28] else "the new file is another than the update names"
    if answer.code != 1 or left:
        return f"it must be refused with exit code 1 and no file, not {answer.code} and {left}: {said[-300:]}"
    return "" if len(said.splitlines()) == 1 else f"a refusal is one line on stderr: {said[-300:]}"


def run(paths: Sequence[Path], apply: Apply, version: int = VERSION) -> dict[Path, str]:
    """The complaints of the updates of which there is one."""
    return {path: found for path in paths if (found := complaint(path, apply, version))}


def main() -> int:
    """The command line; 0 if all is as it should be, 1 if not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(description=__doc__, usage="%(prog)s [options] -- COMMAND...")
    parser.add_argument("-k", "--match", default="", help="Use only updates whose names contain this text.")
    parser.add_argument(
        "--version",
        type=int,
        default=VERSION,
        help="The program applies updates up to this version.",
    )
    parser.add_argument("command", nargs="+", help="It is called with OLD.dc UPDATE.dcp NEW.dc.")
    arguments = parser.parse_args()
    paths = updates(arguments.match)
    if not paths:
        parser.error(f"{HERE} has no such updates")
    try:
        wrong = run(paths, by_command(arguments.command, timeout=60), arguments.version)
    except OSError as error:
        parser.error(f"{error.filename or arguments.command[0]}: {error.strerror}")
    return report(wrong, len(paths), "updates")


if __name__ == "__main__":
    sys.exit(main())
