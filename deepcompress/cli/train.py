"""`deepcompress train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deepcompress.cli.common import build_model, command_line, show, storable, versions
from deepcompress.cli.options import augmentation_options, common, data_options, training_choice, trust_option


@click.command()
@click.argument("network")
@data_options("digits")
@click.option("--from", "start", type=click.Path(), metavar="CKPT",
              help="Start from the weights of this checkpoint.  [default: random ones]")  # fmt: skip
@trust_option
@click.option("-o", "--output", type=click.Path(), metavar="FILE.pt", help="[default: NETWORK-DATA.pt]")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=0.02, show_default=True,
              help="Highest learning rate (SGD, Nesterov momentum 0.9).")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--weight-decay", type=click.FloatRange(min=0), default=5e-4, show_default=True)
@training_choice("--lr-schedule", "lr_schedule", "cosine", "How the learning rate falls.")
@click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
              metavar="E", help="Probability that the labels spread over all classes.")  # fmt: skip
@augmentation_options
@training_choice("--precision", "precision", "float32", "What the network computes in.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@common
def train(
    network: str,
    data: str,
    data_dir: str | None,
    device: str,
    start: str | None,
    trust_pickle: bool,
    output: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train a network and write a checkpoint.

    NETWORK is lenet5, lenet-300-100, resnet20, torchvision:NAME, or a function in a file of yours, file.py:factory.
    The checkpoint names its network and its data, so that compress and eval need not be told.
    """
    import torch

    from deepcompress import networks
    from deepcompress.checkpoint import Checkpoint, check_ending, load_checkpoint, save_checkpoint
    from deepcompress.files import check_writable
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.training.data import load_data
    from deepcompress.training.dense import DenseSettings, train_dense
    from deepcompress.training.loop import check_fits, evaluate, pick_device, seed_everything

    path = Path(output or f"{network.replace(':', '-').replace('/', '-')}-{Path(data).absolute().stem}.pt")
    check_ending(path)
    check_writable(path)
    dense = DenseSettings(**settings)
    seed_everything(dense.seed)
    if start:
        model = build_model(load_checkpoint(start, trust_pickle), network, start, "trained")
    else:
        model = networks.build(network)
    samples = load_data(data, data_dir)
    check_fits(model, samples.all_batches())
    with ConsoleProgress(quiet) as watch:
        train_dense(model, samples, dense, pick_device(device), watch)
    test = evaluate(model, samples.test_loader())
    facts: dict[str, str | int | float] = {
        "epochs": dense.epochs,
        "seed": dense.seed,
        "test_error": test.error,
        "torch": str(torch.__version__),
        "command": command_line(),
    }
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(state, storable(network), data, facts))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {
        "file": str(path), "network": network, "data": data, "parameters": parameters,
        "accuracy": test.accuracy, "error": test.error, "samples": test.samples, **settings,
        "command": facts["command"], "versions": versions(),
    }  # fmt: skip
    show(as_json, result, lambda: f"{path}: {parameters:,} parameters, test error {test.error:.2f} % on {data}")
