"""Writes results/pruners/README.md: its README.in.md with the tables put in, from what `compare` and `train` printed.

python results/pruning.py
"""

from __future__ import annotations

import statistics
from typing import Any

from report import PUBLISHED, load, table
from reproduce import DYNAMIC, FROM_THE_START, LOTTERY, METHODS, RESULTS, SHARED_OUT, SHARES, UNITS

PRUNERS = RESULTS / "pruners"
NETWORKS = {"lenet-300-100": ("LeNet-300-100", (0.95, 0.98)), "lenet5": ("LeNet-5", (0.98,))}


def spread(values: list[float]) -> str:
    """Mean, and deviation where there is more than one value."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def published(network: str, method: str, sparsity: float) -> str:
    """What a paper has for a method at a sparsity."""
    return ", ".join(
        f"{error} ({source})"
        for entry in PUBLISHED["pruning"]
        if entry["network"] == network
        for source, name, percent, error in entry["points"]
        if name == method and percent == 100 * sparsity
    )


def cell(found: dict[str, Any], criterion: str, sparsity: float, retrained: bool) -> str:
    """Test error over the seeds of one row of `compare`; a dash where it failed."""
    rows = [row for row in found["rows"] if row["criterion"] == criterion and row["prune"] in (sparsity, None)]
    errors = [row["test_error"] for row in rows if row["retrained"] == retrained and row["test_error"] is not None]
    return spread(errors) if errors else "–"


def retrained_table(network: str) -> str:
    """Trained networks, pruned in one cut and retrained, beside what is published at that sparsity."""
    _, sparsities = NETWORKS[network]
    found = load(f"pruners/{network}-retrained")
    rows = []
    for facts in found["criteria"]:
        criterion, cells = facts["criterion"], []
        for sparsity in sparsities:
            cells += [cell(found, criterion, sparsity, True), published(network, criterion, sparsity)]
        rows.append((f"`{criterion}`", *cells, f"{facts['spearman']:.2f}", f"{facts['scoring_seconds']:.2f}"))
    heads = [head for sparsity in sparsities for head in (f"{100 * sparsity:.0f} %, test error, %", "published")]
    return table(("criterion", *heads, "Spearman", "seconds"), rows)


def bare_table(network: str) -> str:
    """Trained networks, pruned and not retrained."""
    found = load(f"pruners/{network}-not-retrained")
    sparsities = sorted({row["prune"] for row in found["rows"] if row["prune"]})
    rows = [
        (f"`{criterion}`", *(cell(found, criterion, sparsity, False) for sparsity in sparsities))
        for criterion in (row["criterion"] for row in found["criteria"])
    ]
    return table(("criterion", *(f"{100 * sparsity:.0f} %" for sparsity in sparsities)), rows)


def units_table(network: str) -> str:
    """Whole neurons and filters, not retrained and retrained."""
    found = load(f"pruners/{network}-units")
    sparsities = sorted({row["prune"] for row in found["rows"] if row["prune"]})
    rows = []
    for criterion in UNITS.split(","):
        cells = [cell(found, criterion, at, False) + " → " + cell(found, criterion, at, True) for at in sparsities]
        rows.append((f"`{criterion}`", *cells))
    return table(("criterion", *(f"{100 * sparsity:.0f} %" for sparsity in sparsities)), rows)


def start_table(network: str) -> str:
    """Networks that were sparse from the start, and lottery tickets."""
    rows = []
    for of, method, sparsity, seeds in FROM_THE_START:
        if of == network:
            errors = [load(f"pruners/{network}-{method}-{sparsity}-seed{seed}")["error"] for seed in seeds]
            how = f"`--regrow {method}`" if method in DYNAMIC else f"`--criterion {method}`"
            rows.append((how, f"{100 * sparsity:.0f} %", spread(errors), each(errors), published(of, method, sparsity)))
    for of, kind, sparsity, seeds in LOTTERY:
        if of == network:
            errors = [
                100 - load(f"pruners/{of}-lottery-{kind}-{sparsity}-seed{seed}")["accuracy_after"] for seed in seeds
            ]
            what = "lottery ticket" if kind == "start" else "the same masks, drawn anew"
            rows.append((what, f"{100 * sparsity:.0f} %", spread(errors), each(errors), ""))
    return table(("method", "removed", "test error, %", "seeds", "published"), rows)


def methods_table(network: str) -> str:
    """Methods that prune, or share, while they train."""
    rows = []
    for of, name, settings, seeds in METHODS:
        if of == network:
            found = [load(f"pruners/{of}-{name}-seed{seed}") for seed in seeds]
            errors = [100 - run["accuracy_after"] for run in found]
            size = f"{max(run['file_bytes'] for run in found):,}"
            took = " ".join(f"{sum(stage['seconds'] for stage in run['stages']):.0f}" for run in found)
            rows.append((f"`{settings}`", spread(errors), each(errors), took, size, published(of, name, 0)))
    return table(("settings", "test error, %", "seeds", "seconds", "largest file, bytes", "published"), rows)


def shares_table(network: str) -> str:
    """A fraction shared out over the layers in several ways: before retraining, as the trials saw it, and after."""
    rows = []
    for of, sparsity, seeds, _ in SHARED_OUT:
        if of != network:
            continue
        runs = {
            share: [load(f"pruners/{network}-share-{share}-{sparsity}-seed{seed}") for seed in seeds]
            for share in SHARES
        }
        trials = [run["allocation"] for run in runs["amc"]]
        bare = {name: [-trial["others"][name] for trial in trials] for name in trials[0]["others"]}
        bare["amc"] = [-max(trial["rewards"]) for trial in trials]
        for share, found in runs.items():
            errors = [100 - run["accuracy_after"] for run in found]
            before = spread([100 * error for error in bare[share]]) if share in bare else ""
            kept = ", ".join(f"{100 * part:.3g}" for part in found[0]["kept"].values())
            rows.append((f"`{SHARES[share]}`", f"{100 * sparsity:.0f} %", before, spread(errors), each(errors), kept))
    heads = ("shared out by", "removed", "trial, %", "test error, %", "seeds", "kept in each layer, % (seed 0)")
    return table(heads, rows)


def second_table(network: str) -> str:
    """Criteria that correct the weights that stay, in one cut, beside magnitude."""
    found = load(f"pruners/{network}-second-order")
    rows = []
    for facts in found["criteria"]:
        errors = [
            row["test_error"] for row in found["rows"] if row["criterion"] == facts["criterion"] and not row["failure"]
        ]
        rows.append((f"`{facts['criterion']}`", spread(errors), each(errors)))
    return table(("criterion", "test error, %", "seeds"), rows)


def each(errors: list[float]) -> str:
    """Every seed."""
    return " ".join(f"{error:.2f}" for error in errors)


def readme() -> str:
    """The text of README.md."""
    text = (PRUNERS / "README.in.md").read_text(encoding="utf-8")
    makers = {"RETRAINED": retrained_table, "BARE": bare_table, "UNITS": units_table, "START": start_table}
    makers |= {"METHODS": methods_table, "SECOND": second_table, "SHARES": shares_table}
    for mark, make in makers.items():
        for network in (*NETWORKS, "resnet20"):
            if (place := f"<!-- {mark} {network} -->") in text:
                text = text.replace(place, make(network))
    return text


if __name__ == "__main__":
    (PRUNERS / "README.md").write_text(readme(), encoding="utf-8")
