"""The command line as people and scripts meet it: results on stdout, one line for an error, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK, fail, from_json, run, succeed
from samples import CLASSES, SIDE, Mlp, blobs, network_and_data
from torch import nn

from deepcompress import __version__, load_state_dict
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.networks.lenet import LeNet300100

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained small network of a user's own with its data, compressed once."""
    folder = tmp_path_factory.mktemp("work")
    network, data = network_and_data(folder)
    options = ["--network", network, "--data", data]
    trained = from_json("train", network, "--data", data, "-o", folder / "dense.pt", "--epochs", "3", "--lr", "0.1")
    packed = from_json(
        "compress", folder / "dense.pt", *options, "-o", folder / "m.dc", "--prune", "0.5", "--bits", "4", *QUICK
    )
    return {"folder": folder, "options": options, "train": trained, "compress": packed}


@pytest.fixture
def dense(work):
    return work["folder"] / "dense.pt"


@pytest.fixture
def packed(work):
    return work["folder"] / "m.dc"


@pytest.fixture
def plain(tmp_path):
    """A state_dict that no known network has."""
    path = tmp_path / "plain.pt"
    torch.manual_seed(0)
    torch.save(Mlp().state_dict(), path)
    return path


# What scripts read -----------------------------------------------------------------------------------------


def test_json_of_train(work):
    found = work["train"]
    assert found["file"] == str(work["folder"] / "dense.pt")
    assert found["parameters"] == 6 * 9 + 6 + 54 * 20 + 20 + 20 * CLASSES + CLASSES
    assert found["error"] == pytest.approx(100 - found["accuracy"])
    assert (found["samples"], found["seed"], found["epochs"]) == (100, 0, 3)
    checkpoint = load_checkpoint(work["folder"] / "dense.pt")
    assert checkpoint.network is None  # code of the user is named by the user alone
    assert checkpoint.data == work["options"][3]
    assert checkpoint.facts["test_error"] == found["error"]


def test_json_of_compress(work, packed):
    found = work["compress"]
    assert {
        "file", "file_bytes", "dense_bytes", "ratio", "accuracy_before", "accuracy_after", "stages", "seed", "recipe",
    } <= set(found)  # fmt: skip
    assert found["file_bytes"] == packed.stat().st_size
    assert found["dense_bytes"] == 4 * work["train"]["parameters"]
    assert found["ratio"] == found["dense_bytes"] / found["file_bytes"]
    assert found["accuracy_before"] == work["train"]["accuracy"]
    assert [stage["stage"] for stage in found["stages"]] == ["dense", "prune", "quantize", "encode"]
    for stage in found["stages"]:
        assert {"stage", "bytes", "ratio", "accuracy", "seconds"} <= set(stage)
    assert (found["recipe"]["prune"], found["recipe"]["bits"], found["seed"]) == (0.5, 4, 0)
    assert str(work["folder"]).encode() not in packed.read_bytes()


def test_json_of_inspect(packed):
    found = from_json("inspect", packed)
    assert {"file_bytes", "dense_bytes", "ratio", "format_version", "network", "sections", "layers"} <= set(found)
    assert sum(found["sections"].values()) == found["file_bytes"] == packed.stat().st_size
    assert len(found["layers"]) == 6
    for layer in found["layers"]:
        assert {
            "name", "shape", "weights", "nonzeros", "density", "bits", "index_bits", "coder", "bytes",
            "bits_per_weight", "fillers",
        } <= set(layer)  # fmt: skip


def test_json_of_eval_is_what_compress_said(work, packed, dense):
    found = from_json("eval", packed, *work["options"])
    assert {"accuracy", "error", "loss", "samples", "data", "file_bytes", "ratio"} <= set(found)
    assert found["accuracy"] == work["compress"]["accuracy_after"]
    assert found["error"] == pytest.approx(100 - found["accuracy"])
    assert (found["samples"], found["data"], found["file_bytes"]) == (100, "blobs", packed.stat().st_size)
    assert found["ratio"] == work["compress"]["ratio"]
    before = from_json("eval", dense, *work["options"])
    assert before["accuracy"] == work["compress"]["accuracy_before"]
    assert before["ratio"] == 4 * work["train"]["parameters"] / dense.stat().st_size


