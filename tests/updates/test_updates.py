"""Updates: the new file bit for bit, whatever the two are, and never a wrong one."""

import hashlib
import os
import random
import re
import tracemalloc
from itertools import product
from pathlib import Path

import pytest
import torch
from layout8 import ranked, rounded
from safetensors.torch import save_file

from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts.exact import Raw
from deepcompress.coding.tensors import TensorInfo
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container import writer
from deepcompress.container.graph import graph_in, pack_graph
from deepcompress.container.reader import ModelFile
from deepcompress.errors import DeepCompressError, FormatError, OutputError, UpdateError
from deepcompress.reading.frameworks import load_state_dict
from deepcompress.reading.recode import recode
from deepcompress.recipe import Recipe
from deepcompress.updates import coder, differences
from deepcompress.updates.container import UpdateFile
from deepcompress.updates.describe import describe
from deepcompress.updates.update import diff, patch

GOLDEN = Path(__file__).parents[1] / "golden"
VALID = Path(__file__).parents[2] / "conformance" / "valid"


def state(seed=0, rows=24):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (8, 3, 3, 3), "fc1.weight": (rows, 40), "fc1.bias": (rows,), "fc2.weight": (6, rows)}
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "steps": torch.tensor(seed)}


def moved(by=0.02):
    """The state, a little trained on."""
    other = state(5)
    return {
        name: value + by * other[name] if value.is_floating_point() else value + 1 for name, value in state().items()
    }


def written(tensors, path, coder="ans", bits=3):
    compress_state(tensors, Recipe(prune=0.7, bits=bits, retrain=False, coder=coder), path)
    return path


def sections_of(path):
    """The tensors of a file as they are stored, by name."""
    with ModelFile(path) as file:
        return {e.name: writer.EncodedTensor(e.info, file.section(e)) for e in file.header.entries}


def made(old, new, folder):
    """The update of two files, applied: what came out is the new one. Returns its bytes."""
    found = diff(old, new, folder / "u.dcp")
    patch(old, folder / "u.dcp", folder / "out")
    assert (folder / "out").read_bytes() == new.read_bytes()
    assert found.file_bytes == (folder / "u.dcp").stat().st_size <= new.stat().st_size + 32
    return found.file_bytes


@pytest.mark.parametrize("coder", ["huffman", "fixed", "ans", "auto", "rans"])
def test_a_network_that_was_trained_on(tmp_path, coder):
    old, new = written(state(), tmp_path / "a.dc", coder), written(moved(), tmp_path / "b.dc", coder)
    size = made(old, new, tmp_path)
    assert size < 0.8 * new.stat().st_size
    described = describe(tmp_path / "u.dcp")
    assert described.kind == "tensors"
    assert {change.name for change in described.changes} == set(state())
    assert hashlib.sha256(old.read_bytes()).hexdigest().startswith(described.old)
    assert hashlib.sha256(new.read_bytes()).hexdigest().startswith(described.new)


def test_what_did_not_change_costs_less_than_a_byte(tmp_path):
    tensors = {f"layer{number}.weight": torch.randn(4, 4) for number in range(30)}
    old = written(tensors, tmp_path / "a.dc")
    assert made(old, old, tmp_path) < 50
    found = sections_of(old)
    found["layer15.weight"] = writer.EncodedTensor(TensorInfo((2,), DType.INT8, Raw()), b"ab")
    new = tmp_path / "b.dc"
    writer.save(new, found.items())
    made(old, new, tmp_path)
    changes = describe(tmp_path / "u.dcp").changes
    assert [(change.what, change.tensors) for change in changes if change.what == "unchanged"] == [
        ("unchanged", 15),
        ("unchanged", 14),
    ]


