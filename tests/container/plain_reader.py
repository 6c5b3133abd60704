"""A second reader of .dc files: docs/format.md put into plain Python, slow and without numpy.

It shares no code with the package, so that both agree only if both do what the specification says. It checks
what it needs to find its way, and refuses less than a real reader must.
"""

import math
import re
import struct
import zlib
from pathlib import Path

import plain_model

MAGIC = b"\x89DC"
SIZES = dict(enumerate((4, 2, 2, 8, 1, 1, 2, 4, 8, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 4, 8, 16)))
RAW, PLANES, CODED, ALIAS, SAME, ADAPTIVE, ROWS, COPY = range(8)
NONE, CONSTANT, FIXED, HUFFMAN, LITERAL = range(5)


class Bytes:
    """Bytes read from front to back."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert self.at + count <= len(self.data)
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def text(self):
        return self.take(self.varint()).decode("utf-8")


class Bits:
    """Bits read from the top of each byte down."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bit(self):
        self.at += 1
        return self.data[self.at - 1 >> 3] >> 7 - (self.at - 1 & 7) & 1

    def number(self, width):
        value = 0
        for _ in range(width):
            value = value << 1 | self.bit()
        return value

    def bytes_read(self):
        return -(-self.at // 8)

    def end(self):
        while self.at % 8:
            assert self.bit() == 0
        assert self.at == 8 * len(self.data)


def read(data):
    """name -> (number of the dtype, shape, the bytes of the elements), and the facts of the header beside them."""
    file = Bytes(data)
    assert file.take(3) == MAGIC
    version = file.byte()
    checked, deflated, header = (True, False, Bytes(file.take(file.varint()))) if version == 1 else short_header(file)
    assert version in (1, 2, 3)
    assert checked or len(data) <= 65536
    if checked:
        assert crc(data[: file.at]) == file.take(4)
    facts = {"network": header.text(), "data": header.text(), "header_bytes": file.at}
    facts["extensions"] = [(header.byte(), header.text(), header.take(header.varint())) for _ in range(header.varint())]
    if version == 1:
        tensors = long_tensors(header)
    else:
        tensors = short_tensors(header, version, checked, front_coded=version == 3 and not deflated)
    assert header.at == len(header.data)
    for tensor in tensors:
        tensor["section"] = file.take(tensor["bytes"])
        assert not checked or tensor["encoding"] in (ALIAS, COPY) or crc(tensor["section"]) == tensor["crc"]
    assert crc(data[: file.at]) == file.take(4)
    assert file.at == len(data)
    facts["tensors"] = tensors
    values = {}
    for tensor in tensors:
        source = tensor
        while source["encoding"] in (ALIAS, COPY):
            source = tensors[source["target"]]
        values[tensor["name"]] = (source["dtype"], source["shape"], elements(source, tensors))
    return values, facts


def crc(data):
    return zlib.crc32(data).to_bytes(4, "little")


def long_tensors(header):
    tensors, name = [], b""
    for _ in range(header.varint()):
        name = next_name(header, name)
        tensors.append(tensor_facts(header, name.decode("utf-8")))
    return tensors


def next_name(header, name):
    return name[: header.varint()] + header.take(header.varint())


def short_header(file):
    """Whether there are checksums, whether the header was deflated, and the header of version 2 or 3."""
    flags = file.byte()
    assert flags < 4
    length = file.varint()
    if not flags & 1:
        return flags > 1, False, Bytes(file.take(length))
    inflated = file.varint()
    stream = zlib.decompressobj(-15, zdict=dictionary())
    header = stream.decompress(file.take(length)) + stream.flush()
    assert stream.eof
    assert len(header) == inflated <= 4096
    return flags > 1, True, Bytes(header)


def dictionary():
    """The preset dictionary, as section 9 shows it."""
    text = (Path(__file__).parent.parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```\n(self_attn.*?)^```", text, re.MULTILINE | re.DOTALL)
    return re.sub(
        r"\\x(..)", lambda found: chr(int(found[1], 16)), shown.replace("\n", "").replace("\\n", "\n")
    ).encode()


def short_tensors(header, version, checked, front_coded):
    names, name = [], b""
    for _ in range(header.varint()):
        if front_coded:
            name = next_name(header, name)
        else:
            end = header.data.index(b"\n", header.at)
            name = header.take(end + 1 - header.at)[:-1]
        names.append(name.decode("utf-8"))
    tensors = []
    for name in names:
        (dimensions, dtype), (flags, layout) = (two_numbers(header, version) for _ in range(2))
        tensor = {"name": name, "encoding": layout, "dtype": dtype, "size": SIZES[dtype], "flags": flags}
        tensor["shape"] = tuple(header.varint() for _ in range(dimensions))
        tensor["count"] = math.prod(tensor["shape"])
        tensor |= short_facts(header, tensor)
        if checked and layout not in (ALIAS, COPY):
            tensor["crc"] = header.take(4)
        tensors.append(tensor)
    return tensors


def two_numbers(header, version):
    high, low = divmod(header.byte(), 16)
    return high, header.byte() if version == 3 and low == 15 else low


def short_facts(header, tensor):
    layout = tensor["encoding"]
    if layout == RAW:
        return {"bytes": tensor["count"] * tensor["size"]}
    if layout == SAME:
        return {"bytes": tensor["size"]}
    if layout in (PLANES, ROWS):
        return {"bytes": header.varint()}
    if layout in (ALIAS, COPY):
        return {"target": header.varint(), "bytes": 0}
    k, form = header.varint(), header.varint()
    facts = {"k": k, "form": form, "owner": max(0, form - 7)}
    book = 0
    if form < 2:
        book = k * (2 if form else tensor["size"])
    elif form < 8:
        low, high = (
            number // 2 if number % 2 == 0 else -(number // 2) - 1 for number in (header.varint(), header.varint())
        )
        book = 4 if form == 2 else 2
        facts["steps"] = range(low, high + 1)
        facts["masked"] = k != sum(step != 0 for step in facts["steps"])
        book += -(-len(facts["steps"]) // 8) if facts["masked"] else 0
    facts["n"] = header.varint()
    if layout == ADAPTIVE:
        facts["side"] = header.varint() if tensor["flags"] & 2 else 0
        facts["parts"] = (book, header.varint())
        return facts | {"bytes": sum(facts["parts"])}
    b, coders, tables, weights = header.byte(), header.byte(), header.varint(), header.varint()
    fillers, offsets = (header.varint(), header.varint()) if b else (0, 0)
    facts |= {"b": b, "coders": divmod(coders, 16), "fillers": fillers, "parts": (book, tables, offsets, weights)}
    return facts | {"bytes": sum(facts["parts"])}


def tensor_facts(header, name):
    kind = header.byte()
    tensor = {"name": name, "encoding": kind // 16, "dtype": kind % 16, "size": SIZES[kind % 16]}
    tensor["shape"] = tuple(header.varint() for _ in range(header.varint()))
    tensor["count"] = 1
    for dimension in tensor["shape"]:
        tensor["count"] *= dimension
    if tensor["encoding"] == ALIAS:
        return tensor | {"target": header.varint(), "bytes": 0}
    if tensor["encoding"] == RAW:
        tensor["bytes"] = tensor["count"] * tensor["size"]
    if tensor["encoding"] == PLANES:
        tensor["bytes"] = header.varint()
    if tensor["encoding"] == CODED:
        tensor |= coded_facts(header, tensor["size"])
    return tensor | {"crc": header.take(4)}


def coded_facts(header, size):
    k, owner, n, b, coders = header.varint(), header.varint(), header.varint(), header.byte(), header.byte()
    tables, weights = header.varint(), header.varint()
    fillers, offsets = (header.varint(), header.varint()) if b else (0, 0)
    facts = {"k": k, "owner": owner, "n": n, "b": b, "coders": divmod(coders, 16), "fillers": fillers}
    facts["parts"] = (0 if owner else k * size, tables, offsets, weights)
    return facts | {"bytes": sum(facts["parts"])}


def elements(tensor, tensors):
    if tensor["encoding"] == RAW:
        return tensor["section"]
    if tensor["encoding"] == PLANES:
        return from_planes(tensor)
    if tensor["encoding"] == ROWS:
        return from_rows(tensor)
    if tensor["encoding"] == SAME:
        return tensor["section"] * tensor["count"]
    codebook = codebook_of(tensors[tensor["owner"] - 1] if tensor["owner"] else tensor)
    return (from_model if tensor["encoding"] == ADAPTIVE else from_codes)(tensor, codebook)


def codebook_of(tensor):
    size, form, section = tensor["size"], tensor.get("form", 0), tensor["section"]
    if form == 1:
        return [struct.pack("<f", struct.unpack_from("<e", section, 2 * i)[0]) for i in range(tensor["k"])]
    if form >= 2:
        return grid(tensor, form, Bytes(section))
    return [tensor["section"][i * size : (i + 1) * size] for i in range(tensor["k"])]


def grid(tensor, form, section):
    stored = section.take(4 if form == 2 else 2)
    (scale,) = struct.unpack("<e", stored) if form == 3 else struct.unpack("<f", stored.rjust(4, b"\0"))
    steps = tensor["steps"]
    present = [step != 0 for step in steps]
    if tensor["masked"]:
        bits = Bits(section.take(-(-len(steps) // 8)))
        present = [bits.bit() for _ in steps]
    # A double holds the product of two floats, so that there is only one rounding.
    return [struct.pack("<f", scale * step) for step, there in zip(steps, present, strict=True) if there]


def from_model(tensor, codebook):
    """The two parts of the section, and what the model makes of the second."""
    section = Bytes(tensor["section"])
    _, stream = (section.take(part) for part in tensor["parts"])
    negative = sorted((entry for entry in codebook if entry[-1] & 128), key=lambda entry: entry[::-1], reverse=True)
    positive = sorted((entry for entry in codebook if not entry[-1] & 128), key=lambda entry: entry[::-1])
    values = [bytes(tensor["size"]), *negative, *positive]
    many = Bytes(stream)
    large = tensor["count"] > 1 << 19
    blocks = iter(lambda: many.take(many.varint() if large else len(stream)), None)
    scan = bool(tensor["flags"] & 1), tensor["side"]
    symbols = plain_model.decode(blocks, tensor["shape"], *scan, len(codebook), len(negative), tensor["n"])
    assert many.at == len(stream)
    return b"".join(values[symbol] for symbol in symbols)


def from_planes(tensor):
    section = Bytes(tensor["section"])
    out = b"".join(planes(section, tensor["count"], tensor["size"]))
    assert section.at == len(section.data)
    return out


def planes(section, count, size):
    """So many elements, each as its bytes."""
    found = [plane(section, count, 256) for _ in range(size)]
    return [bytes(part[i] for part in found) for i in range(count)]


def plane(section, count, alphabet):
    coder = section.byte()
    body = Bytes(section.take(section.varint()))
    table = read_table(coder, body, alphabet)
    return symbols_of(coder, table, body.take(len(body.data) - body.at), count, alphabet)


def from_rows(tensor):
    section, rows = Bytes(tensor["section"]), tensor["shape"][0]
    columns = tensor["count"] // rows
    kinds = plane(section, rows, 16)
    out = [b""] * rows
    for kind in sorted(set(kinds)):
        stored = columns if kind else 1
        places = [row for row in range(rows) if kinds[row] == kind]
        elements = planes(section, stored * len(places), tensor["size"])
        for i, row in enumerate(places):
            out[row] = b"".join(elements[i * stored : (i + 1) * stored]) * (columns // stored)
    assert section.at == len(section.data)
    return b"".join(out)


def from_codes(tensor, codebook):
    section = Bytes(tensor["section"])
    _, tables, offsets, weights = (Bytes(section.take(part)) for part in tensor["parts"])
    offset_coder, weight_coder = tensor["coders"]
    zero, n, b = bytes(tensor["size"]), tensor["n"], tensor["b"]
    offset_table = read_table(offset_coder, tables, 1 << b)
    if weight_coder == LITERAL:
        values = [weights.take(tensor["size"]) for _ in range(n)]
        assert weights.at == len(weights.data)
    else:
        alphabet = codebook if b else [zero, *codebook]
        table = read_table(weight_coder, tables, len(alphabet))
        count = n if b else tensor["count"]
        values = [alphabet[i] for i in symbols_of(weight_coder, table, weights.data, count, len(alphabet))]
    assert tables.at == len(tables.data)
    if not b:
        assert sum(value != zero for value in values) == n
        return b"".join(values)

    out, filler, found = [], (1 << b) - 1, iter(values)
    steps = symbols_of(offset_coder, offset_table, offsets.data, n + tensor["fillers"], 1 << b)
    assert not steps or steps[-1] != filler
    for step in steps:
        out += [zero] * step
        if step != filler:
            out.append(next(found))
    assert next(found, None) is None
    return b"".join(out + [zero] * (tensor["count"] - len(out)))


def read_table(coder, tables, alphabet):
    if coder == CONSTANT:
        return tables.varint()
    if coder != HUFFMAN:
        return None
    used = tables.varint()
    assert used <= alphabet
    bits = Bits(tables.data[tables.at :])
    lengths, previous = [], 0
    for _ in range(used):
        if bits.bit():
            previous = previous + 1 if not bits.bit() else previous - 1 if not bits.bit() else bits.number(4)
        lengths.append(previous)
    tables.at += bits.bytes_read()
    words, word, length_before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - length_before
        words[length, word] = symbol
        word, length_before = word + 1, length
    assert word == 1 << length_before  # complete
    return words


def symbols_of(coder, table, stream, count, alphabet):
    if coder == NONE:
        assert count == 0
        return []
    if coder == CONSTANT:
        assert not stream
        return [table] * count
    if coder == FIXED:
        bits = Bits(stream)
        symbols = [bits.number(max(1, (alphabet - 1).bit_length())) for _ in range(count)]
        bits.end()
        return symbols
    assert coder == HUFFMAN
    lanes = 1
    if count >= 1 << 17:
        while 2 * lanes <= count // 2048:
            lanes *= 2
    stream = Bytes(stream)
    sizes = [int.from_bytes(stream.take(2), "little") for _ in range(lanes)] if lanes > 1 else [len(stream.data)]
    symbols = [None] * count
    for lane, size in enumerate(sizes):
        bits = Bits(stream.take(size))
        for i in range(lane, count, lanes):
            symbols[i] = next_symbol(bits, table)
        bits.end()
    assert stream.at == len(stream.data)
    return symbols


def next_symbol(bits, words):
    word = length = 0
    while (length, word) not in words:
        word, length = word << 1 | bits.bit(), length + 1
    return words[length, word]
