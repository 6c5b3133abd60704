"""The command line in this process: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from deepcompress.cli import main

QUICK = ["--epochs", "1", "--iterations", "1", "--finetune-epochs", "1", "--batch-size", "64"]


def run(*arguments):
    """The command in this process; exit code, stdout and stderr."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def fail(*arguments, code=1):
    """The one line on stderr of a command that must fail."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "Traceback" not in line
    return line


def from_json(*arguments):
    """The one object on stdout."""
    result = succeed(*arguments, "--json")
    return json.loads(result.stdout, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def without(options, *flags):
    """Options without these, which have an argument each."""
    places = {place for flag in flags for place in (options.index(flag), options.index(flag) + 1)}
    return [option for place, option in enumerate(options) if place not in places]
