"""Progress on stderr: a live bar in a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from deepcompress.training import progress

SECONDS_BETWEEN_LINES = 10
BAR, CLOCK, FEW = 16, 5, 20  # columns of a terminal


class ConsoleProgress(progress.Progress):
    """Shows stage, iteration, epoch, loss, validation error and time left; use it as a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=FEW, overflow="ellipsis")),
            BarColumn(bar_width=BAR, table_column=Column(no_wrap=True, min_width=BAR)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=CLOCK)),
            TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True, ratio=1, overflow="ellipsis")),
            console=self._console,
            disable=not self._live,
            expand=True,  # so that the last column gives way where the line is too long
        )
        self._task: TaskID | None = None
        self._started, self._epochs, self._stage, self._said = 0.0, 0, "", 0.0
        self._val, self._note = "", ""

    def __enter__(self) -> ConsoleProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop_bar()
        self._bar.stop()

    def begin(self, stage: str, epochs: int) -> None:
        """A new bar for a new stage."""
        self._drop_bar()
        self._stage, self._epochs, self._started = stage, epochs, time.perf_counter()
        self._val, self._note = "", ""
        self._task = self._bar.add_task(stage, total=float(epochs), state="")

    def batch(self, done: float, loss: float) -> None:
        """Move the bar."""
        if self._task is None:
            return
        description = f"{self._stage} epoch {int(done) + 1}/{self._epochs}"
        state = f"{self._note}loss {loss:.4f}{self._val}"
        self._bar.update(self._task, completed=done, description=description, state=state)

    def epoch(self, result: progress.EpochResult) -> None:
        """Remember what the bar shows beside the loss; without a bar, print a line."""
        self._val = "" if result.val_loss is None else f"  val loss {result.val_loss:.4f}"
        if result.val_metric:
            self._val = f"  val {result.val_metric}"
        if result.note:
            self._note = f"{result.note}  "
        if self._live:
            return
        elapsed = time.perf_counter() - self._started
        left = elapsed / result.epoch * (result.epochs - result.epoch)
        width = len(str(result.epochs))
        self._print(
            f"{result.stage:<8}  epoch {result.epoch:>{width}}/{result.epochs}  loss {result.loss:.4f}{self._val}"
            f"{'  ' + result.note if result.note else ''}  {clock(left)} left"
        )

    def work(self, stage: str, done: int, total: int, note: str) -> None:
        """A bar over weights; elsewhere a line every ten seconds at most."""
        if stage != self._stage:
            self._drop_bar()
            self._stage, self._started, self._said = stage, time.perf_counter(), time.perf_counter()
            self._task = self._bar.add_task(stage, total=float(total) or None, state="")
        if self._task is None:
            return
        state = f"{done / 1e6:,.1f} M weights  {note}"
        self._bar.update(self._task, completed=float(done), description=stage, state=state)
        now = time.perf_counter()
        if not self._live and now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            elapsed = now - self._started
            left = f"  {clock(elapsed / done * (total - done))} left" if done and total else ""
            self._print(f"{stage:<8}  {state}{left}")

    def message(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _drop_bar(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
