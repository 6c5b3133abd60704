"""Reference networks, and the one registry that names them.

A name is resolved in one of three ways (`build`):

* a name in `REGISTRY`, such as ``lenet5``;
* ``torchvision:NAME``, a model of torchvision's own registry, without weights;
* ``file.py:factory``, a function in the user's own file. Only a person may name such a
  file (on the command line or in Python): a name that was read *from* a file goes through
  `build_known`, which never imports anything.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from deepcompress.errors import NetworkError
from deepcompress.networks.lenet import LeNet5, LeNet300100

REGISTRY: dict[str, Callable[[], nn.Module]] = {
    "lenet-300-100": LeNet300100,
    "lenet5": LeNet5,
}


def build_known(name: str) -> nn.Module:
    """Build a network that the registry or torchvision knows by `name`.

    Safe for names that come from a file: nothing is imported that the name asks for.

    Raises:
        NetworkError: the name is unknown; the message lists the known ones.
    """
    if name in REGISTRY:
        return REGISTRY[name]()
    if name.startswith("torchvision:"):
        from torchvision import models

        model = name.removeprefix("torchvision:")
        if model in models.list_models():
            network: nn.Module = models.get_model(model, weights=None)
            return network
        raise NetworkError(f"torchvision has no model named {model!r}; see torchvision.models.list_models()")
    raise NetworkError(
        f"unknown network {name!r}; known: {', '.join(sorted(REGISTRY))}, torchvision:NAME, "
        "or your own with --network file.py:factory"
    )


def build(spec: str) -> nn.Module:
    """Build the network that a *person* named: a known name, or ``file.py:factory``.

    Raises:
        NetworkError: the name is unknown, or the user's factory is missing or fails.
    """
    path, colon, factory = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        return build_known(spec)
    if not Path(path).is_file():
        raise NetworkError(f"--network {spec}: the file {path} does not exist")
    try:
        defined = runpy.run_path(path)
        if not callable(defined.get(factory)):
            raise NetworkError(f"--network {spec}: {path} defines no function named {factory!r}")
        network = defined[factory]()
    except NetworkError:
        raise
    except Exception as error:  # it is the user's code
        raise NetworkError(f"--network {spec}: {path} fails with {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"--network {spec}: {factory}() returned {type(network).__name__}, not a torch.nn.Module")
    return network


def match(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name the one registered network whose state_dict has exactly these keys and shapes.

    Returns None when none fits. Networks are built on the meta device: no memory is used.
    """
    for name, factory in REGISTRY.items():
        with torch.device("meta"):
            state = factory().state_dict()
        if {key: tuple(value.shape) for key, value in state.items()} == dict(shapes):
            return name
    return None
