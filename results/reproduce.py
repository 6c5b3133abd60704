"""Everything in results/, by name: the commands behind it, and a way to run those whose outcome is not there.

    python results/reproduce.py                  # list the commands
    python results/reproduce.py NAME [NAME ...]  # run these (shell patterns work: 'lenet5-*', '*')
    python results/figures.py                    # then draw the figures
    python results/report.py                     # and write results/README.md,
    python results/pruning.py                    # and results/pruners/README.md

Each command is a `deepcompress` command as one would type it in the root of the project. What it prints with --json
is kept as results/NAME.json; delete that file to run it again. Made with one CPU thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"

SEEDS = (0, 1, 2)
CIFAR = "--data cifar10-jpeg.npz --normalize data"
SPARSITIES = "0.5,0.7,0.8,0.9,0.95,0.97,0.98,0.99"
BITS = "1,2,3,4,5,6,7,8"
INITS = "--init linear,density,random"
MLP, CONV, RESNET = "models/lenet-300-100.pt", "models/lenet5.pt", "models/resnet20.pt"
LONG, DIGITS = "models/lenet5-long.pt", "models/lenet5-digits.pt"
SPOTTER = "models/ds-cnn-xs.pt"
#: Three seeds each.
PAPER_RECIPES = {
    "lenet-300-100-han2016": MLP,
    "lenet-300-100-small": MLP,
    "lenet5-han2016": CONV,
    "lenet5-small": CONV,
}
#: To a size: checkpoint, settings, seeds.
SIZES = {
    "lenet-300-100-4.5kb": (MLP, "--recipe recipes/lenet-300-100-tiny.toml", (0, 1, 2)),
    "lenet-300-100-3kb": (MLP, "--recipe recipes/lenet-300-100-3kb.toml", SEEDS),
    "lenet5-3kb": (LONG, "--recipe recipes/lenet5-tiny.toml", SEEDS),
    "lenet5-2kb": (LONG, "--recipe recipes/lenet5-tiny.toml --target-size 2000", (0, 1)),
    "lenet5-1.5kb": (LONG, "--recipe recipes/lenet5-tiny.toml --target-size 1500", (0,)),
    "ds-cnn-xs-3kb": (SPOTTER, "--recipe recipes/ds-cnn-tiny.toml", SEEDS),
    "ds-cnn-xs-3.5kb": (SPOTTER, "--recipe recipes/ds-cnn-3.5kb.toml", SEEDS),
}
#: Two values in each layer, and two and zero: recipe, checkpoint, seeds.
FEW_VALUES = {"lenet-300-100-binary": (MLP, SEEDS), "lenet-300-100-ternary": (MLP, SEEDS)}
#: What each part of the way to a size is worth: the recipe with one thing changed.
ABLATIONS = {
    "whole": "",
    "no-distillation": "--distill 0",
    "l2": "--penalty l2",
    "one-shot": "--schedule one-shot",
    "regrow": "--regrow surgery",
    "k-means": "--quantizer kmeans",
}
#: Criteria of single weights.
CRITERIA = "magnitude,random,taylor1,taylor2,taylor12,l1-factor,l2-factor,empirical,obs,woodfisher,snip,grasp"
UNITS = "magnitude,filters-l1,filters-taylor,thinet,inactive,nisp"
#: Sparse from the start: network, method, sparsity, seeds.
DYNAMIC = ("set", "deepr", "dsr")
FROM_THE_START = (
    ("lenet-300-100", "snip", 0.95, SEEDS),
    ("lenet5", "snip", 0.98, SEEDS),
    *(("lenet-300-100", method, 0.95, SEEDS) for method in ("grasp", "random", *DYNAMIC)),
    *(("lenet-300-100", method, 0.98, SEEDS) for method in ("snip", "grasp")),
)
#: Second order with a correction of the weights that stay, beside magnitude, in one cut without retraining.
SECOND_ORDER = {
    "lenet5-second-order": f"{CONV} --criteria magnitude,obs,mlprune --prune 0.98 --epochs 0 --seed 0,1,2 "
    "--score-samples 256",
}
#: Without retraining.
CUT = "--bits none --epochs 0 --finetune-epochs 0"
#: What prunes in a way of its own: network, name, what `compress` is told, seeds.
METHODS = (
    ("lenet-300-100", "lc-0.99", "--method lc --prune 0.99 --bits none --epochs 20", SEEDS),
    ("lenet-300-100", "lc-levels2", "--method lc --prune 0 --levels 2 --epochs 25 --lr-schedule constant", SEEDS),
    (
        "lenet-300-100",
        "variational-0.985",
        "--method variational --optimizer adam --lr 0.003 --prune 0.985 --bits none --epochs 30",
        SEEDS,
    ),
    (
        "lenet-300-100",
        "surgery-0.982",
        "--regrow surgery --iterations 12 --prune 0.982 --bits none --epochs 20",
        SEEDS,
    ),
    ("lenet5", "lc-0.99", "--method lc --prune 0.99 --bits none --epochs 20", (0,)),
    (
        "lenet5",
        "surgery-0.991",
        "--regrow surgery --iterations 10 --prune 0.991 --bits none --epochs 14 --precision bfloat16",
        (0,),
    ),
    (
        "lenet-300-100",
        "sws-0.957",
        "--method sws --optimizer adam --lr 0.001 --prune 0.957 --bits 5 --epochs 20 --batch-size 256 "
        "--finetune-epochs 6",
        SEEDS,
    ),
    (
        "lenet5",
        "variational-0.9964",
        "--method variational --optimizer adam --lr 0.003 --prune 0.9964 --bits none --epochs 12 --precision bfloat16",
        (0,),
    ),
    (
        "lenet5",
        "sws-0.995",
        "--method sws --optimizer adam --lr 0.001 --prune 0.995 --bits 5 --epochs 12 --batch-size 256 "
        "--precision bfloat16 --finetune-epochs 4",
        (0,),
    ),
    (
        "lenet5",
        "mlprune-0.98",
        f"--criterion mlprune --scope layer --prune 0.98 {CUT} --score-samples 256",
        (0,),
    ),
    ("resnet20", "magnitude-0.98", f"--prune 0.98 {CUT} {CIFAR}", (0,)),
    ("resnet20", "obs-0.98", f"--criterion obs --prune 0.98 {CUT} --score-samples 64 {CIFAR}", (0,)),
    (
        "resnet20",
        "mlprune-0.98",
        f"--criterion mlprune --scope layer --prune 0.98 {CUT} --score-samples 64 {CIFAR}",
        (0,),
    ),
)
#: How a fraction is shared out over the layers: network, fraction, seeds, settings of retraining.
SHARES = {
    "uniform": "--distribution uniform",
    "lamp": "--distribution lamp",
    "global": "--scope global",
    "amc": "--distribution amc",
}
SHARED_OUT = (
    ("lenet-300-100", 0.95, SEEDS, "--schedule one-shot --epochs 3"),
    ("lenet5", 0.98, (0,), "--epochs 0 --finetune-epochs 0"),
)
#: Lottery tickets: network, what the weights go back to, sparsity, seeds.
LOTTERY = tuple(("lenet-300-100", kind, 0.95, (0,)) for kind in ("start", "random"))
START = {"lenet-300-100": "--epochs 20", "lenet5": "--epochs 24 --warmup 1 --precision bfloat16"}
#: Size against error for ResNet-20.
RESNET_POINTS = {
    "resnet20-distilled": "--recipe recipes/resnet20-distilled.toml",
    "resnet20-44kb": "--recipe recipes/resnet20-tiny.toml",
    "resnet20-prune0.8-bits4": "--recipe recipes/resnet20.toml --prune 0.8 --bits 4",
}
#: The distilled ResNet-20 with fewer shared values, without any more training.
FEWER_BITS = (3, 2)
#: What each option of the training loop is worth, one at a time.
OPTIONS = {
    "none": "",
    "no-shift": "--shift 0",
    "constant-rate": "--lr-schedule constant",
    "step-rate": "--lr-schedule step",
    "label-smoothing": "--label-smoothing 0.1",
    "distillation": "--distill 0.5 --temperature 2",
    "bfloat16": "--precision bfloat16",
}

# Networks that studies start from: files in build/, and the commands that make them.
L1 = "--penalty l1 --penalty-weight 5e-5"
PRUNED, PENALIZED = "build/lenet5-pruned", "build/lenet-300-100"
L1_SWEEP, L2_SWEEP = (f"sweep {PENALIZED}-{penalty}.pt --prune {SPARSITIES} --bits none" for penalty in ("l1", "l2"))
DISTILLED = "build/resnet20-distilled"
PREPARE_DISTILLED = [f"export results/resnet20-distilled.dc -o {DISTILLED}.pt"]
PREPARE_PRUNED = [
    f"compress {CONV} --prune 0.92 --bits none --epochs 4 -o {PRUNED}.dc",
    f"export {PRUNED}.dc -o {PRUNED}.pt",
]
PREPARE_L1 = [
    f"compress {MLP} --prune 0 --bits none --epochs 5 {L1} -o {PENALIZED}-l1.dc",
    f"export {PENALIZED}-l1.dc -o {PENALIZED}-l1.pt",
]
PREPARE_L2 = [
    f"compress {MLP} --prune 0 --bits none --epochs 5 -o {PENALIZED}-l2.dc",
    f"export {PENALIZED}-l2.dc -o {PENALIZED}-l2.pt",
]


def entries() -> dict[str, list[str]]:
    """The .dc files that are shipped, each with its command."""
    commands = {}
    for name, checkpoint in (("lenet-300-100-mnist", MLP), ("lenet5-mnist", CONV), ("lenet5-digits", DIGITS)):
        commands[name] = f"compress {checkpoint} --prune 0.92 --bits 5"
    for recipe, checkpoint in PAPER_RECIPES.items():
        for seed in SEEDS:
            commands[f"{recipe}-seed{seed}"] = f"compress {checkpoint} --recipe recipes/{recipe}.toml --seed {seed}"
    for recipe, (checkpoint, seeds) in FEW_VALUES.items():
        for seed in seeds:
            commands[f"{recipe}-seed{seed}"] = f"compress {checkpoint} --recipe recipes/{recipe}.toml --seed {seed}"
    for name, (checkpoint, settings, seeds) in SIZES.items():
        for seed in seeds:
            commands[f"{name}-seed{seed}"] = f"compress {checkpoint} {settings} --seed {seed}"
    for name, settings in RESNET_POINTS.items():
        commands[name] = f"compress {RESNET} {settings} {CIFAR}"
    for bits in FEWER_BITS:
        settings = f"--prune 0 --bits {bits} --no-retrain --batch-norm fold --small-dtype float16 {CIFAR}"
        commands[f"resnet20-distilled-bits{bits}"] = f"compress {DISTILLED}.pt {settings}"
    prepared = {f"resnet20-distilled-bits{bits}": PREPARE_DISTILLED for bits in FEWER_BITS}
    return {name: [*prepared.get(name, []), f"{command} -o results/{name}.dc"] for name, command in commands.items()}


def studies() -> dict[str, list[str]]:
    """The curves behind the figures. What they write goes to build/ and is not shipped, but for the numbers."""
    curves = {
        # Han 2016, figure 6: pruning alone, sharing alone, both
        "pruning-alone": f"sweep {MLP} --prune {SPARSITIES} --bits none --epochs 8",
        "sharing-alone": f"sweep {MLP} --prune 0 --epochs 0 --bits {BITS}",
        "pruning-and-sharing": f"sweep {MLP} --prune 0.8,0.9,0.95,0.98,0.99 --bits 3,5 --epochs 8",
        # Han 2016, figure 7: bits of convolutions and of fully connected layers, dense and pruned
        "bits-conv": f"sweep {CONV} --prune 0 --no-retrain --data mnist --bits none --conv-bits {BITS}",
        "bits-fc": f"sweep {CONV} --prune 0 --no-retrain --data mnist --conv-bits none --bits {BITS}",
        "bits-conv-pruned": f"sweep {PRUNED}.pt --prune 0 --no-retrain --data mnist --bits none --conv-bits {BITS}",
        "bits-fc-pruned": f"sweep {PRUNED}.pt --prune 0 --no-retrain --data mnist --conv-bits none --bits {BITS}",
        # Han 2016, figure 8: where k-means starts
        "init-tuned": f"sweep {MLP} --prune 0 --epochs 0 --bits {BITS} {INITS}",
        "init-lenet5": f"sweep {CONV} --prune 0 --no-retrain --data mnist --bits 1,2,3,4,5 {INITS}",
        # Han 2015, figure 5: penalties, with and without retraining, at once and step by step
        "l1-no-retraining": f"{L1_SWEEP} --no-retrain --data mnist",
        "l2-no-retraining": f"{L2_SWEEP} --no-retrain --data mnist",
        "l1-retraining": f"{L1_SWEEP} --epochs 6 --schedule one-shot {L1}",
        "l2-retraining": f"{L2_SWEEP} --epochs 6 --schedule one-shot",
        "l2-iterative": f"{L2_SWEEP} --epochs 6 --schedule linear",
    }
    for option, settings in OPTIONS.items():
        base = f"sweep {MLP} --recipe recipes/lenet-300-100-small.toml --epochs 6 --finetune-epochs 1 --seed 0,1,2"
        curves[f"option-{option}"] = f"{base} {settings}".rstrip()
    for change, settings in ABLATIONS.items():
        base = f"sweep {MLP} --recipe recipes/lenet-300-100-tiny.toml --epochs 12 --finetune-epochs 6"
        curves[f"ablation-{change}"] = f"{base} --target-size 3.5KB,5KB {settings}".rstrip()
    # Han 2015, figure 6: one layer at a time
    for name, checkpoint in (("lenet-300-100", MLP), ("lenet5", CONV)):
        curves[f"sensitivity-{name}"] = f"sensitivity {checkpoint}"
    curves["sensitivity-lenet-300-100-retrained"] = f"sensitivity {MLP} --epochs 2"
    prepared = {"bits-conv-pruned": PREPARE_PRUNED, "bits-fc-pruned": PREPARE_PRUNED}
    prepared |= {name: PREPARE_L1 for name in curves if name.startswith("l1-")}
    prepared |= {name: PREPARE_L2 for name in curves if name.startswith("l2-")}
    return {
        f"studies/{name}": [*prepared.get(name, []), f"{command} -o build/{name}"] for name, command in curves.items()
    }


def pruners() -> dict[str, list[str]]:
    """Every way of pruning at the sparsities of SNIP (Lee et al. 2019, table 1); what they write goes to build/."""
    commands = {}
    for network, checkpoint, settings in (
        ("lenet-300-100", MLP, "--prune 0.95,0.98 --seed 0,1,2 --epochs 5"),
        ("lenet5", CONV, "--prune 0.98 --epochs 2 --precision bfloat16 --score-samples 256"),
    ):
        # Of a network of convolutions, the loss without each group of weights takes too long.
        criteria = CRITERIA if network == "lenet-300-100" else CRITERIA.replace("empirical,", "")
        name = f"{network}-retrained"
        commands[name] = f"compare {checkpoint} --criteria {criteria} {settings} -o build/pruners-{name}"
        name = f"{network}-not-retrained"
        settings = "--prune 0.5,0.8,0.9,0.95,0.98 --epochs 0" + (" --score-samples 256" if network == "lenet5" else "")
        commands[name] = f"compare {checkpoint} --criteria {criteria} {settings} -o build/pruners-{name}"
        name = f"{network}-units"
        settings = "--prune 0.5,0.8,0.9,0.95 --epochs 2 --precision bfloat16"
        commands[name] = f"compare {checkpoint} --criteria {UNITS} {settings} -o build/pruners-{name}"
    for network, method, sparsity, seeds in FROM_THE_START:
        for seed in seeds:
            name = f"{network}-{method}-{sparsity}-seed{seed}"
            how = f"--regrow {method}" if method in DYNAMIC else f"--criterion {method}"
            # They were measured before sparse training scaled long gradients down by default.
            settings = f"{START[network]} --clip-norm 0 --seed {seed}"
            command = f"train {network} --data mnist --prune {sparsity} {how} {settings}"
            commands[name] = f"{command} -o build/pruners-{name}.pt"
    for name, settings in SECOND_ORDER.items():
        commands[name] = f"compare {settings} -o build/pruners-{name}"
    for network, name, settings, seeds in METHODS:
        for seed in seeds:
            command = f"compress models/{network}.pt {settings} --seed {seed}"
            commands[f"{network}-{name}-seed{seed}"] = f"{command} -o build/pruners-{network}-{name}-{seed}.dc"
    for network, sparsity, seeds, training in SHARED_OUT:
        for share, how in SHARES.items():
            for seed in seeds:
                name = f"{network}-share-{share}-{sparsity}-seed{seed}"
                command = f"compress models/{network}.pt --prune {sparsity} --bits none {how} {training} --seed {seed}"
                commands[name] = f"{command} -o build/pruners-{name}.dc"
    found = {f"pruners/{name}": [command] for name, command in commands.items()}
    for network, kind, sparsity, seeds in LOTTERY:
        for seed in seeds:
            found[f"pruners/{network}-lottery-{kind}-{sparsity}-seed{seed}"] = lottery(network, kind, sparsity, seed)
    return found


def lottery(network: str, kind: str, sparsity: float, seed: int) -> list[str]:
    """Train and keep the start; prune and rewind; for the control, draw the ticket's weights anew and train those."""
    base, trained = f"build/pruners-{network}-{sparsity}-seed{seed}", f"--lr 0.1 --warmup 1 --seed {seed}"
    commands = [
        f"train {network} --data mnist --epochs 15 {trained} --keep-step 0 {base}-start.pt -o {base}-dense.pt",
        f"compress {base}-dense.pt --rewind {base}-start.pt --prune {sparsity} --iterations 4 --epochs 15 --bits none "
        f"{trained} --save-masks {base}-ticket.safetensors -o {base}-ticket.dc",
    ]
    if kind == "random":
        masks = f"--masks {base}-ticket.safetensors"
        commands.append(
            f"compress {base}-dense.pt --rewind random {masks} --epochs 15 --bits none {trained} -o {base}-drawn.dc"
        )
    return commands


