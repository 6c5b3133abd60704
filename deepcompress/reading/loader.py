"""From a .dc file to tensors, and to a network that runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from deepcompress import networks
from deepcompress.container.extensions import extra_state, says_smaller
from deepcompress.container.reader import ModelFile
from deepcompress.errors import NetworkError
from deepcompress.networks.copies import unwrapped
from deepcompress.networks.names import naming
from deepcompress.reading.arrays import to_torch
from deepcompress.reading.fitting import fill, make_fit, take
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
        tensors = outlines(file)
        network = networks.build_known(file.header.network, tensors) if into is None else unwrapped(into)
        beside = extra_state(file.header)
        names = naming(network, tensors, beside)
        extra = {own: beside[name] for own, name in names.items() if name in beside}
        names = {own: name for own, name in names.items() if name in tensors}
        # Before files said so, a smaller network was known by naming the network that it came from.
        smaller = into is None or says_smaller(file.header)
        fitting = {own: tensors[name] for own, name in names.items()}
        misfit = make_fit(network, fitting, str(path), smaller=smaller, strict=strict, extra=extra)
        workers = torch.get_num_threads()
        compressed = compress_layers(network, file, workers, names) if mode == "sparse" else set()
        dense = {own: name for own, name in names.items() if own not in compressed}
        state = _decode(file, [name for name in file if name in dense.values()], device, workers)
    take(network, {own: state[name] for own, name in dense.items()}, str(path), misfit, extra)
    for line in misfit.lines(str(path), type(network).__name__):
        warnings.warn(line, stacklevel=2)
    if mode == "sparse":
        network.requires_grad_(False)
    whole = network if into is None else into
    return whole.to(device).eval()


def outlines(file: ModelFile) -> dict[str, torch.Tensor]:
    """The tensors of a file without their values."""
    return {name: torch.empty(file.resolved(file.entry(name)).info.shape, device="meta") for name in file}


def compress_layers(
    network: nn.Module, file: ModelFile, workers: int = 1, called: Mapping[str, str] | None = None
) -> set[str]:
    """Let those layers run from the compressed form for which it pays; gives the names of their weights.

    Their dense weights are let go one by one. Weights that the network ties must be one in the file, too. `called` has
    the file's name of each tensor of the network, where they differ (`networks.names`).

    Raises:
        FormatError: as `ModelFile.read_survivors`.
    """
    matrices: dict[str, SparseMatrix] = {}  # by the name under which the file stores them
    done: set[str] = set()
    for names, layers in convertible(network):
        stored = {file.stored(file.entry(called[name] if called else name)).name for name in names}
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
    codebook = to_torch(found.codebook.view(dtype.storage).copy(), dtype).float().numpy()
    shape = (info.shape[0], info.size // info.shape[0])
    return SparseMatrix.build(shape, found.positions, found.indices, codebook)


def fill_from(network: nn.Module, path: str | Path, max_bytes: int | None = None) -> None:
    """As `fill`, all that a .dc file has.

    Raises:
        FormatError: the file is missing, damaged, too new, or claims more than `max_bytes`.
        NetworkError: as `fill`.
    """
    with ModelFile(path) as file:
        file.check(max_bytes)
        smaller, beside = says_smaller(file.header), extra_state(file.header)
        names = naming(network, outlines(file), beside)
        held = {**_decode(file, list(file), "cpu", torch.get_num_threads()), **beside}
    state = {own: held[name] for own, name in names.items() if name not in beside}
    extra = {own: held[name] for own, name in names.items() if name in beside}
    fill(network, state, str(path), smaller=smaller, extra=extra)


def names_in(path: str | Path, network: nn.Module) -> dict[str, str]:
    """The names of a network's tensors, each with that under which a .dc file has it (`networks.names.naming`).

    Raises:
        FormatError: the file is missing or damaged.
    """
    with ModelFile(path) as file:
        return naming(network, outlines(file))
