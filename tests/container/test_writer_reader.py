import os
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import plain_reader
import pytest
from crafting import header_of, shared_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcompress.coding.encoder import CODERS, alias, encode_coded, encode_plain
from deepcompress.coding.layouts.dense import Dense, Streams
from deepcompress.coding.layouts.references import Alias
from deepcompress.coding.layouts.relative import Relative
from deepcompress.coding.streams import Coder
from deepcompress.coding.tensors import DType, TensorInfo
from deepcompress.container import reader
from deepcompress.container.reader import ModelFile, default_max_bytes
from deepcompress.container.writer import pack, planned_size
from deepcompress.container.writer import save as save_file
from deepcompress.errors import FormatError

BOOK = np.array([-1.5, -0.25, 0.25, 2.0], dtype=np.float32)


def as_plain(loaded):
    return {name: (int(dtype), shape, raw) for name, (raw, shape, dtype) in loaded.items()}


def test_everything_comes_back_bit_for_bit(small_tensors, small_file, load):
    loaded = load(small_file)
    assert list(loaded) == [name for name, *_ in small_tensors]
    for name, values, dtype, _ in small_tensors:
        assert loaded[name] == (values.astype(dtype.storage).tobytes(), values.shape, dtype)


def test_values_have_the_storage_type(small_file, save):
    with ModelFile(save(small_file)) as file:
        values, dtype = file.read("half")
        assert (values.dtype, dtype) == (np.dtype("<u2"), DType.BFLOAT16)
        values, dtype = file.read("literal")
        assert (values.dtype, values[2, 3], values[8, 0]) == (np.dtype("<f2"), 1.5, -0.125)
        assert file.read("steps")[0] == 3


def test_the_plain_reader_agrees(small_file, load):
    values, facts = plain_reader.read(small_file)
    assert values == as_plain(load(small_file))
    header = header_of(small_file)
    assert (facts.network, facts.data) == ("net", "digits")
    assert (header.network, header.data) == ("net", "digits")
    for entry, tensor in zip(header.entries, facts.tensors.values(), strict=True):
        assert (entry.name, entry.start, entry.info.section) == (tensor.name, tensor.start, sum(tensor.parts))
        layout = entry.info.layout
        if isinstance(layout, Streams):
            assert (layout.nonzeros, layout.offsets.bits if isinstance(layout, Relative) else 0) == (tensor.n, tensor.b)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_plain_reader_agrees_on_any_file(load, data):
    tensors, books = [], {}
    for number in range(data.draw(st.integers(0, 4), label="tensors")):
        dtype = data.draw(st.sampled_from(list(DType)[:-1]))  # complex128 has no integer of its width
        shape = tuple(data.draw(st.lists(st.integers(0, 8), max_size=3)))
        seed, density = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0, 0.1, 0.5, 1]))
        rng = np.random.default_rng(seed)
        entries = (np.arange(data.draw(st.integers(1, 6))) * 77 + 1).astype(dtype.bits)
        bits = np.where(rng.random(shape) < density, rng.choice(entries, shape), 0).astype(dtype.bits)
        values = (bits != 0) if dtype is DType.BOOL else np.asarray(bits).view(dtype.storage)
        if not dtype.is_float or data.draw(st.booleans()):
            encoded = encode_plain(values, dtype)
        else:
            target = books.get((dtype, len(entries)))
            encoded = encode_coded(
                values, dtype, entries.view(dtype.storage), data.draw(st.sampled_from(CODERS)), target
            )
            if encoded.info.codebook:
                books[dtype, len(entries)] = number
        tensors.append((f"layer{number}.weight", encoded))
    file = pack(tensors)
    assert plain_reader.read(file)[0] == as_plain(load(file))


def test_the_plain_reader_agrees_on_lanes(load):
    book = np.arange(1, 17, dtype=np.float32)
    dense = np.minimum(np.random.default_rng(0).geometric(0.3, (1 << 17) + 77) - 1, 16).astype(np.float32)
    encoded = encode_coded(dense, DType.FLOAT32, book)
    assert isinstance(encoded.info.layout, Dense)
    assert encoded.info.layout.stream_coder is Coder.HUFFMAN
    file = pack([("dense", encoded)])
    loaded = load(file)
    assert loaded["dense"][0] == dense.tobytes()
    assert plain_reader.read(file)[0] == as_plain(loaded)


def test_lanes_of_offsets_and_of_weights(load):
    weights = shared_weights((1000, 1600), 0.09, np.linspace(-1, 1, 32), seed=5)
    file = pack([("w", encode_coded(weights, DType.FLOAT32, np.unique(weights[weights != 0])))])
    info = header_of(file).entries[0].info
    assert info.nonzeros > 1 << 17
    assert (info.layout.offsets.stream_coder, info.layout.stream_coder) == (Coder.HUFFMAN, Coder.FIXED)
    assert load(file)["w"][0] == weights.tobytes()