def main() -> None:
    """List the experiments, or run those that are named and not there yet."""
    experiments = entries() | studies() | pruners()
    patterns = sys.argv[1:]
    if not patterns:
        for name, commands in experiments.items():
            state = "done" if (RESULTS / f"{name}.json").exists() else "to do"
            print(f"{name} ({state})", *(f"  deepcompress {command}" for command in commands), sep="\n")
        return
    chosen = [name for name in experiments if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise SystemExit(f"no experiment is called {' or '.join(patterns)}; without a name all are listed")
    (ROOT / "build").mkdir(exist_ok=True)
    for name in chosen:
        outcome = RESULTS / f"{name}.json"
        if not outcome.exists():
            run(experiments[name], outcome)


def run(commands: list[str], outcome: Path) -> None:
    """Run commands in the root of the project, but for those whose file is there; keep what the last one prints."""
    printed = b""
    for command in commands:
        arguments = shlex.split(command)
        if command is not commands[-1] and (ROOT / arguments[-1]).exists():
            continue
        print(f"deepcompress {command}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "deepcompress", *arguments, "--json"],
            cwd=ROOT, stdout=subprocess.PIPE, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{outcome.stem}: exit code {done.returncode}")
        printed = done.stdout
    outcome.parent.mkdir(exist_ok=True)
    unfinished = outcome.with_suffix(".tmp")
    unfinished.write_bytes(printed)
    unfinished.replace(outcome)


if __name__ == "__main__":
    main()
