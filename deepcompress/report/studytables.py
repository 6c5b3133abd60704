"""What came of studies, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from deepcompress.report.tables import UNLIMITED, fitting, grid, metric, number, percent, size

if TYPE_CHECKING:
    from deepcompress.studies.sensitivity import LayerPruned


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
    return fitting(columns, cells, width)


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
    return fitting([("Criterion", "left", 0), *beside, *errors], rows, width)


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


#: The columns of `sweep_table` after the swept settings, as in `fitting`.
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
        rows: the swept settings by name, ``file_bytes``, ``ratio``, ``source_ratio``, ``kept``, ``val_value``,
            ``test_value``, ``seconds``, ``front``, and ``failure``: why the numbers are None.
        swept: names of the settings to show.
        width: columns are left out until the table fits into it.
        name, unit: of the metric.
    """
    columns = [(setting.replace("_", " ").capitalize(), "right", 0) for setting in swept]
    both = any(row.get("source_ratio") not in (None, row["ratio"]) for row in rows)
    for heading, justify, rank in SWEEP_COLUMNS:
        if heading == "Ratio" and both:
            columns += [("To fp32", justify, rank), ("To given", justify, rank)]
            continue
        columns.append((_val(name, heading) if heading in ("Val", "Test") else heading, justify, rank))
    return fitting(columns, [_sweep_row(row, swept, unit, both) for row in rows], width)


def _sweep_row(row: Mapping[str, Any], swept: Sequence[str], unit: str, both: bool) -> list[Text | str]:
    settings: list[Text | str] = [str(row[name]).removesuffix(".0") for name in swept]
    ratios = ("ratio", "source_ratio") if both else ("ratio",)
    if row["failure"]:
        return [*settings, "failed", *("" for _ in (*ratios, *SWEEP_COLUMNS[2:]))]
    return [
        *settings,
        size(row["file_bytes"]),
        *("–" if row[ratio] is None else f"{row[ratio]:.2f}×" for ratio in ratios),
        percent(100 * row["kept"], 1),
        metric(row["val_value"], unit),
        metric(row["test_value"], unit),
        f"{row['seconds']:.1f}",
        "●" if row["front"] else "",
    ]
