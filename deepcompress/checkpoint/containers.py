"""What kind of file or folder it is, by what is in it, and whatever it holds: one line a kind.

The ending decides only where the content says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from deepcompress.checkpoint import archives, distributed, gguf, legacytar, npz, safetensors, torchfile, torchscript
from deepcompress.errors import CheckpointError

_JSON_BYTES = 1 << 28  # most of an index


@dataclass(frozen=True)
class Content:
    """What a file holds: a (nested) dictionary of tensors or `Stored` ones, and what it says of itself.

    `restored` are names of tensors that the file does not hold, and the name of the one that it says they are.
    """

    container: str
    tree: Any
    facts: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    restored: dict[str, str] = field(default_factory=dict)


def read(path: Path, trust_pickle: bool, mapped: bool) -> Content:
    """Whatever `path` holds.

    Raises:
        CheckpointError: it is missing, damaged, none of the known kinds, or needs code to be run.
    """
    try:
        if path.is_dir():
            return _folder(path, trust_pickle, mapped)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        found = _READERS["onnx" if path.suffix.lower() == ".onnx" else _kind(path)](path, trust_pickle, mapped)
        return replace(found, bytes=found.bytes + path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _kind(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(512)
    for mark, kind in _MARKS.items():
        if start.startswith(mark):
            return kind
    if start.startswith(archives.MAGIC):
        return _zip_kind(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return "safetensors"  # the length of its header, which is JSON
    if start[257:262] == b"ustar":
        return "tar"
    return "index" if start.lstrip()[:1] == b"{" else _by_ending(path)


def _by_ending(path: Path) -> str:
    return "safetensors" if path.suffix.lower() in (".safetensors", ".sft") else "torch"


#: What a file begins with, and its kind.
_MARKS = {
    b"version https://git-lfs": "pointer",
    b"GGUF": "gguf",
    b"\x89DC": "dc",
    b"\x89DP": "update",
    b"\x93NUMPY": "npy",
    b"\x89HDF\r\n": "hdf5",
    b"\x1f\x8b": "gzip",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46": "torch",  # the magic number of torch.save before 1.6, pickled
    **{b"\x80" + bytes([protocol]): "pickle" for protocol in (3, 4, 5)},
}


def _zip_kind(path: Path) -> str:
    try:
        records = list(archives.Archive(path).records)
    except CheckpointError:
        return _by_ending(path)
    names = {name.partition("/")[2] for name in records}
    if "constants.pkl" in names or "model.json" in names:
        return "torchscript"
    if "data.pkl" in names:
        return "torch"
    return "npz" if any(name.endswith(".npy") for name in records) else "zip"


# One file --------------------------------------------------------------------------------------------------


def _torch(path: Path, trust_pickle: bool, mapped: bool) -> Content:
    return Content("a PyTorch checkpoint", torchfile.read(path, trust_pickle, mapped))


def _torchscript(path: Path, _trust: bool, _mapped: bool) -> Content:
    return Content("a TorchScript archive, whose code was not run", torchscript.read(path))


def _tar(path: Path, trust_pickle: bool, _mapped: bool) -> Content:
    if not legacytar.is_one(path):
        raise CheckpointError(f"{path}: a tar archive and no checkpoint: unpack it, and name a file in it")
    return Content("a tar checkpoint of PyTorch 0.1", legacytar.read(path))


def _safetensors(path: Path, _trust: bool, _mapped: bool) -> Content:
    tensors, facts, restored = safetensors.read(path)
    return Content("a safetensors file", tensors, facts, restored=restored)


def _npz(path: Path, _trust: bool, _mapped: bool) -> Content:
    return Content("an archive of numpy arrays (.npz)", npz.read(path))


def _gguf(path: Path, _trust: bool, _mapped: bool) -> Content:
    tensors, facts, quantized = gguf.read(path)
    blocks = f", {len(quantized)} of whose tensors are quantized blocks, kept as bytes" if quantized else ""
    return Content(f"a GGUF file{blocks}", tensors, facts)


def _refused(line: str) -> Callable[[Path, bool, bool], Content]:
    def refuse(path: Path, _trust: bool, _mapped: bool) -> Content:
        raise CheckpointError(f"{path}: {line}")

    return refuse


# Several files ---------------------------------------------------------------------------------------------


def _index(path: Path, trust_pickle: bool, mapped: bool) -> Content:
    """The tensors of several files, by an index (JSON) that stands beside them."""
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise ValueError
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): path.parent / str(file) for name, file in where.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path}: not an index of .safetensors or .bin files (a JSON object with a weight_map)"
        ) from None
    if not files:
        raise CheckpointError(f"{path}: holds no tensors")
    held = {file: read(file, trust_pickle, mapped) for file in _beside(path, set(files.values()))}
    for name, file in files.items():
        if not isinstance(held[file].tree, dict) or name not in held[file].tree:
            raise CheckpointError(f"{path}: tensor {name} is not in {file.name}, where the index says it is")
    kind = next(iter(held.values())).container
    tensors = {name: held[file].tree[name] for name, file in files.items()}
    size = sum(one.bytes for one in held.values())
    return Content(f"an index of {len(held)} files, each {kind}", tensors, bytes=size)


def _beside(path: Path, files: set[Path]) -> list[Path]:
    for file in sorted(files):
        if file.parent != path.parent or not file.is_file():
            raise CheckpointError(f"{path}: names the file {file.name}, which is not beside it")
    return sorted(files)


#: What a folder of weights has, the surest first: of one line there must be one.
_IN_FOLDERS = (
    "*.safetensors.index*.json",
    "*.safetensors",
    "*.sft",
    "*.bin.index*.json",
    "pytorch_model*.bin",
    "*.bin",
    "*.ckpt",
    "*.pt",
    "*.pth",
    "*.gguf",
)
_USUAL = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)


def _folder(path: Path, trust_pickle: bool, mapped: bool) -> Content:
    """What a library saved as a folder: the one set of weights in it."""
    if (path / ".metadata").is_file():
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        return Content("a folder of torch.distributed.checkpoint", distributed.read(path), bytes=size)
    for pattern in _IN_FOLDERS:
        files = [file for file in sorted(path.iterdir()) if fnmatch(file.name.lower(), pattern) and file.is_file()]
        named = [file for file in files if file.name in (*_USUAL, *(f"{name}.index.json" for name in _USUAL))]
        if len(files) > 1 and len(named) != 1:
            listed = ", ".join(file.name for file in files[:8])
            raise CheckpointError(f"{path}: holds several files of weights: {listed}; name the one")
        if files:
            chosen = (named or files)[0]
            found = read(chosen, trust_pickle, mapped)
            return replace(found, container=f"a folder with {chosen.name}, {found.container}")
    endings = ", ".join(
        f"*{Path(pattern).suffix}" for pattern in ("x.safetensors", "x.bin", "x.pt", "x.ckpt", "x.gguf")
    )
    raise CheckpointError(f"{path}: a folder without weights, and not a regular file: it has no {endings}")


_READERS: dict[str, Callable[[Path, bool, bool], Content]] = {
    "torch": _torch,
    "torchscript": _torchscript,
    "tar": _tar,
    "safetensors": _safetensors,
    "npz": _npz,
    "gguf": _gguf,
    "index": _index,
    "pointer": _refused(
        "a git-lfs pointer of a few lines, and not the weights that it stands for; fetch them with git lfs pull"
    ),
    "dc": _refused("a compressed network (.dc), and no checkpoint: 'deepcompress export' makes one of it"),
    "update": _refused("this is an update: 'deepcompress patch OLD.dc UPDATE.dcp -o NEW.dc' makes the .dc file"),
    "pickle": _refused("a pickle that torch.save did not write; load it, and save its tensors with torch.save"),
    "npy": _refused("a single numpy array without a name; save the network's arrays with numpy.savez"),
    "hdf5": _refused("an HDF5 file (of Keras?), which is not read; save the weights as .npz or .safetensors"),
    "onnx": _refused("an ONNX model: compress and eval take it, export gives it back, and no other command knows it"),
    "gzip": _refused("is compressed with gzip; unpack it first"),
    "zip": _refused("a zip archive and no checkpoint; unpack it, and name a file in it"),
}