def test_same_tensors_same_bytes(small_tensors, small_file):
    assert pack([(name, encoded) for name, _, _, encoded in small_tensors], "net", "digits") == small_file
    assert pack(((name, encoded) for name, _, _, encoded in small_tensors), "net", "digits") == small_file


def test_every_byte_has_its_place(small_tensors, small_file):
    header = header_of(small_file)
    sections = b"".join(encoded.section for *_, encoded in small_tensors)
    assert small_file[header.size : -4] == sections
    assert header.file_size == len(small_file) == header.size + len(sections) + 4
    assert int.from_bytes(small_file[-4:], "little") == zlib.crc32(small_file[:-4])


def test_iteration_entries_and_names(small_tensors, small_file, save):
    with ModelFile(str(save(small_file))) as file:
        assert list(file) == [name for name, *_ in small_tensors]
        assert file.file_bytes == len(small_file)
        assert file.entry("fc.tied").info == TensorInfo((12, 12), DType.FLOAT32, Alias(2))
        assert file.resolved(file.entry("fc.tied")) == file.entry("fc.weight")
        assert file.resolved(file.entry("steps")) == file.entry("steps")
        for call in (file.entry, file.read):
            with pytest.raises(KeyError, match=r"fc\.missing"):
                call("fc.missing")


def test_a_tied_tensor_costs_no_section(small_file, load):
    loaded = load(small_file)
    assert loaded["fc.tied"] == loaded["fc.weight"]
    values = np.ones(300, dtype=np.float32)
    once = pack([("a", encode_plain(values, DType.FLOAT32))])
    twice = pack([("a", encode_plain(values, DType.FLOAT32)), ("b", alias(values.shape, DType.FLOAT32, 0))])
    assert len(twice) - len(once) == 3 + 1 + 3 + 1  # name, kind, shape (300), target


def test_a_shared_codebook_is_stored_and_read_once(save, monkeypatch):
    first = shared_weights((30, 30), 0.3, BOOK)
    second = shared_weights((30, 20), 0.3, BOOK, seed=1)
    encoded = encode_coded(second, DType.FLOAT32, BOOK, target=0)
    file = pack([("a", encode_coded(first, DType.FLOAT32, BOOK)), ("b", encoded), ("c", encoded)])
    assert file.count(BOOK.tobytes()) == 1
    with ModelFile(save(file)) as opened:
        seen = []
        original = reader.ModelFile._section
        monkeypatch.setattr(reader.ModelFile, "_section", lambda self, e: seen.append(e.name) or original(self, e))
        for name, values in (("b", second), ("c", second), ("a", first)):
            assert opened.read(name)[0].tobytes() == values.tobytes()
        assert seen == ["a", "b", "c", "a"]


def test_the_file_is_closed(small_file, save):
    with ModelFile(save(small_file)) as file:
        file.read("steps")
    with pytest.raises(ValueError, match="closed file"):
        file.read("steps")


def test_a_damaged_section_concerns_its_tensor_only(small_file, save):
    header = header_of(small_file)
    entry = next(entry for entry in header.entries if entry.name == "conv.bias")
    damaged = bytearray(small_file)
    damaged[entry.start] ^= 1
    with ModelFile(save(bytes(damaged))) as file:
        for name in file:
            if name != "conv.bias":
                file.read(name)
        message = r"model.dc: tensor conv.bias: the checksum of its section does not match: the file is damaged"
        with pytest.raises(FormatError, match=message):
            file.read("conv.bias")
        with pytest.raises(FormatError, match=r"model.dc: the file's checksum does not match: it is damaged"):
            file.check()


def test_check_reads_the_file_in_chunks(small_file, save, monkeypatch):
    monkeypatch.setattr(reader, "_CHUNK", 7)
    with ModelFile(save(small_file)) as file:
        file.check()
    damaged = small_file[:-1] + bytes([small_file[-1] ^ 0x80])
    with ModelFile(save(damaged)) as file, pytest.raises(FormatError, match="the file's checksum"):
        file.check()


