"""Every kind of file and folder: read exactly, or refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import warnings
import zipfile

import cases
import numpy as np
import pytest
import torch
from torch import nn

from deepcompress.checkpoint import LazyTensors, load_checkpoint, open_checkpoint
from deepcompress.errors import CheckpointError

STATE = cases.small()


def refused(path, *words, **how):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **how)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert "weights_only" not in line
    for word in words:
        assert word in line
    return line


def test_the_tables_of_the_documentation_are_what_is_read():
    table = cases.tables()
    assert "✗" not in table
    text = cases.DOCS.read_text(encoding="utf-8")
    assert text == cases.written(text, table)


@pytest.mark.parametrize("write", cases.CONTAINERS.values(), ids=lambda write: write.__name__)
def test_all_is_in_memory_or_read_anew(write, tmp_path):
    path = write(STATE, tmp_path)
    assert cases.equal(load_checkpoint(path).state, STATE)
    opened = open_checkpoint(path)
    if isinstance(opened.state, LazyTensors):
        opened.state["fc.weight"].zero_()
        assert cases.equal(dict(opened.state), STATE)
    assert opened.found.bytes > 0
    assert opened.found.dtypes == {"float32": 2}


def test_records_that_were_compressed_again_are_no_weights_as_they_are(tmp_path):
    state = {"w": torch.zeros(300, 400), "b": torch.randn(9)}
    found = open_checkpoint(cases.deflated(state, tmp_path)).state
    assert cases.equal(found, state)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (cases.pt, "x.safetensors"),
        (cases.old_pt, "x.safetensors"),
        (cases.safetensors, "x.pt"),
        (cases.safetensors, "x.SFT"),
        (cases.safetensors, "noending"),
        (cases.safetensors, "X.SAFETENSORS"),
        (cases.gguf, "x.bin"),
        (cases.npz, "x.PT"),
        (cases.tar, "x.pth.tar"),
        (cases.torchscript, "x.ptl"),
    ],
)
def test_the_content_decides_and_not_the_ending(write, name, tmp_path):
    path = shutil.move(write(STATE, tmp_path), tmp_path / name)
    assert cases.equal(dict(open_checkpoint(path).state), STATE)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "pytorch_model.bin", "x.gguf"])
def test_a_pointer_of_git_lfs_is_called_one(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    refused(tmp_path / name, "git-lfs pointer", "git lfs pull")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"{}", "weight_map"),
        (b'{"weight_map": {}}', "holds no tensors"),
        (b'{"weight_map": {"a": "../x.bin"}}', "not beside it"),
        (b"{" * 4000, "weight_map"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(content, word, tmp_path):
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", word)


def test_other_archives_and_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme", "hello")
    refused(tmp_path / "x.zip", "zip archive and no checkpoint")
    np.save(tmp_path / "x.npy", np.ones(3))
    refused(tmp_path / "x.npy", "numpy.savez")


# Folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [cases.pt, cases.safetensors, cases.sharded, cases.sharded_bin, cases.diffusers])
def test_a_folder_is_its_one_set_of_weights(write, tmp_path):
    write(STATE, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    found = open_checkpoint(tmp_path)
    assert cases.equal(dict(found.state), STATE)
    assert found.found.container.startswith("a folder with ")


def test_a_folder_with_several_files_of_weights(tmp_path):
    cases.safetensors(STATE, tmp_path, "a.safetensors")
    cases.safetensors(STATE, tmp_path, "b.safetensors")
    refused(tmp_path, "several files of weights: a.safetensors, b.safetensors; name the one")
    cases.safetensors(STATE, tmp_path, "model.safetensors")
    assert cases.equal(dict(open_checkpoint(tmp_path).state), STATE)


def test_a_folder_without_weights(tmp_path):
    refused(tmp_path, "a folder without weights")


# torch.distributed.checkpoint ------------------------------------------------------------------------------


def test_a_tensor_in_chunks_over_several_files(tmp_path):
    """Two ranks' halves, as FSDP leaves them."""
    path = cases.distributed({"w": torch.arange(12.0).reshape(4, 3)}, tmp_path)
    with (path / ".metadata").open("rb") as stream:
        metadata = pickle.load(stream)
    place = next(index for index in metadata.storage_data if index.fqn == "w")
    kind = metadata.state_dict_metadata["w"]
    info = metadata.storage_data.pop(place)
    chunk = kind.chunks.pop()
    for number, rows in enumerate((torch.arange(6.0).reshape(2, 3), torch.arange(6.0, 12.0).reshape(2, 3))):
        torch.save(rows, path / f"__{number}_0.distcp")
        size = (path / f"__{number}_0.distcp").stat().st_size
        start = torch.Size([2 * number, 0])
        kind.chunks.append(type(chunk)(start, torch.Size([2, 3])))
        metadata.storage_data[type(place)("w", start, number)] = type(info)(f"__{number}_0.distcp", 0, size)
    with (path / ".metadata").open("wb") as stream:
        pickle.dump(metadata, stream)
    assert torch.equal(open_checkpoint(path).state["w"], torch.arange(12.0).reshape(4, 3))
    (path / "__1_0.distcp").unlink()
    refused(path, "__1_0.distcp", "not in it")


