"""`deepcompress plot`: the pictures of a file, whatever the file, and one line for what cannot be drawn."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import fail, from_json, succeed

from deepcompress.coding.encoder import encode_coded, encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container import entries as header
from deepcompress.container.writer import pack
from deepcompress.recipe import Recipe
from deepcompress.report import plots

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dense(tmp_path):
    """A checkpoint of two layers."""
    torch.manual_seed(0)
    w = torch.randn(40, 30)
    state = {"fc1.weight": w, "fc1.bias": torch.randn(40), "fc2.weight": torch.randn(20, 40), "tied.weight": w}
    torch.save(state, tmp_path / "dense.pt")
    return state


@pytest.fixture
def packed(tmp_path, dense):
    compress_state(dense, Recipe(prune=0.8, bits=4, retrain=False), tmp_path / "m.dc")
    return tmp_path / "m.dc"


@pytest.fixture
def drawn(monkeypatch):
    """The layers of each weights.png, which is not drawn."""
    calls = []
    monkeypatch.setattr(plots, "draw_weights", lambda layers, path, **_: calls.append(list(layers)))
    monkeypatch.setattr(plots, "draw_bytes", lambda *_, **__: None)
    return calls


def write(path, *tensors):
    path.write_bytes(pack(tensors, "", ""))
    return path


def coded(values, dtype=DType.FLOAT32):
    array = np.array(values, dtype=dtype.storage)
    return encode_coded(array, dtype, np.unique(array[array != 0]))


def test_two_pictures_in_a_folder_named_after_the_file(packed, tmp_path):
    assert succeed("plot", packed).stdout.splitlines() == ["m-plots/bytes.png", "m-plots/weights.png"]
    folder = tmp_path / "m-plots"
    assert sorted(path.name for path in folder.iterdir()) == ["bytes.png", "weights.png"]
    assert all(path.read_bytes().startswith(PNG) for path in folder.iterdir())


def test_json_and_the_same_bytes_again(packed, tmp_path):
    for folder in ("one", "deep/two"):
        names = [f"{folder}/bytes.png", f"{folder}/weights.png"]
        assert from_json("plot", packed, "-o", folder) == {"file": str(packed), "pictures": names}
    for name in ("bytes.png", "weights.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "deep" / "two" / name).read_bytes()


def test_dense_weights_behind(packed, dense, drawn):
    succeed("plot", packed, "--before", "dense.pt")
    (layers,) = drawn
    assert [layer.name for layer in layers] == ["fc1.weight", "fc2.weight"]  # neither the bias nor the alias
    for layer in layers:
        assert np.array_equal(layer.before, dense[layer.name].ravel().numpy())
        assert 0 < layer.counts.sum() < dense[layer.name].numel()
        assert len(layer.codebook) <= 16


def test_large_layers_are_sampled_alike_before_and_after(packed, dense, drawn, monkeypatch):
    monkeypatch.setattr(plots, "MOST_WEIGHTS", 300)
    succeed("plot", packed, "--before", "dense.pt", "--layer", "fc1")
    ((layer,),) = drawn
    assert layer.every == 4
    assert np.array_equal(layer.before, dense["fc1.weight"].ravel()[::4].numpy())


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["fc2"], ["fc2.weight"]), (["*.weight"], ["fc1.weight", "fc2.weight"]),
        (["fc2.weight", "fc1"], ["fc1.weight", "fc2.weight"]), (["fc?", "fc1"], ["fc1.weight", "fc2.weight"]),
    ],
)  # fmt: skip
def test_layers_by_pattern_in_the_order_of_the_file(packed, drawn, patterns, names):
    succeed("plot", packed, *(part for pattern in patterns for part in ("--layer", pattern)))
    assert [layer.name for layer in drawn[0]] == names


def test_of_many_layers_the_eight_largest(tmp_path, drawn):
    rows = [1 + (7 * i) % 60 for i in range(60)]
    tensors = [(f"l{i}.weight", coded(np.ones((rows[i], 40)))) for i in range(60)]
    path = write(tmp_path / "deep.dc", *tensors)
    succeed("plot", path)
    assert [layer.name for layer in drawn[0]] == [f"l{i}.weight" for i in range(60) if rows[i] > 52]
    assert "60 layers; a picture has room for 24" in fail("plot", path, "--layer", "*")


def test_sixty_layers_are_drawn(tmp_path):
    path = write(tmp_path / "deep.dc", *((f"l{i}.weight", coded(np.eye(20))) for i in range(60)))
    succeed("plot", path)
    assert (tmp_path / "deep-plots" / "weights.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_half_precision(tmp_path, drawn, dtype):
    bits = {DType.FLOAT16: (0x3C00, 0xC000), DType.BFLOAT16: (0x3F80, 0xC000)}[dtype]  # 1 and -2
    values = np.zeros(400, np.uint16)
    values[::10], values[5] = bits
    stored = encode_coded(values.view(dtype.storage), dtype, np.array(bits, np.uint16).view(dtype.storage))
    torch_dtype = {DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}[dtype]
    torch.save({"w": torch.full((400,), 0.5, dtype=torch_dtype)}, "dense.pt")
    succeed("plot", write(tmp_path / "m.dc", ("w", stored)), "--before", "dense.pt")
    ((layer,),) = drawn
    assert dict(zip(layer.codebook.tolist(), layer.counts.tolist(), strict=True)) == {1.0: 40, -2.0: 1}
    assert layer.before.dtype == np.float32
    assert set(layer.before.tolist()) == {0.5}


def test_odd_layers_and_a_name_that_could_be_a_formula(tmp_path):
    tensors = [
        (r"$\frac{1}{0}$[bold]_x^2", coded(np.eye(30))),
        ("_层" * 80, coded(np.full((30, 30), 0.25))),  # everything kept, one value
        ("nan", coded(np.where(np.eye(30) > 0, np.nan, 0))),
        ("empty", coded(np.zeros((30, 30)))),
    ]
    succeed("plot", write(tmp_path / "$a$ b.dc", *tensors))
    assert (tmp_path / "$a$ b-plots" / "weights.png").read_bytes().startswith(PNG)


def test_control_characters_in_a_name_never_reach_the_picture(tmp_path, monkeypatch):
    with monkeypatch.context() as careless:
        careless.setattr(header, "check_printable", lambda *_: None)
        path = write(tmp_path / "m.dc", ("a\x1b[31m", coded(np.eye(30))))
    assert "cannot be printed" in fail("plot", path)
    assert not (tmp_path / "m-plots").exists()


def test_a_file_without_coded_layers_has_its_bytes_drawn(tmp_path):
    path = write(tmp_path / "m.dc", ("bias", encode_plain(np.ones(5, np.float32), DType.FLOAT32)))
    result = succeed("plot", path)
    assert result.stdout == "m-plots/bytes.png\n"
    assert result.stderr == f"{path}: no tensor is coded, so there are no weights to draw\n"
    quiet = succeed("plot", path, "-q", "--json")
    assert json.loads(quiet.stdout)["pictures"] == ["m-plots/bytes.png"]
    assert quiet.stderr == ""
    assert "--layer 'bias' matches no coded layer" in fail("plot", path, "--layer", "bias")


def test_what_cannot_be_drawn_is_one_line_and_makes_no_folder(packed, tmp_path, dense):
    assert "no such file" in fail("plot", "none.dc")
    assert "does not start with" in fail("plot", "dense.pt")
    assert "--layer 'conv*' matches no coded layer" in fail("plot", packed, "--layer", "fc1", "--layer", "conv*")
    assert "needs a pattern" in fail("plot", packed, "--layer", "", code=2)
    assert "--max-bytes" in fail("plot", packed, "--max-bytes", "10")
    assert "no such file" in fail("plot", packed, "--before", "none.pt")
    torch.save({"fc1.weight": dense["fc1.weight"]}, "part.pt")
    assert "part.pt: has no tensor fc2.weight" in fail("plot", packed, "--before", "part.pt")
    torch.save(dense | {"fc2.weight": torch.zeros(40, 20)}, "other.pt")
    assert "fc2.weight has shape (40, 20), not (20, 40)" in fail("plot", packed, "--before", "other.pt")
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    assert "--trust-pickle" in fail("plot", packed, "--before", "module.pt")
    damaged = bytearray(packed.read_bytes())
    damaged[-20] ^= 1
    (tmp_path / "bad.dc").write_bytes(damaged)
    assert "damaged" in fail("plot", "bad.dc")
    assert not list(tmp_path.glob("*-plots"))


def test_a_folder_that_cannot_be_made_or_written(packed, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make the folder file/plots" in fail("plot", packed, "-o", "file/plots")
    assert "cannot write into file: it is not a folder" in fail("plot", packed, "-o", "file")
    (tmp_path / "taken" / "bytes.png").mkdir(parents=True)
    assert "it is a folder" in fail("plot", packed, "-o", "taken")


def test_without_a_checkpoint_no_torch_is_loaded(packed):
    code = (
        "import sys; from deepcompress.cli import main; sys.argv = ['deepcompress', 'plot', sys.argv[1], '-q']\n"
        "try: main()\n"
        "finally: print(*sorted({'torch', 'matplotlib', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, packed], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1] == "matplotlib"
