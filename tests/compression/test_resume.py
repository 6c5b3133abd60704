"""Runs that are killed, and go on: the file at the end is the same, byte for byte."""

from __future__ import annotations

import copy
import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile

import pytest
import torch
from commands import fail, from_json, succeed
from listener import Listener
from samples import CLASSES, SIDE, Mlp, batches, blobs, conv_net
from torch.utils.data import DataLoader, TensorDataset

from deepcompress import files
from deepcompress.compression.pipeline import compress
from deepcompress.errors import OutputError, PruneError, ResumeError
from deepcompress.prune import early
from deepcompress.recipe import Recipe
from deepcompress.studies.points import Point, origin_of, run_point
from deepcompress.studies.search import clear
from deepcompress.training.data import DataSet, TensorLoader
from deepcompress.training.journal import is_interrupted
from deepcompress.training.progress import Progress

forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process that was forked")

TRAINED = {"prune": 0.7, "epochs": 3, "finetune_epochs": 2, "bits": 3, "lr": 0.05}
FLAT = {**TRAINED, "iterations": 2}
RECIPES = {
    "iterations": FLAT,
    "early stop": {**FLAT, "early_stop": True},
    "early stop missed": {**FLAT, "prune": 0.95, "early_stop": True},
    "adam, one-shot": {**TRAINED, "optimizer": "adam", "schedule": "one-shot", "lr": 0.01},
    "guard": {**FLAT, "max_drop": 1.0, "prune": 0.9},
    "size": {
        "target_size": 640,
        "epochs": 3,
        "finetune_epochs": 2,
        "bits": 4,
        "lr": 0.05,
        "penalty": "rate",
        "penalty_weight": 0.01,
    },
    "surgery": {**FLAT, "regrow": "surgery"},
    "set": {**FLAT, "regrow": "set", "epochs": 4},
    "deepr": {**FLAT, "regrow": "deepr", "deepr_alpha": 0.01},
    "dsr": {**FLAT, "regrow": "dsr", "regrow_every": 2, "epochs": 6, "lr": 0.2},
    "gap": {**TRAINED, "schedule": "gap", "gap": 0.0, "prune_step": 0.2, "epochs": 6, "lr": 0.2},
    "circular": {**TRAINED, "schedule": "circular", "max_drop": 1.0, "prune_step": 0.5, "epochs": 5},
    "reload": {**FLAT, "reload": True},
    "rewind": {**FLAT, "rewind": "random", "epochs": 2},
    "lc": {**TRAINED, "method": "lc"},
    "latent": {**TRAINED, "method": "latent"},
    "variational": {**TRAINED, "method": "variational", "optimizer": "adam", "lr": 0.01},
    "sws": {**TRAINED, "method": "sws", "optimizer": "adam", "lr": 0.01},
    "gradients": {**FLAT, "criterion": "taylor2"},
    "grid and fisher": {**FLAT, "quantizer": "uniform", "weighting": "fisher", "rate": 0.02},
}


