"""The extension that says how inputs are normalized: as written, and from strangers."""

from __future__ import annotations

import pytest
from crafting import craft, floats, header_of, tensor
from hypothesis import example, given
from hypothesis import strategies as st

from deepcompress.container.normalize import MAX_BYTES, MAX_CHANNELS, Normalization, normalize_in, pack_normalize
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError


def with_extension(*contents):
    return craft(tensor("w", 0, 0, [1], section=floats(1)), extensions=[(0, "normalize", part) for part in contents])


@pytest.mark.parametrize("text", ["0.5,0.25", "imagenet", "data", "-1,0.001", "1,2,3,4,5,6", "1e-06,3.40282347e+38"])
def test_there_and_back(text):
    assert str(Normalization.parse(text)) == text
    header = header_of(pack([], extensions=pack_normalize(text)))
    assert normalize_in(header.extensions) == text
    assert pack([], extensions=pack_normalize(text)) == craft(extensions=[(0, "normalize", text.encode())])


def test_nothing_is_written_where_nothing_is_done():
    assert pack_normalize("none") == pack_normalize("") == ()
    assert pack([], extensions=pack_normalize("none")) == pack([])
    assert normalize_in(()) == ""


def test_numbers_and_words():
    assert Normalization.parse(" 1 , 2") == Normalization("", (1.0,), (2.0,))
    assert Normalization.parse("imagenet").mean == (0.485, 0.456, 0.406)
    most = ",".join(["1"] * 2 * MAX_CHANNELS)
    assert len(Normalization.parse(most).deviation) == MAX_CHANNELS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"zero",
        b"1",
        b"1,2,3",
        b"1,0",
        b"1,-1",
        b"nan,1",
        b"inf,1",
        b"1e999,1",
        b"0,1e-999",
        b"0,1e-40",
        b"1e39,1",
        b"1_0,1",
        b"0x1,1",
        b"1;2",
        b"\xff\xff",
        "١,١".encode(),
        b"1," * 129 + b"1",
        b"1," * 5000 + b"1",
        b"9" * 200000 + b",1",
        b"imagenet\n",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_strangers_write_there_is_refused(content):
    with pytest.raises(FormatError, match="header: extension 'normalize': ") as caught:
        header_of(with_extension(content))
    assert len(str(caught.value)) < 400


def test_it_is_there_once():
    with pytest.raises(FormatError, match="it is there 2 times"):
        header_of(with_extension(b"data", b"data"))


@given(st.binary(max_size=40))
@example(b"1,1")
@example(b"," * MAX_BYTES)
def test_whatever_it_holds_is_understood_or_refused(content):
    try:
        found = normalize_in(header_of(with_extension(content)).extensions)
    except FormatError:
        return
    assert str(Normalization.parse(found)) == found
