"""Commands with ONNX models, and Python's ways to the tensors of the files that they make."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs pip install -e '.[onnx]'")
pytest.importorskip("onnxruntime", reason="needs pip install -e '.[onnx]'")
from commands import fail, from_json, succeed  # noqa: E402
from onnx import helper  # noqa: E402
from tiny import held, model, perceptron, run, tensors_of, value, weights  # noqa: E402

import deepcompress as dc  # noqa: E402

METRIC = "def agree(output, target):\n    return float((output.argmax(1) == target).float().mean())\n"
STEP = ("--step", "0.04")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """m.onnx; d.npz, whose labels are what the model says; and m.dc, made of it."""
    folder = tmp_path_factory.mktemp("onnx")
    onnx.save(perceptron(), folder / "m.onnx")
    x = weights(300, 20, seed=9)
    labels = run(perceptron(), {"x": x})[0].argmax(1)
    np.savez(folder / "d.npz", x_train=x[:200], y_train=labels[:200], x_test=x[200:], y_test=labels[200:])
    np.savez(folder / "x.npz", x=x[:64])
    (folder / "mine.py").write_text(METRIC)
    found = from_json("compress", folder / "m.onnx", "-o", folder / "m.dc", "--data", folder / "d.npz", *STEP)
    (folder / "made.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(autouse=True)
def here(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for file in files.iterdir():
        Path(file.name).write_bytes(file.read_bytes())


def test_compress_measures_the_file_beside_the_model():
    found = json.loads(Path("made.json").read_text())
    assert found["accuracy_before"] == 100
    assert found["accuracy_after"] >= 97
    assert found["file_bytes"] == Path("m.dc").stat().st_size
    assert found["onnx_bytes"] == Path("m.onnx").stat().st_size
    assert found["onnx_ratio"] == found["onnx_bytes"] / found["file_bytes"] > 2
    assert set(found["errors"]) == {"first.weight", "second.weight"}
    line = succeed("compress", "m.onnx", "-o", "again.dc", "-q", *STEP).stdout
    assert line.endswith(f"{found['onnx_ratio']:.2f}× smaller than the .onnx model\n")
    assert Path("again.dc").read_bytes() == Path("m.dc").read_bytes()


def test_export_gives_the_model_of_the_tensors_in_the_file():
    assert from_json("export", "m.dc", "-o", "back.onnx")["tensors"] == 3
    back = onnx.load("back.onnx")
    onnx.checker.check_model(back)
    state = dc.load_state_dict("m.dc", framework="numpy")
    assert list(state) == ["first.weight", "first.bias", "second.weight"]
    with dc.open("m.dc", framework="numpy") as file:
        for name, array in tensors_of(back).items():
            assert (array == state[name]).all()
            assert (array == file[name]).all()
    with np.load("d.npz") as stored:
        x = stored["x_test"]
    (y,), (dense,) = run("back.onnx", {"x": x}), run("m.onnx", {"x": x})
    by_hand = np.maximum(x @ state["first.weight"].T + state["first.bias"], 0) @ state["second.weight"]
    assert np.allclose(y, by_hand, atol=1e-3)
    assert 0 < np.linalg.norm(y - dense) < 0.05 * np.linalg.norm(dense)


def test_export_writes_the_tensors_as_other_formats_too():
    succeed("export", "m.dc", "-o", "t.npz")
    succeed("export", "m.dc", "-o", "t.safetensors")
    assert np.load("t.npz")["first.weight"].shape == (40, 20)


def test_eval_runs_the_graph():
    for file in ("m.dc", "m.onnx"):
        found = from_json("eval", file, "--data", "d.npz", "--metric", "mine.py:agree")
        assert found["metric"] == "agree"
        assert found["value"] == pytest.approx(1, abs=0.03)
        assert found["samples"] == 100
        assert found["file_bytes"] == Path(file).stat().st_size
    assert found["value"] == 1
    assert found["ratio"] == pytest.approx(1, abs=0.2)
    assert "needs the inputs" not in succeed("eval", "m.dc", "--data", "d.npz").stderr


def test_inspect_shows_the_graph_as_a_section():
    found = from_json("inspect", "m.dc")
    assert sum(found["sections"].values()) == found["file_bytes"]
    assert 0 < found["sections"]["graph"] < 300
    assert [layer["name"] for layer in found["layers"]] == ["first.weight", "first.bias", "second.weight"]
    assert "graph" in succeed("inspect", "m.dc").stdout
    succeed("verify", "m.dc")


def test_the_graph_stays_with_the_file():
    succeed("recode", "m.dc", "-o", "again.dc")
    succeed("compress", "m.dc", "-o", "on.dc")
    for file in ("again.dc", "on.dc"):
        succeed("export", file, "-o", "one.onnx", "--force")
        assert (
            tensors_of(onnx.load("one.onnx"))["first.weight"].tobytes()
            == dc.load_state_dict("m.dc")["first.weight"].numpy().tobytes()
        )


def test_a_page_and_pictures():
    succeed("view", "m.dc", "-o", "page.html")
    succeed("plot", "m.dc", "-o", "plots")


def test_other_settings_of_a_recipe(files):
    succeed("compress", "m.onnx", "-o", "pruned.dc", "--prune", "0.5", "--bits", "3")
    found = dc.load_state_dict("pruned.dc")
    zeros = sum(int((found[name] == 0).sum()) for name in ("first.weight", "second.weight"))
    assert zeros == 500
    assert len(found["first.weight"].unique()) <= 9
    assert from_json("compress", "m.onnx", "-o", "sized.dc", "--target-size", "900")["file_bytes"] <= 900
    succeed("compress", "m.onnx", "-o", "kept.dc", "--layer", "first.weight:keep")
    assert (dc.load_state_dict("kept.dc")["first.weight"].numpy() == weights(40, 20)).all()


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["compress", "m.onnx", "--network", "lenet5"], 2, "neither built nor trained here: leave out --network"),
        (["compress", "m.onnx", "--max-drop", "1", "--data", "d.npz"], 2, "leave out --max-drop"),
        (["compress", "m.onnx", "--recipe", "drop.toml"], 2, "leave max_drop out"),
        (["compress", "m.onnx", "--recipe", "drop.toml", "--calibrate", "x.npz"], 2, "leave max_drop out"),
        (["compress", "m.onnx", "--base", "m.dc"], 2, "leave out --base"),
        (["compress", "m.onnx", "--base", "m.dc", "--update-size", "9"], 2, "leave out --base, --update-size"),
        (["compress", "m.onnx", "--masks", "x.npz", "--resume"], 2, "leave out --resume, --masks"),
        (["compress", "gone.onnx"], 1, "gone.onnx: no such file"),
        (["compress", "m.onnx", "--layer", "third:keep"], 2, "matches no layer; there are first.weight, second.weight"),
        (["compress", "m.onnx", "--calibrate", "gone.npz"], 1, "gone.npz: No such file"),
        (["compress", "m.onnx", "--data", "digits"], 1, "onnxruntime does not run the model on x (500, 1, 28, 28)"),
        (["plan", "m.onnx"], 1, "an ONNX model: compress and eval take it"),
        (["export", "m.onnx", "-o", "y.onnx"], 1, "an ONNX model: compress and eval take it"),
        (["export", "m.dc", "-o", "y.pt", "--shrink"], 1, "m.dc holds an ONNX model, and only a network of torch"),
        (["export", "m.dc", "-o", "y.pt", "--stable", "1", "--box", "0", "1"], 1, "m.dc holds an ONNX model"),
        (["compress", "m.onnx", "--teacher-only"], 2, "leave out --teacher-only"),
        (["eval", "m.onnx"], 1, "names no data set"),
        (["eval", "m.dc", "--data", "d.npz", "--max-bytes", "100"], 1, "more than the 100 allowed"),
        (["export", "m.dc", "-o", "y.onnx", "--max-bytes", "20000"], 1, "the graph has"),
    ],
)
def test_one_line_for_a_mistake(arguments, code, line):
    Path("drop.toml").write_text("max_drop = 1.0\n")
    if arguments[0] == "compress":
        arguments = [*arguments, "-o", "new.dc"]
    assert line in fail(*arguments, code=code)
    assert not Path("new.dc").exists()


def test_calibrate_needs_inputs_alone():
    found = from_json("compress", "m.onnx", "-o", "cal.dc", "--calibrate", "x.npz", "--step", "0.1")
    assert found["file_bytes"] < Path("m.dc").stat().st_size
    assert from_json("eval", "cal.dc", "--data", "d.npz")["accuracy"] >= 85
    sized = from_json("compress", "m.onnx", "-o", "sized.dc", "--calibrate", "x.npz", "--target-size", "900")
    assert 850 < sized["file_bytes"] <= 900


def test_a_custom_operator_is_kept_and_told_where_it_must_run():
    nodes = [
        helper.make_node("Magic", ["x", "magic"], ["a"], domain="somebody"),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    opsets = [helper.make_opsetid("somebody", 1)]
    proto = model(nodes, [value("x", "N", 20)], [value("y", "N", 5)],
                  [held("magic", weights(30, 20)), held("w", weights(20, 50))], opsets=opsets)  # fmt: skip
    onnx.save(proto, "magic.onnx")
    succeed("compress", "magic.onnx", "-o", "magic.dc")
    succeed("export", "magic.dc", "-o", "again.onnx")
    again = onnx.load("again.onnx")
    assert again.graph.node == proto.graph.node
    assert (tensors_of(again)["magic"] == weights(30, 20)).all()
    assert "onnxruntime cannot load the model: " in fail("eval", "magic.dc", "--data", "d.npz")


@pytest.mark.parametrize(("package", "command"), [
    ("onnx", ["compress", "m.onnx", "-o", "new.dc"]), ("onnx", ["export", "m.dc", "-o", "new.onnx"]),
    ("onnxruntime", ["eval", "m.dc", "--data", "d.npz"]),
    ("onnxruntime", ["compress", "m.onnx", "--calibrate", "x.npz"]),
])  # fmt: skip
def test_packages_that_are_not_installed(package, command, monkeypatch):
    real = importlib.util.find_spec
    for module in ("model", "session"):
        monkeypatch.setattr(
            f"deepcompress.graphs.{module}.find_spec", lambda name: None if name == package else real(name)
        )
    assert "pip install 'deepcompress[onnx]'" in fail(*command)
    succeed("inspect", "m.dc")
    succeed("verify", "m.dc")


def test_a_model_of_a_fixed_batch_is_fed_so_many_at_once():
    proto = perceptron()
    for each in (proto.graph.input[0], proto.graph.output[0]):
        each.type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save(proto, "eight.onnx")
    assert from_json("eval", "eight.onnx", "--data", "d.npz")["accuracy"] == 100


def test_whole_numbers_stay_whole():
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["a"]),
        helper.make_node("ReduceMean", ["a"], ["y"], axes=[1], keepdims=0),
    ]
    proto = model(nodes, [value("x", "N", 7, kind=6)], [value("y", "N", 4)], [held("table", weights(50, 4))])
    onnx.save(proto, "tokens.onnx")
    x = np.random.default_rng(0).integers(0, 50, (90, 7))
    labels = run(proto, {"x": x.astype(np.int32)})[0].argmax(1)
    np.savez("tokens.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    assert from_json("eval", "tokens.onnx", "--data", "tokens.npz")["accuracy"] == 100
    np.savez("floats.npz", x_train=x + 0.5, y_train=labels, x_test=x + 0.5, y_test=labels)
    assert "input x takes whole numbers, and not float32" in fail("eval", "tokens.onnx", "--data", "floats.npz")