def test_the_optimizer_of_a_distributed_checkpoint_is_passed_over(tmp_path):
    state = {"model": STATE, "optim": {"state": {"fc": {"exp_avg": torch.ones(4, 6)}}, "param_groups": [{"lr": 0.1}]}}
    found = open_checkpoint(cases.distributed(state, tmp_path))
    assert cases.equal(dict(found.state), STATE)
    assert found.found.key == "model"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickles_beside_the_tensors_are_never_run(tmp_path):
    witness = tmp_path / "ran"
    path = cases.distributed(STATE, tmp_path)
    (path / ".metadata").write_bytes(pickle.dumps(Evil(str(witness))))
    refused(path, ".metadata")
    script = cases.torchscript(STATE, tmp_path)
    with zipfile.ZipFile(script) as source, zipfile.ZipFile(tmp_path / "evil.pt", "w") as to:
        for name in source.namelist():
            evil = name.endswith("data.pkl")
            to.writestr(name, pickle.dumps(Evil(str(witness)), 2) if evil else source.read(name))
    refused(tmp_path / "evil.pt", "holds no tensors")
    assert not witness.exists()


# TorchScript -----------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.a = nn.Linear(2, 3)
        self.b = nn.Linear(2, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(self.body(x).mean((2, 3)))


def test_a_scripted_module_has_the_names_of_the_network(tmp_path):
    net = Net().eval()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(net), tmp_path / "s.pt")
        torch.jit.save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "f.pt")
    found = open_checkpoint(tmp_path / "s.pt").state
    assert cases.equal(dict(found), net.state_dict())
    assert found.tied == {"b.weight": "a.weight"}
    refused(tmp_path / "f.pt", "frozen", "torch.jit.freeze")


# numpy and GGUF --------------------------------------------------------------------------------------------


def test_arrays_of_any_order_and_byte_order(tmp_path):
    w = np.arange(6.0, dtype=">f4").reshape(2, 3)
    np.savez(tmp_path / "x.npz", w=w, t=np.asfortranarray(w), n=np.array(3))
    found = open_checkpoint(tmp_path / "x.npz").state
    for name in ("w", "t"):
        assert torch.equal(found[name], torch.arange(6.0).reshape(2, 3))
    assert (found["n"].shape, found["n"].item()) == ((), 3)


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.array([None, 3]), "Python objects"),
        (np.array(["a"]), "<U1"),
        (np.zeros(2, np.longdouble), "float128"),
        (np.zeros(2, [("a", "f4")]), "torch does not have"),
    ],
)
def test_arrays_that_are_no_tensors(array, word, tmp_path):
    np.savez(tmp_path / "x.npz", bad=array)
    refused(tmp_path / "x.npz", "array bad", word)


