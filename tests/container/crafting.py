"""Whole .dc files from parts that the package would never write, with all checksums right."""

import zlib
from dataclasses import replace

import numpy as np

from deepcompress.container.entries import crc_bytes
from deepcompress.container.format import header_span, pack_header, unpack_header
from deepcompress.errors import FormatError

FLOAT32, FLOAT16, BFLOAT16, FLOAT64, INT8 = range(5)
RAW, PLANES, CODED, ALIAS = range(4)
NONE, CONSTANT, FIXED, HUFFMAN, LITERAL = range(5)


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return varint(len(raw)) + raw


def crc(data):
    return zlib.crc32(data).to_bytes(4, "little")


def tensor(name, encoding, dtype, shape, fields=b"", section=b"", shared=0):
    """A tensor of a crafted file: its bytes in the header, and its section."""
    facts = varint(shared) + text(name) + bytes([encoding << 4 | dtype])
    facts += varint(len(shape)) + b"".join(map(varint, shape)) + fields
    return (facts if encoding == ALIAS else facts + crc(section)), section


def coded(
    name,
    shape,
    book=b"",
    tables=b"",
    offsets=b"",
    weights=b"",
    k=None,
    owner=0,
    n=0,
    b=0,
    coders=(NONE, NONE),
    fillers=0,
    dtype=FLOAT32,
    shared=0,
):
    """A CODED tensor of a crafted file; k is the size of `book` in fp32 unless given."""
    fields = varint(len(book) // 4 if k is None else k) + varint(owner) + varint(n)
    fields += bytes([b, coders[0] << 4 | coders[1]]) + varint(len(tables)) + varint(len(weights))
    if b:
        fields += varint(fillers) + varint(len(offsets))
    return tensor(name, CODED, dtype, shape, fields, book + tables + offsets + weights, shared)


def craft(*tensors, network="", data="", extensions=(), version=1, count=None, tail=b""):
    """A file of `tensors`; an extension is (flag, name, data), `count` lies about the number of tensors."""
    header = text(network) + text(data) + varint(len(extensions))
    for flag, name, content in extensions:
        header += bytes([flag]) + text(name) + text(content)
    header += varint(len(tensors) if count is None else count) + b"".join(facts for facts, _ in tensors) + tail
    return around(header, b"".join(section for _, section in tensors), version)


def around(header, sections=b"", version=1):
    """A file with this header, as bytes."""
    start = b"\x89DC" + bytes([version]) + varint(len(header)) + header
    body = start + crc(start) + sections
    return body + crc(body)


def front_coded(names):
    """(bytes shared with the name before, the other bytes) of each name."""
    previous = b""
    for name in map(str.encode, names):
        differ = (at for at, (a, b) in enumerate(zip(previous, name, strict=False)) if a != b)
        shared = next(differ, min(len(previous), len(name)))
        yield shared, name[shared:]
        previous = name


def floats(*values):
    return np.array(values, dtype="<f4").tobytes()


def header_of(data):
    return unpack_header(data[: header_span(data[:16], len(data))], len(data))


def resealed(data):
    """`data` with every checksum made right, as an attacker would; None if its header is refused even so."""
    try:
        span = header_span(data[:16], len(data))
        start = data[: span - 4]
        header = unpack_header(start + crc(start), len(data))
    except FormatError:
        return None
    at, entries = span, []
    for entry in header.entries:
        section = data[at : at + entry.info.section]
        at += entry.info.section
        entries.append(replace(entry, crc=zlib.crc32(section)))
    out = pack_header(replace(header, entries=tuple(entries))) + data[span:-4]
    assert len(out) == len(data) - 4  # what is accepted is written in one way only
    return out + crc_bytes(out)


def shared_weights(shape, density, codebook, seed=0):
    """Float32 zeros, and values of `codebook` at a fraction `density` of the places."""
    rng = np.random.default_rng(seed)
    values = rng.choice(np.asarray(codebook, dtype=np.float32), shape)
    values[rng.random(shape) >= density] = 0
    return values
