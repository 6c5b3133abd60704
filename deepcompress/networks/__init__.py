"""Reference networks, and the one registry that names them.

A name is resolved in one of three ways (`build`):

* a name in `REGISTRY`, such as ``lenet5``;
* ``torchvision:NAME``, a model of torchvision's own registry, without weights;
* ``file.py:factory``, a function in the user's own file. Only a person may name such a
  file (on the command line or in Python): a name that was read *from* a file goes through
  `build_known`, which never imports anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from deepcompress import usercode
from deepcompress.errors import NetworkError
from deepcompress.networks.lenet import LeNet5, LeNet300100
from deepcompress.networks.resnet import ResNet20

REGISTRY: dict[str, Callable[[], nn.Module]] = {
    "lenet-300-100": LeNet300100,
    "lenet5": LeNet5,
    "resnet20": ResNet20,
}

#: A network whose tensors are smaller than its own (`networks.adapt`) is built whole, and then adapted to them.
SHRUNK = 64


def build_known(name: str, elements: int | None = None) -> nn.Module:
    """Build a network that the registry or torchvision knows by `name`.

    Safe for names that come from a file: nothing is imported that the name asks for.

    Args:
        name: of the network.
        elements: how many the tensors for it have; then a network of torchvision's that needs more than `SHRUNK`
            times as many is not even built. The largest takes gigabytes, and a small file can name it.

    Raises:
        NetworkError: the name is unknown, with the known ones; or the network needs more elements.
    """
    if name in REGISTRY:
        return REGISTRY[name]()
    if name.startswith("torchvision:"):
        from torchvision import models

        model = name.removeprefix("torchvision:")
        if model in models.list_models():
            needed = min((int(w.meta["num_params"]) for w in models.get_model_weights(model)), default=0)
            if elements is not None and elements * SHRUNK < needed:
                raise NetworkError(f"the network {name} has {needed:,} weights, but there are only {elements:,} for it")
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
    if not usercode.names_code(spec):
        return build_known(spec)
    factory = usercode.find(spec, "--network", NetworkError)
    with usercode.blamed(f"--network {spec}", usercode.parse(spec).path.resolve(), NetworkError):
        network = factory()
    if not isinstance(network, nn.Module):
        raise NetworkError(f"--network {spec}: it returned {type(network).__name__}, not a torch.nn.Module")
    return network


def match(state: Mapping[str, torch.Tensor]) -> str | None:
    """Name the one registered network whose state_dict has exactly the keys and shapes of `state`.

    Batch norm's counters may be missing (see `batch_counters`). Returns None when none fits. Networks are built on
    the meta device, and tensors are only asked for where all keys fit: no memory is used.
    """
    for name, factory in REGISTRY.items():
        with torch.device("meta"):
            network = factory()
        own = network.state_dict()
        fits = own.keys() >= state.keys() and own.keys() - state.keys() <= batch_counters(network)
        if fits and all(own[key].shape == state[key].shape for key in state):
            return name
    return None


def batch_counters(network: nn.Module) -> set[str]:
    """Names of batch norm's ``num_batches_tracked``: old checkpoints lack them, and no output needs them.

    (Only training with ``momentum=None`` does; such counters are not among these.)
    """
    return {
        f"{name}.num_batches_tracked".lstrip(".")
        for name, module in network.named_modules()
        if isinstance(module, _NormBase) and module.momentum is not None
    }
