"""What `compress` was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.calibrating import Calibrating
from deepcompress.cli.common import file_settings, is_packed, settings_beside
from deepcompress.cli.data import Asked
from deepcompress.cli.masking import MaskFiles
from deepcompress.cli.onnx import is_onnx, refuse_options, runs_as_onnx
from deepcompress.cli.settings import build_budgeted, flag_of
from deepcompress.recipe import SETTINGS, Recipe, chosen, read_toml
from deepcompress.recipe.effects import BESIDE_BASE
from deepcompress.recipe.uses import check_graph

if TYPE_CHECKING:
    import torch

#: What the network is needed for where the data is needed, too.
RETRAINED = "retrained (--no-retrain compresses without it)"
MEASURED = "measured on data (--data, --max-drop and --distribution amc ask for that)"


@dataclass(frozen=True)
class Order:
    """The options of one command, put together.

    Attributes:
        checkpoint, output, key, trust_pickle, network, resume, rewind, quiet: as they were given.
        calibrating: the samples to round by, if any.
        trials, keep_trials: of a search.
        base, update_size, update_drop: a file that the new one is to be a small update of, and how small.
        asked: what was said of data and task.
        files: of masks and scores.
        recipe: all settings.
        searching: whether the size is searched for.
    """

    checkpoint: str
    output: str
    key: str | None
    trust_pickle: bool
    network: str | None
    resume: bool
    calibrating: Calibrating
    rewind: str | None
    quiet: bool
    trials: int | None
    keep_trials: bool
    base: str | None
    update_size: int | None
    update_drop: float | None
    asked: Asked
    files: MaskFiles
    recipe: Recipe
    searching: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Order:
        """What the `options` of the command ask for.

        Raises:
            UsageError, RecipeError: some of them contradict each other, or have no effect.
            CheckpointError, OutputError: files of masks or scores cannot be written.
        """
        given = dict(options)
        settings = {name: given.pop(name) for name in SETTINGS}
        if is_onnx(given["checkpoint"]):
            refuse_options(given["checkpoint"], {**given, **settings})
        calibrating = Calibrating(given.pop("calibrate"), given.pop("teach"))
        if calibrating or runs_as_onnx(given["checkpoint"]):
            settings["retrain"] = False
        if given["teacher_only"]:
            _as_taught(settings, bool(calibrating))
        if settings["rewind"] not in (None, "random"):
            settings["rewind"] = "start"
        start = given["checkpoint"] if is_packed(given["checkpoint"]) else None
        if start and given["base"]:
            raise click.UsageError("--base is for a retrained checkpoint: to go on from a .dc file, leave it out")
        drop = None
        if given["base"]:
            drop, settings["max_drop"] = settings["max_drop"], None  # of the update, and not of pruning
            _refuse_beside_base(settings, given["layers"], given["recipe_file"])
        base = None
        if start or given["base"]:
            base = file_settings(start) if start else settings_beside(given["base"], settings["retrain"])
        recipe, searching = build_budgeted(given["recipe_file"], given["layers"], settings, base, bool(calibrating))
        files = MaskFiles(given["masks_file"], given["save_masks"], given["save_scores"])
        files.check(settings, recipe, searching)
        names = ("checkpoint", "output", "key", "trust_pickle", "network", "resume", "quiet", "trials", "base",
                 "update_size")  # fmt: skip
        order = cls(
            **{name: given[name] for name in names},
            calibrating=calibrating,
            rewind=options["rewind"],
            keep_trials=bool(given["keep_trials"]),
            update_drop=drop,
            asked=Asked.taken_from(given),
            files=files,
            recipe=recipe,
            searching=searching,
        )
        order.check()
        return order

    def check(self) -> None:
        """Refuse options that have no effect in what the others ask for (`UsageError`, `RecipeError`)."""
        if self.is_model:
            check_graph(self.recipe)
        if self.base is None and self.update_size is not None:
            raise click.UsageError("--update-size is the size of an update to a file: name that file with --base")
        if self.update_size is not None and self.update_drop is not None:
            raise click.UsageError("--update-size and --max-drop are two budgets: give one of them")
        if self.base is not None and (self.calibrating or self.files.masks):
            raise click.UsageError("--base says what is pruned and shared: leave out --calibrate and --masks")
        if not self.searching and (self.trials is not None or self.keep_trials):
            raise click.UsageError(
                "--trials and --keep-trials are for the search only: give --max-drop without --prune"
            )
        if self.asked.teacher_only and self.recipe.label_smoothing:
            raise click.UsageError("--label-smoothing is for labels, and --teacher-only trains without: leave it out")
        if self.resume and self.files.save_scores is not None:
            raise click.UsageError("--save-scores needs a run that computes all scores itself: leave out --resume")
        unused = ("task", "loss", "normalize") if self.judged else ("task", "loss", "metric", "normalize")
        for name in unused:
            if not self.uses_data and getattr(self.asked, name) is not None:
                raise click.UsageError(
                    f"--{name} is for training or measuring on data, and neither happens here: leave it out, or give "
                    "--data"
                )

    @cached_property
    def start(self) -> str | None:
        """The .dc file to go on from, if CKPT is one."""
        return self.checkpoint if is_packed(self.checkpoint) else None

    @property
    def judged(self) -> bool:
        """Whether --metric is a function of the whole network, which --calibrate goes by without --data."""
        alone = self.asked.metric is not None and self.asked.data is None
        return bool(self.calibrating) and alone and not self.is_model

    @property
    def is_model(self) -> bool:
        """Whether CKPT is an ONNX model, which brings its own network."""
        return is_onnx(self.checkpoint)

    @cached_property
    def uses_data(self) -> bool:
        """Whether the network is retrained, or measured on data."""
        recipe = self.recipe
        if self.is_model and self.asked.data is None:
            return False
        return (
            self.searching
            or recipe.retrain
            or self.asked.data is not None
            or (recipe.max_drop is not None and not self.judged)
            or self.update_drop is not None
            or recipe.searches
        )

    @cached_property
    def need(self) -> str:
        """What the network is needed for, if it is."""
        recipe = self.recipe
        if self.is_model and self.asked.data is None:
            return ""
        if self.uses_data:
            return RETRAINED if recipe.retrain else MEASURED
        if self.calibrating:
            return "calibrated (--no-retrain alone rounds its weights without it)"
        if self.base is not None:
            return "compressed with --base, which trains on or looks at it"
        sized = recipe.target_size is not None and recipe.quantizer != "rows"
        if sized or recipe.low_rank is not None or self.files.need_network:
            return "compressed with --target-size, --low-rank, --masks or --save-scores, which look at it"
        return ""

    def origin(self) -> Mapping[str, torch.Tensor] | None:
        """The tensors of the untrained network that --rewind names."""
        if self.recipe.rewind != "start" or self.rewind is None:
            return None
        from deepcompress.checkpoint import load_checkpoint

        return load_checkpoint(self.rewind, self.trust_pickle, self.key).state


def _as_taught(settings: dict[str, Any], calibrated: bool) -> None:
    """The settings of a training without labels (`UsageError`)."""
    if settings["distill"] not in (None, 1):
        raise click.UsageError("--teacher-only is --distill 1, without labels: leave --distill out")
    if calibrated or settings["retrain"] is False:
        raise click.UsageError(
            "--teacher-only is for retraining: leave out --no-retrain and --calibrate (with --calibrate, --teach tunes "
            "by the outputs of the dense network)"
        )
    settings["distill"] = 1.0


def _refuse_beside_base(settings: Mapping[str, Any], layers: Sequence[str], recipe_file: str | None) -> None:
    """Refuse settings that have no effect beside --base (`UsageError`)."""
    given = {name: flag_of(name) for name in BESIDE_BASE if settings.get(name) is not None}
    given |= {"layer": "--layer"} if layers else {}
    found = [(name, given[name]) for name in BESIDE_BASE if name in given]
    if recipe_file is not None:
        told = chosen(read_toml(recipe_file))
        found += [(name, f"{name} in {recipe_file}") for name in BESIDE_BASE if name in told]
    if found:
        why = BESIDE_BASE[found[0][0]]
        same = ", ".join(flag for name, flag in found if BESIDE_BASE[name] == why)
        why = re.sub(r"finetune_\w+", lambda name: flag_of(name[0]), why)
        raise click.UsageError(f"{found[0][1]} {why}: leave out {same}, or --base")
