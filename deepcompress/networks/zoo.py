"""Networks of torchvision's registry, without weights, and with as many classes as the tensors at hand have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from deepcompress.errors import NetworkError, first_line

PREFIX = "torchvision:"

#: A network whose tensors are smaller than its own (`networks.adapt`) is built whole, and then adapted to them.
SHRUNK = 64


def is_known(name: str) -> bool:
    """Whether ``torchvision:MODEL`` names a model that torchvision has."""
    if not name.startswith(PREFIX):
        return False
    from torchvision import models

    return name.removeprefix(PREFIX) in models.list_models()


def build(name: str, tensors: Mapping[str, torch.Tensor] | None = None, **settings: Any) -> nn.Module:
    """Build ``torchvision:MODEL``; nothing is downloaded unless `settings` ask for weights.

    Args:
        name: with the prefix.
        tensors: those that the network is for (shapes are enough). Its number of classes is then theirs, and a network
            that needs more than `SHRUNK` times as many elements is not built: the largest takes gigabytes, and a small
            file can name it.
        settings: keyword arguments of the model's builder; only a person may give them.

    Raises:
        NetworkError: there is no such model, it does not take these settings, or it needs more elements.
    """

    model = name.removeprefix(PREFIX)
    if not is_known(name):
        raise NetworkError(f"torchvision has no model named {model!r}; see torchvision.models.list_models()")
    if tensors is not None:
        _check_size(name, sum(value.numel() for value in tensors.values()))
        settings = _classes(model, tensors, settings) | settings
    try:
        return _made(model, settings)
    except (Exception, SystemExit) as error:  # whatever its builder makes of the settings
        raise NetworkError(f"{name} with {settings}: torchvision fails with {first_line(error, kind=True)}") from error


def _made(model: str, settings: Mapping[str, Any]) -> nn.Module:
    from torchvision import models

    takes = inspect.signature(models.get_model_builder(model)).parameters
    unset = {"weights": None} | ({"weights_backbone": None} if "weights_backbone" in takes else {})
    network: nn.Module = models.get_model(model, **(unset | dict(settings)))
    return network


def _check_size(name: str, elements: int) -> None:
    from torchvision import models

    weights = models.get_model_weights(name.removeprefix(PREFIX))
    needed = min((int(one.meta["num_params"]) for one in weights), default=0)
    if elements * SHRUNK < needed:
        raise NetworkError(f"the network {name} has {needed:,} weights, but there are only {elements:,} for it")


def _classes(model: str, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> dict[str, int]:
    """The number of classes that `tensors` are made for, as a setting; none where it is the model's own, or unclear.

    Which tensors depend on it, and how, is seen from two networks that differ in nothing else.
    """
    own = _shapes(model, settings)
    if "num_classes" in settings or all(own.get(name) == value.shape for name, value in tensors.items()):
        return {}
    try:
        few, more = (_shapes(model, {**settings, "num_classes": count}) for count in (7, 8))
    except TypeError:  # a model without classes
        return {}
    heads = [name for name in few if few[name] != more[name] and name in tensors and tensors[name].ndim]
    found = {7 + (tensors[name].shape[0] - few[name][0]) / max(1, more[name][0] - few[name][0]) for name in heads}
    count = found.pop() if len(found) == 1 else 0.0
    return {"num_classes": int(count)} if count >= 1 and count == int(count) else {}


def _shapes(model: str, settings: Mapping[str, Any]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = _made(model, {**settings, "weights": None})
    return {name: value.shape for name, value in network.state_dict().items()}
