"""Rounding the weights of ONNX models by samples: what products meet, what the output feels, and what comes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs pip install -e '.[onnx]'")
pytest.importorskip("onnxruntime", reason="needs pip install -e '.[onnx]'")
from listener import Listener  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from tiny import held, model, perceptron, run, tensors_of, value, weights  # noqa: E402

from deepcompress.errors import DataError, NetworkError, RecipeError  # noqa: E402
from deepcompress.graphs.calibrate import OnnxRounder  # noqa: E402
from deepcompress.graphs.compress import compress_model  # noqa: E402
from deepcompress.graphs.model import open_model  # noqa: E402
from deepcompress.graphs.products import products  # noqa: E402
from deepcompress.graphs.restore import complete, model_in  # noqa: E402
from deepcompress.graphs.roles import weights_of  # noqa: E402
from deepcompress.graphs.turns import turns_of  # noqa: E402
from deepcompress.quantize.rows import by_size, nearest  # noqa: E402
from deepcompress.reading.loader import load_state_dict  # noqa: E402
from deepcompress.recipe import Recipe  # noqa: E402
from deepcompress.training.progress import Progress  # noqa: E402

node = helper.make_node


def opened(proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    return open_model(tmp_path / "m.onnx")


def only_product(proto, tmp_path, name="w"):
    found = opened(proto, tmp_path)
    shapes = {each: found.tensors[each].shape for each in weights_of(found)}
    (product,) = [each for each in products(found.proto(), shapes) if each.weight == name]
    return product, found.tensors[name].float()


CONVOLUTIONS = [
    {},
    {"pads": [1, 0, 2, 1]},
    {"strides": [2, 1], "dilations": [1, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
    {"auto_pad": "VALID"},
    {"group": 2},
]


@pytest.mark.parametrize("attributes", CONVOLUTIONS, ids=str)
def test_a_convolution_meets_patches(attributes, tmp_path):
    x, w = weights(2, 4, 9, 8), weights(6, 4 // attributes.get("group", 1), 3, 2, seed=1)
    proto = model(
        [node("Conv", ["x", "w"], ["y"], **attributes)], [value("x", *x.shape)], [value("y", None)], [held("w", w)]
    )
    product, weight = only_product(proto, tmp_path)
    met = product.meets(x)
    rows = weight.reshape(product.groups, 6 // product.groups, -1)
    out = torch.einsum("pgi,gri->pgr", met, rows).reshape(-1, 6)
    (y,) = run(proto, {"x": x})
    assert np.allclose(out.numpy(), np.moveaxis(y, 1, -1).reshape(-1, 6), atol=1e-4)


@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2, 3]}, {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}], ids=str
)
def test_a_transposed_convolution_is_one_of_an_input_with_zeros_between(attributes, tmp_path):
    x, w = weights(2, 4, 5, 6), weights(4, 3, 3, 2, seed=1)
    made = node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    proto = model([made], [value("x", *x.shape)], [value("y", None)], [held("w", w)])
    product, weight = only_product(proto, tmp_path)
    turned = product.turn(weight)
    assert torch.equal(product.back(turned), weight)
    (y,) = run(proto, {"x": x})
    out = product.meets(x)[:, 0] @ turned.reshape(3, -1).T
    assert np.allclose(out.numpy(), np.moveaxis(y, 1, -1).reshape(-1, 3), atol=1e-4)


PRODUCTS = {
    "MatMul": (node("MatMul", ["x", "w"], ["y"]), (7, 5), (5, 6)),
    "MatMul of three dimensions": (node("MatMul", ["x", "w"], ["y"]), (2, 7, 5), (5, 6)),
    "MatMul from the left": (node("MatMul", ["w", "x"], ["y"]), (5, 7), (6, 5)),
    "Gemm": (node("Gemm", ["x", "w"], ["y"]), (7, 5), (5, 6)),
    "Gemm, both turned": (node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), (5, 7), (6, 5)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_meets_rows(name, tmp_path):
    made, shape, wide = PRODUCTS[name]
    x, w = weights(*shape), weights(*wide, seed=1)
    proto = model([made], [value("x", *shape)], [value("y", None)], [held("w", w)])
    product, weight = only_product(proto, tmp_path)
    turned = product.turn(weight)
    assert turned.shape == (6, 5)
    assert torch.equal(product.back(turned), weight)
    (y,) = run(proto, {"x": x})
    y = y.T if "left" in name else y
    assert np.allclose((product.meets(x)[:, 0] @ turned.T).numpy(), y.reshape(-1, 6), atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_recurrent_operator_meets_inputs_and_states(direction, tmp_path):
    sides = 1 + (direction == "bidirectional")
    made = node("RNN", ["x", "w", "r"], ["y"], hidden_size=3, direction=direction)
    tensors = [held("w", weights(sides, 3, 4)), held("r", weights(sides, 3, 3, seed=1))]
    proto = model([made], [value("x", 6, 2, 4)], [value("y", None)], tensors)
    x = weights(6, 2, 4, seed=2)
    (y,) = run(proto, {"x": x})
    inputs, w = only_product(proto, tmp_path, "w")
    states, r = only_product(proto, tmp_path, "r")
    assert (inputs.groups, inputs.turn(w).shape, states.turn(r).shape) == (sides, (3 * sides, 4), (3 * sides, 3))
    met, before = inputs.meets(x).reshape(6, 2, sides, 4), states.meets(y).reshape(5, 2, sides, 3)
    for side in range(sides):
        backwards = direction == "reverse" or side
        now = met[:-1, :, side] if backwards else met[1:, :, side]
        out = torch.tanh(now @ w[side].T + before[:, :, side] @ r[side].T)
        expected = y[:-1, side] if backwards else y[1:, side]
        assert np.allclose(out.numpy(), expected, atol=1e-5)


INPUTS = {**dict.fromkeys(PRODUCTS, 0), "MatMul from the left": 1, "Gemm, both turned": 1}


@pytest.mark.parametrize("name", PRODUCTS)
def test_without_samples_errors_add_up_to_nothing_in_each_output(name, tmp_path):
    made, shape, (rows, columns) = PRODUCTS[name]
    w = weights(8 * rows, 8 * columns, seed=1)
    proto = model([made], [value("x", *shape)], [value("y", None)], [held("w", w)])
    found, weight = opened(proto, tmp_path), torch.from_numpy(w)
    grid = by_size(weight, 0.7, turns_of(found, {"w"}).get("w"))
    off = grid.integers - weight / grid.steps[:, None]
    assert off.sum(INPUTS[name]).abs().max() <= 0.5 + 1e-4
    assert off.sum(1 - INPUTS[name]).abs().max() > 1
    compress_model(found, Recipe(retrain=False, step=0.7), tmp_path / "m.dc")
    assert torch.equal(load_state_dict(tmp_path / "m.dc")["w"], grid.values())


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_without_samples_errors_add_up_to_nothing_in_each_gate(kind, tmp_path):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    made = node(kind, ["x", "w", "r"], ["y"], hidden_size=8, direction="bidirectional")
    tensors = {"w": weights(2, 8 * gates, 30), "r": weights(2, 8 * gates, 8, seed=1)}
    proto = model([made], [value("x", 6, 2, 30)], [value("y", None)], [held(*each) for each in tensors.items()])
    turns = turns_of(opened(proto, tmp_path), set(tensors))
    for name, array in tensors.items():
        weight = torch.from_numpy(array)
        grid = by_size(weight, 0.7, turns[name])
        off = grid.integers - weight / grid.steps[:, None, None]
        assert grid.integers.shape == weight.shape
        assert off.sum(2).abs().max() <= 0.5 + 1e-4
        assert off.abs().max() <= 1


def test_without_samples_what_is_looked_up_or_unknown_is_rounded_number_by_number(tmp_path):
    nodes = [
        node("Gather", ["table", "at"], ["a"]), node("Transpose", ["turned"], ["b"], perm=[1, 0]),
        node("MatMul", ["a", "b"], ["c"]), node("Conv", ["image", "kernels"], ["d"]),
    ]  # fmt: skip
    tensors = {"table": weights(50, 40), "turned": weights(30, 40, seed=1), "kernels": weights(6, 4, 3, 3, seed=2)}
    inputs = [value("at", 7, kind=TensorProto.INT64), value("image", 1, 4, 9, 9)]
    proto = model(nodes, inputs, [value("c", None), value("d", None)], [held(*each) for each in tensors.items()])
    turns = turns_of(opened(proto, tmp_path), set(tensors))
    assert set(turns) == {"table", "turned"}
    for name, turn in turns.items():
        weight = torch.from_numpy(tensors[name])
        found = by_size(weight, 0.7, turn)
        assert torch.equal(found.integers, nearest(weight, found.steps).integers)
    kernels = torch.from_numpy(tensors["kernels"])
    assert not torch.equal(by_size(kernels, 0.7).integers, nearest(kernels, by_size(kernels, 0.7).steps).integers)


def calibrated(proto, batches, step, tmp_path, watch=None):
    """The model with its weights rounded by samples, and the bytes of its file."""
    found = opened(proto, tmp_path)
    rounder = OnnxRounder(found, batches, watch or Progress())
    recipe = Recipe(retrain=False, step=step)
    size = compress_model(found, recipe, tmp_path / "m.dc", rounder=rounder).file_bytes
    return complete(model_in(tmp_path / "m.dc")), size


def mixed(count, seed):
    """Inputs of which only some directions are strong, as they are inside of networks."""
    return weights(count, 6, seed=seed) @ weights(6, 20, seed=99) + 0.05 * weights(count, 20, seed=seed + 50)


def test_the_output_changes_as_much_as_was_asked_for(tmp_path):
    proto, x = perceptron(), mixed(400, 7)
    (dense,) = run(proto, {"x": x[256:]})
    for step in (0.1, 0.03):
        found, _ = calibrated(proto, [torch.from_numpy(x[:256])], step, tmp_path)
        (y,) = run(found, {"x": x[256:]})
        part = np.square(y - dense).sum() / np.square(dense - dense.mean(0)).sum()
        assert step**2 / 8 < part < 2 * step**2


def test_weights_go_by_their_sizes_where_samples_held_out_say_so(tmp_path):
    """Half of the inputs are silent in all samples that rounding learns from, and loud in the others."""
    proto, x = perceptron(), mixed(256, 7).reshape(8, 32, 20)
    loud = x * np.where(np.arange(20) < 10, 1, np.where(np.arange(8) % 4 == 3, 30, 0)[:, None, None])
    for given in (x, loud.astype(np.float32)):
        found, watch = opened(proto, tmp_path), Listener()
        rounder = OnnxRounder(found, list(torch.from_numpy(given)), Progress())
        made = rounder(0.1)
        assert made.is_plain == (given is not x)
        assert made.error <= rounder._check.tried(rounder._predicted(0.1)).error
        assert set(made.grids) == {"first.weight", "second.weight"}
        recipe = Recipe(retrain=False, step=0.1)
        compress_model(found, recipe, tmp_path / "m.dc", rounder=rounder, watch=watch)
        kept, learned = np.concatenate(given[3::4]), np.concatenate(given[np.arange(8) % 4 != 3])
        (y,) = run(complete(model_in(tmp_path / "m.dc")), {"x": kept})
        (dense,), (other,) = run(proto, {"x": kept}), run(proto, {"x": learned[:32]})
        assert made.error == pytest.approx(np.square(y - dense).sum() / 64 / np.var(other, axis=0).sum(), rel=1e-3)
        said = [line for line in watch.lines if line.startswith("the weights are rounded by their sizes alone")]
        assert len(said) == made.is_plain


@pytest.mark.parametrize("count", [16, 64])
def test_few_samples_do_little_harm_to_others(count, tmp_path):
    proto, x = perceptron(), weights(400, 20, seed=5)
    found, _ = calibrated(proto, [torch.from_numpy(x[:count])], 0.1, tmp_path)
    (y,), (dense,) = run(found, {"x": x[count:]}), run(proto, {"x": x[count:]})
    assert np.square(y - dense).sum() < 3 * 0.1**2 * np.square(dense - dense.mean(0)).sum()


def test_it_is_better_than_without_samples_at_the_same_size(tmp_path):
    proto, x = perceptron(weights(200, 20), weights(200, 5, seed=1)), mixed(600, 7)
    (dense,) = run(proto, {"x": x[256:]})
    found, size = calibrated(proto, [torch.from_numpy(x[:256])], 0.06, tmp_path)
    (y,) = run(found, {"x": x[256:]})
    recipe = Recipe(retrain=False, target_size=size)
    assert compress_model(opened(proto, tmp_path), recipe, tmp_path / "free.dc").file_bytes >= 0.97 * size
    (free,) = run(complete(model_in(tmp_path / "free.dc")), {"x": x[256:]})
    assert np.square(y - dense).sum() < 0.6 * np.square(free - dense).sum()


def test_halves_are_calibrated_in_their_type(tmp_path):
    first, second = (tensor.astype(np.float16) for tensor in (weights(200, 20), weights(200, 5, seed=1)))
    proto = perceptron(first, second)
    proto.graph.initializer[1].CopyFrom(held("first.bias", weights(200, seed=2).astype(np.float16)))
    for each in (proto.graph.input[0], proto.graph.output[0]):
        each.type.tensor_type.elem_type = 10
    x = mixed(600, 7).astype(np.float16)
    found, size = calibrated(proto, [torch.from_numpy(x[:256])], 0.06, tmp_path)
    recipe = Recipe(retrain=False, target_size=size)
    compress_model(opened(proto, tmp_path), recipe, tmp_path / "free.dc")
    (dense,), (y,), (free,) = (
        run(each, {"x": x[256:]}) for each in (proto, found, complete(model_in(tmp_path / "free.dc")))
    )
    error, without = (np.square(each.astype(float) - dense).sum() for each in (y, free))
    assert error < 0.6 * without


def test_the_mean_error_goes_into_the_bias(tmp_path):
    proto, x = perceptron(), mixed(300, 3) + 2
    found, _ = calibrated(proto, [torch.from_numpy(x)], 0.3, tmp_path)
    old, new = tensors_of(proto), tensors_of(found)
    learned = np.concatenate([x[:114], x[152:266]])  # 8 parts, and each fourth is held out
    change = (new["first.weight"] - old["first.weight"]) @ learned.mean(0)
    assert np.allclose(new["first.bias"] - old["first.bias"], -change, atol=1e-3)
    assert np.abs(change).max() > 0.01


def test_a_look_up_and_an_unmet_weight(tmp_path):
    said = []
    watch = type("Said", (Progress,), {"message": lambda _, text: said.append(text)})()
    nodes = [node("Gather", ["table", "x"], ["a"]), node("ReduceMean", ["a"], ["b"], axes=[1], keepdims=0),
             node("Transpose", ["w"], ["t"]), node("MatMul", ["b", "t"], ["y"])]  # fmt: skip
    proto = model(nodes, [value("x", "N", 7, kind=7)], [value("y", "N", 30)],
                  [held("table", weights(50, 16)), held("w", weights(30, 16))])  # fmt: skip
    x = np.random.default_rng(0).integers(-50, 50, (64, 7))
    found, _ = calibrated(proto, [{"x": torch.from_numpy(x)}], 0.05, tmp_path, watch)
    (y,), (dense,) = run(found, {"x": x}), run(proto, {"x": x})
    assert 0 < np.linalg.norm(y - dense) < 0.2 * np.linalg.norm(dense)
    assert said == ["rounded without calibration, as no product with them was seen: w"]


@pytest.mark.parametrize(
    ("batches", "error", "said"),
    [
        ([torch.zeros(64, 21)], NetworkError, r"onnxruntime does not run the model on x \(\d+, 21\)"),
        ([torch.ones(4, 20)], DataError, "there are 4 samples to calibrate on, and at least 8"),
        ([torch.full((64, 20), float("nan"))], DataError, "there is NaN or infinity in the samples for x"),
        ([torch.ones(64, 20)], DataError, "the same for all samples"),
        ([(torch.ones(64, 20), torch.ones(64, 20))], DataError, "the model takes the inputs x, and a batch has 2"),
        ([{"z": torch.ones(64, 20)}], DataError, "the model takes the inputs x, and a batch has z"),
        ([{}], DataError, "needs the inputs x, too"),
    ],
)
def test_samples_that_do_not_fit(batches, error, said, tmp_path):
    with pytest.raises(error, match=said):
        OnnxRounder(opened(perceptron(), tmp_path), batches, Progress())


def test_a_budget_in_points_is_refused_with_samples_too(tmp_path):
    found = opened(perceptron(), tmp_path)
    rounder = OnnxRounder(found, [torch.randn(64, 20)], Progress())
    with pytest.raises(RecipeError, match="leave max_drop out"):
        compress_model(found, Recipe(retrain=False, max_drop=1.0), tmp_path / "m.dc", rounder=rounder)


def test_two_inputs_by_name_and_in_order(tmp_path):
    nodes = [node("Concat", ["p", "q"], ["x"], axis=1), *perceptron().graph.node]
    proto = model(
        nodes, [value("p", "N", 12), value("q", "N", 8)], [value("y", "N", 5)], perceptron().graph.initializer
    )
    x = torch.from_numpy(mixed(64, 1))
    one, _ = calibrated(proto, [{"q": x[:, 12:], "p": x[:, :12]}], 0.1, tmp_path)
    other, _ = calibrated(proto, [(x[:, :12], x[:, 12:])], 0.1, tmp_path)
    assert one == other


def test_a_model_that_takes_one_sample_at_a_time(tmp_path):
    proto = perceptron()
    for each in (proto.graph.input[0], proto.graph.output[0]):
        each.type.tensor_type.shape.dim[0].dim_value = 1
    found, _ = calibrated(proto, [torch.from_numpy(mixed(40, 1))], 0.1, tmp_path)
    old, new = (tensors_of(each)["first.weight"] for each in (proto, found))
    assert 0 < np.linalg.norm(new - old) < 0.2 * np.linalg.norm(old)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_equal_weights_are_rounded_alike(order, tmp_path):
    """Also where the graph meets them in another order than that in which it holds them."""
    same = weights(40, 40)
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])]
    proto = model(nodes, [value("x", "N", 40)], [value("y", "N", 40)], [held(each, same) for each in order])
    found = OnnxRounder(opened(proto, tmp_path), [torch.randn(256, 40, generator=torch.Generator())], Progress())(0.1)
    assert torch.equal(found.grids["a"].integers, found.grids["b"].integers)
    assert torch.equal(found.grids["a"].steps, found.grids["b"].steps)
