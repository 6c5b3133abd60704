"""Weights that a file holds as what they are computed from: combined by torch's own formulas, one at a time.

A zero in such a tensor need not be a zero of the weight, and a mask is nothing to prune. Known by names and shapes:

* ``weight_g``, ``weight_v`` and ``parametrizations.weight.original0, original1``: weight_norm, g·v/‖v‖
  (Salimans and Kingma 2016, equation 2);
* ``weight_orig``, ``weight_u``, ``weight_v`` and ``parametrizations.weight.original, 0._u, 0._v``: spectral_norm, with
  σ = uᵀWv of the vectors that are stored, as in evaluation (Miyato et al. 2018, equation 8);
* ``weight_orig``, ``weight_mask``: torch.nn.utils.prune; ``binary_mask`` (or ``mask``, as scores) under hooks: NNCF.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from deepcompress.checkpoint.stored import Shape, Stored

Tensors = Mapping[str, Stored]
WEIGHT_NORM, SPECTRAL_NORM, MASK, NNCF = "weight_norm", "spectral_norm", "a pruning mask", "NNCF's pruning mask"

_PARAMETRIZED = re.compile(
    r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\.(?:(?P<index>\d+)\.)?(?P<part>[^.]+)"
)
_NNCF_HOOK = re.compile(
    r"(?P<owner>(?:.*\.)?)__nncf_hooks\.\w+_hooks\.(?P<weight>[^.]+)__\d+\.\d+\.(?P<mask>(?:binary_)?mask)"
)
_NNCF_OLD = re.compile(r"(?P<owner>(?:.*\.)?)pre_ops\.\d+\.op\._?binary_mask")


@dataclass(frozen=True)
class _Weight:
    """A weight, the names of what it is computed from, how that is called, and the result."""

    name: str
    parts: tuple[str, ...]
    kind: str
    value: Stored


def combined(tensors: Tensors) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors with each weight in the place of what it is computed from, and how each of those was computed.

    What is computed by something unknown stays as it is.
    """
    found, kinds = dict(tensors), dict[str, str]()
    while weights := list(_weights(found)):  # a part of one may be computed itself
        places = {part: weight for weight in weights for part in weight.parts}
        ready: dict[str, Stored] = {}
        for name, tensor in found.items():
            weight = places.get(name)
            ready[weight.name if weight else name] = weight.value if weight else tensor
        found = ready
        kinds |= {weight.name: _joined(kinds, weight) for weight in weights}
        kinds = {name: kind for name, kind in kinds.items() if name in found}
    return found, kinds


def _joined(kinds: Mapping[str, str], weight: _Weight) -> str:
    inner = [kinds[part] for part in weight.parts if part in kinds and kinds[part] != weight.kind]
    return " and ".join([*inner, weight.kind])


def _weights(tensors: Tensors) -> Iterator[_Weight]:
    """All that can be computed, no two from the same tensors."""
    used: set[str] = set()
    for weight in (*_suffixed(tensors), *_parametrized(tensors), *_nncf(tensors)):
        free = weight.name not in tensors or weight.name in weight.parts
        if free and not used & set(weight.parts):
            used.update(weight.parts)
            yield weight


def _suffixed(tensors: Tensors) -> Iterator[_Weight]:
    """The older forms, of ``torch.nn.utils``: a suffix on the name of the weight."""
    for full in tensors:
        name, _, suffix = full.rpartition("_")
        names = {end: f"{name}_{end}" for end in ("orig", "mask", "g", "u", "v") if f"{name}_{end}" in tensors}
        part = {end: tensors[part] for end, part in names.items()}
        if suffix == "orig" and "mask" in part and part["mask"].shape == part["orig"].shape:
            yield _Weight(name, (full, names["mask"]), MASK, _masked(part["orig"], part["mask"]))
        elif (
            suffix == "orig"
            and "u" in part
            and "v" in part
            and _spectral_fits(part["orig"].shape, part["u"], part["v"])
        ):
            value = _derived(part["orig"], _spectral, part["u"], part["v"])
            yield _Weight(name, (full, names["u"], names["v"]), SPECTRAL_NORM, value)
        elif suffix == "g" and "v" in part and (dim := _norm_dim(part["g"].shape, part["v"].shape, name)) is not None:
            value = _derived(part["v"], partial(_normed, dim=dim), part["g"])
            yield _Weight(name, (full, names["v"]), WEIGHT_NORM, value)


def _parametrized(tensors: Tensors) -> Iterator[_Weight]:
    """The form of ``torch.nn.utils.parametrize``: originals, and what each parametrization after the other holds."""
    groups: dict[str, dict[tuple[int, str], str]] = defaultdict(dict)
    for full in tensors:
        if match := _PARAMETRIZED.fullmatch(full):
            groups[match["owner"] + match["name"]][int(match["index"] or -1), match["part"]] = full
    for name, names in groups.items():
        value, kinds, used = _original(tensors, names, name)
        index = 1 if kinds else 0
        while value is not None and (step := _step(tensors, names, index, value)):
            value, kinds, used = step[0], [*kinds, step[1]], used + step[2]
            index += 1
        if value is not None and kinds and used == len(names):
            yield _Weight(name, tuple(names.values()), " and ".join(dict.fromkeys(kinds)), value)


