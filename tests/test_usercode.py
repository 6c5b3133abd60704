"""The user's own code: how it is named, and what it finds around it."""

from __future__ import annotations

import sys

import pytest

from deepcompress import usercode
from deepcompress.errors import NetworkError, RecipeError
from deepcompress.usercode import Code, names_code, parse, parse_call


@pytest.mark.parametrize("text", ["net.py:make", "a/b.py:make(1)", "C:\\x\\net.py:make", "net.py", "/abs/net.py:M.f"])
def test_code_is_told_from_names(text):
    assert names_code(text)


@pytest.mark.parametrize(
    "text", ["lenet5", "torchvision:resnet18", "torchvision:resnet18(num_classes=10)", "net.pyc:x", ""]
)
def test_names_are_told_from_code(text):
    assert not names_code(text)


def test_arguments_are_literals():
    found = parse("models/net.py:Net.build(10, -2.5, name='a:b.py:c', sizes=[1, (2, 3)], flag=None)")
    assert found.path.as_posix() == "models/net.py"
    assert found == Code(found.path, "Net.build", (10, -2.5), {"name": "a:b.py:c", "sizes": [1, (2, 3)], "flag": None})
    assert parse_call("make") == parse_call("make()") == ("make", (), {})


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("make(open('x'))", "must be literals"),
        ("make(n)", "must be literals"),
        ("make(**{'a': 1})", "unpacks its arguments"),
        ("make(*[1])", "must be literals"),
        ("make(", "neither a name nor a call"),
        ("make()()", "neither a name nor a call"),
        ("1 + 1", "neither a name nor a call"),
        ("lambda: 1", "neither a name nor a call"),
        ("", "write FILE.py:FUNCTION"),
    ],
)
def test_anything_else_is_refused_and_not_run(call, reason, tmp_path):
    (tmp_path / "net.py").write_text("raise SystemError('the file was run')\n")
    with pytest.raises(NetworkError, match=reason):
        usercode.find(f"{tmp_path}/net.py:{call}", "--network", NetworkError)


def test_a_file_imports_its_neighbours_at_the_top_and_in_its_functions(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "first_part.py").write_text("A = 'a'\n")
    (folder / "second_part.py").write_text("B = 'b'\n")
    (folder / "net.py").write_text(
        "from first_part import A\ndef make(end, more=''):\n    from second_part import B\n    return A + B + end + more\n"  # noqa: E501
    )
    before = list(sys.path)
    make = usercode.find(f"{folder}/net.py:make('c', more='d')")
    assert make() == "abcd"
    assert sys.path == before
    assert make.__name__ == "make"


@pytest.mark.parametrize("marked", [True, False])
def test_a_file_in_a_package_imports_relatively(marked, tmp_path):
    package = tmp_path / f"some_package_{marked}"
    (package / "inner").mkdir(parents=True)
    (package / "base.py").write_text("A = 'a'\n")
    (package / "inner" / "part.py").write_text("B = 'b'\n")
    (package / "inner" / "net.py").write_text(
        "from ..base import A\nfrom .part import B\ndef make():\n    return A + B\n"
    )
    for folder in (package, package / "inner") if marked else ():
        (folder / "__init__.py").write_text("")
    before = list(sys.path)
    assert usercode.find(f"{package}/inner/net.py:make")() == "ab"
    assert sys.path == before


def test_two_folders_may_have_neighbours_of_one_name(tmp_path):
    made = []
    for word in ("one", "two"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "same_name.py").write_text(f"WORD = {word!r}\n")
        (tmp_path / word / "net.py").write_text("def make():\n    import same_name\n    return same_name.WORD\n")
        made.append(usercode.find(f"{tmp_path / word}/net.py:make"))
    assert [make() for make in (*made, *made)] == ["one", "two", "one", "two"]


def test_the_import_path_survives_a_file_that_changes_it(tmp_path):
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.append('/appended')\nsys.path.remove({str(tmp_path)!r})\nf = int\n"
    )
    before = list(sys.path)
    usercode.find(f"{tmp_path}/net.py:f")
    assert sys.path == [*before, "/appended"]
    sys.path.remove("/appended")


def test_a_file_runs_once_and_again_when_it_has_changed(tmp_path):
    file, log = tmp_path / "net.py", tmp_path / "log"
    file.write_text(f"with open({str(log)!r}, 'a') as log: log.write('x')\ndef f(): return 1\n")
    assert [usercode.find(f"{file}:f")() for _ in range(3)] == [1, 1, 1]
    assert log.read_text() == "x"
    file.write_text("def f(): return 22\n")
    assert usercode.find(f"{file}:f")() == 22


def test_what_a_file_prints_is_no_result(tmp_path, capsys):
    (tmp_path / "net.py").write_text("print('at the top')\ndef f(): print('inside')\n")
    usercode.find(f"{tmp_path}/net.py:f")()
    assert capsys.readouterr() == ("", "at the top\ninside\n")


def test_dataclasses_of_a_file_work(tmp_path):
    (tmp_path / "net.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    n: int = 3\n"
    )
    assert usercode.find(f"{tmp_path}/net.py:P(n=4)")().n == 4


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "x = 1\nimport no_such_module\n",
            r"bad.py fails with ModuleNotFoundError: No module named 'no_such_module' \(line 2\)$",
        ),
        ("x = 1\n\ndef f(:\n", r"bad.py fails with SyntaxError: invalid syntax \(.*, line 3\)$"),
        ("import sys\nsys.exit('usage: bad.py')\n", r"bad.py fails with SystemExit: usage: bad.py \(line 2\)$"),
        ("def g(): pass\ndef _h(): pass\nfrom os import getcwd\n", r"no function named 'f'; it defines g$"),
        ("f = 3\n", r"no function named 'f'; it defines none$"),
    ],
)
def test_errors_say_where(source, reason, tmp_path):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(RecipeError, match=rf"^--loss .*bad.py:f: .*{reason}"):
        usercode.find(f"{tmp_path}/bad.py:f", "--loss", RecipeError)


def test_a_missing_file_is_named():
    with pytest.raises(NetworkError, match=r"^--network nowhere/net.py:f: the file nowhere/net.py does not exist$"):
        usercode.find("nowhere/net.py:f", "--network", NetworkError)
