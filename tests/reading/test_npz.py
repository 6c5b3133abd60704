"""`export -o x.npz`: what numpy reads of it."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import deepcompress
from deepcompress.cli import main
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import encode_plain
from deepcompress.container.writer import pack
from deepcompress.errors import CheckpointError, OutputError
from deepcompress.reading.npz import export_npz, save_npz


def write(path, **arrays):
    path.write_bytes(pack([(name, encode_plain(value, DType.FLOAT32)) for name, value in arrays.items()]))
    return path


def test_numpy_reads_what_is_exported(tmp_path):
    # Names that are arguments of numpy.savez, and a scalar, an empty and a transposed array.
    arrays = {
        "file": np.ones(3, "<f4"),
        "allow_pickle": np.float32(2),
        "a.b/c": np.zeros((0, 2), "<f4"),
        "größe": np.eye(2, 3, dtype="<f4").T,
    }
    source = write(tmp_path / "m.dc", **arrays)
    assert export_npz(source, tmp_path / "x.npz") == 4
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert found.files == list(arrays)
        for name, value in arrays.items():
            np.testing.assert_array_equal(found[name], value, strict=True)
    first = (tmp_path / "x.npz").read_bytes()
    export_npz(source, tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == first


def test_two_names_that_numpy_takes_for_one(tmp_path):
    source = write(tmp_path / "m.dc", **{"a": np.ones(1, "<f4"), "a.npy": np.zeros(1, "<f4")})
    with pytest.raises(CheckpointError, match=r"numpy takes a and a\.npy for one"):
        export_npz(source, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_nothing_is_written_half_way(tmp_path):
    def arrays():
        yield np.ones(3)
        raise OSError(28, "No space left on device")

    (tmp_path / "x.npz").write_bytes(b"old")
    with pytest.raises(OutputError, match="No space left"):
        save_npz(tmp_path / "x.npz", ["a", "b"], arrays())
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    assert (tmp_path / "x.npz").read_bytes() == b"old"


def test_the_command(tmp_path):
    source = write(tmp_path / "m.dc", w=np.arange(6, dtype="<f4").reshape(2, 3))
    torch.save({"w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "c.pt")
    for file, expected in ((source, np.arange(6).reshape(2, 3)), (tmp_path / "c.pt", np.ones(2))):
        done = CliRunner().invoke(main, ["export", str(file), "-o", str(tmp_path / "x.npz"), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["tensors"] == 1
        np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["w"], expected.astype("<f4"), strict=True)
    assert deepcompress.load_state_dict(source, framework="numpy")["w"].shape == (2, 3)
