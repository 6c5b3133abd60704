"""Reference networks, and the one registry that names them.

A name is resolved in one of three ways (`build`):

* a name in `REGISTRY`, such as ``lenet5``;
* ``torchvision:NAME``, a model of torchvision's own registry, without weights;
* ``file.py:factory``, a function in the user's own file (`usercode`). Only a person may name
  such a file, on the command line or in Python: a name that was read *from* a file goes through
  `is_known` or `build_known`, which never import anything that it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from deepcompress import usercode
from deepcompress.errors import NetworkError
from deepcompress.networks import zoo
from deepcompress.networks.dscnn import DSCNN
from deepcompress.networks.lenet import LeNet5, LeNet300100
from deepcompress.networks.resnet import ResNet20

REGISTRY: dict[str, Callable[[], nn.Module]] = {
    "ds-cnn": DSCNN,
    "ds-cnn-xs": partial(DSCNN, channels=48, blocks=2),
    "lenet-300-100": LeNet300100,
    "lenet5": LeNet5,
    "resnet20": ResNet20,
}


def is_known(name: str) -> bool:
    """Whether `name` is in the tables: the registry, or torchvision's. Only such a name is believed from a file."""
    return name in REGISTRY or zoo.is_known(name)


def build_known(name: str, tensors: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
    """Build a network that the registry or torchvision knows by `name`.

    Safe for names that come from a file: nothing is imported that the name asks for, and nothing is downloaded.

    Args:
        name: of the network.
        tensors: those that the network is for, if they are there: see `zoo.build`.

    Raises:
        NetworkError: the name is unknown, with the known ones; or the network needs many more elements.
    """
    if name in REGISTRY:
        return REGISTRY[name]()
    if name.startswith(zoo.PREFIX):
        return zoo.build(name, tensors)
    raise NetworkError(
        f"unknown network {name!r}; known: {', '.join(sorted(REGISTRY))}, torchvision:NAME, "
        "or your own with --network file.py:factory"
    )


def build(spec: str, tensors: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
    """Build the network that a *person* named: a known name, or ``file.py:factory``; by choice with arguments.

    Args:
        spec: such as ``torchvision:resnet18(num_classes=10)`` or ``net.py:make(10)``.
        tensors: as in `build_known`.

    Raises:
        NetworkError: the name is unknown, or the user's factory is missing or fails.
    """
    if usercode.names_code(spec):
        return _from_code(spec)
    name, parenthesis, rest = spec.partition("(")
    if not parenthesis or not is_known(name):
        return build_known(spec, tensors)
    if not zoo.is_known(name):
        raise NetworkError(f"--network {spec}: {name} takes no arguments")
    try:
        _, args, kwargs = usercode.parse_call(f"f({rest}")
    except ValueError:
        args, kwargs = ("no call",), {}
    if args:
        raise NetworkError(f"--network {spec}: write each argument by its name, as in {name}(num_classes=10)")
    return zoo.build(name, tensors, **kwargs)


def _from_code(spec: str) -> nn.Module:
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
