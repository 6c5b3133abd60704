"""Data sets: batches that repeat by seed, splits that never change, and one line for data that is not there."""

from __future__ import annotations

import io
import os
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from deepcompress.errors import DataError
from deepcompress.training.check import takes_input
from deepcompress.training.data import DATA_SETS, DEFAULT_DATA_DIR, DataSet, TensorLoader, data_dir, load_data

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


def test_without_a_seed_batches_come_in_order():
    loader = TensorLoader(X, Y, 4)
    assert len(loader) == 3
    for _ in range(2):
        assert [y.tolist() for _, y in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert torch.equal(torch.cat([x for x, _ in loader]), X)


def test_with_a_seed_each_pass_is_another_permutation_and_repeatable():
    def passes(seed):
        loader = TensorLoader(X, Y, 4, seed=seed)
        return [torch.cat([y for _, y in loader]).tolist() for _ in range(3)]

    first = passes(0)
    assert first == passes(0)
    assert first != passes(1)
    assert first[0] != first[1] != first[2]
    assert all(sorted(order) == list(range(10)) for order in first)
    for x, y in TensorLoader(X, Y, 4, seed=0):
        assert torch.equal(x, X[y])  # samples keep their labels


@pytest.mark.parametrize(("n", "size", "batches"), [(8, 4, 2), (9, 4, 3), (3, 4, 1), (1, 1, 1)])
def test_length_is_the_number_of_batches(n, size, batches):
    for seed in (None, 0):
        loader = TensorLoader(X[:n], Y[:n], size, seed=seed)
        assert len(loader) == len(list(loader)) == batches


def test_shift_moves_each_image_by_whole_pixels_and_fills_with_its_border():
    side, shift = 6, 2
    images = torch.arange(40.0 * 2 * side * side).reshape(40, 2, side, side)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (shift, shift), (shift, shift)), mode="edge")
    moves = set()
    for x, y in TensorLoader(images, torch.arange(40), 16, seed=0, shift=shift):
        for image, index in zip(x.numpy(), y.tolist(), strict=True):
            found = [
                (down, right)
                for down in range(2 * shift + 1)
                for right in range(2 * shift + 1)
                if np.array_equal(image, padded[index, :, down : down + side, right : right + side])
            ]
            assert len(found) == 1  # one move for all channels
            moves.add(found[0])
    assert {down for down, _ in moves} == {right for _, right in moves} == set(range(2 * shift + 1))


def test_shift_is_for_shuffled_images_only():
    images = torch.randn(4, 1, 5, 5)
    (x, _), *_ = TensorLoader(images, Y[:4], 4, shift=2)
    assert torch.equal(x, images)
    for x, y in TensorLoader(X, Y, 4, seed=0, shift=2):  # rows of numbers have no pixels to shift
        assert torch.equal(x, X[y])


IMAGES = torch.randn(400, 2, 3, 5, generator=torch.Generator().manual_seed(0))


def test_flip_gives_exact_mirror_images_of_about_every_second():
    mirror = IMAGES[:, :, :, [4, 3, 2, 1, 0]]
    loader = TensorLoader(IMAGES, torch.arange(400), 32, seed=0, flip=True)
    passes = []
    for _ in range(2):
        flipped = {}
        for x, y in loader:
            for image, index in zip(x, y.tolist(), strict=True):
                flipped[index] = torch.equal(image, mirror[index])
                assert flipped[index] or torch.equal(image, IMAGES[index])
        assert sorted(flipped) == list(range(400))
        assert 160 < sum(flipped.values()) < 240
        passes.append(flipped)
    assert passes[0] != passes[1]


def test_flip_is_for_shuffled_images_only():
    (x, _), *_ = TensorLoader(IMAGES, torch.arange(400), 400, flip=True)
    assert torch.equal(x, IMAGES)
    for x, y in TensorLoader(X, Y, 4, seed=0, flip=True):
        assert torch.equal(x, X[y])


