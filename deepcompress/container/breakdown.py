"""Where the bytes of a .dc file are, from its header."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepcompress.coding.codebooks import Form
from deepcompress.coding.offsets import MAX_BITS
from deepcompress.coding.streams import Coder, fixed_width
from deepcompress.coding.tensors import Encoding, TensorInfo
from deepcompress.container.entries import CRC_BYTES, Entry, Header
from deepcompress.container.normalize import normalize_in
from deepcompress.container.reader import ModelFile

#: What a section holds, in the order in which tables show it. Together with ``header`` and ``checksum``
#: these parts are the whole file.
PARTS = ("weights", "offsets", "codebooks", "tables", "biases")


#: Files up to this size are read whole to be verified, which takes some hundredths of a second.
VERIFIED_UP_TO = 64 << 20


@dataclass(frozen=True)
class LayerBreakdown:
    """One tensor: `weights`, `nonzeros`, `fillers` are counts, `bytes` that of its section, in `parts`.

    `bits` and `index_bits` are widths before entropy coding: of a weight's codebook index (or of the value
    itself where it is not shared) and of an offset (0: no offsets). `coded_bits` and `coded_index_bits` are the
    means per surviving weight in the file. `pruned_bytes` and `shared_bytes` are what the tensor would take after
    stage 1 (values and offsets at fixed width) and stage 2 (indices and offsets at fixed width, codebook). Where
    positions and values are one stream (coders ``ans`` and ``rans``), `coded_bits` is that of both. `book` is the
    codebook's form.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    weights: int
    nonzeros: int
    density: float
    bits: int
    index_bits: int
    coded_bits: float
    coded_index_bits: float
    coder: str
    fillers: int
    dense_bytes: int
    pruned_bytes: int
    shared_bytes: int
    bytes: int
    bits_per_weight: float
    book: str
    parts: dict[str, int]


