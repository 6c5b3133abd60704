"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from deepcompress.cli.settings import Command, Size, options, setting_option
from deepcompress.recipe import CHOICES, TASKS

#: The settings of regrowth.
REGROWTH = ("regrow", "regrow_fraction", "regrow_every", "deepr_alpha", "deepr_temperature")

common = options(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there."),
    click.option("-v", "--verbose", is_flag=True, help="Show more details."),
    click.option(
        "-q", "--quiet", is_flag=True, help="Show no progress and no messages, and one line instead of tables."
    ),
)


def data_options(default: str | None = None) -> Callable[[Command], Command]:
    """Which data, where it lies, and what computes; without a `default` the data is what the file names."""
    named = default or "what the file names"
    return options(
        click.option("--data", default=default, metavar="NAME|DIR|FILE.npz",
                     help="digits, mnist, fashion-mnist, cifar10, fsdd; a folder with one folder of images for each "
                     f"class; or a .npz file with x_train, y_train, x_test, y_test.  [default: {named}]"),
        click.option("--data-dir", type=click.Path(), envvar="DEEPCOMPRESS_DATA", show_envvar=True,
                     help="Folder that holds the named data sets in torchvision's layout."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True,
                     help="Device that runs the network."),
    )  # fmt: skip


normalize_option = click.option(
    "--normalize", metavar="MEAN,STD|WORD",
    help="How inputs are normalized: one mean and one standard deviation, or all means and then all deviations of the "
    "channels; imagenet; data (from the training data); none.  "
    "[default: what the file says; else your own floats are used unchanged, and bytes are divided by 255]",
)  # fmt: skip
#: What the data is for, and how its inputs are fed.
task_options = options(
    click.option("--task", type=click.Choice(TASKS), help="Task of the network.  [default: by the shapes of outputs "
                 "and targets]"),
    click.option("--loss", metavar="FILE.py:FN", help="Your own loss(output, target), which returns a scalar."),
    click.option("--metric", metavar="FILE.py:FN",
                 help="Your own metric(output, target), which returns a number. Higher is better, unless the function "
                 "has the attribute higher_is_better = False."),
    normalize_option,
)  # fmt: skip


network_option = click.option(
    "--network", metavar="NAME",
    help="lenet5, lenet-300-100, resnet20, ds-cnn, ds-cnn-xs, torchvision:resnet18, or your own file.py:function. It "
    "may have arguments: 'net.py:make(classes=10)'.",
)  # fmt: skip
strict_option = click.option(
    "--no-strict", is_flag=True,
    help="Load the tensors that match. Missing and unexpected tensors cause a warning.",
)  # fmt: skip
trust_option = options(
    click.option("--trust-pickle", is_flag=True,
                 help="Load a pickled module. It can run any code, so use this only for your own files."),
    click.option("--key", metavar="A.B",
                 help="Key of the state_dict in a file that holds several, such as ema or model.ema."),
)  # fmt: skip


class Shape(click.ParamType):  # type: ignore[type-arg]  # a generic class in new versions of click only
    """The shape of one sample: whole numbers above 0, separated by commas."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers as a tuple."""
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and 0 < int(part) <= 1 << 20 for part in parts):
            self.fail(f"{value!r} is not a shape: write the dimensions of one sample, such as 1,28,28", param, ctx)
        return tuple(int(part) for part in parts)


#: What a network takes, for commands that run it once.
shape_options = options(
    click.option("--data", metavar="NAME|DIR|FILE.npz", help="Data set that supplies the two samples used to run the "
                 "network.  [default: what the file names]"),
    click.option("--data-dir", type=click.Path(), envvar="DEEPCOMPRESS_DATA", show_envvar=True,
                 help="Folder that holds the named data sets in torchvision's layout."),
    click.option("--input-shape", type=Shape(), metavar="C,H,W",
                 help="Shape of one sample, such as 1,28,28, instead of --data."),
)  # fmt: skip
max_bytes_option = click.option(
    "--max-bytes", type=click.IntRange(min=0), metavar="N",
    help="Maximum number of bytes of the decoded tensors.  [default: 1024 × the file, at least 256 MiB]",
)  # fmt: skip


