"""The conformance suite: its files are what its generator makes, and package and Python reader pass it."""

import contextlib
import importlib
import io
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUITE = ROOT / "conformance"
sys.path[:0] = [str(SUITE), str(ROOT / "readers" / "python")]
generate, run = importlib.import_module("generate"), importlib.import_module("run")
package, reader = importlib.import_module("package"), importlib.import_module("deepcompress_reader")


def answer(function, *arguments):
    """What a command line answers, without a process for each file."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = function(*arguments)
    return run.Answer(code, out.getvalue(), err.getvalue())


def by_package(path):
    return answer(package.main, str(path))


def by_reader(path):
    return answer(reader.main, [str(path)])


def files(folder):
    return {path.name: path.read_bytes() for path in (SUITE / folder).iterdir()}


def test_the_files_are_what_the_generator_makes():
    assert files("valid") == generate.valid()
    assert files("invalid") == generate.invalid()


def test_the_example_of_layout_8_is_the_one_of_the_documentation():
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8").split("## 20. ")[1]
    dump = "".join(re.findall(r"^[0-9a-f]{4}  ([0-9a-f ]+)$", text, re.MULTILINE))
    assert bytes.fromhex(dump) == files("valid")["v3-example-of-section-20.dc"]
    found = reader.load(bytes.fromhex(dump))
    assert found["w"][0].tolist() == [0, 0, 0.5, 0.5, 0, 0, 1, 0]
    assert found["m"][found["m"] != 0].tolist() == [0.75, -10, 0.5, -0.25]


def test_the_suite_is_large_and_small_enough():
    valid, invalid = files("valid"), files("invalid")
    assert len(valid) == 2 * 333
    assert len(invalid) - 1 == 732
    assert set(json.loads(invalid["sections.json"]).values()) == {1, 2, 3, 4, 5, 6, 9, 10, 11, 13, 14, 17, 18, 19}
    assert sum(map(len, (*valid.values(), *invalid.values()))) < 3 << 20


def test_the_package_passes():
    assert run.run(run.cases(SUITE), by_package) == {}


def test_the_python_reader_passes():
    # Half a million weights through the adaptive model take it a quarter of a minute: `.ci/run` does those.
    paths = [path for path in run.cases(SUITE) if not path.stem.startswith(("v2-model-2-blocks", "v2-model-columns"))]
    assert len(paths) == 333 + 732 - 4
    assert run.run(paths, by_reader, sections=True) == {}


def test_random_files_of_a_seed(tmp_path):
    made = generate.further(3, 60)
    assert made == generate.further(3, 60) != generate.further(4, 60)
    generate.write(tmp_path / "valid", made)
    paths = run.cases(tmp_path)
    assert len(paths) == 60
    for decode in (by_package, by_reader):
        assert run.run(paths, decode) == {}


@pytest.mark.parametrize(
    ("name", "reply", "message"),
    [
        ("v1-labels", run.Answer(1, "", "no"), "the file is valid, but the exit code is 1: no"),
        ("v1-labels", run.Answer(0, "{", ""), "stdout is not one JSON object"),
        ("v1-labels", run.Answer(0, "[]", ""), 'network must be "lenet5", not []'),
        ("v1-labels", run.Answer(0, '{"network": "lenet5", "data": "x"}', ""), 'data must be "mnist", not "x"'),
        ("s04-b-13", run.Answer(0, "{}", ""), "the file breaks section 4, but the exit code is 0"),
        ("s04-b-13", run.Answer(-11, "", ""), "must be refused with exit code 1, not -11: (nothing on stderr)"),
        ("s04-b-13", run.Answer(1, "", "Traceback\n  x\nIndexError"), "one line on stderr, not 3: IndexError"),
        ("s04-b-13", run.Answer(1, "", ""), "one line on stderr, not 0"),
    ],
)
def test_answers_that_are_wrong(name, reply, message):
    (path,) = (path for path in run.cases(SUITE, name) if path.stem == name)
    assert message in run.complaint(path, lambda _: reply)


def test_the_runner_runs_any_command(capsys, monkeypatch):
    command = [sys.executable, "-c", "import sys; sys.exit('Error: ' + sys.argv[1])"]
    monkeypatch.setattr(sys, "argv", ["run.py", "-k", "s03-alias-of-an", "-j", "1", "--", *command])
    assert run.main() == 0
    assert capsys.readouterr().out == "4 of 4 files as they should be\n"
    monkeypatch.setattr(sys, "argv", ["run.py", "-k", "v1-no-tensors", "--", *command])
    assert run.main() == 1
    assert capsys.readouterr().out.startswith(
        "valid/v1-no-tensors.dc: the file is valid, but the exit code is 1: Error"
    )
    for arguments in (["-k", "no such file", "--", "true"], ["--", "/no/such/command"]):
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        with pytest.raises(SystemExit, match="2"):
            run.main()


LINES = """
import sys
for path in sys.stdin:
    if "of-an" in path: print('{"error": "alias (section 3)"}', flush=True)
    elif "itself" in path: print('{"error": "alias (section 4)"}', flush=True)
    elif "later" in path: print("{}", flush=True)
    else: sys.exit("it crashed")
"""


def test_the_runner_asks_one_process_for_many_files():
    with run.by_lines([sys.executable, "-c", LINES], 30) as decode:
        wrong = run.run(run.cases(SUITE, "s03-alias"), decode, sections=True)
    ended = "the file must be refused with exit code 1, not -1: it ended without an answer, or took too long"
    assert {path.stem: found for path, found in wrong.items()} == {
        "s03-alias-huge": ended,
        "s03-alias-of-a-later-tensor": "the file breaks section 3, but the exit code is 0",
        "s03-alias-of-a-tensor-that-is-not-there": ended,
        "s03-alias-of-itself": "the file breaks section 3, but the refusal is: alias (section 4)",
    }


def test_the_reader_widens_and_bounds():
    file = SUITE / "valid" / "v1-raw-bfloat16.dc"
    wide, narrow = reader.load(file)["w"], reader.load(file, widen=False)["w"]
    assert (wide.dtype, narrow.dtype, wide.shape) == ("float32", "uint16", (2, 3))
    assert (wide.view("uint32") >> 16 == narrow).all()
    with pytest.raises(
        reader.FormatError, match=r"too large: 12 bytes of tensors; raise max_bytes above 11 \(section 7\)"
    ):
        reader.load(file, max_bytes=11)


def test_the_reader_is_one_file_without_the_package():
    source = Path(reader.__file__).read_text(encoding="utf-8")
    assert "import deepcompress" not in source.replace("import deepcompress_reader", "")
    imports = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imports - set(sys.stdlib_module_names) == {"numpy"}
