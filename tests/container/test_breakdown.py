import json

import numpy as np
import pytest
from crafting import header_of, shared_weights

from deepcompress.coding.encoder import alias, encode_coded, encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.container import breakdown as breakdown_module
from deepcompress.container.breakdown import PARTS, breakdown, dense_bytes, inspect
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError


@pytest.fixture
def facts(small_file, save):
    return inspect(save(small_file))


def by_name(facts):
    return {layer.name: layer for layer in facts.layers}


def test_the_sections_are_the_whole_file(facts, small_file):
    assert list(facts.sections) == ["header", *PARTS, "checksum"]
    assert sum(facts.sections.values()) == facts.file_bytes == len(small_file)
    assert facts.sections["header"] == header_of(small_file).size
    assert facts.sections["checksum"] == 4


def test_the_parts_of_each_layer_are_its_section(facts):
    for layer in facts.layers:
        assert sum(layer.parts.values()) == layer.bytes
    for part in PARTS:
        assert facts.sections[part] == sum(layer.parts.get(part, 0) for layer in facts.layers)
    assert facts.sections["codebooks"] == 4 * 4  # once, though two layers use it


def test_the_whole(facts, small_file):
    assert (facts.format_version, facts.network, facts.data) == (1, "net", "digits")
    # Floats count as fp32, integers at their own width, and the tied tensor once.
    assert facts.dense_bytes == 4 * (300 + 12 + 144 + 81 + 3) + 8
    assert facts.ratio == facts.stages["encode"] == facts.dense_bytes / len(small_file)
    assert facts.weights == 300 + 144 + 81
    coded = [layer for layer in facts.layers if layer.kind == "coded"]
    assert facts.nonzeros == sum(layer.nonzeros for layer in coded)


def test_kinds_and_coders(facts, small_tensors):
    assert [(layer.name, layer.kind) for layer in facts.layers] == [
        ("conv.weight", "coded"),
        ("conv.bias", "planes"),
        ("fc.weight", "coded"),
        ("fc.tied", "alias"),
        ("literal", "coded"),
        ("half", "raw"),
        ("steps", "raw"),
        ("none", "raw"),
    ]
    layers = by_name(facts)
    assert layers["fc.tied"].coder == "same as fc.weight"
    assert (layers["fc.tied"].bytes, layers["fc.tied"].dense_bytes) == (0, 0)
    assert layers["literal"].coder.split("+")[0] == "literal"
    assert (layers["half"].coder, layers["half"].dtype) == ("raw", "bfloat16")
    assert (layers["half"].parts, layers["none"].parts) == ({"biases": 6}, {"weights": 0})
    assert (layers["none"].density, layers["none"].bits_per_weight, layers["none"].coded_bits) == (0, 0, 0)
    for name, values, dtype, _ in small_tensors:
        assert (layers[name].shape, layers[name].weights) == (values.shape, values.size)
        if layers[name].kind == "coded":
            nonzeros = int(np.count_nonzero(values))
            assert (layers[name].nonzeros, layers[name].density) == (nonzeros, nonzeros / values.size)
            assert layers[name].dense_bytes == 4 * values.size
        assert layers[name].dtype == dtype.name.lower()


def test_a_layer_by_hand(save):
    values = np.zeros(32, dtype=np.float32)
    values[[6, 13, 27]] = [3.0, 0.5, 3.0]
    book = np.array([0.5, 3.0], dtype=np.float32)
    facts = inspect(save(pack([("w", encode_coded(values, DType.FLOAT32, book, "fixed"))])))
    layer = facts.layers[0]
    assert (layer.bits, layer.index_bits, layer.fillers, layer.nonzeros, layer.density) == (1, 3, 1, 3, 3 / 32)
    assert (layer.coder, layer.bytes, layer.bits_per_weight) == ("fixed", 11, 8 * 11 / 32)
    assert layer.parts == {"weights": 1, "offsets": 2, "codebooks": 8, "tables": 0}
    assert (layer.coded_bits, layer.coded_index_bits) == (8 / 3, 16 / 3)
    # Stage 1: 3 values of 32 bits, 4 offsets of 3. Stage 2: 3 indices of 1 bit, 4 offsets of 3, and the codebook.
    assert (layer.dense_bytes, layer.pruned_bytes, layer.shared_bytes) == (128, 14, 2 + 8)
    overhead = facts.sections["header"] + 4
    assert facts.stages == {
        "prune": 128 / (overhead + 14),
        "quantize": 128 / (overhead + 10),
        "encode": 128 / (overhead + 11),
    }


def test_a_layer_without_offsets(save):
    values = shared_weights((64, 64), 1.0, [1, 2, 3])
    values[0, :9] = 0
    encoded = encode_coded(values, DType.FLOAT32, np.array([1, 2, 3], dtype=np.float32))
    layer = inspect(save(pack([("w", encoded)]))).layers[0]
    assert (layer.index_bits, layer.fillers, layer.coded_index_bits, layer.bits) == (0, 0, 0, 2)
    assert layer.shared_bytes == 64 * 64 * 2 // 8 + 12
    assert layer.pruned_bytes == layer.dense_bytes == 4 * 64 * 64


def test_the_stages_shrink_a_pruned_network(save):
    tensors = []
    for number, shape in enumerate([(300, 784), (100, 300)]):
        values = shared_weights(shape, 0.08, np.linspace(-0.2, 0.3, 32) ** 3, seed=number)
        book = np.unique(values[values != 0])
        tensors.append((f"fc{number}.weight", encode_coded(values, DType.FLOAT32, book)))
    stages = inspect(save(pack(tensors))).stages
    assert list(stages) == ["prune", "quantize", "encode"]
    assert 8 < stages["prune"] < stages["quantize"] < stages["encode"]


def test_only_the_header_of_a_large_file_is_read(small_file, save, monkeypatch):
    start = header_of(small_file).size
    path = save(small_file[:start] + bytes(len(small_file) - start))
    with pytest.raises(FormatError, match=r"model.dc: the file's checksum does not match: it is damaged"):
        inspect(path)
    monkeypatch.setattr(breakdown_module, "VERIFIED_UP_TO", len(small_file) - 1)
    assert inspect(path) == breakdown(header_of(small_file), str(path), len(small_file))
    with pytest.raises(FormatError, match=r"describes a file of .* cut short"):
        inspect(save(small_file[:-1]))
    with pytest.raises(FormatError, match="no such file"):
        inspect(path.with_name("other.dc"))


def test_an_empty_file(save):
    facts = inspect(save(pack([])))
    assert (facts.file_bytes, facts.dense_bytes, facts.ratio, facts.layers) == (17, 0, 0, [])
    assert sum(facts.sections.values()) == 17


def test_dense_bytes():
    float16, int64 = np.zeros(10, np.float16), np.zeros(10, np.int64)
    tensors = [
        encode_plain(float16, DType.FLOAT16),
        encode_plain(int64, DType.INT64),
        alias(int64.shape, DType.INT64, 1),
    ]
    assert dense_bytes(encoded.info for encoded in tensors) == 40 + 80


def test_it_is_plain_data(facts):
    plain = json.loads(json.dumps(facts.as_dict()))
    assert plain["sections"] == facts.sections
    assert [layer["name"] for layer in plain["layers"]] == [layer.name for layer in facts.layers]
    assert plain["layers"][0]["shape"] == [6, 2, 5, 5]
    keys = {"name", "shape", "weights", "nonzeros", "density", "bits", "index_bits", "coder", "bytes"}
    assert keys | {"bits_per_weight", "fillers"} <= plain["layers"][0].keys()
