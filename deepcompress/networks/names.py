"""The tensors of a file under the names of a network that is at hand.

The names as they are come first; then without what wrappers put before them, and without any longer beginning that all
of the network's tensors have in the file. All names and shapes decide what fits, and never a list of wrappers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from deepcompress import networks
from deepcompress.checkpoint import Checkpoint
from deepcompress.checkpoint.found import Found, about
from deepcompress.checkpoint.prefixes import unwrapped
from deepcompress.checkpoint.reparametrized import combined
from deepcompress.checkpoint.stored import Shape, Stored, gathered
from deepcompress.errors import CheckpointError
from deepcompress.layers import tensors_of

_ANCHORS = 3  # names of the network that are looked for behind a prefix


@dataclass(frozen=True)
class Way:
    """Names of a network, each with a name in a file: how many fit by shape, and what is missing or not used.

    `extra` are those of what modules keep beside tensors.
    """

    names: dict[str, str]
    prefix: str
    fits: int
    missing: int
    unused: list[str]
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def used(self) -> set[str]:
        """Names in the file."""
        return set(self.names.values())


def fitted(source: Checkpoint, network: nn.Module, plain: bool = False) -> Checkpoint:
    """The tensors of `source` under the names of `network`, as far as they can be found; it is not changed.

    A tensor that the network ties to another may be missing. Computed weights are matched as what they are computed
    from, or else (always if `plain`) as what they come to. Where that leaves tensors of the network without any, the
    names are those under which most fit; where that is no more than half of them, names stay as they were.

    Raises:
        CheckpointError: several parts of the file fit, as a network and its average.
    """
    stored = source.stored or _of(source.state)
    computed, kinds = combined(stored)
    own, extra = _own(network), source.stored_extra or source.extra
    if not plain and (way := _whole(own, stored, network, extra)) is not None:
        return _under(source, stored, way, {})
    if (way := _whole(combined(own)[0], computed, network, extra)) is not None:
        return _under(source, computed, way, kinds)
    if not plain and (way := _nearest(own, stored, network, extra)) is not None:
        return _under(source, stored, way, {})
    if (way := _nearest(combined(own)[0], computed, network, extra)) is not None:
        return _under(source, computed, way, kinds)
    return source


def naming(network: nn.Module, tensors: Mapping[str, torch.Tensor], extra: Collection[str] = ()) -> dict[str, str]:
    """The names of `network`, each with that under which `tensors` have it, whose values do not matter; or `extra`.

    Where not all of them fit, names are those under which most do, or stay as they are.

    Raises:
        CheckpointError: as `fitted`.
    """
    stored = _of(tensors)
    own = _own(network)
    forms = (own, combined(own)[0])
    whole = (_whole(names, stored, network, extra, partly=False) for names in forms)
    near = (_nearest(names, stored, network, extra) for names in forms)
    way = next((way for way in chain(whole, near) if way is not None), None)
    return {name: name for name in (*tensors, *extra)} if way is None else {**way.names, **way.extra}


def known(source: Checkpoint) -> str | None:
    """The name of the known network whose tensors `source` has, whatever stands before their names, or None."""
    name = networks.match(source.state)
    for candidate, factory in networks.REGISTRY.items() if name is None else ():
        with torch.device("meta"):
            network = factory()
        with suppress(CheckpointError):  # several fit: the tensors alone do not say which
            if networks.match(fitted(source, network).state) == candidate:
                return candidate
    return name


def _own(network: nn.Module) -> dict[str, Stored]:
    """The tensors of a network; none if one of them has no shape yet."""
    if any(is_lazy(value) for value in (*network.parameters(), *network.buffers())):
        return {}
    return _of(tensors_of(network))


def _of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Stored]:
    return {name: Stored(tuple(value.shape), value.dtype, value.clone, value=value) for name, value in tensors.items()}


def _tied(network: nn.Module) -> dict[str, str]:
    """Names whose tensor is an earlier one, and the name of that one; values do not matter (on the meta device)."""
    tensors = tensors_of(network, keep_vars=True)
    first = {id(value): name for name, value in reversed(tensors.items())}
    return {name: first[id(value)] for name, value in tensors.items() if first[id(value)] != name}


def _whole(
    own: Mapping[str, Stored],
    stored: Mapping[str, Stored],
    network: nn.Module,
    extra: Collection[str] = (),
    partly: bool = True,
) -> Way | None:
    """The way that gives the network all its tensors: by the names as they are, or else the one there is.

    Under other names it may leave a part of the file (`partly`). Under the same ones, tensors that the network does not
    know are an error, as in torch.
    """
    if not own:
        return None
    ways: list[Way] = []
    shapes = {name: tensor.shape for name, tensor in own.items()}
    for way in _ways(own, stored, network, extra):
        enough = not way.unused or (partly and _is_most(way, shapes, stored))
        if not way.missing and enough and not any(way.names == other.names for other in ways):
            ways.append(way)
        if not way.missing and not way.prefix and way.fits == sum(name in own for name in way.names):
            return way  # what else is in the file has no place in the network
    if not ways:
        return None
    best = max(way.fits for way in ways)
    same = [way for way in ways if way.fits == best]
    if len(same) > 1:
        listed = ", ".join(repr(way.prefix.rstrip(".")) for way in same)
        raise CheckpointError(f"the network fits several parts of the file, {listed}; say which with --key")
    return same[0]


def _is_most(way: Way, own: Mapping[str, Shape], stored: Mapping[str, Stored]) -> bool:
    """Whether a way that renames tensors takes more than it leaves: any small network fits somewhere in a large one."""
    taken = {name: full for name, full in way.names.items() if name in own}
    left, kept = (sum(stored[name].elements for name in names) for names in (way.unused, set(taken.values())))
    return way.fits == len(taken) and left <= kept and any(name != full for name, full in taken.items())


def _nearest(
    own: Mapping[str, Stored], stored: Mapping[str, Stored], network: nn.Module, extra: Collection[str]
) -> Way | None:
    """The one way by which most of a network's tensors fit, if that is more than half of them.

    What has no place in the network has its name in the file, so that it can be told.
    """
    ways = [way for way in _ways(own, stored, network, extra) if way.missing]
    best = max((way.fits for way in ways), default=0)
    same = [way for way in ways if way.fits == best]
    if 2 * best <= len(own) or any(way.names != same[0].names for way in same[1:]):
        return None
    return replace(same[0], names={**same[0].names, **{name: name for name in same[0].unused}}, unused=[])


def _ways(
    own: Mapping[str, Stored], stored: Mapping[str, Stored], network: nn.Module, extra: Collection[str]
) -> Iterator[Way]:
    ties, spare = _tied(network), networks.batch_counters(network)
    shapes = {name: tensor.shape for name, tensor in own.items()}
    for names, prefix in _candidates(list(shapes), [*stored, *extra], spare):
        tensors = {name: full for name, full in names.items() if full in stored}
        beside = {name: full for name, full in names.items() if full not in stored}
        yield replace(_way(tensors, prefix, shapes, stored, ties, spare), extra=beside)


def _candidates(own: list[str], stored: list[str], spare: Collection[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Ways to name the tensors of a file, with the prefix that each takes away; the names as they are first."""
    bare = unwrapped(stored)
    for names, removed in (({name: name for name in stored}, ""), (bare.names, bare.removed)):
        for start in _beginnings(own):  # the network may be in a wrapper of its own
            inner = [name.removeprefix(start) for name in own]
            for prefix in ("", *_prefixes(inner, names, spare)):
                found = {name.removeprefix(prefix): full for name, full in names.items() if name.startswith(prefix)}
                yield {start + name: full for name, full in found.items()}, removed + prefix
    inside = unwrapped(own).names  # parts of the network may be in wrappers of their own
    yield {inside.get(name, name): full for name, full in bare.names.items()}, bare.removed


