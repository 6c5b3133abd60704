"""Results as tables for people. Names that come from a file are shown as they are, never as markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from deepcompress.report.names import labels

if TYPE_CHECKING:
    from deepcompress.compression.plan import Plan, TensorPlan
    from deepcompress.compression.result import Result

UNLIMITED = 1000  # columns of a file or a pipe
NAME = 32  # characters of a name, where a table is too wide
LEAST_NAME = 12


def output(stderr: bool = False) -> Console:
    """The console of results: stdout (or stderr), as wide as any table where it is not a terminal."""
    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, width=UNLIMITED, stderr=stderr)


def say(console: Console, text: str) -> None:
    """Print a text as it is; in a terminal its lines break between words, elsewhere not at all."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


def grid(columns: Sequence[tuple[str, str]], title: str | None = None) -> Table:
    """An empty table; `columns` are heading and justification (``left`` or ``right``)."""
    table = Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    return table


def size(count: int) -> str:
    """A number with thousands separated by commas."""
    return f"{count:,}"


def percent(value: float | None, digits: int = 2) -> str:
    """A percentage, or a dash where nothing was measured."""
    return "–" if value is None else f"{value:.{digits}f} %"


def number(value: float, unit: str) -> str:
    """A value of a metric without its unit: two digits of a percentage, else four that tell."""
    return f"{value:.2f}" if unit else f"{value:.4g}"


def metric(value: float | None, unit: str) -> str:
    """A value of a metric with its unit, or a dash where nothing was measured."""
    return "–" if value is None else number(value, unit) + unit


def fitting(columns: Sequence[tuple[str, str, int]], rows: Sequence[Sequence[Text | str]], width: int) -> Table:
    """A table of `columns`, without as many as it takes to fit into `width`.

    A column has a heading, a justification, and how soon a narrow terminal loses it (0: never).

    Names in the first column are shortened before a column goes, and further when none is left to go.
    """
    names = [str(row[0]) for row in rows]
    for dropped in range(max(rank for _, _, rank in columns) + 1):
        shown = [index for index, (_, _, rank) in enumerate(columns) if not 0 < rank <= dropped]
        for most in (UNLIMITED, NAME):
            table = _built(columns, rows, shown, labels(names, most))
            if (excess := _width(table) - width) <= 0:
                return table
    longest = max(map(len, labels(names, NAME)), default=0)
    return _built(columns, rows, shown, labels(names, max(LEAST_NAME, longest - excess)))


def _built(
    columns: Sequence[tuple[str, str, int]], rows: Sequence[Sequence[Text | str]], shown: Sequence[int],
    names: Sequence[str],
) -> Table:  # fmt: skip
    table = grid([columns[index][:2] for index in shown])
    for row, name in zip(rows, names, strict=True):
        first = row[0] if str(row[0]) == name else Text(name)
        table.add_row(*(first if index == 0 else row[index] for index in shown))
    return table


def _width(table: Table) -> int:
    console = Console(width=UNLIMITED)
    return Measurement.get(console, console.options, table).maximum


def stages_table(result: Result) -> Table:
    """A compression stage by stage."""
    source = result.source_bytes if result.source_bytes != result.dense_bytes else None
    ratios = ("Ratio",) if source is None else ("To fp32", "To given")
    headings = ("Bytes", *ratios, result.metric, "Seconds")
    table = grid([("Stage", "left"), *((heading, "right") for heading in headings)])
    for stage in result.stages:
        value = metric(stage.metric, result.unit)
        given = () if source is None else (f"{source / stage.bytes:.2f}×",)
        numbers = (size(stage.bytes), f"{stage.ratio:.2f}×", *given, value, f"{stage.seconds:.1f}")
        table.add_row(stage.stage, *numbers)
    return table


MOST_ERRORS = 16


def errors_table(result: Result, whole: bool = False) -> Table:
    """What rounding changed in each layer; of many layers those with the largest errors, unless `whole`."""
    table = grid([("Layer", "left"), ("Weights", "right"), ("Bits each", "right"), ("Weight error", "right")])
    rows = [layer for layer in result.breakdown.layers if layer.name in result.errors]
    if not whole and len(rows) > MOST_ERRORS:
        largest = sorted(result.errors.values())[-MOST_ERRORS:]
        rows = [layer for layer in rows if result.errors[layer.name] >= largest[0]]
        table.title = f"The {len(rows)} of {len(result.errors)} layers that rounding changed most (-v: all)"
    for layer in rows:
        error = percent(100 * result.errors[layer.name])
        table.add_row(Text(layer.name), size(layer.weights), f"{layer.bits_per_weight:.2f}", error)
    return table


#: The columns of `plan_table`, as in `fitting`.
PLAN_COLUMNS = (
    ("Tensor", "left", 0),
    ("Shape", "left", 2),
    ("What", "left", 4),
    ("Weights", "right", 3),
    ("Pruned", "right", 0),
    ("Values", "right", 0),
    ("Bits", "right", 1),
    ("Stored as", "left", 0),
    ("≈ Bytes", "right", 0),
)


def plan_table(plan: Plan, width: int = UNLIMITED) -> Table:
    """What would be done to each tensor; columns are left out until the table fits into `width`."""
    return fitting(PLAN_COLUMNS, [_plan_row(tensor) for tensor in plan.tensors], width)


def _plan_row(tensor: TensorPlan) -> list[Text | str]:
    stored = {"same": f"the same as {tensor.tied_to}", "exact": "as it is"}.get(tensor.stored, tensor.stored)
    if tensor.group:
        stored += f", shared with {', '.join(name for name in tensor.group if name != tensor.name)}"
    layer = tensor.stored in ("indices", "values")
    return [
        Text(tensor.name),
        "×".join(map(str, tensor.shape)) or "scalar",
        tensor.kind,
        size(tensor.weights),
        percent(100 * tensor.pruned, 1) if layer else "",
        "" if tensor.levels is None else size(tensor.levels),
        "" if tensor.bits is None else str(tensor.bits),
        Text(stored),
        size(tensor.bytes),
    ]


def plan_line(plan: Plan) -> str:
    """A plan in a line."""
    line = (
        f"{plan.layers} of {len(plan.tensors)} tensors are compressed: {100 * plan.pruned:.2f} % of "
        f"{size(plan.weights)} weights pruned; about {size(plan.file_bytes)} bytes, {plan.ratio:.1f}× smaller than "
        f"{size(plan.dense_bytes)}"
    )
    if plan.source_bytes == plan.dense_bytes:
        return line
    return f"{line} in fp32, {plan.source_ratio:.1f}× smaller than {size(plan.source_bytes)} as given"
