"""Numbers by a model that is given: there is one way to write their streams, whoever wrote them before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rans_loops import back, use

from deepcompress.coding.layouts.ranked import Ranked
from deepcompress.coding.rans import codec, kernels, model, plain
from deepcompress.coding.rans.model import Model, Neighbour
from deepcompress.coding.rans.shape import Cut
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError

VALID = Path(__file__).parents[3] / "conformance" / "valid"
SHAPE = (40, 30)
NUMBERS = (np.arange(1200) ** 2 % 77 % 9 - 4).astype(np.int16)
FLAT = Model(
    Cut(7, 2, 4), False, 3, (np.arange(40, dtype=np.uint8), None, None), (Neighbour(1, 0, -3, 4),), 9,
    np.zeros(128, np.uint8), np.full((1, 9), 49, np.uint8),
)  # fmt: skip
GAPS = replace(FLAT, gaps=True, neighbours=(), own=0, contexts=np.zeros(64, np.uint8))


def test_the_streams_of_another_encoder_come_out_again():
    """The suite's files are written from the specification, with models that this encoder never chooses."""
    found = 0
    for path in sorted(VALID.glob("v3-*.dc")):
        with ModelFile(path) as file:
            for entry in file.header.entries:
                if not isinstance(entry.info.layout, Ranked):
                    continue
                found += 1
                section, layout = memoryview(file.section(entry)), entry.info.layout
                streams, packed = section[len(section) - layout.numbers.streams :], layout.model_in(section)
                integers = back(packed, streams, entry.info.shape)
                assert codec.encode_by(packed, integers, entry.info.shape, len(streams)) == streams, path.name
    assert found > 130


@pytest.mark.parametrize("given", [FLAT, GAPS], ids=["dense", "gaps"])
def test_a_model_of_no_choice_codes_any_numbers_it_has_tokens_for(monkeypatch, given):
    packed, made = model.pack(given), []
    for loops in (kernels, plain):
        use(monkeypatch, loops)
        made.append(codec.encode_by(memoryview(packed), NUMBERS, SHAPE, 4 * 1200))
        assert np.array_equal(back(packed, made[-1], SHAPE), NUMBERS)
    assert made[0] == made[1]


@pytest.mark.parametrize("given", [FLAT, GAPS], ids=["dense", "gaps"])
def test_what_a_model_cannot_code_is_refused(given):
    packed = model.pack(given)
    few = replace(given, levels=given.levels[:, :8])  # without the token of 4
    with pytest.raises(FormatError, match="no token for a number"):
        codec.encode_by(memoryview(model.pack(few)), NUMBERS, SHAPE, 4 * 1200)
    rare = given.levels.copy()
    rare[0, 1] = 0  # that of -1
    with pytest.raises(FormatError, match="no token for a number"):
        codec.encode_by(memoryview(model.pack(replace(given, levels=rare))), NUMBERS, SHAPE, 4 * 1200)
    with pytest.raises(FormatError, match="unexpected"):
        codec.encode_by(memoryview(packed + b"\0"), NUMBERS, SHAPE, 4 * 1200)
    length = len(codec.encode_by(memoryview(packed), NUMBERS, SHAPE, 4 * 1200))
    with pytest.raises(FormatError, match=f"streams of {length} bytes; at most {length - 1}"):
        codec.encode_by(memoryview(packed), NUMBERS, SHAPE, length - 1)


def test_states_are_counted_before_anything_is_allocated():
    """A row for each stream, and 256 lanes for each row: a kilobyte of states for one byte of numbers."""
    wide = replace(FLAT, cut=Cut(1, 16, 16), axes=(None, None, None), neighbours=(), contexts=np.zeros(32, np.uint8))
    with pytest.raises(FormatError, match="the states of all streams"):
        codec.encode_by(memoryview(model.pack(wide)), np.zeros(1 << 20, np.int16), (1 << 20, 1), 4 << 20)
