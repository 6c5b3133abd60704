"""Updates of tensors of layout 8: by their models, whatever a release would fit, and rounded rows by their numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from layout8 import ranked, rounded

from deepcompress.coding import scales
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.forms import RowScales
from deepcompress.coding.layouts.exact import Raw
from deepcompress.coding.layouts.ranked import Multiples, Numbers, encode_scaled
from deepcompress.coding.rans import codec, model
from deepcompress.coding.rans.model import Model
from deepcompress.coding.rans.shape import Cut, matrix_of
from deepcompress.coding.tensors import EncodedTensor, TensorInfo, TensorType
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container import version3, writer
from deepcompress.errors import FormatError
from deepcompress.recipe import Recipe
from deepcompress.updates import changes, fits, numbers
from deepcompress.updates.container import Kind, UpdateFile
from deepcompress.updates.describe import describe
from deepcompress.updates.differences import Coders
from deepcompress.updates.numbers import Steps, steps_of
from deepcompress.updates.update import diff, patch

GOLDEN = Path(__file__).parents[1] / "golden" / "updates"


def networks(seed=0):
    """A network before and after a little training."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (16, 4, 3, 3), "fc.weight": (30, 80), "fc.bias": (30,)}
    before = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    after = {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in before.items()}
    return before, after


@pytest.fixture(scope="module", params=["rows", "ranks"])
def files(request, tmp_path_factory):
    """The two as files: a step for each row, or a codebook for each tensor."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, tensors in zip(("old.dc", "new.dc"), networks(), strict=True):
        (rounded if request.param == "rows" else ranked)(tensors, folder / name)
    diff(folder / "old.dc", folder / "new.dc", folder / "u.dcp")
    return folder / "old.dc", folder / "new.dc", folder / "u.dcp"


def test_a_little_training_is_a_fraction_of_the_file(files):
    _, new, update = files
    assert update.stat().st_size < 0.6 * new.stat().st_size
    told = {change.name: change for change in describe(update).changes}
    assert told["conv.weight"].what == told["fc.weight"].what == "numbers"
    assert min(told["fc.weight"].back, told["fc.weight"].fell, told["fc.weight"].moved) > 0
    with UpdateFile(update) as opened:
        assert (opened.version, opened.kind) == (2, Kind.TENSORS)


def test_a_release_that_fits_otherwise_applies_it(files, monkeypatch, tmp_path):
    old, new, update = files

    def encode(*_):
        raise AssertionError("a model was fitted")

    monkeypatch.setattr(codec, "encode", encode)
    patch(old, update, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == new.read_bytes()


def test_other_updates_are_of_version_1(tmp_path):
    for name, tensors in zip(("a.dc", "b.dc"), networks(), strict=True):
        compress_state(tensors, Recipe(0.5, 4, retrain=False), tmp_path / name)
    diff(tmp_path / "a.dc", tmp_path / "b.dc", tmp_path / "u.dcp")
    with UpdateFile(tmp_path / "u.dcp") as opened:
        assert opened.version == 1


def test_memory_is_bounded(files, tmp_path):
    old, _, update = files
    with pytest.raises(FormatError, match="more than the 9000 "):
        patch(old, update, tmp_path / "out", max_bytes=9000)
    assert not (tmp_path / "out").exists()


# Numbers -------------------------------------------------------------------------------------------------------


def numbers_of(symbols, steps):
    """The inverse of `Steps.symbols`."""
    ranks = symbols.astype(np.int64) + steps.low
    return np.where(symbols == 0, 0, np.where(ranks <= 0, ranks - 1, ranks))


def test_the_numbers_of_multiples_are_found_again():
    """Of all numbers, by steps from the smallest to the largest."""
    integers = np.arange(-16_383, 16_385)
    smallest, largest = np.float32(2.0**-126), np.float32(2.0**100)
    for scale, exponents in ((smallest, range(8)), (largest, range(8)), (np.float32(0.0123), range(0, 256, 9))):
        of_rows = scales.steps(scale, np.array(exponents))
        steps = Steps(-16_383, 16_384, of_rows)
        found = steps.symbols(scales.values(np.tile(integers, (len(of_rows), 1)), of_rows))
        assert np.array_equal(numbers_of(found, steps).reshape(len(of_rows), -1), np.tile(integers, (len(of_rows), 1)))
        assert found.max() == steps.entries == 32_767


@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
def test_what_is_expected_of_other_values(monkeypatch, chunk):
    monkeypatch.setattr(numbers, "_CHUNK", chunk)
    values = [[0.24, 0.26, 0.75, 1.25], [-0.5, -1.49, 1e30, -1e30], [np.nan, np.inf, -np.inf, -0.0]]
    steps = Steps(-3, 2, np.array([0.5, 1, 2], np.float32))
    found = numbers_of(steps.symbols(np.array(values, np.float32)), steps)
    assert found.tolist() == [0, 1, 2, 2, 0, -1, 2, -3, 0, 2, -3, 0]
    assert steps.symbols(np.array(values, np.float32))[:4].tolist() == [0, 4, 5, 5]  # -3 to -1 are 1 to 3


@pytest.mark.parametrize(
    ("low", "high", "entries"), [(0, 0, 0), (-3, 4, 7), (2, 5, 5), (-9, -2, 9), (-16_383, 16_384, 32_767)]
)
def test_limits_that_leave_0_out_have_it_all_the_same(low, high, entries):
    raw = scales.pack(np.float32(1), np.zeros(2, np.uint8))
    info = TensorInfo((2, 9), DType.FLOAT32, Multiples(RowScales(low, high, len(raw)), 0, Numbers(0, 0)))
    found = steps_of(info, raw)
    assert (found.low, found.high, found.entries) == (min(low, 0), max(high, 0), entries)


def test_rows_whose_steps_change_are_told_by_the_nearest_numbers(tmp_path):
    """A step that is a quarter octave larger moves no weight: what is expected is the number nearest to the old one."""
    rng = np.random.default_rng(0)
    integers, exponents = rng.integers(-40, 41, (40, 50)), rng.integers(0, 9, 40)
    coarser = exponents + rng.integers(0, 2, 40)
    factor = scales.steps(np.float32(1), exponents) / scales.steps(np.float32(1), coarser).astype(np.float64)
    nearest = np.rint(integers * factor[:, None]).astype(int)
    for name, found, of_rows in (("old.dc", integers, exponents), ("new.dc", nearest, coarser)):
        writer.save(tmp_path / name, [("w", encode_scaled(found, np.float32(0.01), of_rows))])
    diff(tmp_path / "old.dc", tmp_path / "new.dc", tmp_path / "u.dcp")
    (change,) = describe(tmp_path / "u.dcp").changes
    assert (change.what, change.codebook) == ("numbers", "moved")
    assert (change.back, change.moved) == (0, 0)
    assert change.bytes < 120


# Models --------------------------------------------------------------------------------------------------------

GAPS = Model(
    Cut(7, 1, 2), True, -3, (np.arange(40, dtype=np.uint8), None, np.full(30, 5, np.uint8)), (), 0,
    (np.arange(64) // 40).astype(np.uint8), np.array([[49, 3, 0], [1, 0, 9]], np.uint8),
)  # fmt: skip
DENSE = Model(
    Cut(40, 1, 1), False, 2, (None, None, np.arange(30, dtype=np.uint8)), (model.Neighbour(1, 2, -3, 4),), 7,
    (np.arange(128) // 50).astype(np.uint8), np.array([[49, 3, 0, 7], [1, 0, 9, 8], [4, 4, 4, 4]], np.uint8),
)  # fmt: skip
TYPE = TensorType((40, 30), DType.FLOAT32)


@pytest.mark.parametrize(("new", "old"), [(GAPS, DENSE), (DENSE, GAPS), (GAPS, GAPS), (DENSE, replace(DENSE, base=9))])
def test_a_model_by_another(new, old):
    raw, before = model.pack(new), model.pack(old)
    told = fits.tell(raw, TYPE, before, TYPE, Coders(100))
    assert fits.read(told, TYPE, before, TYPE, Coders(100)) == raw
    assert (len(told) < 30) == ((new is GAPS and old is GAPS) or (new is DENSE and old is not GAPS))
    with pytest.raises(FormatError):
        fits.read(told[:-1], TYPE, before, TYPE, Coders(100))


def test_a_model_of_another_shape():
    small = TensorType((20, 25), DType.FLOAT32)
    cut = replace(GAPS, axes=(np.arange(20, dtype=np.uint8), None, np.full(25, 4, np.uint8)))
    raw, before = model.pack(cut), model.pack(GAPS)
    told = fits.tell(raw, small, before, TYPE, Coders(100))
    assert fits.read(told, small, before, TYPE, Coders(100)) == raw


def test_planes_that_were_written_otherwise_are_not_told_by_others():
    one = model.pack(replace(GAPS, axes=(np.full(40, 1, np.uint8), None, None)))
    fixed = one.replace(
        b"\xfd\1\1\1\1\1", b"\xfd\1\1\2\x1e" + 10 * b"\4\x10\x41"
    )  # all of one class: constant, or 6 bits
    assert len(fixed) == len(one) + 29
    for raw, is_told in ((one, True), (fixed, False)):
        found = model.unpack(Reader(raw, "model"), matrix_of((40, 30)))
        assert (found.axes[0] == 1).all()
        assert (fits.tell(raw, TYPE, model.pack(GAPS), TYPE, Coders(100)) is not None) == is_told


def test_symbols_beyond_a_plane_are_refused():
    coders = Coders(100)
    old = np.concatenate([part.reshape(-1) for part in (*GAPS.axes, GAPS.contexts, GAPS.levels) if part is not None])
    new = old.copy()
    new[3] = 64
    shell = model.pack(GAPS, plane=lambda symbols, alphabet: b"")
    told = shell + coders.of(1).copy().encode(new, old)
    with pytest.raises(FormatError, match="symbol 64 in a plane"):
        fits.read(told, TYPE, model.pack(GAPS), TYPE, coders)


# What is learned -----------------------------------------------------------------------------------------------


def by_huffman(tensors, path):
    compress_state(tensors, Recipe(0.5, 3, retrain=False), path)


@pytest.mark.parametrize(("make", "way"), [(by_huffman, "shared"), (ranked, "numbers"), (rounded, "numbers")])
def test_nothing_is_learned_from_what_is_stored_in_the_end(tmp_path, monkeypatch, make, way):
    """The changes of the first tensor take more than its section, but its codebook was told already."""
    generator = torch.Generator().manual_seed(0)
    before = {"a": torch.randn(30, 40, generator=generator), "b": torch.randn(30, 40, generator=generator)}
    after = {name: value * 1.01 for name, value in before.items()}
    for name, tensors in (("old.dc", before), ("new.dc", after)):
        make(tensors, tmp_path / name)
    encode, calls = changes.encode, []

    def long_first(*arguments):
        calls.append(arguments)
        return encode(*arguments) + bytes(9999 if len(calls) == 1 else 0)

    monkeypatch.setattr(changes, "encode", long_first)
    diff(tmp_path / "old.dc", tmp_path / "new.dc", tmp_path / "u.dcp")
    assert [(change.what, change.codebook) for change in describe(tmp_path / "u.dcp").changes] == [
        ("new", ""),
        (way, "moved"),
    ]
    patch(tmp_path / "old.dc", tmp_path / "u.dcp", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "new.dc").read_bytes()


def test_whole_numbers_are_not_told_by_other_dtypes(tmp_path):
    integers = np.arange(-200, 200).reshape(20, 20)
    new = encode_scaled(integers, np.float32(0.01), np.zeros(20))
    halves = (integers.astype(np.float32) * np.float32(0.01)).astype(np.float16)
    old = EncodedTensor(TensorInfo((20, 20), DType.FLOAT16, Raw()), halves.tobytes())
    for name, tensor in (("old.dc", old), ("new.dc", new)):
        writer.save(tmp_path / name, [("w", tensor), ("more", tensor)])
    diff(tmp_path / "old.dc", tmp_path / "new.dc", tmp_path / "u.dcp")
    assert "numbers" not in [change.what for change in describe(tmp_path / "u.dcp").changes]
    layout, stored = version3.pack_info(new.info), new.info.layout.scales
    facts = b"\0\5\0\1w\0" + varint(len(layout)) + layout + b"\1" + stored.pack() + bytes(6)
    head = bytearray((tmp_path / "u.dcp").read_bytes()[:29])
    head[3], head[28] = 2, Kind.TENSORS
    (tmp_path / "u.dcp").write_bytes(head + varint(len(facts)) + b"\0" + facts + new.section[: stored.length])
    with pytest.raises(FormatError, match="whole numbers cannot be told by w, which is of FLOAT16"):
        patch(tmp_path / "old.dc", tmp_path / "u.dcp", tmp_path / "out")
