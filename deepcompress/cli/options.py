"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

import click

from deepcompress.recipe import (
    CHOICES,
    CRITERIA,
    MAX_BITS,
    MAX_LEVELS,
    TASKS,
    LayerRule,
    Recipe,
    check_one_of,
    going_on,
    read_toml,
    with_smallest,
)

Command = TypeVar("Command", bound=Callable[..., Any])


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


common = options(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there."),
    click.option("-v", "--verbose", is_flag=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="No progress, no messages, and one line instead of tables."),
)


def data_options(default: str | None = None) -> Callable[[Command], Command]:
    """Which data, where it lies, and what computes; without a `default` the data is what the file names."""
    named = default or "what the file names"
    return options(
        click.option("--data", default=default, metavar="NAME|DIR|FILE.npz",
                     help="digits, mnist, fashion-mnist, cifar10; a folder with one folder of images for each class; "
                     f"or a .npz file with x_train, y_train, x_test, y_test.  [default: {named}]"),
        click.option("--data-dir", type=click.Path(), envvar="DEEPCOMPRESS_DATA", show_envvar=True,
                     help="Folder of the named data sets, as torchvision lays them out."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True),
    )  # fmt: skip


normalize_option = click.option(
    "--normalize", metavar="MEAN,STD|WORD",
    help="How inputs are normalized: one mean and one deviation, or all means and then all deviations of the channels; "
    "imagenet; data (by the training data); none.  "
    "[default: what the file says, else your own data is fed as it is: floats unchanged, bytes ÷ 255]",
)  # fmt: skip
#: What the data is for, and how its inputs are fed.
task_options = options(
    click.option("--task", type=click.Choice(TASKS), help="What the network is for.  [default: by the shapes of its "
                 "outputs and of the targets]"),
    click.option("--loss", metavar="FILE.py:FN", help="In place of a task: your own loss(output, target), a scalar."),
    click.option("--metric", metavar="FILE.py:FN",
                 help="In place of the task's metric: your own metric(output, target), a number. Higher is better, "
                 "unless the function has the attribute higher_is_better = False."),
    normalize_option,
)  # fmt: skip


def training_choice(flag: str, field: str, default: str | None, text: str) -> Callable[[Command], Command]:
    """A choice that `train` and `compress` both have, with its `default` (None: nothing given)."""
    shown = f"{text}  [default: {default or getattr(Recipe, field)}]"
    return click.option(flag, field, type=click.Choice(CHOICES[field]), default=default, help=shown)


warmup_option = click.option(
    "--warmup", type=click.FloatRange(min=0), metavar="EPOCHS",
    help="Epochs in which the learning rate rises first.  [default: a 50th of the run for cosine, else 0]",
)  # fmt: skip
augmentation_options = options(
    click.option("--shift", type=click.IntRange(0, 64), metavar="PIXELS",
                 help="Random shifts of training images; 0: none.  [default: the data's own, 1 for digits and mnist]"),
    click.option("--flip/--no-flip", default=None,
                 help="Mirror training images at random.  [default: the data's own, yes for cifar10]"),
)  # fmt: skip
network_option = click.option(
    "--network", metavar="NAME",
    help="lenet5, lenet-300-100, resnet20, torchvision:resnet18, or your own: file.py:function, by choice with "
    "arguments: 'net.py:make(classes=10)'.",
)  # fmt: skip
strict_option = click.option(
    "--no-strict", is_flag=True,
    help="Load what fits: tensors that are missing, or that the network does not know, are told and left.",
)  # fmt: skip
trust_option = options(
    click.option("--trust-pickle", is_flag=True,
                 help="Load a pickled module. It can run any code: only for files of your own."),
    click.option("--key", metavar="A.B",
                 help="Where the state_dict is in a file that holds several, such as ema or model.ema."),
)  # fmt: skip


class Shape(click.ParamType):  # type: ignore[type-arg]  # a generic class in new versions of click only
    """The shape of one sample: whole numbers above 0, separated by commas."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers as a tuple."""
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and 0 < int(part) <= 1 << 20 for part in parts):
            self.fail(f"{value!r} is no shape: write the dimensions of one sample, such as 1,28,28", param, ctx)
        return tuple(int(part) for part in parts)


#: What a network takes, for commands that run it once.
shape_options = options(
    click.option("--data", metavar="NAME|DIR|FILE.npz", help="Of which two samples are looked at.  "
                 "[default: what the file names]"),
    click.option("--data-dir", type=click.Path(), envvar="DEEPCOMPRESS_DATA", show_envvar=True,
                 help="Folder of the named data sets, as torchvision lays them out."),
    click.option("--input-shape", type=Shape(), metavar="C,H,W",
                 help="Shape of one sample, such as 1,28,28, if no data shall be looked at."),
)  # fmt: skip
max_bytes_option = click.option(
    "--max-bytes", type=click.IntRange(min=0), metavar="N",
    help="Most bytes that the decoded tensors may take.  [default: 1024 × the file, at least 256 MiB]",
)  # fmt: skip


def _shown(field: str, text: str) -> str:
    default = getattr(Recipe, field)
    return f"{text}  [default: {default}]" if default is not None else text


class Bits(click.ParamType):  # type: ignore[type-arg]  # a generic class in new versions of click only
    """The index width of a codebook, or ``none``."""

    name = "bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """A number of bits as int."""
        if value == "none":
            return "none"
        if not (str(value).isdecimal() and 1 <= int(value) <= MAX_BITS):
            self.fail(f"{value!r} is not a whole number from 1 to {MAX_BITS}, nor 'none'", param, ctx)
        return int(value)


class Size(click.ParamType):  # type: ignore[type-arg]  # as above
    """A size of a file: bytes, or a number with a unit."""

    name = "size"
    units: ClassVar = {
        "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30,
    }  # fmt: skip

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Whole bytes, rounded down."""
        found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([a-z]*)", str(value).strip(), re.ASCII | re.IGNORECASE)
        unit = self.units.get(found[2].upper()) if found else None
        if found is None or unit is None:
            self.fail(f"{value!r} is no size: write bytes, or a number and KB, MB, KiB or MiB, as 10KB", param, ctx)
        size = int(Decimal(found[1]) * unit)
        if size < 1:
            self.fail(f"{value!r} is less than one byte", param, ctx)
        return size


