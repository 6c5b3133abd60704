"""What people look at: numbers that are those of the breakdown, and names shown as they are."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from deepcompress.compression.result import Result, StageResult
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.breakdown import inspect
from deepcompress.recipe import Recipe
from deepcompress.report import filetables, tables
from deepcompress.report.console import ConsoleProgress, clock
from deepcompress.training.progress import EpochResult


def rendered(thing):
    console = Console(file=io.StringIO(), width=300, highlight=False)
    console.print(thing)
    return console.file.getvalue()


@pytest.fixture
def model_file(tmp_path):
    torch.manual_seed(0)
    w = torch.randn(300, 40)
    state = {"[bold]w[/bold]": w, "again": w, "b": torch.randn(7), "n": torch.tensor(3), "none": torch.zeros(0, 2)}
    return compress_state(state, Recipe(prune=0.8, bits=4, retrain=False), tmp_path / "m.dc")


def test_sections_table_adds_up(model_file):
    lines = [line.split() for line in rendered(filetables.sections_table(inspect(model_file.file))).splitlines()[2:]]
    counts = {line[0]: int(line[1].replace(",", "")) for line in lines if line}
    total = counts.pop("file")
    assert total == model_file.file_bytes == sum(counts.values())
    assert set(counts) == set(model_file.breakdown.sections)


def test_layers_table_has_a_row_for_every_tensor_and_shows_names_as_they_are(model_file):
    text = rendered(filetables.layers_table(inspect(model_file.file)))
    assert "[bold]w[/bold]" in text
    assert "20.0 %" in text
    assert "scalar" in text
    rows = [line for line in text.splitlines()[2:] if line.strip()]
    assert len(rows) == 5
    sizes = {layer.name: layer.bytes for layer in model_file.breakdown.layers}
    assert f"{sizes['[bold]w[/bold]']:,}" in next(row for row in rows if row.startswith("[bold]w"))
    assert "[bold]w[/bold]" in next(row for row in rows if row.startswith("again"))


def test_notes_say_what_the_adaptive_coder_costs(tmp_path, model_file):
    assert "Decoding" not in filetables.layers_notes(inspect(model_file.file))
    torch.manual_seed(0)
    state = {"small": torch.randn(200, 100), "large": torch.randn(300, 300)}
    settings = {"quantizer": "uniform", "coder": "ans", "prune": 0.5, "bits": 4, "retrain": False}
    made = compress_state(state, Recipe(**settings), tmp_path / "a.dc")
    kept = sum(layer.nonzeros for layer in made.breakdown.layers)
    notes = filetables.layers_notes(inspect(made.file))
    assert f"coder ans takes about {110_000 * 1e-7 + kept * 1.75e-7:.2g} s on one core; deepcompress recode" in notes
    few = compress_state({"small": state["small"]}, Recipe(**settings), tmp_path / "b.dc")
    assert filetables.layers_notes(inspect(few.file)).endswith("s on one core.")
    fast = compress_state({"large": state["large"]}, Recipe(**{**settings, "coder": "rans"}), tmp_path / "c.dc")
    assert "Decoding" not in filetables.layers_notes(inspect(fast.file))


def test_headline(model_file):
    text = filetables.headline(inspect(model_file.file))
    assert f"{model_file.file_bytes:,} bytes" in text
    assert f"{model_file.ratio:.2f}×" in text
    assert "not named" in text


def test_stages_table(model_file):
    plain = {
        **vars(model_file),
        "stages": [
            StageResult("dense", 4000, 1.0, 97.5, 0.0, metric=2.5),
            StageResult("prune", 1234, 3.24, None, 61.26),
        ],
    }
    text = rendered(tables.stages_table(Result(**plain)))
    dense, prune = (line.split() for line in text.splitlines()[-2:])
    assert dense[:4] == ["dense", "4,000", "1.00×", "2.50"]
    assert prune == ["prune", "1,234", "3.24×", "–", "61.3"]


def test_percent():
    assert tables.percent(None) == "–"
    assert tables.percent(1.234) == "1.23 %"
    assert tables.percent(1.26, 1) == "1.3 %"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (7325, "2:02:05")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def report(quiet):
    with ConsoleProgress(quiet) as watch:
        watch.batch(0.1, 9.0)  # before any stage: nothing to show
        watch.begin("prune", 12)
        watch.batch(0.5, 1.25)
        watch.epoch(EpochResult("prune", 1, 12, 0.5, 3.25, "50.0 % [pruned]", None, "error 3.25 %"))
        watch.epoch(EpochResult("prune", 2, 12, 0.25, None))
        watch.message("a [note]")


def test_without_a_terminal_progress_is_a_line_an_epoch_on_stderr(capsys):
    report(quiet=False)
    out, err = capsys.readouterr()
    assert out == ""
    first, second, note = err.splitlines()
    assert first.startswith("prune     epoch  1/12  loss 0.5000  val error 3.25 %  50.0 % [pruned]  ")
    assert first.endswith(" left")
    assert second.startswith("prune     epoch  2/12  loss 0.2500  ")
    assert "val error" not in second
    assert note == "a [note]"


def test_quiet_is_silent(capsys):
    report(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_live_bar_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    report(quiet=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "a [note]" in err