def test_a_file_that_shrinks_while_it_is_read(save, monkeypatch):
    monkeypatch.setattr(reader, "_CHUNK", 1 << 12)
    values = np.random.default_rng(0).integers(0, 256, 1 << 18, dtype=np.uint8)
    data = pack([("noise", encode_plain(values, DType.UINT8))])
    path = save(data)
    with ModelFile(path) as file:
        os.truncate(path, len(data) // 2)
        with pytest.raises(FormatError, match="the file became shorter while it was read"):
            file.check()
        with pytest.raises(FormatError, match="tensor noise: the checksum of its section"):
            file.read("noise")


# What a file may claim -------------------------------------------------------------------------------------


def test_the_default_limit():
    assert default_max_bytes(100) == 256 << 20
    assert default_max_bytes(1 << 20) == 1 << 30


def test_the_limit_counts_all_tensors_of_the_file(small_file, save):
    claimed = sum(entry.info.nbytes for entry in header_of(small_file).entries)
    with ModelFile(save(small_file)) as file:
        file.check(claimed)
        with pytest.raises(FormatError, match=rf"take {claimed} bytes, more than the {claimed - 1} allowed; if you tr"):
            file.check(claimed - 1)


def test_one_tensor_is_not_read_beyond_the_limit(save):
    zeros = encode_coded(np.zeros(4096, np.float32), DType.FLOAT32, None)
    assert zeros.section == b""
    huge = replace(zeros, info=replace(zeros.info, shape=(1 << 20, 1 << 10)))
    with ModelFile(save(pack([("w", huge)]))) as file:
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match=r"tensor w: it would take 4294967296 bytes, more than the 268435456"):
                file.read("w")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_the_limit_of_check_holds_for_read(save):
    file = pack([("w", encode_plain(np.ones(1000, dtype=np.float32), DType.FLOAT32))])
    with ModelFile(save(file)) as opened:
        opened.read("w")
        with pytest.raises(FormatError, match="more than the 3999 allowed"):
            opened.check(3999)
        with pytest.raises(FormatError, match="more than the 3999 allowed"):
            opened.read("w")
        opened.check(4000)
        opened.read("w")


# What cannot be read is not written ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "labels", "message"),
    [
        ([("a\n", 0)], ("", ""), "cannot be printed"),
        ([("", 0)], ("", ""), "is empty, not UTF-8, or there twice"),
        ([("x", 0), ("x", 0)], ("", ""), "there twice"),
        ([("x" * 513, 0)], ("", ""), "length of a name is 513, but at most 512"),
        ([], ("x" * 256, ""), "length of network is 256"),
        ([], ("", "\t"), "data .* cannot be printed"),
    ],
)
def test_names_that_no_reader_takes(tensors, labels, message):
    encoded = encode_plain(np.zeros(3, dtype=np.float32), DType.FLOAT32)
    with pytest.raises(FormatError, match=message):
        pack([(name, encoded) for name, _ in tensors], *labels)


def test_aliases_that_no_reader_takes():
    values = np.zeros(3, dtype=np.float32)
    with pytest.raises(FormatError, match="alias of tensor 1, which does not come before it"):
        pack([("a", alias(values.shape, DType.FLOAT32, 1)), ("b", encode_plain(values, DType.FLOAT32))])


# Paths -----------------------------------------------------------------------------------------------------


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FormatError, match=r"missing.dc: no such file"):
        ModelFile(tmp_path / "missing.dc")
    with pytest.raises(FormatError, match=r"no such file"):
        ModelFile(tmp_path / "missing" / "model.dc")
    with pytest.raises(FormatError, match="not a regular file"):
        ModelFile(tmp_path)
    os.mkfifo(tmp_path / "pipe.dc")  # opening it would wait for a writer for ever
    with pytest.raises(FormatError, match=r"pipe.dc: not a regular file"):
        ModelFile(tmp_path / "pipe.dc")
    with pytest.raises(FormatError, match="cannot be read"):
        ModelFile(tmp_path / ("x" * 300))


def test_a_file_that_may_not_be_read(small_file, save, monkeypatch):
    path = save(small_file)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(FormatError, match=r"model.dc: cannot be read \(Permission denied\)"):
        ModelFile(path)


def test_an_empty_file(save):
    with pytest.raises(FormatError, match=r"model.dc: this is not a .dc file"):
        ModelFile(save(b""))


def test_saving_tensor_by_tensor_makes_the_same_file(tmp_path, small_tensors):
    tensors = [(name, encoded) for name, _, _, encoded in small_tensors]
    expected = pack(tensors, "net", "digits")
    save_file(tmp_path / "m.dc", iter(tensors), "net", "digits")
    assert (tmp_path / "m.dc").read_bytes() == expected
    assert planned_size([(name, encoded.info) for name, encoded in tensors], "net", "digits") == len(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["m.dc"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path, small_tensors):
    (tmp_path / "m.dc").write_bytes(b"old")

    def failing():
        yield small_tensors[0][0], small_tensors[0][3]
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        save_file(tmp_path / "m.dc", failing())
    assert (tmp_path / "m.dc").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.dc"]