budget_options = options(
    setting_option("target_size"),
    setting_option("max_drop"),
    click.option("--trials", type=click.IntRange(min=1), metavar="N",
                 help="Search only: maximum number of full compressions.  [default: 8]"),
    click.option("--keep-trials", is_flag=True, default=None,
                 help="Search only: keep the folder OUTPUT.search with the file of every trial."),
)  # fmt: skip
mask_options = options(
    click.option("--masks", "masks_file", type=click.Path(), metavar="FILE",
                 help="Prune exactly with these masks, instead of --prune and a criterion."),
    click.option("--save-masks", type=click.Path(), metavar="FILE",
                 help="Write the masks to a .safetensors or .pt file. They say which weights the .dc file keeps."),
    click.option("--save-scores", type=click.Path(), metavar="FILE",
                 help="Write the criterion's scores at the last iteration to a .safetensors or .pt file."),
)  # fmt: skip


rewind_option = setting_option(
    "rewind", type=click.STRING, metavar="FILE.pt|random",
    help="Lottery ticket: after each iteration, reset the surviving weights to their values in this checkpoint of the "
    "untrained network (train --keep-step), or to random ones, and train for --epochs.",
)  # fmt: skip
calibrate_option = click.option(
    "--calibrate", metavar="FILE.npz|DIR|FILE.py:FN",
    help="After training, with a handful of inputs and no labels (64 to 1,024): round the weights so that the output "
    "of --network changes least for the bytes. It implies --no-retrain. The output may change by the square of --step, "
    "as a part of its variance, unless --target-size or --max-drop says how small. Without --data, --metric is a "
    "function of the network: metric(network).",
)  # fmt: skip
teach_option = click.option(
    "--teach", is_flag=True,
    help="With --calibrate: tune the rounded weights, the biases and the gains of norms for a short time by the "
    "outputs of the network as it was. The file is smaller at an equal loss, or its loss is less.",
)  # fmt: skip
teacher_only_option = click.option(
    "--teacher-only", is_flag=True, default=None,
    help="Train without labels: the targets are the outputs of the dense network (--distill 1). --data may have inputs "
    "alone: a .npz file with one array x, or with one for each argument of the network by name; a folder of such "
    "files; or file.py:function, which gives batches of inputs. What is measured is the agreement with the dense "
    "network, if --task names a task with classes, and else how far outputs are from its outputs.",
)  # fmt: skip
base_options = options(
    click.option(
        "--base", metavar="OLD.dc",
        help="Make a file that is a small update of OLD.dc (see diff): shared values stay, and weights keep theirs, or "
        "stay pruned, where that still serves. Settings that you do not give are those of OLD.dc. With data, its "
        "weights are fine-tuned with CKPT as the teacher, and validation data says how few have to change.",
    ),
    click.option(
        "--update-size", type=Size(), metavar="SIZE",
        help="With --base: the most bytes that the update may have, such as 500 or 2KB.  [default: as few as cost no "
        "more than 5 % of the validation loss]",
    ),
)  # fmt: skip
#: Sparse training with `train`: how much, what chooses the weights, how they come back, and penalties.
sparse_options = options(
    setting_option("prune", help="Train a sparse network, in which this fraction of all prunable weights is zero "
                   "from the start."),
    click.option("--layer", "layers", multiple=True, metavar="'PATTERN:prune=F'",
                 help="With --prune: the fraction for the layers whose name matches. Repeatable; the last match wins."),
    setting_option("criterion", type=click.STRING,
                   help="With --prune: the criterion that chooses the weights before training: snip, grasp, or any of "
                   "compress.  [default: snip; with --regrow random]"),
    *map(setting_option, ("score_samples", *REGROWTH)),
    setting_option("penalty", type=click.Choice([name for name in CHOICES["penalty"] if name != "l2"]),
                   help="Penalty on the weights in addition to --weight-decay, which is L2.  [default: none]"),
    setting_option("penalty_weight"),
)  # fmt: skip
