"""A file written again: the same tensors, bit for bit, in other bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import deepcompress
from deepcompress.cli import main
from deepcompress.coding.encoder import CODERS, alias, encode_coded, encode_plain
from deepcompress.coding.tensors import DType, Encoding
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError, OutputError

RESULTS = Path(__file__).parents[2] / "results"
BOOK = np.array([-1, -0.5, 0.5, 0.75], dtype=np.float32)


def weights(shape, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.1, rng.choice(BOOK, shape), 0).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    first, second = weights((30, 40), 0), weights((20, 30), 1)
    literal = np.where(first != 0, np.random.default_rng(2).normal(size=first.shape), 0).astype(np.float32)
    tensors = [
        ("a.weight", encode_coded(first, DType.FLOAT32, BOOK)),
        ("b.weight", encode_coded(second, DType.FLOAT32, BOOK, target=0)),
        ("b.tied", alias(second.shape, DType.FLOAT32, 1)),
        ("literal", encode_coded(literal, DType.FLOAT32, None)),
        ("bias", encode_plain(np.full(30, -0.1, np.float32), DType.FLOAT32)),
        ("zeros", encode_coded(np.zeros((9, 9), np.float32), DType.FLOAT32, BOOK)),
        ("steps", encode_plain(np.array(3), DType.INT64)),
    ]
    path = tmp_path / "m.dc"
    path.write_bytes(pack(tensors, "net", "digits"))
    return path


def content(path):
    with ModelFile(path) as file:
        file.check()
        found = {name: (values.tobytes(), values.shape, dtype) for name in file for values, dtype in [file.read(name)]}
        return found, file.header.network, file.header.data


@pytest.mark.parametrize("coder", CODERS)
def test_the_tensors_stay_as_they_are(model, tmp_path, coder):
    before, size = content(model), model.stat().st_size
    found = deepcompress.recode(model, tmp_path / "out.dc", coder)
    assert content(tmp_path / "out.dc") == content(model) == before
    assert found.as_dict() == {
        "file": str(tmp_path / "out.dc"),
        "file_bytes": (tmp_path / "out.dc").stat().st_size,
        "bytes_before": size,
    }
    with ModelFile(tmp_path / "out.dc") as file:
        assert file.entry("b.tied").info.encoding is Encoding.ALIAS
        assert file.entry("b.weight").info.target == 0
        assert file.entry("a.weight").info.layout.codebook.count == len(BOOK)


def test_there_and_back(model, tmp_path):
    before = model.read_bytes()
    for coder in ("auto", "ans", "fixed", "huffman"):
        deepcompress.recode(model, coder=coder)
    assert content(model)[0].keys() == {"a.weight", "b.weight", "b.tied", "literal", "bias", "zeros", "steps"}
    assert len(model.read_bytes()) <= len(before)


def test_a_result_gets_smaller(tmp_path):
    found = deepcompress.recode(RESULTS / "lenet-300-100-small-seed0.dc", tmp_path / "out.dc")
    assert found.file_bytes < 0.88 * found.bytes_before
    assert content(tmp_path / "out.dc") == content(RESULTS / "lenet-300-100-small-seed0.dc")


def test_what_goes_wrong(model, tmp_path):
    with pytest.raises(ValueError, match="unknown coder 'zip'; known: huffman, fixed, ans, auto"):
        deepcompress.recode(model, coder="zip")
    with pytest.raises(OutputError):
        deepcompress.recode(model, tmp_path / "none" / "out.dc")
    with pytest.raises(FormatError, match="more than the 10 allowed"):
        deepcompress.recode(model, max_bytes=10)
    before = model.read_bytes()
    damaged = before[:-1] + bytes([before[-1] ^ 1])
    model.write_bytes(damaged)
    with pytest.raises(FormatError):
        deepcompress.recode(model)
    assert model.read_bytes() == damaged
    assert list(tmp_path.iterdir()) == [model]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command(model, tmp_path):
    size = model.stat().st_size
    result = run("recode", model, "-o", tmp_path / "o.dc", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["bytes_before"] == size > found["file_bytes"] == (tmp_path / "o.dc").stat().st_size
    result = run("recode", model, "--coder", "ans")
    assert f"{size:,} → {model.stat().st_size:,} bytes (-" in result.stdout
    assert run("recode", model, "--coder", "zip").exit_code == 2
    assert run("recode", tmp_path / "none.dc").exit_code == 1
