"""Options of training, through the whole pipeline and from the command line."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from commands import fail, from_json, succeed
from PIL import Image
from safetensors.torch import save_file
from samples import CLASSES, SIDE, Mlp, blobs
from torch import nn

import deepcompress as dc
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.compression import pipeline
from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import RecipeError
from deepcompress.networks import build
from deepcompress.prune.stage import prune_and_retrain
from deepcompress.recipe import Recipe
from deepcompress.training import objective, retraining
from deepcompress.training.loop import fit
from deepcompress.training.objective import Classification
from deepcompress.training.retraining import Run

QUICK = {"prune": 0.7, "bits": 3, "epochs": 2, "iterations": 2, "finetune_epochs": 1, "batch_size": 32}
QUICK_OPTIONS = ["--epochs", "1", "--iterations", "1", "--finetune-epochs", "1", "--batch-size", "64"]


# The pipeline ------------------------------------------------------------------------------------------------


@pytest.fixture
def objectives(monkeypatch):
    """The objectives that the pipeline makes, each with what its teacher is when the pipeline is through with it."""
    made = []

    class Spy(Classification):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(objective, "Classification", Spy)
    return made


def test_the_teacher_is_the_network_as_it_came(dense, flat_train, objectives, tmp_path):
    dense.train()
    before = copy.deepcopy(dense.state_dict())
    compress(dense, flat_train, None, Recipe(**QUICK, lr=0.02, distill=0.5, temperature=3.0), tmp_path / "m.dc")
    (made,) = objectives
    teacher = made.teacher
    assert (made.distill, made.temperature) == (0.5, 3.0)
    assert teacher is not dense
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert teacher.drop.p == 0.4  # pruning lowers the student's
    x = flat_train[0][0]
    assert torch.equal(teacher(x), teacher(x))  # no dropout
    assert dense.training
    assert all(parameter.requires_grad for parameter in dense.parameters())
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())


def test_the_teacher_is_asked_in_both_stages_and_in_evaluation_mode_only(dense, flat_train, objectives, tmp_path):
    asked = []

    class Asked(Mlp):
        def forward(self, x):
            out = super().forward(x)
            if not torch.is_grad_enabled():
                asked.append((self.training, self.fc1.weight.count_nonzero().item()))
            return out

    model = Asked()
    model.load_state_dict(dense.state_dict())
    compress(model, flat_train, None, Recipe(**QUICK, lr=0.02, distill=0.5), tmp_path / "m.dc")
    assert asked == [(False, model.fc1.weight.count_nonzero().item())] * (
        3 * len(flat_train) + 1
    )  # and once to see what it gives


def test_without_distillation_there_is_no_teacher(dense, flat_train, objectives, tmp_path):
    compress(dense, flat_train, None, Recipe(**QUICK, label_smoothing=0.2), tmp_path / "m.dc")
    (made,) = objectives
    assert (made.label_smoothing, made.teacher, made.distill) == (0.2, None, 0)


def test_with_all_weight_on_the_teacher_labels_make_no_difference(dense, flat_train, tmp_path):
    wrong = [(x, (y + 1) % CLASSES) for x, y in flat_train]
    files = {}
    for distill in (1.0, 0.5):
        for name, data in (("right", flat_train), ("wrong", wrong)):
            compress(dense, data, None, Recipe(**QUICK, distill=distill), tmp_path / "m.dc")
            files[distill, name] = (tmp_path / "m.dc").read_bytes()
    assert files[1.0, "right"] == files[1.0, "wrong"]
    assert files[0.5, "right"] != files[0.5, "wrong"]


def test_both_stages_train_as_the_recipe_says(dense, flat_train, monkeypatch, tmp_path):
    calls = []

    def spy(*arguments, **how):
        calls.append(how)
        fit(*arguments, **how)

    monkeypatch.setattr(retraining, "fit", spy)
    recipe = Recipe(**QUICK, lr=0.02, lr_schedule="step", precision="bfloat16", label_smoothing=0.1, clip_norm=0.5)
    compress(dense, flat_train, None, recipe, tmp_path / "m.dc")
    assert [call["stage"] for call in calls] == ["prune", "quantize"]
    told = [(call["lr_schedule"], call["precision"], call["clip_norm"]) for call in calls]
    assert told == [("step", "bfloat16", 0.5)] * 2
    assert all(call["objective"] == Classification(0.1, None, 0.0, 4.0) for call in calls)


OPTIONS = [
    {"label_smoothing": 0.2}, {"distill": 0.5}, {"distill": 0.5, "temperature": 1.0}, {"lr_schedule": "step"},
    {"lr_schedule": "constant"}, {"precision": "bfloat16"}, {"clip_norm": 0.1},
]  # fmt: skip


def test_every_option_has_an_effect_that_repeats(dense, flat_train, tmp_path):
    files = []
    for changes in ({}, *OPTIONS):
        made = []
        for _ in range(2):
            compress(dense, flat_train, None, Recipe(**QUICK, **changes), tmp_path / "m.dc")
            made.append((tmp_path / "m.dc").read_bytes())
        assert made[0] == made[1]
        files.append(made[0])
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_pruned_weights_stay_zero_in_bfloat16(dense, flat_train, optimizer, penalty):
    weights = {name: value for name, value in dense.named_parameters() if value.ndim > 1}
    recipe = Recipe(**QUICK, precision="bfloat16", optimizer=optimizer, penalty=penalty, lr=0.01)
    masks = prune_and_retrain(Run(dense, weights, flat_train, recipe, objective=Classification(0.1)))
    total = sum(weight.numel() for weight in weights.values())
    assert sum(int(mask.sum()) for mask in masks.keep.values()) <= total - round(0.7 * total)
    for name, weight in weights.items():
        assert weight.dtype is torch.float32
        assert (weight[~masks.keep[name].bool()] == 0).all()
        assert (weight[masks.keep[name].bool()] != 0).all()


def test_a_file_of_bfloat16_training_holds_float32(dense, flat_train, flat_test, tmp_path):
    result = compress(dense, flat_train, flat_test, Recipe(**QUICK, precision="bfloat16"), tmp_path / "m.dc")
    state = dc.load_state_dict(tmp_path / "m.dc")
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in state.values())
    assert result.accuracy_after > 90


# From the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)
    return tmp_path


@pytest.fixture
def small(here, network_file):
    """The `--network` of a small network of the user's, and a checkpoint of it."""
    torch.manual_seed(1)  # not the seed that `train` starts with
    name = f"{network_file}:small"
    save_checkpoint(here / "dense.pt", Checkpoint(build(name).state_dict()))
    return name


