"""What a checkpoint may be, written as the tools write it: containers, wrappers and dtypes, and the table of all.

``python tests/checkpoint/cases.py`` writes the tables of docs/checkpoints.md; a test holds them to it.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deepcompress.checkpoint import open_checkpoint
from deepcompress.errors import CheckpointError

DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def small(dtype=torch.float32):
    """A state_dict of a few tensors, one of them with two dimensions."""
    raw = torch.arange(1, 1 + 24 * dtype.itemsize, dtype=torch.uint8)
    if dtype is torch.bool:
        raw = raw % 2
    return {"fc.weight": raw.view(dtype).reshape(4, 6), "fc.bias": raw[: 4 * dtype.itemsize].view(dtype).clone()}


# Containers: each writes tensors into a folder, and gives what is to be opened -----------------------------


def pt(state, folder):
    torch.save(state, folder / "x.pt")
    return folder / "x.pt"


def old_pt(state, folder):
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.load(folder / "old.pth")  # new dtypes are written, and torch itself cannot read them
    return folder / "old.pth"


def deflated(state, folder):
    """A .pt that a tool has zipped again."""
    path = pt(state, folder)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(folder / "z.pt", "w", zipfile.ZIP_DEFLATED) as to:
        for name in source.namelist():
            to.writestr(name, source.read(name))
    return folder / "z.pt"


def safetensors(state, folder, name="model.safetensors"):
    from safetensors.torch import save_file

    save_file(state, folder / name, {"format": "pt"})
    return folder / name


def sharded(state, folder):
    return _sharded(state, folder, "model-{}.safetensors", "model.safetensors.index.json", safetensors)


def sharded_bin(state, folder):
    def save(part, folder, name):
        torch.save(part, folder / name)

    return _sharded(state, folder, "pytorch_model-{}.bin", "pytorch_model.bin.index.json", save)


def _sharded(state, folder, shard, index, save):
    where = {name: shard.format(number) for number, name in enumerate(state)}
    for name, file in where.items():
        save({name: state[name]}, folder, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder / index


def pretrained(state, folder):
    """As transformers' save_pretrained leaves a folder."""
    (folder / "config.json").write_text("{}")
    safetensors(state, folder)
    return folder


def diffusers(state, folder):
    """A variant of diffusers', whose index has its name in the middle."""
    return _sharded(
        state, folder, "x.fp16-{}.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json", safetensors
    )


class Holder(nn.Module):
    """A module with one child, `fc`, that has the tensors `weight` and `bias`."""

    def __init__(self, state):
        super().__init__()
        self.fc = nn.Module()
        for name, value in state.items():
            self.fc.register_buffer(name.removeprefix("fc."), value)

    def forward(self, x):
        return self.fc.weight, self.fc.bias


def torchscript(state, folder):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(Holder(state), torch.ones(1), check_trace=False), folder / "script.pt")
    return folder / "script.pt"


def distributed(state, folder):
    from torch.distributed import checkpoint

    with warnings.catch_warnings(action="ignore"):
        checkpoint.save(state, checkpoint_id=str(folder / "dcp"), no_dist=True)
    return folder / "dcp"


def npz(state, folder):
    np.savez(folder / "x.npz", **{name: value.numpy() for name, value in state.items()})
    return folder / "x.npz"


def npz_small(state, folder):
    np.savez_compressed(folder / "z.npz", **{name: value.numpy() for name, value in state.items()})
    return folder / "z.npz"


GGUF_TYPES = {
    torch.float32: 0, torch.float16: 1, torch.int8: 24, torch.int16: 25, torch.int32: 26, torch.int64: 27,
    torch.float64: 28, torch.bfloat16: 30,
}  # fmt: skip


def gguf(state, folder):
    parts = [(name, GGUF_TYPES[value.dtype], tuple(value.shape), raw_bytes(value)) for name, value in state.items()]
    return gguf_of(parts, folder)


def raw_bytes(value):
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def gguf_of(parts, folder, version=3, more=()):
    """A GGUF file of tensors as (name, type, shape, bytes), with a few values of each kind in its metadata."""

    def text(word):
        return struct.pack("<Q", len(word)) + word.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        text("scores") + struct.pack("<IIQ2f", 9, 6, 2, 1.0, 2.0),
        *more,
    ]
    infos, data = b"", b""
    for name, kind, shape, raw in parts:
        infos += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        infos += struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    head = b"GGUF" + struct.pack("<IQQ", version, len(parts), len(pairs)) + b"".join(pairs) + infos
    (folder / "x.gguf").write_bytes(head + bytes(-len(head) % 32) + data)
    return folder / "x.gguf"


