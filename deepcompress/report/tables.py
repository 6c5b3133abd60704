"""Results as tables for people. Names that come from a file are shown as they are, never as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from deepcompress.report.names import labels

if TYPE_CHECKING:
    from deepcompress.compression.plan import Plan, TensorPlan
    from deepcompress.compression.result import Result
    from deepcompress.container.breakdown import Breakdown, LayerBreakdown
    from deepcompress.sparse.bench import Bench, Row
    from deepcompress.studies.sensitivity import LayerPruned

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


def stages_table(result: Result) -> Table:
    """A compression stage by stage."""
    headings = ("Bytes", "Ratio", result.metric, "Seconds")
    table = grid([("Stage", "left"), *((heading, "right") for heading in headings)])
    for stage in result.stages:
        value = metric(stage.metric, result.unit)
        table.add_row(stage.stage, size(stage.bytes), f"{stage.ratio:.2f}×", value, f"{stage.seconds:.1f}")
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


#: The columns of `plan_table`, as `LAYER_COLUMNS`.
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
    return _fitting(PLAN_COLUMNS, [_plan_row(tensor) for tensor in plan.tensors], width)


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
    return (
        f"{plan.layers} of {len(plan.tensors)} tensors are compressed: {100 * plan.pruned:.2f} % of "
        f"{size(plan.weights)} weights pruned; about {size(plan.file_bytes)} bytes, {plan.ratio:.1f}× smaller than "
        f"{size(plan.dense_bytes)}"
    )


#: The columns of `layers_table`: heading, justification, and how soon a narrow terminal loses it (0: never).
LAYER_COLUMNS = (
    ("Tensor", "left", 0),
    ("Shape", "left", 1),
    ("Kept", "right", 0),
    ("Bits", "right", 0),
    ("Idx bits", "right", 0),
    ("Fillers", "right", 3),
    ("Weights", "right", 0),
    ("Offsets", "right", 0),
    ("Book", "right", 4),
    ("Tables", "right", 5),
    ("Bytes", "right", 0),
    ("Rate", "right", 2),
)


def layers_table(breakdown: Breakdown, width: int = UNLIMITED) -> Table:
    """The tensors of a file, with the columns of tables 2 and 3 of the paper and the bytes of each part.

    Bits and index bits are those before and after entropy coding, per surviving weight; the rate is bytes over
    dense fp32 bytes. Columns are left out until the table fits into `width`.
    """
    return _fitting(LAYER_COLUMNS, [_layer_row(layer) for layer in breakdown.layers], width)


def _fitting(columns: Sequence[tuple[str, str, int]], rows: Sequence[Sequence[Text | str]], width: int) -> Table:
    """A table of `columns` (as `LAYER_COLUMNS`), without as many as it takes to fit into `width`.

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


def _layer_row(layer: LayerBreakdown) -> list[Text | str]:
    name = Text(layer.name)
    shape = "×".join(map(str, layer.shape)) or "scalar"
    rate = percent(100 * layer.bytes / layer.dense_bytes, 1) if layer.dense_bytes else "–"
    if layer.kind != "coded":
        if layer.kind == "alias":
            name.append(f" = {layer.coder.removeprefix('same as ')}")
        return [name, shape, "", "", "", "", "", "", "", "", size(layer.bytes), rate]
    parts = layer.parts
    return [
        name,
        shape,
        percent(100 * layer.density, 1),
        f"{layer.bits}→{layer.coded_bits:.2f}",
        f"{layer.index_bits}→{layer.coded_index_bits:.2f}" if layer.index_bits else "–",
        size(layer.fillers),
        size(parts["weights"]),
        size(parts["offsets"]),
        size(parts["codebooks"]),
        size(parts["tables"]),
        size(layer.bytes),
        rate,
    ]


def layers_notes(breakdown: Breakdown) -> str:
    """What the columns of `layers_table` mean, as far as this file needs it; "" where it does not."""
    coded = [layer for layer in breakdown.layers if layer.kind == "coded"]
    if not coded:
        return ""
    lines = [
        "Bits: width of a codebook index (Idx bits: of an offset) → bits of a kept weight after entropy coding. "
        "Where zeros are stored, they are one more entry: 16 shared values (--bits 4) and zero need 5 bits."
    ]
    if any(layer.fillers for layer in coded):
        lines.append("Fillers: zeros stored between two kept weights whose gap is longer than an offset can say.")
    return "\n".join(lines)


def sections_table(breakdown: Breakdown) -> Table:
    """Bytes by section; the last row is the size on disk."""
    table = grid([("Section", "left"), ("Bytes", "right"), ("of file", "right")])
    for name, count in breakdown.sections.items():
        table.add_row(name, size(count), percent(100 * count / breakdown.file_bytes, 1))
    table.add_row("file", size(breakdown.file_bytes), "100.0 %", style="bold")
    return table