def options_of(settings):
    """``{"lr_schedule": "step"}`` as ``["--lr-schedule", "step"]``."""
    return [text for key, value in settings.items() for text in (f"--{key.replace('_', '-')}", str(value))]


SETTINGS = {
    "label_smoothing": 0.1, "distill": 0.25, "temperature": 2.0, "lr_schedule": "step", "precision": "bfloat16",
    "index_bits": 4, "batch_norm": "fold", "clip_norm": 1.5,
}  # fmt: skip


def test_options_reach_the_recipe(small, npz):
    command = ["compress", "dense.pt", "--network", small, "--data", npz, *QUICK_OPTIONS]
    found = from_json(*command, *options_of(SETTINGS), "--flip", "--freeze-bn")["recipe"]
    assert {key: found[key] for key in SETTINGS} == SETTINGS
    assert found["flip"] is found["freeze_bn"] is True
    assert from_json(*command, "--no-flip")["recipe"]["flip"] is False
    plain = from_json(*command)["recipe"]
    assert not {"flip", "index_bits", "clip_norm"} & plain.keys()
    assert all(plain[key] == getattr(Recipe(), key) for key in SETTINGS.keys() - {"index_bits", "clip_norm"})


def test_options_reach_the_loaders(small, npz, monkeypatch):
    loaders = []

    def spy(model, train, *rest, **how):
        loaders.append((train.flip, train.shift, train.batch_size))
        return compress(model, train, *rest, **how)

    monkeypatch.setattr(pipeline, "compress", spy)
    command = ["compress", "dense.pt", "--network", small, "--data", npz, *QUICK_OPTIONS]
    for options in ([], ["--flip", "--shift", "1"], ["--no-flip"]):
        succeed(*command, *options)
    assert loaders == [(False, 0, 64), (True, 1, 64), (False, 0, 64)]