def test_tensors_come_go_and_change_their_names_shapes_and_dtypes(tmp_path):
    old, tensors = written(state(), tmp_path / "a.dc"), moved()
    other = sections_of(old)
    tensors["fc1.weight"] = torch.randn(30, 40)
    tensors["fc1.bias"] = tensors["fc1.bias"].half()
    tensors["more"] = torch.arange(9)
    found = sections_of(written(tensors, tmp_path / "b.dc")) | {"conv.kernel": other["conv.weight"]}
    new = tmp_path / "c.dc"
    writer.save(new, [(name, found[name]) for name in sorted(found) if name not in ("conv.weight", "fc2.weight")])
    made(old, new, tmp_path)
    made(new, old, tmp_path)
    diff(old, new, tmp_path / "u.dcp")
    what = {change.name: change.what for change in describe(tmp_path / "u.dcp").changes}
    assert what["conv.kernel"] == "renamed"
    assert what["more"] == what["fc1.weight"] == "new"
    assert "fc2.weight" not in what


def test_tensors_in_another_order_and_tied_ones(tmp_path):
    tensors = state()
    old = written(tensors, tmp_path / "a.dc")
    tensors["head.weight"] = tensors["fc1.weight"]
    new = written(dict(sorted(tensors.items(), reverse=True)), tmp_path / "b.dc")
    made(old, new, tmp_path)
    made(new, old, tmp_path)


def test_network_data_and_extensions_may_change(tmp_path):
    tensors, other = written(state(), tmp_path / "a.dc"), tmp_path / "b.dc"
    writer.save(other, sections_of(tensors).items(), "lenet5", "mnist", [writer.Extension("note", b"x" * 20)])
    assert made(tensors, other, tmp_path) < 90
    assert made(other, tensors, tmp_path) < 90


def test_a_graph_stays_comes_and_changes(tmp_path):
    graphs = {"none": b"", "one": b"a graph of nodes", "two": random.Random(0).randbytes(3000)}
    for tensors, when in ((state(), "old"), (moved(), "new")):
        found = sections_of(written(tensors, tmp_path / "plain.dc"))
        for name, graph in graphs.items():
            writer.save(tmp_path / f"{name}-{when}.dc", found.items(), extensions=pack_graph(graph))
    sizes = {}
    for old, new in product(graphs, graphs):
        sizes[old, new] = made(tmp_path / f"{old}-old.dc", tmp_path / f"{new}-new.dc", tmp_path)
        with ModelFile(tmp_path / "out") as file:
            assert graph_in(file.header.extensions) == graphs[new]
    assert sizes["two", "two"] < sizes["none", "two"] - 2900  # a graph that stays is not told


@pytest.mark.parametrize("coder", ["huffman", "ans", "rans", "fixed"])
def test_the_same_tensors_by_another_coder(tmp_path, coder):
    old, new = written(state(), tmp_path / "a.dc", "auto"), tmp_path / "b.dc"
    recode(old, new, coder)
    made(old, new, tmp_path)
    made(new, old, tmp_path)


GOLDENS = sorted(GOLDEN.glob("*.dc")) + sorted(VALID.glob("v*-book*.dc"))[::4]


@pytest.mark.parametrize(("old", "new"), [*zip(GOLDENS, GOLDENS[1:] + GOLDENS[:1], strict=True)])
def test_files_that_this_release_would_write_otherwise(tmp_path, old, new):
    made(old, new, tmp_path)
    made(new, old, tmp_path)


