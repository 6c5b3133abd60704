"""Training without labels: the dense network says what is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import QUICK, fail, from_json, run, succeed, without
from safetensors.torch import save_file
from samples import NETWORK_FILE, SIDE, blobs

from deepcompress.errors import DataError
from deepcompress.networks import build
from deepcompress.training.data import load_data
from deepcompress.training.evaluation import evaluate
from deepcompress.training.inputs_only import has_no_targets, load_inputs
from deepcompress.training.loop import fit
from deepcompress.training.taught import output_task, taught_by

TWO = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 24), nn.Linear(6, 24)
        self.out = nn.Linear(24, 5)

    def forward(self, left, right):
        return {"logits": self.out(torch.relu(self.a(left) + self.b(right))), "other": 3}


def batches():
    generator = torch.Generator().manual_seed(1)
    return [{"left": torch.randn(16, 12, generator=generator), "right": torch.randn(16, 6, generator=generator)}
            for _ in range(8)]


def pairs():
    return [(batch["left"], batch["right"]) for batch in batches()]


def ragged():
    return [torch.randn(4, 12), torch.randn(4, 13)]


def nothing():
    return []


def few():
    return torch.randn(4, 12)


def bad():
    found = pairs()
    found[3][1][2, 2] = float("nan")
    return found


def gap(output, target):
    return (output["logits"] - target).abs().mean()


gap.higher_is_better = False


def distance(output, target):
    return 10 * (output["logits"] - target).abs().mean()
"""
SMALL = ["--prune", "0.5", "--bits", "4", *QUICK]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two networks, a file of inputs for each, and a data set with labels."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(NETWORK_FILE)
    (folder / "two.py").write_text(TWO)
    torch.manual_seed(0)
    small, two = build(f"{folder}/mine.py:small"), build(f"{folder}/two.py:Two")
    x, y = blobs(300, 1, (1, SIDE, SIDE))
    fit(small, list(zip(x.split(32), y.split(32), strict=True)), torch.optim.SGD(small.parameters(), 0.1), 4, stage="t")
    save_file(small.state_dict(), folder / "small.safetensors")
    save_file(two.state_dict(), folder / "two.safetensors")
    np.savez(folder / "x.npz", x=x.numpy())
    labelled = {"x_train": x, "y_train": y.flip(0), "x_test": x[:50], "y_test": y[:50]}
    np.savez(folder / "labelled.npz", **{key: value.numpy() for key, value in labelled.items()})
    return folder


@pytest.fixture
def there(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    return tmp_path


def command(there, data, *more, network="mine.py:small", net="small.safetensors"):
    return ("compress", net, "--network", network, "--data", data, "--teacher-only", "-o", there / "m.dc", *more)


def test_inputs_alone_are_enough(there):
    found = from_json(*command(there, "x.npz", *SMALL))
    assert (found["task"], found["metric"], found["recipe"]["distill"]) == ("outputs", "Output error", 1.0)
    before, *_, after = found["stages"]
    assert before["metric"] < 1e-6
    assert 0 < after["metric"] < 60
    assert found["accuracy_after"] is None


def test_classes_are_those_of_the_dense_network(there):
    found = from_json(*command(there, "x.npz", "--task", "classification", *SMALL))
    assert (found["task"], found["metric"]) == ("classification", "Disagreement")
    assert found["accuracy_before"] == 100
    assert found["accuracy_after"] > 80


def test_labels_that_are_there_only_say_what_outputs_mean(there):
    found = from_json(*command(there, "labelled.npz", *SMALL))
    assert (found["metric"], found["accuracy_before"]) == ("Disagreement", 100)
    assert found["accuracy_after"] > 80


def test_eval_measures_against_a_teacher(there):
    made = from_json(*command(there, "x.npz", *SMALL))
    network = ("--network", "mine.py:small", "--data", "x.npz", "--teacher", "small.safetensors")
    found = from_json("eval", there / "m.dc", *network)
    assert found["value"] == made["value"]
    assert (found["metric"], found["samples"]) == ("Output error", 30)
    assert from_json("eval", "small.safetensors", *network)["value"] < 1e-6
    classes = from_json("eval", there / "m.dc", *network, "--task", "classification")
    assert classes["metric"] == "Disagreement"
    assert "gone.pt" in fail("eval", there / "m.dc", *network[:-1], "gone.pt")


def test_budgets_are_points_of_agreement(there):
    found = from_json(*command(there, "x.npz", "--prune", "0.9", "--bits", "4", "--max-drop", "1", *QUICK))
    pruned = next(stage for stage in found["stages"] if stage["stage"] == "prune")
    assert found["held"]
    assert pruned["metric"] < 3
    sized = from_json(*command(there, "x.npz", "--target-size", "2500", *without(QUICK, "--iterations")))
    assert sized["file_bytes"] <= 2500
    assert sized["stages"][-1]["metric"] < 60


@pytest.mark.parametrize("function", ["batches", "pairs"])
def test_a_function_gives_inputs_of_several_parts(there, function):
    found = from_json(*command(there, f"two.py:{function}", *SMALL, network="two.py:Two", net="two.safetensors"))
    assert found["metric"] == "Output error"
    assert 0 < found["stages"][-1]["metric"] < 100


def test_a_loss_and_a_metric_are_of_both_outputs(there):
    found = from_json(
        *command(there, "two.py:batches", "--loss", "two.py:distance", "--metric", "two.py:gap", *SMALL,
                 network="two.py:Two", net="two.safetensors")
    )  # fmt: skip
    before, *_, after = found["stages"]
    assert found["metric"] == "gap"
    assert (before["loss"], before["metric"]) == (0, 0)
    assert after["loss"] == pytest.approx(10 * after["metric"], rel=1e-3)


def test_what_is_said(there):
    said = succeed(*command(there, "x.npz", *SMALL))
    assert "task outputs, of which Output error is measured" in said.stderr.replace("\n", " ")
    assert "Output error" in said.stdout


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("two.py:ragged", "the batches do not fit together"),
        ("two.py:nothing", "it gives no inputs"),
        ("two.py:few", "there are 4 samples to train on, and at least 8 are needed"),
        ("two.py:bad", "batch 3 (from 0): there is NaN or infinity in sample 2"),
        ("two.py:absent", "defines no function named 'absent'"),
        ("x.npz", "cannot take samples of shape (1, 8, 8)"),
    ],
)
def test_what_is_no_inputs_is_one_line(there, data, line):
    assert line in fail(*command(there, data, *SMALL, "-q", network="two.py:Two", net="two.safetensors"))
    assert not (there / "m.dc").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--distill", "0.5"], "leave --distill out"),
        (["--no-retrain"], "leave out --no-retrain"),
        (["--calibrate", "x.npz"], "leave out --no-retrain and --calibrate"),
        (["--label-smoothing", "0.1"], "leave it out"),
    ],
)
def test_what_excludes_it(there, options, line):
    result = run(*command(there, "x.npz", *options))
    assert result.exit_code == 2
    assert line in " ".join(result.stderr.split())


