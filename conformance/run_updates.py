"""Hold a program that applies updates against the suite: `python conformance/run_updates.py -- COMMAND...`."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent / "updates"
Apply = Callable[[Path, Path, Path], tuple[int, str]]


def by_command(command: Sequence[str], timeout: float = 60) -> Apply:
    """A program that is called with old file, update, and the path of the new file; its exit code, and its stderr."""

    def apply(old: Path, update: Path, new: Path) -> tuple[int, str]:
        paths = [str(path) for path in (old, update, new)]
        done = subprocess.run([*command, *paths], capture_output=True, check=False, timeout=timeout)
        return done.returncode, done.stderr.decode(errors="replace")

    return apply


def updates(folder: Path = HERE, pattern: str = "") -> list[Path]:
    """The updates whose names contain `pattern`, valid ones first."""
    found = [*sorted((folder / "valid").glob("*.dcp")), *sorted((folder / "invalid").glob("*.dcp"))]
    return [path for path in found if pattern in path.stem]


def complaint(path: Path, apply: Apply) -> str:
    """What is wrong with what a program does with one update; empty if nothing is."""
    is_valid = path.parent.name == "valid"
    old = path.with_suffix(".dc") if is_valid else path.parent / "old.dc"
    before = old.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "new.dc"
        code, error = apply(old, path, new)
        if old.read_bytes() != before:
            return "the old file is not what it was"
        left = [each.name for each in Path(folder).iterdir()]
        if is_valid:
            if code != 0 or left != ["new.dc"]:
                return (
                    f"it is valid, but the exit code is {code}, and there are the files {left}: {error.strip()[-300:]}"
                )
            digest = hashlib.sha256(new.read_bytes()).digest()[:16]
            return "" if digest == path.read_bytes()[12:28] else "the new file is another than the update names"
    if code != 1 or left:
        return f"it must be refused with exit code 1 and no file, not {code} and {left}: {error.strip()[-300:]}"
    return "" if len(error.strip().splitlines()) == 1 else f"a refusal is one line on stderr: {error.strip()[-300:]}"


def run(paths: Sequence[Path], apply: Apply) -> dict[str, str]:
    """The complaints of the updates of which there is one."""
    found = {f"{path.parent.name}/{path.name}": complaint(path, apply) for path in paths}
    return {name: text for name, text in found.items() if text}


def main() -> int:
    """The command line; 0 if all is as it should be, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__, usage="%(prog)s [options] -- COMMAND...")
    parser.add_argument("-k", "--match", default="", help="Use only updates whose names contain this text.")
    parser.add_argument("command", nargs="+", help="It is called with OLD.dc UPDATE.dcp NEW.dc.")
    arguments = parser.parse_args()
    paths = updates(pattern=arguments.match)
    if not paths:
        parser.error(f"{HERE} has no such updates")
    wrong = run(paths, by_command(arguments.command))
    for name, text in wrong.items():
        print(f"{name}: {text}")
    print(f"{len(paths) - len(wrong)} of {len(paths)} updates as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