def test_json_of_verify(packed):
    found = from_json("verify", packed)
    assert found == {"file": str(packed), "ok": True, "file_bytes": packed.stat().st_size, "tensors": 6}


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_json_of_export(packed, name, tmp_path):
    found = from_json("export", packed, "-o", name)
    assert found == {"file": name, "file_bytes": (tmp_path / name).stat().st_size, "tensors": 6}
    state, back = load_state_dict(packed), load_checkpoint(tmp_path / name)
    assert all(torch.equal(value, state[key]) for key, value in back.state.items())
    assert len(back.state) == 6
    assert back.data == "blobs"


def test_a_loss_that_json_has_no_number_for(work, dense, tmp_path):
    checkpoint = load_checkpoint(dense)
    state = {name: value * torch.nan for name, value in checkpoint.state.items()}
    save_checkpoint("nan.pt", Checkpoint(state))
    assert from_json("eval", "nan.pt", *work["options"])["loss"] is None


# What people read ------------------------------------------------------------------------------------------


def test_without_json_the_same_facts_are_readable(work, packed):
    text = succeed("eval", packed, *work["options"]).stdout
    assert f"error {100 - work['compress']['accuracy_after']:.2f} %" in text
    assert f"{packed.stat().st_size:,} bytes" in text
    text = succeed("inspect", packed).stdout
    assert f"{packed.stat().st_size:,}" in text
    assert f"{work['compress']['ratio']:.2f}×" in text
    assert "0.weight" in text
    assert "intact, 6 tensors" in succeed("verify", packed).stdout
    assert "6 tensors" in succeed("export", packed, "-o", "x.pt").stdout


def test_compress_shows_progress_on_stderr_and_the_table_on_stdout(work, dense):
    result = succeed("compress", dense, *work["options"], "-o", "odd [name].dc", *QUICK, "--prune", "0.5", "-v")
    assert "epoch 1/1" in result.stderr
    assert "weights kept" in result.stderr
    size = Path("odd [name].dc").stat().st_size
    assert f"odd [name].dc: {size:,} bytes" in result.stdout
    assert "4.weight" in result.stdout  # -v: the layers
    for stage in ("dense", "prune", "quantize", "encode"):
        assert stage in result.stdout


def test_quiet_prints_nothing_to_stderr(work, dense):
    assert succeed("compress", dense, *work["options"], *QUICK, "-q").stderr == ""
    assert succeed("compress", dense, "--no-retrain", "-q").stderr == ""
    assert (
        succeed("train", work["options"][1], "--data", work["options"][3], "--epochs", 1, "-o", "q.pt", "-q").stderr
        == ""
    )


def test_model_dc_in_the_working_folder_is_the_default(dense, tmp_path):
    assert from_json("compress", dense, "--no-retrain")["file"] == "model.dc"
    assert (tmp_path / "model.dc").is_file()


def test_help_of_every_command_names_every_option_of_the_contract():
    text = succeed("--help").stdout
    for command in ("train", "compress", "inspect", "eval", "export", "verify"):
        assert command in text
        assert "--json" in succeed(command, "--help").stdout
    text = succeed("compress", "--help-all").stdout
    for option in (
        "--network", "--prune", "--bits", "--conv-bits", "--layer", "--recipe", "--scope", "--schedule", "--iterations",
        "--epochs", "--finetune-epochs", "--init", "--criterion", "--coder", "--no-retrain", "--output", "--data",
        "--data-dir", "--device", "--seed", "--verbose", "--quiet", "--trust-pickle",
    ):  # fmt: skip
        assert option in text
    assert succeed("--version").stdout == f"deepcompress, version {__version__}\n"


def test_no_command_is_wrong_usage():
    result = run()
    assert result.exit_code == 2
    assert "Usage:" in result.output


