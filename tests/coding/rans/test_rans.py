"""The rANS coder: what goes in comes out, compiled or not, near what its statistics say; and damage is refused."""

from dataclasses import replace

import numpy as np
import pytest
from rans_loops import back, use

from deepcompress.coding import planes
from deepcompress.coding.bits import Reader
from deepcompress.coding.rans import classes, codec, decoder, frequencies, kernels, model, plain, shape, tables, tokens
from deepcompress.coding.rans.model import Model, Neighbour
from deepcompress.coding.rans.shape import Cut, matrix_of
from deepcompress.errors import FormatError


def drawn(dims, spread=2.0, density=1.0, seed=0):
    rng = np.random.default_rng(seed)
    size = int(np.prod(dims))
    found = np.clip(np.rint(rng.standard_t(4, size) * spread), -32767, 32767)
    return np.where(rng.random(size) < density, found, 0).astype(np.int16)


def smooth(dims, seed=0):
    steps = np.random.default_rng(seed).integers(-2, 3, dims)
    return (np.cumsum(steps, axis=-1) % 64 - 20).astype(np.int16).reshape(-1)


def entropy(integers):
    counts = np.unique(integers, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


CASES = {
    "one": ((), np.array([-7], np.int16)),
    "vector": ((57,), drawn((57,))),
    "column": ((31, 1), drawn((31, 1))),
    "zeros": ((12, 40), np.zeros(480, np.int16)),
    "same": ((9, 30), np.full(270, -3, np.int16)),
    "matrix": ((70, 61), drawn((70, 61))),
    "kernels": ((20, 12, 3, 3), drawn((20, 12, 3, 3), density=0.4)),
    "sparse": ((64, 300), drawn((64, 300), density=0.03)),
    "large": ((13, 50), drawn((13, 50), spread=9000)),
    "smooth": ((16, 300), smooth((16, 300))),
    "below": ((150, 32), smooth((32, 150)).reshape(32, 150).T.reshape(-1).copy()),
    "long gaps": ((2, 70_000), np.where(np.arange(140_000) % 66_000 == 65_999, 5, 0).astype(np.int16)),
}


@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
@pytest.mark.parametrize("name", CASES)
def test_what_goes_in_comes_out_compiled_or_not(monkeypatch, name, gaps):
    dims, integers = CASES[name]
    made = []
    for loops in (kernels, plain):
        use(monkeypatch, loops)
        made.append(codec.encode(integers, dims, gaps))
        assert np.array_equal(back(*made[-1], dims), integers)
    assert made[0] == made[1]
    assert np.array_equal(back(*made[0], dims), integers)


@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
def test_streams_side_by_side_give_the_same(monkeypatch, gaps):
    monkeypatch.setattr(shape, "PER_STREAM", 1000)
    monkeypatch.setattr(shape, "PER_LANE", 100)
    dims, integers = (50, 90), drawn((50, 90), density=0.5)
    packed, payload = codec.encode(integers, dims, gaps)
    found = model.unpack(Reader(packed, "model"), matrix_of(dims))
    assert len(shape.streams_of(matrix_of(dims), found.cut)) > 3
    assert found.cut.lanes > 1
    for workers in (1, 2, 3):
        assert np.array_equal(back(packed, payload, dims, workers), integers)


LOWEST, MEANT = -40, np.random.default_rng(7).integers(1, 1 << 32, 90, dtype=np.uint32)


def meant(packed, payload, dims, values=MEANT, workers=1):
    out = np.zeros(int(np.prod(dims)), dtype=values.dtype)
    count = codec.decode_values(memoryview(packed), memoryview(payload), dims, LOWEST, values, out, workers)
    return out, count


EDGES = {
    "one": ((), [-7]),
    "one of many": ((40, 50), np.arange(2000) == 1999),
    "same": ((9, 30), np.full(270, -3)),
    "zeros": ((12, 40), np.zeros(480)),
    "bias": ((600,), np.arange(600) % 7 - 3),
    "column": ((130, 1), np.arange(130) % 3),
    "extra bits": ((40, 60), np.arange(2400) % 89 - 40),
    "rows that differ": ((300, 70), drawn((300, 70), 1.0, 0.3).reshape(300, 70) * (np.arange(300) % 3 == 0)[:, None]),
    "columns that differ": ((90, 200), drawn((90, 200), 1.0, 0.4).reshape(90, 200) * (np.arange(200) % 5 < 2)),
    "kernels": ((16, 24, 3, 3), drawn((16, 24, 3, 3), 2.0, 0.2)),
}


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
@pytest.mark.parametrize("name", EDGES)
def test_what_integers_stand_for_is_the_same_compiled_or_not(monkeypatch, name, gaps, kind):
    monkeypatch.setattr(shape, "PER_STREAM", 4000)
    monkeypatch.setattr(shape, "PER_LANE", 70)  # so that lanes end apart, in the middle of vectors
    dims, integers = EDGES[name]
    integers = np.clip(np.asarray(integers).reshape(-1), -40, 49).astype(np.int16)
    values = MEANT.astype(kind)
    values[-LOWEST] = 0
    packed, payload = codec.encode(integers, dims, gaps)
    for loops in (kernels, plain):
        use(monkeypatch, loops)
        found, count = meant(packed, payload, dims, values, workers=2)
        assert np.array_equal(found, values[integers - LOWEST])
        assert count == np.count_nonzero(integers)


@pytest.mark.parametrize("loops", [kernels, plain], ids=["compiled", "plain"])
@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
@pytest.mark.parametrize("number", [-41, 50, 63, -30000])
def test_an_integer_that_stands_for_nothing_is_refused(monkeypatch, loops, gaps, number):
    use(monkeypatch, loops)
    integers = drawn((20, 30), density=0.2)
    integers[300] = number
    packed, payload = codec.encode(integers, (20, 30), gaps)
    with pytest.raises(FormatError, match="is damaged" if gaps else r"only -40 to 49 are allowed"):
        meant(packed, payload, (20, 30))


@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
def test_damaged_streams_end_alike_compiled_or_not(monkeypatch, gaps):
    monkeypatch.setattr(shape, "PER_LANE", 50)
    rng = np.random.default_rng(1)
    integers = drawn((40, 30), spread=9, density=0.4)
    packed, payload = codec.encode(integers, (40, 30), gaps)
    for _ in range(150):
        data = [bytearray(packed), bytearray(payload)]
        part = data[int(rng.integers(2))]
        part[int(rng.integers(len(part)))] ^= 1 << int(rng.integers(8))
        ends = []
        for loops in (kernels, plain):
            use(monkeypatch, loops)
            try:
                ends.append(back(*data, (40, 30)).tolist())
            except FormatError as error:
                ends.append(str(error))
        assert ends[0] == ends[1]


def test_streams_too_large_for_places_of_32_bits_are_left_to_numpy():
    assert decoder.loops_for(matrix_of((1 << 12, 1 << 20)), 1 << 12) is plain
    assert decoder.loops_for(matrix_of((1 << 12, 1 << 20)), (1 << 11) - 1) is kernels


def test_every_magnitude_has_its_token():
    magnitudes = np.arange(tokens.LARGEST + 1)
    classes = tokens.classes().astype(np.int64)
    rest = magnitudes - tokens.starts()[classes]
    bits = tokens.extra_bits()
    assert (rest >= 0).all() and (rest < 1 << bits[2 * classes]).all()
    assert np.array_equal(np.unique(classes), np.arange(60))
    assert list(classes[[15, 16, 19, 20, 31, 32, 40, 32767]]) == [15, 16, 16, 17, 19, 20, 21, 59]
    assert tokens.bases()[:5].tolist() == [0, -1, 1, -2, 2]
    assert tokens.bases()[[31, 32]].tolist() == [-16, 16]
    assert bits[30:33].tolist() == [0, 2, 2] and bits[-1] == 12
    assert len(bits) == tokens.TOKENS == 119


def nearest_levels(counts):
    """The levels nearest to how often tokens occur; the first token of a table without counts always comes."""
    shares = counts / np.maximum(counts.max(axis=1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        found = np.rint(frequencies.STEPS * np.log2(shares)) + frequencies.TOP
    levels = np.where(counts > 0, np.maximum(found, 1), 0).astype(np.uint8)
    levels[counts.max(axis=1) == 0, 0] = frequencies.TOP
    return levels


def test_frequencies_fill_the_table():
    counts = np.array([[5, 0, 1, 1 << 40], [0, 0, 0, 0], [0, 7, 0, 0], [1, 1, 1, 1]])
    levels = nearest_levels(counts)
    assert levels.tolist() == [[1, 0, 1, 49], [49, 0, 0, 0], [0, 49, 0, 0], [49, 49, 49, 49]]
    shares = frequencies.of_levels(levels)
    assert shares.tolist() == [[1, 0, 2, 4093], [4096, 0, 0, 0], [0, 4096, 0, 0], [1024] * 4]
    slots = frequencies.slots_of(shares)[0]
    assert [slots[0], slots[1], slots[2], slots[3]] == [
        1 << 19,
        2 << 19 | 2,
        2 << 19 | 1 << 7 | 2,
        4093 << 19 | 3,
    ]
    with pytest.raises(FormatError, match="no token"):
        frequencies.of_levels(np.zeros((1, 3), np.uint8))


def test_independent_numbers_take_their_entropy():
    integers = drawn((300, 200), seed=3)
    packed, payload = codec.encode(integers, (300, 200), False)
    assert entropy(integers) < len(packed) + len(payload) < 1.012 * entropy(integers)


def test_few_weights_take_their_entropy_too():
    rng = np.random.default_rng(0)
    integers = np.where(rng.random(200_000) < 0.02, rng.integers(1, 9, 200_000), 0).astype(np.int16)
    packed, payload = codec.encode(integers, (500, 400), True)
    assert entropy(integers) < len(packed) + len(payload) < 1.02 * entropy(integers)


def test_rows_and_columns_that_differ_are_told_apart():
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(0, 1, (200, 1)) + rng.normal(0, 0.7, (1, 300)))
    integers = np.rint(rng.normal(0, 1, (200, 300)) * scale).astype(np.int16).reshape(-1)
    packed, payload = codec.encode(integers, (200, 300), False)
    assert len(packed) + len(payload) < 0.85 * entropy(integers)


@pytest.mark.parametrize("name", ["smooth", "below"])
def test_neighbours_tell_smooth_rows(name):
    dims, integers = CASES[name]
    packed, payload = codec.encode(integers, dims, False)
    found = model.unpack(Reader(packed, "model"), matrix_of(dims))
    assert (0, 1) in {(n.rows, n.columns) for n in found.neighbours} or name == "below"
    assert found.neighbours
    assert len(packed) + len(payload) < 0.85 * entropy(integers)


def test_noise_has_no_neighbours():
    packed, _ = codec.encode(drawn((120, 150)), (120, 150), False)
    assert model.unpack(Reader(packed, "model"), matrix_of((120, 150))).neighbours == ()


def test_contexts_that_are_alike_share_a_table():
    counts = np.zeros((32, 5), dtype=np.int64)
    counts[3], counts[4], counts[20] = [900, 90, 10, 0, 0], [1800, 180, 20, 0, 0], [0, 10, 90, 900, 1]
    contexts, levels = tables.tables_of(counts)
    assert len(levels) == 2
    assert contexts[20] == 1 and not np.delete(contexts, 20).any()


def test_levels_are_no_dearer_to_tell_than_the_nearest_ones():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(20, 0.3), 1) * np.exp(rng.normal(0, 0.1, (6, 20)))
    counts = np.rint(shares * 2000)
    nearest, cheap = nearest_levels(counts), tables.cheap_levels(counts)

    def bits(levels):
        told = frequencies.of_levels(levels)
        changes = np.diff(levels.astype(int), axis=0, prepend=0).reshape(-1) & 63
        data = -(counts * np.log2(np.where(counts > 0, told / 4096, 1))).sum()
        return data, 8 * len(planes.encode_plane(changes.astype(np.uint8), 64))

    assert (frequencies.of_levels(cheap)[counts > 0] > 0).all()
    assert sum(bits(cheap)) < sum(bits(nearest))
    assert bits(cheap)[1] < 0.85 * bits(nearest)[1]
    assert bits(cheap)[0] < 1.01 * bits(nearest)[0]


def test_classes_that_tell_nothing_go():
    rng = np.random.default_rng(0)
    alike = np.array([rng.permutation(np.arange(300) < 15) for _ in range(200)]).astype(np.int16).reshape(-1)
    wrong = rng.integers(0, 2, 200).astype(np.uint8)
    dims = matrix_of((200, 300))
    base, axes = classes.refined(alike, dims, 3, (wrong, None, None))
    assert all(found is None for found in axes) and base in (3, 4)
    half = np.repeat([0, 1], 100).astype(np.uint8)
    fuller = np.where(np.arange(60_000) < 30_000, 0, drawn((200, 300), density=0.4))
    base, axes = classes.refined(fuller.astype(np.int16), dims, 3, (half, None, None))
    assert axes[0] is not None and np.array_equal(axes[0], half)


# What is refused -------------------------------------------------------------------------------------------------

DIMS = (10, 12)
GOOD = Model(
    Cut(10, 1, 1), False, 3, (None, np.arange(1, dtype=np.uint8), None), (Neighbour(1, 2, -3, 4),), 9,
    np.zeros(128, np.uint8), np.array([[49, 1]], np.uint8),
)  # fmt: skip


def test_a_model_is_packed_and_unpacked():
    found = model.unpack(Reader(model.pack(GOOD), "model"), matrix_of((10, 1, 12)))
    assert (found.cut, found.gaps, found.base, found.neighbours, found.own) == (GOOD.cut, False, 3, GOOD.neighbours, 9)
    assert found.axes[0] is None and found.axes[1].tolist() == [0] and found.axes[2] is None
    assert np.array_equal(found.contexts, GOOD.contexts) and np.array_equal(found.levels, GOOD.levels)


PLAIN = replace(GOOD, axes=(None, None, None), neighbours=(), own=0, contexts=np.zeros(32, np.uint8))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(PLAIN, cut=Cut(0, 1, 1)), "streams of 0 rows"),
        (replace(PLAIN, cut=Cut(11, 1, 1)), "rows of a stream is 11"),
        (replace(PLAIN, cut=Cut(10, 32, 16)), r"in 2\^5 by 2\^4 lanes"),
        (replace(PLAIN, base=257), "base of the classes is 513"),
        (replace(PLAIN, neighbours=(Neighbour(0, 0, 1, 1),)), "a neighbour of itself"),
        (replace(PLAIN, neighbours=(Neighbour(11, 0, 1, 1),)), "rows to a neighbour is 11"),
        (replace(PLAIN, neighbours=(Neighbour(0, 13, 1, 1),)), "columns to a neighbour is 13"),
        (replace(PLAIN, neighbours=(Neighbour(0, 1, 1, 1),) * 5), "number of neighbours 5"),
        (replace(PLAIN, gaps=True, neighbours=(Neighbour(0, 1, 1, 1),)), "number of neighbours 1"),
        (replace(PLAIN, contexts=np.ones(32, np.uint8)), "table 1"),
        (replace(PLAIN, levels=np.full((1, 2), 50, np.uint8)), "level 50"),
        (replace(PLAIN, levels=np.zeros((1, 2), np.uint8)), "no token"),
        (replace(PLAIN, levels=np.full((1, 120), 49, np.uint8)), "1 tables of 120 tokens"),
        (replace(PLAIN, levels=np.full((65, 1), 49, np.uint8)), "65 tables of 1 tokens"),
    ],
)  # fmt: skip
def test_models_that_break_a_rule(wrong, message):
    with pytest.raises(FormatError, match=message):
        back(model.pack(wrong), bytes(4), DIMS)