def test_an_array_that_claims_more_than_there_is_is_never_allocated(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("w.npy", raw)
    refused(tmp_path / "x.npz", "array w has shape (1099511627776,)")


def test_quantized_blocks_stay_as_they_are(tmp_path):
    raw = bytes(range(2 * 34))
    path = cases.gguf_of([("q", 8, (2, 32), raw), ("w", 0, (2,), bytes(8))], tmp_path)
    found = open_checkpoint(path)
    assert found.state["q"].tolist() == [list(raw[:34]), list(raw[34:])]
    assert found.facts["general.architecture"] == "llama"
    assert "1 of whose tensors are quantized" in found.found.container


def test_gguf_against_its_own_library(tmp_path):
    library = pytest.importorskip("gguf")
    writer = library.GGUFWriter(tmp_path / "x.gguf", "llama")
    arrays = {"a.weight": np.random.rand(3, 64).astype(np.float32), "b": np.arange(5, dtype=np.float16)}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    blocks = library.quants.quantize(arrays["a.weight"], library.GGMLQuantizationType.Q4_0)
    writer.add_tensor("q", blocks, raw_dtype=library.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_checkpoint(tmp_path / "x.gguf").state
    for name, array in (arrays | {"q": blocks}).items():
        assert np.array_equal(found[name].numpy(), array), name


@pytest.mark.parametrize(
    ("build", "word"),
    [
        ({"parts": [("w", 0, (2,), bytes(8))], "version": 1}, "version 1"),
        ({"parts": [("w", 0, (2,), bytes(8))], "version": 3 << 24}, "big-endian"),
        ({"parts": [("w", 99, (2,), bytes(8))]}, "unknown type 99"),
        ({"parts": [("w", 8, (33,), bytes(34))]}, "whole blocks of 32"),
        ({"parts": [("w", 0, (1 << 40, 1 << 40), bytes(8))]}, "beyond its end"),
        ({"parts": [("w", 0, (1,) * 9, bytes(8))]}, "9 dimensions"),
        ({"parts": [("w", 0, (1,), bytes(4)), ("w", 0, (1,), bytes(4))]}, "two tensors of one name"),
        ({"parts": [("w", 0, (0, 1 << 60), b"")]}, "impossible shape"),
        ({"parts": []}, "no tensors"),
        ({"parts": [], "more": [struct.pack("<Q", 1 << 60)]}, "cut short"),
        ({"parts": [], "more": [struct.pack("<QcIIQ", 1, b"k", 9, 6, 1 << 62)]}, "cut short"),
    ],
)
def test_a_bad_gguf_is_one_line(build, word, tmp_path):
    refused(cases.gguf_of(**build, folder=tmp_path), word)


@pytest.mark.parametrize(
    "write",
    [cases.gguf, cases.npz_small, cases.tar, cases.torchscript, cases.deflated],
    ids=lambda write: write.__name__,
)
def test_any_damage_is_one_line_or_other_values(write, tmp_path):
    path = write(STATE, tmp_path)
    good = path.read_bytes()
    chance = np.random.default_rng(0)
    failed = 0
    for number in range(120):
        bad = bytearray(good if number % 3 else good[: chance.integers(1, len(good))])
        for place in chance.integers(0, len(bad), 4):
            bad[place] = chance.integers(256)
        path.write_bytes(bad)
        try:
            dict(open_checkpoint(path).state)
        except CheckpointError as error:
            failed += 1
            assert "\n" not in str(error)
    assert failed > 30


def test_damage_of_a_distributed_folder(tmp_path):
    path = cases.distributed(STATE, tmp_path)
    good = (path / ".metadata").read_bytes()
    chance = np.random.default_rng(0)
    failed = 0
    for _ in range(120):
        bad = bytearray(good)
        for place in chance.integers(0, len(bad), 3):
            bad[place] = chance.integers(256)
        (path / ".metadata").write_bytes(bad)
        try:
            dict(open_checkpoint(path).state)
        except CheckpointError as error:
            failed += 1
            assert "\n" not in str(error)
    assert failed > 30


def test_an_index_of_files_that_lack_a_tensor(tmp_path):
    path = cases.sharded_bin(STATE, tmp_path)
    index = json.loads(path.read_text())
    index["weight_map"]["more"] = "pytorch_model-0.bin"
    path.write_text(json.dumps(index))
    refused(path, "tensor more is not in pytorch_model-0.bin")


def test_a_pickle_of_tensors_without_torch_save(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(STATE))
    refused(tmp_path / "x.pkl", "a pickle that torch.save did not write")
