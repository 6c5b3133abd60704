"""`deepcompress train`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from deepcompress.cli.building import build_model
from deepcompress.cli.common import command_line, resumable, show, versions
from deepcompress.cli.data import tell
from deepcompress.cli.naming import stored_network
from deepcompress.cli.options import REGROWTH, common, data_options, normalize_option, sparse_options, trust_option
from deepcompress.cli.outputs import claim, force_option
from deepcompress.cli.sections import SECTIONS, Sections
from deepcompress.cli.settings import setting_option
from deepcompress.recipe import LayerRule, Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from deepcompress.training.data import DataSet
    from deepcompress.training.dense import DenseSettings, Keep
    from deepcompress.training.progress import Progress

#: Learning rates of dense and of sparse networks: few weights of an initialization for many learn slowly, and that of
#: SNIP's experiments (Lee et al. 2019, section 5) is higher.
RATES = {False: 0.02, True: 0.1}
#: Longest gradient of sparse training. Criteria that look at gradients (GraSP above all) choose weights with which the
#: first ones are far longer than those of the whole network: 26 times, LeNet-5 with a tenth of its weights.
LONGEST = 5.0
#: The options of sparse training, and of penalties.
SPARSE = ("prune", "layers", "criterion", "score_samples", *REGROWTH, "penalty", "penalty_weight")


class TrainingSections(Sections):
    """As `Sections`, for training."""

    sections: ClassVar = {
        "Input and output": ("start", *SECTIONS["Input and output"], "normalize", "keep"),
        "Training": (
            "epochs", "lr", "batch_size", "weight_decay", "lr_schedule", "warmup", "clip_norm",
            "label_smoothing", "shift", "flip", "precision", "seed",
        ),
        "Sparse training": SPARSE,
        "Other": (),
    }  # fmt: skip


@click.command(cls=TrainingSections)
@click.argument("network")
@data_options("digits")
@normalize_option
@click.option("--from", "start", type=click.Path(), metavar="CKPT",
              help="Start from the weights of this checkpoint.  [default: random ones]")  # fmt: skip
@trust_option
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE.pt", help="Checkpoint to write.  [default: NETWORK-DATA.pt]"
)
@force_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run, if there is one.")
@click.option("--keep-step", "keep", type=(click.IntRange(min=0), click.Path()), multiple=True, metavar="K FILE.pt",
              help="Also write the weights after K steps of the optimizer, or the initial weights with 0. Repeatable. "
              "compress --rewind resets weights to them.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True,
              help="Number of epochs of training.")  # fmt: skip
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), metavar="RATE",
              help="Highest learning rate (SGD, Nesterov momentum 0.9).  "
              f"[default: {RATES[False]}, with --prune {RATES[True]}]")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True,
              help="Number of samples in a training batch.")  # fmt: skip
@click.option("--weight-decay", type=click.FloatRange(min=0), default=5e-4, show_default=True,
              help="Weight of the L2 penalty.")  # fmt: skip
@setting_option("lr_schedule", default="cosine", help="How the learning rate decreases.  [default: cosine]")
@setting_option("warmup")
@setting_option(
    "clip_norm",
    help="Largest norm of the gradient. A longer gradient is scaled down to it; 0: no limit.  "
    f"[default: 0, with --prune {LONGEST:g}]",
)
@click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
              metavar="E", help="Probability that is spread over all classes instead of the label.")  # fmt: skip
@setting_option("shift")
@setting_option("flip")
@setting_option("precision", default="float32")
@sparse_options
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help="Seed of all random numbers.")  # fmt: skip
@common
def train(
    network: str,
    data: str,
    data_dir: str | None,
    device: str,
    normalize: str | None,
    start: str | None,
    trust_pickle: bool,
    key: str | None,
    output: str | None,
    force: bool,
    resume: bool,
    keep: tuple[tuple[int, str], ...],
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train a network and write a checkpoint.

    NETWORK is lenet5, lenet-300-100, resnet20, ds-cnn, ds-cnn-xs, torchvision:NAME, or a function in a file of yours,
    file.py:factory. The checkpoint names its network and its data, so that compress and eval find them. OUTPUT.resume
    keeps the state after each epoch until the run ends. An interrupted run continues with --resume and gives the same
    weights.

    With --prune the network is sparse from the start. Compress it with the same --prune to keep its zeros.
    """
    from deepcompress import networks
    from deepcompress.checkpoint import load_checkpoint
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.training.check import settle, takes_input
    from deepcompress.training.data import load_data
    from deepcompress.training.dense import DenseSettings
    from deepcompress.training.evaluation import evaluate
    from deepcompress.training.journal import Journal, about_run, recording
    from deepcompress.training.loop import pick_device, seed_everything

    path = Path(output or f"{network.replace(':', '-').replace('/', '-')}-{Path(data).absolute().stem}.pt")
    _claim(path, *(Path(file) for _, file in keep))
    sparse = {name: settings.pop(name) for name in SPARSE}
    recipe = _sparse_recipe(sparse, settings["epochs"])
    _fill_in(settings, recipe is not None and recipe.prunes)
    dense = DenseSettings(**settings)
    seed_everything(dense.seed)
    model = build_model(load_checkpoint(start, trust_pickle, key), network, start) if start else networks.build(network)
    samples = load_data(data, data_dir, normalize, partial(takes_input, model))
    settle(model, [samples.all_batches()], "classification")
    journal, named = Path(f"{path}.resume"), {"network": network, "data": data, "keep": keep}
    about = about_run(model, {**settings, **sparse, **named}, {"samples": samples.all_batches()})
    steps = {step: partial(_keep, file, step, dense.seed, stored_network(network), data) for step, file in keep}
    with ConsoleProgress(quiet) as watch, resumable(journal, resume, watch), recording(Journal(journal, about)):
        more = _train(model, samples, dense, recipe, sparse["criterion"], pick_device(device), watch, steps)
    test = evaluate(model, samples.test_loader())
    if samples.normalize not in ("", "none"):
        more["normalize"] = samples.normalize
    _save(path, model, stored_network(network), data, _facts(dense, test.value, more))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {
        "file": str(path), "network": network, "data": data, "parameters": parameters,
        "accuracy": test.accuracy, "error": test.error, "samples": test.samples, **settings, **more,
        "kept": {str(step): file for step, file in keep},
        "command": command_line(), "versions": versions(),
    }  # fmt: skip
    pruned = f", {100 * float(more['sparsity']):.2f} % of the weights pruned" if "sparsity" in more else ""
    tell(samples, quiet)
    show(as_json, result, lambda: f"{path}: {parameters:,} parameters{pruned}, test error {test.value:.2f} % on {data}")