def test_a_recipe_file_has_them_too_and_options_win(small, npz, here):
    (here / "r.toml").write_text('flip = true\nindex_bits = 6\nlr_schedule = "constant"\ndistill = 0.5\n')
    command = ["compress", "dense.pt", "--network", small, "--data", npz, *QUICK_OPTIONS, "--recipe", "r.toml"]
    found = from_json(*command, "--no-flip", "--distill", "0")["recipe"]
    expected = (False, 6, "constant", 0)
    assert tuple(found[key] for key in ("flip", "index_bits", "lr_schedule", "distill")) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('flip = "yes"', "flip is 'yes'"),
        ("label_smoothing = nan", "label_smoothing is nan"),
        ("temperature = inf", "temperature is inf"),
        ("distill = -0.5", "distill is -0.5"),
        ("index_bits = true", "index_bits is True"),
        ('precision = "half"', "precision is 'half'"),
    ],
)
def test_recipes_that_are_refused(small, here, line, reason):
    (here / "r.toml").write_text(line)
    assert reason in fail("compress", "dense.pt", "--recipe", "r.toml", code=2)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("label-smoothing", ["nan", "1", "-0.1", "much"]),
        ("distill", ["nan", "1.1", "-1"]),
        ("temperature", ["0", "-1", "nan", "inf", "1e30"]),
        ("index-bits", ["0", "13", "2.5"]),
        ("clip-norm", ["nan", "-1"]),
        ("lr-schedule", ["linear"]),
        ("precision", ["float16"]),
        ("batch-norm", ["drop"]),
    ],
)
def test_options_that_are_refused_name_themselves(small, option, values):
    for value in values:
        line = fail("compress", "dense.pt", f"--{option}", value, code=2)
        assert option in line.replace("_", "-")


def test_train_takes_and_reports_its_options(small, npz, here):
    settings = {"label_smoothing": 0.1, "lr_schedule": "step", "precision": "bfloat16"}
    command = ["train", small, "--data", npz, "-o", "new.pt", "--epochs", "1"]
    found = from_json(*command, *options_of(settings), "--flip")
    assert {key: found[key] for key in settings} == settings
    assert found["flip"] is True
    first = load_checkpoint(here / "new.pt").state
    assert {value.dtype for value in first.values()} == {torch.float32}
    from_json(*command, *options_of(settings), "--flip")
    again = load_checkpoint(here / "new.pt").state
    from_json(*command)
    plain = load_checkpoint(here / "new.pt").state
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["0.weight"], plain["0.weight"])


def test_train_goes_on_from_a_checkpoint(small, npz, here):
    start = load_checkpoint(here / "dense.pt").state
    command = ["train", small, "--data", npz, "-o", "new.pt", "--epochs", "1", "--lr", "1e-9", "--weight-decay", "0"]
    succeed(*command, "--from", "dense.pt")
    state = load_checkpoint(here / "new.pt").state
    for name, value in start.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6)
    succeed(*command)
    assert not torch.allclose(load_checkpoint(here / "new.pt").state["0.weight"], start["0.weight"], atol=1e-2)


def test_train_from_what_does_not_fit(small, npz, here):
    torch.save(Mlp().state_dict(), here / "other.pt")
    line = fail("train", small, "--data", npz, "--from", "other.pt", "-o", "new.pt")
    assert "other.pt: has no tensor 0.weight, which the network Sequential needs" in line
    assert "missing.pt: no such file" in fail("train", small, "--data", npz, "--from", "missing.pt", "-o", "new.pt")
    assert not (here / "new.pt").exists()


def test_an_old_resnet20_in_safetensors(here):
    """Without a name, and without batch norm's counters: found by its tensors."""
    torch.manual_seed(0)
    state = {name: value for name, value in build("resnet20").state_dict().items() if "num_batches" not in name}
    save_file(state, here / "old.safetensors")
    succeed("compress", "old.safetensors", "--no-retrain", "--prune", "0.9", "--index-bits", "4")
    info = dc.inspect(here / "model.dc")
    assert info.network == "resnet20"
    coded = [layer for layer in info.layers if layer.kind == "coded"]
    assert len(coded) >= 18
    assert all(layer.index_bits == 4 for layer in coded)
    network = dc.load(here / "model.dc")
    assert torch.equal(network.bn1.running_var, state["bn1.running_var"])


# Folders of images -------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(here):
    """Folders of grey images that the small network learns."""
    folder = here / "private" / "shapes"
    for part, count, seed in (("train", 300, 1), ("val", 60, 3), ("test", 100, 2)):
        x, y = blobs(count, seed, (SIDE, SIDE))
        for index, (image, label) in enumerate(zip((x * 30 + 128).clamp(0, 255).byte(), y.tolist(), strict=True)):
            path = folder / part / f"class{label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).save(path)
    return folder


