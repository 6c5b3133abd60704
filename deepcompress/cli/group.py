"""Errors as one line, and exit codes."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import traceback
from typing import Any

import click

from deepcompress.errors import DeepCompressError, RecipeError


class OneLineErrors(click.Group):
    """A group whose errors are one line on stderr: exit code 1 for bad input, 2 for wrong usage."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and exit with 0, 1 or 2."""
        kwargs["standalone_mode"] = False
        _write_what_can_be_written()
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(2)
        except click.UsageError as error:
            hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
            _fail(error.format_message() + hint, 2)
        except RecipeError as error:
            _trace(error)
            _fail(str(error), 2)
        except (click.ClickException, DeepCompressError) as error:
            _trace(error)
            _fail(error.format_message() if isinstance(error, click.ClickException) else str(error), 1)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; nothing was written", 1)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has seen enough
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
                sys.exit(1)
            _fail(f"the output cannot be written: {error.strerror or error}", 1)
        sys.exit(code if isinstance(code, int) else 0)


def _trace(error: Exception) -> None:
    """With -v, what the user's own code raised, and where, before the line that sums it up."""
    if error.__cause__ is not None and {"-v", "--verbose"} & set(sys.argv[1:]):
        traceback.print_exception(error.__cause__)


#: What stands for characters that the encoding of a stream does not have.
PLAIN = {
    "→": "->", "×": "x", "≈": "~", "●": "*", "…": "...", "–": "-", "·": ".", "±": "+-", "²": "^2", "−": "-",
    "÷": "/", "━": "-", "─": "-", "╸": "-", "╺": "-",
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: similar ASCII characters, and ? where there are none."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def _write_what_can_be_written() -> None:
    """Let no character fail that the encoding of stdout or stderr lacks, as cp1252 does where Windows redirects."""
    codecs.register_error("deepcompress.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="deepcompress.plain")


def _fail(message: str, code: int) -> None:
    click.echo("Error: " + " ".join(message.split()), err=True)
    sys.exit(code)
