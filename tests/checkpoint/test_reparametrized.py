"""Weights that are computed from others come to exactly what torch computes in evaluation."""

from __future__ import annotations

import cases
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from deepcompress.checkpoint import LazyTensors, load_checkpoint, open_checkpoint
from deepcompress.networks.parametrized import bake

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def masked(module, name="weight"):
    torch.manual_seed(1)
    return prune.l1_unstructured(module, name, 0.5)


def masked_direction(module):
    """A mask on one of the two tensors that weight_norm computes from."""
    return masked(weight_norm(module), "weight_v")


MAKERS = {
    "weight_norm": weight_norm,
    "weight_norm of all": lambda module: weight_norm(module, dim=None),
    "weight_norm of dimension 1": lambda module: weight_norm(module, dim=1),
    "new weight_norm": parametrizations.weight_norm,
    "new weight_norm of all": lambda module: parametrizations.weight_norm(module, dim=None),
    "spectral_norm": spectral_norm,
    "new spectral_norm": parametrizations.spectral_norm,
    "spectral_norm twice": lambda module: parametrizations.spectral_norm(parametrizations.spectral_norm(module)),
    "both": lambda module: parametrizations.spectral_norm(parametrizations.weight_norm(module)),
    "mask": masked,
    "mask of a bias": lambda module: masked(module, "bias"),
    "mask under weight_norm": masked_direction,
}
MODULES = {
    "linear": lambda: nn.Linear(6, 4),
    "square": lambda: nn.Linear(5, 5),
    "one input": lambda: nn.Linear(1, 4),
    "convolution": lambda: nn.Conv2d(3, 4, 3),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3),
    "transposed square": lambda: nn.ConvTranspose1d(4, 4, 1),
}


def network(module, kind, dtype=torch.float32):
    """A module of a few random weights, whose vectors of spectral_norm have been moved as in training."""
    torch.manual_seed(0)
    net = nn.Sequential(MAKERS[kind](MODULES[module]()))
    hooks = list(net[0]._forward_pre_hooks.values())
    for _ in range(20):
        if kind == "spectral_norm":
            hooks[0](net[0], None)
        _ = net[0].weight
    return net.to(dtype).eval()


def opened(tmp_path, state):
    torch.save(state, tmp_path / "x.pt")
    return open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("kind", MAKERS)
def test_the_weight_is_what_torch_computes(kind, module, dtype, tmp_path):
    net = network(module, kind, dtype)
    found = opened(tmp_path, net.state_dict())
    bake(net)
    expected = net.state_dict()
    assert found.state.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found.state[name].nan_to_num(), value.nan_to_num())  # of a row that is 0, torch makes NaN
        assert same, name
    assert len(found.found.combined) == 1
    assert isinstance(found.state, LazyTensors)


def test_it_is_said_and_tensors_keep_their_places(tmp_path):
    layers = [nn.Linear(2, 2) for _ in range(4)]
    net = nn.Sequential(weight_norm(layers[0]), layers[1], masked(layers[2]), masked_direction(layers[3]))
    found = opened(tmp_path, net.state_dict())
    assert found.found.combined == {
        "0.weight": "weight_norm",
        "2.weight": "a pruning mask",
        "3.weight": "a pruning mask and weight_norm",
    }
    assert list(found.state)[2:5] == ["1.weight", "1.bias", "2.bias"]
    assert "1 weight was computed by weight_norm: 0.weight." in found.found.news()
    assert not opened(tmp_path, nn.Linear(2, 2).state_dict()).found.combined


def test_all_kinds_of_files_combine_alike(tmp_path):
    net = network("linear", "weight_norm")
    state = {name: value.detach() for name, value in net.state_dict().items()}
    bake(net)
    for write in (cases.safetensors, cases.npz, cases.distributed):
        found = load_checkpoint(write(state, tmp_path)).state
        assert cases.equal(found, net.state_dict()), write


def test_tied_weights_stay_tied(tmp_path):
    layer = weight_norm(nn.Linear(3, 2))
    net = nn.Sequential(layer, nn.ReLU(), layer)
    found = opened(tmp_path, net.state_dict())
    assert found.state.tied == {"2.bias": "0.bias", "2.weight": "0.weight"}


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_what_is_computed_in_an_unknown_way_stays_as_it_is(tmp_path):
    own = nn.Linear(3, 2)
    parametrize.register_parametrization(own, "weight", Half())
    orthogonal = parametrizations.orthogonal(nn.Linear(3, 3))
    for layer in (own, orthogonal):
        state = layer.state_dict()
        assert cases.equal(dict(opened(tmp_path, state).state), state)


@pytest.mark.parametrize(
    "shapes",
    [
        {"a_g": (2, 2), "a_v": (2, 2)},
        {"a_g": (1, 3), "a_v": (4, 5)},
        {"a_orig": (4, 5), "a_mask": (5, 4)},
        {"a_orig": (4, 5), "a_u": (3,), "a_v": (5,)},
        {"a_g": (4, 1), "a_v": (4, 5), "a": (4, 5)},
        {"a_orig": (4, 5)},
        {"fc.parametrizations.weight.original0": (4, 2), "fc.parametrizations.weight.original1": (4, 5)},
        {"fc.parametrizations.weight.original": (4, 5), "fc.parametrizations.weight.1._u": (4,)},
        {"w": (2, 2), "__nncf_hooks.post_hooks.x:weight__0.0.binary_mask": (2, 2)},
    ],
)
def test_names_alone_prove_nothing(shapes, tmp_path):
    state = {name: torch.ones(shape) for name, shape in shapes.items()}
    assert cases.equal(dict(opened(tmp_path, state).state), state)


@pytest.mark.parametrize(
    ("mask", "weight"),
    [
        ("__nncf_hooks.post_hooks.body:0:weight__0.0.binary_mask", "body.0.weight"),
        ("model.__nncf_hooks.post_hooks.fc:weight__0.1.binary_mask", "model.fc.weight"),
        ("fc.pre_ops.0.op._binary_mask", "fc.weight"),
        ("nncf_module.fc.pre_ops.1.op.binary_mask", "fc.weight"),
    ],
)
def test_masks_of_nncf_are_in_the_weights(mask, weight, tmp_path):
    keep = torch.tensor([[True, False, True], [False, True, False]])
    dense = torch.arange(1.0, 7.0).reshape(2, 3)
    stored = "nncf_module.fc.weight" if mask.startswith("nncf_module") else weight
    found = opened(tmp_path, {stored: dense, mask: keep})
    assert list(found.state) == [weight]
    assert found.state[weight].tolist() == [[1, 0, 3], [0, 5, 0]]
    assert found.found.combined == {weight: "NNCF's pruning mask"}


def test_a_mask_that_nncf_learns_is_of_scores(tmp_path):
    state = {
        "fc.weight": torch.tensor([[1.0, 2.0, 3.0]]),
        "__nncf_hooks.post_hooks.fc:weight__0.0.mask": torch.tensor([[4.6, -0.1, 0.0]]),
    }
    assert opened(tmp_path, state).state["fc.weight"].tolist() == [[1, 0, 0]]


def test_a_mask_in_a_parametrization(tmp_path):
    state = {
        "fc.parametrizations.weight.original": torch.tensor([[1.0, 2.0]]),
        "fc.parametrizations.weight.0.mask": torch.tensor([[0.0, 1.0]]),
    }
    assert opened(tmp_path, state).state["fc.weight"].tolist() == [[0, 2]]