def headline(breakdown: Breakdown) -> str:
    """A file in a few lines."""
    kept = 100 * breakdown.nonzeros / breakdown.weights if breakdown.weights else 100.0
    normalized = f", inputs normalized: {breakdown.normalize}" if breakdown.normalize else ""
    stages = " → ".join(f"{name} {ratio:.2f}×" for name, ratio in breakdown.stages.items())
    return (
        f"{breakdown.file}: {size(breakdown.file_bytes)} bytes, {breakdown.ratio:.2f}× smaller than "
        f"{size(breakdown.dense_bytes)} bytes of dense fp32\n"
        f"format {breakdown.format_version}, network {breakdown.network or 'not named'}, data "
        f"{breakdown.data or 'not named'}{normalized}\n"
        f"{kept:.2f} % of {size(breakdown.weights)} weights kept\n"
        f"after each stage, with the offset widths of this file: {stages}"
    )


def sensitivity_table(rows: Sequence[LayerPruned], unit: str = " %", width: int = UNLIMITED) -> Table:
    """Values of the metric, a line for each layer and a column for each sparsity above 0, in the order of `rows`.

    All layers have the same sparsities but for rounding: the columns are called by those of the largest layer.
    """
    layers: dict[str, list[LayerPruned]] = {}
    for row in rows:
        layers.setdefault(row.layer, []).append(row)
    largest = max(layers.values(), key=lambda found: found[0].weights)
    headings = [f"{100 * row.sparsity:.3g} %" for row in largest[1:]]
    columns = [("Layer", "left", 0), ("Weights", "right", 1), *((heading, "right", 0) for heading in headings)]
    cells: list[list[Text | str]] = [
        [Text(name), size(found[0].weights), *(number(row.value, unit) for row in found[1:])]
        for name, found in layers.items()
    ]
    return _fitting(columns, cells, width)


def compare_table(
    summary: Sequence[Mapping[str, Any]],
    scoring: Mapping[str, tuple[float, float | None]] | None = None,
    unit: str = " %",
    width: int = UNLIMITED,
) -> Table:
    """Mean values of the metric, a line for each criterion and a column for each sparsity; the Pareto front is marked.

    Args:
        summary: as dictionaries of `compare.Summary`, all retrained or none.
        scoring: seconds that a criterion takes, and its rank correlation with the reference, to be shown beside.
        unit: of the metric.
        width: names are shortened, and columns left out, until the table fits into it.
    """
    sparsities = sorted({row["prune"] for row in summary})
    beside = [] if scoring is None else [("Seconds", "right", 1), ("Spearman", "right", 2)]
    errors = [(f"{100 * sparsity:.4g} %  ", "right", 0) for sparsity in sparsities]
    rows: list[list[Text | str]] = []
    cells: dict[str, dict[float, str]] = {}
    for row in summary:
        spread = f" ± {number(row['val_error_deviation'], unit)}" if row["seeds"] > 1 else ""
        cell = f"{number(row['val_error'], unit)}{spread} {'●' if row['front'] else ' '}"
        cells.setdefault(row["criterion"], {})[row["prune"]] = cell
    for name, found in cells.items():
        seconds, rho = (scoring or {}).get(name, (0.0, None))
        facts = [] if scoring is None else [f"{seconds:.2f}", "–" if rho is None else f"{rho:.2f}"]
        rows.append([Text(name), *facts, *(found.get(sparsity, "–  ") for sparsity in sparsities)])
    return _fitting([("Criterion", "left", 0), *beside, *errors], rows, width)


def search_table(trials: Sequence[Mapping[str, Any]], name: str = "Error", unit: str = " %") -> Table:
    """The trials of a search (`search.Found.as_dicts`), from the largest size to the smallest.

    `name` and `unit` are the metric's.
    """
    loss = "Cross entropy" if name == "Error" else "Val loss"
    headings = (("Asked", "right"), ("Bytes", "right"), (_val(name), "right"), (loss, "right"),
                ("Epochs", "right"), ("Outcome", "left"), ("Front", "left"))  # fmt: skip
    table = grid(headings)
    for trial in sorted(trials, key=lambda trial: -(trial["target_size"] or 1 << 62)):
        asked = size(trial["target_size"]) if trial["target_size"] else "not pruned"
        epochs = f"{trial['epochs']}+{trial['finetune_epochs']}"
        outcome = "chosen" if trial["chosen"] else "passed" if trial["passed"] else "rolled back"
        if trial["failure"]:
            table.add_row(asked, "–", "–", "–", epochs, "not possible", "")
            continue
        numbers = (size(trial["file_bytes"]), metric(trial["val_value"], unit), f"{trial['val_loss']:.4f}")
        table.add_row(asked, *numbers, epochs, outcome, "●" if trial["front"] else "")
    return table


