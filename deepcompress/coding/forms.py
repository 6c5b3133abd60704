"""What a header says of a codebook: whose it is, how many values it has, and in which form they are stored.

Format version 1 has but one form, the values themselves. A float32 codebook may also be of values that float16
holds exactly, or on a grid: multiples j * scale of one number, low <= j <= high, all but 0 or those that a mask names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from deepcompress.coding.bits import Reader, unzigzag, varint, zigzag
from deepcompress.coding.dtypes import DType
from deepcompress.errors import FormatError

MAX_CODEBOOK = 1 << 12  # values
MAX_MULTIPLE = 1 << 15
OWNED_FROM = 8  # from here on, the number of a form is that of the tensor that stores the codebook


class Form(IntEnum):
    """How a codebook is stored; the numbers are part of the file format."""

    ENTRIES = 0
    HALVES = 1
    GRID = 2
    GRID_HALF = 3  # the scale is a float16
    GRID_BFLOAT = 4  # the scale is a bfloat16
    ROWS = 5  # no codebook, but whole numbers, and a scale for each row (`scales`)

    @property
    def is_grid(self) -> bool:
        """Whether the values are multiples of one scale."""
        return Form.GRID <= self <= Form.GRID_BFLOAT

    @property
    def scale_bytes(self) -> int:
        """Bytes of a grid's scale."""
        return 4 if self is Form.GRID else 2


@dataclass(frozen=True)
class StoredCodebook:
    """What the header says of a codebook in the tensor's own section.

    Attributes:
        form: how it is stored.
        count: how many values it has.
        low, high: the lowest and the highest multiple of a grid; 0 in other forms.
    """

    form: Form = Form.ENTRIES
    count: int = 0
    low: int = 0
    high: int = 0

    @property
    def owner(self) -> None:
        """No other tensor stores it."""

    @property
    def version(self) -> int:
        """The first version of the format that has its form."""
        return 1 if self.form is Form.ENTRIES else 2

    @property
    def multiples(self) -> int:
        """How many values a grid has if it has no mask."""
        return self.high - self.low + (0 if self.low <= 0 <= self.high else 1)

    def length(self, itemsize: int) -> int:
        """Bytes of the codebook for elements of `itemsize` bytes."""
        if self.form is Form.ENTRIES:
            return self.count * itemsize
        if self.form is Form.HALVES:
            return self.count * 2
        mask = 0 if self.count == self.multiples else -(-(self.high - self.low + 1) // 8)
        return self.form.scale_bytes + mask

    def pack(self, version: int) -> bytes:
        """Its fields in a header of this version."""
        fields = [self.count, 0 if version == 1 else int(self.form)]
        fields += [zigzag(self.low), zigzag(self.high)] if self.form.is_grid else []
        return b"".join(map(varint, fields))

    def check(self, dtype: DType) -> None:
        """Raise a FormatError unless there can be such a codebook of a tensor of this dtype."""
        if self.form is not Form.ENTRIES and dtype is not DType.FLOAT32:
            raise FormatError(f"a codebook of {dtype.name} stored as {self.form.name}")
        high = max(-self.low, self.high)
        if self.form.is_grid and (self.low > self.high or high > MAX_MULTIPLE or not 0 < self.count <= self.multiples):
            raise FormatError(f"{self.count} values from {self.low} to {self.high} times the scale")


@dataclass(frozen=True)
class SharedCodebook:
    """What the header says of the codebook that an earlier tensor stores: that tensor's number, and the values."""

    owner: int
    count: int

    @property
    def version(self) -> int:
        """All versions have it."""
        return 1

    def length(self, itemsize: int) -> int:
        """It takes no bytes in this section."""
        return 0

    def pack(self, version: int) -> bytes:
        """Its fields in a header of this version."""
        return varint(self.count) + varint(self.owner + (1 if version == 1 else OWNED_FROM))

    def check(self, dtype: DType) -> None:
        """That of the owner is checked with it."""


@dataclass(frozen=True)
class RowScales:
    """What the header says in place of a codebook where each row has a scale for its whole numbers (`scales`).

    Attributes:
        low, high: the lowest and the highest of the numbers.
        length: bytes of the scales.
    """

    low: int
    high: int
    length: int

    def pack(self) -> bytes:
        """Its fields in a header."""
        fields = (0, int(Form.ROWS), zigzag(self.low), zigzag(self.high), self.length)
        return b"".join(map(varint, fields))


def read_fields(
    reader: Reader, version: int, last: Form = Form.GRID_BFLOAT
) -> StoredCodebook | SharedCodebook | RowScales:
    """The inverse of the three `pack`: what a header says, in a form up to `last`.

    Raises:
        FormatError: there is no such form, or a number is above its limit.
    """
    count = reader.varint("size of the codebook", limit=MAX_CODEBOOK)
    number = reader.varint("form of the codebook" if version > 1 else "owner of the codebook")
    if version == 1:
        return SharedCodebook(number - 1, count) if number else StoredCodebook(Form.ENTRIES, count)
    if number >= OWNED_FROM:
        return SharedCodebook(number - OWNED_FROM, count)
    if number > last:
        raise FormatError(f"codebook form {number} is unknown; known are 0 to {last}")
    form = Form(number)
    if not form.is_grid and form is not Form.ROWS:
        return StoredCodebook(form, count)
    low, high = (unzigzag(reader.varint("multiple of a grid", limit=1 << 20)) for _ in range(2))
    if form.is_grid:
        return StoredCodebook(form, count, low, high)
    if count:
        raise FormatError(f"{count} shared values beside a scale for each row")
    return RowScales(low, high, reader.varint("length of the scales"))
