"""`export -o x.h`: what a C compiler makes of it."""

import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

from deepcompress.cli import main
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import encode_plain
from deepcompress.container.writer import pack
from deepcompress.reading.cheader import export_header

#: Names that C has, that become one, that end a comment, a string or a trigraph, or that are macros already.
NAMES = [
    "fc.weight",
    "fc_weight",
    "fc.weight.elements",
    "int",
    "0",
    "*/",
    'a"b\\',
    "??/",
    "größe",
    "file.bytes",
    "tensors",
]
PROGRAM = r"""
#include <stdio.h>
#include "my_net.h"

int main(void) {
    printf("%s|%s|%lu|", MY_NET_NETWORK, MY_NET_DATA, (unsigned long)MY_NET_FILE_BYTES);
    printf("%d|%d\n", MY_NET_TENSORS, MY_NET_FC_WEIGHT);
    for (int i = 0; i < MY_NET_TENSORS; i++) {
        const struct my_net_tensor *t = &my_net_tensors[i];
        printf("%s|%s|%d|%d|", t->name, t->dtype, (int)t->elements, (int)t->bytes);
        printf("%d|%d,%d\n", (int)t->rank, (int)t->shape[0], (int)t->shape[1]);
    }
    for (unsigned long i = 0; i < sizeof my_net_file; i++) printf("%02x", my_net_file[i]);
    return 0;
}
"""


@pytest.fixture
def source(tmp_path):
    tensors = [(name, encode_plain(np.full((2, 3), number, "<i2"), DType.INT16)) for number, name in enumerate(NAMES)]
    (tmp_path / "m.dc").write_bytes(pack(tensors, "net */ ??/", "digits"))
    return tmp_path / "m.dc"


@pytest.mark.parametrize("compiler", [["cc", "-std=c99"], ["c++", "-x", "c++"]], ids=["c", "c++"])
def test_a_compiler_reads_the_bytes_and_the_table(source, tmp_path, compiler):
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    assert export_header(source, tmp_path / "my-net.h") == len(NAMES)
    (tmp_path / "my-net.h").rename(tmp_path / "my_net.h")
    (tmp_path / "p.c").write_text(PROGRAM)
    options = [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-I",
        str(tmp_path),
        str(tmp_path / "p.c"),
        "-o",
        str(tmp_path / "p"),
    ]
    made = subprocess.run([*compiler, *options], capture_output=True, check=False, text=True)
    assert made.returncode == 0, made.stderr
    lines = subprocess.run([str(tmp_path / "p")], capture_output=True, check=True, encoding="utf-8").stdout.split("\n")
    assert lines[0] == f"net */ ??/|digits|{source.stat().st_size}|{len(NAMES)}|0"
    assert lines[1:-1] == [f"{name}|int16|6|12|2|2,3" for name in NAMES]
    assert bytes.fromhex(lines[-1]) == source.read_bytes()


def test_macros_and_sizes(source, tmp_path):
    export_header(source, tmp_path / "2net.h")
    text = (tmp_path / "2net.h").read_text(encoding="ascii")
    macros = [line.split()[1] for line in text.splitlines() if line.startswith("#define")]
    assert len(macros) == len(set(macros)) == 7 + 3 * len(NAMES)
    for line in ("#define DC_2NET_DENSE_BYTES 132ULL", "#define DC_2NET_LARGEST_BYTES 12ULL", "#define DC_2NET_INT 3"):
        assert line in text
    assert text.count("0x") == source.stat().st_size


def test_a_file_without_tensors(tmp_path):
    (tmp_path / "m.dc").write_bytes(pack([]))
    assert export_header(tmp_path / "m.dc", tmp_path / "m.h") == 0
    assert "#define M_LARGEST_BYTES 0ULL" in (tmp_path / "m.h").read_text()


def test_the_command(source, tmp_path):
    out = tmp_path / "x.h"
    done = CliRunner().invoke(main, ["export", str(source), "-o", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"{out}: {len(NAMES)} tensors, {out.stat().st_size:,} bytes\n")
    for arguments in (["--shrink"], []):
        file = source if arguments else tmp_path / "other.pt"
        if not arguments:
            file.write_bytes(b"")
        done = CliRunner().invoke(main, ["export", str(file), "-o", str(tmp_path / "y.h"), *arguments])
        assert done.exit_code == 2
        assert "a .h file holds the bytes of a .dc file" in done.stderr
    source.write_bytes(source.read_bytes()[:-1] + b"\0")
    done = CliRunner().invoke(main, ["export", str(source), "-o", str(tmp_path / "y.h")])
    assert done.exit_code == 1
    assert not (tmp_path / "y.h").exists()
