"""The extension that holds a graph: bounds, damage, and readers that do not know it."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from deepcompress.coding.bits import varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import encode_plain
from deepcompress.container import graph as library
from deepcompress.container.breakdown import breakdown
from deepcompress.container.entries import Extension
from deepcompress.container.extensions import known
from deepcompress.container.graph import graph_in, has_graph, pack_graph
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import CheckpointError, FormatError

GRAPH = b"a graph of nodes, nodes, nodes and nodes"


def deflated(data):
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def file_with(*extensions):
    tensor = encode_plain(np.arange(6, dtype=np.float32), DType.FLOAT32)
    return pack([("w", tensor)], extensions=extensions)


def test_a_graph_comes_back():
    (extension,) = pack_graph(GRAPH)
    assert (extension.name, extension.required) == ("onnx", False)
    assert extension.data == varint(len(GRAPH)) + deflated(GRAPH)
    assert graph_in([Extension("other", b""), extension]) == GRAPH
    assert has_graph([extension])
    assert pack_graph(b"") == ()
    assert graph_in([]) == b""
    assert not has_graph([Extension("other", b"")])


def test_it_is_a_section_of_the_breakdown():
    raw = file_with(*pack_graph(GRAPH))
    with ModelFile(raw) as file:
        found = breakdown(file.header, "m.dc", len(raw))
        assert known(file.header) == pack_graph(GRAPH)
        assert file.read("w")[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.sections["graph"] == len(pack_graph(GRAPH)[0].data)
    assert sum(found.sections.values()) == len(raw)


def test_a_graph_that_is_too_large_to_store(monkeypatch):
    monkeypatch.setattr(library, "LARGEST", 39)
    with pytest.raises(CheckpointError, match="takes 40 bytes without its tensors; at most 39 can be stored"):
        pack_graph(GRAPH)
    good = Extension("onnx", varint(len(GRAPH)) + deflated(GRAPH))
    with pytest.raises(FormatError, match="length of the graph is 40, but at most 39 is allowed"):
        graph_in([good])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "length of the graph needs 1 bytes"),
        (varint(40), "does not have the length that is announced"),
        (varint(40) + deflated(GRAPH)[:-1], "does not have the length that is announced"),
        (varint(40) + deflated(GRAPH) + b"\0", "does not have the length that is announced"),
        (varint(39) + deflated(GRAPH), "does not have the length that is announced"),
        (varint(41) + deflated(GRAPH), "does not have the length that is announced"),
        (varint(0) + deflated(b""), "does not have the length that is announced"),
        (varint(40) + b"\xff" * 20, "cannot be inflated"),
        (varint(1 << 40) + deflated(GRAPH), "at most 67108864 is allowed"),
    ],
)
def test_a_damaged_graph(data, said):
    with pytest.raises(FormatError, match=said):
        graph_in([Extension("onnx", data)])
    with ModelFile(file_with(Extension("onnx", data))) as file:  # whoever reads tensors does not look at it
        assert len(file.read("w")[0]) == 6


def test_two_graphs():
    (one,) = pack_graph(GRAPH)
    with pytest.raises(FormatError, match="extension 'onnx' is there twice"):
        graph_in([one, replace(one)])


def test_a_graph_that_would_take_too_much_memory_is_not_inflated():
    (bomb,) = pack_graph(bytes(1 << 20))
    assert len(bomb.data) < 2000
    with pytest.raises(FormatError, match=r"more than the 1,000,000 allowed; .* raise max_bytes \(--max-bytes\)"):
        graph_in([bomb], 1_000_000)
    assert len(graph_in([bomb], 128 << 20)) == 1 << 20
