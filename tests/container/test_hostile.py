"""Files from strangers: whatever the bytes are, the answer is a FormatError or a tensor, soon and in little memory."""

import math
import resource
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crafting import (
    ALIAS,
    BFLOAT16,
    CODED,
    CONSTANT,
    FIXED,
    FLOAT16,
    FLOAT32,
    HUFFMAN,
    INT8,
    LITERAL,
    NONE,
    PLANES,
    RAW,
    around,
    coded,
    craft,
    crc,
    floats,
    front_coded,
    header_of,
    resealed,
    tensor,
    varint,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcompress.coding.encoder import encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.container.breakdown import inspect
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError

HUGE = (1 << 63) - 1
BOOK = floats(0.5, 3.0)
GOOD = tensor("good", RAW, FLOAT32, (2,), section=floats(1, 2))
SPARSE = {"book": BOOK, "offsets": b"\xdb\xe0", "weights": b"\xa0", "n": 3, "b": 3, "fillers": 1}
SPARSE |= {"coders": (FIXED, FIXED)}


@pytest.fixture(autouse=True)
def little_memory():
    """Whatever a test does here, it may allocate 512 MB more than before, and no more (where the system can tell)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused(load, data, message):
    with pytest.raises(FormatError, match=message):
        load(data)


# Damage ----------------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_short_anywhere(small_file, load):
    for end in range(len(small_file)):
        with pytest.raises(FormatError):
            load(small_file[:end])


def test_bytes_after_the_end(small_file, load):
    for more in (b"\0", b"\xff" * 4, small_file):
        refused(load, small_file + more, "describes a file of")


def test_a_flip_of_any_bit(small_file, load):
    for at in range(len(small_file)):
        for bit in range(8):
            damaged = bytearray(small_file)
            damaged[at] ^= 1 << bit
            with pytest.raises(FormatError):
                load(bytes(damaged))


def test_a_flip_of_any_bit_with_the_checksums_made_right(small_file, load):
    # Now nothing but the parser stands between the bytes and the tensors.
    good, start = load(small_file), header_of(small_file).size
    outcomes = {"header": 0, "section": 0, "other": 0, "same": 0}
    for at in range(len(small_file) - 4):
        for bit in range(8):
            damaged = bytearray(small_file)
            damaged[at] ^= 1 << bit
            sealed = resealed(bytes(damaged))
            if sealed is None:
                outcomes["header"] += 1
                continue
            try:
                loaded = load(sealed, max_bytes=1 << 20)
            except FormatError:
                outcomes["section"] += 1
            else:
                outcomes["same" if loaded == good else "other"] += 1
                assert at < start or loaded != good  # every bit of a section means something
    assert min(outcomes["header"], outcomes["section"], outcomes["other"]) > 100
    assert outcomes["same"] > 0  # a flip in a label, or in a section checksum that was made right again


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_in_any_place(small_file, load, data):
    damaged = bytearray(small_file)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(small_file) - 5))
        some = data.draw(st.binary(min_size=1, max_size=9))
        damaged[at : at + len(some)] = some[: len(small_file) - 4 - at]
    sealed = resealed(bytes(damaged))
    if sealed is not None:
        try:
            load(sealed, max_bytes=1 << 20)
        except FormatError as error:
            assert str(error).startswith("<bytes>: ")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60), sections=st.binary(max_size=20))
def test_any_header(load, body, sections):
    try:
        load(around(body, sections))
    except FormatError as error:
        assert str(error).startswith("<bytes>: ")


# Sizes that a file only claims -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim",
    [
        coded("w", (5, 10**10), n=0),  # zeros need no bytes: nothing in the file contradicts this
        coded("w", (1 << 20, 1 << 20), book=BOOK, tables=b"\1", n=1 << 40, coders=(NONE, CONSTANT)),
        coded("w", (25 * 10**9,), book=BOOK, tables=b"\0\1", n=25 * 10**9, b=1, coders=(CONSTANT, CONSTANT)),
        coded("w", (25 * 10**9,), book=BOOK, tables=b"\0\1", n=9, b=12, coders=(CONSTANT, CONSTANT), fillers=9),
        tensor("w", PLANES, FLOAT32, (25 * 10**9,), varint(12), b"\1\1\0" * 4),
        tensor("w", PLANES, INT8, (10**11,), varint(3), b"\1\1\0"),
    ],
)
def test_a_hundred_gigabytes_in_a_small_file(save, claim):
    data = craft(claim)
    assert len(data) < 200
    with ModelFile(save(data)) as file:
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match="more than the 268435456 allowed"):
                file.check()
            with pytest.raises(FormatError, match="more than the 268435456 allowed"):
                file.read("w")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_many_tensors_that_each_stay_below_the_limit(save):
    zeros = [coded(name, (1 << 24,)) for name in "abcdefgh"]
    with ModelFile(save(craft(*zeros))) as file, pytest.raises(FormatError, match="would take 536870912 bytes"):
        file.check()


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (tensor("w", RAW, FLOAT32, (25 * 10**9,)), "describes a file of 100000000"),
        (tensor("w", PLANES, FLOAT32, (25 * 10**9,), varint(10**11)), "describes a file of 100000000"),
        (tensor("w", PLANES, FLOAT32, (4,), varint(17)), "length of the section is 17, but at most 16"),
        (tensor("w", RAW, FLOAT32, (1 << 41,)), "dimension is 2199023255552, but at most 1099511627776"),
        (tensor("w", RAW, FLOAT32, (1 << 21, 1 << 20)), "at most 1099511627776 elements are allowed"),
        (tensor("w", RAW, FLOAT32, (0, 1 << 40, 1 << 40)), "at most 1099511627776 elements are allowed"),
        (tensor("w", RAW, FLOAT32, (1 << 40, 2, 0)), "at most 1099511627776 elements are allowed"),
        (tensor("w", RAW, FLOAT32, (1,) * 9, section=floats(1)), "number of dimensions is 9, but at most 8"),
        (coded("w", (64,), k=4097), "size of the codebook is 4097, but at most 4096"),
        (coded("w", (64,), n=65), "number of weights is 65, but at most 64"),
        (coded("w", (64,), b=13, coders=(FIXED, FIXED)), "offsets of 13 bits; at most 12 are allowed"),
        (coded("w", (64,), **SPARSE | {"fillers": 65}), "number of fillers is 65, but at most 64"),
        (coded("w", (64,), **SPARSE | {"fillers": 9}), "9 fillers and 3 weights exceed its 64 elements"),
        (coded("w", (2,), book=BOOK, weights=b"\0", coders=(NONE, FIXED)), "9 bytes is larger than the raw 8"),
        (coded("w", (0,), book=BOOK), "8 bytes is larger than the raw 0"),
        (tensor("w", CODED, FLOAT32, (64,), varint(2) + b"\0\0\0\0" + varint(HUGE) + varint(HUGE)), "is larger than"),
    ],
)
def test_counts_beyond_their_limits(load, claim, message):
    refused(load, craft(claim), message)


def test_shapes_at_the_limits(load):
    shape = (1 << 40, 0, 1, 1, 1, 1, 1, 1)
    assert load(craft(tensor("w", RAW, FLOAT32, shape))) == {"w": (b"", shape, DType.FLOAT32)}


@pytest.mark.parametrize("count", [0, 2, 1 << 18])
def test_another_number_of_tensors(load, count):
    refused(load, craft(GOOD, count=count), "header: ")


def test_more_tensors_than_there_may_be(load):
    refused(load, craft(count=(1 << 18) + 1), "number of tensors is 262145, but at most 262144")


def test_a_varint_of_ten_bytes(load):
    refused(load, around(b"\0\0\0" + b"\xff" * 9 + b"\x01"), "number of tensors is longer than 9 bytes")


@pytest.mark.parametrize("table", [FIXED, HUFFMAN])
def test_streams_shorter_than_their_symbols(load, table):
    tables = bytes.fromhex("02" + "80") if table == HUFFMAN else b""
    claim = coded("w", (1 << 20,), book=BOOK, tables=tables, weights=b"\0" * 9, n=1 << 19, coders=(NONE, table))
    refused(load, craft(claim), "tensor w: .*(do not make 9 bytes|9 bytes cannot hold 1048576 Huffman symbols)")


def test_names_that_share_their_start_take_bounded_memory_and_time(save):
    # Less than 14 bytes of the file each, and yet names of 512 bytes.
    names = [f"{'x' * 507}{number:05}" for number in range(10_000)]
    aliases = [tensor(rest, ALIAS, FLOAT32, (2,), b"\0", shared=shared) for shared, rest in front_coded(names)]
    data = craft(tensor("a", RAW, FLOAT32, (2,), section=floats(1, 2)), *aliases)
    assert len(data) < 14 * 10_000
    begin = time.perf_counter()
    with ModelFile(save(data)) as file:
        file.check()
        assert list(file) == ["a", *names]
    assert time.perf_counter() - begin < 20  # a guard against a hang, not a measurement


def test_many_tensors_with_one_codebook_do_not_read_it_again_and_again(save):
    owner = coded("a", (1 << 25,), book=BOOK, weights=bytes(1 << 23), coders=(NONE, FIXED))
    user = {"k": 2, "owner": 1, "tables": b"\0", "coders": (NONE, CONSTANT)}
    names = [f"b{number}" for number in range(5000)]
    users = [coded(rest, (8,), **user, shared=shared) for shared, rest in front_coded(names)]
    data = craft(owner, *users)
    begin = time.perf_counter()
    with ModelFile(save(data)) as file:
        for name in names:
            assert not file.read(name)[0].any()
    assert time.perf_counter() - begin < 20  # 40 GB, if each of them looked at the owner's section


# Facts that contradict each other --------------------------------------------------------------------------


def test_the_crafted_tensors_are_good_but_for_what_a_test_changes(load):
    loaded = load(craft(GOOD, coded("w", (32,), **SPARSE)))
    expected = np.zeros(32, dtype=np.float32)
    expected[[6, 13, 27]] = [3.0, 0.5, 3.0]
    assert loaded["good"] == (floats(1, 2), (2,), DType.FLOAT32)
    assert loaded["w"] == (expected.tobytes(), (32,), DType.FLOAT32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"", "tensor name '' is empty"),
        (b"good", "'good' is empty, not UTF-8, or there twice"),
        (b"\xff", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        ("\ufffd".encode() + b"\xff", "not UTF-8"),
        (b"a\nb", r"tensor name 'a\\nb' holds characters that cannot be printed"),
        (b"\x1b[2J", "cannot be printed"),
        (b"a\x00", "cannot be printed"),
        ("\u202egpj".encode(), "cannot be printed"),  # writes from right to left
        (b"\x7f", "cannot be printed"),
        (b"x" * 513, "length of a name is 513, but at most 512"),
    ],
)
def test_names(load, name, message):
    # In the file the name shares nothing with the one before: b"good" would have to be 4 shared bytes and no rest.
    if name == b"good":
        refused(load, craft(GOOD, tensor(b"", RAW, FLOAT32, (0,), shared=4)), message)
    else:
        refused(load, craft(GOOD, tensor(name, RAW, FLOAT32, (0,))), message)


def test_a_name_that_is_there_twice_but_not_in_a_row(load):
    refused(load, craft(GOOD, *(tensor(name, RAW, INT8, (0,)) for name in ("a", "b", "a"))), "'a' is .* there twice")


def test_names_share_all_they_can(load):
    empty = {"encoding": RAW, "dtype": INT8, "shape": (0,)}
    assert list(load(craft(GOOD, tensor("ab", **empty, shared=2), tensor("", **empty, shared=3)))) == [
        "good",
        "goab",
        "goa",
    ]
    refused(load, craft(GOOD, tensor("ood2", **empty, shared=1)), "a name is not in its shortest form")
    refused(load, craft(GOOD, tensor("good2", **empty)), "a name is not in its shortest form")
    refused(load, craft(GOOD, tensor("x", **empty, shared=5)), "shared part of a name is 5, but at most 4")
    refused(load, craft(tensor("x", **empty, shared=1)), "shared part of a name is 1, but at most 0")
    refused(load, craft(GOOD, tensor("x" * 509, **empty, shared=4)), "length of a name is 509, but at most 508")


@pytest.mark.parametrize("kind", [(4, 0), (15, 0), (0, 10), (2, 15)])
def test_unknown_kinds(load, kind):
    refused(load, craft(tensor("w", *kind, (0,))), f"tensor w: encoding {kind[0]} or dtype {kind[1]} is unknown")


@pytest.mark.parametrize(
    ("target", "dtype", "shape", "message"),
    [
        (3, FLOAT32, (2,), "tensor w: it is an alias of tensor 3, which does not come before it"),
        (2, FLOAT32, (2,), "alias of tensor 2, which does not come before it"),  # itself
        (HUGE, FLOAT32, (2,), "which does not come before it"),
        (1, FLOAT32, (2,), "it is an alias of tied, which is not its like"),  # an alias of an alias
        (0, FLOAT16, (2,), "it is an alias of good, which is not its like"),
        (0, FLOAT32, (2, 1), "it is an alias of good, which is not its like"),
        (0, FLOAT32, (3,), "it is an alias of good, which is not its like"),
    ],
)
def test_aliases(load, target, dtype, shape, message):
    tied = tensor("tied", ALIAS, FLOAT32, (2,), b"\0")
    assert load(craft(GOOD, tied))["tied"] == load(craft(GOOD))["good"]
    refused(load, craft(GOOD, tied, tensor("w", ALIAS, dtype, shape, varint(target)), GOOD), message)


@pytest.mark.parametrize(
    ("owner", "user", "message"),
    [
        (GOOD, {"k": 2, "owner": 1}, "tensor w: it has the codebook of good, which is not its like"),
        (coded("o", (32,), **SPARSE), {"k": 1, "owner": 1}, "has the codebook of o"),
        (coded("o", (32,), **SPARSE), {"k": 2, "owner": 1, "dtype": FLOAT16}, "has the codebook of o"),
        (coded("o", (32,), **SPARSE), {"k": 2, "owner": 2}, "the codebook of tensor 1, which does not come before it"),
        (coded("o", (32,), **SPARSE), {"k": 2, "owner": HUGE}, "which does not come before it"),
    ],
)
def test_owners_of_codebooks(load, owner, user, message):
    refused(load, craft(owner, coded("w", (8,), tables=b"\0", coders=(NONE, CONSTANT), **user)), message)


def test_a_codebook_that_is_itself_shared_has_no_owner(load):
    user = {"tables": b"\0", "coders": (NONE, CONSTANT), "k": 2}
    owner, first = coded("o", (32,), **SPARSE), coded("p", (8,), **user, owner=1)
    assert load(craft(owner, first))["p"] == (bytes(32), (8,), DType.FLOAT32)
    refused(load, craft(owner, first, coded("w", (8,), **user, owner=2)), "has the codebook of p")


@pytest.mark.parametrize("book", [floats(0.5, 0.5), floats(0.0, 1.0)])
def test_codebooks_with_a_value_twice_or_a_zero(load, book):
    refused(load, craft(coded("w", (32,), **SPARSE | {"book": book})), "tensor w: a codebook holds a value twice, or")
    user = coded("v", (8,), tables=b"\0", coders=(NONE, CONSTANT), k=2, owner=1)
    data = craft(coded("w", (32,), **SPARSE | {"book": book}), user)
    refused(load, data, "a codebook holds a value twice, or a zero")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coders": (LITERAL, FIXED)}, "offsets coded as LITERAL"),
        ({"coders": (FIXED, LITERAL)}, "literal weights need offsets and no codebook"),
        ({"coders": (5, FIXED)}, "coder 5 is unknown"),
        ({"coders": (FIXED, 5)}, "coder 5 is unknown"),
        ({"coders": (FIXED, 15)}, "coder 15 is unknown"),
        ({"coders": (NONE, FIXED)}, "a NONE stream has 2 bytes"),
        ({"coders": (FIXED, NONE)}, "a NONE stream has 1 bytes"),
        ({"coders": (HUFFMAN, FIXED)}, "tables: number of code lengths needs 1 bytes"),
        ({"coders": (CONSTANT, FIXED), "tables": b"\7"}, "a CONSTANT stream has 2 bytes"),
        ({"coders": (CONSTANT, FIXED), "tables": b"\x08", "offsets": b""}, "constant symbol is 8, but at most 7"),
        ({"coders": (CONSTANT, FIXED), "tables": b"\7", "offsets": b""}, "offsets place 0 weights"),
        ({"tables": b"\0"}, "tables: 1 unexpected bytes at its end"),
        ({"b": 0, "offsets": b"", "coders": (FIXED, FIXED)}, "offsets coded as FIXED"),
        ({"b": 0, "offsets": b"", "coders": (NONE, FIXED)}, "32 symbols of 2 bits do not make 1 bytes"),
        ({"offsets": b"\xdb\xe1"}, "padding of a fixed-width stream is not zero"),
        ({"weights": b"\xa1"}, "padding of a fixed-width stream is not zero"),
        ({"offsets": b"\xff\xe0"}, "offsets place 1 weights|beyond the tensor"),
        ({"offsets": b"\xdb\xf0"}, "offsets place 2 weights, but 3 were announced"),  # a filler at the end
        ({"n": 4, "fillers": 0}, "offsets place 3 weights, but 4 were announced"),
    ],
)
def test_coded_tensors_that_contradict_themselves(load, changes, message):
    refused(load, craft(coded("w", (32,), **SPARSE | changes)), message)


def test_only_floating_point_tensors_are_coded(load):
    for dtype in range(4, 10):
        refused(load, craft(coded("w", (32,), dtype=dtype)), "only floating-point tensors are coded, not ")


LITERALS = {"offsets": b"\xdb\xe0", "n": 3, "b": 3, "fillers": 1, "coders": (FIXED, LITERAL)}


def test_literal_weights(load):
    good = load(craft(coded("w", (32,), weights=floats(3, 0.5, 3), **LITERALS)))
    assert good == load(craft(coded("w", (32,), **SPARSE)))
    for weights in (floats(3, 0, 3), floats(0, 0.5, 3)):
        refused(load, craft(coded("w", (32,), weights=weights, **LITERALS)), "tensor w: a literal weight is zero")
    for weights in (floats(3, 0.5), floats(3, 0.5, 3, 3), floats(3, 0.5, 3)[:-1], b"", b"\1"):
        message = f"3 literal weights do not make {len(weights)} bytes"
        refused(load, craft(coded("w", (32,), weights=weights, **LITERALS)), message)
    without = {"weights": floats(*range(1, 33)), "n": 32, "coders": (NONE, LITERAL)}
    refused(load, craft(coded("w", (32,), **without)), "literal weights need offsets and no codebook")


def test_weights_without_a_codebook(load):
    # k = 0: zero is the only symbol of the dense layout, and with offsets there is none.
    zeros = coded("w", (32,), tables=b"\0", coders=(NONE, CONSTANT))
    assert load(craft(zeros))["w"] == (bytes(128), (32,), DType.FLOAT32)
    changes = {"book": b"", "k": 0}
    refused(load, craft(coded("w", (32,), **SPARSE | changes)), "a symbol is 1, but the alphabet has only 0")
    changes |= {"weights": b"", "coders": (FIXED, CONSTANT), "tables": b"\0"}
    refused(load, craft(coded("w", (32,), **SPARSE | changes)), "constant symbol is 0, but at most -1")


@pytest.mark.parametrize("section", [b"\0\1\2", b"\xff\0\1"])
def test_booleans(load, section):
    refused(load, craft(tensor("w", RAW, 9, (3,), section=section)), "tensor w: a boolean is stored as")


def test_huffman_tables_that_are_no_code(load):
    for lengths in ("01" + "80", "02" + "a0", "03" + "80"):  # lengths 1; 1, 2; 1, 1, 1
        planes = bytes([HUFFMAN]) + varint(len(lengths) // 2 + 2) + bytes.fromhex(lengths) + bytes(2)
        claim = tensor("w", PLANES, INT8, (16,), varint(len(planes)), planes)
        refused(load, craft(claim), "tensor w: a Huffman table is not a complete prefix code")


# Bytes that belong to nothing ------------------------------------------------------------------------------


def test_bytes_left_in_the_header(load):
    refused(load, craft(GOOD, tail=b"\0"), "header: 1 unexpected bytes at its end")


def test_bytes_between_the_sections_and_the_checksum(load):
    body = craft(GOOD)[:-4] + b"\0"
    refused(load, body + crc(body), "describes a file of")


def test_lengths_are_in_their_shortest_form(load):
    start = b"\x89DC\x01\x84\x00" + bytes(4)
    body = start + crc(start)
    refused(load, body + crc(body), "length of the header is not in its shortest form")
    refused(load, around(b"\0\0\0\x80\0"), "number of tensors is not in its shortest form")
    refused(load, around(b"\x80\0\0\0\0"), "length of network is not in its shortest form")


def test_a_header_that_is_longer_than_the_file(load):
    for length in (1 << 20, 1 << 26):
        refused(load, b"\x89DC\x01" + varint(length) + bytes(100), "it is cut short")
    refused(load, b"\x89DC\x01" + varint(HUGE) + bytes(100), "length of the header is")


def test_a_header_without_a_byte(load):
    refused(load, around(b""), "length of network needs 1 bytes")


def test_the_checksums_are_each_looked_at(small_file, load):
    header = header_of(small_file)
    swapped = replace(header.entries[0], crc=header.entries[0].crc ^ 1)
    assert swapped.crc.to_bytes(4, "little") not in small_file
    data = small_file.replace(header.entries[0].crc.to_bytes(4, "little"), swapped.crc.to_bytes(4, "little"))
    data = data[: header.size - 4] + crc(data[: header.size - 4]) + data[header.size : -4]
    refused(load, data + crc(data), "tensor conv.weight: the checksum of its section does not match")
    refused(load, small_file[:-1] + bytes([small_file[-1] ^ 1]), "the file's checksum does not match")


def test_inspecting_is_as_safe_as_loading(save, small_file):
    for at in range(len(small_file)):
        damaged = bytearray(small_file)
        damaged[at] ^= 0x55
        sealed = resealed(bytes(damaged))
        if sealed is not None:
            facts = inspect(save(sealed))
            assert sum(facts.sections.values()) == len(sealed)
            assert math.isfinite(facts.ratio)


def test_bfloat16_codebooks_are_compared_as_bits(load):
    # +0 is zero; -0 and NaN are values like others.
    book = bytes.fromhex("0080c07f")
    claim = coded("w", (32,), **SPARSE | {"book": book, "k": 2, "dtype": BFLOAT16})
    values = np.frombuffer(load(craft(claim))["w"][0], dtype="<u2")
    assert values[[6, 13, 27]].tolist() == [0x7FC0, 0x8000, 0x7FC0]


def test_the_writer_makes_what_the_crafting_makes():
    values = np.array([1, 2], dtype=np.float32)
    assert pack([("good", encode_plain(values, DType.FLOAT32))], "n", "d") == craft(GOOD, network="n", data="d")
