"""What people look at: narrow terminals, other encodings, quiet commands, headings of help."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import succeed
from rich.console import Console

from deepcompress.checkpoint import Checkpoint, save_checkpoint
from deepcompress.cli import main
from deepcompress.cli.group import PLAIN
from deepcompress.networks.lenet import LeNet300100
from deepcompress.report import tables
from deepcompress.report.console import ConsoleProgress


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint("x.pt", Checkpoint(LeNet300100().state_dict(), "lenet-300-100", "digits", {}))


def test_an_encoding_without_our_characters_is_no_error():
    code = "import sys; from deepcompress.cli import main; sys.argv = ['deepcompress', *sys.argv[1:]]; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    succeed("compress", "x.pt", "--no-retrain", "--prune", "0.9", "--bits", "5", "-o", "m.dc", "-q")
    done = subprocess.run([sys.executable, "-c", code, "inspect", "m.dc"], env=environment, capture_output=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("cp1252")
    assert "5->5" in text
    assert "× smaller" in text  # which cp1252 has
    assert "?" not in text


def test_every_character_of_tables_has_a_plain_one():
    folder = Path(tables.__file__).parent.parent
    sources = [*(folder / "report").glob("*.py"), *(folder / "cli").glob("*.py")]
    used = {character for source in sources for character in source.read_text(encoding="utf-8") if ord(character) > 127}
    assert used - set("′ ü é ö 层".replace(" ", "")) <= PLAIN.keys()
    assert all(value.isascii() for value in PLAIN.values())


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "x.pt", "--no-retrain", "-o", "m.dc"],
        ["plan", "x.pt"],
        ["inspect", "m.dc"],
        ["bench", "m.dc", "--input-shape", "1,28,28", "--batch", "1"],
        ["eval", "x.pt"],
        ["recode", "m.dc"],
        ["verify", "m.dc"],
        ["export", "m.dc", "-o", "y.pt"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_quiet_commands_say_one_line(arguments):
    succeed("compress", "x.pt", "--no-retrain", "-o", "m.dc", "-q")
    if arguments[0] == "eval":
        arguments = ["verify", "m.dc"]
    done = succeed(*arguments, "-q")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_progress_line_keeps_its_bar_and_the_time_left(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    with ConsoleProgress() as watch:
        watch._bar.live.console = console = Console(file=stream, width=width, force_terminal=True, color_system=None)
        watch.begin("quantize", 120)
        watch._note, watch._val = "iteration 11/12, 97.5 % pruned  ", "  val error 12.34 %"
        watch.batch(99.5, 1.2345)
        console.print(watch._bar.make_tasks_table(watch._bar.tasks))
    line = next(line for line in stream.getvalue().splitlines() if "quantize" in line and "left" in line)
    assert "quantize epoch 100/120" in line
    assert line.count("━") >= 10
    assert "--:-- left" in line or ":" in line.split("left")[0]
    assert len(line.rstrip()) <= width


@pytest.mark.parametrize("command", ["plan", "sweep", "sensitivity", "compare", "compress"])
def test_long_help_has_headings_and_each_option_once(command):
    text = succeed(command, "--help-all").stdout
    for heading in ("Input and output:", "Pruning:", "Retraining:", "Other:"):
        assert f"\n{heading}\n" in text
    options = text[re.search(r"^\w[^\n]*:$", text, re.MULTILINE).start() :]
    options = options[options.index("\n  -") :]
    for param in main.commands[command].params:
        if param.param_type_name == "option":
            found = re.findall(rf"^  (?:-\w, )?{max(param.opts, key=len)}(?![\w-])", options, re.MULTILINE)
            assert len(found) == 1, param.name


@pytest.mark.parametrize("command", ["plan", "sweep", "sensitivity", "compare", "compress", "train"])
def test_short_help_has_the_options_that_most_people_need(command):
    short, long = (succeed(command, flag).stdout for flag in ("--help", "--help-all"))
    shown, all_of_them = (set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE)) for text in (short, long))
    assert shown < all_of_them
    assert {"--json", "--help", "--help-all"} <= shown
    assert 2 * len(shown) <= len(all_of_them)
    assert short.partition("Options:")[0].splitlines()[:3] == long.partition("Options:")[0].splitlines()[:3]


def test_help_of_compress_fits_on_a_screen_or_two():
    text = succeed("compress", "--help").stdout
    for option in ("--output", "--prune", "--bits", "--target-size", "--max-drop", "--data", "--network", "--resume"):
        assert option in text
    assert "--deepr-alpha" not in text
    assert text.count("\n") < 90
