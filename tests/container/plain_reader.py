"""The reader of readers/python, which shares no code with the package, as tests and the fuzz target compare with it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "readers" / "python"))
import deepcompress_reader


def read(data):
    """name -> (number of the dtype, shape, the bytes of the elements), and the open file beside them."""
    file = deepcompress_reader.open(data, max_bytes=1 << 32)
    tensors = file.tensors.items()
    return {name: (tensor.number, tensor.shape, file.bits(name).tobytes()) for name, tensor in tensors}, file
