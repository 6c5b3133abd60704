"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from deepcompress.cli.settings import Command, options, setting_option
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
                     help="digits, mnist, fashion-mnist, cifar10; a folder with one folder of images for each class; "
                     f"or a .npz file with x_train, y_train, x_test, y_test.  [default: {named}]"),
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
    help="lenet5, lenet-300-100, resnet20, torchvision:resnet18, or your own file.py:function. It may have "
    "arguments: 'net.py:make(classes=10)'.",
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
<<<<<<< HEAD
=======
score_samples_option = click.option(
    "--score-samples", type=click.IntRange(min=1), metavar="N",
    help=_shown("score_samples", "Training samples that a criterion looks at."),
)  # fmt: skip
retraining_options = options(
    _choice("--optimizer", "optimizer", "Of retraining."),
    click.option("--lr", type=click.FloatRange(min=0, min_open=True), metavar="RATE",
                 help=_shown("lr", "Highest learning rate of retraining.")),
    training_choice("--lr-schedule", "lr_schedule", None, "How the learning rates fall."),
    warmup_option,
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help=_shown("batch_size", "")),
    _choice("--penalty", "penalty", "On the weights while retraining."),
    click.option("--penalty-weight", type=click.FloatRange(min=0), metavar="X", help=_shown("penalty_weight", "")),
    click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), metavar="E",
                 help=_shown("label_smoothing", "Probability that the labels spread over all classes.")),
    click.option("--distill", type=click.FloatRange(0, 1), metavar="W",
                 help=_shown("distill", "Weight of the dense network's word beside the labels'.")),
    click.option("--temperature", type=click.FloatRange(min=0, min_open=True), metavar="T",
                 help=_shown("temperature", "With --distill: what the logits are divided by.")),
    training_choice("--precision", "precision", None, "What the network computes in while training."),
    augmentation_options,
)  # fmt: skip


#: Settings of which `recipe_options` can take several values, from the one that changes slowest in a sweep.
AXES = ("target_size", "prune", "bits", "conv_bits", "init", "seed")


def recipe_options(several: bool = False) -> Callable[[Command], Command]:
    """All settings of a recipe; with `several` those of `AXES` take comma-separated lists."""

    def kind(single: click.ParamType[Any]) -> click.ParamType[Any]:
        return Several(single) if several else single

    more = ",…" if several else ""
    sizes = click.option(
        "--target-size", type=Several(Size()), metavar="SIZE,…", help="Most bytes of the file: 10KB, 1.5MB."
    )
    return options(
        *([sizes] if several else []),
        recipe_file_option,
        click.option("--prune", type=kind(click.FloatRange(0, 1, max_open=True)), metavar=f"F{more}",
                     help=_shown("prune", "Fraction of all prunable weights to remove.")),
        click.option("--bits", type=kind(Bits()), metavar=f"B{more}",
                     help=_shown("bits", "2^B shared values a layer; none: no sharing.")),
        click.option("--conv-bits", type=kind(Bits()), metavar=f"B{more}",
                     help="The same for convolutions.  [default: --bits]"),
        click.option("--levels", type=click.IntRange(1, MAX_LEVELS), metavar="K",
                     help="In place of --bits: at most K shared values a layer, zero not counted; 2 makes it ternary."),
        click.option("--layer", "layers", multiple=True, metavar="'PATTERN:prune=F,bits=B,group=G'",
                     help="Settings for the layers whose name matches; repeatable, the last wins. levels=K is in place "
                     "of bits=B. Layers of one group share a codebook. 'PATTERN:keep' leaves them alone."),
        _choice("--scope", "scope", "Spread the fraction over the layers, or one threshold for the network.  "
                "[default: the criterion's own]"),
        score_samples_option,
        _choice("--distribution", "distribution", "How the fraction is spread over the layers. lamp (layer-adaptive "
                "magnitude pruning): layers whose weights are hard to replace keep more. uniform: each loses the same "
                "part. std: the threshold of a layer is --quality times its standard deviation."),
        click.option("--quality", type=click.FloatRange(min=0), metavar="Q",
                     help="With --distribution std: the threshold in standard deviations, in place of --prune."),
        criterion_option,
        _choice("--schedule", "schedule", "How sparsity rises over the iterations. Or, watching validation data: "
                "circular (a step of one layer after the other while no more than --max-drop is lost), gap (a step "
                "whenever the error there exceeds that in training by more than --gap)."),
        click.option("--iterations", type=click.IntRange(min=1), metavar="N",
                     help=_shown("iterations", "Rounds of pruning and retraining.")),
        click.option("--prune-step", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="F",
                     help=_shown("prune_step", "Of circular and gap: the part of the surviving weights that a step "
                     "removes.")),
        click.option("--gap", type=click.FloatRange(0, 100), metavar="POINTS",
                     help=_shown("gap", "Of the schedule gap: validation error less training error.")),
        click.option("--reload", is_flag=True, default=None,
                     help="Each iteration prunes the dense weights afresh, and retrains from there."),
        click.option("--epochs", type=click.IntRange(min=0), metavar="N",
                     help=_shown("epochs", "Retraining epochs in all.")),
        _choice("--quantizer", "quantizer", "Shared values: as k-means finds them, or multiples of one step."),
        regrow_options,
        click.option("--init", type=kind(click.Choice(CHOICES["init"])), help=_shown("init", "Where k-means starts.")),
        _choice("--weighting", "weighting", "How much the error of a weight counts in k-means. none: all alike. "
                "fisher: by the weight's mean squared gradient, an estimate of how much the loss depends on it."),
        click.option("--rate", type=click.FloatRange(min=0), metavar="L",
                     help=_shown("rate", "Trade error for bytes: a bit counts L mean squared weights. Try 0.03.")),
        _choice("--codebook-dtype", "codebook_dtype", "Precision of the shared values."),
        click.option("--finetune-epochs", type=click.IntRange(min=0), metavar="N",
                     help=_shown("finetune_epochs", "Epochs of centroid tuning.")),
        click.option("--finetune-lr", type=click.FloatRange(min=0, min_open=True), metavar="RATE",
                     help=_shown("finetune_lr", "Highest learning rate of centroid tuning (SGD).")),
        _choice("--coder", "coder", "Entropy coder of offsets and indices. auto takes the smallest for each tensor; "
                "ans decodes about 3 million weights a second, rans ten times as many."),
        click.option("--index-bits", type=click.IntRange(1, MAX_BITS), metavar="B",
                     help="Bits of the offset from one kept weight to the next. A longer gap needs a filler (a stored "
                     "zero).  [default: the best for each layer]"),
        click.option("--low-rank", type=click.FloatRange(0, 1, min_open=True), metavar="F",
                     help="First make layers products of two thin ones, where that is smaller: F of the "
                     "energy (squared singular values) is kept, such as 0.95."),
        _choice("--batch-norm", "batch_norm", "fold: running statistics into scale and shift, for fewer bytes."),
        _choice("--small-dtype", "small_dtype", "Precision of biases and other small tensors in the file."),
        click.option("--small-bits", type=click.IntRange(1, MAX_BITS), metavar="B",
                     help="Biases and other vectors share 2^B multiples of a step each.  [default: not shared]"),
        click.option("--no-retrain", "retrain", is_flag=True, flag_value=False, default=None,
                     help="Use no data: neither retraining nor tuning."),
        retraining_options,
        click.option("--seed", type=kind(click.IntRange(min=0)), metavar=f"N{more}", help=_shown("seed", "")),
    )  # fmt: skip