@pytest.mark.parametrize("how", [["cli.py"], ["-m", "deepcompress"]])
def test_other_ways_to_start(how, packed):
    done = subprocess.run(
        [sys.executable, *how, "--help"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""
    done = subprocess.run(
        [sys.executable, *how, "verify", "missing.dc"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: missing.dc: no such file\n"


# The real thing, small -------------------------------------------------------------------------------------


def test_train_compress_and_eval_of_a_reference_network(tmp_path):
    trained = from_json("train", "lenet-300-100", "--epochs", "5", "--device", "cpu")
    assert trained["file"] == "lenet-300-100-digits.pt"
    found = from_json("compress", trained["file"], "--prune", "0.8", *QUICK)
    measured = from_json("eval", "model.dc")  # the file names its network and its data
    assert measured["error"] == pytest.approx(100 - found["accuracy_after"])
    assert measured["data"] == "digits"
    assert from_json("inspect", "model.dc")["network"] == "lenet-300-100"
    assert found["accuracy_after"] > 50
    again = from_json("compress", trained["file"], "--prune", "0.8", *QUICK, "-o", "again.dc")
    assert (tmp_path / "again.dc").read_bytes() == (tmp_path / "model.dc").read_bytes()
    assert again["file_bytes"] == found["file_bytes"]


def test_a_plain_state_dict_is_matched_by_names_and_shapes():
    torch.manual_seed(0)
    torch.save(LeNet300100().state_dict(), "x.pt")
    from_json("compress", "x.pt", "--no-retrain")
    assert from_json("inspect", "model.dc")["network"] == "lenet-300-100"
    assert "names no data set" in fail("eval", "model.dc")
    assert from_json("eval", "model.dc", "--data", "digits")["samples"] == 500


def test_no_retrain_with_data_measures(work, dense):
    found = from_json("compress", dense, *work["options"], "--no-retrain", "--prune", "0")
    assert found["accuracy_before"] == work["compress"]["accuracy_before"]
    assert found["accuracy_after"] is not None
    assert from_json("compress", dense, "--no-retrain")["accuracy_after"] is None


def test_safetensors_in_and_layers_by_pattern(work, dense):
    from_json("export", dense, "-o", "x.safetensors")
    found = from_json("compress", "x.safetensors", "--no-retrain", "--prune", "0.5", "--layer", "0:prune=0,bits=none")
    assert found["recipe"]["layer"] == [{"pattern": "0", "prune": 0, "bits": "none"}]
    assert torch.equal(load_state_dict("model.dc")["0.weight"], load_checkpoint(dense).state["0.weight"])


def test_options_beat_the_recipe_file_and_layer_rules_add_to_it(dense):
    Path("r.toml").write_text('prune = 0.3\nbits = 2\nretrain = false\n[[layer]]\npattern = "0"\nprune = 0.1\n')
    found = from_json("compress", dense, "--recipe", "r.toml", "--bits", "6", "--layer", "0:bits=1")
    assert (found["recipe"]["prune"], found["recipe"]["bits"], found["recipe"]["retrain"]) == (0.3, 6, False)
    assert found["recipe"]["layer"] == [{"pattern": "0", "prune": 0.1}, {"pattern": "0", "bits": 1}]


# Everything that can be wrong, one line each ---------------------------------------------------------------


@pytest.mark.parametrize("command", ["compress", "eval", "inspect", "verify", "export"])
def test_a_missing_file(command):
    output = ["-o", "x.pt"] if command == "export" else []
    for name in ("missing.pt", "missing.dc"):
        assert f"{name}: no such file" in fail(command, name, *output)


@pytest.mark.parametrize("command", ["compress", "eval", "inspect", "verify", "export"])
def test_a_folder_in_place_of_a_file(command, tmp_path):
    output = ["-o", "x.pt"] if command == "export" else []
    assert "not a regular file" in fail(command, tmp_path, *output)


@pytest.mark.parametrize("command", ["compress", "eval", "inspect", "verify", "export"])
@pytest.mark.parametrize("name", ["x.pt", "x.dc", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"some text that is no network"])
def test_files_that_are_something_else(command, name, content):
    Path(name).write_bytes(content)
    output = ["-o", "y.pt"] if command == "export" else []
    assert f"{name}: " in fail(command, name, *output)


def test_a_pickled_module(work):
    torch.save(nn.Sequential(nn.Linear(3, 3)), "x.pt")
    assert "--trust-pickle" in fail("compress", "x.pt", "--no-retrain")
    assert from_json("compress", "x.pt", "--no-retrain", "--trust-pickle", "--prune", "0.5")["file_bytes"] > 0


def test_an_unknown_network_that_would_have_to_be_retrained(plain):
    line = fail("compress", plain, "--data", "digits")
    assert "fit no known network" in line
    assert "--network" in line
    assert "--no-retrain" in line
    succeed("compress", plain, "--no-retrain")
    assert "fit no known network" in fail("eval", "model.dc", "--data", "digits")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--prune", "1.2"], "--prune"),
        (["--prune", "1"], "--prune"),
        (["--prune", "nan"], "prune"),
        (["--prune", "much"], "--prune"),
        (["--bits", "0"], "--bits"),
        (["--bits", "13"], "--bits"),
        (["--bits", "five"], "--bits"),
        (["--conv-bits", "0"], "--conv-bits"),
        (["--levels", "0"], "--levels"),
        (["--levels", "3", "--bits", "2"], "--bits and --levels are two ways"),
        (["--layer", "conv*:bits=2,levels=3"], "bits and levels"),
        (["--rate", "-1"], "--rate"),
        (["--rate", "nan"], "rate"),
        (["--small-bits", "13"], "--small-bits"),
        (["--quantizer", "cubic"], "--quantizer"),
        (["--weighting", "fisher", "--no-retrain"], "weighting needs training data"),
        (["--layer", "conv1"], "--layer"),
        (["--layer", "conv1:prune=2"], "prune is 2"),
        (["--layer", "cnv*:prune=0.5", "--no-retrain"], "matches no layer"),
        (["--scope", "planet"], "--scope"),
        (["--coder", "zip"], "--coder"),
        (["--iterations", "0"], "--iterations"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "99999999999"], "seed"),
        (["--quality", "1"], "quality"),
        (["--device", "tpu"], "--device"),
        (["--nonsense"], "--nonsense"),
        (["--recipe", "missing.toml"], "missing.toml"),
        (["another"], "another"),
    ],
)  # fmt: skip
def test_wrong_usage(plain, options, named):
    assert named in fail("compress", plain, *options, code=2)


def test_wrong_usage_of_other_commands(plain):
    assert "CKPT" in fail("compress", code=2)
    assert "--output" in fail("export", plain, code=2)
    assert "nonsense" in fail("nonsense", code=2)
    assert "--epochs" in fail("train", "lenet5", "--epochs", "0", code=2)
    assert "--seed" in fail("train", "lenet5", "--seed", 2**70, code=2)


@pytest.mark.parametrize("content", ["prune = 1.2", "prnue = 0.5", "bits = ", "[layer]\na = 1", "layer = 5"])
def test_a_wrong_recipe_file(plain, content):
    Path("r.toml").write_text(content)
    assert "r.toml: " in fail("compress", plain, "--recipe", "r.toml", code=2)


@pytest.mark.parametrize("extra", [["--no-retrain"], []])
def test_nan_among_the_weights(extra):
    state = LeNet300100().state_dict()
    state["fc2.weight"][3, 4] = torch.nan
    torch.save(state, "x.pt")
    assert "tensor fc2.weight: 1 of 30000 values are NaN" in fail("compress", "x.pt", "--data", "digits", *extra)
    assert not Path("model.dc").exists()


@pytest.mark.parametrize("arguments", [["train", "lenet5"], ["eval", "x.pt"], ["compress", "x.pt"]], ids=lambda a: a[0])
def test_mnist_not_there_and_no_network(arguments, monkeypatch):
    from torchvision import datasets

    def refuse(self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried https://...")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    torch.save(LeNet300100().state_dict(), "x.pt")
    line = fail(*arguments, "--data", "mnist", "--data-dir", "nowhere")
    assert "mnist is not in nowhere and could not be downloaded" in line
    assert "--data digits" in line


@pytest.mark.parametrize("command", ["verify", "eval", "export"])
def test_a_damaged_file(command, packed, work):
    extra = {"eval": work["options"], "export": ["-o", "x.pt"], "verify": []}[command]
    raw = packed.read_bytes()
    for cut in (1, 5, len(raw) // 2, len(raw) - 1):
        Path("bad.dc").write_bytes(raw[:cut])
        assert "bad.dc: " in fail(command, "bad.dc", *extra)
    for at in range(0, len(raw), 97):
        Path("bad.dc").write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert "bad.dc: " in fail(command, "bad.dc", *extra)
    assert not Path("x.pt").exists()


def test_inspect_of_a_damaged_header(packed):
    raw = packed.read_bytes()
    for at in (0, 3, 10, 40):
        Path("bad.dc").write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert "bad.dc: " in fail("inspect", "bad.dc")
    Path("bad.dc").write_bytes(raw[:-1])
    assert "bad.dc: " in fail("inspect", "bad.dc")


def test_an_output_folder_that_is_not_there_or_a_folder(plain, packed, tmp_path):
    assert "does not exist" in fail("compress", plain, "--no-retrain", "-o", "no/m.dc")
    assert "it is a folder" in fail("compress", plain, "--no-retrain", "-o", tmp_path)
    assert "does not exist" in fail("train", "lenet5", "-o", "no/x.pt")
    assert "does not exist" in fail("export", packed, "-o", "no/x.pt")


def test_an_output_folder_that_cannot_be_written(plain, packed, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert "cannot write m.dc: Permission denied" in fail("compress", plain, "-o", "m.dc")
    assert "cannot write x.pt: Permission denied" in fail("train", "lenet5", "-o", "x.pt")
    assert "cannot write x.pt: Permission denied" in fail("export", packed, "-o", "x.pt")


def test_endings_that_are_not_written(packed):
    assert "write .pt, .safetensors, .onnx, .npz or .h" in fail("export", packed, "-o", "x.h5")
    assert "write .pt or .safetensors" in fail("train", "lenet5", "-o", "x.bin")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lenet6", "unknown network 'lenet6'; known: ds-cnn, ds-cnn-xs, lenet-300-100, lenet5"),
        ("torchvision:lenet", "torchvision has no model named 'lenet'"),
        ("no.py:small", "no.py does not exist"),
    ],
)
def test_unknown_networks(work, dense, name, reason):
    for arguments in (["train", name], ["compress", dense, "--network", name], ["eval", dense, "--network", name]):
        data = work["options"][2:]
        assert reason in fail(*arguments, *data)


def test_factories_that_fail(work, dense):
    for factory, reason in (("broken", "RuntimeError: no luck"), ("text", "returned str"), ("none", "defines no")):
        network = f"{work['folder'] / 'mine.py'}:{factory}"
        assert reason in fail("compress", dense, "--network", network, *work["options"][2:])


def test_tensors_of_another_network(work, dense):
    assert "has no tensor fc1.weight, which the network LeNet300100 needs" in fail(
        "compress", dense, "--network", "lenet-300-100", "--data", "digits"
    )


def test_a_checkpoint_that_names_code_runs_nothing(tmp_path):
    Path("evil.py").write_text("raise SystemExit('ran')")
    save_checkpoint("x.pt", Checkpoint(Mlp().state_dict(), "evil.py:run", "digits"))
    for command in ("eval", "compress"):
        assert "names the network 'evil.py:run', which is not used: a file cannot name code" in fail(command, "x.pt")


def test_data_that_is_not_for_the_network(work, dense):
    network = work["options"][:2]
    assert "cannot take samples of shape (1, 28, 28)" in fail("compress", dense, *network, "--data", "digits")
    assert "cannot take samples of shape (1, 28, 28)" in fail("eval", dense, *network, "--data", "digits")
    (x, y), (x_test, y_test) = blobs(60, 1, (1, SIDE, SIDE)), blobs(20, 2, (1, SIDE, SIDE))
    y[-1] = CLASSES  # one class more, in one place
    np.savez("more.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    for arguments in (["compress", dense, "--network", network[1]], ["train", network[1]]):
        line = fail(*arguments, "--data", "more.npz")
        assert f"has {CLASSES} classes, but labels go from 0 to {CLASSES}" in line


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("mnits", "unknown data set 'mnits'"),
        ("no.npz", "no.npz cannot be read"),
        ("bad.npz", "bad.npz is not a readable"),
    ],
)
def test_data_that_is_not_there(work, dense, data, reason):
    Path("bad.npz").write_bytes(b"")
    assert reason in fail("compress", dense, *work["options"][:2], "--data", data)
    assert reason in fail("train", "lenet5", "--data", data)


def test_a_claim_of_too_many_bytes(packed):
    assert "--max-bytes" in fail("verify", packed, "--max-bytes", "10")
    assert "--max-bytes" in fail("export", packed, "-o", "x.pt", "--max-bytes", "10")


def test_training_that_goes_wrong_is_one_line_and_keeps_the_old_file(work, dense):
    Path("model.dc").write_bytes(b"old")
    result = run("compress", dense, *work["options"], "--epochs", "1", "--lr", "1e30", "-q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "lower the learning rate" in result.stderr
    assert Path("model.dc").read_bytes() == b"old"


def test_an_interrupt_is_one_line(plain, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("deepcompress.compression.tensors_only.compress_state", stop)
    result = run("compress", plain, "--no-retrain")
    assert result.exit_code == 1
    assert result.stderr.strip() == "Error: interrupted; nothing was written"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is on Linux only")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_output_that_cannot_be_written_is_one_line(flags):
    command = [sys.executable, "-m", "deepcompress", "inspect", str(ROOT / "results" / "lenet5-digits.dc"), *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: the output cannot be written: No space left on device\n"
