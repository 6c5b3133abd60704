"""A network as an ONNX file, held against the network that it was made from."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcompress.errors import DeepCompressError, NetworkError, first_line
from deepcompress.files import check_writable, write_atomic
from deepcompress.layers import tensors_of
from deepcompress.networks.copies import copied, unwrapped
from deepcompress.networks.inputs import tensors_in
from deepcompress.networks.parametrized import bake, computed
from deepcompress.reading.tied import store_once

OPSET = 18
TOLERANCE = 1e-4  # of the largest output, or of 1
MAX_BYTES = (1 << 31) - (1 << 20)  # one ONNX file is one protobuf message, and those end at 2 GiB
_CHECKED_BATCHES = (1, 3)  # samples: not as many as the network is exported with


@dataclass(frozen=True)
class Exported:
    """An ONNX file: its opset, the shape of one sample that it takes, in batches of any size, and how it was checked.

    `max_difference` is the largest absolute difference between outputs of onnxruntime and torch on random inputs; None
    where onnxruntime is not installed.
    """

    opset: int
    input_shape: tuple[int, ...]
    max_difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        checked = self.max_difference is not None
        return {**vars(self), "input_shape": list(self.input_shape), "checked": checked}


def check_onnx() -> None:
    """Find out early whether the packages that write ONNX are there.

    Raises:
        DeepCompressError: with the command that installs what is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise DeepCompressError(
            f"writing ONNX needs {' and '.join(missing)}: pip install 'deepcompress[onnx]', or pip install onnx "
            "onnxscript onnxruntime"
        )


def export_onnx(network: nn.Module, example: torch.Tensor, path: str | Path) -> Exported:
    """Write `network` to `path` as ONNX of opset `OPSET`, with one input ``input`` whose first dimension is free.

    The network is traced by torch.export, in evaluation mode. Where onnxruntime is installed, the file must give the
    outputs of the network, or it is not written.

    Args:
        network: on the CPU; its mode is left as it was.
        example: two or more samples that it takes, float32. A network that takes whole numbers (its first layer is an
            embedding) is given zeros of this shape.
        path: where the file goes.

    Raises:
        DeepCompressError: onnx or onnxscript is not installed.
        NetworkError: the network does not take the example, cannot be traced or is too large, or the file computes
            something else.
        OutputError: the file cannot be written.
    """
    check_onnx()
    check_writable(path)
    network = unwrapped(network)
    if computed(network):
        network = copied(network)
        bake(network)
    size = sum(value.numel() * value.element_size() for value in tensors_of(network).values())
    if size > MAX_BYTES:
        raise NetworkError(f"the network's tensors take {size:,} bytes, and one ONNX file holds at most {MAX_BYTES:,}")
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            example = fitting_input(network, example)
            program = _traced(network, example)
            differences: list[float] = []
            write_atomic(path, partial(_save, network, example, program, differences))
    finally:
        for module, training in modes:
            module.training = training
    return Exported(OPSET, tuple(example.shape[1:]), max(differences, default=None))


def fitting_input(network: nn.Module, example: torch.Tensor) -> torch.Tensor:
    """The example, or zeros of its shape as int64, whichever the network takes.

    Raises:
        NetworkError: neither.
    """
    reason = cause = None
    for given in (example, torch.zeros_like(example, dtype=torch.int64)):
        try:
            with torch.no_grad():
                network(given)
            return given
        except Exception as error:  # it is the user's code
            reason, cause = reason or first_line(error), cause or error
    shape = tuple(example.shape[1:])
    raise NetworkError(
        f"the network {type(network).__name__} cannot take samples of shape {shape}: {reason}"
    ) from cause


def _run(network: nn.Module, x: torch.Tensor) -> Any:
    try:
        return network(x)
    except Exception as error:  # it is the user's code
        raise NetworkError(
            f"the network {type(network).__name__} does not run on {len(x)} samples of shape {tuple(x.shape[1:])}: "
            f"{first_line(error, kind=True)}"
        ) from error


def _traced(network: nn.Module, example: torch.Tensor) -> Any:
    """The network as torch's ONNXProgram."""
    several = len(list(tensors_in(_run(network, example)))) != 1
    with _silence():
        try:
            return torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=None if several else ["output"],
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # whatever torch.export and the network's code raise
            raise NetworkError(
                f"the network {type(network).__name__} cannot be exported with a free batch size: "
                f"{first_line(error.__cause__ or error)}; what it does must not depend on values, nor on "
                "the number of samples"
            ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing of what the exporter tells its own developers."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        said = io.StringIO()
        with warnings.catch_warnings(action="ignore"), redirect_stdout(said), redirect_stderr(said):
            yield
    finally:
        logging.disable(level)


def _save(network: nn.Module, example: torch.Tensor, program: Any, differences: list[float], path: Path) -> None:
    """Write the program to `path`, and add the largest difference between its outputs and those of the network."""
    with _silence():
        program.save(str(path), external_data=False)
        store_once(path, tensors_of(network))
    if find_spec("onnxruntime") is None:
        return
    generator = torch.Generator().manual_seed(0)
    for samples in _CHECKED_BATCHES:
        shape = (samples, *example.shape[1:])
        x = torch.randn(shape, generator=generator) if example.is_floating_point() else example.new_zeros(shape)
        differences.append(_difference(_outputs(path, x), [value.numpy() for value in tensors_in(_run(network, x))]))


def _outputs(path: Path, x: torch.Tensor) -> list[Any]:
    """What onnxruntime computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, {session.get_inputs()[0].name: x.numpy()}))
    except Exception as error:  # onnxruntime has an exception for each of its states
        raise NetworkError(f"onnxruntime cannot run the exported network: {first_line(error)}") from error


def _difference(found: Sequence[Any], expected: Sequence[Any]) -> float:
    largest = 0.0
    for one, other in zip(found, expected, strict=True):
        same = one.shape == other.shape and np.array_equal(np.isfinite(one), np.isfinite(other))
        off = np.abs(one.astype(np.float64) - other)[np.isfinite(other)] if same else np.array([np.inf])
        worst = float(off.max(initial=0))
        if worst > TOLERANCE * max(1.0, float(np.abs(other[np.isfinite(other)]).max(initial=0))):
            raise NetworkError(f"the exported network is not the network: an output of onnxruntime is off by {worst:g}")
        largest = max(largest, worst)
    return largest
