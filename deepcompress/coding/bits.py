"""Integers as bytes, and a reader that cannot run past its end."""

from __future__ import annotations

from deepcompress.errors import FormatError

MAX_VARINT_BYTES = 9  # 63 bits: every count and length fits a signed 64-bit integer


def varint(value: int) -> bytes:
    """`value` >= 0 as an unsigned LEB128 integer: seven bits a byte, least significant first."""
    assert 0 <= value < 1 << 63
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(number: int) -> int:
    """0, -1, 1, -2, … as 0, 1, 2, 3, …, so that `varint` has numbers of either sign."""
    return 2 * number if number >= 0 else -2 * number - 1


def unzigzag(number: int) -> int:
    """The inverse."""
    return -(number + 1 >> 1) if number & 1 else number >> 1


class Reader:
    """Reads a span of bytes from front to back; every read is checked against the end first."""

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data, self._at, self._what = memoryview(data), 0, what

    def __len__(self) -> int:
        """Bytes left."""
        return len(self._data) - self._at

    def take(self, count: int, field: str) -> memoryview:
        """The next `count` bytes, without a copy."""
        if count > len(self):
            raise FormatError(f"{self._what}: {field} needs {count} bytes, but only {len(self)} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self, field: str) -> int:
        """The next byte."""
        return self.take(1, field)[0]

    def varint(self, field: str, limit: int = (1 << 63) - 1) -> int:
        """The next LEB128 integer; it must be at most `limit` and in its shortest form."""
        value = 0
        for index in range(MAX_VARINT_BYTES):
            byte = self.byte(field)
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index:
                    raise FormatError(f"{self._what}: {field} is not in its shortest form")
                if value > limit:
                    raise FormatError(f"{self._what}: {field} is {value}, but at most {limit} is allowed")
                return value
        raise FormatError(f"{self._what}: {field} is longer than {MAX_VARINT_BYTES} bytes")

    def text(self, field: str, limit: int) -> str:
        """A length (varint) and that many bytes of UTF-8."""
        raw = bytes(self.take(self.varint(f"length of {field}", limit), field))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{self._what}: {field} is not valid UTF-8") from None

    def line(self, field: str, limit: int, last: int) -> memoryview:
        """The bytes before the next one that is `last`, at most `limit`; `last` is passed."""
        length = bytes(self._data[self._at : self._at + limit + 1]).find(last)
        if length < 0:
            raise FormatError(f"{self._what}: {field} does not end within {limit} bytes")
        return self.take(length + 1, field)[:-1]

    def end(self) -> None:
        """Assert that nothing is left."""
        if len(self):
            raise FormatError(f"{self._what}: {len(self)} unexpected bytes at its end")