class Killer(Progress):
    """Kills its process with SIGKILL at the n-th of these events: a batch, a file written but not there yet, there."""

    def __init__(self, at):
        self.left = at

    def event(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def batch(self, done, loss):
        self.event()

    def watch_writes(self):
        publish = files._publish

        def between(temporary, path):
            self.event()
            publish(temporary, path)
            self.event()

        files._publish = between


def killed(run, at):
    """Whether `run`, in a process of its own, was killed at event number `at`; it may have ended before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            killer = Killer(at)
            killer.watch_writes()
            run(killer)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def until_it_ends(run):
    """Run again and again, killed by turns in a batch, in the middle of a write and after it; how often it was."""
    for kills in range(60):
        if not killed(run, (6, 5, 6)[kills % 3]):  # an epoch has three events: one batch that is told, and one write
            return kills
    raise AssertionError("it never ends")


def loaders():
    return TensorLoader(*blobs(192, 1), 32, seed=5), batches(96, 2)


def far_apart():
    """Validation data of which nothing is learned."""
    train, val = loaders()
    return train, [(x, (y + 1) % CLASSES) for x, y in val]


def runner(model, recipe, path, make=loaders, resume=True):
    def run(watch=None):
        train, val = make()
        folder = path.with_suffix(".resume") if resume else None
        return compress(model, train, val, recipe, path, watch=watch, resume=folder)

    return run


@forked
@pytest.mark.parametrize("name", RECIPES)
def test_killed_again_and_again(name, dense, tmp_path, monkeypatch):
    monkeypatch.setattr(early, "STEPS", 1)
    recipe, make = Recipe(**RECIPES[name]), far_apart if name == "gap" else loaders
    runner(dense, recipe, tmp_path / "straight.dc", make, resume=False)()
    kills = until_it_ends(runner(dense, recipe, tmp_path / "killed.dc", make))
    assert kills >= 2
    assert (tmp_path / "killed.dc").read_bytes() == (tmp_path / "straight.dc").read_bytes()
    assert sorted(path.suffix for path in tmp_path.glob("[!.]*")) == [".dc", ".dc"]


@forked
def test_convolutions_in_bfloat16_with_batch_norm_and_a_plain_data_loader(tmp_path):
    torch.manual_seed(3)
    model = conv_net(batch_norm=True)
    x, y = blobs(96, 1, (1, SIDE, SIDE))

    def make():
        return DataLoader(TensorDataset(x, y), 32, shuffle=True), batches(64, 2, shape=(1, SIDE, SIDE))

    recipe = Recipe(**FLAT, precision="bfloat16", label_smoothing=0.1, distill=0.5)
    runner(model, recipe, tmp_path / "straight.dc", make, resume=False)()
    assert until_it_ends(runner(model, recipe, tmp_path / "killed.dc", make)) >= 2
    assert (tmp_path / "killed.dc").read_bytes() == (tmp_path / "straight.dc").read_bytes()


class Stop(Progress):
    """Ctrl-C after so many epochs."""

    def __init__(self, after):
        self.left = after

    def epoch(self, result):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def interrupted(model, recipe, path, after=4, make=loaders):
    """A run that ended with Ctrl-C after so many epochs."""
    with pytest.raises(KeyboardInterrupt):
        runner(model, recipe, path, make)(Stop(after))
    return path.with_suffix(".resume")


def test_what_was_done_is_not_done_again(dense, tmp_path):
    recipe, path = Recipe(**FLAT), tmp_path / "a.dc"
    folder = interrupted(dense, recipe, path)
    assert sorted(entry.name for entry in folder.iterdir()) == ["phase-001.pt", "phase-002.pt", "run.json"]
    before = copy.deepcopy(dense.state_dict())
    watch = Listener()
    result = runner(dense, recipe, path)(watch)
    assert len(watch.results) == 1
    assert [text for text in watch.lines if "before" in text] == [
        "prune: 3 of 3 epochs were done before",
        "quantize: 1 of 2 epochs were done before",
    ]
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert not folder.exists()
    assert result.file_bytes == path.stat().st_size


def test_seconds_of_the_interrupted_run_count(dense, tmp_path):
    recipe, path = Recipe(**FLAT), tmp_path / "a.dc"
    folder = interrupted(dense, recipe, path)
    for name, seconds in (("phase-001.pt", 1000.0), ("phase-002.pt", 50.0)):
        found = torch.load(folder / name, weights_only=True)
        torch.save({**found, "seconds": seconds}, folder / name)
    stages = {stage.stage: stage.seconds for stage in runner(dense, recipe, path)().stages}
    assert 1000 <= stages["prune"] < 1040
    assert 50 <= stages["quantize"] < 90
    assert stages["encode"] < 40


def test_a_lost_state_is_made_again(dense, tmp_path):
    recipe = Recipe(**FLAT)
    runner(dense, recipe, tmp_path / "straight.dc", resume=False)()
    folder = interrupted(dense, recipe, tmp_path / "a.dc")
    (folder / "phase-001.pt").unlink()
    (folder / ".phase-001.pt.abc.tmp").write_bytes(b"half")
    runner(dense, recipe, tmp_path / "a.dc")()
    assert (tmp_path / "a.dc").read_bytes() == (tmp_path / "straight.dc").read_bytes()
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_is_named_and_the_rest_kept(damage, dense, tmp_path):
    recipe, path = Recipe(**FLAT), tmp_path / "a.dc"
    folder = interrupted(dense, recipe, path)
    state = folder / "phase-002.pt"
    content = bytearray(state.read_bytes())
    if damage == "flipped":
        with zipfile.ZipFile(state) as archive:  # in a tensor: what lies between them is padding
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        content[largest.header_offset + largest.file_size] ^= 1
    state.write_bytes({"cut": content[:-100], "flipped": content, "empty": b""}[damage])
    with pytest.raises(ResumeError, match=r"phase-002\.pt is damaged: remove this file"):
        runner(dense, recipe, path)()
    state.unlink()
    watch = Listener()
    runner(dense, recipe, path)(watch)
    assert len(watch.results) == 2


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_a_journal_that_does_not_say_what_it_is_of(content, dense, tmp_path):
    recipe, path = Recipe(**FLAT), tmp_path / "a.dc"
    folder = interrupted(dense, recipe, path)
    (folder / "run.json").unlink()
    if content is not None:
        (folder / "run.json").write_bytes(content)
    with pytest.raises(ResumeError, match=r"run\.json is lost or damaged"):
        runner(dense, recipe, path)()
    assert is_interrupted(folder)


def test_another_run_is_refused_by_what_differs(dense, flat_train, tmp_path):
    path = tmp_path / "a.dc"
    folder = interrupted(dense, Recipe(**FLAT), path)
    with pytest.raises(ResumeError, match=r"with another prune: 0\.7 then, 0\.8 now"):
        runner(dense, Recipe(**{**FLAT, "prune": 0.8}), path)()
    with pytest.raises(ResumeError, match=r"with another max_drop: none then, 2\.0 now"):
        runner(dense, Recipe(**FLAT, max_drop=2.0), path)()
    with pytest.raises(ResumeError, match="with another network weights"):
        runner(Mlp(), Recipe(**FLAT), path)()
    with pytest.raises(ResumeError, match="with another training data: 6 batches"):
        runner(dense, Recipe(**FLAT), path, lambda: (flat_train, loaders()[1]))()
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "version of torch": "1.0"}))
    with pytest.raises(ResumeError, match=r"version of torch: 1\.0 then"):
        runner(dense, Recipe(**FLAT), path)()
    assert is_interrupted(folder)


def test_a_state_that_belongs_elsewhere(dense, tmp_path):
    recipe, path = Recipe(**FLAT), tmp_path / "a.dc"
    folder = interrupted(dense, recipe, path)
    (folder / "phase-002.pt").replace(folder / "phase-001.pt")
    with pytest.raises(ResumeError, match=r"phase-001\.pt belongs to 'quantize' with 2 epochs, but 'prune' with 3"):
        runner(dense, recipe, path)()


def test_a_full_disk_loses_nothing(dense, tmp_path, monkeypatch):
    recipe, path = Recipe(**FLAT), tmp_path / "a.dc"
    runner(dense, recipe, tmp_path / "straight.dc", resume=False)()
    written = []
    save = torch.save

    def full(content, stream):
        written.append(content["done"])
        if len(written) == 3:
            stream.write(b"a part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(content, stream)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"phase-001\.pt: No space left on device.*kept in .*a\.resume"):
        runner(dense, recipe, path)()
    folder = path.with_suffix(".resume")
    assert sorted(entry.name for entry in folder.iterdir()) == ["phase-001.pt", "run.json"]
    watch = Listener()
    runner(dense, recipe, path)(watch)
    assert watch.lines[0] == "prune: 2 of 3 epochs were done before"
    assert path.read_bytes() == (tmp_path / "straight.dc").read_bytes()


def test_torchs_own_error_for_a_full_disk(dense, tmp_path, monkeypatch):
    def full(content, stream):
        raise RuntimeError("[enforce fail at inline_container.cc:595] . unexpected pos 64 vs 0\nframe #0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"phase-001\.pt: .enforce fail"):
        runner(dense, Recipe(**FLAT), tmp_path / "a.dc")()


def test_a_folder_that_cannot_be_made(dense, tmp_path):
    (tmp_path / "a.resume").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot make the folder .*a\.resume"):
        runner(dense, Recipe(**FLAT), tmp_path / "a.dc")()


def test_what_can_never_end_is_not_kept(dense, tmp_path):
    class Breaks(Progress):
        def epoch(self, result):
            assert is_interrupted(folder)
            raise PruneError("nothing would be left")

    folder = tmp_path / "a.resume"
    with pytest.raises(PruneError):
        runner(dense, Recipe(**FLAT), tmp_path / "a.dc")(Breaks())
    assert not folder.exists()


def test_no_state_and_no_folder_without_training(dense, tmp_path):
    recipe = Recipe(prune=0.5, retrain=False)
    compress(dense, None, None, recipe, tmp_path / "a.dc", resume=tmp_path / "a.resume")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.dc"]


# The command ---------------------------------------------------------------------------------------------------

COMMAND = ["--data", "blobs.npz", "--prune", "0.8", "--iterations", "2", "--epochs", "4", "--finetune-epochs", "2"]


@pytest.fixture
def trained(npz, network_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeed("train", "mine.py:small", "--data", "blobs.npz", "--epochs", "1", "-o", "net.pt", "-q")
    return ["compress", "net.pt", "--network", "mine.py:small", *COMMAND]


def wait_for(path, process):
    for _ in range(6000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.005)


def test_the_command_is_killed_and_goes_on(trained, tmp_path):
    succeed(*trained, "-o", "straight.dc", "-q")
    command = [sys.executable, "-m", "deepcompress", *trained, "-o", "killed.dc", "-q"]
    process = subprocess.Popen(command)
    wait_for(tmp_path / "killed.dc.resume" / "phase-001.pt", process)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed.dc").exists()
    assert "killed.dc.resume holds the state of an interrupted run" in fail(*trained, "-o", "killed.dc")
    assert "another iterations" in fail(*trained, "--iterations", "3", "-o", "killed.dc", "--resume")
    result = from_json(*trained, "-o", "killed.dc", "--resume")
    assert (tmp_path / "killed.dc").read_bytes() == (tmp_path / "straight.dc").read_bytes()
    assert result["file_bytes"] == (tmp_path / "killed.dc").stat().st_size
    assert not (tmp_path / "killed.dc.resume").exists()


def test_nothing_to_go_on_with(trained, tmp_path):
    assert "holds no interrupted run: starting from the beginning" in succeed(*trained, "--resume").stderr


def interrupt(*_):
    raise KeyboardInterrupt


def test_ctrl_c_says_how_to_go_on(trained, monkeypatch):
    from deepcompress.report.console import ConsoleProgress

    monkeypatch.setattr(ConsoleProgress, "epoch", interrupt)
    line = fail(*trained, "-q")
    assert "interrupted; the state is kept in model.dc.resume, and the same command with --resume" in line


def test_training_goes_on(trained, tmp_path, monkeypatch):
    from deepcompress.report.console import ConsoleProgress

    command = ["train", "mine.py:small", "--data", "blobs.npz", "--epochs", "3", "--lr", "0.05"]
    succeed(*command, "-o", "straight.pt", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(ConsoleProgress, "epoch", interrupt)
        stopped = fail(*command, "-o", "stopped.pt", "-q")
    assert "interrupted; the state is kept in stopped.pt.resume, and the same command with --resume" in stopped
    assert is_interrupted(tmp_path / "stopped.pt.resume")
    assert "stopped.pt.resume holds the state of an interrupted run" in fail(*command, "-o", "stopped.pt")
    assert "another lr: 0.05 then, 0.1 now" in fail(*command, "-o", "stopped.pt", "--lr", "0.1", "--resume")
    assert "train: 1 of 3 epochs were done before" in succeed(*command, "-o", "stopped.pt", "--resume").stderr
    states = [torch.load(f"{name}.pt", weights_only=True)["state_dict"] for name in ("straight", "stopped")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not (tmp_path / "stopped.pt.resume").exists()


# Points of a sweep, and trials of a search -----------------------------------------------------------------------


def test_a_point_goes_on_within_and_a_stale_state_is_dropped(dense, tmp_path):
    (x, y), held_out = blobs(192, 1), blobs(96, 2)
    data = DataSet("blobs", x, y, *held_out, *held_out)
    origin = origin_of(dense, data, "", 1)

    def run(name, recipe, watch=None):
        return run_point(Point(name, recipe), dense, data, tmp_path, origin, watch)

    recipe = Recipe(**FLAT, batch_size=32)
    run("straight", recipe)
    for name, of in (("goes-on", recipe), ("stale", Recipe(**{**FLAT, "prune": 0.5}, batch_size=32))):
        with pytest.raises(KeyboardInterrupt):
            run(name, of, Stop(4))
        assert is_interrupted(tmp_path / f"{name}.resume")
        watch = Listener()
        run(name, recipe, watch)
        assert len(watch.results) == (1 if name == "goes-on" else 5)
        assert (tmp_path / f"{name}.dc").read_bytes() == (tmp_path / "straight.dc").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run("size700", recipe, Stop(2))
    clear(tmp_path)
    assert not (tmp_path / "size700.resume").exists()
