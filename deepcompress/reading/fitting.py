"""Tensors into a network: names and shapes are compared first, and nothing is loaded that does not fit."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from deepcompress import networks
from deepcompress.errors import NetworkError, first_line
from deepcompress.networks import adapt, unmade
from deepcompress.networks.parametrized import bake, computed


@dataclass(frozen=True)
class Misfit:
    """Tensors that a network needs and a file does not have, and those that it has and the network does not know."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def lines(self, source: str, kind: str) -> list[str]:
        """What is wrong, for people: `source` names the file, and `kind` the network."""
        lines = []
        if self.missing:
            lines.append(
                f"{source}: has no tensor {', '.join(self.missing)}, which the network {kind} needs: "
                "left as the network has it"
            )
        if self.unexpected:
            lines.append(
                f"{source}: has a tensor {', '.join(self.unexpected)}, which the network {kind} does not know: left out"
            )
        return lines


def fill(
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    source: str,
    *,
    smaller: bool = False,
    strict: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> Misfit:
    """Load `state` into `network`; batch norm's counters (`networks.batch_counters`) may be missing.

    As in `make_fit`, computed weights may become plain, and layers smaller. Tensors on the meta device get memory on
    the CPU, and lazy modules their shapes.

    Args:
        network: changed in place.
        state: tensors by name.
        source: where they come from, for messages.
        smaller, strict: as in `make_fit`.
        extra: what modules keep beside tensors (``get_extra_state``), by names in the state_dict. Where there is
            nothing for a module, it keeps what it has.

    Raises:
        NetworkError: naming the first tensor that is missing, unknown, or of another shape.
    """
    misfit = make_fit(network, state, source, smaller=smaller, strict=strict, extra=extra or {})
    take(network, state, source, misfit, extra or {})
    return misfit


def make_fit(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    source: str,
    *,
    smaller: bool = False,
    strict: bool = True,
    extra: Collection[str] = (),
) -> Misfit:
    """Give `network` the names and shapes of `tensors`, whose values do not matter (they may be on the meta device).

    Weights that it computes from others become plain where `tensors` has them plain (`baking`), and modules as small as
    theirs (`networks.adapt`).

    Args:
        network: changed in place.
        tensors: by name.
        source: where they come from, for messages.
        smaller: whether it is said there that units were taken out. Otherwise only low rank makes layers smaller.
        strict: whether missing and unknown tensors are errors. Other shapes always are.
        extra: names of what modules keep beside tensors; without `strict`, those that are unknown are unexpected.

    Raises:
        NetworkError: as `fill`; then no module is replaced.
    """
    if any(name in tensors for name in computed(network)):
        bake(network)
    replaced = adapt.replacements(network, tensors, smaller)
    own = _shapes_with(network, replaced)
    kind = type(network).__name__
    counters = networks.batch_counters(network)
    misfit = Misfit(
        tuple(name for name in own if name not in tensors and name not in counters),
        tuple(name for name in tensors if name not in own),
    )
    if not strict and extra:
        known = network.state_dict()
        misfit = replace(misfit, unexpected=(*misfit.unexpected, *(name for name in extra if name not in known)))
    if strict and misfit.missing:
        raise NetworkError(f"{source}: has no tensor {misfit.missing[0]}, which the network {kind} needs")
    for name, value in tensors.items():
        if name not in own:
            if strict:
                raise NetworkError(f"{source}: has a tensor {name}, which the network {kind} does not know")
            continue
        found, needed = tuple(value.shape), own[name]
        if needed is not None and found != needed:
            raise NetworkError(
                f"{source}: tensor {name} has shape {found}, but the network {kind} needs {needed}"
                + _about_smaller(found, needed, smaller)
            )
    adapt.replace(network, replaced)
    return misfit


def _about_smaller(found: tuple[int, ...], needed: tuple[int, ...], smaller: bool) -> str:
    if smaller or len(found) != len(needed) or any(map(operator.gt, found, needed)):
        return ""
    return " (only what export --shrink has made may be smaller than the network, and the file does not say so)"


def _shapes_with(network: nn.Module, replaced: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...] | None]:
    """The shapes of a network's tensors as if these modules were in it; None for one that has no shape yet."""
    own = {
        name: value
        for name, value in network.state_dict().items()
        if not any(name.startswith(f"{module}.") for module in replaced)
    }
    for prefix, module in replaced.items():
        own |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    return {
        name: None if is_lazy(value) else tuple(value.shape)
        for name, value in own.items()
        if isinstance(value, torch.Tensor)
    }


def take(
    network: nn.Module, state: Mapping[str, torch.Tensor], source: str, misfit: Misfit, extra: Mapping[str, Any]
) -> None:
    """Load tensors that are known to fit; what there is nothing for stays as it is."""
    given = {name: value for name, value in state.items() if name not in misfit.unexpected}
    beside = {name: value for name, value in extra.items() if name not in misfit.unexpected}
    unmade.make(network, given)
    unmade.unfold(network)
    own = (*network.parameters(), *network.buffers())
    inside = any(value.is_inference() for value in own if not is_lazy(value))
    try:
        with torch.inference_mode(inside):  # where alone such tensors can be written to
            found = network.load_state_dict({**given, **beside}, strict=False)
    except Exception as error:  # the network may have methods and hooks of its own for loading
        raise NetworkError(
            f"{source}: the network {type(network).__name__} cannot load it ({first_line(error, kind=True)})"
        ) from error
    unexpected = getattr(found, "unexpected_keys", ())
    unknown = sorted(set(unexpected) - network.state_dict().keys()) if unexpected else []  # hooks may read names
    if unknown:
        raise NetworkError(f"{source}: has {unknown[0]}, which the network {type(network).__name__} does not load")