def _beginnings(names: list[str]) -> list[str]:
    """What all names begin with, from nothing to the longest, in whole parts."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, parts)]
    return ["".join(f"{part}." for part in shared[:count]) for count in range(len(shared) + 1)]


def _prefixes(inner: Collection[str], outer: Collection[str], spare: Collection[str]) -> list[str]:
    """What stands before names of `inner` in `outer`, the shortest first."""
    anchors = sorted((name for name in inner if name not in spare), key=lambda name: (-name.count("."), name))[
        :_ANCHORS
    ]
    found = {full.removesuffix(name) for name in anchors for full in outer if full.endswith(f".{name}")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _way(
    names: Mapping[str, str],
    prefix: str,
    own: Mapping[str, Shape],
    stored: Mapping[str, Stored],
    ties: Mapping[str, str],
    spare: Collection[str],
) -> Way:
    chosen = dict(names)
    for name, owner in ties.items():  # of two names for one tensor, a file may have one
        for absent, there in ((name, owner), (owner, name)):
            if absent not in chosen and there in chosen:
                chosen[absent] = chosen[there]
    fits = sum(own.get(name) == stored[full].shape for name, full in chosen.items())
    missing = sum(name not in chosen and name not in spare for name in own)
    used = set(chosen.values())
    return Way(chosen, prefix, fits, missing, [name for name in stored if name not in used])


def _under(source: Checkpoint, stored: Mapping[str, Stored], way: Way, kinds: Mapping[str, str]) -> Checkpoint:
    """The checkpoint with the names of a way."""
    tensors = {name: stored[full] for name, full in way.names.items()}
    found = source.found or Found("a .dc file")
    others = [entry for entry in found.left_out if entry not in (source.stored or ())]
    computed = {name: kinds[full] for name, full in way.names.items() if full in kinds}
    found = replace(found, prefix=way.prefix, combined=computed, left_out=(*others, *way.unused), **about(tensors))
    held = source.stored_extra or source.extra
    extra = {name: held[full] for name, full in way.extra.items()}
    return replace(source, state=gathered(tensors), found=found, extra=extra)
