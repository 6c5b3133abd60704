"""Updates beside general differences: bytes, and megabytes a second. `--lenet`, `--rounded` and `--gpt` run one part.

LeNet-5: `results/lenet5-han2016-seed0.dc` is out, and the network is trained on for digits that are turned (MNIST,
4,000 of them, turned by 15 degrees). Beside `compress --base` stands its recipe again, of the retrained network.
Rounded: `models/lenet5.pt` and the same retrained network, with a step for each row. GPT: a small one is trained on
the standard library's source, and saved before and after one more step of AdamW.

The packages bsdiff4, zipnn and zstandard, and the commands zstd and xdelta3, take part where they are installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine
from safetensors.torch import load_file, save, save_file
from torch import nn
from torch.nn import functional

import deepcompress as dc
from deepcompress.training.data import data_dir

ROOT = Path(__file__).resolve().parent.parent
OLD, DENSE = ROOT / "results" / "lenet5-han2016-seed0.dc", ROOT / "models" / "lenet5.pt"
STEPS = 60
RUNS = 5
RATES = (3e-6, 1e-5, 1e-4)


def command(*arguments: object) -> None:
    """The command line of this clone."""
    subprocess.run([sys.executable, "-m", "deepcompress", *map(str, arguments), "--quiet"], check=True, cwd=ROOT)


# Others ----------------------------------------------------------------------------------------------------------


def bsdiff(old: Path, new: Path) -> int:
    """bsdiff4."""
    return len(import_module("bsdiff4").diff(old.read_bytes(), new.read_bytes()))


def xdelta(old: Path, new: Path) -> int:
    """xdelta3 -9."""
    return piped("xdelta3", "-9", "-S", "lzma", "-e", "-c", "-s", old, new)


def zstd(old: Path, new: Path) -> int:
    """zstd -19 --patch-from."""
    return piped("zstd", "-19", "--long=27", "-q", "-c", f"--patch-from={old}", new)


def piped(*command: object) -> int:
    """Bytes that a command writes."""
    if shutil.which(str(command[0])) is None:
        raise ImportError
    return len(subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout)


def zipnn(old: Path, new: Path) -> int:
    """zipnn, delta compression."""
    kind = {2: "bfloat16", 4: "float32"}[width_of(new)]
    tool = import_module("zipnn").ZipNN(
        input_format="byte", bytearray_dtype=kind, delta_compressed_type="byte", threads=1
    )
    return len(tool.compress(bytearray(new.read_bytes()), delta_second_data=bytearray(old.read_bytes())))


def sparse(old: Path, new: Path) -> int:
    """sparse delta: indices (int32) and values in .safetensors, as TRL."""
    return len(save(changed(old, new, gaps=False)))


def sparse_zstd(old: Path, new: Path) -> int:
    """sparse delta: gaps (int32) and values, then zstd -19."""
    parts = save(changed(old, new, gaps=True))
    return len(import_module("zstandard").ZstdCompressor(level=19).compress(parts))


def changed(old: Path, new: Path, gaps: bool) -> dict[str, torch.Tensor]:
    """Where the elements are that changed, and their new values; places as they are, or as gaps."""
    before, after = load_file(old), load_file(new)
    parts: dict[str, torch.Tensor] = {}
    for name, value in after.items():
        places = (value != before[name]).reshape(-1).nonzero().reshape(-1)
        if len(places):
            told = torch.diff(places, prepend=torch.zeros(1, dtype=places.dtype)) if gaps else places
            parts |= {f"{name}.indices": told.int(), f"{name}.values": value.reshape(-1)[places]}
    return parts


def width_of(path: Path) -> int:
    """Bytes of an element of a checkpoint."""
    return next(iter(load_file(path).values())).element_size()


def others(old: Path, new: Path, tools: list[Callable[[Path, Path], int]]) -> None:
    """A line for each."""
    for tool in tools:
        name, start = (tool.__doc__ or "").rstrip("."), processor()
        try:
            size = tool(old, new)
        except ImportError:
            print(f"  {name:70} {'not installed':>12}", flush=True)
            continue
        share, seconds = 100 * size / new.stat().st_size, max(processor() - start, 0.01)
        print(f"  {name:70} {size:>12,}  {share:.2f} %, {new.stat().st_size / 1e6 / seconds:.1f} MB/s", flush=True)


def timed(run: Callable[[], object]) -> float:
    """Seconds that this process was computed on."""
    start = time.process_time()
    run()
    return time.process_time() - start


def processor() -> float:
    """Seconds that this process was computed on, and the commands that it ran."""
    return sum(os.times()[:4])


def ours(old: Path, new: Path, folder: Path) -> None:
    """The update, both ways, found to be exact: the fastest of five runs."""
    update, out = folder / "update.dcp", folder / "patched"
    seconds = []
    for run in (lambda: dc.diff(old, new, update), lambda: dc.patch(old, update, out)):
        run()  # loads what is compiled
        seconds.append(min(timed(run) for _ in range(RUNS)))
    assert out.read_bytes() == new.read_bytes()
    size, speed = update.stat().st_size, [new.stat().st_size / 1e6 / each for each in seconds]
    share = 100 * size / new.stat().st_size
    print(f"  {new.name}: {new.stat().st_size:,} bytes")
    print(f"  {'deepcompress diff':70} {size:>12,}  {share:.2f} %, {speed[0]:.0f} and {speed[1]:.0f} MB/s", flush=True)


# LeNet-5 ---------------------------------------------------------------------------------------------------------

NORMAL = ("--normalize", "0.1307,0.3081")  # as MNIST was for the network that is out


def turned(folder: Path, degrees: float = 15.0) -> Path:
    """MNIST, turned: 4,000 samples to train on, and the test set."""
    from torchvision.datasets import MNIST
    from torchvision.transforms.functional import rotate

    parts: dict[str, torch.Tensor] = {}
    for part, count in (("train", 4_000), ("test", 10_000)):
        data = MNIST(str(data_dir()), train=part == "train", download=True)
        images = rotate(data.data[:count, None].float() / 255, degrees)
        parts |= {f"x_{part}": images.numpy(), f"y_{part}": data.targets[:count].numpy()}
    np.savez(folder / "turned.npz", **parts)
    return folder / "turned.npz"


def accuracy(file: Path, data: Path) -> str:
    """Accuracy on the test data."""
    call = ("eval", str(file), "--data", str(data), "--network", "lenet5", *NORMAL, "-q")
    module = [sys.executable, "-m", "deepcompress", *call]
    done = subprocess.run(module, check=True, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.partition("(")[0].strip().rpartition(": ")[2]


def retrained(folder: Path, seed: int) -> tuple[Path, Path, tuple[object, ...]]:
    """The same network for turned digits: the checkpoint, the data, and the options that say so."""
    data, checkpoint = turned(folder), folder / "new.pt"
    common = ("--data", data, *NORMAL, "--seed", seed)
    command("train", "lenet5", "--from", DENSE, *common, "--epochs", 4, "-o", checkpoint)
    return checkpoint, data, common


def lenet(folder: Path, seed: int) -> None:
    """Files with shared weights."""
    checkpoint, data, common = retrained(folder, seed)
    before, after = accuracy(OLD, data), accuracy(checkpoint, data)
    print(f"seed {seed}. {OLD.name}: {before}; {checkpoint.name}: {after}", flush=True)
    asked: dict[str, list[object]] = {
        "whole": ["--recipe", ROOT / "recipes" / "lenet5-han2016.toml"],
        "based": ["--base", OLD],
        "based-drop": ["--base", OLD, "--max-drop", 0.5],
        "based-2000": ["--base", OLD, "--update-size", 2000],
    }
    for name, options in asked.items():
        new = folder / f"{name}.dc"
        command("compress", checkpoint, *common, *options, "-o", new)
        print(f"{new.name} ({' '.join(map(str, options[2:])) or 'nothing asked'}): {accuracy(new, data)}", flush=True)
        ours(OLD, new, folder)
        others(OLD, new, [zstd, bsdiff, xdelta])


def rounded(folder: Path, seed: int) -> None:
    """Files of whole numbers with a step for each row, at three sizes."""
    checkpoint, data, _ = retrained(folder, seed)
    for size in (None, "60KB", "20KB"):
        options = ["--no-retrain", *(["--target-size", size] if size else [])]
        old, new = (folder / f"{size}-{name}.dc" for name in ("old", "new"))
        for source, out in ((DENSE, old), (checkpoint, new)):
            command("compress", source, *options, "-o", out)
        print(f"{' '.join(options)}. old: {accuracy(old, data)}; new: {accuracy(new, data)}", flush=True)
        ours(old, new, folder)
        others(old, new, [zstd, bsdiff, xdelta])


# GPT -------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention and two layers, each with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        """Attention of so many heads."""
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) → the same."""
        batch, length, width = x.shape
        parts = self.qkv(self.before(x)).chunk(3, -1)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        out: torch.Tensor = x + self.down(functional.gelu(self.up(self.between(x))))
        return out


