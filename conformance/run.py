"""Hold a decoder of .dc files against the suite: `python conformance/run.py -- COMMAND...`. README.md says the rest."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPARED = ("network", "data", "tensors")


@dataclass(frozen=True)
class Answer:
    """What a decoder says of a file: its exit code, and what it wrote to stdout and to stderr."""

    code: int
    out: str
    err: str


Decoder = Callable[[Path], Answer]


def by_command(command: Sequence[str], timeout: float) -> Decoder:
    """A decoder that is a program, called with the path of a file behind its own arguments."""

    def decode(path: Path) -> Answer:
        try:
            done = subprocess.run([*command, str(path)], capture_output=True, check=False, timeout=timeout)
        except subprocess.TimeoutExpired:
            return Answer(-1, "", f"no answer within {timeout:g} seconds")
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    return decode


def complaint(path: Path, decode: Decoder) -> str:
    """What is wrong with a decoder's answer to one file of the suite; empty if nothing is."""
    answer = decode(path)
    if path.parent.name == "invalid":
        return _refused(answer, _sections(path.parent)[path.stem])
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if answer.code != 0:
        return f"the file is valid, but the exit code is {answer.code}: {_last_line(answer.err)}"
    return _same(answer.out, expected)


@cache
def _sections(folder: Path) -> dict[str, int]:
    """The section of the specification that each invalid file breaks."""
    found: dict[str, int] = json.loads((folder / "sections.json").read_text(encoding="utf-8"))
    return found


def _refused(answer: Answer, section: int) -> str:
    if answer.code == 0:
        return f"the file breaks section {section}, but the exit code is 0"
    if answer.code != 1:
        return f"the file must be refused with exit code 1, not {answer.code}: {_last_line(answer.err)}"
    if len(answer.err.strip().splitlines()) != 1:
        return f"a refusal is one line on stderr, not {len(answer.err.strip().splitlines())}: {_last_line(answer.err)}"
    return ""


def _same(out: str, expected: dict[str, object]) -> str:
    try:
        found = json.loads(out)
    except ValueError:
        return "stdout is not one JSON object"
    for key in COMPARED:
        if not isinstance(found, dict) or found.get(key) != expected[key]:
            wrong = found.get(key) if isinstance(found, dict) else found
            return f"{key} must be {_short(expected[key])}, not {_short(wrong)}"
    return ""


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["(nothing on stderr)"])[-1][:300]


def cases(folder: Path, pattern: str = "") -> list[Path]:
    """The files of a suite whose names contain `pattern`, valid ones first."""
    found = [*sorted((folder / "valid").glob("*.dc")), *sorted((folder / "invalid").glob("*.dc"))]
    return [path for path in found if pattern in path.stem]


def run(paths: Sequence[Path], decode: Decoder, jobs: int = 1) -> dict[Path, str]:
    """The complaints of the files of which there is one."""
    with ThreadPoolExecutor(jobs) as pool:
        answers = pool.map(lambda path: complaint(path, decode), paths)
        return {path: found for path, found in zip(paths, answers, strict=True) if found}


def main() -> int:
    """The command line; 0 if all is as it should be, 1 if not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        description="Hold a decoder of .dc files against the conformance suite.",
        usage="%(prog)s [options] -- COMMAND...",
    )
    parser.add_argument(
        "--folder", type=Path, default=HERE, help="Folder with valid/ and invalid/.  [default: this one]"
    )
    parser.add_argument("-k", "--match", default="", help="Use only files whose names contain this text.")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="Number of decoders run at once.")
    parser.add_argument("--timeout", type=float, default=60, help="Seconds that a decoder may take.  [default: 60]")
    parser.add_argument("command", nargs="+", help="The decoder; the path of a file is appended.")
    arguments = parser.parse_args()
    paths = cases(arguments.folder, arguments.match)
    if not paths:
        parser.error(f"{arguments.folder} has no such files")
    try:
        wrong = run(paths, by_command(arguments.command, arguments.timeout), arguments.jobs)
    except OSError as error:
        parser.error(f"{arguments.command[0]} cannot be run: {error.strerror}")
    for path, found in wrong.items():
        print(f"{path.parent.name}/{path.name}: {found}")
    print(f"{len(paths) - len(wrong)} of {len(paths)} files as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
