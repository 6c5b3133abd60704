"""The C reader: the conformance suite, its subset and small build, and the example on an emulated microcontroller."""

import importlib
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from ccompiler import READER, build, needs_cc

import deepcompress as dc

ROOT = Path(__file__).parent.parent
SUITE, EXAMPLE = ROOT / "conformance", ROOT / "examples" / "microcontroller"
sys.path.insert(0, str(SUITE))
run = importlib.import_module("run")


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    small = ["-DDC_SMALL=1", "-DDC_TEXTS=1"]
    return {
        "all": build(folder, "all"),
        "small": build(folder, "small", *small),
        "subset": build(folder, "subset", *small, "-DDC_HUFFMAN_ONLY=1"),
        "neither": build(folder, "neither", *small, "-DDC_ADAPTIVE=0", "-DDC_RANS=0"),
    }


def complaints(program, pattern=""):
    return run.run(run.cases(SUITE, pattern), run.by_command([str(program)], 60), jobs=2)


@needs_cc
def test_it_passes_the_suite(readers):
    assert complaints(readers["all"]) == {}


@needs_cc
@pytest.mark.parametrize(
    "pattern", ["v1-lanes", "v2-model-rank", "v3-gaps", "v3-neighbours", "v3-streams", "s18-", "s19-"]
)
def test_the_small_build_decodes_the_same(readers, pattern):
    assert complaints(readers["small"], pattern) == {}


@needs_cc
def test_a_build_without_a_coder_says_which_section_it_lacks(readers):
    assert complaints(readers["neither"], "v3-rows") == complaints(readers["neither"], "v2-deflated") == {}
    for name, section in (("v2-model-rank-2", 11), ("v3-gaps", 17)):
        answer = subprocess.run(
            [readers["neither"], SUITE / "valid" / f"{name}.dc"], capture_output=True, text=True, check=False
        )
        says = f'the file needs what this reader does not have (section {section} of the format), at "w"\n'
        assert (answer.returncode, answer.stderr[-len(says) :]) == (1, says)


@needs_cc
def test_the_subset_reads_version_1_and_says_what_it_lacks(readers):
    assert complaints(readers["subset"], "v1-") == complaints(readers["subset"], "s04-") == {}
    for name, section in (("v2-literal", 9), ("v3-copy", 13)):
        file = SUITE / "valid" / f"{name}.dc"
        answer = subprocess.run([readers["subset"], file], capture_output=True, text=True, check=False)
        says = f"the file needs what this reader does not have (section {section} of the format)"
        assert (answer.returncode, answer.stdout, answer.stderr) == (1, "", f"Error: {file}: {says}\n")


@needs_cc
def test_it_prints_one_tensor(readers):
    file = SUITE / "valid" / "v1-literal-float32.dc"
    (name, values), *_ = dc.load_state_dict(file).items()
    lines = subprocess.run([readers["all"], file, name], capture_output=True, text=True, check=True).stdout.split()
    assert [float(line) for line in lines] == pytest.approx(values.flatten().tolist(), rel=1e-8)
    wrong = subprocess.run([readers["all"], file, "no"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (1, f'Error: {file} has no tensor "no"\n')
    assert subprocess.run([readers["all"]], capture_output=True, check=False).returncode == 2


@needs_cc
def test_both_ways_of_reading_agree_on_every_file(tmp_path):
    (tmp_path / "both.c").write_text(BOTH.format(source=READER / "fuzz.c"))
    both = build(tmp_path, "both", sources=("deepcompress.c", tmp_path / "both.c"))
    subprocess.run([both, *SUITE.glob("*valid/*.dc")], check=True)


BOTH = """
#include "{source}"
#include <stdio.h>
int main(int count, char **paths) {{
  static uint8_t bytes[1 << 20];
  for (; count > 1; count--) {{
    FILE *file = fopen(paths[count - 1], "rb");
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    LLVMFuzzerTestOneInput(bytes, size); /* aborts if the elements one by one are others than all at once */
  }}
  return 0;
}}
"""

TABLES = """
#include "{source}"
#include <stdio.h>
#include <stdlib.h>
int main(void) {{
  struct dc_model *model = calloc(1, sizeof *model);
  int t;
  model->squash = malloc(2 * SQUASHED);
#if DC_SMALL
  model->least = malloc(2 * LARGEST);
#else
  model->stretch = malloc(2 * STRETCHED);
#endif
  fill_tables(model);
  for (t = -LARGEST; t <= LARGEST; t++) printf("%d ", (int)squash(model, t));
  for (t = 0; t < 65536; t++) printf("%d ", (int)stretch(model, (uint32_t)t));
  return 0;
}}
"""


@needs_cc
@pytest.mark.parametrize("small", [0, 1])
def test_the_tables_of_the_model_have_the_checksums_of_the_specification(tmp_path, small):
    (tmp_path / "tables.c").write_text(TABLES.format(source=READER / "deepcompress.c"))
    program = build(tmp_path, "tables", "-w", f"-DDC_SMALL={small}", sources=(tmp_path / "tables.c",))
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    numbers = [int(number) for number in out.split()]
    squash = b"".join(number.to_bytes(2, "little") for number in numbers[:5761])
    stretch = b"".join(number.to_bytes(2, "little", signed=True) for number in numbers[5761:])
    assert (zlib.crc32(squash), zlib.crc32(stretch)) == (0xD4424BCA, 0x671857E9)


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
def test_the_code_is_as_small_as_the_documentation_says(tmp_path):
    sizes = subprocess.run(
        ["make", "-s", "-C", READER, f"OUT={tmp_path}", "size"], capture_output=True, text=True, check=True
    ).stdout
    measured = [int(number) for number in re.findall(r"^ *(\d+)\t", sizes, re.MULTILINE)]
    said = re.findall(r"^\| .* \| ([\d,]+) bytes \|$", (READER / "README.md").read_text(), re.MULTILINE)
    assert len(measured) == len(said) == 7
    for found, number in zip(measured, said, strict=True):  # compilers differ a little
        assert found < 1.05 * int(number.replace(",", ""))


TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm", "make")
missing = [tool for tool in TOOLS if shutil.which(tool) is None]


@pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
def test_a_microcontroller_sees_what_torch_sees(tmp_path):
    command = ["make", "-s", "-C", EXAMPLE, f"OUT={tmp_path}", f"DEEPCOMPRESS={sys.executable} -m deepcompress", "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    shades = {"#": 1.0, "+": 0.67, ".": 0.33, " ": 0.0}
    rows = re.findall(r'"(.{28})"', (EXAMPLE / "picture.h").read_text())
    image = torch.tensor([[shades[pixel] for pixel in row] for row in rows])
    with torch.no_grad():
        logits = dc.load(ROOT / "results" / "lenet5-2kb-seed0.dc").eval()((image[None, None] - 0.130575) / 0.308005)[0]
    said = [int(number) for number in re.findall(r"^\d: (-?\d+) / 1000$", done.stdout, re.MULTILINE)]
    assert said == pytest.approx([round(1000 * float(logit)) for logit in logits], abs=2)
    assert "This is a 3.\n" in done.stdout
    figures = dict(re.findall(r"^(Flash|Memory): (\d+) bytes", done.stdout, re.MULTILINE))
    assert int(figures["Flash"]) < 20_000
    assert int(figures["Memory"]) < 80_000