class GPT(nn.Module):
    """Bytes to bytes."""

    def __init__(self, width: int = 384, layers: int = 6, length: int = 128) -> None:
        """About 11 million weights."""
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, 6) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time) → logits (batch, time, 256)."""
        x = self.token(x) + self.place(torch.arange(x.shape[1]))
        out: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return out


def checkpoints(folder: Path) -> None:
    """Train, and save before and after a step at each rate."""
    torch.manual_seed(0)
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in sources)), dtype=torch.uint8).long()
    network = GPT()
    optimizer = torch.optim.AdamW(network.parameters())

    def step(rate: float) -> None:
        optimizer.param_groups[0]["lr"] = rate
        batch = torch.stack([text[at : at + 129] for at in torch.randint(0, len(text) - 129, (4,))])
        loss = functional.cross_entropy(network(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def put(name: str) -> None:
        for kind in (torch.bfloat16, torch.float32):
            state: dict[str, Any] = {key: value.to(kind).clone() for key, value in network.state_dict().items()}
            save_file(state, folder / f"{name}-{str(kind).removeprefix('torch.')}.safetensors")

    for index in range(STEPS):
        step(1e-3 * min(1.0, index / 30) * (1 - index / STEPS) + 1e-5)
    for rate in RATES:
        for _ in range(5):
            step(rate)
        put(f"{rate:g}-old")
        step(rate)
        put(f"{rate:g}-new")


def gpt(folder: Path) -> None:
    """One step of the optimizer."""
    checkpoints(folder)
    for rate in RATES:
        for kind in ("bfloat16", "float32") if rate == RATES[0] else ("bfloat16",):
            old, new = (folder / f"{rate:g}-{when}-{kind}.safetensors" for when in ("old", "new"))
            before, after = load_file(old), load_file(new)
            total = sum(value.numel() for value in after.values())
            moved = sum(int((value != before[name]).sum()) for name, value in after.items())
            print(f"learning rate {rate:g}, {kind}: {100 * moved / total:.1f} % of {total:,} weights changed")
            ours(old, new, folder)
            others(old, new, [sparse, sparse_zstd, zstd, zipnn, bsdiff, xdelta])


def main() -> None:
    """All parts, or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts: dict[str, Callable[[Path], None]] = {
        "lenet": lambda folder: lenet(folder, wanted.seed),
        "rounded": lambda folder: rounded(folder, wanted.seed),
        "gpt": gpt,
    }
    for name in parts:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    print(machine(), flush=True)
    torch.set_num_threads(1)
    asked = [name for name in parts if getattr(wanted, name)]
    for name in asked or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