@pytest.mark.parametrize("loops", [kernels, plain], ids=["compiled", "plain"])
def test_damage_is_refused_or_gives_numbers(monkeypatch, loops):
    use(monkeypatch, loops)
    rng = np.random.default_rng(0)
    for gaps in (False, True):
        integers = drawn((10, 20), spread=20, density=0.3)
        packed, payload = codec.encode(integers, (10, 20), gaps)
        for wrong in (payload[:-2], payload[:-1], payload + bytes(2), bytes(4) + payload[4:], payload[:3], b""):
            with pytest.raises(FormatError):
                back(packed, wrong, (10, 20))
        refused = 0
        for _ in range(40):
            data = [bytearray(packed), bytearray(payload)]
            part = data[int(rng.integers(2))]
            part[int(rng.integers(len(part)))] ^= 1 << int(rng.integers(8))
            try:
                back(*data, (10, 20))
            except FormatError:
                refused += 1
        assert refused > 25


def test_gaps_may_not_lead_out_of_a_lane():
    levels = np.zeros((1, tokens.TOKENS), np.uint8)
    for token, message in ((59, "does not end"), (60, "does not end"), (0, "does not end")):
        table = levels.copy()
        table[0, token] = 49
        wrong = replace(PLAIN, gaps=True, contexts=np.zeros(64, np.uint8), levels=table)
        for loops in (kernels, plain):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(FormatError, match=message):
                use(patch, loops)
                back(model.pack(wrong), b"\0\0\1\0", DIMS)
