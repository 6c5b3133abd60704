"""The tables of results/pruners/README.md, from what `compare` and `train` printed."""

from __future__ import annotations

import json
import statistics
import tomllib
from collections.abc import Callable
from typing import Any

from reproduce import DYNAMIC, FROM_THE_START, LOTTERY, RESULTS, UNITS

PRUNERS = RESULTS / "pruners"
NETWORKS = {"lenet-300-100": ("LeNet-300-100", (0.95, 0.98)), "lenet5": ("LeNet-5", (0.98,))}

Row = tuple[str, ...]
Table = Callable[[Row, list[Row]], str]


def load(name: str) -> dict[str, Any]:
    """What a command printed."""
    found: dict[str, Any] = json.loads((PRUNERS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def spread(values: list[float]) -> str:
    """Mean, and deviation where there is more than one value."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def published(network: str, method: str, sparsity: float) -> str:
    """What a paper has for a method at a sparsity."""
    points = tomllib.loads((RESULTS / "published.toml").read_text(encoding="utf-8"))["pruning"]
    return ", ".join(
        f"{error} ({source})"
        for entry in points
        if entry["network"] == network
        for source, name, percent, error in entry["points"]
        if name == method and percent == 100 * sparsity
    )


def cell(found: dict[str, Any], criterion: str, sparsity: float, retrained: bool) -> str:
    """Test error over the seeds of one row of `compare`; what it failed with, if it did."""
    rows = [row for row in found["rows"] if row["criterion"] == criterion and row["prune"] in (sparsity, None)]
    errors = [row["test_error"] for row in rows if row["retrained"] == retrained and row["test_error"] is not None]
    return spread(errors) if errors else "–"


def retrained_table(network: str, table: Table) -> str:
    """Trained networks, pruned in one cut and retrained, beside what is published at that sparsity."""
    _, sparsities = NETWORKS[network]
    found = load(f"{network}-retrained")
    rows = []
    for facts in found["criteria"]:
        criterion, cells = facts["criterion"], []
        for sparsity in sparsities:
            cells += [cell(found, criterion, sparsity, True), published(network, criterion, sparsity)]
        rows.append((f"`{criterion}`", *cells, f"{facts['spearman']:.2f}", f"{facts['scoring_seconds']:.2f}"))
    heads = [head for sparsity in sparsities for head in (f"{100 * sparsity:.0f} %, test error, %", "published")]
    return table(("criterion", *heads, "Spearman", "seconds"), rows)


def bare_table(network: str, table: Table) -> str:
    """Trained networks, pruned and not retrained."""
    found = load(f"{network}-not-retrained")
    sparsities = sorted({row["prune"] for row in found["rows"] if row["prune"]})
    rows = [
        (f"`{criterion}`", *(cell(found, criterion, sparsity, False) for sparsity in sparsities))
        for criterion in (row["criterion"] for row in found["criteria"])
    ]
    return table(("criterion", *(f"{100 * sparsity:.0f} %" for sparsity in sparsities)), rows)


def units_table(network: str, table: Table) -> str:
    """Whole neurons and filters, not retrained and retrained."""
    found = load(f"{network}-units")
    sparsities = sorted({row["prune"] for row in found["rows"] if row["prune"]})
    rows = []
    for criterion in UNITS.split(","):
        cells = [cell(found, criterion, at, False) + " → " + cell(found, criterion, at, True) for at in sparsities]
        rows.append((f"`{criterion}`", *cells))
    return table(("criterion", *(f"{100 * sparsity:.0f} %" for sparsity in sparsities)), rows)


def start_table(network: str, table: Table) -> str:
    """Networks that were sparse from the start, and lottery tickets."""
    rows = []
    for of, method, sparsity, seeds in FROM_THE_START:
        if of == network:
            errors = [load(f"{network}-{method}-{sparsity}-seed{seed}")["error"] for seed in seeds]
            how = f"`--regrow {method}`" if method in DYNAMIC else f"`--criterion {method}`"
            rows.append((how, f"{100 * sparsity:.0f} %", spread(errors), each(errors), published(of, method, sparsity)))
    for of, kind, sparsity, seeds in LOTTERY:
        if of == network:
            errors = [100 - load(f"{of}-lottery-{kind}-{sparsity}-seed{seed}")["accuracy_after"] for seed in seeds]
            what = "lottery ticket" if kind == "start" else "the same masks, drawn anew"
            rows.append((what, f"{100 * sparsity:.0f} %", spread(errors), each(errors), ""))
    return table(("method", "removed", "test error, %", "seeds", "published"), rows)


def each(errors: list[float]) -> str:
    """Every seed."""
    return " ".join(f"{error:.2f}" for error in errors)
