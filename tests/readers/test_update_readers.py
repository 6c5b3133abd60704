"""The readers that apply updates: the suite of updates, mutations, memory, and power that fails."""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from browser import needs_node
from ccompiler import READER, build, needs_cc

from deepcompress.coding.bits import varint
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import DeepCompressError
from deepcompress.recipe import Recipe
from deepcompress.updates.container import UpdateFile
from deepcompress.updates.update import diff, patch

ROOT = Path(__file__).parents[2]
SUITE, JS = ROOT / "conformance", ROOT / "readers" / "js"
APPLY = ("update.c", "apply.c")
GOLDEN = ROOT / "tests" / "golden" / "updates"
sys.path[:0] = [str(SUITE)]
generator, run_updates = importlib.import_module("updates"), importlib.import_module("run_updates")
run = importlib.import_module("run")
INVALID = SUITE / "updates" / "invalid"
SECTIONS = json.loads((INVALID / "sections.json").read_text(encoding="utf-8"))
NEITHER = "it does not give the file that it names"  # all that is wrong is the file that comes out

SANITIZERS = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("update")
    small = ["-DDC_SMALL=1", "-DDC_TEXTS=1"]
    return {
        "all": build(folder, "all", *SANITIZERS, sources=APPLY),
        "small": build(folder, "small", *small, sources=APPLY),
        "huffman": build(folder, "huffman", *small, "-DDC_ADAPTIVE=0", "-DDC_RANS=0", sources=APPLY),
    }


def by_package(old, update, new):
    try:
        patch(old, update, new)
    except DeepCompressError as error:
        return run.Answer(1, "", str(error))
    return run.Answer(0, "", "")


def test_the_suite_is_large_and_small_enough():
    assert len(run_updates.updates()) == 78 + 107
    assert set(SECTIONS) == {path.stem for path in INVALID.glob("*.dcp")}
    assert sum(path.stat().st_size for path in (SUITE / "updates").rglob("*.*")) < 100_000


def test_the_generator_makes_the_suite():
    """Updates may become others with another release, which must apply those that are here; their files may not."""
    made, kept = generator.valid(), {path.name: path.read_bytes() for path in (SUITE / "updates" / "valid").iterdir()}
    assert made.keys() == kept.keys()
    assert all(made[name] == kept[name] for name in kept if name.endswith(".dc"))
    for name, (section, content) in generator.invalid().items():
        assert (section, content) == (SECTIONS[name], (INVALID / f"{name}.dcp").read_bytes()), name


def test_the_package_passes():
    assert run_updates.run(run_updates.updates(), by_package) == {}


@needs_cc
@pytest.mark.parametrize("name", ["all", "small"])
def test_the_c_reader_passes(programs, name):
    assert run_updates.run(run_updates.updates(), run.by_command([str(programs[name])], timeout=60), version=1) == {}


APPLY_ALL = """
import { readFileSync } from "node:fs";
import { patch } from %r;
for (const [old, update] of JSON.parse(readFileSync(0))) {
  let found;
  try {
    found = { made: Buffer.from(patch(readFileSync(old), readFileSync(update))).toString("base64") };
  } catch (error) {
    found = { name: error.name, message: error.message };
  }
  console.log(JSON.stringify(found));
}
"""


def by_javascript(pairs):
    """What `patch` of the JavaScript reader makes of old files and updates, or the error that it throws."""
    command = ["node", "--input-type=module", "-e", APPLY_ALL % str(JS / "update.js")]
    given = json.dumps([[str(path) for path in pair] for pair in pairs])
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=300)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


old_of = run_updates.old_of


def is_of_version_2(update):
    return update.read_bytes()[3:4] == b"\2"


