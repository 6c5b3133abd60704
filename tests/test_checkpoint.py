"""Dense checkpoints: every form that is understood, and every one that is refused."""

from __future__ import annotations

import io
import pickle
import random
from collections import OrderedDict

import pytest
import torch
from torch import nn

from deepcompress.checkpoint import STATE_KEYS, Checkpoint, check_ending, load_checkpoint, save_checkpoint
from deepcompress.errors import CheckpointError, DeepCompressError, OutputError
from deepcompress.networks.lenet import LeNet300100

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, -1.0]), "n": torch.tensor(7)}


def same(state, other=STATE):
    assert list(state) == list(other)
    for name, value in state.items():
        assert value.dtype is other[name].dtype
        assert torch.equal(value, other[name])
        assert not value.requires_grad
    return True


def saved(tmp_path, content, name="x.pt", **how):
    path = tmp_path / name
    torch.save(content, path, **how)
    return path


@pytest.mark.parametrize(
    "content", [STATE, OrderedDict(STATE), {k: nn.Parameter(v, v.is_floating_point()) for k, v in STATE.items()}]
)
def test_plain_state_dict(tmp_path, content):
    found = load_checkpoint(saved(tmp_path, content))
    assert same(found.state)
    assert (found.network, found.data, found.facts) == (None, None, {})


def test_the_old_format_of_torch(tmp_path):
    assert same(load_checkpoint(saved(tmp_path, STATE, _use_new_zipfile_serialization=False)).state)


@pytest.mark.parametrize("key", STATE_KEYS)
def test_wrapped(tmp_path, key):
    content = {"epoch": 3, key: STATE, "lr": 0.5, "note": "hi", "network": "lenet5", "data": "mnist", "optimizer": {}}
    found = load_checkpoint(saved(tmp_path, content))
    assert same(found.state)
    assert (found.network, found.data) == ("lenet5", "mnist")
    assert found.facts == {"epoch": 3, "lr": 0.5, "note": "hi"}


def test_a_tensor_called_model_is_no_wrapper(tmp_path):
    assert list(load_checkpoint(saved(tmp_path, {"model": torch.ones(2)})).state) == ["model"]


def test_prefix_of_data_parallel(tmp_path):
    path = saved(tmp_path, {"state_dict": {f"module.{name}": value for name, value in STATE.items()}})
    assert same(load_checkpoint(path).state)
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(load_checkpoint(saved(tmp_path, mixed)).state) == ["module.a", "b"]


@pytest.mark.parametrize("content", [LeNet300100(), {"model": LeNet300100()}], ids=["module", "wrapped"])
def test_a_pickled_module_is_refused_unless_trusted(tmp_path, content):
    path = saved(tmp_path, content)
    with pytest.raises(CheckpointError, match=r"holds a pickled Python object.*--trust-pickle") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    found = load_checkpoint(path, trust_pickle=True)
    assert {name: value.shape for name, value in found.state.items()} == {
        name: value.shape for name, value in LeNet300100().state_dict().items()
    }


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_code_in_a_pickle_does_not_run(tmp_path, how):
    witness = tmp_path / "ran"
    path = saved(tmp_path, {"state_dict": STATE, "hook": Evil(str(witness))}, **how)
    with pytest.raises(CheckpointError, match="could run any code"):
        load_checkpoint(path)
    assert not witness.exists()


def test_a_trusted_pickle_whose_class_is_gone(tmp_path):
    path = saved(tmp_path, LeNet300100())
    raw = path.read_bytes().replace(b"LeNet300100", b"LeNet300199")
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"not a readable PyTorch checkpoint"):
        load_checkpoint(path, trust_pickle=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds a list, not a state_dict"),
        (torch.ones(3), "holds a Tensor, not a state_dict"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"a": torch.ones(1), "b": 3}, "entry 'b' is a int, not a tensor"),
        ({5: torch.ones(1)}, "entry 5 is a Tensor, not a tensor: not a state_dict"),
        ({"a": torch.ones(2, 2).to_sparse()}, "tensor a is sparse, nested or quantized"),
    ],
)
def test_what_is_not_a_state_dict(tmp_path, content, reason):
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(saved(tmp_path, content))
    assert str(tmp_path / "x.pt") in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no checkpoint at all",
        b"PK\x03\x04 and then nothing",
        b"\x80\x02.",
        pickle.dumps({"a": 1}, 2)[:-3],
    ],
)
def test_garbage(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x.pt: not a readable PyTorch checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    path = path.rename(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"not a valid .safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("new", [True, False])
def test_any_damage_is_one_clear_error_or_none(tmp_path, new):
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE}, buffer, _use_new_zipfile_serialization=new)
    good = buffer.getvalue()
    chance = random.Random(0)
    path = tmp_path / "x.pt"
    refused = 0
    for _ in range(300):
        bad = bytearray(good[: chance.choice([len(good), chance.randint(1, len(good))])])
        for _ in range(chance.randint(1, 8)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        path.write_bytes(bad)
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 150


def test_missing_file_and_folder(tmp_path):
    for suffix in (".pt", ".safetensors"):
        with pytest.raises(CheckpointError, match=r"no such file"):
            load_checkpoint(tmp_path / f"missing{suffix}")
    with pytest.raises(CheckpointError, match=r"not a regular file"):
        load_checkpoint(tmp_path)


def test_pt_round_trip(tmp_path):
    checkpoint = Checkpoint(STATE, "lenet5", "digits", {"epochs": 3, "test_error": 0.5, "command": "train"})
    save_checkpoint(tmp_path / "x.pt", checkpoint)
    found = load_checkpoint(tmp_path / "x.pt")
    assert same(found.state)
    assert (found.network, found.data, found.facts) == ("lenet5", "digits", checkpoint.facts)
    assert isinstance(torch.load(tmp_path / "x.pt", weights_only=True)["state_dict"], dict)


def test_safetensors_round_trip_says_facts_in_text(tmp_path):
    tied = torch.randn(3, 4).t()
    state = {"a": tied, "b": tied, **STATE}
    save_checkpoint(tmp_path / "x.safetensors", Checkpoint(state, "lenet5", "digits", {"epochs": 3}))
    found = load_checkpoint(tmp_path / "x.safetensors")
    assert same(dict(sorted(found.state.items())), dict(sorted(state.items())))
    assert (found.network, found.data, found.facts) == ("lenet5", "digits", {"epochs": "3"})


def test_safetensors_without_metadata(tmp_path):
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "x.safetensors")
    found = load_checkpoint(tmp_path / "x.safetensors")
    assert same(dict(sorted(found.state.items())), dict(sorted(STATE.items())))
    assert (found.network, found.data, found.facts) == (None, None, {})


@pytest.mark.parametrize("name", ["x.onnx", "x", "x.dc"])
def test_other_endings(tmp_path, name):
    for refuse in (lambda path: save_checkpoint(path, Checkpoint(STATE)), check_ending):
        with pytest.raises(CheckpointError, match=r"unknown ending .*; write .pt or .safetensors"):
            refuse(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_folder_that_is_not_there(tmp_path, suffix):
    with pytest.raises(OutputError, match="does not exist") as caught:
        save_checkpoint(tmp_path / "no" / f"x{suffix}", Checkpoint(STATE))
    assert isinstance(caught.value, DeepCompressError)