def tar(state, folder):
    """As PyTorch 0.1.9 wrote: no version since can."""
    kinds = {torch.float32: "FloatStorage", torch.int64: "LongStorage", torch.uint8: "ByteStorage"}
    kinds |= {torch.float64: "DoubleStorage", torch.float16: "HalfStorage", torch.int32: "IntStorage"}
    kinds |= {torch.int16: "ShortStorage", torch.int8: "CharStorage"}
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(state), storages, 2)
    pickle.dump(len(state), tensors, 2)
    for number, value in enumerate(state.values()):
        pickle.dump((str(number), "cpu", getattr(torch, kinds[value.dtype])), storages, 2)
        storages.write(struct.pack("<q", value.numel()) + raw_bytes(value))
        pickle.dump((f"t{number}", str(number), torch.FloatTensor), tensors, 2)
        tensors.write(struct.pack("<ii", value.ndim, 0))
        tensors.write(struct.pack(f"<{2 * value.ndim + 1}q", *value.shape, *value.stride(), 0))
    pickle.dump([], storages, 2)
    content = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return f"t{obj[1]}" if isinstance(obj, tuple) and obj[:1] == ("tensor",) else None

    Pickler(content, 2).dump(OrderedDict((name, ("tensor", number)) for number, name in enumerate(state)))
    with tarfile.open(folder / "x.tar", "w:") as archive:
        members = {"sys_info": b"x", "pickle": content.getvalue(), "storages": storages.getvalue()}
        for name, raw in (members | {"tensors": tensors.getvalue()}).items():
            about = tarfile.TarInfo(name)
            about.size = len(raw)
            archive.addfile(about, io.BytesIO(raw))
    return folder / "x.tar"


CONTAINERS = {
    ".pt, .pth, .bin, .ckpt (zip)": pt,
    "the same, compressed again": deflated,
    "the same before PyTorch 1.6": old_pt,
    "tar of PyTorch 0.1": tar,
    "TorchScript archive": torchscript,
    "torch.distributed.checkpoint folder": distributed,
    ".safetensors, .sft": safetensors,
    ".safetensors index": sharded,
    ".bin index": sharded_bin,
    "diffusers variant index": diffusers,
    "transformers folder": pretrained,
    ".npz": npz,
    ".npz, compressed": npz_small,
    ".gguf": gguf,
}

# Wrappers: what scripts put around a state_dict; each gives what is saved ----------------------------------


def prefixed(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


WRAPPERS = {
    "a bare state_dict": dict,
    "nested dictionary": lambda state: {"epoch": 3, "net": {"ema": dict(state)}, "note": None},
    "with an optimizer": lambda state: {
        "model": state,
        "optimizer": {"state": {"0": {"exp_avg": torch.ones(4, 6)}}, "param_groups": [{"lr": 0.1}]},
    },
    "`module.`": prefixed("module."),
    "`_orig_mod.`": prefixed("_orig_mod."),
    "stacked": prefixed("module._orig_mod."),
    "`n_averaged` (SWA)": lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.")(state)},
}
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


def outcome(write, content, expected):
    """✓ if what was written is read exactly, – if the tool cannot write it, ✗ if it is read wrongly or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(content, Path(folder))
        except Exception:  # the writer's own way to say no
            return "–"
        try:
            found = dict(open_checkpoint(path).state)
        except CheckpointError:
            return "✗"
        return "✓" if equal(found, expected) else "✗"


def equal(found, expected):
    """The same names, dtypes, shapes and bits; the order is the container's."""

    def described(state):
        return {name: (value.dtype, value.shape, raw_bytes(value)) for name, value in state.items()}

    return described(found) == described(expected)


def tables():
    """The two tables as Markdown."""
    lines = [_row(["container", *WRAPPERS]), _row(["---", *(":-:" for _ in WRAPPERS)])]
    for number, (label, write) in enumerate(CONTAINERS.items(), 1):
        cells = [outcome(write, wrap(small()), small()) for wrap in WRAPPERS.values()]
        lines.append(_row([f"{number}. {label}", *cells]))
    numbers = [str(number + 1) for number in range(len(CONTAINERS))]
    lines += ["", _row(["dtype", *numbers]), _row(["---", *(":-:" for _ in CONTAINERS)])]
    for dtype in DTYPES:
        cells = [outcome(write, small(dtype), small(dtype)) for write in CONTAINERS.values()]
        lines.append(_row([str(dtype).removeprefix("torch."), *cells]))
    return "\n".join(lines)


def _row(cells):
    return f"| {' | '.join(cells)} |"


BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


def written(text, table):
    """The text of the page with this table in it."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCS.write_text(written(DOCS.read_text(encoding="utf-8"), tables()), encoding="utf-8")
    sys.exit("✗" in DOCS.read_text(encoding="utf-8"))