def test_without_it_targets_are_asked_for(there):
    line = fail("compress", "small.safetensors", "--network", "mine.py:small", "--data", "x.npz", "-o", there / "m.dc")
    assert "--teacher-only" in line


def test_outputs_are_measured_by_their_variance(home):
    model = build(f"{home}/mine.py:small").eval()
    data = taught_by(model, load_inputs(f"{home}/x.npz"))
    assert evaluate(model, data.val_loader(), data.task).value < 1e-6
    mean = data.y_train.mean(0)

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return mean.expand(len(x), -1) * self.one

    assert evaluate(Mean(), data.train_loader(32, 0), data.task).value == pytest.approx(100, rel=1e-4)
    assert output_task(2.0)(torch.tensor([[1.0, 3.0]]), None, torch.tensor([[0.0, 1.0]])) == 1.25


def test_a_network_that_cannot_teach(home):
    model, data = build(f"{home}/mine.py:small"), load_inputs(f"{home}/x.npz")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(DataError, match="the same for all inputs"):
        taught_by(model, data)
    with torch.no_grad():
        model[-1].bias.fill_(torch.nan)
    with pytest.raises(DataError, match="NaN or infinity"):
        taught_by(model, data)
    with pytest.raises(DataError, match="takes outputs"):
        taught_by(build(f"{home}/mine.py:small"), data, "tokens")


def test_parts_are_those_that_a_file_names(tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(30, 2)
    np.savez(tmp_path / "a.npz", x_train=x[:20], x_test=x[20:])
    data = load_inputs(str(tmp_path / "a.npz"))
    assert data.x_test.tolist() == x[20:].tolist()
    assert (len(data.x_train), len(data.x_val), data.name) == (18, 2, "a")
    np.savez(tmp_path / "b.npz", x)
    whole = load_inputs(str(tmp_path / "b.npz"))
    assert (len(whole.x_train), len(whole.x_val), len(whole.x_test)) == (24, 3, 3)
    assert sorted(torch.cat([whole.x_train, whole.x_val, whole.x_test]).flatten().tolist()) == x.flatten().tolist()
    np.savez(tmp_path / "c.npz", ids=np.arange(30), mask=np.ones((30, 2), bool))
    named = load_inputs(str(tmp_path / "c.npz"))
    assert named.x_val[:2].keys() == {"ids", "mask"}
    with pytest.raises(DataError, match="--normalize is for one input"):
        load_inputs(str(tmp_path / "c.npz"), "0.5,2")
    assert load_inputs(str(tmp_path / "b.npz"), "1,2").x_val.mean() != whole.x_val.mean()


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (np.float32(3), "x is a single value; its first dimension must be that of samples"),
        (np.array([[["a", "b"]]] * 20), "x is <U1; inputs are numbers"),
        (np.ones((20, 2, 2)) * np.nan, "x holds NaN"),
        (np.arange(20.0), "a sample is one number, and has no channels: leave --normalize out"),
    ],
)
def test_an_array_that_is_no_inputs_is_refused_before_the_network_is_asked(tmp_path, x, line):
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(DataError, match=line):
        load_inputs(str(tmp_path / "x.npz"), "1,2", takes=lambda found: found.ndim == 4)


def test_the_targets_of_digits_are_replaced():
    data = load_data("digits")
    torch.manual_seed(0)
    model = build("lenet-300-100")
    taught = taught_by(model, data, "classification")
    assert evaluate(model, taught.test_loader(), taught.task).error == 0
    with torch.no_grad():
        assert taught.y_test.tolist() == model.eval()(data.x_test).argmax(1).tolist() != data.y_test.tolist()


def test_an_empty_folder_is_no_data(tmp_path):
    with pytest.raises(DataError, match="is empty; --data takes a folder of arrays"):
        has_no_targets(str(tmp_path))