class Several(click.ParamType):  # type: ignore[type-arg]  # as above
    """A comma-separated list of what an option takes, as a tuple."""

    name = "list"

    def __init__(self, single: click.ParamType[Any]) -> None:
        self.single = single

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What help shows where the option does not say it."""
        return f"{self.single.get_metavar(param, ctx)},…"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The values, in the order in which they were given."""
        return tuple(self.single.convert(part.strip(), param, ctx) for part in value.split(","))


def _choice(flag: str, field: str, text: str) -> Callable[[Command], Command]:
    return click.option(flag, field, type=click.Choice(CHOICES[field]), help=_shown(field, text))


recipe_file_option = click.option(
    "--recipe", "recipe_file", type=click.Path(), metavar="FILE.toml",
    help="Read settings from a file; options given here win.",
)  # fmt: skip
target_size_option = click.option(
    "--target-size", type=Size(), metavar="SIZE",
    help="In place of --prune: a file of at most this size, such as 10KB, 6.5KB, 40KiB or 9000 (bytes).",
)  # fmt: skip
budget_options = options(
    target_size_option,
    click.option("--max-drop", type=click.FloatRange(0, 100), metavar="POINTS",
                 help="Most points of validation accuracy to lose. Without --prune: searches the smallest file, "
                 "with the --bits that are given, if any. With --prune: rolls back the layers that cost more while "
                 "pruning."),
    click.option("--trials", type=click.IntRange(min=1), metavar="N",
                 help="Of the search: most full-length compressions.  [default: 8]"),
    click.option("--keep-trials", is_flag=True, default=None,
                 help="Of the search: keep the folder OUTPUT.search with the file of every trial."),
)  # fmt: skip
mask_options = options(
    click.option("--masks", "masks_file", type=click.Path(), metavar="FILE",
                 help="Prune exactly as these masks say, in place of --prune and a criterion."),
    click.option("--save-masks", type=click.Path(), metavar="FILE",
                 help="Write the masks, .safetensors or .pt: which weights the file keeps."),
    click.option("--save-scores", type=click.Path(), metavar="FILE",
                 help="Write the criterion's scores at the last cut, .safetensors or .pt."),
)  # fmt: skip


rewind_option = click.option(
    "--rewind", metavar="FILE.pt|random",
    help="Lottery ticket: after each iteration of pruning, survivors go back to their values in this checkpoint of the "
    "untrained network (train --keep-step), or to random ones, and train for --epochs.",
)  # fmt: skip


class CriterionName(click.ParamType):  # type: ignore[type-arg]  # as above
    """The name of a criterion, or ``file.py:function``."""

    name = "criterion"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself; whether the user's own file has that function is seen when it is asked."""
        if value not in CRITERIA and ".py:" not in value:
            self.fail(f"{value!r} is none of {', '.join(CRITERIA)}, nor your own as file.py:function", param, ctx)
        return value


criterion_option = click.option(
    "--criterion",
    type=CriterionName(),
    metavar="NAME",
    help=_shown("criterion", f"What makes a weight worth keeping: {', '.join(CRITERIA)}, or your own, "
                "file.py:function."),
)  # fmt: skip
regrow_options = options(
    _choice("--regrow", "regrow", "surgery: pruned weights go on learning unseen, and may come back; set, deepr, dsr: "
            "weights are removed and regrown, and their number stays."),
    click.option("--regrow-fraction", type=click.FloatRange(0, 1, max_open=True), metavar="F",
                 help="With --regrow set or dsr: part of the weights that moves at once.  "
                 "[default: 0.3 for set, 0.05 for dsr]"),
    click.option("--regrow-every", type=click.IntRange(min=1), metavar="N",
                 help="With --regrow set or dsr: batches between moves.  [default: an epoch for set, 100 for dsr]"),
    click.option("--deepr-alpha", type=click.FloatRange(min=0), metavar="A",
                 help=_shown("deepr_alpha", "With --regrow deepr: the L1 term.")),
    click.option("--deepr-temperature", type=click.FloatRange(min=0), metavar="T",
                 help="With --regrow deepr: of the noise.  [default: rate × A² / 2]"),
)  # fmt: skip
sparse_options = options(
    click.option("--prune", type=click.FloatRange(0, 1, max_open=True), metavar="F",
                 help="Train a sparse network: this fraction of all prunable weights is zero from the start."),
    click.option("--layer", "layers", multiple=True, metavar="'PATTERN:prune=F'",
                 help="With --prune: the fraction of the layers whose name matches; repeatable, the last wins."),
    click.option("--criterion", metavar="NAME",
                 help="With --prune: what chooses the weights, before training: snip, grasp, or any of compress.  "
                 "[default: snip; with --regrow random ones]"),
    click.option("--score-samples", type=click.IntRange(min=1), metavar="N",
                 help=_shown("score_samples", "Training samples that the criterion looks at.")),
    regrow_options,
    click.option("--penalty", type=click.Choice([name for name in CHOICES["penalty"] if name != "l2"]),
                 help="On the weights, beside --weight-decay, which is L2.  [default: none]"),
    click.option("--penalty-weight", type=click.FloatRange(min=0), metavar="X", help=_shown("penalty_weight", "")),
)  # fmt: skip
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
