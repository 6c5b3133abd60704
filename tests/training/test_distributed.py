"""Several processes: how a batch is shared, and that two come to what one comes to, whoever is late."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from samples import SIDE, Mlp, batches, blobs, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.errors import DeepCompressError
from deepcompress.training import distributed
from deepcompress.training.data import TensorLoader
from deepcompress.training.loop import fit, seed_everything
from deepcompress.training.progress import Progress

TESTS = Path(__file__).parents[1]
LAUNCH = [
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip


def as_process(monkeypatch, index, count):
    """Be one of several, without the others."""
    state = SimpleNamespace(num_processes=count, process_index=index, is_main_process=index == 0)
    monkeypatch.setattr(distributed, "_accelerate", SimpleNamespace(get=lambda: state))


def test_alone_nothing_happens(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    x, y = torch.rand(5, 3), torch.arange(5)
    model = nn.Linear(3, 2)
    assert not distributed.start()
    assert distributed.processes() == 1
    assert distributed.is_first()
    assert distributed.own_device() is None
    part = distributed.own_part(x, y)
    assert part[0] is x and part[1] is y and part[2] == 1.0
    before = torch.get_rng_state()
    with distributed.own_chance(torch.device("cpu")):
        assert torch.equal(torch.get_rng_state(), before)
    assert distributed.add_up(x) is x
    assert distributed.as_first(x) is x
    distributed.add_up_gradients(model)
    assert model.weight.grad is None
    with distributed.own_file(Path("x.dc")) as path:
        assert path == Path("x.dc")


@pytest.mark.parametrize(("samples", "sizes"), [(6, [2, 2, 2]), (7, [2, 2, 3]), (8, [2, 3, 3]), (100, [33, 33, 34])])
def test_parts_are_the_batch(monkeypatch, samples, sizes):
    x, y = {"a": torch.rand(samples, 2)}, torch.arange(samples)
    found, shares = [], []
    for index in range(3):
        as_process(monkeypatch, index, 3)
        own_x, own_y, share = distributed.own_part(x, y)
        assert torch.equal(own_x["a"], x["a"][own_y])
        found.append(own_y)
        shares.append(share)
    assert [len(part) for part in found] == sizes
    assert torch.equal(torch.cat(found), y)
    assert shares == [size / samples for size in sizes]


def test_a_small_batch_is_everybodys(monkeypatch):
    x, y = torch.rand(5, 2), torch.arange(5)
    as_process(monkeypatch, 1, 3)
    own_x, own_y, share = distributed.own_part(x, y)
    assert own_x is x and own_y is y and share == 1 / 3


def test_dropout_differs_and_then_all_go_on_alike(monkeypatch):
    drawn, after = [], []
    for index in range(2):
        as_process(monkeypatch, index, 2)
        torch.manual_seed(7)
        with distributed.own_chance(torch.device("cpu")):
            drawn.append(torch.rand(8 + index))
        after.append(torch.rand(3))
    assert not torch.equal(drawn[0], drawn[1][:8])
    assert torch.equal(after[0], after[1])


def test_others_write_where_nobody_looks(monkeypatch, tmp_path):
    as_process(monkeypatch, 1, 2)
    with distributed.own_file(tmp_path / "m.dc") as path:
        path.write_bytes(b"x")
        assert path.name == "m.dc" and path.parent != tmp_path
    assert not path.exists()


def test_without_accelerate_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(DeepCompressError, match=r"pip install 'deepcompress\[distributed\]'"):
        distributed.start()


# Two processes -------------------------------------------------------------------------------------------------


class Watch(Progress):
    """Is late in each batch, or ends with Ctrl-C after so many epochs."""

    def __init__(self, late, left):
        self.late, self.left = late, left

    def batch(self, done, loss):
        if self.late:
            time.sleep(0.02)

    def epoch(self, result):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def trained(model, data):
    seed_everything(0)
    fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 2, stage="train")
    return model


def without_dropout():
    torch.manual_seed(0)
    plain = Mlp()
    plain.drop.p = 0.0
    return trained(plain, batches(250, seed=1))


def compressed(model, path, late=False, left=0, resume=None, **settings):
    recipe = dc.Recipe(prune=0.7, iterations=2, epochs=3, finetune_epochs=2, bits=3, lr=0.05, **settings)
    data = TensorLoader(*blobs(192, 1), 32, seed=5)
    return dc.compress(model, data, batches(96, 2), recipe, path, watch=Watch(late, left), resume=resume)


def work(folder, rank):
    """What one of two processes does; what it found."""
    assert distributed.start("cpu")
    assert distributed.is_first() == (rank == 0)
    plain = without_dropout()
    if rank == 0:
        torch.save(plain.state_dict(), folder / "plain.pt")
    torch.manual_seed(0)
    convolutional = trained(conv_net(batch_norm=True), batches(98, seed=1, shape=(1, SIDE, SIDE)))
    torch.manual_seed(0)
    model = trained(Mlp(), batches(256, seed=1))
    found = {
        "plain": digest(plain.parameters()),
        "batch norm": digest(convolutional.state_dict().values()),
        "dropout": digest(model.parameters()),
    }
    for late in (0, 1):
        compressed(model, folder / f"late{late}.dc", rank == late)
    for name, settings in (("guard", {"max_drop": 1.0}), ("deepr", {"regrow": "deepr"})):
        for again in (1, 2):
            compressed(model, folder / f"{name}{again}.dc", **settings)
    with pytest.raises(KeyboardInterrupt):
        compressed(model, folder / "resumed.dc", left=4, resume=folder / "resume")
    found["kept"] = rank == 0 and (folder / "resume" / "phase-002.pt").exists()
    compressed(model, folder / "resumed.dc", resume=folder / "resume")
    distributed.stop()
    return found


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def forked(folder, rank, port):
    """A process that works as `rank`, and writes what it found or what went wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        from accelerate import PartialState

        PartialState._reset_state()  # other libraries' tests have made one in this process, when it was alone
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
        os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "HF_HOME": str(folder)}
        (folder / f"{rank}.json").write_text(json.dumps(work(folder, rank)))
        code = 0
    except BaseException:
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def launch(arguments, folder):
    path = os.pathsep.join([str(TESTS), str(Path(dc.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HOME": str(folder)}
    command = [sys.executable, *LAUNCH, *map(str, arguments)]
    done = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes have come to, and the folder of their files. They are forked, and need not import torch."""
    pytest.importorskip("accelerate")
    if not hasattr(os, "fork"):
        pytest.skip("the processes are forked")
    folder, port = tmp_path_factory.mktemp("two"), free_port()
    children = [forked(folder, rank, port) for rank in (0, 1)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(folder.glob("?.txt")))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], folder


def test_both_have_the_same_network(two):
    found, _ = two
    assert {**found[0], "kept": False} == found[1]


def test_two_train_as_one_does(two):
    alone = without_dropout()
    together = torch.load(two[1] / "plain.pt", weights_only=True)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("one", "other"), [("late0", "late1"), ("guard1", "guard2"), ("deepr1", "deepr2")])
def test_the_file_is_the_same_whoever_is_late(two, one, other):
    folder = two[1]
    assert (folder / f"{one}.dc").read_bytes() == (folder / f"{other}.dc").read_bytes()
    assert dc.inspect(folder / f"{one}.dc").layers


def test_two_go_on_where_they_were_interrupted(two):
    found, folder = two
    assert found[0]["kept"]
    assert (folder / "resumed.dc").read_bytes() == (folder / "late0.dc").read_bytes()
    assert not (folder / "resume").exists()


def test_the_command_in_two_processes(npz, network_file, tmp_path):
    pytest.importorskip("accelerate")
    from deepcompress.checkpoint import Checkpoint, save_checkpoint
    from deepcompress.networks import build

    torch.manual_seed(0)
    save_checkpoint(tmp_path / "net.pt", Checkpoint(build(f"{network_file}:small").state_dict(), None, None))
    options = ["--network", f"{network_file}:small", "--data", npz, "--device", "cpu", "--prune", "0.8"]
    quick = ["--iterations", "2", "--epochs", "2", "--finetune-epochs", "1", "--save-masks", "masks.safetensors"]
    done = launch(["-m", "deepcompress", "compress", "net.pt", *options, *quick, "-o", "m.dc", "--json"], tmp_path)
    result = json.loads(done.stdout)
    assert result["file_bytes"] == (tmp_path / "m.dc").stat().st_size
    assert done.stderr.count("weights kept:") == 1
    assert dc.load_state_dict(tmp_path / "m.dc")
    assert {path.name for path in tmp_path.iterdir()} >= {"m.dc", "masks.safetensors"}
    assert not list(tmp_path.glob("*.resume"))