#: Options of which the first, given on the command line, replaces the others in a recipe file.
_INSTEAD = {
    "bits": ("levels",),
    "levels": ("bits",),
    "prune": ("target_size",),
    "quality": ("target_size",),
    "target_size": ("max_drop", "quality"),
    "max_drop": ("target_size",),
}


def build_recipe(path: str | None, layers: tuple[str, ...], settings: dict[str, Any]) -> Recipe:
    """The recipe of the file, if any, with the options that were given on top."""
    return build_budgeted(path, layers, settings)[0]


def build_budgeted(
    path: str | None, layers: tuple[str, ...], settings: dict[str, Any], base: dict[str, Any] | None = None
) -> tuple[Recipe, bool]:
    """As `build_recipe`, and whether its size is to be searched for: there is a `max_drop`, and nothing to prune.

    A circular schedule needs the `max_drop` for itself, and prunes as far as the recipe's default without a fraction.

    Where a size or a search is asked for, what nobody set is as in `recipe.SMALLEST`. A recipe file that has a size of
    its own is taken as it stands. `base` are the settings of a compressed file to go on from.
    """
    values = read_toml(path) if path else {}
    given = {key: value for key, value in settings.items() if value is not None}
    check_one_of(given, "options")
    _check_budgets(given)
    fraction = {"prune", "quality"} & (set(given) if "target_size" in values else {*given, *values})
    for one in given:
        for other in _INSTEAD.get(one, ()):
            values.pop(other, None)
    values |= given
    searching = "max_drop" in values and not fraction and values.get("schedule") != "circular"
    if "target_size" in given or searching:
        values = with_smallest(values)
    if base is not None:
        values = going_on(values, base)
    recipe = Recipe.from_dict(values, f"recipe {path}" if path else "options")
    return Recipe(**{**vars(recipe), "layers": (*recipe.layers, *map(LayerRule.parse, layers))}), searching


def _check_budgets(given: Container[str]) -> None:
    for other, flag in (("prune", "--prune"), ("quality", "--quality"), ("max_drop", "--max-drop")):
        if "target_size" in given and other in given:
            raise click.UsageError(f"--target-size and {flag} are two ways to say how much is pruned: give one of them")
>>>>>>> w-coder