def test_train_compress_and_eval_with_a_folder(small, pictures, here):
    options = ["-o", "t.pt", "--epochs", "8", "--lr", "0.1", "--normalize", "data"]
    trained = from_json("train", small, "--data", pictures, *options)
    assert trained["samples"] == 100
    assert trained["error"] < 10
    command = ["compress", "t.pt", "--network", small, "--data", f"{pictures}/", "-o", "t.dc", "--prune", "0.5"]
    made = from_json(*command, *QUICK_OPTIONS)
    assert made["accuracy_before"] == trained["accuracy"]
    assert dc.inspect(here / "t.dc").data == "shapes"
    assert b"private" not in (here / "t.dc").read_bytes()
    found = from_json("eval", "t.dc", "--network", small, "--data", pictures)
    assert (found["data"], found["samples"], found["accuracy"]) == ("shapes", 100, made["accuracy_after"])


@pytest.mark.parametrize("command", ["train", "compress", "eval"])
def test_a_folder_that_cannot_be_used_is_one_line(small, pictures, command):
    (pictures / "test" / "class0" / "0.png").write_bytes(b"")
    what = [small, "-o", "x.pt"] if command == "train" else ["dense.pt", "--network", small]
    assert "0.png is not an image of any format that Pillow knows" in fail(command, *what, "--data", pictures)
    assert "no folder" in fail(command, *what, "--data", pictures / "test" / "class1")


def named(data, path="m.dc", network="lenet-300-100"):
    torch.manual_seed(0)
    compress_state(build(network).state_dict(), Recipe(retrain=False), path, network=network, data=data)
    return path


@pytest.mark.parametrize("name", ["cifar10-jpeg", "./digits", "elsewhere/shapes", "x.npz", "/"])
def test_a_file_that_names_data_of_its_makers(here, name):
    """Whatever lies on this machine by that name is not looked at: the file may be a stranger's."""
    (here / "cifar10-jpeg").mkdir()
    np.savez(here / "x.npz", x=np.zeros(3))
    (here / "elsewhere" / "shapes").mkdir(parents=True)
    line = fail("eval", named(name))
    assert line == (
        f"Error: m.dc: the file names the data {name!r}, which is a folder or .npz file of its author: "
        "give your copy with --data"
    )
    assert from_json("eval", "m.dc", "--data", "digits")["data"] == "digits"


def test_a_file_that_names_a_known_set_or_none(here):
    assert from_json("eval", named("digits"))["samples"] == 500
    assert "names no data set; say which with --data" in fail("eval", named(""))


def test_a_checkpoint_of_ones_own_names_where_its_data_is(here):
    """That of `train`; a .dc file never holds a path."""
    x, y = blobs(60, 1, (1, 28, 28))
    np.savez(here / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    save_checkpoint("lenet.pt", Checkpoint(build("lenet-300-100").state_dict(), "lenet-300-100", "own.npz"))
    assert from_json("eval", "lenet.pt")["data"] == "own"
    (here / "own.npz").unlink()
    assert "lenet.pt: the file names the data 'own.npz', which is a folder or .npz file" in fail("eval", "lenet.pt")


def test_nn_module_of_ones_own_with_pictures(small, pictures, here):
    """The same from Python."""
    from deepcompress.training.data import load_data

    data = load_data(str(pictures))
    model: nn.Module = build(small)
    recipe = Recipe(prune=0.5, bits=4, epochs=1, iterations=1, finetune_epochs=0)
    compress(model, data.train_loader(64, 0), data.val_loader(), recipe, here / "m.dc", data=data.name)
    assert dc.inspect(here / "m.dc").data == "shapes"


@pytest.mark.parametrize(("field", "value"), [("flip", "yes"), ("flip", 1), ("retrain", "no"), ("retrain", None)])
def test_what_is_true_or_false_is_nothing_else(field, value):
    with pytest.raises(RecipeError, match=f"{field} is {value!r}; it must be true or false"):
        Recipe(**{field: value})


def test_train_refuses_to_smooth_by_what_is_no_number(here):
    assert "label_smoothing is nan" in fail("train", "lenet5", "--label-smoothing", "nan", code=2)


def test_bare_tensors_have_no_batch_norm_to_fold(tmp_path):
    with pytest.raises(RecipeError, match="needs the network"):
        compress_state({"w": torch.ones(4, 4)}, Recipe(prune=0.5, batch_norm="fold", retrain=False), tmp_path / "m.dc")
    assert not (tmp_path / "m.dc").exists()


def test_a_file_names_the_users_data_without_its_path(tmp_path):
    save_checkpoint(tmp_path / "d.pt", Checkpoint({"w": torch.randn(20, 20)}, None, "/home/me/secret/pics.npz"))
    path = str(tmp_path / "m.dc")
    succeed("compress", str(tmp_path / "d.pt"), "--no-retrain", "-o", path)
    assert dc.inspect(path).data == "pics"
