"""The layouts of tensors, by their numbers in a header. Each module has some that are alike, each in one place."""

from __future__ import annotations

from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.layouts.exact import Constant, Planes, Raw, Rows
from deepcompress.coding.layouts.ranked import Ranked
from deepcompress.coding.layouts.references import Alias, Copy
from deepcompress.coding.layouts.relative import Relative
from deepcompress.coding.tensors import Layout

#: All that there are. `Relative` and `Ranked` stand for all that share their number.
LAYOUTS: dict[int, type[Layout]] = {
    layout.number: layout for layout in (Raw, Planes, Relative, Alias, Constant, Adaptive, Rows, Copy, Ranked)
}
