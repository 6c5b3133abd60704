"""How scripts wrap weights: the state_dict is found, or all that there are are listed."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import pathlib

import cases
import numpy as np
import pytest
import torch
from torch import nn

from deepcompress.checkpoint import Checkpoint, load_checkpoint, open_checkpoint, save_checkpoint
from deepcompress.errors import CheckpointError

STATE = cases.small()
OTHER = {"head.weight": torch.ones(2, 3)}


def opened(tmp_path, content, **how):
    torch.save(content, tmp_path / "x.pt")
    return open_checkpoint(tmp_path / "x.pt", **how)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"params_ema": STATE}, "params_ema"),
        ({"a": {"b": {"c": STATE}}, "epoch": 3}, "a.b.c"),
        ({"state_dict": {"net": STATE}}, "state_dict.net"),
        ({"model": STATE, "rng_state": torch.zeros(9, dtype=torch.uint8), "loss": torch.ones(5)}, "model"),
        ({"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(4, 6)}}, "param_groups": []}}, "model"),
        ({"model": STATE, "optim": {"fc.weight": {"exp_avg": torch.ones(4, 6)}}}, "model"),
        ({"state_dict": STATE, "callbacks": {"best": {"best_model_score": torch.tensor(0.5)}}}, "state_dict"),
        ([{"net": STATE}, 3], "0.net"),
        ({"model": STATE, "same": STATE}, "model"),
        ({"model": STATE, "anchors": torch.ones(3, 2)}, "model"),
    ],
)
def test_the_one_state_dict_is_found(content, key, tmp_path):
    found = opened(tmp_path, content)
    assert cases.equal(dict(found.state), STATE)
    assert found.found.key == key


@pytest.mark.parametrize("name", ["ema", "params_ema", "generator"])
def test_of_several_one_is_named_and_all_are_listed(name, tmp_path):
    content = {"model": STATE, name: {"deep": OTHER}}
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, content)
    assert f"several state_dicts: model (2 tensors, 112 bytes), {name}.deep (1 tensors, 24 bytes)" in str(caught.value)
    assert "--key" in str(caught.value)
    assert cases.equal(dict(opened(tmp_path, content, key="model").state), STATE)
    for key in (name, f"{name}.deep"):
        assert cases.equal(dict(opened(tmp_path, content, key=key).state), OTHER)
    with pytest.raises(CheckpointError, match=r"no tensors under the key 'nothing'; there is model \(2 tensors"):
        opened(tmp_path, content, key="nothing")


def test_a_key_may_be_the_beginning_of_names(tmp_path):
    content = {f"{part}.{name}": value for part in ("student", "teacher") for name, value in STATE.items()}
    assert cases.equal(dict(opened(tmp_path, content, key="teacher").state), STATE)
    assert cases.equal(dict(opened(tmp_path, {"state_dict": content}, key="state_dict.student").state), STATE)


def test_what_stands_beside_tensors_is_left_out_and_said(tmp_path):
    content = {**STATE, "epoch": 3, "best": None, "args": argparse.Namespace(lr=0.1), "acc": np.float64(0.5)}
    found = opened(tmp_path, content)
    assert cases.equal(dict(found.state), STATE)
    assert found.found.left_out == ("epoch", "best", "args", "acc")
    assert "4 entries were left out: epoch, best, args, acc." in found.found.sentences()
    assert found.facts == {"epoch": 3, "acc": 0.5}


def test_arrays_of_numpy_are_tensors_too(tmp_path):
    found = opened(tmp_path, {"w": np.arange(6.0, dtype=">f8").reshape(2, 3)})
    assert torch.equal(found.state["w"], torch.arange(6.0, dtype=torch.float64).reshape(2, 3))


def test_a_dictionary_in_a_state_dict_is_part_of_its_names(tmp_path):
    found = opened(tmp_path, {"embed": torch.ones(2, 2), "layers": {"0": {"weight": torch.zeros(2, 2)}}})
    assert list(found.state) == ["embed", "layers.0.weight"]


class Loss(nn.Module):
    pass


def test_an_object_that_is_not_safe_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"pickled Python object \(.*Loss\).*--trust-pickle"):
        opened(tmp_path, {"model": STATE, "loss": Loss()})
    found = opened(tmp_path, {"model": STATE, "loss": Loss()}, trust_pickle=True)
    assert cases.equal(dict(found.state), STATE)


# Prefixes --------------------------------------------------------------------------------------------------


def under(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("content", "prefix"),
    [
        (under("module."), "module."),
        (under("_orig_mod."), "_orig_mod."),
        (under("module._orig_mod."), "module._orig_mod."),
        (under("_orig_mod.module."), "_orig_mod.module."),
        (under("module.module."), "module.module."),
        ({"n_averaged": torch.tensor(7), **under("module.")}, "module."),
        ({"n_averaged": torch.tensor(7), **under("module._orig_mod.")}, "module._orig_mod."),
        ({"fc._orig_mod.weight": STATE["fc.weight"], "fc.bias": STATE["fc.bias"]}, "_orig_mod."),
        ({"_fsdp_wrapped_module.fc._checkpoint_wrapped_module.weight": STATE["fc.weight"],
          "_fsdp_wrapped_module.fc.bias": STATE["fc.bias"]}, "_checkpoint_wrapped_module._fsdp_wrapped_module."),
    ],
)  # fmt: skip
def test_what_wrappers_of_torch_put_before_all_names_is_removed(content, prefix, tmp_path):
    found = opened(tmp_path, content)
    assert cases.equal(dict(found.state), STATE)
    assert found.found.prefix == prefix
    assert f"The prefix {prefix!r} was removed from the names." in found.found.news()


@pytest.mark.parametrize(
    "content",
    [
        under("model."),
        under("net.encoder."),
        {**under("module."), "head.weight": torch.ones(2, 2)},
        {"n_averaged": torch.tensor(7), **STATE},
    ],
)
def test_a_prefix_that_may_be_the_networks_own_stays(content, tmp_path):
    found = opened(tmp_path, content)
    assert cases.equal(dict(found.state), content)
    assert found.found.prefix == ""


def test_two_names_never_become_one(tmp_path):
    content = {"fc.weight": torch.ones(2, 2), "fc._orig_mod.weight": torch.zeros(2, 2)}
    assert cases.equal(dict(opened(tmp_path, content).state), content)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_what_this_tool_wrote_has_its_own_names(prefix, suffix, tmp_path):
    save_checkpoint(tmp_path / f"x{suffix}", Checkpoint(under(prefix), facts={"seed": 3}))
    found = load_checkpoint(tmp_path / f"x{suffix}")
    assert cases.equal(found.state, under(prefix))
    assert {key: str(value) for key, value in found.facts.items()} == {"seed": "3"}


# Tied tensors ----------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_a_tied_tensor_that_save_model_left_out_is_there_again(tmp_path):
    from safetensors.torch import save_model

    net = Tied()
    save_model(net, str(tmp_path / "x.safetensors"))
    found = open_checkpoint(tmp_path / "x.safetensors")
    assert cases.equal(dict(found.state), net.state_dict())
    assert len(found.state.tied) == 1
    loaded = load_checkpoint(tmp_path / "x.safetensors").state
    assert loaded["head.weight"].data_ptr() == loaded["embed.weight"].data_ptr()
    assert any("1 tensor is tied" in line for line in found.found.sentences())
    owners = {"embed.weight": "head.weight", "head.weight": "embed.weight"}
    (name,) = found.found.restored
    assert found.found.restored == {name: owners[name]}
    said = f"1 tensor was taken from another one, as the metadata says: {name} is {owners[name]}."
    assert found.found.news() == [said]
    assert opened(tmp_path, net.state_dict()).found.news() == []


def test_tied_tensors_of_a_pt_file_are_told(tmp_path):
    assert opened(tmp_path, Tied().state_dict()).found.tied == {"head.weight": "embed.weight"}


def test_a_dictionary_that_holds_itself_is_looked_at_once(tmp_path):
    content = {"model": STATE}
    content |= {str(number): content for number in range(20)}
    assert cases.equal(dict(opened(tmp_path, content).state), STATE)
    loop = {"w": torch.ones(2, 2)}
    loop["again"] = loop
    found = opened(tmp_path, loop)
    assert list(found.state) == ["w"]
    assert found.found.left_out == ("again",)


@pytest.mark.parametrize(
    "plain",
    [
        collections.defaultdict(list, {"a": [1]}),
        pathlib.PurePosixPath("runs/1"),
        pathlib.Path("runs/1"),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        {"lr": decimal.Decimal("0.1"), "betas": frozenset([1]), "part": slice(1, 2)},
        np.array(["a", "b"]),
        np.random.RandomState(0).get_state(),
        collections.deque([1.0], maxlen=9),
    ],
    ids=lambda plain: type(plain).__name__,
)
def test_plain_data_beside_the_tensors_is_no_code(plain, tmp_path):
    assert cases.equal(dict(opened(tmp_path, {"model": STATE, "extra": plain}).state), STATE)


def test_paths_of_another_system_and_numbers_of_an_older_numpy(tmp_path):
    content = {"model": STATE, "path": pathlib.PurePosixPath("x"), "acc": np.float64(0.5)}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "x.pt").read_bytes()
    raw = raw.replace(b"cpathlib\nPurePosixPath\n", b"cpathlib\nWindowsPath\n")
    (tmp_path / "x.pt").write_bytes(raw.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"WindowsPath" in raw
    assert cases.equal(dict(open_checkpoint(tmp_path / "x.pt").state), STATE)
