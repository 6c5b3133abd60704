"""ONNX models in two parts, the graph and its tensors: every way in which a model keeps values, and back again."""

from __future__ import annotations

import random

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs pip install -e '.[onnx]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tiny import held, model, perceptron, value, weights  # noqa: E402

from deepcompress.errors import CheckpointError, FormatError, OutputError  # noqa: E402
from deepcompress.graphs import restore  # noqa: E402
from deepcompress.graphs.compress import compress_model  # noqa: E402
from deepcompress.graphs.model import FEWEST, OnnxModel, open_model  # noqa: E402
from deepcompress.graphs.restore import complete, model_in, save  # noqa: E402
from deepcompress.graphs.roles import weights_of  # noqa: E402
from deepcompress.graphs.values import PACKED, TYPES  # noqa: E402
from deepcompress.recipe import Recipe  # noqa: E402

ROUNDED = Recipe(retrain=False)
KINDS = sorted({*TYPES, *PACKED} & set(TensorProto.DataType.values()))


def with_tensor(tensor):
    """A model that hands one tensor of whatever type to an operator that nobody knows."""
    node = helper.make_node("Anything", [tensor.name], ["y"], domain="somebody")
    return model([node], [], [value("y")], [tensor], opsets=[helper.make_opsetid("somebody", 1)])


def there_and_back(proto, tmp_path):
    """The model of the .dc file that a model becomes; its tensors in the file."""
    onnx.save(proto, tmp_path / "m.onnx")
    compress_model(open_model(tmp_path / "m.onnx"), ROUNDED, tmp_path / "m.dc")
    return complete(model_in(tmp_path / "m.dc")), model_in(tmp_path / "m.dc").tensors.in_memory()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_comes_back_bit_for_bit(kind, raw, tmp_path):
    code = np.arange(24) % 2 if kind == TensorProto.BOOL else np.arange(24) % 4
    array = code.reshape(2, 3, 4).astype(helper.tensor_dtype_to_np_dtype(kind))
    tensor = numpy_helper.from_array(array, "t")
    if not raw:
        tensor = helper.make_tensor("t", kind, array.shape, array.reshape(-1))
        assert not tensor.raw_data
    back, _ = there_and_back(with_tensor(tensor), tmp_path)
    (found,) = back.graph.initializer
    assert (found.data_type, list(found.dims)) == (kind, [2, 3, 4])
    assert numpy_helper.to_array(found).tobytes() == array.tobytes()
    assert found.raw_data == numpy_helper.from_array(array, "t").raw_data


def test_text_and_types_that_nobody_knows_stay_in_the_graph(tmp_path):
    text = helper.make_tensor("t", TensorProto.STRING, [2], [b"one", b"two"])
    unknown = TensorProto(name="u", data_type=99, dims=[2], raw_data=b"\1\2\3")
    proto = with_tensor(text)
    proto.graph.initializer.extend([unknown, held("w", weights(3))])
    back, tensors = there_and_back(proto, tmp_path)
    assert back == proto
    assert list(tensors) == ["w"]


def test_what_is_less_than_a_byte_stays_packed(tmp_path):
    array = (np.arange(30) % 16).reshape(5, 6).astype(helper.tensor_dtype_to_np_dtype(TensorProto.UINT4))
    _, tensors = there_and_back(with_tensor(numpy_helper.from_array(array, "t")), tmp_path)
    assert tensors["t"].shape == (5, 3)
    odd = (np.arange(15) % 16).reshape(5, 3).astype(array.dtype)
    back, tensors = there_and_back(with_tensor(numpy_helper.from_array(odd, "t")), tmp_path)
    assert tensors["t"].shape == (8,)
    assert (numpy_helper.to_array(back.graph.initializer[0]) == odd).all()


def test_a_model_comes_back_as_it_was_but_for_its_rounded_weights(tmp_path):
    proto = perceptron()
    proto.metadata_props.add(key="labels", value="a,b")
    back, tensors = there_and_back(proto, tmp_path)
    for name, found in tensors.items():
        stored = dict(_values(back))[name]
        assert (numpy_helper.to_array(stored) == found.numpy()).all(), name
        stored.CopyFrom(dict(_values(proto))[name])
    assert back == proto


