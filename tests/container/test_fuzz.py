"""The fuzz target over its corpus, and over mutations that need no atheris."""

import random
import sys
from pathlib import Path

import pytest

from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.layouts.dense import Dense, Streams
from deepcompress.coding.layouts.exact import Constant, Planes, Raw, Rows
from deepcompress.coding.layouts.ranked import Multiples, Ranks
from deepcompress.coding.layouts.references import Alias, Copy
from deepcompress.coding.layouts.relative import Literal, Relative
from deepcompress.coding.streams import Coder
from deepcompress.coding.tensors import Encoding
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError

FUZZ = Path(__file__).parent.parent.parent / "fuzz"
CORPUS = sorted((FUZZ / "corpus").iterdir())


@pytest.fixture
def target(monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    monkeypatch.setattr(sys, "path", list(sys.path))  # the target puts the tests' own reader there
    import fuzz_reader

    return fuzz_reader


@pytest.mark.parametrize("seed", CORPUS, ids=lambda path: path.stem)
def test_the_corpus(target, tmp_path, seed):
    refused = seed.stem in {"laned", "required"}  # short streams with lanes, and an extension that nobody knows
    assert target.check(seed.read_bytes(), tmp_path / "model.dc") == ("refused" if refused else "accepted")


def test_the_corpus_has_all_that_the_format_has(target):
    kinds, types, layouts, coders, offsets, features = (set() for _ in range(6))
    for seed in CORPUS:
        try:
            with ModelFile(seed) as file:
                infos = [entry.info for entry in file.header.entries]
                features |= {"extension"} if file.header.extensions else set()
        except FormatError:
            continue
        kinds |= {(info.encoding, info.dtype) for info in infos if info.encoding in (Encoding.RAW, Encoding.PLANES)}
        types |= {info.dtype for info in infos if info.encoding is Encoding.CODED}
        layouts |= {type(info.layout) for info in infos}
        streams = [info.layout for info in infos if isinstance(info.layout, Streams)]
        coders |= {layout.stream_coder for layout in streams}
        offsets |= {layout.offsets.stream_coder for layout in streams if isinstance(layout, Relative)}
        features |= {"shared" for info in infos if info.encoding is Encoding.CODED and info.target is not None}
    assert kinds == {(encoding, dtype) for encoding in (Encoding.RAW, Encoding.PLANES) for dtype in DType}
    assert types == {dtype for dtype in DType if dtype.is_float}
    assert layouts == {Raw, Planes, Constant, Rows, Alias, Copy, Dense, Relative, Literal, Adaptive, Ranks, Multiples}
    assert coders == set(Coder)
    assert offsets == set(Coder) - {Coder.LITERAL}
    assert features == {"extension", "shared"}
    assert sum(seed.stat().st_size for seed in CORPUS) < 100_000


@pytest.mark.parametrize("seed", CORPUS, ids=lambda path: path.stem)
def test_a_file_is_taken_apart_and_put_together_again(target, seed):
    data = seed.read_bytes()
    assert target.assemble(*target.take_apart(data)) == data


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_mutations(target, tmp_path, path):
    """A little of what the fuzzer does, the same each time."""
    rng = random.Random(path.stem)

    def some_bytes(data, max_size):
        out = bytearray(data or b"\0")
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(out))
            out[at : at + rng.randrange(2)] = rng.choice((b"", rng.randbytes(1), b"\xff", b"\0"))
            out = out or bytearray(b"\0")
        return bytes(out[:max_size])

    data = path.read_bytes()
    mutants = [target.mutate(data, 1 << 16, seed, some_bytes) for seed in range(40)]
    outcomes = {target.check(mutant, tmp_path / "model.dc") for mutant in mutants}
    assert "refused" in outcomes
