"""A network's graph as the extension ``onnx`` of a file: the bytes of an ONNX model without its tensors, deflated.

What is in the graph is not looked at here. Only whoever runs the network or exports it needs to understand it.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepcompress.coding.bits import Reader, varint
from deepcompress.container import deflate
from deepcompress.container.entries import Extension
from deepcompress.errors import CheckpointError, FormatError

NAME = "onnx"
LARGEST = 1 << 26  # bytes of a graph, inflated
_PARSED = 128  # bytes that a byte of a graph takes when it is parsed, at most


def pack_graph(graph: bytes) -> tuple[Extension, ...]:
    """What a header says of a graph: nothing where there is none.

    Raises:
        CheckpointError: it is larger than `LARGEST`.
    """
    if not graph:
        return ()
    if len(graph) > LARGEST:
        raise CheckpointError(
            f"the graph takes {len(graph):,} bytes without its tensors; at most {LARGEST:,} can be stored"
        )
    return (Extension(NAME, varint(len(graph)) + deflate.by_zlib(graph)),)


def has_graph(extensions: Sequence[Extension]) -> bool:
    """Whether a header holds a graph."""
    return any(extension.name == NAME for extension in extensions)


def graph_in(extensions: Sequence[Extension], max_bytes: int | None = None) -> bytes:
    """The inverse of `pack_graph`; empty where there is none.

    Args:
        extensions: of a header.
        max_bytes: that whoever is going to parse the graph allows; it can take 128 times its own then.

    Raises:
        FormatError: it is damaged, there twice, or too large.
    """
    found = [extension.data for extension in extensions if extension.name == NAME]
    if not found:
        return b""
    if len(found) > 1:
        raise FormatError(f"header: extension {NAME!r} is there twice")
    reader = Reader(memoryview(found[0]), "graph")
    size = reader.varint("length of the graph", limit=LARGEST)
    if max_bytes is not None and size * _PARSED > max_bytes:
        raise FormatError(
            f"the graph has {size:,} bytes, which can take {size * _PARSED:,} in memory, more than the {max_bytes:,} "
            "allowed; if you trust the file, raise max_bytes (--max-bytes)"
        )
    if not size:
        raise FormatError("the graph does not have the length that is announced: it is damaged")
    return deflate.expand(bytes(reader.take(len(reader), "graph")), size, "graph", dictionary=b"")