def _original(
    tensors: Tensors, names: Mapping[tuple[int, str], str], weight: str
) -> tuple[Stored | None, list[str], int]:
    """What the first parametrization starts from, or what weight_norm, which starts from two, makes of them."""
    if (-1, "original") in names:
        return tensors[names[-1, "original"]], [], 1
    pair = [tensors[names[-1, part]] for part in ("original0", "original1") if (-1, part) in names]
    if len(pair) < 2 or (dim := _norm_dim(pair[0].shape, pair[1].shape, weight)) is None:
        return None, [], 0
    return _derived(pair[1], partial(_normed, dim=dim), pair[0]), [WEIGHT_NORM], 2


def _step(
    tensors: Tensors, names: Mapping[tuple[int, str], str], index: int, value: Stored
) -> tuple[Stored, str, int] | None:
    """What the parametrization with this number makes of `value`, if it is a known one; and how much it holds."""
    part = {label: tensors[full] for (number, label), full in names.items() if number == index}
    if part.keys() == {"_u", "_v"} and _spectral_fits(value.shape, part["_u"], part["_v"]):
        return _derived(value, _spectral, part["_u"], part["_v"]), SPECTRAL_NORM, 2
    if part.keys() == {"mask"} and part["mask"].shape == value.shape:
        return _masked(value, part["mask"]), MASK, 1
    return None


def _nncf(tensors: Tensors) -> Iterator[_Weight]:
    for full in tensors:
        keeps: Callable[..., torch.Tensor] = _mask
        if match := _NNCF_HOOK.fullmatch(full):
            name = match["owner"] + match["weight"].replace(":", ".")
            keeps = _mask if match["mask"] == "binary_mask" else _learned_mask
        elif match := _NNCF_OLD.fullmatch(full):
            name = f"{match['owner']}weight"
        else:
            continue
        if name in tensors and tensors[name].shape == tensors[full].shape:
            yield _Weight(name, (name, full), NNCF, _derived(tensors[name], keeps, tensors[full]))


# The formulas ----------------------------------------------------------------------------------------------


def _derived(base: Stored, make: Callable[..., torch.Tensor], *others: Stored) -> Stored:
    """A tensor like `base`, made of it and of others when it is asked for."""
    place = (make.__name__ if hasattr(make, "__name__") else "norm", base.place, *(other.place for other in others))
    known = None if any(part.place is None for part in (base, *others)) else place
    return Stored(base.shape, base.dtype, lambda: make(base.read(), *(other.read() for other in others)), known)


def _masked(weight: Stored, mask: Stored) -> Stored:
    return _derived(weight, _mask, mask)


def _mask(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mask.to(weight.dtype) * weight


def _learned_mask(weight: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """NNCF's pruning by regularization learns scores: what is kept has a sigmoid above one half."""
    return _mask(weight, torch.sigmoid(scores) > 0.5)


def _norm_dim(g: Shape, v: Shape, name: str) -> int | None:
    """The dimension that weight_norm keeps, by the shapes; None if they are not its. -1 is torch's word for none."""
    if g == ():
        return -1 if v else None
    if len(g) != len(v) or (g == v and not name.endswith("weight")):
        return None
    fits = [dim for dim in range(len(v)) if g == tuple(size if at == dim else 1 for at, size in enumerate(v))]
    return fits[0] if fits else None


def _normed(v: torch.Tensor, g: torch.Tensor, dim: int) -> torch.Tensor:
    return torch._weight_norm(v, g, dim)


def _spectral_fits(shape: Shape, u: Stored, v: Stored) -> bool:
    return any(_is_side(shape, dim, u.shape, v.shape) for dim in range(len(shape)))


def _is_side(shape: Shape, dim: int, u: Shape, v: Shape) -> bool:
    return u == (shape[dim],) and v == (torch.Size(shape[:dim] + shape[dim + 1 :]).numel(),)


def _spectral(weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """W/σ. Which dimension u is of, only the module says: of several that fit, the one whose σ is largest.

    (u and v are near the first singular vectors, for which uᵀWv has its maximum.)
    """
    shape = tuple(weight.shape)
    dims = [dim for dim in range(weight.ndim) if _is_side(shape, dim, tuple(u.shape), tuple(v.shape))]
    sigmas = [torch.dot(u, torch.mv(weight.movedim(dim, 0).reshape(shape[dim], -1), v)) for dim in dims]
    return weight / max(sigmas, key=float)
