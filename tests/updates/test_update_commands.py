"""`deepcompress diff` and `patch`, and `inspect` of an update."""

import json

import pytest
import torch
from click.testing import CliRunner

from deepcompress.cli import main
from deepcompress.compression.tensors_only import compress_state
from deepcompress.recipe import Recipe


def run(*arguments, code=0):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("updates")
    torch.manual_seed(0)
    tensors = {"fc.weight": torch.randn(40, 30), "fc.bias": torch.randn(40)}
    for name in ("a", "b"):
        compress_state(tensors, Recipe(prune=0.7, retrain=False), folder / f"{name}.dc")
        tensors = {name: value + 0.01 * torch.randn_like(value) for name, value in tensors.items()}
    run("diff", folder / "a.dc", folder / "b.dc", "-o", folder / "u.dcp")
    return folder


def test_diff_and_patch(files, tmp_path):
    done = run("diff", files / "a.dc", files / "b.dc", "-o", tmp_path / "u.dcp", "--json")
    found = json.loads(done.stdout)
    assert found["file_bytes"] == (tmp_path / "u.dcp").stat().st_size < found["new_bytes"]
    run("patch", files / "a.dc", tmp_path / "u.dcp", "-o", tmp_path / "new.dc")
    assert (tmp_path / "new.dc").read_bytes() == (files / "b.dc").read_bytes()


def test_diff_says_that_two_files_are_equal(files, tmp_path):
    done = run("diff", files / "a.dc", files / "a.dc", "-o", tmp_path / "u.dcp")
    assert done.stdout.endswith("; the two files are equal\n")
    assert "equal" not in run("diff", files / "a.dc", files / "b.dc", "-o", tmp_path / "v.dcp").stdout
    run("patch", files / "a.dc", tmp_path / "u.dcp", "-o", tmp_path / "same.dc")
    assert (tmp_path / "same.dc").read_bytes() == (files / "a.dc").read_bytes()


def test_inspect_says_what_an_update_changes(files, tmp_path):
    found = json.loads(run("inspect", files / "u.dcp", "--json").stdout)
    assert found["kind"] == "tensors"
    changes = {change["name"]: change for change in found["changes"]}
    assert set(changes) == {"fc.weight", "fc.bias"}
    assert changes["fc.bias"]["changed"] == 40
    copy = tmp_path / "update"  # known by its first bytes
    copy.write_bytes((files / "u.dcp").read_bytes())
    done = run("inspect", copy)
    assert "40 elements" in done.stdout
    assert run("inspect", copy, "--quiet").stdout == f"{copy}: {copy.stat().st_size:,} bytes\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["patch", "b.dc", "u.dcp", "-o", "x.dc"], "is already applied"),
        (["patch", "u.dcp", "u.dcp", "-o", "x.dc"], "is for another file"),
        (["patch", "a.dc", "b.dc", "-o", "x.dc"], "this is not an update"),
        (["patch", "a.dc", "u.dcp", "-o", "none/x.dc"], "does not exist"),
        (["patch", "a.dc", "u.dcp", "-o", "x.onnx"], "this command writes a .dc file"),
        (["diff", "a.dc", "none.dc", "-o", "x.dcp"], "no such file"),
        (["diff", "a.dc", "b.dc", "-o", "x.dc"], "this command writes a .dcp file"),
        (["inspect", "none.dcp"], "no such file"),
        *(
            ([*command, "u.dcp"], "u.dcp: this is an update: 'deepcompress patch OLD.dc UPDATE.dcp -o NEW.dc' makes")
            for command in (
                ["eval"],
                ["plan"],
                ["compress", "--no-retrain"],
                ["verify"],
                ["view"],
                ["recode", "-o", "x.dc"],
                ["export", "-o", "x.pt"],
            )
        ),
    ],
)
def test_what_cannot_be_is_one_line(files, monkeypatch, arguments, line):
    monkeypatch.chdir(files)
    done = run(*arguments, code=1)
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (files / "x.dc").exists()
    assert not (files / "x.dcp").exists()
    assert not (files / "x.onnx").exists()


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".pth.tar", ".SFT"])
def test_a_patched_checkpoint_is_called_as_one_is(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        torch.save({"w": torch.randn(4, 3)}, f"{name}{ending}")
    run("diff", f"a{ending}", f"b{ending}", "-o", "u.dcp")
    done = run("patch", f"a{ending}", "u.dcp", "-o", "new.dc", code=1)
    assert "the ending says a compressed network" in done.stderr
    assert not (tmp_path / "new.dc").exists()
    for output in ("new.pt", "new.ckpt"):
        run("patch", f"a{ending}", "u.dcp", "-o", output)
        assert (tmp_path / output).read_bytes() == (tmp_path / f"b{ending}").read_bytes()