@pytest.mark.parametrize(
    ("old", "update", "new"),
    [
        ("old.dc", "tensors.dcp", "new.dc"),
        ("old.safetensors", "pieces.dcp", "new.safetensors"),
        ("ranks-old.dc", "ranks-1.dcp", "ranks-new.dc"),  # layout 8 in version 1: by the model that this release fits
        ("ranks-old.dc", "ranks-2.dcp", "ranks-new.dc"),
    ],
)
def test_golden_updates_are_applied_for_ever(tmp_path, old, update, new):
    folder = GOLDEN / "updates"
    patch(folder / old, folder / update, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (folder / new).read_bytes()


def documented(section, name, folder):
    """The two files of an example of the specification, whose update is what the page shows, and gives the new one."""
    text = (Path(__file__).parents[2] / "docs" / "update-format.md").read_text(encoding="utf-8")
    text = text.split(f"## {section}. ")[1].split("\n## ")[0]
    dump = "".join(re.findall(r"^[0-9a-f]{4}  ([0-9a-f ]+)$", text, re.MULTILINE))
    old, new, update = (GOLDEN / "updates" / f"{name}{ending}" for ending in ("-old.dc", "-new.dc", ".dcp"))
    assert bytes.fromhex(dump) == update.read_bytes()
    patch(old, update, folder / "out")
    assert (folder / "out").read_bytes() == new.read_bytes()
    facts = "".join(re.findall(r"`([0-9a-f ]+)`", text.split("Inflated")[1].split("\n\n")[1]))
    with UpdateFile(update) as opened:
        assert opened.facts == bytes.fromhex(facts)
    return old, new


def test_the_example_of_the_documentation(tmp_path):
    old, new = documented(9, "example", tmp_path)
    before, after = load_state_dict(old), load_state_dict(new)
    i = torch.arange(576)
    listed = torch.tensor([0, 0.5, -0.25, 0, 1, 0, 0, -1.5, 0, 0])
    assert torch.equal(before["fc.weight"].flatten(), listed[(7 * i * i + 3 * i) % 101 % 10])
    assert torch.equal(before["fc.bias"], (5 * i[:24] % 24 - 11.5) / 16)
    assert (before["fc.weight"] != after["fc.weight"]).flatten().nonzero().flatten().tolist() == [60, 99, 306]


def test_the_example_of_version_2(tmp_path):
    old, new = (load_state_dict(path)["fc.weight"] for path in documented(10, "numbers", tmp_path))
    i = torch.arange(576)
    numbers = torch.tensor([0, 2, -1, 0, 4, 0, 0, -6, 0, 0])[(7 * i * i + 3 * i) % 101 % 10]
    steps = torch.full((24, 1), 0.25)
    steps[::6] = 0.5
    assert torch.equal(old, numbers.reshape(24, 24) * steps)
    steps[5] = 0.25 * torch.tensor(2.0) ** 0.25
    wanted = numbers.reshape(24, 24).clone()
    row = wanted[5]
    row[row == 4], row[row == -6] = 3, -5
    wanted.view(-1)[[60, 99, 306]] = torch.tensor([-1, 2, 0])
    assert torch.equal(new, wanted * steps)


def test_a_chain_of_updates(tmp_path):
    files = [written(moved(0.01 * step), tmp_path / f"{step}.dc") for step in range(4)]
    for step in range(3):
        diff(files[step], files[step + 1], tmp_path / f"{step}.dcp")
    last = files[0]
    for step in range(3):
        patch(last, tmp_path / f"{step}.dcp", tmp_path / "now.dc")
        last = tmp_path / "now.dc"
    assert last.read_bytes() == files[3].read_bytes()


# Checkpoints ---------------------------------------------------------------------------------------------------


def saved(tensors, path):
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, {"format": "pt"})
    return path


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_step_of_the_optimizer(tmp_path, ending, dtype):
    before = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state().items()}
    after = {name: value.to(dtype) if value.is_floating_point() else value for name, value in moved(1e-3).items()}
    old, new = saved(before, tmp_path / f"a{ending}"), saved(after, tmp_path / f"b{ending}")
    assert made(old, new, tmp_path) < 0.75 * new.stat().st_size
    names = {change.name for change in describe(tmp_path / "u.dcp").changes}
    assert names >= ({"conv.weight", "fc1.weight"} if ending == ".safetensors" else {"data/0", "data/1"})