@needs_node
def test_the_javascript_reader_passes(tmp_path):
    updates = run_updates.updates()
    for update, found in zip(updates, by_javascript([(old_of(each), each) for each in updates]), strict=True):
        if update.parent.name == "invalid" or is_of_version_2(update):
            assert found["name"] in ("UpdateError", "FormatError"), update.stem
            continue
        patch(old_of(update), update, tmp_path / "new")
        assert base64.b64decode(found["made"]) == (tmp_path / "new").read_bytes(), update.stem


def is_strict(name, message):
    """Whether a rule was found to be broken, and not only that another file comes out."""
    return (NEITHER in message) == (name in ("another-new-file", "whole-of-another-file"))


@needs_cc
def test_what_breaks_a_rule_is_refused_for_that_by_c(programs, tmp_path):
    for name in SECTIONS:
        paths = [INVALID / "old.dc", INVALID / f"{name}.dcp", tmp_path / "new"]
        done = subprocess.run([programs["all"], *paths], capture_output=True, text=True, check=False)
        assert is_strict(name, done.stderr), (name, done.stderr)
        assert re.search(r" \(section \d+ of the (update )?format\)\n$", done.stderr)


@needs_node
def test_what_breaks_a_rule_is_refused_for_that_by_javascript():
    found = by_javascript([(INVALID / "old.dc", INVALID / f"{name}.dcp") for name in SECTIONS])
    for name, each in zip(SECTIONS, found, strict=True):
        assert is_strict(name, each["message"]), (name, each)


