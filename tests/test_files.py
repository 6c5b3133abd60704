import os
import random
import re
import stat
import subprocess
import sys
import time

import pytest

from deepcompress import files
from deepcompress.errors import OutputError
from deepcompress.files import check_writable, write_atomic


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.dc"


def only(path):
    """Whether nothing else is in the folder of `path`: no temporary was left."""
    return [found.name for found in path.parent.iterdir()] == [path.name]


def test_bytes_are_written(path):
    write_atomic(path, b"first")
    assert path.read_bytes() == b"first"
    write_atomic(str(path), b"")
    assert path.read_bytes() == b""
    assert only(path)


def test_a_function_writes_to_a_sibling_that_takes_the_place_of_the_file(path):
    path.write_bytes(b"old")
    seen = []

    def write(temporary):
        seen.append(temporary)
        assert temporary.parent == path.parent
        assert path.read_bytes() == b"old"
        temporary.write_bytes(b"new")

    write_atomic(path, write)
    assert path.read_bytes() == b"new"
    assert only(path)
    assert not seen[0].exists()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(28, "No space left on device"), OutputError),
        (RuntimeError("the writer fails"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_the_old_file_survives_a_writer_that_fails(path, raised, expected, there):
    if there:
        path.write_bytes(b"old")

    def fail(temporary):
        temporary.write_bytes(b"half of the n")
        raise raised

    with pytest.raises(expected):
        write_atomic(path, fail)
    assert [found.read_bytes() for found in path.parent.iterdir()] == ([b"old"] if there else [])


def test_a_full_disk_is_named(path):
    def fail(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"cannot write .*model.dc: No space left on device"):
        write_atomic(path, fail)


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_the_old_file_survives_a_failure_of_the_last_steps(path, monkeypatch, step):
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (files.Path, step)), fail)
    with pytest.raises(OutputError, match="Input/output error"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert only(path)


def test_the_content_is_on_disk_before_the_name_changes(path, monkeypatch):
    order = []
    fsync, replace = os.fsync, files.Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(files.Path, "replace", lambda self, to: order.append("replace") or replace(self, to))
    write_atomic(path, b"new")
    assert order == ["fsync", "replace"]


def test_a_folder_that_is_missing(path):
    with pytest.raises(OutputError, match=r"cannot write .*the folder .*nowhere does not exist"):
        write_atomic(path.parent / "nowhere" / "model.dc", b"new")
    assert list(path.parent.iterdir()) == []


def test_a_folder_in_the_place_of_the_file(path):
    path.mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        write_atomic(path, b"new")
    assert only(path)


def test_special_files_are_not_replaced(path):
    os.mkfifo(path)
    with pytest.raises(OutputError, match="it is not a regular file"):
        write_atomic(path, b"new")
    assert stat.S_ISFIFO(path.stat().st_mode)
    with pytest.raises(OutputError, match="it is not a regular file"):
        check_writable("/dev/null")


def test_a_folder_that_takes_no_files(path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    for call in (check_writable, lambda path: write_atomic(path, b"new")):
        with pytest.raises(OutputError, match=r"cannot write .*model.dc: Permission denied"):
            call(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission(path):
    path.parent.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            write_atomic(path, b"new")
    finally:
        path.parent.chmod(0o755)


@pytest.mark.parametrize("length", [200, 255])
def test_the_longest_names_are_written(path, length):
    path = path.with_name("x" * length)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert only(path)


def test_a_name_that_is_too_long(path):
    with pytest.raises(OutputError, match="File name too long"):
        write_atomic(path.with_name("x" * 256), b"new")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
def test_permissions_follow_the_umask(path, umask, mode):
    path.write_bytes(b"old")
    path.chmod(0o400)
    before = os.umask(umask)
    try:
        write_atomic(path, b"new")
        assert os.umask(umask) == umask  # as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_check_writable_leaves_nothing_and_changes_nothing(path):
    check_writable(path)
    assert list(path.parent.iterdir()) == []
    path.write_bytes(b"old")
    check_writable(str(path))
    assert path.read_bytes() == b"old"
    assert only(path)
    with pytest.raises(OutputError, match="does not exist"):
        check_writable(path.parent / "nowhere" / "model.dc")
    with pytest.raises(OutputError, match="it is a folder"):
        check_writable(path.parent)


WRITER = """
import sys
from deepcompress.files import write_atomic
path, size = sys.argv[1], int(sys.argv[2])
old, new = b"o" * size, b"n" * size
print("ready", flush=True)
while True:
    write_atomic(path, new)
    write_atomic(path, lambda temporary: temporary.write_bytes(old))
"""


def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(path):
    size = 1 << 20  # long enough to be cut in the middle
    contents = {b"o" * size, b"n" * size}
    path.write_bytes(b"o" * size)
    rng = random.Random(0)
    halves = 0
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(size)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.02))
        writer.kill()
        writer.wait()
        writer.stdout.close()
        assert path.read_bytes() in contents
        for left in path.parent.iterdir():
            if left != path:  # whatever was only half there has a name that no one takes for the file
                assert re.fullmatch(r"\.model\.dc\.\w+\.tmp", left.name)
                halves += 1
                left.unlink()
    assert halves  # some of the writers were killed in the middle of it
