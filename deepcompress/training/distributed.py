"""Several processes that train one network together, by way of Hugging Face Accelerate.

Every process has the whole network and reads all data in the same order; of each batch it computes its own part. The
gradients are added up before anybody looks at them, so hooks, masks and optimizers do the same everywhere, and the
effective batch is that of one process. After every cut and every epoch all take the state of the first process, which
is also the only one that writes.

In one process, and until `start` is called, everything here does nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from deepcompress.errors import DeepCompressError
from deepcompress.networks.inputs import count_samples, rows
from deepcompress.training.snapshot import Plain, Training, fill_tensors, promises, put_back, take, tensors_of

T = TypeVar("T")

_accelerate: ContextVar[Any] = ContextVar("accelerate", default=None)  # its PartialState, with several processes


def start(device: str = "auto") -> bool:
    """Work together with the processes that the launcher has started beside this one; whether there are any.

    A script of your own calls it once, in every process, before `deepcompress.compress`; the command does so itself.

    Args:
        device: ``cpu`` to leave GPUs alone; else each process takes one, if there are.

    Raises:
        DeepCompressError: there are others, but Accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return False
    try:
        from accelerate import PartialState
    except ImportError:
        raise DeepCompressError(
            "several processes work together through Accelerate, which is not installed: "
            "pip install 'deepcompress[distributed]'"
        ) from None
    _accelerate.set(PartialState(cpu=True) if device == "cpu" else PartialState())
    return True


def stop() -> None:
    """Leave the other processes, after the last word with them."""
    state = _accelerate.get()
    if state is not None:
        _accelerate.set(None)
        state.destroy_process_group()


def processes() -> int:
    """How many there are."""
    state = _accelerate.get()
    return 1 if state is None else int(state.num_processes)


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    state = _accelerate.get()
    return state is None or bool(state.is_main_process)


def own_device() -> torch.device | None:
    """The device of this process; None where it is alone, and may choose."""
    state = _accelerate.get()
    return None if state is None else state.device


def mixed_precision() -> str:
    """What ``accelerate launch --mixed_precision`` or Accelerate's configuration says: no, bf16, fp16 or fp8."""
    return "no" if processes() == 1 else os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()


# Batches and gradients ----------------------------------------------------------------------------------------


def own_part(x: Any, y: Any) -> tuple[Any, Any, float]:
    """This process's samples of a batch, and what part of the batch's mean loss their mean loss is.

    Parts are consecutive and as even as can be. A batch with fewer than two samples for each process, which batch
    norm could not take apart, is computed whole by all.
    """
    state = _accelerate.get()
    if state is None:
        return x, y, 1.0
    samples, count = count_samples(y), state.num_processes
    if samples < 2 * count:
        return x, y, 1 / count
    first, last = (samples * (state.process_index + at) // count for at in (0, 1))
    return rows(x, first, last), rows(y, first, last), (last - first) / samples


@contextmanager
def own_chance(device: torch.device) -> Iterator[None]:
    """Here each process draws its own random numbers (dropout); afterwards all go on with the same."""
    state = _accelerate.get()
    if state is None:
        yield
        return
    seed = int(torch.randint(2**31, ()))  # the same everywhere
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + state.process_index)
        yield


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, the same for each of them."""
    if _accelerate.get() is None:
        return tensor
    from accelerate.utils import reduce

    total: torch.Tensor = reduce(tensor, "sum")
    return total


@torch.no_grad()
def add_up_gradients(model: nn.Module) -> None:
    """Give each parameter the sum of its gradients over all processes; None where none of them has one."""
    if _accelerate.get() is None:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for parameters in kinds.values():
        present = [float(parameter.grad is not None) for parameter in parameters]
        parts = [parameters[0].new_tensor(present)]
        parts += [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
        found, *sums = torch.split(add_up(torch.cat(parts)), [len(part) for part in parts])
        for parameter, anywhere, total in zip(parameters, found.tolist(), sums, strict=True):
            parameter.grad = total.view(parameter.shape).clone() if anywhere else None


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Give the running statistics of normalizing layers their mean over all processes, each of which saw its part."""
    for module in model.modules() if _accelerate.get() is not None else ():
        for name in ("running_mean", "running_var"):
            value = getattr(module, name, None)
            if isinstance(value, torch.Tensor):
                value.copy_(add_up(value) / processes())


# The same everywhere ------------------------------------------------------------------------------------------


def from_first(plain: Plain) -> Plain:
    """What the first process has, in all of them; tensors come on the CPU."""
    state = _accelerate.get()
    if state is None:
        return plain
    from accelerate.utils import broadcast

    buffer = io.BytesIO()
    if is_first():
        torch.save(plain, buffer)
    size = broadcast(torch.tensor([buffer.tell()], device=state.device))
    content = torch.zeros(int(size), dtype=torch.uint8, device=state.device)
    if is_first():
        content.copy_(torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8))
    content = broadcast(content)
    if is_first():
        return plain
    return torch.load(io.BytesIO(content.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)


def as_first(value: T) -> T:
    """As `from_first`, of anything that a snapshot can be taken of (`training.snapshot`); devices stay."""
    if _accelerate.get() is None:
        return value
    received = from_first(take(value))
    same: T = value if is_first() else put_back(value, received, torch.device("cpu"))
    return same


def synchronize(training: Training) -> None:
    """Give all processes the network and the hooks of the first, and its random numbers to come."""
    if _accelerate.get() is None:
        return
    if promises(training.hooks):
        received = from_first(training.take(optimizer=False))
        if not is_first():
            training.put_back(received)
    else:
        received = from_first(tensors_of(training.model))
        if not is_first():
            fill_tensors(training.model, received)


def check_same(content: bytes) -> None:
    """Make sure that all processes have come to the same file.

    Raises:
        DeepCompressError: they have not; all of them raise it.
    """
    if _accelerate.get() is None:
        return
    from accelerate.utils import gather_object

    digests = gather_object([hashlib.sha256(content).hexdigest()])
    if len(set(digests)) > 1:
        shown = ", ".join(digest[:8] for digest in digests)
        raise DeepCompressError(
            f"the processes have come to different files ({shown}), so something drew or rounded differently in each; "
            "what was written is that of the first"
        )


@contextmanager
def own_file(path: Path) -> Iterator[Path]:
    """`path` for the first process; for the others a file in a folder of their own that goes away."""
    if is_first():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / path.name