def _values(proto):
    yield from ((tensor.name, tensor) for tensor in proto.graph.initializer)
    yield from (
        (node.output[0], each.t) for node in proto.graph.node for each in node.attribute if each.name == "value"
    )


def test_constants_of_few_numbers_stay_in_the_graph(tmp_path):
    nodes = [helper.make_node("Constant", [], ["s"], value=held("", np.arange(FEWEST - 1, dtype=np.float32)))]
    nodes += [helper.make_node("Constant", [], ["t"], value=held("", np.arange(FEWEST, dtype=np.float32)))]
    nodes += [helper.make_node("Add", ["x", "s"], ["y"])]
    onnx.save(model(nodes, [value("x", FEWEST - 1)], [value("y", FEWEST - 1)]), tmp_path / "m.onnx")
    assert list(open_model(tmp_path / "m.onnx").tensors) == ["t"]


def test_notes_of_exporters_are_left_out(tmp_path):
    proto = perceptron()
    proto.graph.node[0].doc_string = "/home/somebody/net.py"
    proto.graph.node[0].metadata_props.add(key="stack_trace", value="/home/somebody/net.py:7")
    onnx.save(proto, tmp_path / "m.onnx")
    assert b"somebody" not in open_model(tmp_path / "m.onnx").graph


def test_names_that_occur_twice_or_cannot_be_printed(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Add", ["w", "bad\x1bname"], ["z"])], "g", [], [value("z", 2, 5)],
        [held("w", weights(2, 5)), held("bad\x1bname", weights(2, 5, seed=1))],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["z"])], "h", [], [value("z", 2, 5)], [held("w", weights(2, 5, seed=2))]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
    proto = model([node], [value("c", kind=TensorProto.BOOL)], [value("y", 2, 5)])
    back, tensors = there_and_back(proto, tmp_path)
    assert list(tensors) == ["w", "w.2", "tensor"]
    for mine, theirs in zip(back.graph.node[0].attribute, proto.graph.node[0].attribute, strict=True):
        assert [t.name for t in mine.g.initializer] == [t.name for t in theirs.g.initializer]
        assert [t.raw_data for t in mine.g.initializer] == [t.raw_data for t in theirs.g.initializer]


# Values in other files --------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    onnx.save(
        perceptron(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    return tmp_path / "m.onnx"


def moved(path, **facts):
    """The model with other facts about where its first tensor lies."""
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    known = {entry.key: entry.value for entry in tensor.external_data} | facts
    del tensor.external_data[:]
    for key, text in known.items():
        tensor.external_data.add(key=key, value=text)
    path.write_bytes(proto.SerializeToString())


def test_values_in_another_file(outside, tmp_path):
    found = open_model(outside)
    assert (found.tensors["first.weight"].numpy() == weights(40, 20)).all()
    assert (found.tensors["second.weight"].numpy() == weights(40, 5, seed=1)).all()
    assert found.bytes == outside.stat().st_size + (tmp_path / "m.data").stat().st_size
    compress_model(found, ROUNDED, tmp_path / "m.dc")
    onnx.checker.check_model(complete(model_in(tmp_path / "m.dc")))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"location": "gone.data"}, r"first\.weight: its values are in the file .*gone\.data, which is not there"),
        ({"location": "../m.data"}, r"in '\.\./m\.data', which is no file in the model's folder"),
        ({"location": "/etc/passwd"}, "which is no file in the model's folder; it is not opened"),
        ({"location": "C:\\x"}, "no file in the model's folder"),
        ({"location": ""}, "no file in the model's folder"),
        ({"location": "a/../../x"}, "no file in the model's folder"),
        ({"offset": "999999"}, "it is cut short"),
        ({"offset": "-4"}, "it is cut short"),
        ({"length": "8"}, "needs 3,200 bytes, and it has 8"),
        ({"length": "many"}, "are no numbers"),
    ],
)
def test_values_that_are_not_where_the_model_says(outside, facts, said):
    moved(outside, **facts)
    with pytest.raises(CheckpointError, match=said):
        open_model(outside).tensors["first.weight"]


