"""From a .dc file to tensors, and to a network that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from deepcompress import networks
from deepcompress.coding.tensors import Encoding
from deepcompress.container.reader import ModelFile
from deepcompress.errors import NetworkError
from deepcompress.interop import to_torch

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
    workers = threads or torch.get_num_threads()
    with ModelFile(path) as file:
        file.check(max_bytes)
        state: dict[str, torch.Tensor] = {}
        for name in file:
            entry = file.entry(name)
            if entry.info.encoding is Encoding.ALIAS:
                state[name] = state[file.resolved(entry).name]
            else:
                state[name] = to_torch(*file.read(name, workers)).to(device)
        return state


def load(
    path: str | Path,
    into: Module | None = None,
    device: str | torch.device = "cpu",
    max_bytes: int | None = None,
) -> nn.Module | Module:
    """Rebuild a network from a .dc file, in evaluation mode.

    Args:
        path: the file.
        into: a network of your own that takes the tensors; without it the network that the file names is
            built from deepcompress's registry, or torchvision's.
        device: where the network goes.
        max_bytes: as in `load_state_dict`.

    Raises:
        FormatError: the file is missing, damaged, too new, or claims more than `max_bytes`.
        NetworkError: the file names no known network, or the tensors do not fit.
    """
    with ModelFile(path) as file:
        name = file.header.network
    if into is None and not name:
        raise NetworkError(f"{path}: the file names no network; give yours with --network, or load(path, into=model)")
    state = load_state_dict(path, device, max_bytes)
    elements = sum(value.numel() for value in state.values())
    network = networks.build_known(name, elements) if into is None else into
    fill(network, state, str(path))
    return network.to(device).eval()


def fill(network: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load `state` into `network`; batch norm's counters (`networks.batch_counters`) may be missing.

    Raises:
        NetworkError: naming the first tensor that is missing, unknown, or of another shape.
    """
    own = network.state_dict()
    state = {name: own[name] for name in networks.batch_counters(network) if name in own} | state
    kind = type(network).__name__
    for name in own:
        if name not in state:
            raise NetworkError(f"{source}: has no tensor {name}, which the network {kind} needs")
    for name in state:
        if name not in own:
            raise NetworkError(f"{source}: has a tensor {name}, which the network {kind} does not know")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise NetworkError(
                f"{source}: tensor {name} has shape {tuple(value.shape)}, but the network {kind} "
                f"needs {tuple(own[name].shape)}"
            )
    network.load_state_dict(state)
