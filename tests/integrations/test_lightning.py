"""The callback in Lightning's own Trainer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import Mlp, blobs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import deepcompress as dc
from deepcompress.errors import DeepCompressError

pl = pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")

from deepcompress.integrations.lightning import CompressCallback  # noqa: E402

RECIPE = dc.Recipe(prune=0.75, bits=3, iterations=2, epochs=3, finetune_epochs=1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # from dynamo
]


class Module(pl.LightningModule):
    def __init__(self, manual=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = Mlp()
        self.automatic_optimization = not manual
        self.seen = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.seen.append(float((self.net.fc1.weight == 0).float().mean()))
        if self.automatic_optimization:
            return loss
        optimizer, other = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        other.step()
        return None

    def configure_optimizers(self):
        ours = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        if self.automatic_optimization:
            return ours
        self.other = nn.Linear(2, 2)
        return [ours, torch.optim.SGD(self.other.parameters(), lr=0.1)]


@pytest.fixture
def loader():
    return DataLoader(TensorDataset(*blobs(256, seed=1)), batch_size=32, shuffle=True)


def trainer_of(tmp_path, *callbacks, **settings):
    settings = {"max_epochs": 4, "enable_checkpointing": False, **settings}
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **settings,
    )


def check(callback, network, path, recipe=RECIPE):
    """The file is the network, pruned and shared as asked, and the network has learned."""
    stored = dc.load_state_dict(path)
    assert list(stored) == list(network.state_dict())
    assert all(torch.equal(stored[name], value) for name, value in network.state_dict().items())
    assert callback.compressor.sparsity >= recipe.prune
    assert all(len(w[w != 0].unique()) <= 2**recipe.bits for w in stored.values() if w.ndim > 1)
    assert callback.result.file_bytes == path.stat().st_size
    network.eval()
    x, y = blobs(128, seed=2)
    assert (network(x).argmax(1) == y).float().mean() > 0.9


@pytest.mark.parametrize(
    ("manual", "settings"),
    [
        (False, {}),
        (False, {"max_epochs": 8, "accumulate_grad_batches": 2, "gradient_clip_val": 0.5}),
        (False, {"max_epochs": -1, "max_steps": 30}),
        (False, {"precision": "bf16-mixed"}),
        (True, {}),
    ],
    ids=["plain", "accumulated", "steps", "bfloat16", "manual"],
)
def test_a_network_is_compressed_while_it_trains(loader, tmp_path, manual, settings):
    module, path = Module(manual), tmp_path / "m.dc"
    callback = CompressCallback(path, RECIPE, submodule="net")
    trainer_of(tmp_path, callback, **settings).fit(module, loader)
    check(callback, module.net, path)
    assert module.seen[-1] > module.seen[0] > 0.2  # from the first step on, and not at once
    x = blobs(8, seed=3)[0]
    assert torch.equal(dc.load(path, into=Mlp()).eval()(x), module.net.eval()(x))


def test_the_whole_module(loader, tmp_path):
    module, path = Module(), tmp_path / "m.dc"
    trainer_of(tmp_path, CompressCallback(path, RECIPE), max_epochs=1).fit(module, loader)
    assert list(dc.load_state_dict(path)) == [f"net.{name}" for name in Mlp().state_dict()]
    x = blobs(8, seed=3)[0]
    assert torch.equal(module.eval()(x), dc.load(path, into=Module()).eval()(x))


def test_a_submodule_that_is_compiled(loader, tmp_path):
    module, path = Module(), tmp_path / "m.dc"
    bare, module.net = module.net, torch.compile(module.net, backend="eager")
    callback = CompressCallback(path, RECIPE, submodule="net")
    trainer_of(tmp_path, callback).fit(module, loader)
    check(callback, bare, path)


def test_penalties_change_gradients(loader, tmp_path):
    recipe = dc.Recipe(prune=0.75, bits=3, penalty="l1", penalty_weight=1e-3, regrow="surgery")
    module = Module()
    callback = CompressCallback(tmp_path / "m.dc", recipe, submodule="net")
    trainer_of(tmp_path, callback).fit(module, loader)
    check(callback, module.net, tmp_path / "m.dc")


@pytest.mark.parametrize("stop", [1, 3], ids=["while pruning", "while tuning"])
def test_a_run_goes_on_from_its_checkpoint(loader, tmp_path, stop):
    recipe = dc.Recipe(prune=0.75, bits=3, iterations=2, epochs=2, finetune_epochs=2)
    first = CompressCallback(tmp_path / "first.dc", recipe, submodule="net")
    module = Module()
    checkpoints = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer_of(tmp_path, first, checkpoints, enable_checkpointing=True).fit(module, loader)
    path = tmp_path / f"epoch={stop - 1}.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    again, module = CompressCallback(tmp_path / "m.dc", recipe, submodule="net"), Module()
    trainer_of(tmp_path, again).fit(module, loader, ckpt_path=str(path))
    check(again, module.net, tmp_path / "m.dc", recipe)
    for name, value in module.state_dict().items():
        if value.ndim > 1:
            assert not value[saved[name] == 0].any()  # what was pruned stays pruned
    if stop == 3:  # what was shared stays shared
        for value in saved["net.fc1.weight"].unique():
            assert len(module.net.fc1.weight[saved["net.fc1.weight"] == value].unique()) == 1


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({"submodule": "body"}, {}, "submodule 'body' is not in Module"),
        ({}, {"max_epochs": -1}, "does not say how many steps"),
        ({"recipe": dc.Recipe(weighting="fisher")}, {}, "needs training data: give the callback batches"),
        ({"recipe": dc.Recipe(criterion="taylor1")}, {}, "looks at training data"),
        ({"recipe": dc.Recipe(target_size=1000)}, {}, "use compress"),
        ({"path": "nowhere/m.dc"}, {}, "nowhere"),
    ],
)
def test_what_is_refused_before_anything_is_trained(loader, tmp_path, options, settings, said):
    callback = CompressCallback(**{"path": tmp_path / "m.dc", "recipe": RECIPE} | options)
    with pytest.raises(DeepCompressError, match=said):
        trainer_of(tmp_path, callback, **settings).fit(module := Module(), loader)
    assert not module.seen
    assert not (tmp_path / "m.dc").exists()