def test_a_link_does_not_lead_out_of_the_folder(outside, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    outside.rename(inner / "m.onnx")
    (inner / "m.data").symlink_to(tmp_path / "m.data")
    with pytest.raises(CheckpointError, match="a link that leaves the model's folder"):
        open_model(inner / "m.onnx")
    blob = tmp_path / "blob"
    (inner / "m.onnx").rename(blob)  # a cache of downloads: the model is a link itself, and beside its data
    (inner / "m.onnx").symlink_to(blob)
    assert (open_model(inner / "m.onnx").tensors["first.weight"].numpy() == weights(40, 20)).all()


def test_a_model_too_large_for_one_file_has_its_values_beside_it(tmp_path, monkeypatch):
    _, tensors = there_and_back(perceptron(), tmp_path)
    monkeypatch.setattr(restore, "MOST_INSIDE", 1000)
    assert save(model_in(tmp_path / "m.dc"), tmp_path / "big.onnx") == 3
    found = onnx.load(tmp_path / "big.onnx")
    assert {name: numpy_helper.to_array(t).tolist() for name, t in _values(found)} == {
        name: value.tolist() for name, value in tensors.items()
    }
    with pytest.raises(OutputError, match=r"big\.onnx\.data, where the values of so large a model go: there is"):
        save(model_in(tmp_path / "m.dc"), tmp_path / "big.onnx")


# What is no model -------------------------------------------------------------------------------------------


def test_what_is_no_model(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    with pytest.raises(CheckpointError, match="no such file"):
        open_model(path)
    for content in (b"", b"hello, world", b"\x08\x08", perceptron().SerializeToString()[:-50]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not an ONNX model"):
            open_model(path)
    path.write_bytes(perceptron().SerializeToString())
    monkeypatch.setattr("deepcompress.graphs.model.MOST_BYTES", 100)
    with pytest.raises(CheckpointError, match="one ONNX file holds at most 100: save the model with its values in an"):
        open_model(path)


def test_whatever_the_bytes_are_the_answer_is_an_error_of_ours(tmp_path):
    onnx.save(perceptron(weights(3, 4), weights(3, 2)), tmp_path / "m.onnx")
    good, raw = open_model(tmp_path / "m.onnx"), (tmp_path / "m.onnx").read_bytes()
    chance, refused = random.Random(0), 0
    for _ in range(150):
        for whole in (raw, good.graph):
            changed = bytearray(whole)
            for _ in range(chance.randint(1, 3)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            try:
                if whole is raw:
                    (tmp_path / "m.onnx").write_bytes(changed)
                    weights_of(open_model(tmp_path / "m.onnx"))
                else:
                    complete(OnnxModel(bytes(changed), good.tensors, good.bytes))
            except (CheckpointError, FormatError):
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.dims.append(3), r"its shape \(40, 20, 3\) needs 9,600 bytes, and it has 3,200"),
        (lambda t: t.dims.append(-1), "impossible shape"),
        (lambda t: t.dims.extend([1 << 40, 1 << 40]), "impossible shape"),
        (lambda t: t.ClearField("raw_data"), "needs 3,200 bytes, and it has 0"),
    ],
)
def test_tensors_that_are_not_what_they_say(change, said, tmp_path):
    proto = perceptron()
    change(proto.graph.initializer[0])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match=said):
        open_model(tmp_path / "m.onnx")


def test_a_graph_that_points_at_what_is_not_there(tmp_path):
    there_and_back(perceptron(), tmp_path)
    good = model_in(tmp_path / "m.dc")
    assert complete(good)
    for old, new, said in (
        ("first.bias", "second.bias", "which the file does not have for it"),
        ("first.bias", "first.weight", "which the file does not have for it"),
    ):
        proto = good.proto()
        (entry,) = next(t for t in proto.graph.initializer if t.name == old).external_data
        entry.value = new
        with pytest.raises(FormatError, match=said):
            complete(OnnxModel(proto.SerializeToString(), good.tensors, good.bytes))
    proto = good.proto()
    proto.graph.initializer[0].dims[0] = 41
    with pytest.raises(FormatError, match=r"first\.weight is torch\.float32 of shape \(40, 20\) in the file"):
        complete(OnnxModel(proto.SerializeToString(), good.tensors, good.bytes))
