"""Writes results/README.md: README.in.md with the tables put in, from the .json and .dc files of reproduce.py.

python results/report.py
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reproduce import ABLATIONS, FEW_VALUES, OPTIONS, PAPER_RECIPES, RESULTS, SEEDS, SIZES, entries, pruners, studies

from deepcompress import recode
from deepcompress.container.breakdown import Breakdown, LayerBreakdown, inspect

README = RESULTS / "README.md"
PUBLISHED = tomllib.loads((RESULTS / "published.toml").read_text(encoding="utf-8"))

Row = Sequence[str]


def load(name: str) -> dict[str, Any]:
    """What the command of an experiment printed."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def errors(entry: dict[str, Any]) -> tuple[float, float]:
    """Test error in percent of the dense network, and of the one reloaded from the file."""
    return 100 - entry["accuracy_before"], 100 - entry["accuracy_after"]


# Tables ------------------------------------------------------------------------------------------------------


def table(head: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown; the first column is left-aligned, the others right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


ENTRY_COLUMNS = ("", "dense error", "error", "bytes", "ratio", "weights kept", "seconds")


def summary(recipes: Iterable[str]) -> str:
    """A row for each seed of each recipe, below the row of the paper."""
    rows: list[Row] = []
    for recipe in recipes:
        network = recipe.rpartition("-")[0]
        paper = PUBLISHED[network]
        if recipe.endswith("han2016"):
            rows.append((
                f"{network}: Han 2016", f"{paper['reference_error']:.2f} %", f"{paper['error']:.2f} %",
                f"{paper['kb']} KB", f"{paper['ratio']}×", "", "",
            ))  # fmt: skip
        rows += [entry_row(f"{recipe}-seed{seed}") for seed in SEEDS]
    return table(ENTRY_COLUMNS, rows)


def entry_row(name: str) -> Row:
    """One shipped file."""
    entry, found = load(name), inspect(RESULTS / f"{name}.dc")
    before, after = errors(entry)
    return (
        f"[{name}]({name}.dc)",
        f"{before:.2f} %",
        f"{after:.2f} %",
        f"{found.file_bytes:,}",
        f"{found.ratio:.1f}×",
        f"{100 * found.nonzeros / found.weights:.1f} %",
        f"{sum(stage['seconds'] for stage in entry['stages']):.0f}",
    )


def plain_table(names: Iterable[str]) -> str:
    """A row for each shipped file."""
    return table(ENTRY_COLUMNS, map(entry_row, names))


LAYER_COLUMNS = (
    "layer", "weights", "kept", "bits P+Q", "P+Q+H", "index bits P+Q", "P+Q+H", "fillers", "rate P+Q", "rate P+Q+H",
)  # fmt: skip


def layers(recipe: str, network: str) -> str:
    """Tables 2 and 3 of the paper: a row for each layer of seed 0, and below it that of the paper."""
    found = inspect(RESULTS / f"{recipe}-seed0.dc")
    rows: list[Row] = []
    for layer in found.layers:
        if layer.kind == "coded":
            rows += [layer_row(layer), paper_row(network, layer.name.removesuffix(".weight"))]
    rows += [total_row(found), paper_row(network, "total")]
    return table(LAYER_COLUMNS, rows)


def layer_row(layer: LayerBreakdown) -> Row:
    """A layer as it is in the file; rates are bytes over dense fp32 bytes."""
    return (
        f"**{layer.name.removesuffix('.weight')}**",
        f"{layer.weights:,}",
        f"{100 * layer.density:.1f} %",
        f"{layer.bits}",
        f"{layer.coded_bits:.2f}",
        f"{layer.index_bits}",
        f"{layer.coded_index_bits:.2f}",
        f"{layer.fillers:,}",
        f"{100 * layer.shared_bytes / layer.dense_bytes:.2f} %",
        f"{100 * layer.bytes / layer.dense_bytes:.2f} %",
    )


def paper_row(network: str, layer: str) -> Row:
    """The same layer as the paper has it."""
    kept, bits, coded, index, coded_index, rate, coded_rate = PUBLISHED[network]["layers"][layer]
    figures = (f"{kept} %", f"{bits}", f"{coded}", f"{index}", f"{coded_index}", "", f"{rate} %", f"{coded_rate} %")
    return ("Han 2016", "", *figures)


def total_row(found: Breakdown) -> Row:
    """The whole file, biases, tables and header included; bits are averages over the surviving weights."""
    coded = [layer for layer in found.layers if layer.kind == "coded"]
    kept = sum(layer.nonzeros for layer in coded)

    def mean(attribute: str) -> float:
        return sum(layer.nonzeros * getattr(layer, attribute) for layer in coded) / kept

    return (
        "**whole file**",
        f"{found.weights:,}",
        f"{100 * found.nonzeros / found.weights:.1f} %",
        f"{mean('bits'):.1f}",
        f"{mean('coded_bits'):.2f}",
        f"{mean('index_bits'):.1f}",
        f"{mean('coded_index_bits'):.2f}",
        f"{sum(layer.fillers for layer in coded):,}",
        f"{100 / found.stages['quantize']:.2f} %",
        f"{100 / found.ratio:.2f} %",
    )


def options_table() -> str:
    """What each option of the training loop does to LeNet-300-100, over the seeds."""
    rows = []
    for option, settings in OPTIONS.items():
        points = load(f"studies/option-{option}")["rows"]
        bytes_, val, test = ([row[key] for row in points] for key in ("file_bytes", "val_error", "test_error"))
        rows.append((
            f"`{settings}`" if settings else "the recipe as it is",
            " ".join(f"{error:.2f}" for error in val),
            " ".join(f"{error:.2f}" for error in test),
            f"{sum(test) / len(test):.2f} %",
            f"{sum(bytes_) / len(bytes_):,.0f}",
        ))  # fmt: skip
    head = ("option", "validation error, % (seeds 0 1 2)", "test error, %", "mean test error", "mean bytes")
    return table(head, rows)


def sizes_table() -> str:
    """Every seed of every size, and below each network what is published."""
    rows: list[Row] = []
    for record in PUBLISHED["records"]:
        network = record["network"]
        for name, (_, _, seeds) in SIZES.items():
            if name.startswith(network):
                rows += [entry_row(f"{name}-seed{seed}") for seed in seeds]
        rows += [
            (f"{network}: {method}", "", f"{error:.2f} %", f"{kb} KB", "", "", "")
            for method, kb, error in record["points"]
        ]
    return table(ENTRY_COLUMNS, rows)


ROUNDED = RESULTS.parent / "benchmarks" / "real" / "measured"


def spotter_table() -> str:
    """The keyword spotter's files, and below them what benchmarks/real measured of whole numbers and brotli."""
    rows = [entry_row(f"{name}-seed{seed}") for name in SIZES if name.startswith("ds-cnn") for seed in SIZES[name][2]]
    for network in ("ds-cnn-xs", "ds-cnn"):
        rows += [
            (f"{network}: {setting}", "", f"{error:.2f} %", f"{size:,}", "", "", "")
            for setting, size, error in whole_numbers(network)
        ]
    return table(ENTRY_COLUMNS, rows)


def whole_numbers(network: str) -> list[tuple[str, int, float]]:
    """Weights as whole numbers, then brotli, as the benchmark of real networks measured them: name, bytes, error."""
    points = json.loads((ROUNDED / f"{network}.json").read_text(encoding="utf-8"))["points"]
    return [
        (f"{point['setting']} + brotli", point["size"], 100 - point["metrics"]["accuracy %"])
        for point in points
        if point["way"] == "int-N + brotli"
    ]


EQUAL_ERROR = 2.0  # percent, on validation data


def ablation_table() -> str:
    """What the error becomes when one thing is changed, at each of the sizes, and the bytes at an equal error."""
    rows = []
    for change, settings in ABLATIONS.items():
        small, large = load(f"studies/ablation-{change}")["rows"]
        cells = [cell for row in (small, large) for cell in (f"{row['file_bytes']:,}", f"{row['val_error']:.2f}")]
        rows.append(
            (f"`{settings}`" if settings else "the recipe as it is", *cells, bytes_at(EQUAL_ERROR, small, large))
        )
    return table(("change", *["bytes", "validation error, %"] * 2, f"bytes at {EQUAL_ERROR:.0f} %"), rows)


def bytes_at(error: float, small: dict[str, Any], large: dict[str, Any]) -> str:
    """Bytes at a validation error between those of two points: logarithm of bytes against error."""
    if small["val_error"] <= error:
        return f"below {small['file_bytes']:,}"
    if large["val_error"] >= error:
        return f"above {large['file_bytes']:,}"
    part = (small["val_error"] - error) / (small["val_error"] - large["val_error"])
    return f"{small['file_bytes'] * (large['file_bytes'] / small['file_bytes']) ** part:,.0f}"


def coder_table() -> str:
    """The same tensors by both coders, exactly."""
    rows = []
    for name in entries():
        found = inspect(RESULTS / f"{name}.dc")
        if found.format_version == 1:
            continue
        with tempfile.TemporaryDirectory() as folder:
            again = recode(RESULTS / f"{name}.dc", Path(folder) / "again.dc", coder="huffman").file_bytes
        rows.append((name, f"{found.file_bytes:,}", f"{again:,}", f"{100 * (again / found.file_bytes - 1):+.0f} %"))
    return table(("", "context mixing", "Huffman", ""), rows)


def sources() -> str:
    """Every command."""
    blocks = []
    for name, commands in (entries() | studies() | pruners()).items():
        blocks.append("\n".join([f"# {name}", *(f"deepcompress {command}" for command in commands)]))
    return "```bash\n" + "\n".join(blocks) + "\n```"


def versions() -> str:
    """The versions that made the files: those of each that differ are all named."""
    found: dict[str, set[str]] = {}
    for name in entries():
        for package, version in load(name)["versions"].items():
            found.setdefault(package, set()).add(version)
    return ", ".join(f"{package} {' and '.join(sorted(known))}" for package, known in found.items())


# The document ------------------------------------------------------------------------------------------------


def readme() -> str:
    """The text of README.md."""
    template = (RESULTS / "README.in.md").read_text(encoding="utf-8")
    parts = {
        "SUMMARY": lambda: summary(PAPER_RECIPES),
        "DEFAULTS": lambda: plain_table(("lenet-300-100-mnist", "lenet5-mnist", "lenet5-digits")),
        "TABLE2": lambda: layers("lenet-300-100-han2016", "lenet-300-100"),
        "TABLE3": lambda: layers("lenet5-han2016", "lenet5"),
        "FEW": lambda: plain_table(
            f"{recipe}-seed{seed}" for recipe, (_, seeds) in FEW_VALUES.items() for seed in seeds
        ),
        "RESNET": lambda: plain_table(name for name in entries() if name.startswith("resnet20")),
        "SIZES": sizes_table,
        "SPOTTER": spotter_table,
        "ABLATION": ablation_table,
        "CODERS": coder_table,
        "OPTIONS": options_table,
        "COMMANDS": sources,
        "VERSIONS": versions,
    }
    for mark, make in parts.items():
        template = template.replace(f"<!-- {mark} -->", make())
    return template


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