@pytest.mark.parametrize("shift", [0, 1])
def test_without_flip_batches_are_what_they_were_before_there_was_one(shift):
    """The draws of a pass, written out: the permutation, then one move for each image of each batch, and no more."""
    loader = TensorLoader(IMAGES, torch.arange(400), 150, seed=7, shift=shift)
    generator = torch.Generator().manual_seed(7)
    padded = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (shift, shift), (shift, shift)), mode="edge")
    for _ in range(2):
        order = torch.randperm(400, generator=generator)
        for (x, y), chosen in zip(loader, order.split(150), strict=True):
            assert torch.equal(y, chosen)
            down, right = torch.zeros(2, len(y), dtype=torch.int64)
            if shift:
                down, right = torch.randint(0, 2 * shift + 1, (2, len(y), 1), generator=generator)[:, :, 0]
            for image, index, top, left in zip(x, *(part.tolist() for part in (y, down, right)), strict=True):
                assert np.array_equal(image.numpy(), padded[index, :, top : top + 3, left : left + 5])
        assert torch.equal(loader.generator.get_state(), generator.get_state())


def test_flip_does_not_change_which_images_are_together():
    """In the first pass; it draws from the same generator."""
    plain, flipped = (list(TensorLoader(IMAGES, torch.arange(400), 32, seed=3, flip=flip)) for flip in (False, True))
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(plain, flipped, strict=True))


def test_a_shifted_image_is_mirrored_after_the_shift():
    shifted, both = (
        next(iter(TensorLoader(IMAGES, torch.arange(400), 400, seed=3, shift=1, flip=flip)))[0]
        for flip in (False, True)
    )
    same = (both == shifted).flatten(1).all(1)
    assert torch.equal(both[~same], shifted[~same].flip(3))
    assert 160 < int(same.sum()) < 240


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("cifar10", "CIFAR10")]
)
def test_what_the_known_sets_do_by_default(name, kind, tmp_path, monkeypatch):
    class Source:
        def __init__(self, folder, train, download):
            assert (folder, download) == (tmp_path, False)
            shape = (4, 4, 3) if name == "cifar10" else (4, 4)
            chance = np.random.default_rng(int(train))
            self.data = chance.integers(0, 256, (5010 if train else 20, *shape), dtype=np.uint8)
            self.targets = chance.integers(0, 10, len(self.data)).tolist()

    monkeypatch.setattr(f"torchvision.datasets.{kind}", Source)
    data = load_data(name, tmp_path)
    colour = name == "cifar10"
    assert (data.name, data.shift, data.flip) == (name, 4 if colour else 1, colour)
    assert [tuple(x.shape) for x, _ in parts(data)] == [(n, 3 if colour else 1, 4, 4) for n in (10, 5000, 20)]
    own, told = data.train_loader(5, 0), data.train_loader(5, 0, shift=2, flip=not colour)
    assert (own.shift, own.flip) == (data.shift, data.flip)
    assert (told.shift, told.flip) == (2, not colour)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def parts(data):
    return (data.x_train, data.y_train), (data.x_val, data.y_val), (data.x_test, data.y_test)


def keys(images):
    return {image.numpy().tobytes() for image in images}


def test_digits(digits):
    assert [tuple(x.shape) for x, _ in parts(digits)] == [(1097, 1, 28, 28), (200, 1, 28, 28), (500, 1, 28, 28)]
    assert all(y.dtype is torch.int64 and set(y.tolist()) == set(range(10)) for _, y in parts(digits))
    assert digits.x_train.mean() == pytest.approx(0, abs=1e-5)
    assert digits.x_train.std() == pytest.approx(1, abs=1e-4)
    assert (digits.name, digits.shift, digits.flip) == ("digits", 1, False)


def test_splits_of_digits_share_no_image(digits):
    train, val, test = (keys(x) for x, _ in parts(digits))
    assert not train & test
    assert not val & test
    assert not train & val


def test_splits_do_not_depend_on_any_seed(digits):
    torch.manual_seed(99)
    np.random.seed(99)
    again = load_data("digits")
    assert all(
        torch.equal(a, b)
        for one, two in zip(parts(digits), parts(again), strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_loaders_of_a_data_set(digits):
    assert len(digits.train_loader(100, seed=0)) == 11
    assert digits.train_loader(100, seed=0).shift == 1
    assert digits.train_loader(100, seed=0, shift=0).shift == 0
    assert torch.equal(torch.cat([y for _, y in digits.val_loader()]), digits.y_val)
    assert torch.equal(torch.cat([y for _, y in digits.test_loader(77)]), digits.y_test)
    every = digits.all_batches()
    assert sum(len(y) for _, y in every) == 1797
    assert torch.equal(every[-1][1], digits.y_test)
    moved = digits.to(torch.device("cpu"))
    assert isinstance(moved, DataSet)
    assert moved.name == "digits"


def arrays(train=30, test=10, shape=(3,)):
    chance = np.random.default_rng(0)
    return {
        "x_train": chance.normal(size=(train, *shape)),
        "y_train": chance.integers(0, 3, train),
        "x_test": chance.normal(size=(test, *shape)),
        "y_test": chance.integers(0, 3, test),
    }


def saved(tmp_path, **changes):
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in {**arrays(), **changes}.items() if value is not None})
    return str(path)