def test_bfloat16_after_a_small_step_is_a_small_part(tmp_path):
    before = {"w": torch.randn(200, 300).bfloat16(), "same": torch.randn(100, 100).bfloat16()}
    after = {**before, "w": (before["w"].float() + 1e-4 * torch.randn(200, 300)).bfloat16()}
    old, new = saved(before, tmp_path / "a.safetensors"), saved(after, tmp_path / "b.safetensors")
    changed = int((before["w"] != after["w"]).sum())
    assert made(old, new, tmp_path) < 2 * changed < 3000 * 2
    described = {change.name: change for change in describe(tmp_path / "u.dcp").changes}
    assert described["w"].changed == changed
    assert "same" not in described


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_checkpoints_of_other_tensors(tmp_path, ending):
    old = saved(state(), tmp_path / f"a{ending}")
    tensors = state(3, rows=31)
    tensors["renamed.weight"] = tensors.pop("conv.weight").bfloat16()
    tensors["fc1.bias"] = torch.zeros(0)
    new = saved({**tensors, "ones": torch.ones(1000)}, tmp_path / f"b{ending}")
    made(old, new, tmp_path)
    made(new, old, tmp_path)
    made(old, saved({"a": torch.zeros(1)}, tmp_path / f"c{ending}"), tmp_path)


def test_a_checkpoint_of_another_container(tmp_path):
    made(saved(state(), tmp_path / "a.pt"), saved(moved(), tmp_path / "b.safetensors"), tmp_path)


def test_a_small_tensor_that_comes_first_does_not_slow_the_others(tmp_path, monkeypatch):
    """The loops that code differences are chosen once a file: by all of it."""
    asked = []

    def coder_for(elements):
        asked.append(elements)
        return coder.coder_for(elements)

    monkeypatch.setattr(differences, "coder_for", coder_for)
    before = {"a.bias": torch.randn(8), "b.weight": torch.randn(100, 100)}
    after = {name: value * 1.001 for name, value in before.items()}
    old, new = saved(before, tmp_path / "a.safetensors"), saved(after, tmp_path / "b.safetensors")
    made(old, new, tmp_path)
    assert len(asked) == 2  # one way and the other
    assert min(asked) >= 10_008


def test_an_embedding_that_has_grown(tmp_path):
    rows = torch.randn(500, 16).bfloat16()
    old = saved({"embed": rows}, tmp_path / "a.safetensors")
    new = saved({"embed": torch.cat([rows, torch.randn(10, 16).bfloat16()])}, tmp_path / "b.safetensors")
    assert made(old, new, tmp_path) < 600


# What cannot be ------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    old, new = written(state(), tmp_path / "a.dc"), written(moved(), tmp_path / "b.dc")
    diff(old, new, tmp_path / "u.dcp")
    return old, new, tmp_path / "u.dcp"


def refused(line, *arguments, **more):
    out = arguments[0].parent / "result"
    with pytest.raises(DeepCompressError, match=line) as found:
        patch(*arguments, out, **more)
    assert "\n" not in str(found.value)
    assert not out.exists()
    return found.value


def test_an_update_is_only_for_its_file(pair, tmp_path):
    old, new, update = pair
    third = written(state(9), tmp_path / "c.dc")
    assert isinstance(refused("is for another file, whose SHA-256 begins with", third, update), UpdateError)
    refused("is already applied", new, update)
    damaged = tmp_path / "d.dc"
    damaged.write_bytes(old.read_bytes()[:-1] + b"\0")
    refused("is for another file", damaged, update)
    refused("no such file", tmp_path / "none.dc", update)
    refused("no such file", old, tmp_path / "none.dcp")
    refused("not an update", old, old)
    refused("not a regular file", old, tmp_path)


def test_a_file_may_be_patched_in_its_place(pair):
    old, new, update = pair
    patch(old, update, old)
    assert old.read_bytes() == new.read_bytes()


