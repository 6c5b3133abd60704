"""Layout 8 of version 3, ranks and multiples: its golden file, what is written when, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepcompress.coding import scales
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import FEW, encode_coded
from deepcompress.coding.forms import SharedCodebook, StoredCodebook
from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.layouts.coded import sort
from deepcompress.coding.layouts.ranked import Multiples, Ranks, encode_ranks, encode_scaled
from deepcompress.coding.layouts.ranked import encode as ranked_encode
from deepcompress.coding.survey import survey
from deepcompress.coding.tensors import EncodedTensor, TensorType
from deepcompress.container.breakdown import inspect
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError
from deepcompress.reading.recode import recode

GOLDEN = Path(__file__).parent.parent / "golden" / "v3-rans-2.dc"
EARLIER = GOLDEN.with_name("v3-rans.dc")  # of an encoder that chose other models: not to be made again, but read
BOOK = np.array([-0.75, -0.3, 0.1, 0.2, 0.9], "<f4")


def drawn(size, limit):
    """Integers below `limit` that a linear congruence gives."""
    return (
        np.arange(size, dtype=np.uint64) * np.uint64(2_654_435_761) % np.uint64(1 << 32) >> np.uint64(9)
    ) % np.uint64(limit)


def ranks(size, zeros):
    """Ranks from -2 to 3, 0 more often."""
    found = drawn(size, 6 + zeros).astype(np.int16) - 2
    return np.where(found > 3, 0, found).astype(np.int16)


def values_of(found, book=BOOK):
    negative = int((book < 0).sum())
    return np.insert(book, negative, 0).astype(book.dtype)[found.astype(int) + negative]


def ranked(found, shape, book=BOOK, dtype=DType.FLOAT32, target=None):
    if target is not None:
        return encode_ranks(found, TensorType(shape, dtype), SharedCodebook(target, len(book)), b"")
    return encode_ranks(found, TensorType(shape, dtype), StoredCodebook(count=len(book)), book.tobytes())


THICK, THIN = ranks(1200, 1), ranks(3000, 60)
SMOOTH = (np.cumsum(drawn(3000, 7).astype(int) - 3).reshape(50, 60) % 300 - 150).astype(np.int32)
WIDE = np.where(drawn(600, 5) == 0, drawn(600, 65_535).astype(int) - 32_767, 0).reshape(20, 30)
EXPONENTS = drawn(50, 20).astype(np.uint8)
EIGHTHS = np.array([0x80, 0xB8, 0x38], "|u1")
TENSORS = {
    "ranks": (values_of(THICK).reshape(10, 12, 5, 2), DType.FLOAT32, ranked(THICK, (10, 12, 5, 2))),
    "shared": (values_of(THIN).reshape(60, 50), DType.FLOAT32, ranked(THIN, (60, 50), target=0)),
    "vector": (values_of(THICK), DType.FLOAT32, ranked(THICK, (1200,), target=0)),
    "multiples": (
        scales.values(SMOOTH, scales.steps(np.float32(0.01), EXPONENTS)),
        DType.FLOAT32,
        encode_scaled(SMOOTH, np.float32(0.01), EXPONENTS),
    ),
    "wide": (
        scales.values(WIDE, scales.steps(np.float32(3e-20), np.full(20, 255))),
        DType.FLOAT32,
        encode_scaled(WIDE, np.float32(3e-20), np.full(20, 255)),
    ),
    "float8": (
        (e := np.array([0xB8, 0x80, 0, 0x38], "|u1")[drawn(400, 4).astype(int)]),
        DType.FLOAT8_E4M3FN,
        ranked(np.array([-2, -1, 0, 1], np.int16)[drawn(400, 4).astype(int)], (400,), EIGHTHS, DType.FLOAT8_E4M3FN),
    ),
}


def packed(tensors=TENSORS):
    return pack([(name, encoded) for name, (_, _, encoded) in tensors.items()], "golden", "digits")


def test_the_golden_file_is_what_the_writer_makes():
    made = packed()
    assert made == GOLDEN.read_bytes(), "layout 8 changed: that needs a new version, and other models a new golden file"
    assert len(made) < EARLIER.stat().st_size


@pytest.mark.parametrize("golden", [GOLDEN, EARLIER], ids=["golden", "earlier"])
def test_the_golden_file_is_read_bit_for_bit(load, golden):
    expected = {name: (values.tobytes(), values.shape, dtype) for name, (values, dtype, _) in TENSORS.items()}
    assert load(golden.read_bytes()) == expected


@pytest.mark.parametrize("golden", [GOLDEN, EARLIER], ids=["golden", "earlier"])
def test_the_golden_file_has_all_that_the_layout_has(save, golden):
    with ModelFile(save(golden.read_bytes())) as file:
        infos = [entry.info for entry in file.header.entries]
    assert {type(info.layout) for info in infos} == {Ranks, Multiples}
    assert {info.target for info in infos} == {None, 0}
    modes = [encoded.section[encoded.info.codebook] for _, _, encoded in TENSORS.values()]
    assert set(modes) == {0, 1}


def test_what_inspect_says(save):
    path = save(packed())
    found = inspect(path)
    assert sum(found.sections.values()) == found.file_bytes == path.stat().st_size
    layers = {layer.name: layer for layer in found.layers}
    assert (layers["ranks"].coder, layers["ranks"].bits, layers["ranks"].book) == ("rans", 3, "entries")
    assert (layers["multiples"].bits, layers["multiples"].book) == (9, "rows")
    assert layers["wide"].nonzeros == np.count_nonzero(WIDE)


@pytest.mark.parametrize("name", ["ranks", "shared", "vector"])
def test_survivors_without_the_dense_tensor(save, name):
    values, _, _ = TENSORS[name]
    with ModelFile(save(packed())) as file:
        found, _ = file.read_survivors(name)
    flat = values.reshape(-1)
    assert np.array_equal(found.positions, np.flatnonzero(flat))
    assert np.array_equal(found.codebook[found.indices].view("<f4"), flat[flat != 0])


@pytest.mark.parametrize("coder", ["huffman", "ans", "auto", "rans", "fixed"])
def test_recoding_keeps_every_bit(save, load, tmp_path, coder):
    path = save(packed())
    before = load(path.read_bytes())
    recode(path, tmp_path / "other.dc", coder)
    recode(tmp_path / "other.dc", tmp_path / "back.dc", "rans")
    for name in ("other.dc", "back.dc"):
        assert load((tmp_path / name).read_bytes()) == before


def test_the_smallest_is_chosen():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((300, 400)) < 0.3, BOOK[rng.binomial(4, 0.5, (300, 400))], 0).astype("<f4")
    sizes = {coder: encode_coded(values, DType.FLOAT32, BOOK, coder) for coder in ("huffman", "ans", "rans", "auto")}
    assert isinstance(sizes["rans"].info.layout, Ranks)
    assert len(sizes["rans"].section) < len(sizes["huffman"].section)
    assert len(sizes["auto"].section) <= min(len(made.section) for made in sizes.values())


def test_few_bytes_go_to_the_smaller_of_two_coders():
    rng = np.random.default_rng(0)
    rows = rng.gamma(1, 1, (100, 1))
    values = np.where(rng.random((100, 300)) < 0.05 * rows, BOOK[rng.binomial(4, 0.5, (100, 300))], 0).astype("<f4")
    found = {coder: encode_coded(values, DType.FLOAT32, BOOK, coder) for coder in ("ans", "rans")}
    alone = ranked_encode(survey(values, DType.FLOAT32, BOOK), sort(values, survey(values, DType.FLOAT32, BOOK), None))
    assert len(found["ans"].section) < len(alone.section) < FEW  # what this is a case of
    assert isinstance(found["rans"].info.layout, Adaptive)
    assert found["rans"].section == found["ans"].section
    tiny = encode_coded(values[:10].copy(), DType.FLOAT32, BOOK, "rans")
    assert isinstance(tiny.info.layout, Adaptive)


def test_many_bytes_are_left_to_rans():
    rng = np.random.default_rng(0)
    values = BOOK[rng.binomial(4, 0.5, (300, 300))]
    assert isinstance(encode_coded(values, DType.FLOAT32, BOOK, "rans").info.layout, Ranks)
    assert len(encode_coded(values, DType.FLOAT32, BOOK, "rans").section) > FEW


# Scales ----------------------------------------------------------------------------------------------------------


def test_steps_are_quarters_of_octaves():
    steps = scales.steps(np.float32(0.75), np.arange(9))
    assert steps.dtype == np.dtype("<f4")
    assert steps[[0, 4, 8]].tolist() == [0.75, 1.5, 3]
    assert np.allclose(steps, 0.75 * 2 ** (np.arange(9) / 4), rtol=1e-7, atol=0)


def test_the_nearest_steps_are_found():
    wanted = np.array([0.1, 0.13, 5, 1e30])
    scale, exponents = scales.fit(wanted)
    assert scale == np.float32(0.1) and exponents.tolist() == [0, 2, 23, 255]
    assert (np.abs(np.log2(scales.steps(scale, exponents)[:3] / wanted[:3])) <= 1 / 8 + 1e-6).all()
    for wrong in ([], [0.0, 1], [np.nan], [-1.0], [[1.0]]):
        with pytest.raises(ValueError, match="positive numbers"):
            scales.fit(np.array(wrong))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones(4, int), np.float32(1), np.zeros(4, int)), ValueError, "two dimensions or more"),
        ((np.ones((4, 2), int), np.float32(1), np.zeros(3, int)), ValueError, "an exponent for each row"),
        ((np.ones((4, 2)), np.float32(1), np.zeros(4, int)), ValueError, "needs integers"),
        ((np.full((4, 2), -32_768), np.float32(1), np.zeros(4, int)), ValueError, "none of them above 32767"),
        ((np.ones((0, 2), int), np.float32(1), np.zeros(0, int)), ValueError, "there must be integers"),
        ((np.ones((4, 2), int), np.float32(1), np.full(4, 256)), ValueError, "must be 0 to 255"),
        ((np.ones((4, 2), int), np.float32(1), np.full(4, -1)), ValueError, "must be 0 to 255"),
        ((np.ones((4, 2), int), np.float32(0), np.zeros(4, int)), FormatError, "2\\^-126"),
        ((np.ones((4, 2), int), np.float32("nan"), np.zeros(4, int)), FormatError, "2\\^-126"),
        ((np.ones((4, 2), int), np.float32(1e-40), np.zeros(4, int)), FormatError, "2\\^-126"),
        ((np.full((4, 2), 32_767), np.float32(1e30), np.full(4, 60)), FormatError, "too large"),
    ],
)  # fmt: skip
def test_scales_that_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        encode_scaled(*arguments)


# What is refused -------------------------------------------------------------------------------------------------

GOOD = TENSORS["multiples"][2]


def with_type(encoded, **changes):
    return EncodedTensor(replace(encoded.info, **changes), encoded.section)


def with_fields(encoded, **changes):
    return with_type(encoded, layout=replace(encoded.info.layout, **changes))


def with_limits(encoded, low, high):
    return with_fields(encoded, scales=replace(encoded.info.layout.scales, low=low, high=high))


def with_section(encoded, at, byte):
    section = bytearray(encoded.section)
    section[at] = byte
    return EncodedTensor(encoded.info, bytes(section))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (with_type(GOOD, dtype=DType.FLOAT64), "a scale for each row of FLOAT64"),
        (with_type(GOOD, shape=(3000,)), "a scale for each row of"),
        (with_limits(GOOD, 3, -3), "integers from 3 to -3"),
        (with_limits(GOOD, -32_768, 3), "integers from -32768"),
        (with_limits(GOOD, -9, 9), "only -9 to 9 are allowed"),
        (with_fields(GOOD, nonzeros=3), "but 3 were announced"),
        (with_type(GOOD, shape=(60, 50)), "symbols|damaged|bytes"),
        (with_type(with_fields(GOOD, nonzeros=0), shape=(0, 60)), "larger than the raw 0"),
        (with_fields(ranked(THICK, (1200,)), codebook=StoredCodebook()), "but no codebook"),
        (with_section(GOOD, 3, 0), r"2\^-126"),
        (with_section(GOOD, GOOD.info.codebook, 2), "mode 2"),
    ],
)
def test_records_that_contradict_themselves(load, wrong, message):
    with pytest.raises(FormatError, match=message):
        load(pack([("w", wrong)]))


def test_nobody_shares_scales():
    wrong = with_fields(ranked(np.zeros(1200, np.int16), (1200,)), codebook=SharedCodebook(0, 0))
    with pytest.raises(FormatError, match="has the codebook of w, which is not its like"):
        pack([("w", GOOD), ("v", wrong)])


def test_layout_8_is_not_of_version_2(load):
    data = bytearray(pack([("w", ranked(THICK, (1200,)))]))
    data[3] = 2
    with pytest.raises(FormatError):
        load(bytes(data))