def test_npz(tmp_path):
    source = arrays()
    data = load_data(saved(tmp_path))
    assert (data.name, data.shift, data.flip) == ("mine", 0, False)
    assert [tuple(x.shape) for x, _ in parts(data)] == [(27, 3), (3, 3), (10, 3)]
    assert data.x_train.dtype is torch.float32
    assert data.y_train.dtype is torch.int64
    assert data.y_test.tolist() == source["y_test"].tolist()
    assert torch.equal(data.x_test, torch.from_numpy(source["x_test"]).float())  # what the file holds
    assert (data.normalize, data.inputs) == ("none", "as the data holds them")


def test_normalized_by_the_data(tmp_path):
    data = load_data(saved(tmp_path), normalize="data")
    assert torch.allclose(data.x_train.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(data.x_train.std(0), torch.ones(3), atol=1e-5)
    again = load_data(saved(tmp_path), normalize=data.normalize)  # as a file says it
    assert all(torch.equal(one, other) for one, other in zip(parts(data)[2], parts(again)[2], strict=True))


def test_test_data_does_not_touch_the_normalization(tmp_path):
    first = load_data(saved(tmp_path), normalize="data")
    x_test = np.concatenate([arrays()["x_test"][:5], np.full((5, 3), 1e6)])
    second = load_data(saved(tmp_path, x_test=x_test), normalize="data")
    assert torch.equal(first.x_train, second.x_train)
    assert torch.equal(first.x_val, second.x_val)
    assert torch.equal(first.x_test[:5], second.x_test[:5])


def test_npz_of_images(tmp_path):
    chance = np.random.default_rng(0)
    grey = chance.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    data = load_data(saved(tmp_path, x_train=grey, x_test=grey[:10]))
    assert data.x_test.shape == (10, 1, 8, 8)
    colour = chance.integers(0, 256, (30, 8, 9, 3), dtype=np.uint8)
    data = load_data(saved(tmp_path, x_train=colour, x_test=colour[:10]))
    assert data.x_test.shape == (10, 3, 8, 9)
    assert torch.equal(data.x_test, torch.from_numpy(colour[:10]).permute(0, 3, 1, 2) / 255)
    first = load_data(saved(tmp_path, x_train=colour.transpose(0, 3, 1, 2), x_test=colour[:10].transpose(0, 3, 1, 2)))
    assert torch.equal(first.x_test, data.x_test)


def test_a_constant_pixel_does_not_divide_by_zero(tmp_path):
    data = load_data(saved(tmp_path, x_train=np.ones((30, 3)), x_test=np.ones((10, 3))), normalize="data")
    assert torch.equal(data.x_test, torch.zeros(10, 3))


def test_bytes_deep_images_and_foreign_byte_orders(tmp_path):
    chance = np.random.default_rng(0)
    deep = chance.integers(0, 1 << 16, (30, 8, 8)).astype(">u2")
    data = load_data(saved(tmp_path, x_train=deep, x_test=deep[:10]))
    assert torch.equal(data.x_test, torch.from_numpy(deep[:10].astype(np.float32))[:, None] / 65535)
    for kind in (">f4", "<f8", ">f8", "f2", np.longdouble):
        rows = chance.normal(size=(30, 3)).astype(kind)
        data = load_data(saved(tmp_path, x_train=rows, x_test=rows[:10], y_train=np.zeros(30, ">i2"),
                               y_test=np.ones(10, ">i2")))  # fmt: skip
        assert torch.equal(data.x_test, torch.from_numpy(rows[:10].astype(np.float32)))
        assert data.y_test.tolist() == [1] * 10
    rgba = chance.integers(0, 256, (30, 9, 8, 4), dtype=np.uint8)
    data = load_data(saved(tmp_path, x_train=rgba, x_test=rgba[:10]))
    assert torch.equal(data.x_test, torch.from_numpy(rgba[:10]).permute(0, 3, 1, 2) / 255)


def test_tokens_signals_and_targets_of_other_tasks(tmp_path):
    chance = np.random.default_rng(0)
    tokens, signals = chance.integers(0, 900, (30, 7)), chance.normal(size=(30, 2, 50))
    data = load_data(saved(tmp_path, x_train=tokens, x_test=tokens[:10], y_train=tokens, y_test=tokens[:10]))
    assert torch.equal(data.x_test, torch.from_numpy(tokens[:10]))
    assert torch.equal(data.y_test, data.x_test)
    with pytest.raises(DataError, match="mine: its inputs stay whole numbers, which are not normalized"):
        load_data(str(tmp_path / "mine.npz"), normalize="data")
    values = signals.mean((1, 2))
    data = load_data(saved(tmp_path, x_train=signals, x_test=signals[:10], y_train=values, y_test=values[:10]))
    assert torch.equal(data.x_test, torch.from_numpy(signals[:10]).float())
    assert data.y_test.dtype is torch.float32


@pytest.mark.parametrize(
    ("array", "network", "shape", "kind"),
    [
        (np.zeros((30, 8, 8)), nn.Conv2d(1, 2, 3), (1, 8, 8), torch.float32),  # grey images as floats
        (np.zeros((30, 8, 8)), nn.Conv1d(8, 2, 3), (8, 8), torch.float32),  # signals
        (np.zeros((30, 2, 8)), nn.Conv2d(2, 2, 1), (2, 8), torch.float32),  # two images are not one of two channels
        (np.zeros((30, 8, 8), np.uint8), nn.Conv1d(8, 2, 3), (8, 8), torch.float32),
        (np.zeros((30, 8), np.uint8), nn.Embedding(256, 2), (8,), torch.int64),  # bytes that are looked up
        (np.zeros((30, 8), np.int32), nn.Embedding(256, 2), (8,), torch.int64),
        (np.zeros((30, 8), np.int32), nn.Linear(8, 2), (8,), torch.float32),  # columns of a table
        (np.zeros((30, 9, 8, 3), np.float32), nn.Conv2d(9, 2, 1), (9, 8, 3), torch.float32),
    ],
)
def test_the_network_says_which_of_several_forms_is_meant(tmp_path, array, network, shape, kind):
    path = saved(tmp_path, x_train=array, x_test=array[:10])
    data = load_data(path, takes=partial(takes_input, network))
    assert (tuple(data.x_test.shape[1:]), data.x_test.dtype) == (shape, kind)


@pytest.mark.parametrize(
    ("normalize", "mean", "deviation"),
    [("0.5,0.25", 0.5, 0.25), ("1,2,3,4,5,6", [1, 2, 3], [4, 5, 6]), ("imagenet", [0.485, 0.456, 0.406],
     [0.229, 0.224, 0.225])],
)  # fmt: skip
def test_normalized_by_numbers(tmp_path, normalize, mean, deviation):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 9, 3), dtype=np.uint8)
    data = load_data(saved(tmp_path, x_train=images, x_test=images[:10]), normalize=normalize)
    expected = (images[:10].astype(np.float32) / 255 - np.float32(mean)) / np.float32(deviation)
    assert torch.allclose(data.x_test, torch.from_numpy(expected).permute(0, 3, 1, 2), atol=1e-5)
    again = load_data(str(tmp_path / "mine.npz"), normalize=data.normalize)
    assert torch.equal(again.x_test, data.x_test)


