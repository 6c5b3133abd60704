"""A .dc file as a mapping from names to tensors, each decoded only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from deepcompress.coding.tensors import TensorInfo
from deepcompress.container.reader import ModelFile
from deepcompress.reading.frameworks import Array, Framework, check_framework, to_numpy

if TYPE_CHECKING:
    import torch

Tensor = TypeVar("Tensor")


@overload
def open(
    path: str | Path,
    device: str | torch.device = "cpu",
    max_bytes: int | None = None,
    framework: Literal["torch"] = "torch",
) -> TensorFile[torch.Tensor]: ...


@overload
def open(
    path: str | Path, device: str = "cpu", max_bytes: int | None = None, *, framework: Literal["numpy"]
) -> TensorFile[Array]: ...


def open(
    path: str | Path, device: str | torch.device = "cpu", max_bytes: int | None = None, framework: Framework = "torch"
) -> TensorFile[Any]:
    """Open a .dc file for reading single tensors: ``with dc.open(path) as file: file["conv1.weight"]``.

    Only the header is read and checked; torch is imported when the first tensor is asked for.

    Args:
        path: the file.
        device: where the tensors go.
        max_bytes: how many bytes one decoded tensor may take; by default 1024 times the size of the file, and at
            least 256 MiB.
        framework: ``torch``, or ``numpy`` for arrays, as in `frameworks.load_state_dict`: torch is never imported.

    Raises:
        FormatError: the file is missing or too new, or its header is damaged.
        ValueError: there is no such framework, or it has no such device.
    """
    check_framework(framework, device)
    return TensorFile(path, device, max_bytes, framework)


class TensorFile(Mapping[str, Tensor]):
    """What `open` gives: a mapping, in the order of the file, and a context manager.

    ``file[name]`` reads that tensor's section, holds it against its checksum, and decodes it anew each time; no other
    section is looked at, except one whose codebook the tensor shares. Names, `info`, `network` and `data` come from
    the header. Threads may share it.

    Raises (by ``file[name]``):
        KeyError: there is no tensor of that name.
        FormatError: its section is damaged, or the tensor is larger than allowed.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device = "cpu",
        max_bytes: int | None = None,
        framework: Framework = "torch",
    ) -> None:
        self._file = ModelFile(path, max_bytes)
        self._device, self._framework = device, framework

    def __enter__(self) -> TensorFile[Tensor]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its names and facts can still be looked at."""
        self._file.close()

    def __getitem__(self, name: str) -> Tensor:
        found: Any = self._array(name) if self._framework == "numpy" else self._tensor(name)
        return found  # type: ignore[no-any-return]

    def _array(self, name: str) -> Array:
        return to_numpy(*self._file.read(name, os.cpu_count() or 1))

    def _tensor(self, name: str) -> torch.Tensor:
        import torch

        from deepcompress.reading.arrays import to_torch

        return to_torch(*self._file.read(name, torch.get_num_threads())).to(self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file.header.entries)

    def __contains__(self, name: object) -> bool:
        return name in self._file

    def info(self, name: str) -> TensorInfo:
        """Shape, dtype, encoding and sizes of a tensor, from the header.

        Raises:
            KeyError: there is no tensor of that name.
        """
        return self._file.entry(name).info

    @property
    def network(self) -> str:
        """Name of the network that the file is for, or empty."""
        return self._file.header.network

    @property
    def data(self) -> str:
        """Name of the data set that the network is for, or empty."""
        return self._file.header.data
