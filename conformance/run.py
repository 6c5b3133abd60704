"""Hold a decoder of .dc files against the suite: `python conformance/run.py -- COMMAND...`. README.md says the rest."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
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


def by_command(command: Sequence[str], timeout: float) -> Callable[..., Answer]:
    """What a program answers that is called with paths of files behind its own arguments: a decoder, with one path."""

    def decode(*paths: Path) -> Answer:
        try:
            done = subprocess.run([*command, *map(str, paths)], capture_output=True, check=False, timeout=timeout)
        except subprocess.TimeoutExpired:
            return Answer(-1, "", f"no answer within {timeout:g} seconds")
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    return decode


@contextlib.contextmanager
def by_lines(command: Sequence[str], timeout: float) -> Iterator[Decoder]:
    """A decoder that reads paths, a line each, and answers each with a line of JSON; one process for each thread."""
    started: dict[int, subprocess.Popen[str]] = {}

    def decode(path: Path) -> Answer:
        process = started.get(threading.get_ident())
        if process is None or process.poll() is not None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, text=True, encoding="utf-8", errors="replace", **pipes)
            started[threading.get_ident()] = process
        return _ask(process, path, timeout)

    try:
        yield decode
    finally:
        for process in started.values():
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    with contextlib.suppress(OSError, ValueError):  # its pipe may hold what it never read, or be closed
        process.communicate()


def _ask(process: subprocess.Popen[str], path: Path, timeout: float) -> Answer:
    assert process.stdin is not None and process.stdout is not None
    timer = threading.Timer(timeout, process.kill)
    timer.start()
    try:
        print(path.resolve(), file=process.stdin, flush=True)
        line = process.stdout.readline()
    except OSError:  # it reads nothing any more
        line = ""
    timer.cancel()
    if not line:
        _end(process)
        return Answer(-1, "", "it ended without an answer, or took too long")
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and "error" in found:
            return Answer(1, "", str(found["error"]))
    return Answer(0, line, "")


def complaint(path: Path, decode: Decoder, sections: bool = False) -> str:
    """What is wrong with a decoder's answer to one file of the suite; empty if nothing is.

    With `sections`, a refusal must name the section whose rule is broken, or one that this builds on.
    """
    answer = decode(path)
    if path.parent.name == "invalid":
        section = _sections(path.parent)[path.stem]
        return _refused(answer, section) or (_misnamed(answer, section) if sections else "")
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


@cache
def _related() -> dict[str, list[int]]:
    """For each section those that it builds on."""
    found: dict[str, list[int]] = json.loads((HERE / "related.json").read_text(encoding="utf-8"))
    return found


def _misnamed(answer: Answer, section: int) -> str:
    allowed = {section, *_related()[str(section)]}
    named = {int(number) for number in re.findall(r"section (\d+)", answer.err)}
    if named & allowed:
        return ""
    return f"the file breaks section {section}, but the refusal is: {_last_line(answer.err)}"


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


def cases(folder: Path, pattern: str = "", ending: str = ".dc") -> list[Path]:
    """The files of a suite whose names contain `pattern`, valid ones first."""
    found = [path for group in ("valid", "invalid") for path in sorted((folder / group).glob(f"*{ending}"))]
    return [path for path in found if pattern in path.stem]


def run(paths: Sequence[Path], decode: Decoder, jobs: int = 1, sections: bool = False) -> dict[Path, str]:
    """The complaints of the files of which there is one."""
    with ThreadPoolExecutor(jobs) as pool:
        answers = pool.map(lambda path: complaint(path, decode, sections), paths)
        return {path: found for path, found in zip(paths, answers, strict=True) if found}


def report(wrong: dict[Path, str], count: int, what: str) -> int:
    """Print the complaints of so many files; the exit code: 0 if there are no complaints, else 1."""
    for path, found in wrong.items():
        print(f"{path.parent.name}/{path.name}: {found}")
    print(f"{count - len(wrong)} of {count} {what} as they should be")
    return 1 if wrong else 0


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
    parser.add_argument("--lines", action="store_true", help="The decoder reads paths from stdin (see README.md).")
    parser.add_argument("--sections", action="store_true", help="Refusals must name the section that is broken.")
    parser.add_argument("command", nargs="+", help="The decoder; the path of a file is appended, without --lines.")
    arguments = parser.parse_args()
    paths = cases(arguments.folder, arguments.match)
    if not paths:
        parser.error(f"{arguments.folder} has no such files")
    try:
        with contextlib.ExitStack() as stack:
            if arguments.lines:
                decode = stack.enter_context(by_lines(arguments.command, arguments.timeout))
            else:
                decode = by_command(arguments.command, arguments.timeout)
            wrong = run(paths, decode, arguments.jobs, arguments.sections)
    except OSError as error:
        parser.error(f"{error.filename or arguments.command[0]}: {error.strerror}")
    return report(wrong, len(paths), "files")


if __name__ == "__main__":
    sys.exit(main())