def test_files_that_no_update_is_made_of(tmp_path, pair):
    old, new, _ = pair
    text = tmp_path / "notes.txt"
    text.write_text("nothing to see here, and no weights at all")
    for first, second, line in [
        (old, text, "this file is none of them"),
        (tmp_path / "none.dc", new, "no such file"),
        (old, tmp_path, "not a regular file"),
        (old, saved(state(), tmp_path / "s.safetensors"), "two .dc files, or of two checkpoints"),
    ]:
        with pytest.raises(UpdateError, match=line):
            diff(first, second, tmp_path / "x.dcp")
    cut = tmp_path / "cut.dc"
    cut.write_bytes(new.read_bytes()[:-9])
    with pytest.raises(FormatError):
        diff(old, cut, tmp_path / "x.dcp")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "s.safetensors").read_bytes()[:-9])
    with pytest.raises(UpdateError, match="damaged"):
        diff(cut, cut, tmp_path / "x.dcp")
    assert not (tmp_path / "x.dcp").exists()


def test_memory_is_bounded(pair):
    old, _, update = pair
    refused("more than the 1000 bytes allowed|more than the 1000 allowed", old, update, max_bytes=1000)


def of_any_coder(tensors, path):
    return written(tensors, path, "auto")


@pytest.mark.parametrize("make", [of_any_coder, ranked, rounded, saved])
def test_damage_gives_one_clear_error_and_no_file(tmp_path, make):
    ending = ".safetensors" if make is saved else ".dc"
    later = moved(1e-4 if make is saved else 0.02)
    old, new = make(state(), tmp_path / f"a{ending}"), make(later, tmp_path / f"b{ending}")
    diff(old, new, tmp_path / "u.dcp")
    good, wanted, rng = (tmp_path / "u.dcp").read_bytes(), new.read_bytes(), random.Random(0)
    with UpdateFile(tmp_path / "u.dcp") as opened:
        facts = opened.facts
        payload = opened.take(opened.left, "all")
    for _ in range(300):
        whole = rng.random() < 0.5
        raw = bytearray(good if whole else facts)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(raw))
            raw[at : at + rng.choice((0, 1, 1, 3))] = rng.randbytes(rng.choice((0, 1, 1, 2)))
        raw = raw[: rng.randrange(len(raw))] if rng.random() < 0.1 else raw
        # Facts are deflated, and to damage what is inflated goes deeper.
        mutated = bytes(raw) if whole else good[:29] + varint(len(raw)) + b"\0" + bytes(raw) + payload
        (tmp_path / "m.dcp").write_bytes(mutated)
        try:
            patch(old, tmp_path / "m.dcp", tmp_path / "out", max_bytes=1 << 20)
        except DeepCompressError as error:
            assert "\n" not in str(error)
            assert not (tmp_path / "out").exists()
        else:
            assert (tmp_path / "out").read_bytes() == wanted
            (tmp_path / "out").unlink()
        try:
            describe(tmp_path / "m.dcp")
        except DeepCompressError as error:
            assert "\n" not in str(error)


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def test_killed_at_any_moment_the_old_file_is_there(pair, monkeypatch):
    old, _, update = pair
    before = old.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as stopped:

            def stop(*_arguments, **_more):
                raise OSError(28, "No space left on device")

            stopped.setattr(os if name == "fsync" else Path, name, stop)
            with pytest.raises(OutputError, match="No space left"):
                patch(old, update, old)
        assert old.read_bytes() == before
        assert not list(old.parent.glob(".*.tmp"))


def test_memory_of_a_large_checkpoint_is_that_of_pieces(tmp_path):
    before = {f"w{number}": torch.randn(1 << 21).bfloat16() for number in range(4)}
    old = saved(before, tmp_path / "a.safetensors")
    for value in before.values():
        value[::50] *= 1.01
    new = saved(before, tmp_path / "b.safetensors")
    for run in (
        lambda: diff(old, new, tmp_path / "u.dcp"),
        lambda: patch(old, tmp_path / "u.dcp", tmp_path / "out"),
    ):
        run()  # compiles
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * before["w0"].nbytes
    assert (tmp_path / "out").read_bytes() == new.read_bytes()
