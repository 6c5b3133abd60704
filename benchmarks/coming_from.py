"""The paths of docs/coming-from.md whose packages are heavy, each with the real package of a pinned version.

Each package is installed into a temporary folder, without the dependencies that this environment has already, and runs
in a process of its own. A line says how many weights are zero in the tool's network and in the file, the largest
difference of any other weight, and bytes. NNCodec is compiled when it is installed, which takes minutes: ask for it by
name.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

import deepcompress as dc

PACKAGES = {
    "nncf": "nncf==3.4.0 torchao==0.18.0 natsort jsonschema jsonschema-specifications referencing rpds-py pydot "
    "tabulate",
    "coremltools": "coremltools==9.0 attrs cattrs pyaml",
    "compressed-tensors": "compressed-tensors==0.18.0 loguru",
    "nncodec": "nncodec==2.1.3",
}
STORED = dc.Recipe(prune=0, bits=4, retrain=False)
State = dict[str, torch.Tensor]


class Net(nn.Module):
    """A small network; its root is no nn.Sequential, which NNCF does not prune."""

    def __init__(self) -> None:
        """With the same random weights each time."""
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's output."""
        out: torch.Tensor = self.body(x)
        return out


def nncf(path: Path) -> State:
    """Prune by magnitude, and bake the masks into the weights."""
    tool = import_module("nncf")
    model = tool.prune(
        Net(), mode=tool.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=0.5, examples_inputs=torch.randn(1, 64)
    )
    model = tool.strip(model, strip_format=tool.StripFormat.IN_PLACE)
    dc.compress(model, None, None, STORED, path)
    return {name: value.detach() for name, value in model.state_dict().items()}


def coremltools(path: Path) -> State:
    """Palettize a linear layer to 16 values, and decompress it."""
    tool, optimize = import_module("coremltools"), import_module("coremltools.optimize").coreml
    builder = import_module("coremltools.converters.mil").Builder
    weight = Net().body[0].weight.detach().numpy()

    @builder.program(input_specs=[builder.TensorSpec(shape=(1, 64))])  # type: ignore[untyped-decorator]
    def program(x: object) -> object:
        return builder.linear(x=x, weight=weight, name="y")

    target = tool.target.iOS18
    model = tool.convert(program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True)
    settings = optimize.OpPalettizerConfig(mode="kmeans", nbits=4, weight_threshold=1)
    small = optimize.palettize_weights(model, optimize.OptimizationConfig(settings))
    found = optimize.get_weights_metadata(optimize.decompress_weights(small), weight_threshold=1)
    return stored({name: torch.tensor(each.val) for name, each in found.items()}, path)


def compressed_tensors(path: Path) -> State:
    """Pack integers of 4 bits, and unpack them to weights."""
    tool = import_module("compressed_tensors.compressors.pack_quantized.helpers")
    weight = Net().body[0].weight.detach()
    scale = weight.abs().max() / 7
    packed = tool.pack_to_int32((weight / scale).round().to(torch.int8), 4)
    unpacked = tool.unpack_from_int32(packed, 4, weight.shape)
    return stored({"weight": unpacked.float() * scale}, path)


def nncodec(path: Path) -> State:
    """Encode to a bitstream, and decode it."""
    tool = import_module("nncodec.nnc")
    arrays = {name: value.numpy() for name, value in Net().state_dict().items()}
    stream = tool.compress(arrays, bitstream_path=None, qp=-20, return_bitstream=True)
    return stored({name: torch.from_numpy(value) for name, value in tool.decompress(stream).items()}, path)


def stored(state: State, path: Path, recipe: dc.Recipe = STORED) -> State:
    """`state`, when it is written to `path`."""
    dc.compress_state(state, recipe, path)
    return state


PATHS: dict[str, Callable[[Path], State]] = {
    "nncf": nncf,
    "coremltools": coremltools,
    "compressed-tensors": compressed_tensors,
    "nncodec": nncodec,
}


def report(name: str) -> None:
    """Run one path, whose package can be imported, and print what came out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dc"
        given = PATHS[name](path)
        found = dc.load_state_dict(path)
        assert sorted(given) == sorted(found)
        zeros = [sum(int((each[key] == 0).sum()) for key in given) for each in (given, found)]
        apart = max(float((given[key] - found[key]).abs().max()) for key in given)
        count = sum(value.numel() for value in given.values())
        print(f"{PACKAGES[name].split()[0]:<28}{count:>8,}{zeros[0]:>8,}{zeros[1]:>8,}{apart:>12.5f}", end="")
        print(f"{path.stat().st_size:>10,}", flush=True)


def main() -> None:
    """Install and run each path that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(PATHS)[:3], help=f"of {', '.join(PATHS)}")
    parser.add_argument("--installed", action="store_true", help="install nothing")
    options = parser.parse_args()
    if options.installed:
        for name in options.names:
            report(name)
        return
    print(f"{'':<28}{'weights':>8}{'zeros':>8}{'stored':>8}{'difference':>12}{'bytes':>10}", flush=True)
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
            subprocess.run([*install, *PACKAGES[name].split()], check=True, capture_output=True)
            paths = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
            command = [sys.executable, "-W", "ignore", __file__, "--installed", name]
            subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE)


if __name__ == "__main__":
    main()