@pytest.mark.parametrize("normalize", ["", "mean", "0.5", "1,2,3", "nan,1", "0,inf", "0,0", "0,-1", "1e999,1", "0x1,1"])
def test_normalizations_that_are_none(normalize):
    with pytest.raises(DataError, match="--normalize"):
        load_data("digits", normalize=normalize)


def test_known_data_is_as_ever_unless_it_is_said_otherwise(digits):
    assert (digits.normalize, digits.inputs) == ("", "")
    assert load_data("digits", normalize="data").normalize == ""
    raw = load_data("digits", normalize="none")
    assert raw.normalize == "none"
    assert (float(raw.x_train.min()), float(raw.x_train.max())) == (0.0, 1.0)
    assert "2 channels, but inputs of shape (1, 28, 28) have 1" in refused_normalization("0,0,1,1")


def refused_normalization(normalize):
    with pytest.raises(DataError) as caught:
        load_data("digits", normalize=normalize)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"y_test": None}, "has no array 'y_test'; it must hold x_train, y_train, x_test, y_test"),
        ({"y_train": np.zeros(29, int)}, r"x_train has shape \(30, 3\) and y_train \(29,\)"),
        ({"x_test": np.zeros((0, 3)), "y_test": np.zeros(0, int)}, r"x_test has shape \(0, 3\)"),
        ({"x_train": np.zeros((2, 3)), "y_train": np.zeros(2, int)}, r"as many, 3 or more"),
        ({"x_train": np.array(3.0)}, r"x_train has shape \(\)"),
        ({"y_train": np.zeros((30, 3), int)}, r"samples of y_train are \(3,\), but those of y_test \(\)"),
        ({"y_train": np.array(["a"] * 30)}, "y_train is <U1"),
        ({"y_train": np.array(3)}, r"y_train \(\)"),
        ({"x_train": np.full((30, 3), 1e300)}, "values outside the range of float32"),
        ({"x_train": np.zeros((30, 3), np.uint8)}, "x_train is uint8, but x_test float64; make both the same"),
        ({"x_test": np.zeros((10, 4))}, r"samples of x_train are \(3,\), but those of x_test \(4,\)"),
        ({"y_train": np.zeros(30)}, "y_train is float64, but y_test int64; make both the same"),
        ({"x_train": np.array([["a"] * 3] * 30)}, "x_train is <U1"),
        ({"x_train": np.zeros((30, 3), complex)}, "x_train is complex128"),
        ({"x_train": np.array([[None] * 3] * 30)}, "not a readable .npz file"),
        ({"x_train": np.full((30, 3), np.nan)}, "x_train holds NaN"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, changes, reason):
    with pytest.raises(DataError, match=reason) as caught:
        load_data(saved(tmp_path, **changes))
    assert "mine.npz" in str(caught.value)


