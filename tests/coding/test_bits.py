import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.bits import MAX_VARINT_BYTES, Reader, varint
from deepcompress.errors import FormatError

LARGEST = (1 << 63) - 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (16383, "ff7f"),
        (16384, "808001"),
        (LARGEST, "ffffffffffffffff7f"),
    ],
)
def test_varint_bytes(value, expected):
    assert varint(value).hex() == expected
    assert Reader(bytes.fromhex(expected), "test").varint("value") == value


@settings(deadline=None)
@given(st.lists(st.integers(0, LARGEST), max_size=8))
def test_varints_round_trip_one_after_the_other(values):
    reader = Reader(b"".join(map(varint, values)), "test")
    assert [reader.varint("value") for _ in values] == values
    reader.end()


@pytest.mark.parametrize("raw", ["8000", "ff8000", "80808000", "ffffffffffffffff00"])
def test_a_varint_must_be_in_its_shortest_form(raw):
    with pytest.raises(FormatError, match="test: count is not in its shortest form"):
        Reader(bytes.fromhex(raw), "test").varint("count")


def test_a_varint_has_at_most_nine_bytes():
    assert MAX_VARINT_BYTES == 9
    with pytest.raises(FormatError, match="count is longer than 9 bytes"):
        Reader(b"\xff" * 9 + b"\x01", "test").varint("count")


@pytest.mark.parametrize("raw", [b"", b"\x80", b"\xff" * 8])
def test_a_varint_that_is_cut_off(raw):
    with pytest.raises(FormatError, match="test: count needs 1 bytes, but only 0 are left"):
        Reader(raw, "test").varint("count")


def test_the_limit_of_a_varint_is_inclusive():
    assert Reader(varint(500), "test").varint("count", limit=500) == 500
    with pytest.raises(FormatError, match="count is 501, but at most 500 is allowed"):
        Reader(varint(501), "test").varint("count", limit=500)


def test_take_moves_on_without_a_copy():
    data = bytearray(b"abcdef")
    reader = Reader(memoryview(data), "test")
    first = reader.take(2, "field")
    assert (bytes(first), len(reader)) == (b"ab", 4)
    assert (reader.byte("field"), bytes(reader.take(0, "field")), len(reader)) == (ord("c"), b"", 3)
    data[0] = ord("X")
    assert bytes(first) == b"Xb"


def test_take_never_gives_less_than_asked_for():
    reader = Reader(b"abc", "test")
    with pytest.raises(FormatError, match="test: payload needs 4 bytes, but only 3 are left"):
        reader.take(4, "payload")
    assert bytes(reader.take(3, "payload")) == b"abc"
    with pytest.raises(FormatError, match="flag needs 1 bytes, but only 0 are left"):
        reader.byte("flag")


def test_text():
    raw = "größe".encode()
    assert Reader(varint(len(raw)) + raw, "test").text("name", limit=7) == "größe"
    with pytest.raises(FormatError, match="length of name is 7, but at most 6"):
        Reader(varint(len(raw)) + raw, "test").text("name", limit=6)
    with pytest.raises(FormatError, match="name needs 7 bytes, but only 6"):
        Reader(varint(len(raw)) + raw[:-1], "test").text("name", limit=7)


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"])  # the last: an overlong zero
def test_text_must_be_utf8(raw):
    with pytest.raises(FormatError, match="test: name is not valid UTF-8"):
        Reader(varint(len(raw)) + raw, "test").text("name", limit=9)


def test_end_counts_what_is_left():
    reader = Reader(b"abc", "test")
    reader.byte("field")
    with pytest.raises(FormatError, match="test: 2 unexpected bytes at its end"):
        reader.end()
    reader.take(2, "field")
    reader.end()
