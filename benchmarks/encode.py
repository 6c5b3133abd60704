"""Time, peak memory and bytes of `deepcompress compress CKPT --no-retrain`, by size, and of what one would do instead.

The checkpoints are synthetic: eight layers of Gaussian weights and their biases, as safetensors. Ours prunes 90 % and
shares the rest among 32 values; torch.save keeps everything, and zstandard (level 3) squeezes what torch.save wrote.
Each is a process of its own, and each figure the median of several; what it takes to import torch is in all of them,
and stands in the first row. --large adds a billion weights in bfloat16, in 4 shards with an index file (2 GB of disk),
measured once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import Cost, machine, median_cost, run_process

LAYERS = 8
LARGE = 1_000_000_000


# What runs in a process of its own. Nothing heavier than this file is imported outside of them, because a process
# starts out with the peak memory of the one that started it.


def make(weights: int, folder: Path) -> None:
    """Write a checkpoint of `weights` fp32 weights."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    rows = max(1, round((weights / LAYERS) ** 0.5))
    state = {}
    for layer in range(LAYERS):
        state[f"fc{layer}.weight"] = torch.randn(rows, weights // LAYERS // rows) * 0.05
        state[f"fc{layer}.bias"] = torch.randn(rows) * 0.05
    save_file(state, folder / "model.safetensors")


def make_shards(weights: int, folder: Path) -> None:
    """Write a checkpoint of `weights` bfloat16 weights in 4 files and their index; ten layers."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    places = {}
    for shard in range(4):
        name = f"model-{shard + 1:05}-of-00004.safetensors"
        state = {
            f"layers.{layer}.weight": (torch.randn(10_000, weights // 100_000) * 0.05).bfloat16()
            for layer in range(10)
            if layer % 4 == shard
        }
        save_file(state, folder / name)
        places |= dict.fromkeys(state, name)
    index = {"metadata": {"total_size": 2 * weights}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def by_torch(source: Path, target: Path) -> None:
    """Load and torch.save."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(source), target)


def by_zstandard(source: Path, target: Path) -> None:
    """Load, torch.save, and compress that."""
    import zstandard

    by_torch(source, target)
    squeezed = target.with_suffix(".zst")
    with open(target, "rb") as dense, open(squeezed, "wb") as out:
        zstandard.ZstdCompressor(level=3).copy_stream(dense, out)
    squeezed.replace(target)


STEPS: dict[str, Callable[[Path, Path], None]] = {"torch.save": by_torch, "torch.save, zstd": by_zstandard}


# What starts them ------------------------------------------------------------------------------------------


def commands(source: Path, target: Path, prune: float, bits: int) -> dict[str, list[str]]:
    """What is compared, each as a command line."""
    ours = [sys.executable, "-m", "deepcompress", "compress", str(source), "--no-retrain", "--json", "-q"]
    ours += ["--prune", str(prune), "--bits", str(bits), "-o", str(target)]
    return {"deepcompress": ours} | {
        name: [sys.executable, __file__, "--step", name, str(source), str(target)] for name in STEPS
    }


def measure(title: str, source: Path, dense: int, options: argparse.Namespace, runs: int) -> None:
    """Print a row for each of `commands`; they take turns."""
    target = source.parent / "written.dc"
    compared = commands(source, target, options.prune, options.bits)
    if not source.name.endswith(".safetensors"):
        compared = {"deepcompress": compared["deepcompress"]}
    costs: dict[str, list[Cost]] = {name: [] for name in compared}
    sizes = {}
    for _ in range(runs):
        for name, command in compared.items():
            costs[name].append(run_process(command))
            sizes[name] = target.stat().st_size
            target.unlink()
    for name, found in costs.items():
        cost = median_cost(found)
        row = f"{title:>14}  {name:<18}{cost.seconds:>9.2f} s{cost.megabytes:>12,.0f} MB{sizes[name]:>16,}"
        print(f"{row}{dense / sizes[name]:>9.2f}×", flush=True)


def main() -> None:
    """Print a table, or, with --step, be one of the processes that it measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, nargs="*", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prune", type=float, default=0.9)
    parser.add_argument("--bits", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="also a billion weights in bfloat16, once")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, source, target = options.step
        if name.startswith("make"):
            {"make": make, "make shards": make_shards}[name](int(source), Path(target))
        else:
            STEPS[name](Path(source), Path(target))
        return
    print(f"Encoding: medians of {options.runs} runs, a process each; {machine()}\n")
    print(f"{'weights':>14}  {'':<18}{'seconds':>11}{'peak memory':>15}{'bytes':>16}{'ratio':>10}")
    bare = median_cost([run_process([sys.executable, "-c", "import torch"]) for _ in range(options.runs)])
    print(f"{'0':>14}  {'import torch':<18}{bare.seconds:>9.2f} s{bare.megabytes:>12,.0f} MB", flush=True)
    for weights in options.weights:
        with tempfile.TemporaryDirectory() as folder:
            run_process([sys.executable, __file__, "--step", "make", str(weights), folder])
            measure(f"{weights:,}", Path(folder) / "model.safetensors", 4 * weights, options, options.runs)
    if options.large:
        with tempfile.TemporaryDirectory() as folder:
            run_process([sys.executable, __file__, "--step", "make shards", str(LARGE), folder])
            measure(f"{LARGE:,}", Path(folder) / "model.safetensors.index.json", 2 * LARGE, options, 1)
            print(f"{'':>16}(bfloat16, 4 shards; ratio to its 2 bytes a weight; 1 run)")


if __name__ == "__main__":
    main()
