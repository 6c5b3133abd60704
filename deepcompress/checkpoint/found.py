"""What was found in a checkpoint, so that it can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepcompress.checkpoint.stored import LazyTensors, Stored

_MOST = 4  # names in a sentence


@dataclass(frozen=True)
class Found:
    """Where the tensors come from, and what was done to their names and values.

    Attributes:
        container: the kind of file or folder.
        bytes: what it takes on the disk.
        key: under which keys of a nested dictionary they were, joined by dots; empty if at the top.
        prefix: what was taken from the front of all names.
        dtypes: how many tensors there are of each.
        tied: names whose tensor is another one's memory, and the name of that.
        combined: weights that were computed from others (reparametrizations, masks), and by what.
        restored: names that are not in the file, and the name of the tensor that its metadata says they are.
        left_out: what is in the file and not among the tensors.
    """

    container: str
    bytes: int = 0
    key: str = ""
    prefix: str = ""
    dtypes: Mapping[str, int] | None = None
    tied: Mapping[str, str] | None = None
    combined: Mapping[str, str] | None = None
    restored: Mapping[str, str] | None = None
    left_out: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "left_out": list(self.left_out)}

    def sentences(self) -> list[str]:
        """All of it in plain words, a line for each."""
        dtypes = self.dtypes or {}
        count = sum(dtypes.values())
        held = ", ".join(f"{number} {dtype}" for dtype, number in dtypes.items())
        where = f", under the key {self.key!r}" if self.key else ""
        lines = [f"This is {self.container}. It holds {count} tensor{'s' * (count != 1)} ({held}){where}."]
        if self.tied:
            lines.append(f"{_number(self.tied, 'tensor is', 'tensors are')} tied: {_pairs(self.tied)}.")
        return lines + self.news()

    def news(self) -> list[str]:
        """What was done to names and values, a line for each."""
        lines = []
        if self.prefix:
            lines.append(f"The prefix {self.prefix!r} was removed from the names.")
        for kind in dict.fromkeys((self.combined or {}).values()):
            names = [name for name, by in (self.combined or {}).items() if by == kind]
            lines.append(f"{_number(names, 'weight was', 'weights were')} computed by {kind}: {_some(names)}.")
        if self.restored:
            number = _number(self.restored, "tensor was", "tensors were")
            lines.append(f"{number} taken from another one, as the metadata says: {_pairs(self.restored)}.")
        if self.left_out:
            lines.append(f"{_number(self.left_out, 'entry was', 'entries were')} left out: {_some(self.left_out)}.")
        return lines


def about(stored: Mapping[str, Stored]) -> dict[str, Any]:
    """The fields that the tensors themselves tell: `dtypes` and `tied`."""
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in stored.values())
    return {"dtypes": dict(dtypes.most_common()), "tied": LazyTensors(stored).tied}


def _number(things: Mapping[str, str] | Sequence[str], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"


def _pairs(owners: Mapping[str, str]) -> str:
    return _some([f"{name} is {owner}" for name, owner in owners.items()])


def _some(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _MOST} more"] if len(names) > _MOST else []
    return ", ".join([*names[:_MOST], *more])
