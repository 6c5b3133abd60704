"""Deep Compression (Han, Mao, Dally, ICLR 2016): trained networks to small files, and back.

    import deepcompress as dc

    result = dc.compress(model, train_loader, val_loader, recipe=dc.Recipe(prune=0.92, bits=5), path="model.dc")
    network = dc.load("model.dc")                  # a network that the registry knows
    network = dc.load("model.dc", into=MyNet())    # your own
    network = dc.load("model.dc", mode="sparse")   # runs from the compressed form
    tensors = dc.load_state_dict("model.dc")
    arrays = dc.load_state_dict("model.dc", framework="numpy")   # without torch
    facts = dc.inspect("model.dc")
    dc.diff("model.dc", "retrained.dc", "update.dcp")            # what to send to whoever has model.dc
    dc.patch("model.dc", "update.dcp", "new.dc")
    with dc.open("model.dc") as file:              # one tensor, without decoding the others
        weight = file["conv1.weight"]

Names are imported when they are first used, so that looking at a file does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deepcompress.version import __version__ as __version__

if TYPE_CHECKING:
    from deepcompress.compression.from_file import settings_of
    from deepcompress.compression.own_loop import Compressor
    from deepcompress.compression.pipeline import compress
    from deepcompress.compression.result import Result
    from deepcompress.compression.tensors_only import compress_state
    from deepcompress.container.breakdown import Breakdown, inspect
    from deepcompress.errors import DeepCompressError, FormatError
    from deepcompress.networks.parametrized import bake
    from deepcompress.prune.criteria.base import Evidence, Verdict, criterion
    from deepcompress.reading.frameworks import load_state_dict
    from deepcompress.reading.loader import load
    from deepcompress.reading.recode import Recoded, recode
    from deepcompress.reading.tensorfile import TensorFile, open
    from deepcompress.recipe import LayerRule, Recipe
    from deepcompress.updates.update import diff, patch

_HOMES = {
    "Breakdown": "container.breakdown",
    "Compressor": "compression.own_loop",
    "DeepCompressError": "errors",
    "Evidence": "prune.criteria.base",
    "FormatError": "errors",
    "LayerRule": "recipe",
    "Recipe": "recipe",
    "Recoded": "reading.recode",
    "Result": "compression.result",
    "TensorFile": "reading.tensorfile",
    "Verdict": "prune.criteria.base",
    "bake": "networks.parametrized",
    "compress": "compression.pipeline",
    "compress_state": "compression.tensors_only",
    "criterion": "prune.criteria.base",
    "diff": "updates.update",
    "inspect": "container.breakdown",
    "load": "reading.loader",
    "load_state_dict": "reading.frameworks",
    "open": "reading.tensorfile",
    "patch": "updates.update",
    "recode": "reading.recode",
    "settings_of": "compression.from_file",
}

__all__ = [
    "Breakdown",
    "Compressor",
    "DeepCompressError",
    "Evidence",
    "FormatError",
    "LayerRule",
    "Recipe",
    "Recoded",
    "Result",
    "TensorFile",
    "Verdict",
    "bake",
    "compress",
    "compress_state",
    "criterion",
    "diff",
    "inspect",
    "load",
    "load_state_dict",
    "open",
    "patch",
    "recode",
    "settings_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deepcompress' has no attribute {name!r}")
    return getattr(import_module(f"deepcompress.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