def _val(name: str, part: str = "Val") -> str:
    """The heading of a metric: Val error, Val mIoU."""
    return f"{part} {name.lower() if name in ('Error', 'Loss') else name}"


#: The columns of `sweep_table` after the swept settings, as `LAYER_COLUMNS`.
SWEEP_COLUMNS = (
    ("Bytes", "right", 0),
    ("Ratio", "right", 0),
    ("Kept", "right", 2),
    ("Val", "right", 0),
    ("Test", "right", 0),
    ("Seconds", "right", 1),
    ("Front", "left", 0),
)


def sweep_table(
    rows: Sequence[Mapping[str, Any]],
    swept: Sequence[str],
    width: int = UNLIMITED,
    name: str = "Error",
    unit: str = " %",
) -> Table:
    """The points of a sweep, with a mark at those of the front.

    Args:
        rows: the swept settings by name, ``file_bytes``, ``ratio``, ``kept``, ``val_value``, ``test_value``,
            ``seconds``, ``front``, and ``failure``: why the numbers are None.
        swept: names of the settings to show.
        width: columns are left out until the table fits into it.
        name, unit: of the metric.
    """
    columns = [(setting.replace("_", " ").capitalize(), "right", 0) for setting in swept]
    for heading, justify, rank in SWEEP_COLUMNS:
        columns.append((_val(name, heading) if heading in ("Val", "Test") else heading, justify, rank))
    return _fitting(columns, [_sweep_row(row, swept, unit) for row in rows], width)


def _sweep_row(row: Mapping[str, Any], swept: Sequence[str], unit: str) -> list[Text | str]:
    settings: list[Text | str] = [str(row[name]).removesuffix(".0") for name in swept]
    if row["failure"]:
        return [*settings, "failed", "", "", "", "", "", ""]
    return [
        *settings,
        size(row["file_bytes"]),
        f"{row['ratio']:.2f}×",
        percent(100 * row["kept"], 1),
        metric(row["val_value"], unit),
        metric(row["test_value"], unit),
        f"{row['seconds']:.1f}",
        "●" if row["front"] else "",
    ]


def bench_table(found: Bench, width: int = UNLIMITED) -> Table:
    """Bytes in memory and median milliseconds, of each layer and of the network, dense and as `mode="sparse"` runs it.

    A layer that stays dense has a dash. Where all do, there are the dense columns only. Columns are left out where they
    do not fit into `width`.
    """
    rows = (*found.layers, found.total)
    compressed = found.total.is_sparse
    columns = [("Layer", "left", 0), ("Shape", "left", 1), ("Kept", "right", 2), ("Dense bytes", "right", 4)]
    columns += [("Bytes", "right", 0)] if compressed else []
    for measured in found.total.times:
        batch = f"batch {measured.batch}"
        columns.append((f"Dense ms\n{batch}", "right", 3 if compressed else 0))
        columns += [(f"ms\n{batch}", "right", 0), (f"faster\n{batch}", "right", 0)] if compressed else []
    return _fitting(columns, [_bench_row(row, compressed) for row in rows], width)


def bench_line(found: Bench, file: str, threads: int) -> str:
    """What a bench came to, in a line."""
    used = f"{threads} thread{'s' if threads > 1 else ''}"
    if not found.total.is_sparse:
        return (
            f"{file}: no layer runs compressed, because that pays for none (docs/sparse.md says when it does); "
            f"the times are those of the dense network, {used}"
        )
    total = found.total
    faster = ", ".join(f"{time.speedup:.2f}× the dense speed at batch {time.batch}" for time in total.times)
    return (
        f"{file}: {total.dense_bytes / total.bytes:.1f}× less memory, {faster}, {used}; outputs differ by "
        f"{found.max_difference:.1e} of the largest"
    )


def _bench_row(row: Row, compressed: bool) -> list[Text | str]:
    cells: list[Text | str] = [Text(row.name), "×".join(map(str, row.shape)), percent(100 * row.density, 1)]
    cells += [size(row.dense_bytes), *([size(row.bytes)] if compressed else [])]
    for found in row.times:
        cells.append(f"{found.dense_ms:.3f}")
        if not compressed:
            continue
        cells += ["–", "–"] if found.sparse_ms is None else [f"{found.sparse_ms:.3f}", f"{found.speedup:.2f}×"]
    return cells
