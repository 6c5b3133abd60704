"""Single tensors of a file, and how little of it is read for them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import deepcompress
from deepcompress.coding.encoder import encode_coded, encode_plain
from deepcompress.coding.layouts.exact import Raw
from deepcompress.coding.tensors import DType, TensorInfo
from deepcompress.container.breakdown import inspect
from deepcompress.container.entries import Entry, Header
from deepcompress.container.format import pack_header
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError
from deepcompress.reading.loader import load_state_dict
from deepcompress.reading.tensorfile import TensorFile

BOOK = np.array([-0.5, 0.25, 1.0], dtype=np.float32)


def shared(shape, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.2, rng.choice(BOOK, shape), np.float32(0))


@pytest.fixture
def path(tmp_path):
    tensors = [
        ("conv.weight", encode_coded(shared((8, 4, 3, 3), 0), DType.FLOAT32, BOOK)),
        ("fc.weight", encode_coded(shared((40, 30), 1), DType.FLOAT32, BOOK, target=0)),
        ("fc.bias", encode_plain(np.arange(30, dtype=np.float32), DType.FLOAT32)),
        ("half", encode_plain(np.array([0x3F80, 0x8000], dtype="<u2"), DType.BFLOAT16)),
        ("steps", encode_plain(np.array(7), DType.INT64)),
    ]
    (tmp_path / "m.dc").write_bytes(pack(tensors, "net", "digits"))
    return tmp_path / "m.dc"


def damage(path, name):
    with ModelFile(path) as file:
        entry = file.entry(name)
    raw = bytearray(path.read_bytes())
    raw[entry.start + entry.info.section - 1] ^= 0x40
    path.write_bytes(raw)


def test_it_is_a_mapping_of_what_loading_gives(path):
    state = load_state_dict(path)
    with deepcompress.open(path) as file:
        assert isinstance(file, TensorFile)
        assert list(file) == list(file.keys()) == list(state)
        assert len(file) == 5
        assert "fc.bias" in file
        assert "fc" not in file
        assert file.get("fc") is None
        for name, value in file.items():
            assert value.dtype == state[name].dtype
            assert torch.equal(value, state[name])
        with pytest.raises(KeyError, match="nothing"):
            _ = file["nothing"]


def test_facts_come_from_the_header(path):
    file = deepcompress.open(str(path))
    file.close()
    assert (file.network, file.data) == ("net", "digits")
    assert file.info("conv.weight").shape == (8, 4, 3, 3)
    assert file.info("half").dtype is DType.BFLOAT16
    assert file.info("steps") == TensorInfo((), DType.INT64, Raw())
    with pytest.raises(KeyError, match="nothing"):
        file.info("nothing")
    with pytest.raises(ValueError, match="closed file"):
        _ = file["steps"]


def test_tensors_go_to_the_device(path):
    with deepcompress.open(path, device="meta") as file:
        assert file["fc.weight"].device.type == "meta"
        assert file["fc.weight"].shape == (40, 30)


def test_damage_concerns_the_tensors_that_need_the_section(path):
    state = load_state_dict(path)
    damage(path, "fc.weight")
    with deepcompress.open(path) as file:
        assert all(torch.equal(file[name], state[name]) for name in file if name != "fc.weight")
        with pytest.raises(FormatError, match=r"m.dc: tensor fc.weight: the checksum of its section does not match"):
            _ = file["fc.weight"]
    damage(path, "fc.weight")  # and it is whole again
    damage(path, "conv.weight")  # which holds the codebook of both
    with deepcompress.open(path) as file:
        assert all(torch.equal(file[name], state[name]) for name in file if "weight" not in name)
        for name in ("conv.weight", "fc.weight"):
            with pytest.raises(FormatError, match=f"m.dc: tensor {name}: the checksum of its section does not match"):
                _ = file[name]


def test_a_damaged_header_is_not_opened(path):
    raw = bytearray(path.read_bytes())
    raw[20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"m.dc: the header's checksum does not match"):
        deepcompress.open(path)


def test_a_tensor_beyond_the_limit(path):
    with deepcompress.open(path, max_bytes=4799) as file:
        assert file["fc.bias"].shape == (30,)
        with pytest.raises(
            FormatError, match=r"tensor fc.weight: it would take 4800 bytes, more than the 4799 allowed"
        ):
            _ = file["fc.weight"]


def test_a_file_that_is_cut_while_it_is_open(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 1 << 18, dtype=np.uint8)
    path = tmp_path / "m.dc"
    path.write_bytes(pack([("noise", encode_plain(noise, DType.UINT8))]))
    with deepcompress.open(path) as file:
        os.truncate(path, 1000)  # which would kill a process that had mapped it
        with pytest.raises(FormatError, match="tensor noise: the checksum of its section does not match"):
            _ = file["noise"]


def test_threads_may_share_it(path):
    state = load_state_dict(path)
    with deepcompress.open(path) as file, ThreadPoolExecutor(8) as pool:
        names = list(file) * 50
        for name, value in zip(names, pool.map(file.__getitem__, names), strict=True):
            assert torch.equal(value, state[name])


# How much is read ------------------------------------------------------------------------------------------


class Counting(io.FileIO):
    """A file that counts the bytes read from it."""

    total = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        Counting.total += count
        return count

    def read(self, size=-1):
        data = super().read(size)
        Counting.total += len(data)
        return data


@pytest.fixture
def counting(monkeypatch):
    """How many bytes were read from files that the reader opened since the last call."""

    def taken():
        total, Counting.total = Counting.total, 0
        return total

    monkeypatch.setattr(
        "deepcompress.container.reader.open", lambda p, _: io.BufferedReader(Counting(p)), raising=False
    )
    taken()
    return taken


@pytest.fixture
def gigabyte(tmp_path):
    """A file of 1 GB that takes little space on the disk: its largest section is a hole, and does not fit its CRC."""
    bias = encode_plain(np.arange(1000, dtype=np.float32), DType.FLOAT32)
    hole = TensorInfo((1 << 28,), DType.FLOAT32, Raw())
    entries = (Entry("hole", hole, crc=1), Entry("bias", bias.info, crc=zlib.crc32(bias.section)))
    start = pack_header(Header("", "", entries))
    path = tmp_path / "large.dc"
    with path.open("wb") as file:
        file.write(start)
        file.seek(1 << 30, os.SEEK_CUR)
        file.write(bias.section + bytes(4))
    return path


def test_opening_listing_and_one_tensor_of_a_gigabyte_read_kilobytes(gigabyte, counting):
    assert gigabyte.stat().st_size > 1 << 30
    with deepcompress.open(gigabyte) as file:
        assert list(file) == ["hole", "bias"]
        assert file.info("hole").nbytes == 1 << 30
        assert 0 < counting() <= 64 << 10
        assert file["bias"].tolist() == list(range(1000))
        assert file.info("bias").section <= counting() <= 64 << 10


def test_inspecting_a_gigabyte_reads_kilobytes(gigabyte, counting):
    facts = inspect(gigabyte)
    assert facts.layers[0].bytes == 1 << 30
    assert 0 < counting() <= 64 << 10


def test_inspecting_a_small_file_reads_all_of_it(path, counting):
    inspect(path)
    assert counting() >= path.stat().st_size


def test_torch_is_imported_for_the_first_tensor(path):
    code = """
import json, sys, deepcompress
with deepcompress.open(sys.argv[1]) as file:
    seen = [sorted(file), file.info("steps").shape, "torch" in sys.modules]
    print(json.dumps([*seen, file["steps"].item()]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == [["conv.weight", "fc.bias", "fc.weight", "half", "steps"], [], False, 7]
