"""Every network of the zoo through every door: no traceback, no trace left in it, and the values of the file."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from samples import CLASSES, batches
from torch import nn
from zoo import WIDTH, ZOO, Extra

import deepcompress as dc
from deepcompress.compression.plan import plan
from deepcompress.errors import CheckpointError, DeepCompressError, NetworkError, PruneError
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.progress import Progress

RECIPE = Recipe(prune=0.5, bits=3, epochs=1, iterations=1, finetune_epochs=1, seed=1, finetune_lr=0.05)
DATA = batches(64, 1, (WIDTH,))
UNEVEN = batches(5, 2, (WIDTH,))[0]


def make(kind):
    torch.manual_seed(0)
    network = ZOO[kind]()
    with torch.no_grad():
        network(DATA[0][0])  # it has been used
    return network


def values(network):
    return {name: copy.deepcopy(value) for name, value in network.state_dict().items()}


def tensors(value):
    """Everything that hangs on a network, wherever."""
    if isinstance(value, torch.Tensor) or type(value).__module__.startswith("torch.fx"):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def check_untouched(network):
    for module in network.modules():
        for value in tensors(list(vars(module).values())):
            assert isinstance(value, torch.Tensor), f"{type(network).__name__} holds a {type(value)}"


def outputs(network):
    with torch.no_grad():
        return network.eval()(DATA[1][0])


def check_file(path, kind):
    """The file loads into a fresh network, whose outputs are those of its tensors, pruned and shared."""
    state, loaded = dc.load_state_dict(path), dc.load(path, into=make(kind))
    weights = {name: value for name, value in state.items() if value.ndim > 1 and value.is_floating_point()}
    shared = [value for name, value in weights.items() if name not in ("hidden",)]
    assert all(len(value.unique()) <= 9 for value in shared)
    assert sum(int((value == 0).sum()) for value in shared) >= sum(value.numel() for value in shared) // 2 - 2
    found = {name: value for name, value in loaded.state_dict().items() if isinstance(value, torch.Tensor)}
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert torch.isfinite(outputs(loaded)).all()
    return loaded


@pytest.mark.parametrize("kind", ZOO)
def test_compressed_with_training(kind, tmp_path):
    network = make(kind)
    before, modes = values(network), [module.training for module in network.modules()]
    result = dc.compress(network, DATA, DATA, RECIPE, tmp_path / "m.dc", test_loader=[*DATA, UNEVEN])
    assert [module.training for module in network.modules()] == modes
    assert all(not isinstance(value, torch.Tensor) or torch.equal(value, before[name])
               for name, value in network.state_dict().items())  # fmt: skip
    check_untouched(network)
    loaded = check_file(tmp_path / "m.dc", kind)
    if kind not in ("clips", "max_norm"):  # there each look at it changes it
        with torch.no_grad():
            right = sum(int((loaded(x).argmax(1) == y).sum()) for x, y in [*DATA, UNEVEN])
        assert result.accuracy_after == pytest.approx(100 * right / 69)


@pytest.mark.parametrize("kind", ZOO)
def test_compressed_without_training_and_planned(kind, tmp_path):
    network = make(kind)
    recipe = Recipe(prune=0.5, bits=3, retrain=False, coder="auto", small_bits=5, batch_norm="fold")
    planned = plan(network, recipe)
    dc.compress(network, None, None, recipe, tmp_path / "m.dc")
    check_untouched(network)
    state = dc.load_state_dict(tmp_path / "m.dc")
    assert {tensor.name for tensor in planned.tensors} >= set(state)
    assert planned.pruned == pytest.approx(0.5, abs=0.02)
    check_file(tmp_path / "m.dc", kind)


@pytest.mark.parametrize("kind", [kind for kind in ZOO if kind not in ("inferred", "computed")])
def test_in_a_loop_of_ones_own(kind, tmp_path):
    network = make(kind)
    network.requires_grad_(False)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    compressor = dc.Compressor(network, Recipe(prune=0.5, bits=3, epochs=1, iterations=1, finetune_lr=0.1))
    compressor.prepare(epochs=1)
    check_untouched(network)
    compressor.epoch()
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for stage in (0, 1):
        for x, y in DATA:
            nn.functional.cross_entropy(network(x), y).backward()
            with torch.no_grad():
                for parameter in free:
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad.to_dense()
            compressor.step()
            network.zero_grad()
        if stage == 0:
            compressor.share()
            before = {name: weight.detach().clone() for name, weight in compressor.weights.items()}
    assert all(not torch.equal(weight, before[name]) for name, weight in compressor.weights.items()), "not tuned"
    compressor.finalize(tmp_path / "m.dc")
    check_untouched(network)
    check_file(tmp_path / "m.dc", kind)


KEEPING = ["remembers", "hooked", "registers", "locked"]
JUDGED = [
    *((kind, criterion) for kind in KEEPING for criterion in ("filters-l1", "nisp", "taylor1", "obs")),
    *(
        (kind, criterion)
        for kind in ("tied", "sparse gradients", "renamed")
        for criterion in ("taylor1", "obs", "snip")
    ),
]


@pytest.mark.parametrize(("kind", "criterion"), JUDGED)
def test_criteria_leave_no_traces(kind, criterion, tmp_path):
    network = make(kind)
    compressor = dc.Compressor(network, Recipe(prune=0.3, bits=3, criterion=criterion, epochs=0))
    compressor.prepare(epochs=0, batches=DATA)
    compressor.epoch()
    check_untouched(network)
    compressor.finalize(tmp_path / "m.dc")
    assert torch.equal(outputs(dc.load(tmp_path / "m.dc", into=make(kind))), outputs(network))


def test_extra_states_come_back(tmp_path):
    kept = {"steps": 3, "names": ["a", {"b": 1.5}], "size": (2, (3,)), "none": None, "flag": True}
    dc.compress(Extra(kept), None, None, Recipe(retrain=False), tmp_path / "m.dc")
    loaded = dc.load(tmp_path / "m.dc", into=Extra())
    assert loaded.extra == kept
    assert isinstance(loaded.extra["size"][1], tuple)
    dc.recode(tmp_path / "m.dc", tmp_path / "r.dc")
    assert dc.load(tmp_path / "r.dc", into=Extra()).extra == kept
    assert loaded.last.out_features == CLASSES


@pytest.mark.parametrize("criterion", ["filters-l1", "nisp", "thinet"])
def test_a_network_without_units_that_can_go_is_told_before_any_score(criterion):
    compressor = dc.Compressor(make("tied"), Recipe(prune=0.3, bits=3, criterion=criterion, epochs=0))
    with pytest.raises(PruneError, match="it found no unit in this network that can be removed safely"):
        compressor.prepare(epochs=0, batches=DATA)


class Heard(Progress):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


def test_what_cannot_be_traced_goes_on_with_one_message(tmp_path):
    watch = Heard()
    dc.compress(make("branches"), DATA, DATA, RECIPE, tmp_path / "m.dc", watch=watch)
    told = [text for text in watch.said if "torch.fx" in text]
    assert len(told) == 1
    assert told[0].startswith(
        "dead neurons cannot be found, so they keep their weights: torch.fx cannot trace the network "
        "Branches (TraceError: "
    )


def test_a_network_of_inference_mode_cannot_be_changed_in_place():
    with pytest.raises(NetworkError, match=r"^tensor first.weight was made under torch.inference_mode"):
        dc.Compressor(make("inferred"))


def test_shared_values_that_nothing_tunes_are_told_for_what_they_are():
    network = make("half frozen")
    compressor = dc.Compressor(network, Recipe(prune=0.5, bits=3, epochs=0, layers=(LayerRule("last", keep=True),)))
    compressor.share()
    nn.functional.cross_entropy(network(DATA[0][0]), DATA[0][1]).backward()
    with pytest.raises(DeepCompressError, match=r"and first.weight and all others that share values ask for none"):
        compressor.step()


@pytest.mark.parametrize("make_script", [torch.jit.script, lambda network: torch.jit.trace(network, DATA[0][0])])
def test_scripts(make_script, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    with warnings.catch_warnings(action="ignore"):
        scripted = make_script(network)
    dc.compress(scripted, DATA, DATA, RECIPE, tmp_path / "m.dc")
    dc.compress(network, DATA, DATA, RECIPE, tmp_path / "n.dc")
    assert dc.load_state_dict(tmp_path / "m.dc").keys() == dc.load_state_dict(tmp_path / "n.dc").keys()
    assert torch.equal(outputs(dc.load(tmp_path / "m.dc", into=scripted)), outputs(dc.load(tmp_path / "m.dc", network)))


@pytest.mark.parametrize("network", [nn.ReLU(), nn.Sequential(), nn.BatchNorm1d(4)])
def test_nothing_to_compress(network, tmp_path):
    for step in (lambda: dc.compress(network, DATA, DATA, RECIPE, tmp_path / "m.dc"), lambda: plan(network),
                 lambda: dc.Compressor(network)):  # fmt: skip
        with pytest.raises(CheckpointError, match="there is nothing to compress"):
            step()