@needs_cc
@pytest.mark.parametrize(
    ("old", "update", "message"),
    [
        ("old.safetensors", "pieces.dcp", "this is an update of a checkpoint, which `deepcompress patch` applies"),
        ("new.dc", "tensors.dcp", "the update is already applied: this is the new file"),
        ("new.safetensors", "tensors.dcp", "the update is for another file"),
        ("old.dc", "new.dc", "this is no update"),
    ],
)
def test_what_readers_say_of_other_files(programs, tmp_path, old, update, message):
    paths = [GOLDEN / old, GOLDEN / update, tmp_path / "new"]
    done = subprocess.run([programs["all"], *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert message in done.stderr
    if shutil.which("node"):
        (found,) = by_javascript([paths[:2]])
        assert message in found["message"]


@pytest.mark.parametrize("program", [pytest.param("c", marks=needs_cc), pytest.param("js", marks=needs_node)])
@pytest.mark.parametrize("name", ["old.dc", "u.dcp", "other"])
def test_programs_overwrite_nothing(programs, tmp_path, program, name):
    for source, copy in (("old.dc", "old.dc"), ("tensors.dcp", "u.dcp"), ("new.dc", "other")):
        shutil.copy(GOLDEN / source, tmp_path / copy)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    command = [programs["all"]] if program == "c" else ["node", JS / "apply.js"]
    done = subprocess.run(
        [*command, tmp_path / "old.dc", tmp_path / "u.dcp", tmp_path / name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path / name}: it is there already; remove it, or give another name\n"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@needs_cc
def test_what_cannot_be_opened_is_not_overwritten_by_c(programs, tmp_path):
    """As a file that may not be read; a link to itself is one for the superuser, too."""
    new = tmp_path / "new.dc"
    new.symlink_to(new)
    done = subprocess.run(
        [programs["all"], GOLDEN / "old.dc", GOLDEN / "tensors.dcp", new], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"Error: {new}: {os.strerror(errno.ELOOP)}\n")
    assert new.is_symlink()


def trained(folder, coder, rows=40, columns=60):
    """Two files of a network before and after some training, and the update."""
    generator = torch.Generator().manual_seed(0)
    before = {
        "fc1.weight": torch.randn(rows, columns, generator=generator),
        "fc1.bias": torch.randn(rows, generator=generator),
    }
    after = {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in before.items()}
    for tensors, name in ((before, "old.dc"), (after, "new.dc")):
        compress_state(tensors, Recipe(prune=0.7, bits=3, retrain=False, coder=coder), folder / name)
    diff(folder / "old.dc", folder / "new.dc", folder / "u.dcp")
    return folder / "old.dc", folder / "u.dcp", folder / "new.dc"


@needs_cc
@pytest.mark.parametrize(("program", "coder"), [("all", "ans"), ("huffman", "huffman"), ("all", "auto")])
def test_c_writes_what_compress_writes(programs, tmp_path, program, coder):
    old, update, new = trained(tmp_path, coder)
    subprocess.run([programs[program], old, update, tmp_path / "made"], check=True, capture_output=True)
    assert (tmp_path / "made").read_bytes() == new.read_bytes()


@needs_cc
@pytest.mark.parametrize(
    ("name", "c", "javascript"),
    [
        (
            "ranks-1",
            "it tells a tensor in a layout that this reader does not write; `deepcompress patch` does "
            "(section 4 of the update format)",
            "a tensor of layout 8 cannot be written by this reader",
        ),
        (
            "ranks-2",
            "this reader applies version 1 of updates; `deepcompress patch` may know this one "
            "(section 1 of the update format)",
            "this reader applies version 1 of updates; `deepcompress patch` may know this one",
        ),
    ],
)
def test_layout_8_is_left_to_the_package(programs, tmp_path, name, c, javascript):
    old, update = GOLDEN / "ranks-old.dc", GOLDEN / f"{name}.dcp"
    done = subprocess.run(
        [programs["all"], old, update, tmp_path / "made"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"Error: {update}: {c}\n")
    if shutil.which("node"):
        (found,) = by_javascript([(old, update)])
        assert found["message"].startswith(javascript)


@needs_cc
def test_little_memory_gives_the_same_file(programs, tmp_path):
    old, update, new = trained(tmp_path, "ans")
    found = {}
    for memory in (0, 48_000, 40_000, 20_000):
        done = subprocess.run(
            [programs["small"], old, update, tmp_path / "made", *([str(memory)] if memory else [])],
            capture_output=True,
            text=True,
            check=False,
        )
        found[memory] = done.returncode
        if not done.returncode:
            assert (tmp_path / "made").read_bytes() == new.read_bytes()
            (tmp_path / "made").unlink()
            used = int(re.search(r"with (\d+) bytes of memory", done.stderr)[1])
            assert used <= (memory or 1 << 16)
        else:
            assert "the memory is too small" in done.stderr
    assert found == {0: 0, 48_000: 0, 40_000: 0, 20_000: 1}


@needs_cc
def test_memory_is_what_the_documentation_says(programs, tmp_path):
    """Of LeNet-300-100, whose largest layer has 235,200 weights."""
    old, new = (ROOT / "results" / f"lenet-300-100-{name}.dc" for name in ("han2016-seed0", "mnist"))
    diff(old, new, tmp_path / "u.dcp")
    done = subprocess.run(
        [programs["small"], old, tmp_path / "u.dcp", tmp_path / "made"], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "made").read_bytes() == new.read_bytes()
    used = int(re.search(r"with (\d+) bytes of memory", done.stderr)[1])
    (said,) = re.findall(r"LeNet-300-100.*\| ([\d,]+) bytes \|", (READER / "README.md").read_text(encoding="utf-8"))
    assert used <= int(said.replace(",", "")) < 140_000


# Mutations -------------------------------------------------------------------------------------------------


def mutations(count):
    """Old files with damaged updates of them, whose facts are not deflated, so that all of them can be reached."""
    rng = random.Random(0)
    updates = [
        path
        for path in run_updates.updates()
        if old_of(path).stat().st_size < 1000 and path.parent.name == "valid" and not is_of_version_2(path)
    ]
    for number in range(count):
        path = updates[number % len(updates)]
        raw = bytearray(path.read_bytes())
        if raw[28] == 1:
            with UpdateFile(path) as update:
                raw[29:] = varint(len(update.facts)) + varint(0) + update.facts + update.take(update.left, "payloads")
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(28, len(raw))] = rng.randrange(256)
        if number % 5 == 0:
            del raw[rng.randrange(28, len(raw)) :]
        yield old_of(path), bytes(raw)


@pytest.fixture(scope="module")
def mutated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    pairs = []
    for number, (old, raw) in enumerate(mutations(600)):
        (folder / f"{number}.dcp").write_bytes(raw)
        pairs.append((old, folder / f"{number}.dcp"))
    return pairs


def digest_of(update):
    return update.read_bytes()[12:28]


HARNESS = """
#include "{source}"
#include <stdio.h>

static size_t left_blocks, written;

static int block(void *context, const uint8_t *bytes, size_t count) {{
  (void)bytes;
  if (count > *(size_t *)context || !left_blocks--) return 1;
  written += count;
  return 0;
}}

static size_t loaded(const char *path, uint8_t *bytes, size_t most) {{
  FILE *file = fopen(path, "rb");
  size_t size = fread(bytes, 1, most, file);
  fclose(file);
  return size;
}}

/* Power fails at each block in turn: the old file is there, and nothing says that the new one is good. */
static int fail_everywhere(char **paths) {{
  static uint8_t old[4096], before[4096], bytes[4096];
  static uint64_t memory[40000];
  size_t blocks, size = 64;
  dc_update update;
  dc_status status;
  memset(&update, 0, sizeof update);
  update.old_bytes = loaded(paths[0], old, sizeof old);
  update.update_bytes = loaded(paths[1], bytes, sizeof bytes);
  memcpy(before, old, sizeof old);
  update.old = old;
  update.update = bytes;
  update.block_bytes = size;
  update.write = block;
  update.context = &size;
  for (blocks = 0;; blocks++) {{
    left_blocks = blocks;
    written = 0;
    status = dc_apply(&update, memory, sizeof memory);
    if (memcmp(before, old, sizeof old)) return 3;
    if (!status) break;
    if (dc_code(status) != DC_WRITE || written != blocks * size) return 4;
  }}
  printf("%lu %lu\\n", (unsigned long)blocks, (unsigned long)written);
  return update.new_bytes == written ? 0 : 5;
}}

int main(int count, char **paths) {{
  static uint8_t bytes[1 << 17];
  if (count == 4 && !memcmp(paths[1], "power", 6)) return fail_everywhere(paths + 2);
  for (; count > 1; count--) LLVMFuzzerTestOneInput(bytes, loaded(paths[count - 1], bytes, sizeof bytes));
  return 0;
}}
"""


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    (folder / "harness.c").write_text(HARNESS.format(source=READER / "fuzz_update.c"))
    return build(folder, "harness", *SANITIZERS, sources=(folder / "harness.c",))


@needs_cc
def test_power_may_fail_at_each_block(harness):
    command = [harness, "power", GOLDEN / "old.dc", GOLDEN / "tensors.dcp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    size = (GOLDEN / "new.dc").stat().st_size
    assert (done.returncode, done.stdout) == (0, f"{-(-size // 64)} {size}\n")


@needs_cc
def test_mutated_updates_do_no_harm_in_c(mutated, harness, tmp_path):
    paths = []
    for old, update in mutated:
        paths.append(tmp_path / update.stem)
        paths[-1].write_bytes(old.stat().st_size.to_bytes(2, "little") + old.read_bytes() + update.read_bytes())
    done = subprocess.run([harness, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@needs_node
def test_mutated_updates_do_no_harm_in_javascript(mutated):
    found = by_javascript(mutated)
    refused = 0
    for (_, update), each in zip(mutated, found, strict=True):
        if "made" in each:
            assert hashlib.sha256(base64.b64decode(each["made"])).digest()[:16] == digest_of(update)
        else:
            assert each["name"] in ("UpdateError", "FormatError"), each
            refused += 1
    assert refused > 500
