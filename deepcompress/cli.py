"""The command line: it translates options, calls the library, and prints what comes back.

Heavy modules are imported inside the commands, so that ``--help`` and ``inspect`` answer at once.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deepcompress import __version__
from deepcompress.errors import DeepCompressError, RecipeError
from deepcompress.recipe import CHOICES, MAX_BITS, LayerRule, Recipe, read_toml

if TYPE_CHECKING:
    from torch import nn

    from deepcompress.checkpoint import Checkpoint

Command = TypeVar("Command", bound=Callable[..., Any])


class OneLineErrors(click.Group):
    """A group whose errors are one line on stderr: exit code 1 for bad input, 2 for wrong usage."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and exit with 0, 1 or 2."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(2)
        except click.UsageError as error:
            hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
            _fail(error.format_message() + hint, 2)
        except RecipeError as error:
            _fail(str(error), 2)
        except (click.ClickException, DeepCompressError) as error:
            _fail(error.format_message() if isinstance(error, click.ClickException) else str(error), 1)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted; nothing was written", 1)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has seen enough
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
                sys.exit(1)
            _fail(f"the output cannot be written: {error.strerror or error}", 1)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo("Error: " + " ".join(message.split()), err=True)
    sys.exit(code)


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
    click.option("-q", "--quiet", is_flag=True, help="No progress and no messages."),
)
data_options = options(
    click.option("--data", metavar="NAME|FILE.npz", help="digits, mnist, fashion-mnist, cifar10, or a .npz file with "
                 "x_train, y_train, x_test, y_test.  [default: what the file names]"),
    click.option("--data-dir", type=click.Path(), envvar="DEEPCOMPRESS_DATA", show_envvar=True,
                 help="Folder of the data sets, as torchvision lays them out."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True),
)  # fmt: skip
network_option = click.option(
    "--network", metavar="NAME", help="lenet5, lenet-300-100, torchvision:resnet18, or your own: file.py:factory."
)
trust_option = click.option(
    "--trust-pickle", is_flag=True, help="Load a pickled module. It can run any code: only for files of your own."
)
max_bytes_option = click.option(
    "--max-bytes", type=click.IntRange(min=0), metavar="N",
    help="Most bytes that the decoded tensors may take.  [default: 1024 × the file, at least 256 MiB]",
)  # fmt: skip


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="deepcompress")
def main() -> None:
    """Trained networks to small files: Deep Compression (Han, Mao, Dally 2016).

    Prune, share weights, and Huffman-code a network into one .dc file, and get a runnable network back.

    \b
      deepcompress train lenet5 --data digits -o lenet5.pt
      deepcompress compress lenet5.pt --prune 0.92 --bits 5 -o model.dc
      deepcompress inspect model.dc
      deepcompress eval model.dc
    """


# train -----------------------------------------------------------------------------------------------------


@main.command()
@click.argument("network")
@click.option("--data", default="digits", show_default=True, metavar="NAME|FILE.npz",
              help="digits, mnist, fashion-mnist, cifar10, or a .npz file.")  # fmt: skip
@click.option("--data-dir", type=click.Path(), envvar="DEEPCOMPRESS_DATA", show_envvar=True,
              help="Folder of the data sets, as torchvision lays them out.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("-o", "--output", type=click.Path(), metavar="FILE.pt", help="[default: NETWORK-DATA.pt]")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=0.02, show_default=True,
              help="Learning rate (SGD, Nesterov momentum 0.9, cosine).")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--weight-decay", type=click.FloatRange(min=0), default=5e-4, show_default=True)