def test_npz_that_cannot_be_read(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    lone = io.BytesIO()
    np.save(lone, np.zeros(3))
    path = tmp_path / "bad.npz"
    for content in (b"", b"garbage", buffer.getvalue()[:500], lone.getvalue(), b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bad.npz is not a readable .npz file"):
            load_data(str(path))
    with pytest.raises(DataError, match=r"missing.npz cannot be read: No such file"):
        load_data(str(tmp_path / "missing.npz"))
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        path.unlink()
        path.mkdir()
        load_data(str(path))


def test_unknown_names():
    with pytest.raises(
        DataError, match=r"unknown data set 'minst'; known: cifar10, digits, fashion-mnist, fsdd, mnist, or"
    ):
        load_data("minst")


@pytest.mark.parametrize("name", sorted(set(DATA_SETS) - {"digits", "fsdd"}))
@pytest.mark.parametrize(
    "error", [OSError("<urlopen error no network>\nmore"), RuntimeError(), AssertionError("bad magic")]
)
def test_neither_on_disk_nor_to_be_downloaded(name, error, tmp_path, monkeypatch):
    from torchvision import datasets

    def refuse(*args, **kwargs):
        raise error

    for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.CIFAR10):
        monkeypatch.setattr(kind, "download", refuse)
    with pytest.raises(DataError) as caught:
        load_data(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name} is not in {tmp_path} and could not be downloaded (")
    assert "--data digits" in message
    assert "\n" not in message


def test_where_data_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPCOMPRESS_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    assert str(data_dir("elsewhere")) == "elsewhere"
    monkeypatch.delenv("DEEPCOMPRESS_DATA")
    assert data_dir() == DEFAULT_DATA_DIR


@pytest.mark.skipif(not os.environ.get("DEEPCOMPRESS_DATA"), reason="DEEPCOMPRESS_DATA names no folder with MNIST")
def test_mnist():
    data = load_data("mnist")
    assert [tuple(x.shape) for x, _ in parts(data)] == [(55000, 1, 28, 28), (5000, 1, 28, 28), (10000, 1, 28, 28)]
    assert data.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.x_train.mean() == pytest.approx(0, abs=1e-4)
    counts = torch.cat([data.y_train, data.y_val]).bincount().tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
