"""What is in a file, and how it runs, as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from deepcompress.coding.encoder import FEW, SMALL
from deepcompress.report.tables import UNLIMITED, fitting, grid, percent, size

if TYPE_CHECKING:
    from deepcompress.container.breakdown import Breakdown, LayerBreakdown
    from deepcompress.sparse.bench import Bench, Row

#: What decoding takes, about, with numba (benchmarks/rans.py): by the adaptive coder for each element, and in addition
#: for each that is not zero; by the rANS coder for each element.
ANS_SECONDS, RANS_SECONDS = (1.0e-7, 1.75e-7), 1.0e-8

#: The columns of `layers_table`, as in `fitting`.
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
    return fitting(LAYER_COLUMNS, [_layer_row(layer) for layer in breakdown.layers], width)


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
    return "\n".join([*lines, *_decoding_notes(coded)])


def _decoding_notes(coded: list[LayerBreakdown]) -> list[str]:
    """What the adaptive coder costs when the file is loaded, where it codes a tensor, and what there is to save."""
    mixed = [layer for layer in coded if layer.coder == "ans"]
    if not mixed:
        return []
    large = [layer for layer in mixed if layer.weights > SMALL or layer.bytes > FEW]
    saved = sum(map(_ans_seconds, large)) - sum(RANS_SECONDS * layer.weights for layer in large)
    advice = f"; deepcompress recode --coder rans makes that {saved:.2g} s less" if large else ""
    return [f"Decoding: coder ans takes about {sum(map(_ans_seconds, mixed)):.2g} s on one core{advice}."]


def _ans_seconds(layer: LayerBreakdown) -> float:
    return ANS_SECONDS[0] * layer.weights + ANS_SECONDS[1] * layer.nonzeros


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
    given = ""
    if breakdown.source_bytes not in (None, breakdown.dense_bytes):
        given = f", {breakdown.source_ratio:.2f}× smaller than {size(breakdown.source_bytes or 0)} in its own types"
    stages = " → ".join(f"{name} {ratio:.2f}×" for name, ratio in breakdown.stages.items())
    return (
        f"{breakdown.file}: {size(breakdown.file_bytes)} bytes, {breakdown.ratio:.2f}× smaller than "
        f"{size(breakdown.dense_bytes)} bytes of dense fp32{given}\n"
        f"format {breakdown.format_version}, network {breakdown.network or 'not named'}, data "
        f"{breakdown.data or 'not named'}{normalized}\n"
        f"{kept:.2f} % of {size(breakdown.weights)} weights kept\n"
        f"after each stage, with the offset widths of this file: {stages}"
    )


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
    return fitting(columns, [_bench_row(row, compressed) for row in rows], width)


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
