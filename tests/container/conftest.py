import numpy as np
import pytest
from crafting import shared_weights

from deepcompress.coding.encoder import alias, encode_coded, encode_plain
from deepcompress.coding.tensors import DType, Encoding
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack


@pytest.fixture
def small_tensors():
    """One small tensor of every kind: (name, values, dtype, encoded), in the order of the file."""
    book = np.array([-1.5, -0.25, 0.25, 2.0], dtype=np.float32)
    conv = shared_weights((6, 2, 5, 5), 0.1, book)
    dense = shared_weights((12, 12), 0.9, book, seed=1)
    literal = np.zeros((9, 9), dtype="<f2")
    literal[2, 3], literal[8, 0] = 1.5, -0.125
    bias = np.full(12, 0.5, dtype=np.float32)
    bias[3] = -1
    half = np.array([0x3F80, 0x8000, 0x7FC1], dtype="<u2")
    coded = [
        ("conv.weight", conv, DType.FLOAT32, encode_coded(conv, DType.FLOAT32, book)),
        ("conv.bias", bias, DType.FLOAT32, encode_plain(bias, DType.FLOAT32)),
        ("fc.weight", dense, DType.FLOAT32, encode_coded(dense, DType.FLOAT32, book, target=0)),
        ("fc.tied", dense, DType.FLOAT32, alias(dense.shape, DType.FLOAT32, 2)),
        ("literal", literal, DType.FLOAT16, encode_coded(literal, DType.FLOAT16, None)),
        ("half", half, DType.BFLOAT16, encode_plain(half, DType.BFLOAT16)),
        ("steps", np.array(3), DType.INT64, encode_plain(np.array(3), DType.INT64)),
        ("none", np.zeros((0, 4), np.int8), DType.INT8, encode_plain(np.zeros((0, 4)), DType.INT8)),
    ]
    encodings = [encoded.info.encoding for *_, encoded in coded]
    assert encodings[:5] == [Encoding.CODED, Encoding.PLANES, Encoding.CODED, Encoding.ALIAS, Encoding.CODED]
    return coded


@pytest.fixture
def small_file(small_tensors):
    """The bytes of a small file that has everything the format has, but lanes."""
    return pack([(name, encoded) for name, _, _, encoded in small_tensors], "net", "digits")


@pytest.fixture
def save(tmp_path):
    """Writes bytes to a file and gives its path."""

    def write(data):
        path = tmp_path / "model.dc"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def load():
    """Everything that a reader does with the bytes of a file: name -> (bytes, shape, dtype)."""

    def read(data, max_bytes=1 << 24):
        with ModelFile(data) as file:
            file.check(max_bytes)
            out = {}
            for name in file:
                values, dtype = file.read(name)
                out[name] = (values.tobytes(), values.shape, dtype)
            return out

    return read
