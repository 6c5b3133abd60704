"""The settings, by stage. A recipe is all of them; each is small, and known to the stage that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deepcompress.recipe.kinds import FRACTION, MAX_BITS, MAX_LEVELS, Bits, Bytes, Choice, Name, Number, Switch, Whole
from deepcompress.recipe.method import Method
from deepcompress.recipe.setting import When, setting

#: The criteria there are, so that help and usage errors can name them at once. One that is registered in
#: `prune.criteria` has its name here as well, which a test sees to; one of a user's own needs none.
CRITERIA = (
    "magnitude", "random", "taylor1", "taylor2", "taylor12", "l1-factor", "l2-factor", "empirical",
    "obs", "woodfisher", "mlprune", "snip", "grasp",
    "filters-l1", "filters-taylor", "thinet", "inactive", "nisp", "blocks-epsilon",
)  # fmt: skip

WATCHING = ("circular", "gap")  # schedules that validation data decides
REFERENCE = "empirical"  # the criterion that measures what others estimate
BY_WEIGHTS = ("magnitude", "random")  # criteria that look at no data
SEARCHED = "amc"  # the distribution that is found by trials
LOCAL = ("woodfisher", "mlprune")  # criteria that are asked again at each iteration, even where nothing is retrained


@dataclass(frozen=True)
class HowSmall:
    """How many weights stay, and how many values they share."""

    heading: ClassVar[str] = "How small"

    prune: float = setting(
        0.9, FRACTION, "Fraction of all prunable weights to remove.", metavar="F",
        note="0 <= prune < 1; 0.9 removes 90 %. Without retraining the default is 0.",
    )  # fmt: skip
    bits: int | str | None = setting(
        5, Bits(), "Width of a codebook index: a layer shares 2^B values; none: no sharing.", metavar="B",
        unset="no sharing",
    )  # fmt: skip
    conv_bits: int | str | None = setting(
        None, Bits(), "Width of a codebook index of convolutions.", metavar="B", unset="--bits",
        note="None takes bits, or levels.",
    )  # fmt: skip
    levels: int | None = setting(
        None, Whole(1, MAX_LEVELS), "At most K shared values in a layer, instead of --bits. Zero is not counted, so 2 "
        "makes it ternary.", metavar="K",
    )  # fmt: skip
    target_size: int | None = setting(
        None, Bytes(), "Write a file of at most this size, instead of --prune: 10KB, 6.5KB, 40KiB or 9000 (bytes).",
        metavar="SIZE", note="The size decides how many weights each layer keeps.",
    )  # fmt: skip
    max_drop: float | None = setting(
        None, Number(0, 100), "Maximum loss of validation accuracy, in percentage points. Without --prune: search "
        "for the smallest file (with --bits, if you give it). With --prune: roll back the layers whose pruning loses "
        "more. With --base: make the smallest update.", metavar="POINTS",
        note="An iteration after which more is lost is rolled back in the layers that cost most. In Python, a recipe "
        "with max_drop alone prunes to the default fraction.",
    )  # fmt: skip
    low_rank: float | None = setting(
        None, Number(0, 1, above=True), "First replace layers by products of two thin ones, where that is "
        "smaller. F is the fraction of the energy (squared singular values) to keep, such as 0.95.", metavar="F",
        note="By truncated SVD, before all other stages (Denton et al. 2014).",
    )  # fmt: skip


@dataclass(frozen=True)
class Pruning:
    """Which weights go, and when."""

    heading: ClassVar[str] = "Pruning"

    scope: str | None = setting(
        None, Choice(("layer", "global")), "layer: a fraction for each layer. global: one threshold for the network.",
        unset="the criterion's own",
    )  # fmt: skip
    distribution: str = setting(
        "lamp", Choice(("lamp", "uniform", "std", SEARCHED)), "How the fraction is distributed over the layers. lamp "
        "(layer-adaptive magnitude pruning): layers whose weights are hard to replace keep more. uniform: every layer "
        "loses the same fraction. std: the threshold of a layer is --quality times its standard deviation. amc: an "
        "agent learns it from trials on validation data.",
        note="lamp: Lee et al. 2021, from the weights alone; std: Han et al. 2015, section 3; amc: He et al. 2018.",
    )  # fmt: skip
    episodes: int = setting(
        400, Whole(1), "Number of trials of the agent. In each, the network is pruned and measured, but not retrained.",
        metavar="N", when=When("distribution", (SEARCHED,)),
        note="At most 1,024 samples are measured. A fourth of the trials explores, as in the paper.",
    )  # fmt: skip
    quality: float | None = setting(
        None, Number(), "Threshold in standard deviations, instead of --prune.", metavar="Q",
        when=When("distribution", ("std",)),
        note="With scope global the standard deviation is that of all weights together.",
    )  # fmt: skip
    criterion: str = setting(
        "magnitude", Name(CRITERIA), f"How the saliency of a weight is computed: {', '.join(CRITERIA)}, or your own "
        "file.py:function.", metavar="NAME",
    )  # fmt: skip
    score_samples: int = setting(
        1024, Whole(1), "Number of training samples that a criterion looks at.", metavar="N",
        when=When("criterion", BY_WEIGHTS, but=True),
    )  # fmt: skip
    schedule: str = setting(
        "cubic", Choice(("one-shot", "linear", "cubic", *WATCHING)), "How sparsity rises over the iterations. "
        "Two schedules watch the validation data: circular prunes one layer after the other while no more than "
        "--max-drop is lost; gap prunes whenever the validation error exceeds the training error by more than --gap.",
    )  # fmt: skip
    iterations: int = setting(
        6, Whole(1), "Rounds of pruning and retraining.", metavar="N", when=When("schedule", WATCHING, but=True),
        note="1 is the same as one-shot.",
    )  # fmt: skip
    prune_step: float = setting(
        0.2, Number(0, 1, above=True, below=True), "Fraction of the surviving weights that a step removes.",
        metavar="F", when=When("schedule", WATCHING),
    )  # fmt: skip
    gap: float = setting(
        1.0, Number(0, 100), "Allowed difference of validation error and training error, in percentage points.",
        metavar="POINTS", when=When("schedule", ("gap",)),
    )  # fmt: skip
    reload: bool = setting(
        False, Switch(), "Start each iteration from the dense weights, not from the retrained ones.",
    )  # fmt: skip
    rewind: str = setting(
        "none", Choice(("none", "start", "random")), "Lottery ticket: after each iteration, reset the surviving "
        "weights to their values in the untrained network (start), or to random ones, and train for --epochs.",
        note="Frankle and Carbin 2019; see prune.lottery.",
    )  # fmt: skip
    regrow: str = setting(
        "none", Choice(("none", "surgery", "set", "deepr", "dsr")), "surgery: pruned weights keep learning "
        "in the background and may return. set, deepr, dsr: weights are removed and regrown at constant density.",
        note="See prune.regrow.",
    )  # fmt: skip
    regrow_fraction: float | None = setting(
        None, FRACTION, "Fraction of the kept weights that is moved at a time.", metavar="F",
        unset="0.3 for set, 0.05 for dsr", when=When("regrow", ("set", "dsr")),
    )  # fmt: skip
    regrow_every: int | None = setting(
        None, Whole(1), "Number of batches between moves.", metavar="N", unset="an epoch for set, 100 for dsr",
        when=When("regrow", ("set", "dsr")),
    )  # fmt: skip
    deepr_alpha: float = setting(
        1e-5, Number(), "Weight of the L1 term.", metavar="A", when=When("regrow", ("deepr",)),
    )  # fmt: skip
    deepr_temperature: float | None = setting(
        None, Number(), "Temperature of the noise.", metavar="T", unset="rate × A² / 2",
        when=When("regrow", ("deepr",)), note="Noise and L1 term are as large at the default.",
    )  # fmt: skip

    @property
    def searches(self) -> bool:
        """Whether the fractions of the layers are found by trials."""
        return self.distribution == SEARCHED

    @property
    def keeps_count(self) -> bool:
        """Whether weights are removed and regrown so that their number stays."""
        return self.regrow not in ("none", "surgery")


@dataclass(frozen=True)
class Sharing:
    """Which values weights share, and how those are tuned."""

    heading: ClassVar[str] = "Shared values"

    quantizer: str = setting(
        "kmeans", Choice(("kmeans", "uniform", "rows")), "kmeans: k-means finds the shared values. uniform: they are "
        "multiples of one step. rows: they are multiples of a step for each row (--step). --no-retrain uses rows if "
        "neither --prune nor --bits is given.",
        note="With uniform, a codebook is one number in the file.",
    )  # fmt: skip
    step: float = setting(
        0.055, Number(1e-4, 100), "Distance between the values of a row, in units of the typical size of its weights. "
        "Twice the distance saves one bit for each weight.", metavar="S",
        note="Larger layers have coarser steps. With samples to calibrate on, the square of the step is how much the "
        "output may change, as a part of its variance. A target_size replaces it.", when=When("quantizer", ("rows",)),
    )  # fmt: skip
    init: str = setting(
        "linear", Choice(("linear", "random", "density")), "How k-means is initialized.",
        note="Han et al. 2016, section 3.2.", when=When("quantizer", ("kmeans",)),
    )  # fmt: skip
    weighting: str = setting(
        "none", Choice(("none", "fisher")), "How much the error of a weight counts in k-means. none: all count the "
        "same. fisher: a weight counts by its mean squared gradient, an estimate of how much the loss depends on it.",
        note="Choi, El-Khamy and Lee 2017.",
    )  # fmt: skip
    rate: float = setting(
        0.0, Number(), "Trade error for bytes: a bit costs as much as an error of L times the mean squared weight. "
        "Try 0.03.", metavar="L", note="0 takes the nearest value for each weight.",
    )  # fmt: skip
    codebook_dtype: str = setting(
        "float32", Choice(("float32", "float16")), "Precision of the shared values.",
        note="Values that are out of the range of float16 stay float32.",
    )  # fmt: skip
    small_bits: int | None = setting(
        None, Whole(1, MAX_BITS), "Each bias and other vector shares 2^B multiples of one step.", metavar="B",
        unset="not shared",
    )  # fmt: skip
    finetune_epochs: int = setting(
        3, Whole(), "Number of epochs in which the shared values are fine-tuned.", metavar="N",
        note="By backpropagation, with fixed assignments.",
    )  # fmt: skip
    finetune_lr: float = setting(
        0.005, Number(), "Highest learning rate of fine-tuning (SGD).", metavar="RATE",
    )  # fmt: skip


@dataclass(frozen=True)
class File:
    """How the file stores what is left."""

    heading: ClassVar[str] = "File"

    coder: str = setting(
        "huffman", Choice(("huffman", "ans", "auto", "rans", "fixed")), "Entropy coder of offsets and indices.",
        note="huffman: the paper's. ans: adaptive and smaller; it decodes 3 to 10 million weights a second. rans: "
        "static tables by context, about as small in large layers; it decodes 15 to 50 times as fast, and leaves "
        "layers of less than 16 KB to ans where that is 1 % smaller. It is what --target-size and --max-drop take. "
        "auto: the smallest for each tensor, at that coder's speed. fixed: fixed widths, the paper's stage 2 alone.",
    )  # fmt: skip
    sort_neurons: bool = setting(
        False, Switch(), "With --target-size: put neurons and filters into the order that takes the fewest bytes. The "
        "network computes the same.", note="The tensors of the file are in that order as well.",
    )  # fmt: skip
    index_bits: int | None = setting(
        None, Whole(1, MAX_BITS), "Width of the offset from one kept weight to the next. A longer gap needs a filler "
        "(a stored zero).", metavar="B", unset="the best for each layer",
    )  # fmt: skip
    batch_norm: str = setting(
        "keep", Choice(("keep", "fold")), "fold: merge the running statistics into scale and shift, to save bytes.",
        note="Exact in evaluation; a folded file cannot be trained on as well as one that keeps them.",
    )  # fmt: skip
    small_dtype: str = setting(
        "float32", Choice(("float32", "float16")), "Precision of biases and other small tensors in the file.",
    )  # fmt: skip


@dataclass(frozen=True)
class Retraining:
    """How the network is trained between and after the cuts."""

    heading: ClassVar[str] = "Retraining"

    retrain: bool = setting(
        True, Switch(), "Skip retraining and fine-tuning. The command then needs no data.", flag="--no-retrain",
    )  # fmt: skip
    epochs: int = setting(18, Whole(), "Number of retraining epochs, over all iterations.", metavar="N")
    early_stop: bool = setting(
        True, Switch(), "Try 40 % of the epochs first, and end there if the network is then as good as the dense one: "
        "no higher validation loss, and at most 0.1 points lost. If not, all epochs follow.",
        flag="--early-stop/--no-early-stop", unset="yes, unless --epochs is given",
        note="All then begins anew from the dense network. False is the default where epochs are given. Nothing is "
        "tried where 40 % are fewer than 1,000 steps of the optimizer, with another method, or with regrow, rewind, "
        "reload, max_drop, target_size or a schedule that watches the validation data.",
    )  # fmt: skip
    optimizer: str = setting("sgd", Choice(("sgd", "adam")), "Optimizer of retraining.")
    lr: float = setting(0.02, Number(), "Highest learning rate of retraining.", metavar="RATE")
    lr_schedule: str = setting(
        "cosine", Choice(("cosine", "constant", "step")), "How the learning rate decreases.",
        note="During retraining, and again during centroid tuning.",
    )  # fmt: skip
    warmup: float | None = setting(
        None, Number(), "Number of epochs in which the learning rate rises at the start.", metavar="EPOCHS",
        unset="a 50th of the run for cosine, else 0",
    )  # fmt: skip
    clip_norm: float | None = setting(
        None, Number(), "Largest norm of the gradient. A longer gradient is scaled down to it; 0: no limit.",
        metavar="NORM", unset="no limit", note="The Euclidean norm over all that is trained, in each step.",
    )  # fmt: skip
    freeze_bn: bool = setting(
        False, Switch(), "Keep the running statistics of all batch norms as they are, in training too.",
        note="A batch norm that you froze (momentum 0, eval mode, or no gradient for scale and shift) always keeps "
        "its statistics.",
    )  # fmt: skip
    batch_size: int = setting(128, Whole(1), "Number of samples in a training batch.", metavar="N")
    penalty: str = setting(
        "l2", Choice(("l2", "l1", "rate", "hyperbolic", "exponential", "none")), "Penalty on the surviving weights "
        "while retraining.",
    )  # fmt: skip
    penalty_weight: float = setting(
        0.0005, Number(), "Weight of the penalty.", metavar="X", when=When("penalty", ("none",), but=True),
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0, Number(0, 0.99), "Probability that is spread over all classes instead of the label.", metavar="E",
    )  # fmt: skip
    distill: float = setting(
        0.0, Number(0, 1), "Weight of the distillation loss (teacher: the dense network).", metavar="W",
    )  # fmt: skip
    temperature: float = setting(
        4.0, Number(0.01, 1000), "Temperature of the distillation: the logits of both networks are divided by it.",
        metavar="T", when=When("distill", (0,), but=True),
    )  # fmt: skip
    precision: str = setting(
        "float32", Choice(("float32", "bfloat16")), "Number format in which the network computes while training.",
        note="bfloat16: where torch's autocast finds it safe.",
    )  # fmt: skip
    shift: int | None = setting(
        None, Whole(0, 64), "Largest random shift of training images; 0: no shift.", metavar="PIXELS",
        unset="the data's own, 1 for digits and mnist",
    )  # fmt: skip
    flip: bool | None = setting(
        None, Switch(), "Flip training images horizontally at random.", flag="--flip/--no-flip",
        unset="the data's own, yes for cifar10",
    )  # fmt: skip
    seed: int = setting(0, Whole(), "Seed of all random numbers.", metavar="N")

    @property
    def weight_decay(self) -> float:
        """The weight of the L2 penalty, as optimizers take it; 0 with another penalty, which optimizers do not know."""
        return self.penalty_weight if self.penalty == "l2" else 0.0


#: In the order of the pipeline, and of the command's help.
STAGES: tuple[type[HowSmall | Method | Pruning | Sharing | File | Retraining], ...] = (
    HowSmall, Method, Pruning, Sharing, File, Retraining,
)  # fmt: skip