@click.option("--shift", type=click.IntRange(0, 64), metavar="PIXELS",
              help="Random shifts of training images; 0: none.  [default: 1 for digits and mnist]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@common
def train(
    network: str,
    data: str,
    data_dir: str | None,
    device: str,
    output: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train a network and write a checkpoint.

    NETWORK is lenet5, lenet-300-100, torchvision:NAME, or a function in a file of yours, file.py:factory.
    The checkpoint names its network and its data, so that compress and eval need not be told.
    """
    import torch

    from deepcompress import networks
    from deepcompress.checkpoint import Checkpoint, check_ending, save_checkpoint
    from deepcompress.files import check_writable
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.training.data import load_data
    from deepcompress.training.dense import DenseSettings, train_dense
    from deepcompress.training.loop import check_fits, evaluate, pick_device, seed_everything

    path = Path(output or f"{network.replace(':', '-').replace('/', '-')}-{Path(data).stem}.pt")
    check_ending(path)
    check_writable(path)
    dense = DenseSettings(**settings)
    seed_everything(dense.seed)
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
        "command": _command_line(),
    }
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(state, _storable(network), data, facts))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {
        "file": str(path), "network": network, "data": data, "parameters": parameters,
        "accuracy": test.accuracy, "error": test.error, "samples": test.samples, **settings,
        "command": facts["command"], "versions": _versions(),
    }  # fmt: skip
    _show(as_json, result, lambda: f"{path}: {parameters:,} parameters, test error {test.error:.2f} % on {data}")


# compress --------------------------------------------------------------------------------------------------


def _shown(field: str, text: str) -> str:
    default = getattr(Recipe, field)
    return f"{text}  [default: {default}]" if default is not None else text


def _bits(_: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "none":
        return value
    if value.isdecimal() and 1 <= int(value) <= MAX_BITS:
        return int(value)
    raise click.BadParameter(f"{value!r} is not a whole number from 1 to {MAX_BITS}, nor 'none'", param=parameter)


def _choice(flag: str, field: str, text: str) -> Callable[[Command], Command]:
    return click.option(flag, field, type=click.Choice(CHOICES[field]), help=_shown(field, text))


recipe_options = options(
    click.option("--recipe", "recipe_file", type=click.Path(), metavar="FILE.toml",
                 help="Read settings from a file; options given here win."),
    click.option("--prune", type=click.FloatRange(0, 1, max_open=True), metavar="F",
                 help=_shown("prune", "Fraction of all prunable weights to remove.")),
    click.option("--bits", callback=_bits, metavar="B",
                 help=_shown("bits", "2^B shared values a layer; none: no sharing.")),
    click.option("--conv-bits", callback=_bits, metavar="B", help="The same for convolutions.  [default: --bits]"),
    click.option("--layer", "layers", multiple=True, metavar="'PATTERN:prune=F,bits=B,group=G'",
                 help="Settings for the layers whose name matches; repeatable, the last wins. "
                 "Layers of one group share a codebook."),
    _choice("--scope", "scope", "Spread the fraction over the layers, or one threshold for the network."),
    _choice("--distribution", "distribution", "How it is spread: lamp (sensitive layers keep more), uniform, "
            "or std (Han's quality × standard deviation)."),
    click.option("--quality", type=click.FloatRange(min=0), metavar="Q",
                 help="With --distribution std: the threshold in standard deviations, in place of --prune."),
    _choice("--criterion", "criterion", "What makes a weight worth keeping."),
    _choice("--schedule", "schedule", "How sparsity rises over the iterations."),
    click.option("--iterations", type=click.IntRange(min=1), metavar="N",
                 help=_shown("iterations", "Rounds of pruning and retraining.")),
    click.option("--epochs", type=click.IntRange(min=0), metavar="N",
                 help=_shown("epochs", "Retraining epochs in all.")),
    click.option("--finetune-epochs", type=click.IntRange(min=0), metavar="N",
                 help=_shown("finetune_epochs", "Epochs of centroid tuning.")),
    _choice("--init", "init", "Where k-means starts."),
    _choice("--coder", "coder", "Entropy coder of offsets and indices."),
    _choice("--small-dtype", "small_dtype", "Precision of biases and other small tensors in the file."),
    click.option("--no-retrain", "retrain", is_flag=True, flag_value=False, default=None,
                 help="Use no data: neither retraining nor tuning."),
    _choice("--optimizer", "optimizer", "Of retraining."),
    click.option("--lr", type=click.FloatRange(min=0, min_open=True), metavar="RATE",
                 help=_shown("lr", "Highest learning rate of retraining.")),
    click.option("--finetune-lr", type=click.FloatRange(min=0, min_open=True), metavar="RATE",
                 help=_shown("finetune_lr", "Highest learning rate of centroid tuning (SGD).")),
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help=_shown("batch_size", "")),
    _choice("--penalty", "penalty", "On the weights while retraining."),
    click.option("--penalty-weight", type=click.FloatRange(min=0), metavar="X", help=_shown("penalty_weight", "")),
    click.option("--shift", type=click.IntRange(0, 64), metavar="PIXELS",
                 help="Random shifts of training images; 0: none.  [default: 1 for digits and mnist]"),
    click.option("--seed", type=click.IntRange(min=0), metavar="N", help=_shown("seed", "")),
)  # fmt: skip


@main.command()
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@click.option("-o", "--output", type=click.Path(), default="model.dc", show_default=True, metavar="FILE")
@network_option
@data_options
@recipe_options
@trust_option
@common
def compress(
    checkpoint: str,
    output: str,
    network: str | None,
    data: str | None,
    data_dir: str | None,
    device: str,
    recipe_file: str | None,
    layers: tuple[str, ...],
    trust_pickle: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Prune, share and code a network into one .dc file.

    CKPT is a .pt or .safetensors file, or the .safetensors.index.json of several.

    The test data decides nothing: it is measured on for the table at the end.
    """
    recipe = _recipe(recipe_file, layers, settings)

    from deepcompress.checkpoint import open_checkpoint
    from deepcompress.files import check_writable
    from deepcompress.report.console import ConsoleProgress
    from deepcompress.streaming import compress_state

    check_writable(output)
    source = open_checkpoint(checkpoint, trust_pickle)
    name = network or _network_name(source)
    with ConsoleProgress(quiet) as watch:
        if not recipe.retrain and data is None:
            label = _storable(name or "")
            result = compress_state(source.state, recipe, output, network=label, data=source.data or "", watch=watch)
        else:
            result = _compress_with_data(source, checkpoint, name, data, data_dir, device, recipe, output, watch)

    def tables() -> None:
        from deepcompress.report import tables

        console = tables.output()
        if verbose:
            console.print(tables.layers_table(result.breakdown, console.width))
            console.print()
        console.print(tables.stages_table(result))
        console.out(f"\n{result.file}: {result.file_bytes:,} bytes, {result.ratio:.2f}× smaller", highlight=False)

    _show(as_json, {**result.as_dict(), "command": _command_line(), "versions": _versions()}, tables)


def _compress_with_data(
    source: Checkpoint,
    checkpoint: str,
    name: str | None,
    data: str | None,
    data_dir: str | None,
    device: str,
    recipe: Recipe,
    output: str,
    watch: Any,
) -> Any:
    from deepcompress import pipeline
    from deepcompress.training.data import load_data
    from deepcompress.training.loop import check_fits, pick_device

    model = _model(source, name, checkpoint, "retrained")
    samples = load_data(_data_name(data, source.data, checkpoint), data_dir)
    target = pick_device(device)
    model, samples = model.to(target), samples.to(target)
    check_fits(model, samples.all_batches())
    return pipeline.compress(
        model,
        samples.train_loader(recipe.batch_size, recipe.seed, recipe.shift),
        samples.val_loader(),
        recipe,
        output,
        test_loader=samples.test_loader(),
        network=_storable(name or ""),
        data=samples.name,
        watch=watch,
    )


def _recipe(path: str | None, layers: tuple[str, ...], settings: dict[str, Any]) -> Recipe:
    """The recipe of the file, if any, with the options that were given on top."""
    values = read_toml(path) if path else {}
    values |= {key: value for key, value in settings.items() if value is not None}
    recipe = Recipe.from_dict(values, f"recipe {path}" if path else "options")
    return Recipe(**{**vars(recipe), "layers": (*recipe.layers, *map(LayerRule.parse, layers))})


# inspect, eval, export, verify -----------------------------------------------------------------------------


@main.command("inspect")
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@common
def inspect_command(file: str, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Show where the bytes of a .dc file are.

    Tensor by tensor, with the columns of tables 2 and 3 of the paper: bits of a codebook index and of an offset,
    before → after entropy coding and per surviving weight; and section by section. The ratios after prune and
    quantize are those that this file's streams would have at their fixed widths.
    """
    from deepcompress.container.breakdown import inspect

    found = inspect(file)

    def show() -> None:
        from deepcompress.report import tables

        console = tables.output()
        console.out(tables.headline(found), highlight=False)
        console.print()
        console.print(tables.layers_table(found, console.width))
        console.print()
        console.print(tables.sections_table(found))

    _show(as_json, found.as_dict(), show)


@main.command("eval")
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@network_option
@data_options
@trust_option
@max_bytes_option
@common
def eval_command(
    file: str,
    network: str | None,
    data: str | None,
    data_dir: str | None,
    device: str,
    trust_pickle: bool,
    max_bytes: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Rebuild a network and measure it on test data.

    MODEL.dc may also be a dense checkpoint.
    """
    from deepcompress.interop import dense_bytes
    from deepcompress.training.data import load_data
    from deepcompress.training.loop import check_fits, evaluate, pick_device

    source = _load_any(file, trust_pickle, max_bytes)
    target = pick_device(device)
    model = _model(source, network or _network_name(source), file, "rebuilt").to(target)
    samples = load_data(_data_name(data, source.data, file), data_dir).to(target)
    check_fits(model, samples.test_loader())
    found = evaluate(model, samples.test_loader())
    size = Path(file).stat().st_size
    ratio = dense_bytes(source.state) / size
    result = {
        "file": file, "accuracy": found.accuracy, "error": found.error,
        "loss": found.loss if math.isfinite(found.loss) else None, "samples": found.samples,
        "data": samples.name, "file_bytes": size, "ratio": ratio,
    }  # fmt: skip
    _show(as_json, result, lambda: (
        f"{file}: error {found.error:.2f} % (accuracy {found.accuracy:.2f} %) on {found.samples:,} test samples of "
        f"{samples.name}, loss {found.loss:.4f}; {size:,} bytes, {ratio:.2f}×"
    ))  # fmt: skip


@main.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), metavar="FILE", help="x.pt or x.safetensors.")
@max_bytes_option
@common
def export(file: str, output: str, max_bytes: int | None, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Write the dense tensors as .pt or .safetensors."""
    from deepcompress.checkpoint import check_ending, save_checkpoint

    check_ending(output)
    source = _load_any(file, False, max_bytes)
    save_checkpoint(output, source)
    size = Path(output).stat().st_size
    result = {"file": output, "file_bytes": size, "tensors": len(source.state)}
    _show(as_json, result, lambda: f"{output}: {len(source.state)} tensors, {size:,} bytes")


@main.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@max_bytes_option
@common
def verify(file: str, max_bytes: int | None, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Check every checksum and decode everything."""
    from deepcompress.container.reader import ModelFile

    with ModelFile(file) as opened:
        opened.check(max_bytes)
        names = list(opened)
        for name in names:
            opened.read(name)
        size = opened.file_bytes
    result = {"file": file, "ok": True, "file_bytes": size, "tensors": len(names)}
    _show(as_json, result, lambda: f"{file}: intact, {len(names)} tensors in {size:,} bytes")


# Shared by the commands ------------------------------------------------------------------------------------


def _show(as_json: bool, result: dict[str, Any], text: Callable[[], str | None]) -> None:
    """Print the result on stdout: one JSON object, or what `text` returns or prints itself."""
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
        return
    line = text()
    if line is not None:
        click.echo(line)


def _command_line() -> str:
    return " ".join(["deepcompress", *sys.argv[1:]])


def _versions() -> dict[str, str]:
    """What the outcome of a run depends on beside its command and seed."""
    from importlib.metadata import version

    packages = ("torch", "torchvision", "numpy", "scikit-learn", "bitarray")
    found = {name: version(name) for name in packages}
    return {"python": sys.version.split()[0], "deepcompress": __version__, **found}


def _storable(network: str) -> str:
    """A network's name as it may stand in a file: that of the user's own code (file.py:factory) may not."""
    return "" if ".py:" in network else network


def _load_any(file: str, trust_pickle: bool, max_bytes: int | None) -> Checkpoint:
    """A .dc file or a dense checkpoint as a Checkpoint."""
    from deepcompress.checkpoint import Checkpoint, load_checkpoint
    from deepcompress.container.format import MAGIC
    from deepcompress.container.reader import ModelFile
    from deepcompress.loader import load_state_dict

    path = Path(file)
    is_dc = path.suffix == ".dc"
    if not is_dc and path.is_file():
        with path.open("rb") as stream:
            is_dc = stream.read(len(MAGIC)) == MAGIC
    if not is_dc:
        return load_checkpoint(file, trust_pickle)
    with ModelFile(file) as opened:
        header = opened.header
    return Checkpoint(load_state_dict(file, max_bytes=max_bytes), header.network or None, header.data or None)


def _network_name(source: Checkpoint) -> str | None:
    """The network that a file names, or that its tensors fit."""
    from deepcompress import networks

    return source.network or networks.match(source.state)


def _model(source: Checkpoint, name: str | None, file: str, purpose: str) -> nn.Module:
    """The network `name` with the tensors of `source`.

    Raises:
        NetworkError: nobody said which network it is, or the tensors do not fit.
    """
    from deepcompress import networks
    from deepcompress.errors import NetworkError
    from deepcompress.loader import fill

    if name is None:
        raise NetworkError(
            f"{file}: its tensors fit no known network, so it cannot be {purpose}: name it with --network "
            "(your own: --network file.py:factory), or compress it with --no-retrain"
        )
    state = dict(source.state)
    elements = sum(value.numel() for value in state.values())
    model = networks.build(name) if source.network != name else networks.build_known(name, elements)
    fill(model, state, file)
    return model


def _data_name(given: str | None, named: str | None, file: str) -> str:
    if given or named:
        return str(given or named)
    raise DeepCompressError(f"{file}: names no data set; say which with --data (digits, mnist, …, FILE.npz)")
