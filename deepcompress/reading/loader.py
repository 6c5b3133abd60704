"""From a .dc file to tensors, and to a network that runs."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from deepcompress import networks
from deepcompress.container.extensions import extra_state, says_smaller
from deepcompress.container.reader import ModelFile
from deepcompress.errors import NetworkError
from deepcompress.networks import adapt, unmade
from deepcompress.networks.copies import unwrapped
from deepcompress.networks.parametrized import bake, computed
from deepcompress.reading.arrays import to_torch
from deepcompress.sparse.matrix import SparseMatrix, may_pay
from deepcompress.sparse.modules import convert, convertible

Module = TypeVar("Module", bound=nn.Module)


def load_state_dict(
    path: str | Path, device: str | torch.device = "cpu", max_bytes: int | None = None, threads: int | None = None
) -> dict[str, torch.Tensor]:
    """Decode all tensors of a .dc file, in the order of the file; tied tensors share their memory.

    Tensors are decoded one after the other, and each is moved to `device` before the next: beside the largest tensor
    and its section, the host holds only what stays there.

    Nothing in the file is executed or imported. The header and every checksum are verified before the first
    tensor is allocated.

    Args:
        path: the file.
        device: where the tensors go.
        max_bytes: how many bytes the decoded tensors may take together; by default 1024 times the size of the
            file, and at least 256 MiB.
        threads: how many share the work on a large tensor; by default as many as torch uses
            (``torch.get_num_threads()``). The result is the same.

    Raises:
        FormatError: the file is missing, damaged, too new, or claims more than `max_bytes`.
    """
    with ModelFile(path) as file:
        file.check(max_bytes)
        return _decode(file, list(file), device, threads or torch.get_num_threads())


def _decode(file: ModelFile, names: Iterable[str], device: str | torch.device, workers: int) -> dict[str, torch.Tensor]:
    """These tensors of an open file; those tied to one another share their memory."""
    state: dict[str, torch.Tensor] = {}
    first: dict[str, str] = {}
    for name in names:
        stored = file.resolved(file.entry(name)).name
        if first.setdefault(stored, name) != name:
            state[name] = state[first[stored]]
        else:
            state[name] = to_torch(*file.read(name, workers)).to(device)
    return state


def load(
    path: str | Path,
    into: Module | None = None,
    device: str | torch.device = "cpu",
    max_bytes: int | None = None,
    mode: str = "dense",
    strict: bool = True,
) -> nn.Module | Module:
    """Rebuild a network from a .dc file, in evaluation mode.

    With ``mode="sparse"`` its large sparse layers run from the compressed form, positions and codebook indices, which
    takes a fraction of the memory and, at the densities where it is done, less time; all others are as with
    ``mode="dense"``. Such a network is for inference on the CPU: no parameter asks for gradients. Which layers these
    are, and what else to know, is in docs/sparse.md; `sparse.modules` has the layers.

    Args:
        path: the file.
        into: a network of your own that takes the tensors, or a wrapper of torch's around it; without it the network
            that the file names is built from deepcompress's registry, or torchvision's.
        device: where the network goes.
        max_bytes: as in `load_state_dict`.
        mode: ``dense`` or ``sparse``.
        strict: whether tensors that are missing in the file, or that the network does not know, are errors. If not,
            they are told by a warning, and the rest is loaded; other shapes always are errors.

    Raises:
        FormatError: the file is missing, damaged, too new, or claims more than `max_bytes`.
        NetworkError: the file names no known network, or the tensors do not fit; or a sparse network is asked for on
            another device than the CPU.
        ValueError: there is no such mode.
    """
    if mode not in ("dense", "sparse"):
        raise ValueError(f'mode {mode!r} is unknown; there are "dense" and "sparse"')
    if mode == "sparse" and torch.device(device).type != "cpu":
        raise NetworkError(f'mode="sparse" runs on the CPU, not on {device}; load with mode="dense"')
    with ModelFile(path) as file:
        if into is None and not file.header.network:
            raise NetworkError(
                f"{path}: the file names no network; give yours with --network, or load(path, into=model)"
            )
        file.check(max_bytes)
        elements = sum(entry.info.size for entry in file.header.entries)
        network = networks.build_known(file.header.network, elements) if into is None else unwrapped(into)
        # Before files said so, a smaller network was known by naming the network that it came from.
        smaller = into is None or says_smaller(file.header)
        misfit = make_fit(network, _outlines(file), str(path), smaller=smaller, strict=strict)
        extra = extra_state(file.header)
        compressed = compress_layers(network, file, torch.get_num_threads()) if mode == "sparse" else set()
        state = _decode(file, [name for name in file if name not in compressed], device, torch.get_num_threads())
    _take(network, state, str(path), misfit, extra)
    for line in misfit.lines(str(path), type(network).__name__):
        warnings.warn(line, stacklevel=2)
    if mode == "sparse":
        network.requires_grad_(False)
    whole = network if into is None else into
    return whole.to(device).eval()


def _outlines(file: ModelFile) -> dict[str, torch.Tensor]:
    """The tensors of a file without their values."""
    return {name: torch.empty(file.resolved(file.entry(name)).info.shape, device="meta") for name in file}


def compress_layers(network: nn.Module, file: ModelFile, workers: int = 1) -> set[str]:
    """Let those layers run from the compressed form for which it pays; gives the names of their weights.

    Their dense weights are let go one by one. Weights that the network ties must be one in the file, too.

    Raises:
        FormatError: as `ModelFile.read_survivors`.
    """
    matrices: dict[str, SparseMatrix] = {}  # by the name under which the file stores them
    done: set[str] = set()
    for names, layers in convertible(network):
        stored = {file.resolved(file.entry(name)).name for name in names}
        source = min(stored)
        if len(stored) > 1 or not may_pay(file.entry(source).info):
            continue
        if source not in matrices:
            matrices[source] = _matrix(file, source, workers)
        if matrices[source].pays:
            for layer in layers:
                convert(layer, matrices[source])
            done.update(names)
    return done


def _matrix(file: ModelFile, name: str, workers: int) -> SparseMatrix:
    found, dtype = file.read_survivors(name, workers)
    info = file.entry(name).info
    codebook = to_torch(found.entries.view(dtype.storage).copy(), dtype).float().numpy()
    shape = (info.shape[0], info.size // info.shape[0])
    return SparseMatrix.build(shape, found.positions, found.indices, codebook)


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
    misfit = make_fit(network, state, source, smaller=smaller, strict=strict)
    _take(network, state, source, misfit, extra or {})
    return misfit


def fill_from(network: nn.Module, path: str | Path, max_bytes: int | None = None) -> None:
    """As `fill`, all that a .dc file has.

    Raises:
        FormatError: the file is missing, damaged, too new, or claims more than `max_bytes`.
        NetworkError: as `fill`.
    """
    with ModelFile(path) as file:
        file.check(max_bytes)
        smaller, extra = says_smaller(file.header), extra_state(file.header)
        state = _decode(file, list(file), "cpu", torch.get_num_threads())
    fill(network, state, str(path), smaller=smaller, extra=extra)


def make_fit(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    source: str,
    *,
    smaller: bool = False,
    strict: bool = True,
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


def _take(
    network: nn.Module, state: Mapping[str, torch.Tensor], source: str, misfit: Misfit, extra: Mapping[str, Any]
) -> None:
    """Load tensors that are known to fit; what there is nothing for stays as it is."""
    given = {name: value for name, value in state.items() if name not in misfit.unexpected}
    unmade.make(network, given)
    unmade.unfold(network)
    own = (*network.parameters(), *network.buffers())
    inside = any(value.is_inference() for value in own if not is_lazy(value))
    try:
        with torch.inference_mode(inside):  # where alone such tensors can be written to
            found = network.load_state_dict({**given, **extra}, strict=False)
    except Exception as error:  # the network may have methods and hooks of its own for loading
        raise NetworkError(
            f"{source}: the network {type(network).__name__} cannot load it ({type(error).__name__}: {error})"
        ) from error
    unexpected = getattr(found, "unexpected_keys", ())
    unknown = sorted(set(unexpected) - network.state_dict().keys()) if unexpected else []  # hooks may read names
    if unknown:
        raise NetworkError(f"{source}: has {unknown[0]}, which the network {type(network).__name__} does not load")
