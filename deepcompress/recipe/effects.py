"""When a setting has an effect: each kind of run reads some settings and not others, and here is which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepcompress.recipe.method import PRIORS, PRUNING_ONLY, Method
from deepcompress.recipe.rules import LayerRule
from deepcompress.recipe.setting import Setting, settings_in
from deepcompress.recipe.stages import BY_WEIGHTS, LOCAL, STAGES, WATCHING, Pruning

SETTINGS: dict[str, Setting] = {name: known for stage in STAGES for name, known in settings_in(stage).items()}

#: All settings by name, and the layer rules as ``layer``; nobody may have checked them yet.
Values = Mapping[str, Any]


def in_rules(values: Values, *names: str) -> list[Any]:
    """What the layer rules say of the settings `names`."""
    rules = values.get("layer", ())
    tables = (vars(rule) if isinstance(rule, LayerRule) else rule for rule in rules) if _is_list(rules) else ()
    found = [table.get(name) for table in tables if isinstance(table, dict) for name in names]
    return [value for value in found if value is not None]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def prunes(values: Values) -> bool:
    """Whether any weight is removed."""
    sized = values["target_size"] is not None or values["quality"] is not None
    return bool(sized or values["prune"] or any(in_rules(values, "prune")))


def shares(values: Values) -> bool:
    """Whether any layer shares values."""
    said = (values["bits"], values["conv_bits"], values["levels"], *in_rules(values, "bits", "levels"))
    return any(width not in (None, "none") for width in said)


def _tunes(values: Values) -> bool:
    return bool(values["finetune_epochs"]) and (shares(values) or values["target_size"] is not None)


def _trains(values: Values) -> bool:
    return bool(values["epochs"]) or _tunes(values)


def _looks(values: Values) -> bool:
    """Whether training data is used, if only to look at it."""
    judges = prunes(values) and values["criterion"] not in BY_WEIGHTS
    return _trains(values) or judges or (values["weighting"] != "none" and shares(values))


def _has_time(values: Values) -> bool:
    """Whether pruning takes more than a moment, so that it can have steps."""
    if values["schedule"] in WATCHING:
        return True
    local = values["criterion"] in LOCAL or ".py:" in str(values["criterion"])
    return bool(values["retrain"]) and (bool(values["epochs"]) or local)


def _can_end_early(values: Values) -> bool:
    plain = {"method": "stages", "regrow": "none", "rewind": "none", "reload": False, "max_drop": None}
    return (
        values["schedule"] not in WATCHING
        and values["target_size"] is None
        and all(values[name] == value for name, value in plain.items())
    )


def _cuts_in_steps(values: Values) -> bool:
    return bool(values["schedule"] != "one-shot")


@dataclass(frozen=True)
class Need:
    """Settings that have an effect only where `holds`, and what a message says of them where it does not."""

    settings: tuple[str, ...]
    holds: Callable[[Values], bool]
    why: str


_RETRAINING = "is for retraining, and nothing is retrained"
_NO_EPOCHS = "is for retraining, and epochs is 0"
_GRADIENTS = "needs training data, and without retraining none is used"
_ROWS = (
    "has no effect where weights are rounded row by row (quantizer 'rows', the default without retraining where "
    "neither prune nor bits is given)"
)
_SHARING = ("quantizer", "init", "weighting", "rate", "codebook_dtype")
_RATES = ("optimizer", "lr", "warmup")
_LOSS = ("label_smoothing", "distill", "temperature", "batch_size", "shift", "flip")
_LOOP = ("penalty", "penalty_weight", "lr_schedule", "precision", "clip_norm", "freeze_bn")
_WHICH = ("scope", "distribution", "criterion", "score_samples")
_WHEN = ("schedule", "iterations", "prune_step", "gap", "reload")
_BY_STAGES = ("criterion", "score_samples", *_WHEN, "rewind", "regrow")

#: In the order in which they are told; the first that is not met is.
NEEDS = (
    Need(
        _BY_STAGES,
        lambda values: bool(values["method"] == "stages"),
        "is for pruning and sharing stage after stage, and the method is another",
    ),
    Need(
        ("weighting", "rate"),
        lambda values: values["method"] in ("stages", *PRUNING_ONLY),
        "is for values that are shared after pruning, and the method shares them while it prunes",
    ),
    Need(
        ("quantizer", "init", "conv_bits"),
        lambda values: values["method"] != "sws",
        "is for layers with values of their own, and the values of method 'sws' are the means of one mixture",
    ),
    Need(
        ("penalty", "penalty_weight"),
        lambda values: values["method"] not in PRIORS,
        "is for other methods: this one has a prior on the weights instead",
    ),
    Need(
        ("distribution",),
        lambda values: values["method"] not in ("lc", *PRIORS)
        or values["scope"] == "layer"
        or values["quality"] is not None,
        "spreads pruning over the layers, and the method has one threshold for all unless scope is 'layer'",
    ),
    Need(
        (*_RATES, "finetune_lr", *_LOSS, *_LOOP, "reload"),
        lambda values: bool(values["retrain"]),
        _RETRAINING,
    ),
    Need(("weighting",), lambda values: bool(values["retrain"]), _GRADIENTS),
    # No epochs are what no retraining is.
    Need(("epochs",), lambda values: bool(values["retrain"] or not values["epochs"]), _RETRAINING),
    Need(("finetune_epochs",), lambda values: bool(values["retrain"] or not values["finetune_epochs"]), _RETRAINING),
    Need(("early_stop",), lambda values: bool(values["retrain"] or not values["early_stop"]), _RETRAINING),
    Need(("early_stop",), lambda values: bool(values["epochs"] or not values["early_stop"]), _NO_EPOCHS),
    Need(
        ("iterations", "schedule"),
        _has_time,
        "is for pruning in steps, and without retraining all weights are pruned in one step",
    ),
    Need(
        ("bits", "conv_bits", "levels", "low_rank", "index_bits", "batch_norm", "sort_neurons", *_SHARING[1:]),
        lambda values: values["quantizer"] != "rows",
        _ROWS,
    ),
    Need(
        ("coder",),
        lambda values: values["quantizer"] != "rows" or values["coder"] == "rans",
        f"{_ROWS}, which 'rans' codes",
    ),
    Need(
        ("regrow",),
        lambda values: values["regrow"] != "surgery" or bool(values["retrain"] and values["epochs"] and prunes(values)),
        "lets pruned weights learn while the others are retrained, and nothing is pruned and retrained",
    ),
    Need(
        ("sort_neurons",),
        lambda values: values["target_size"] is not None,
        "is for files of a given size, and there is no target_size",
    ),
    Need(("step",), lambda values: values["target_size"] is None, "is what a target_size finds by itself"),
    Need(
        ("criterion",),
        lambda values: prunes(values) or bool(values["retrain"]),
        "is for pruning, and without retraining nothing is pruned unless prune is given (criteria that look at data "
        "need --epochs 0 --finetune-epochs 0 in place of --no-retrain)",
    ),
    Need((*_WHICH, *_WHEN), prunes, "is for pruning, and nothing is pruned (prune is 0)"),
    Need(
        ("early_stop",),
        lambda values: not values["early_stop"] or _can_end_early(values),
        "is for retraining whose length nothing else decides: not for another method, or with regrow, rewind, reload, "
        "max_drop, target_size or a schedule that watches the validation data",
    ),
    Need(  # of rows that samples round
        ("max_drop",),
        lambda values: prunes(values) or values["quantizer"] == "rows",
        "limits what pruning may lose, and nothing is pruned (prune is 0)",
    ),
    Need(
        _SHARING,
        lambda values: shares(values) or values["quantizer"] == "rows",
        "is for shared values, and nothing is shared (bits is none)",
    ),
    Need(
        ("finetune_epochs", "finetune_lr"),
        lambda values: shares(values) or values["target_size"] is not None or not values["finetune_epochs"],
        "is for fine-tuning shared values, and nothing is shared (bits is none)",
    ),
    Need(_RATES, lambda values: bool(values["epochs"]), _NO_EPOCHS),
    Need(("finetune_lr",), lambda values: bool(values["finetune_epochs"]), "is for tuning, and finetune_epochs is 0"),
    Need(_LOOP, _trains, "is for training, and epochs and finetune_epochs are 0"),
    Need(_LOSS, _looks, "is for training data, and nothing looks at it (epochs and finetune_epochs are 0)"),
    Need(
        ("iterations",),
        lambda values: _cuts_in_steps(values) and values["target_size"] is None,
        "is for pruning in steps, and schedule 'one-shot' has one step, and target_size as many as it needs",
    ),
    Need(
        ("reload",),
        lambda values: _cuts_in_steps(values) and bool(values["epochs"]),
        "is for pruning in steps with retraining, and there is one step, or no epoch",
    ),
    Need(
        ("scope", "distribution"),
        lambda values: values["schedule"] != "circular",
        "spreads pruning over the layers, and schedule 'circular' prunes one layer after the other",
    ),
    Need(
        ("distribution",),
        lambda values: values["scope"] != "global" or values["quality"] is not None,
        "spreads pruning over the layers, and scope 'global' has one threshold for all",
    ),
    Need(
        ("codebook_dtype",),
        lambda values: values["quantizer"] != "uniform",
        "has no effect on multiples of one step (quantizer 'uniform')",
    ),
)  # fmt: skip

_OF_BASE = "is decided by the base, which says what is pruned and which values are shared"
_BEFORE_SHARING = "is for retraining before weights share values, and those of a base share theirs already"

#: Settings that have no effect where the new file is a small update of another (its base), and why.
BESIDE_BASE: dict[str, str] = {
    **dict.fromkeys(
        (*settings_in(Pruning), *settings_in(Method), "prune", "low_rank", "target_size", "bits", "conv_bits", "levels",
         "step", "layer", *_SHARING), _OF_BASE,
    ),
    "sort_neurons": _OF_BASE,
    "max_drop": "limits what pruning may lose, and update_drop what an update may",
    **dict.fromkeys(_RATES, _BEFORE_SHARING),
    "lr": f"{_BEFORE_SHARING} (finetune_lr is for those)",
    **dict.fromkeys(("epochs", "early_stop"), f"{_BEFORE_SHARING} (finetune_epochs is for those)"),
}  # fmt: skip


def unused(values: Values) -> dict[str, str]:
    """The settings that have no effect beside the others, each with a sentence on why; `values` has all settings."""
    found: dict[str, str] = {}
    for name, known in SETTINGS.items():
        when = known.when
        if when is not None and not when.holds(values):
            found[name] = (
                f"{name} is only for {when}, and {when.name} is {values[when.name]!r}: leave {name} out, or change "
                f"{when.name}"
            )
    for need in NEEDS:
        if not need.holds(values):
            for name in need.settings:
                found.setdefault(name, f"{name} {need.why}: leave {name} out")
    return found
