"""Encoded tensors to the bytes of a .dc file."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from deepcompress.coding.tensors import EncodedTensor
from deepcompress.container.format import Entry, Header, crc_bytes, pack_header, unpack_header


def pack(tensors: Iterable[tuple[str, EncodedTensor]], network: str = "", data: str = "") -> bytes:
    """A whole file in memory. The same tensors in the same order give the same bytes.

    Args:
        tensors: fully qualified name and encoded tensor; an alias or shared codebook refers to an earlier one.
        network: name of the network, for readers that know it; empty if there is none.
        data: name of the data set that the network was trained for; empty if there is none.

    Raises:
        FormatError: the file could not be read back, because a name or a shape is beyond the limits of the format.
    """
    tensors = list(tensors)
    entries = tuple(Entry(name, encoded.info, zlib.crc32(encoded.section)) for name, encoded in tensors)
    chunks = [pack_header(Header(network, data, entries)), *(encoded.section for _, encoded in tensors)]
    file = b"".join(chunks) + crc_bytes(*chunks)
    unpack_header(chunks[0], len(file))
    return file
