"""Making the update from one .dc file to another, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from deepcompress.coding.bits import varint
from deepcompress.container import deflate
from deepcompress.container.entries import Entry
from deepcompress.container.format import pack_header
from deepcompress.container.reader import ModelFile
from deepcompress.updates.container import WINDOW
from deepcompress.updates.models import HEADER, LABELS, Tools, pack_labels
from deepcompress.updates.records import Op, Record, Records
from deepcompress.updates.ways import Pair, tell


def make(old: ModelFile, new: ModelFile, payload: BinaryIO) -> tuple[bytes, int]:
    """The facts of the update from one file to the other, and its version; payloads are written to `payload`."""
    before, after = old.header, new.header
    flags, labels = 0, b""
    if (before.network, before.data, before.extensions) != (after.network, after.data, after.extensions):
        flags, labels = LABELS, pack_labels(after)
    if pack_header(after) != (raw := new.header_bytes()):
        flags |= HEADER
        packed = deflate.by_zlib(raw, old.header_bytes()[-WINDOW:])
        labels += varint(len(raw)) + varint(len(packed))
        payload.write(packed)
    maker = _Maker(old, new)
    out, records = [bytes([flags]), labels], Records()
    for record, part in maker.records():
        out.append(records.pack(record))
        payload.write(part)
    return b"".join(out), records.version


class _Maker:
    """Looks at tensor after tensor of the new file, and finds what tells it in the fewest bytes."""

    def __init__(self, old: ModelFile, new: ModelFile) -> None:
        self._tools, self._old, self._new = Tools(old), old, new
        self._bases = _bases(old, new)

    def records(self) -> Iterator[tuple[Record, bytes]]:
        """What is told of all tensors, and their payloads."""
        run: Record | None = None
        for record, payload in map(self._told, self._new.header.entries):
            if run and run.base is not None and record.op is Op.SAME and run.base + run.count == record.base:
                run = replace(run, count=run.count + 1)
                continue
            if run:
                yield run, b""
            run = record if record.op is Op.SAME else None
            if not run:
                yield record, payload
        if run:
            yield run, b""

    def _is_same(self, entry: Entry, base: Entry) -> bool:
        return entry.info == base.info and self._new.section(entry) == self._old.section(base)

    def _told(self, entry: Entry) -> tuple[Record, bytes]:
        base = self._bases.get(entry.name)
        if base is not None and self._is_same(entry, base):
            number = self._old.number(base.name)
            is_renamed = base.name != entry.name
            return Record(Op.RENAMED, entry.name, number) if is_renamed else Record(Op.SAME, base=number), b""
        section = self._new.section(entry)
        best = Record(Op.STORED, entry.name, info=entry.info, bytes=len(section)), section
        if base is None or entry.info.is_reference:
            return best
        return tell(Pair(entry, self._new, section, base, self._old), self._tools) or best


def _bases(old: ModelFile, new: ModelFile) -> dict[str, Entry]:
    """For each new tensor the old one that it is told by: of its name, or else one like it whose name is gone."""
    gone = [entry for entry in old.header.entries if entry.name not in new]
    found = {}
    for entry in new.header.entries:
        if entry.name in old:
            found[entry.name] = old.entry(entry.name)
            continue
        like = [one for one in gone if (one.info.shape, one.info.dtype) == (entry.info.shape, entry.info.dtype)]
        same = [one for one in like if one.info == entry.info and old.section(one) == new.section(entry)]
        if like:
            found[entry.name] = (same or like)[0]
            gone.remove(found[entry.name])
    return found
