"""Zip archives: opened and read with one error for whatever is wrong with them."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import IO

from deepcompress.errors import CheckpointError

MAGIC = b"PK\x03\x04"
_EXPANDS = 1100  # times that deflate can shrink


class Archive:
    """A zip file whose records are read as they are asked for.

    Raises:
        CheckpointError: as all its methods: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # on damaged bytes zipfile fails in many ways
            raise CheckpointError(f"{path}: a damaged zip archive ({error})") from None
        self.records = {record.filename: record for record in self._zip.infolist()}

    @property
    def is_stored(self) -> bool:
        """Whether all records lie in the file as they are."""
        return all(record.compress_type == zipfile.ZIP_STORED for record in self.records.values())

    def size(self, name: str) -> int:
        """Bytes of a record, found to be possible."""
        record = self.records[name]
        if record.file_size > _EXPANDS * max(record.compress_size, 1):
            raise CheckpointError(f"{self.path}: its record {name} is smaller than the file says")
        return record.file_size

    def open(self, name: str) -> IO[bytes]:
        """A record as a stream, whose errors are zipfile's."""
        return self._zip.open(name)

    def read(self, name: str) -> bytes:
        """A whole record."""
        self.size(name)
        try:
            return self._zip.read(name)
        except Exception as error:  # what zipfile and zlib raise on damaged bytes
            raise CheckpointError(f"{self.path}: its record {name} is damaged ({error})") from None

    def reader(self, name: str) -> partial[bytes]:
        """What reads a record when it is called."""
        return partial(self.read, name)
