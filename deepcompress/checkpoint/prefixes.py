"""What wrappers of torch's put before the names of a network, taken away where that is certain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Before all names: DataParallel, averaged and exported networks; torch.compile; NNCF.
COMMON = ("module.", "_orig_mod.", "nncf_module.")

#: Anywhere in a name: torch.compile, FSDP and checkpointing wrap parts of a network, under names that only they use.
INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

#: The counter that AveragedModel (SWA, EMA) puts beside the network that it averages.
COUNTER = "n_averaged"

#: What a file of ours says if its names begin like a wrapper's and are the network's own.
OWN_NAMES = "names"


@dataclass(frozen=True)
class Unwrapped:
    """Each name without what wrappers put there, with the name as it is stored; what was removed; what is no weight."""

    names: dict[str, str]
    removed: str = ""
    left_out: tuple[str, ...] = ()


def unwrapped(names: Iterable[str]) -> Unwrapped:
    """The names of a network without those of the wrappers it was in, one in the other."""
    stored = list(names)
    left, found = stored, ""
    while common := _common(left):
        left = [name.removeprefix(common) for name in left if name != COUNTER]
        found += common
    counted = [name for name in stored if name == COUNTER] if found else []
    kept = [name for name in stored if name not in counted]
    plain = {_without_inner(name): full for name, full in zip(left, kept, strict=True)}
    if len(plain) < len(kept):  # two would have one name
        return Unwrapped({name: name for name in stored})
    inner = sorted({f"{part}." for name in left for part in name.split(".") if part in INNER})
    return Unwrapped(plain, found + "".join(inner), tuple(counted))


def _common(names: list[str]) -> str:
    weights = [name for name in names if name != COUNTER]
    return next((prefix for prefix in COMMON if weights and all(name.startswith(prefix) for name in weights)), "")


def _without_inner(name: str) -> str:
    *parts, last = name.split(".")
    return ".".join([*(part for part in parts if part not in INNER), last])
