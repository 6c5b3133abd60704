"""The layouts of tensors, by their numbers in a header. Each module has some that are alike, each in one place."""

from __future__ import annotations

from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.layouts.exact import Constant, Planes, Raw, Rows
from deepcompress.coding.layouts.ranked import Ranked
from deepcompress.coding.layouts.references import Alias, Copy
from deepcompress.coding.layouts.symbols import Streams
from deepcompress.coding.tensors import Layout

#: All that there are. `Streams` and `Ranked` stand for some that share a number.
LAYOUTS: dict[int, type[Layout]] = {
    layout.number: layout for layout in (Raw, Planes, Streams, Alias, Constant, Adaptive, Rows, Copy, Ranked)
}