def _fill_in(settings: dict[str, Any], is_sparse: bool) -> None:
    """The defaults that differ between dense and sparse training."""
    settings["lr"] = settings["lr"] or RATES[is_sparse]
    longest = LONGEST if is_sparse and settings["clip_norm"] is None else settings["clip_norm"]
    settings["clip_norm"] = longest or None


def _claim(*paths: Path) -> None:
    """Check the checkpoints that are about to be written."""
    from deepcompress.checkpoint import check_ending
    from deepcompress.files import check_writable

    claim(*paths)
    for path in paths:
        check_ending(path)
        check_writable(path)


def _train(
    model: nn.Module,
    samples: DataSet,
    dense: DenseSettings,
    recipe: Recipe | None,
    criterion: str | None,
    device: torch.device,
    watch: Progress,
    steps: Keep,
) -> dict[str, str | float]:
    """Train, and say what came of a network that is sparse."""
    from deepcompress.prune.sparse import choice_of, train_sparse
    from deepcompress.training.dense import train_dense

    if recipe is None:
        train_dense(model, samples, dense, device, watch, keep=steps)
        return {}
    masks = train_sparse(model, samples, dense, recipe, criterion, device, watch, steps)
    chosen = choice_of(recipe, criterion)
    return {"sparsity": masks.sparsity, "criterion": chosen, "regrow": recipe.regrow, "penalty": recipe.penalty}


def _facts(dense: DenseSettings, test_error: float, more: dict[str, str | float]) -> dict[str, str | int | float]:
    """What a checkpoint says of its making."""
    import torch

    return {
        "epochs": dense.epochs, "seed": dense.seed, "test_error": test_error, **more,
        "torch": str(torch.__version__), "command": command_line(),
    }  # fmt: skip


def _save(path: Path, model: nn.Module, network: str, data: str, facts: dict[str, str | int | float]) -> None:
    from deepcompress.checkpoint import Checkpoint, save_checkpoint

    state = {name: value.cpu() for name, value in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(state, network, data, facts))


def _keep(file: str, step: int, seed: int, network: str, data: str, state: dict[str, Any]) -> None:
    """Write the weights after one of the steps."""
    from deepcompress.checkpoint import Checkpoint, save_checkpoint

    save_checkpoint(file, Checkpoint(state, network, data, {"step": step, "seed": seed, "command": command_line()}))


def _sparse_recipe(given: dict[str, Any], epochs: int) -> Recipe | None:
    """What is pruned, regrown and penalized; None: nothing."""
    settings = {name: value for name, value in given.items() if value is not None}
    layers = tuple(map(LayerRule.parse, settings.pop("layers")))
    if "prune" not in settings and not layers:
        for name in (*REGROWTH, "criterion", "score_samples"):
            if name in settings:
                raise click.UsageError(f"--{name.replace('_', '-')} is for sparse training: also give --prune")
    if "penalty_weight" in settings and "penalty" not in settings:
        raise click.UsageError("--penalty-weight needs a --penalty; that of L2 is --weight-decay")
    for rule in layers:
        if rule.prune is None and not rule.keep:
            raise click.UsageError(f"--layer {rule.pattern!r}: train only prunes; write PATTERN:prune=F")
    if not settings and not layers:
        return None
    if "score_samples" in settings and "regrow" not in settings:
        from deepcompress.prune.sparse import CRITERION

        settings.setdefault("criterion", CRITERION)
    return Recipe(**{"prune": 0.0, "penalty": "none", "epochs": epochs, **settings, "layers": layers})
