"""Every setting of the pipeline in one frozen object, to and from TOML.

The command line reads its defaults from here, and stores what it was told here.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from deepcompress.errors import RecipeError

T = TypeVar("T")

MAX_BITS = 12
MAX_LEVELS = 1 << MAX_BITS
#: What a network can be for (`training.tasks`). It is no setting of a recipe: the data says it.
TASKS = ("classification", "tokens", "segmentation", "multilabel", "regression", "embedding")

CHOICES = {
    "scope": ("layer", "global"),
    "distribution": ("lamp", "uniform", "std"),
    "schedule": ("one-shot", "linear", "cubic", "circular", "gap"),
    "quantizer": ("kmeans", "uniform"),
    "init": ("linear", "random", "density"),
    "weighting": ("none", "fisher"),
    "codebook_dtype": ("float32", "float16"),
    "coder": ("huffman", "ans", "auto", "rans", "fixed"),
    "optimizer": ("sgd", "adam"),
    "penalty": ("l2", "l1", "rate", "hyperbolic", "exponential", "none"),
    "regrow": ("none", "surgery", "set", "deepr", "dsr"),
    "rewind": ("none", "start", "random"),
    "small_dtype": ("float32", "float16"),
    "batch_norm": ("keep", "fold"),
    "lr_schedule": ("cosine", "constant", "step"),
    "precision": ("float32", "bfloat16"),
}


#: The criteria there are, so that help and usage errors can name them at once. One that is registered in
#: `prune.criteria` has its name here as well, which a test sees to; one of a user's own needs none.
CRITERIA = (
    "magnitude", "random", "taylor1", "taylor2", "taylor12", "l1-factor", "l2-factor", "empirical",
    "obs", "woodfisher", "snip", "grasp",
    "filters-l1", "filters-taylor", "thinet", "inactive", "nisp", "blocks-epsilon",
)  # fmt: skip

#: Settings for the smallest files: `Recipe.smallest`, and the command line where a budget is all that was asked for.
SMALLEST: dict[str, Any] = {
    "coder": "auto",
    "quantizer": "uniform",
    "bits": 3,
    "small_bits": 5,
    "batch_norm": "fold",
    "distill": 0.5,
    "temperature": 2.0,
    "lr": 0.01,
    "finetune_lr": 0.01,
    "epochs": 40,
    "finetune_epochs": 12,
}

BITS_OR_LEVELS = "bits and levels are two ways to say how many values are shared: give one of them"


_SPECIAL, _ESCAPED = re.compile(r"[*?\[]"), re.compile(r"\[([*?\[])\]")  # of shell patterns
_SETTINGS = re.compile(r"(?P<pattern>.*):(?P<settings>\s*(keep|\w+\s*=).*)", re.DOTALL)


def pattern_hint(names: Iterable[str]) -> str:
    """How to write a pattern for `names`, where one has a character that means something else in a pattern."""
    if any(set(name) & set("[*?") for name in names):
        return " (write [[], [*] or [?] for such a character of a name in a pattern, or the whole name)"
    return ""


@dataclass(frozen=True)
class LayerRule:
    """Settings for the layers whose name matches `pattern` (as in a shell: ``*``, ``?``, ``[...]``).

    `pattern` is held against the fully qualified name of the tensor (``conv1.weight``) and of its module
    (``conv1``). A name that is written out in full always matches itself; in a pattern, ``[[]`` is a bracket that
    stands in the name. A setting that is None is left to the recipe.

    Attributes:
        prune: fraction of the layer's weights to remove, 0 <= prune < 1.
        bits: index width of the codebook; ``"none"`` stores the layer's weights without sharing.
        levels: in place of bits, most shared values.
        group: layers of one group share one codebook.
        keep: leaves the tensor alone, neither pruned nor shared. A later rule that prunes or shares takes it back.
    """

    pattern: str
    prune: float | None = None
    bits: int | str | None = None
    group: str | None = None
    levels: int | None = None
    keep: bool | None = None

    def __post_init__(self) -> None:
        where = f"layer {self.pattern!r}"
        if not self.pattern or not isinstance(self.pattern, str):
            raise RecipeError("a layer rule needs a pattern, such as 'conv*:prune=0.6,bits=8'")
        if self.prune is not None:
            _check_fraction(self.prune, f"{where}: prune")
        if self.bits not in (None, "none"):
            _check_int(self.bits, f"{where}: bits", 1, MAX_BITS, "or 'none'")
        if self.levels is not None:
            _check_int(self.levels, f"{where}: levels", 1, MAX_LEVELS)
        if self.levels is not None and self.bits is not None:
            raise RecipeError(f"{where}: {BITS_OR_LEVELS}")
        if self.group is not None and not isinstance(self.group, str):
            raise RecipeError(f"{where}: group is {self.group!r}; it must be a name")
        if not isinstance(self.keep, bool | None):
            raise RecipeError(f"{where}: keep is {self.keep!r}; it must be true or false")
        if self.keep and (self.prune, self.bits, self.levels, self.group) != (None, None, None, None):
            raise RecipeError(f"{where}: keep leaves the layer alone, and prune, bits, levels and group do not")

    @classmethod
    def parse(cls, text: str) -> LayerRule:
        """Read ``PATTERN:prune=F,bits=B,group=NAME`` (or ``levels=K``) or ``PATTERN:keep``, as ``--layer`` does.

        The settings begin after the last colon that a setting follows: names may have colons themselves.
        """
        found = _SETTINGS.fullmatch(text)
        pattern, colon, settings = (found["pattern"], ":", found["settings"]) if found else text.partition(":")
        if not colon or not settings:
            raise RecipeError(f"--layer {text!r}: write PATTERN:prune=F,bits=B, for example 'conv*:prune=0.6,bits=8'")
        values: dict[str, Any] = {}
        for setting in settings.split(","):
            key, _, value = (part.strip() for part in setting.partition("="))
            values[key] = _number(value) if key in ("prune", "bits", "levels") else value
            if setting.strip() == "keep":
                values[key] = True
        return _build(cls, {"pattern": pattern, **values}, f"--layer {text!r}")

    @property
    def compresses(self) -> bool:
        """Whether the rule prunes or shares a layer; without that, it makes none of what else is left alone."""
        return bool(self.prune) or self.bits not in (None, "none") or self.levels is not None

    @property
    def name(self) -> str | None:
        """The one name that the pattern matches; None if it may match others. ``[*]`` is a ``*``."""
        plain = _ESCAPED.sub(r"\1", self.pattern)
        return None if _SPECIAL.search(_ESCAPED.sub("", self.pattern)) else plain

    def matches(self, name: str) -> bool:
        """Whether the rule is about the tensor called `name`."""
        return any(own == self.pattern or fnmatchcase(own, self.pattern) for own in (name, name.rpartition(".")[0]))


class Rules(tuple[LayerRule, ...]):
    """Layer rules in their order, found by name: there may be one for each of thousands of layers."""

    def about(self, name: str) -> list[LayerRule]:
        """Those about the tensor `name`."""
        plain, patterns = self._places
        places = {*plain.get(name, ()), *plain.get(name.rpartition(".")[0], ())}
        places.update(place for place in patterns if self[place].matches(name))
        return [self[place] for place in sorted(places)]

    @cached_property
    def _places(self) -> tuple[dict[str, list[int]], list[int]]:
        """Of rules whose pattern is a name, by that name; and of the others."""
        plain: dict[str, list[int]] = {}
        patterns = []
        for place, rule in enumerate(self):
            if rule.name is None:
                patterns.append(place)
            else:
                plain.setdefault(rule.name, []).append(place)
        return plain, patterns


@dataclass(frozen=True)
class Recipe:
    """All settings of one compression. Defaults are chosen so that ``Recipe(prune=0.92, bits=5)`` is enough.

    Attributes:
        prune: fraction of all prunable weights of the network to remove, 0 <= prune < 1.
        target_size: most bytes of the file; it then decides how many weights each layer keeps, in place of `prune`.
        max_drop: guards pruning to `prune`: an iteration after which the accuracy on validation data is more than this
            many points below the dense network's is rolled back in the layers that cost most; None lets it be.
        scope: ``layer`` spreads the fraction over the layers by `distribution`; ``global`` uses one threshold of
            saliency for the whole network; None takes what the criterion is made for.
        distribution: ``lamp`` (sensitive layers keep more, from the weights alone; Lee et al. 2021),
            ``uniform`` (the same fraction everywhere), ``std`` (threshold = quality x standard deviation
            of the layer; Han et al. 2015, section 3).
        quality: for ``std``, the quality itself; it then decides the fraction instead of `prune`. With scope ``global``
            the standard deviation is that of all weights together.
        criterion: what makes a weight worth keeping: a name known to `prune.criteria`, or a function of your own,
            file.py:function.
        score_samples: how many training samples a criterion that needs data looks at.
        schedule: how sparsity rises over `iterations` rounds of pruning and retraining; or, decided by validation data:
            ``circular`` prunes a step of one layer after the other as long as no more than `max_drop` is lost, ``gap``
            a step of all whenever the validation error exceeds the training error by more than `gap`.
        iterations: rounds; 1 is the same as ``one-shot``. Not of ``circular`` and ``gap``.
        prune_step: of ``circular`` and ``gap``: the fraction of the surviving weights that a step removes.
        gap: of ``gap``: points of error.
        reload: whether each iteration prunes the dense weights afresh, and retrains from there.
        rewind: after each iteration of pruning, ``start`` gives the survivors the values that the network had
            before it was trained, or soon after, and ``random`` new ones; either trains them for all of `epochs` then,
            in each iteration. See `prune.lottery`.
        epochs: retraining epochs in all, under masks.
        regrow: ``surgery`` lets pruned weights go on learning unseen, and they may come back at the next iteration;
            ``set``, ``deepr`` and ``dsr`` remove and regrow weights after the last iteration, and keep their number:
            see `prune.regrow`.
        regrow_fraction: of the kept weights, how many move at once in ``set`` (its zeta), or shall in ``dsr``; None
            takes the method's own.
        regrow_every: batches from one such move to the next; None takes the method's own. ``deepr`` moves in every one.
        deepr_alpha: the L1 term of ``deepr``.
        deepr_temperature: that of its noise; None takes the one at which noise and L1 term are as large.
        bits: index width: 2^bits shared values per layer; None stores the surviving weights unshared.
        conv_bits: the same for convolutions; None takes `bits`, or `levels`.
        levels: in place of `bits`, the most values that a layer shares, of any number: 2 makes it ternary, as zero
            is not counted.
        quantizer: ``kmeans`` finds the shared values; ``uniform`` takes a step times whole numbers, so that a codebook
            is one number in the file.
        weighting: ``fisher`` weighs the error of each weight by its mean squared gradient over training samples
            (Choi, El-Khamy and Lee 2017).
        rate: what a bit in the file is worth against the error of the weights: a bit counts as much as this part of
            a layer's mean squared weight (with the weighting, if any). 0 takes the nearest value for each weight.
        codebook_dtype: ``float16`` rounds the shared values to it, where they are in its range.
        small_bits: vectors that are parameters (biases, scales) share 2^small_bits values on a uniform grid; None
            keeps them as they are.
        init: where k-means starts (Han et al. 2016, section 3.2).
        finetune_epochs: epochs of centroid tuning by backpropagation, assignments fixed.
        coder: ``huffman``; ``ans`` (adaptive, smaller; decodes some 3 million weights a second); ``rans`` (static
            tables by context, about as small in large layers; decodes ten times as fast); ``auto``: of all, the
            smallest for each tensor, at the speed of that one; or ``fixed``, for the paper's stage 2 alone.
        index_bits: width of the offsets between weights; None takes the best for each layer.
        small_dtype: precision of biases and other small tensors in the file.
        low_rank: before all other stages, layers become products of two thin ones by truncated SVD, where those have
            fewer weights: the part of the squared singular values (energy) that is kept, 0 < low_rank <= 1; None leaves
            layers as they are.
        batch_norm: ``fold`` moves the running statistics into scale and shift, exact in evaluation and half the
            bytes; such a file cannot be trained on as well as one that keeps them.
        retrain: False compresses without any data: no retraining and no tuning.
        optimizer, lr, finetune_lr, batch_size: of retraining, and of centroid tuning (always SGD).
        penalty, penalty_weight: on the surviving weights while retraining.
        lr_schedule: how the learning rates fall during retraining, and again during centroid tuning.
        warmup: epochs in which the learning rate of retraining rises first; None takes the schedule's own: a fiftieth
            of the run for ``cosine``, and none for the others.
        label_smoothing: probability that the training labels spread evenly over all classes.
        distill: weight of the dense network's word on each training sample beside its label's, 0 to 1.
        temperature: what both networks' logits are divided by for that.
        precision: ``bfloat16`` computes the network in it while training, where torch's autocast finds it safe.
        shift: random shifts of training images in pixels; None takes the data set's own.
        flip: whether training images are mirrored at random; None takes the data set's own.
        seed: of everything that is drawn.
        layers: rules for single layers; a later rule wins.
    """

    prune: float = 0.9
    scope: str | None = None
    distribution: str = "lamp"
    quality: float | None = None
    target_size: int | None = None
    max_drop: float | None = None
    criterion: str = "magnitude"
    score_samples: int = 1024
    schedule: str = "cubic"
    iterations: int = 6
    prune_step: float = 0.2
    gap: float = 1.0
    reload: bool = False
    rewind: str = "none"
    epochs: int = 18
    regrow: str = "none"
    regrow_fraction: float | None = None
    regrow_every: int | None = None
    deepr_alpha: float = 1e-5
    deepr_temperature: float | None = None
    bits: int | str | None = 5
    conv_bits: int | str | None = None
    levels: int | None = None
    quantizer: str = "kmeans"
    weighting: str = "none"
    rate: float = 0.0
    codebook_dtype: str = "float32"
    small_bits: int | None = None
    init: str = "linear"
    finetune_epochs: int = 3
    coder: str = "huffman"
    index_bits: int | None = None
    small_dtype: str = "float32"
    batch_norm: str = "keep"
    low_rank: float | None = None
    retrain: bool = True
    optimizer: str = "sgd"
    lr: float = 0.02
    finetune_lr: float = 0.005
    batch_size: int = 128
    penalty: str = "l2"
    penalty_weight: float = 0.0005
    lr_schedule: str = "cosine"
    warmup: float | None = None
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    precision: str = "float32"
    shift: int | None = None
    flip: bool | None = None
    seed: int = 0
    layers: tuple[LayerRule, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", Rules(self.layers))
        if self.bits is None:  # one way to say it, or a recipe written to TOML would come back with the default
            object.__setattr__(self, "bits", "none")
        if self.levels is not None and self.bits != Recipe.bits:
            raise RecipeError(BITS_OR_LEVELS)
        _check_fraction(self.prune, "prune")
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in (*allowed, getattr(Recipe, field)):
                raise RecipeError(f"{field} is {getattr(self, field)!r}; allowed are {', '.join(allowed)}")
        for field in ("bits", "conv_bits"):
            if getattr(self, field) not in (None, "none"):
                _check_int(getattr(self, field), field, 1, MAX_BITS, "or 'none'")
        for field, low in (("iterations", 1), ("epochs", 0), ("finetune_epochs", 0), ("batch_size", 1), ("seed", 0),
                           ("score_samples", 1)):  # fmt: skip
            _check_int(getattr(self, field), field, low, 2**31 - 1)
        for field, unset in (("retrain", False), ("reload", False), ("flip", True)):
            value = getattr(self, field)
            if not (isinstance(value, bool) or (unset and value is None)):
                raise RecipeError(f"{field} is {value!r}; it must be true or false")
        self._check_numbers()
        self._check_loop()
        self._check_regrowth()

    def _check_numbers(self) -> None:
        whole = {"shift": (0, 64), "index_bits": (1, MAX_BITS), "levels": (1, MAX_LEVELS), "small_bits": (1, MAX_BITS),
                 "target_size": (1, 2**62)}  # fmt: skip
        for field, (low, high) in whole.items():
            if getattr(self, field) is not None:
                _check_int(getattr(self, field), field, low, high)
        for field in ("lr", "finetune_lr", "penalty_weight", "rate"):
            check_number(getattr(self, field), field, 0)
        check_number(self.label_smoothing, "label_smoothing", 0, 0.99)
        check_number(self.distill, "distill", 0, 1)
        check_number(self.temperature, "temperature", 0.01, 1000)
        if self.warmup is not None:
            check_number(self.warmup, "warmup", 0)
        if self.max_drop is not None:
            check_number(self.max_drop, "max_drop", 0, 100)
            if self.target_size is not None:
                raise RecipeError("target_size and max_drop are two budgets: give one of them")
        if not isinstance(self.criterion, str) or not self.criterion:
            raise RecipeError(f"criterion is {self.criterion!r}; it must be a name")
        if self.target_size is not None and self.criterion != Recipe.criterion:
            raise RecipeError("target_size has a saliency of its own, by bytes; a criterion is for prune: choose one")
        if self.low_rank is not None:
            check_number(self.low_rank, "low_rank", 0, 1)
            if not self.low_rank:
                raise RecipeError("low_rank is 0; it must be above 0: the part of the energy that layers keep")
        if self.quality is not None:
            check_number(self.quality, "quality", 0)
            if self.distribution != "std":
                raise RecipeError("quality is for distribution 'std' (Han's threshold)")

    def _check_loop(self) -> None:
        """Which ways through pruning exclude each other."""
        check_number(self.gap, "gap", 0, 100)
        _check_fraction(self.prune_step, "prune_step")
        if self.prune_step == 0:
            raise RecipeError("prune_step is 0; it must be above 0, or nothing is ever pruned")
        watching = self.schedule in ("circular", "gap")
        if self.schedule == "circular" and self.max_drop is None:
            raise RecipeError(
                "schedule 'circular' prunes as long as accuracy holds: say with max_drop how many points may be lost"
            )
        if watching and self.keeps_count:
            raise RecipeError(
                f"regrow {self.regrow!r} begins after the last iteration, which schedule {self.schedule!r} cannot "
                "tell: choose one"
            )
        if self.schedule == "gap" and not self.retrain:
            raise RecipeError("schedule 'gap' looks at the network before each epoch of retraining, and retrain is off")
        if self.schedule == "gap" and self.max_drop is not None:
            raise RecipeError("schedule 'gap' prunes by the generalization gap, and max_drop by accuracy: choose one")
        for other in ("target_size", "quality"):
            if watching and getattr(self, other) is not None:
                raise RecipeError(
                    f"schedule {self.schedule!r} goes up to the fraction prune, and {other} sets another end: choose "
                    "one"
                )
        if self.reload and (watching or self.regrow != "none" or self.target_size is not None):
            other = f"schedule {self.schedule!r}" if watching else "target_size" if self.target_size else "regrow"
            raise RecipeError(
                f"reload prunes the dense weights at each iteration, and {other} goes on from pruned ones: choose one"
            )
        if self.rewind != "none":
            self._check_rewind()

    def _check_rewind(self) -> None:
        others = {
            "max_drop": self.max_drop is not None,
            "target_size": self.target_size is not None,
            f"regrow {self.regrow!r}": self.regrow != "none",
            f"schedule {self.schedule!r}": self.schedule in ("circular", "gap"),
            "reload": self.reload,
            "low_rank": self.low_rank is not None,
        }
        for other, given in others.items():
            if given:
                raise RecipeError(
                    f"rewind {self.rewind!r} trains survivors from the start again, and {other} goes on from trained "
                    "weights: choose one"
                )
        if not self.retrain or not self.epochs:
            raise RecipeError(
                f"rewind {self.rewind!r} leaves an untrained network, and nothing trains it: set epochs, and not "
                "retrain=False"
            )

    def _check_regrowth(self) -> None:
        check_number(self.deepr_alpha, "deepr_alpha", 0)
        if self.deepr_temperature is not None:
            check_number(self.deepr_temperature, "deepr_temperature", 0)
        if self.regrow_fraction is not None:
            _check_fraction(self.regrow_fraction, "regrow_fraction")
        if self.regrow_every is not None:
            _check_int(self.regrow_every, "regrow_every", 1, 2**31 - 1)
        if not self.keeps_count:
            return
        if self.target_size is not None:
            raise RecipeError(
                f"regrow {self.regrow!r} keeps the number of weights, and target_size decides on bytes: with that, "
                "only regrow 'surgery' goes"
            )
        if not self.retrain or not self.epochs:
            raise RecipeError(
                f"regrow {self.regrow!r} happens while training, and there is none: set epochs, and not retrain=False"
            )

    @classmethod
    def smallest(cls, **settings: Any) -> Recipe:
        """A recipe whose settings are those of `SMALLEST` but for `settings`; with a `target_size`, usually.

        Raises:
            RecipeError: a value is not allowed.
        """
        return cls(**with_smallest(settings))

    @property
    def weight_decay(self) -> float:
        """The L2 penalty, as optimizers take it; the other penalties are none of theirs."""
        return self.penalty_weight if self.penalty == "l2" else 0.0

    @property
    def _rules(self) -> Rules:
        assert isinstance(self.layers, Rules)
        return self.layers

    @property
    def prunes(self) -> bool:
        """Whether any weight is removed, from the network or from one layer."""
        return bool(self.prune or any(rule.prune for rule in self.layers))

    @property
    def keeps_count(self) -> bool:
        """Whether weights are removed and regrown so that their number stays."""
        return self.regrow not in ("none", "surgery")

    def levels_of(self, name: str, is_conv: bool) -> int | None:
        """How many values the weights of the tensor `name` may share, zero not counted; None if they share none."""
        bits, levels = self.bits, self.levels
        if is_conv and self.conv_bits is not None:
            bits, levels = self.conv_bits, None
        for rule in self._rules.about(name):
            if (rule.bits, rule.levels) != (None, None):
                bits, levels = rule.bits, rule.levels
        if levels is not None:
            return levels
        return None if bits in (None, "none") else 1 << int(bits)

    def prune_of(self, name: str) -> float | None:
        """The fraction set for the tensor `name` itself; None where the distribution decides."""
        fractions = [rule.prune for rule in self._rules.about(name) if rule.prune is not None]
        return fractions[-1] if fractions else None

    def keeps(self, name: str) -> bool | None:
        """Whether the tensor `name` is left alone by the last rule that says so or not; None where none does."""
        told = [rule for rule in self._rules.about(name) if rule.keep is not None or rule.compresses]
        return bool(told[-1].keep) if told else None

    def group_of(self, name: str) -> str | None:
        """The codebook group of the tensor `name`; None for a codebook of its own."""
        groups = [rule.group for rule in self._rules.about(name) if rule.group is not None]
        return groups[-1] if groups else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON and TOML: settings that are None are left out, layer rules are a list ``layer``.

        So is `bits` where there are `levels`.
        """
        left_out = {"layers"} if self.levels is None else {"layers", "bits"}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {key: value for key, value in values.items() if key not in left_out}
        plain = {key: value for key, value in values.items() if value is not None}
        if self.layers:
            plain["layer"] = [
                {key: value for key, value in dataclasses.asdict(rule).items() if value is not None}
                for rule in self.layers
            ]
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "recipe") -> Recipe:
        """The inverse of `as_dict`.

        Raises:
            RecipeError: a key is unknown or a value not allowed; the message names it and `where`.
        """
        settings = dict(values)
        rules = settings.pop("layer", [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise RecipeError(f"{where}: layer must be a list of tables, each headed [[layer]]")
        check_one_of(settings, where)
        layers = tuple(_build(LayerRule, {"pattern": "", **rule}, f"{where}: [[layer]]") for rule in rules)
        return _build(cls, {**settings, "layers": layers}, where)

    def to_toml(self) -> str:
        """The recipe as a TOML document that `load` reads back to an equal recipe."""
        plain = self.as_dict()
        rules = plain.pop("layer", [])
        blocks = ["\n".join(f"{key} = {_toml(value)}" for key, value in plain.items())]
        for rule in rules:
            blocks.append("[[layer]]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in rule.items()))
        return "\n\n".join(blocks) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe from a TOML file.

        Raises:
            RecipeError: the file is missing, is not TOML, or holds an unknown or disallowed setting.
        """
        return cls.from_dict(read_toml(path), str(path))


def with_smallest(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` (by name), and those of `SMALLEST` that they leave free."""
    free = {key: value for key, value in SMALLEST.items() if key != "bits" or settings.get("levels") is None}
    return {**free, **settings}


def going_on(settings: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """`settings` on top of those that a compressed file was made by (`continuation.settings_of`).

    Where more pruning is asked for, retraining is what it is for any network; where other bits are, no layer keeps the
    number of its values.
    """
    left = dict(base)
    rules = left.pop("layer", [])
    if {"prune", "quality", "target_size", "max_drop", "low_rank"} & settings.keys():
        for name in ("prune", "epochs", "finetune_epochs"):
            left.pop(name, None)
    if {"bits", "levels", "conv_bits"} & settings.keys():
        rules = []
    return {**left, **settings, "layer": [*rules, *settings.get("layer", [])]}


def check_one_of(settings: Container[str], where: str) -> None:
    """Refuse settings (their names) that say the same thing twice.

    Raises:
        RecipeError: naming `where`.
    """
    if "bits" in settings and "levels" in settings:
        raise RecipeError(f"{where}: {BITS_OR_LEVELS}")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The settings in a recipe file, unchecked.

    Raises:
        RecipeError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: not valid TOML: {error}") from None


def _build(kind: type[T], values: dict[str, Any], where: str) -> T:
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{where}: unknown setting {key!r}; known are {', '.join(known)}")
        annotation = str(kind.__annotations__[key])
        if isinstance(value, bool) != annotation.startswith("bool") or (
            isinstance(value, str) and "str" not in annotation
        ):
            raise RecipeError(f"{where}: {key} is {value!r}; expected {annotation}")
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _toml(value: Any) -> str:
    """JSON's numbers, booleans and strings are TOML's, but for surrogate pairs and a bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _number(text: str) -> int | float | str:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return text


def _check_fraction(value: Any, what: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise RecipeError(f"{what} is {value!r}; it must be a fraction, at least 0 and below 1 (0.9 removes 90 %)")


def check_number(value: Any, what: str, low: float, high: float = float("inf")) -> None:
    """Refuse what is no finite number from `low` to `high`.

    Raises:
        RecipeError: naming it as `what`.
    """
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not low <= value <= high or value == float("inf"):
        allowed = f"{low} or above" if high == float("inf") else f"from {low} to {high}"
        raise RecipeError(f"{what} is {value!r}; it must be a finite number, {allowed}")


def _check_int(value: Any, what: str, low: int, high: int, otherwise: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RecipeError(f"{what} is {value!r}; it must be a whole number from {low} to {high} {otherwise}".rstrip())