@dataclass(frozen=True)
class Breakdown:
    """A whole file. `sections` are bytes by name and sum to `file_bytes`; `ratio` is dense fp32 over file bytes.

    `source_bytes` counts the dense tensors in the types that the file gives them, and `source_ratio` is that over file
    bytes. `normalize` is how inputs are normalized, where the file says it (docs/format.md).
    """

    file: str
    file_bytes: int
    dense_bytes: int
    ratio: float
    format_version: int
    network: str
    data: str
    weights: int
    nonzeros: int
    stages: dict[str, float]
    sections: dict[str, int]
    layers: list[LayerBreakdown]
    normalize: str = ""
    source_bytes: int | None = None
    source_ratio: float | None = None

    @property
    def smaller(self) -> str:
        """How much smaller the file is, in words."""
        return smaller(self.file_bytes, self.dense_bytes, self.source_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def inspect(path: str | Path) -> Breakdown:
    """The breakdown of the file at `path`.

    A file of up to `VERIFIED_UP_TO` bytes is also held against its checksum; of a larger one only the header is read.

    Raises:
        FormatError: the file is missing or damaged.
    """
    with ModelFile(path) as file:
        if file.file_bytes <= VERIFIED_UP_TO:
            file.check_crc()
        return breakdown(file.header, str(path), file.file_bytes)


def smaller(file_bytes: int, dense_bytes: int, source_bytes: int | None) -> str:
    """How much smaller a file is, in words: than the tensors in fp32, and than they were given, where that differs."""
    line = f"{dense_bytes / file_bytes:.2f}× smaller"
    if source_bytes in (None, dense_bytes):
        return line
    return f"{line} than fp32, {source_bytes / file_bytes:.2f}× smaller than what was given"


def dense_bytes(infos: Iterable[TensorInfo]) -> int:
    """Bytes of the dense network: 4 for a floating-point element (fp32), others at their own width; tied ones once."""
    return sum(
        info.size * (4 if info.dtype.is_float else info.dtype.storage.itemsize)
        for info in infos
        if info.encoding is not Encoding.ALIAS
    )


def source_bytes(infos: Iterable[TensorInfo]) -> int:
    """Bytes of the dense network in the types of its tensors; tied ones once."""
    return sum(info.nbytes for info in infos if info.encoding is not Encoding.ALIAS)


def breakdown(header: Header, file: str, file_bytes: int) -> Breakdown:
    """The breakdown of a file with this header."""
    layers = [_layer(entry, header) for entry in header.entries]
    dense = dense_bytes(entry.info for entry in header.entries)
    source = source_bytes(entry.info for entry in header.entries)
    sections = {"header": header.size}
    sections |= {part: sum(layer.parts.get(part, 0) for layer in layers) for part in PARTS}
    sections["checksum"] = CRC_BYTES
    overhead = header.size + CRC_BYTES
    coded = [layer for layer in layers if layer.kind == "coded"]
    return Breakdown(
        file=file,
        file_bytes=file_bytes,
        dense_bytes=dense,
        ratio=dense / file_bytes,
        format_version=header.version,
        network=header.network,
        data=header.data,
        weights=sum(layer.weights for layer in coded),
        nonzeros=sum(layer.nonzeros for layer in coded),
        stages={
            "prune": dense / (overhead + sum(layer.pruned_bytes for layer in layers)),
            "quantize": dense / (overhead + sum(layer.shared_bytes for layer in layers)),
            "encode": dense / file_bytes,
        },
        sections=sections,
        layers=layers,
        normalize=normalize_in(header.extensions),
        source_bytes=source,
        source_ratio=source / file_bytes,
    )


def _layer(entry: Entry, header: Header) -> LayerBreakdown:
    info = entry.info
    coded = info.encoding is Encoding.CODED
    itembits = 8 * info.dtype.storage.itemsize
    nonzeros = info.nonzeros if coded else info.size
    shared = coded and info.weight_coder is not Coder.LITERAL
    bits = fixed_width(_book_size(info)) if shared else itembits
    pruned, quantized = _stage_bytes(info, bits, itembits)
    per_nonzero = 8 / nonzeros if nonzeros else 0.0
    return LayerBreakdown(
        name=entry.name,
        shape=info.shape,
        dtype=info.dtype.name.lower(),
        kind=info.encoding.name.lower(),
        weights=info.size,
        nonzeros=nonzeros,
        density=nonzeros / info.size if info.size else 0.0,
        bits=bits,
        index_bits=info.offset_bits,
        coded_bits=info.weights * per_nonzero,
        coded_index_bits=info.offsets * per_nonzero,
        coder=_coder_name(info, header),
        fillers=info.fillers,
        dense_bytes=0 if info.encoding is Encoding.ALIAS else dense_bytes([info]),
        pruned_bytes=pruned,
        shared_bytes=quantized,
        bytes=info.section,
        bits_per_weight=8 * info.section / info.size if info.size else 0.0,
        book=info.form.name.lower() if shared and info.target is None else "",
        parts=_parts(info),
    )


def _book_size(info: TensorInfo) -> int:
    """How many values an index can stand for."""
    if info.form is Form.ROWS:
        return info.grid[1] - info.grid[0] + 1
    return info.codebook_size if info.is_mixed else info.alphabet


def _coder_name(info: TensorInfo, header: Header) -> str:
    if info.is_reference and info.target is not None:
        what = "same as" if info.encoding is Encoding.ALIAS else "copy of"
        return f"{what} {header.entries[info.target].name}"
    if info.encoding is not Encoding.CODED:
        return info.encoding.name.lower()
    if not info.offset_bits or info.offset_coder is info.weight_coder:
        return info.weight_coder.name.lower()
    return f"{info.weight_coder.name.lower()}+{info.offset_coder.name.lower()}"


def _parts(info: TensorInfo) -> dict[str, int]:
    if info.encoding is Encoding.CODED:
        return {"weights": info.weights, "offsets": info.offsets, "codebooks": info.codebook, "tables": info.tables}
    return {"weights" if len(info.shape) > 1 else "biases": info.weights}


def _stage_bytes(info: TensorInfo, bits: int, itembits: int) -> tuple[int, int]:
    """Bytes after stage 1 and after stage 2, all streams at the fixed widths of this file and none larger than raw.

    Positions of a tensor without offsets are counted as a bit for each element, or as what offsets would need at most.
    """
    if info.encoding is not Encoding.CODED:
        return info.section, info.section
    positions = (info.nonzeros + info.fillers) * info.offset_bits if info.offset_bits else info.size
    if info.is_mixed:
        positions = _most_position_bits(info)
    pruned = min(-(-(info.nonzeros * itembits + positions) // 8), info.nbytes)
    apart = info.offset_bits > 0 or info.is_mixed
    entries = info.nonzeros * bits + positions if apart else info.size * bits
    return pruned, min(-(-entries // 8) + info.codebook, info.nbytes)


def _most_position_bits(info: TensorInfo) -> int:
    """Bits of the positions of a tensor without offsets: the best width, with as many fillers as can be, or a mask."""
    widths = range(1, MAX_BITS + 1)
    return min(info.size, *((info.nonzeros + info.size // ((1 << bits) - 1)) * bits for bits in widths))
