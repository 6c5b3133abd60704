"""Folders of images: what is read, how it is split, and one line for each thing that is wrong with one."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from samples import conv_net

from deepcompress.errors import DataError
from deepcompress.training.check import settle
from deepcompress.training.data import load_data
from deepcompress.training.folders import read_folder

SIZE = (5, 4)  # width and height, as Pillow says it


def pixels(seed, channels=3, size=SIZE, dtype=np.uint8):
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def save(path, seed=0, channels=3, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, channels, size)).save(path)
    return path


def fill(folder, counts, channels=3, start=0):
    """Images of the given number in each class; those of one folder are all different."""
    for name, count in counts.items():
        for index in range(count):
            start += 1
            save(folder / name / f"{index:03}.png", start, channels)
    return folder


@pytest.fixture
def flat(tmp_path):
    return fill(tmp_path / "pets", {"cat": 10, "ant": 5, "bee": 7})


@pytest.fixture
def split(tmp_path):
    for start, (part, count) in enumerate((("train", 4), ("test", 2), ("val", 3))):
        fill(tmp_path / "pets" / part, {"cat": count, "ant": count}, start=100 * start)
    return tmp_path / "pets"


def as_set(images):
    return {image.tobytes() for image in images}


def refused(folder):
    """The one line that says why."""
    with pytest.raises(DataError) as caught:
        load_data(f"{folder}/")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layouts ---------------------------------------------------------------------------------------------------


def test_parts_classes_and_pixels(split):
    parts = read_folder(split)
    assert {part: x.shape for part, (x, _) in parts.items()} == {
        "train": (8, 3, 4, 5), "test": (4, 3, 4, 5), "val": (6, 3, 4, 5),
    }  # fmt: skip
    assert {part: y.tolist() for part, (_, y) in parts.items()} == {
        "train": [0] * 4 + [1] * 4, "test": [0] * 2 + [1] * 2, "val": [0] * 3 + [1] * 3,
    }  # fmt: skip
    assert all((x.dtype, y.dtype) == (np.uint8, np.int64) for x, y in parts.values())
    # ant comes before cat, and cat was written first
    assert np.array_equal(parts["train"][0][4], pixels(1).transpose(2, 0, 1))
    assert np.array_equal(parts["train"][0][0], pixels(5).transpose(2, 0, 1))


def test_a_data_set_of_parts(split):
    data = load_data(str(split), normalize="data")
    assert (data.name, data.shift, data.flip) == ("pets", 0, False)
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [8, 6, 4]
    assert data.y_train.tolist() == [0] * 4 + [1] * 4  # nothing was held out of it
    assert data.x_train.dtype is torch.float32
    raw = {part: torch.tensor(x) / 255.0 for part, (x, _) in read_folder(split).items()}
    mean, deviation = raw["train"].mean((0, 2, 3), keepdim=True), raw["train"].std((0, 2, 3), keepdim=True)
    for part, x in (("train", data.x_train), ("val", data.x_val), ("test", data.x_test)):
        assert torch.allclose(x, (raw[part] - mean) / deviation, atol=1e-6)


@pytest.mark.parametrize("name", ["val", "valid"])
def test_without_test_the_other_part_is_it(split, name):
    for file in sorted((split / "test").rglob("*.png")):
        file.unlink()
    for folder in (split / "test" / "ant", split / "test" / "cat", split / "test"):
        folder.rmdir()
    (split / "val").rename(split / name)
    assert sorted(read_folder(split)) == ["test", "train"]
    data = load_data(str(split))
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [7, 1, 6]


def test_valid_is_another_word_for_val(split):
    (split / "val").rename(split / "valid")
    assert read_folder(split)["val"][0].shape[0] == 6
    (split / "val").mkdir()
    assert refused(split).endswith("has both val and valid; keep the one that holds the validation images")


def test_a_part_for_measuring_is_needed(tmp_path):
    folder = fill(tmp_path / "pets" / "train", {"a": 3, "b": 3}).parent
    assert refused(folder).endswith("pets has train, but neither test nor val: put images to measure on into test")


def test_without_parts_a_fifth_of_each_class_is_for_testing(flat):
    (train, y_train), (test, y_test) = (read_folder(flat)[part] for part in ("train", "test"))
    assert np.bincount(y_train).tolist() == [4, 6, 8]
    assert np.bincount(y_test).tolist() == [1, 1, 2]
    assert not as_set(train) & as_set(test)
    assert len(as_set(train) | as_set(test)) == 22
    data = load_data(str(flat))
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [17, 1, 4]


def test_the_split_is_the_same_whatever_was_drawn_and_whatever_the_order_on_disk(flat, tmp_path):
    first = load_data(str(flat))
    torch.manual_seed(99)
    np.random.seed(99)
    other = tmp_path / "other" / "pets"
    for file in sorted(flat.rglob("*.png"), reverse=True):
        copy = other / file.relative_to(flat)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    second = load_data(str(other))
    for field, value in vars(first).items():
        same = getattr(second, field)
        assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same


def test_the_smallest_classes(tmp_path):
    folder = fill(tmp_path / "few", {"a": 2, "b": 3})
    data = load_data(str(folder))
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [2, 1, 2]
    (folder / "b" / "000.png").unlink()
    assert "few has 2 images to train on; it must have 3 or more" in refused(folder)
    (folder / "b" / "001.png").unlink()
    assert refused(folder) == f"{folder / 'b'} holds one image; a class needs two or more, as one is for testing"


def test_a_class_may_be_called_like_a_part(tmp_path):
    folder = fill(tmp_path / "rail", {"train": 4, "test": 4})
    assert np.bincount(read_folder(folder)["train"][1]).tolist() == [3, 3]


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("test", "val")])
def test_parts_by_other_names_are_not_taken_for_classes(tmp_path, names):
    for name in names:
        fill(tmp_path / "pets" / name, {"a": 3, "b": 3})
    assert "looks like a part of the data, not like a class; call the parts train, val, test" in refused(
        tmp_path / "pets"
    )


def test_all_parts_have_the_same_classes(split):
    (split / "test" / "cat").rename(split / "test" / "dog")
    assert "class 'cat' is in train, but not in test; all parts need all classes" in refused(split)
    (split / "test" / "dog").rename(split / "test" / "cat")
    fill(split / "val", {"bat": 2})
    assert "class 'bat' is in val, but not in train" in refused(split)


def test_classes_are_sorted_as_text(tmp_path):
    folder = fill(tmp_path / "n", {"10": 2, "9": 3, "B": 4, "a": 5})
    assert np.bincount(read_folder(folder)["train"][1]).tolist() == [1, 2, 3, 4]  # 10, 9, B, a


# Names -----------------------------------------------------------------------------------------------------


def test_the_name_is_the_folders_and_never_its_path(flat, monkeypatch):
    monkeypatch.chdir(flat)
    for path in (str(flat), f"{flat}/", f"{flat}/cat/..", ".", "../pets"):
        assert load_data(path).name == "pets"
    (flat.parent / "link").symlink_to(flat)
    assert load_data(str(flat.parent / "link")).name == "link"


def test_a_known_name_wins_over_a_folder_but_not_over_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "digits", {"a": 4, "b": 4})
    assert len(load_data("digits").y_test) == 500
    for path in ("./digits", "digits/", str(tmp_path / "digits")):
        own = load_data(path)
        assert len(own.y_test) == 2
        assert own.name == "./digits"  # so that nobody takes it for the known one when a file names it
    x = np.random.default_rng(0).normal(size=(9, 3))
    np.savez("mnist.npz", x_train=x, y_train=np.arange(9), x_test=x, y_test=np.arange(9))
    assert load_data("mnist.npz").name == "./mnist"


def test_a_name_that_a_file_could_not_hold(tmp_path):
    assert load_data(str(fill(tmp_path / "a\nb\x7f", {"a": 4, "b": 4}))).name == "a?b?"


def test_no_such_folder(tmp_path):
    for path in ("nowhere/", str(tmp_path / "nowhere")):
        with pytest.raises(
            DataError, match=r"unknown data set '.*nowhere/?'; known: .*, or a folder that is there, or"
        ):
            load_data(path)


# What counts as an image -----------------------------------------------------------------------------------


def test_hidden_things_and_other_files_are_left_alone(flat):
    before = read_folder(flat)
    for name in (
        ".DS_Store",
        "cat/.DS_Store",
        "cat/._000.png",
        "cat/Thumbs.db",
        "cat/notes.txt",
        "ReadMe.png",
        "x.gif",
    ):
        (flat / name).write_bytes(b"no image")
    for name in (".git", "cat/.ipynb_checkpoints", "bee/empty"):
        (flat / name).mkdir()
    save(flat / "cat" / ".ipynb_checkpoints" / "000.png", 500)
    save(flat / ".git" / "000.png", 500)
    after = read_folder(flat)
    assert all(np.array_equal(a, b) for part in before for a, b in zip(before[part], after[part], strict=True))


def test_endings_of_any_case_and_formats_of_any_kind(tmp_path):
    folder = tmp_path / "pets"
    for name in ("a/1.PNG", "a/2.bmp", "a/3.Tiff", "b/1.webp", "b/2.jpg", "b/3.JPEG"):
        save(folder / name)
    parts = read_folder(folder)
    assert sum(len(y) for _, y in parts.values()) == 6
    assert all((x[y == 0] == pixels(0).transpose(2, 0, 1)).all() for x, y in parts.values())  # those without loss


def test_images_in_folders_within_that_of_the_class_are_its_own(flat):
    save(flat / "cat" / "2019" / "summer" / "000.png", 500)
    parts = read_folder(flat)
    assert sum(int((y == 2).sum()) for _, y in parts.values()) == 11


@pytest.mark.parametrize(
    ("names", "found"),
    [([], "no folder"), (["only"], "only one folder, only"), ([".hidden", ".git"], "no folder")],
)
def test_too_few_classes(tmp_path, names, found):
    folder = fill(tmp_path / "pets", dict.fromkeys(names, 5))
    folder.mkdir(exist_ok=True)
    save(folder / "loose.png")
    line = refused(folder)
    assert line.startswith(
        f"{folder} holds {found}; there must be one of images for each class, two or more (DIR/CLASS"
    )


def test_a_part_with_too_few_classes_is_named(split):
    for file in (split / "test" / "ant").iterdir():
        file.unlink()
    (split / "test" / "ant").rmdir()
    assert refused(split).startswith(f"{split / 'test'} holds only one folder, cat;")


def test_an_empty_class(flat):
    (flat / "dog").mkdir()
    (flat / "dog" / "readme.txt").write_text("soon")
    assert refused(flat).startswith(f"{flat / 'dog'} holds no image (a file in .jpg, .jpeg, .png")


# Links -----------------------------------------------------------------------------------------------------


def test_links_are_followed(flat, tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", {"dog": 5}, start=600)
    (flat / "dog").symlink_to(elsewhere / "dog")
    (flat / "cat" / "more.png").symlink_to(save(tmp_path / "more.png", 700))
    parts = read_folder(flat)
    assert np.bincount(np.concatenate([y for _, y in parts.values()])).tolist() == [5, 7, 11, 5]


@pytest.mark.parametrize("target", [".", "..", "../..", "../bee"])
def test_links_that_go_round_in_circles_or_count_twice(flat, target):
    (flat / "cat" / "loop").symlink_to(target, target_is_directory=True)
    assert "once more, by a link; remove the link" in refused(flat)


def test_one_part_cannot_be_another_by_a_link(split):
    """Test images that are validation images, too, would be chosen by."""
    for file in sorted((split / "test").rglob("*.png")):
        file.unlink()
    for folder in (split / "test" / "ant", split / "test" / "cat", split / "test"):
        folder.rmdir()
    (split / "test").symlink_to("val", target_is_directory=True)
    assert "once more, by a link" in refused(split)


def test_links_to_nothing_and_to_themselves(flat):
    loop = flat / "cat" / "loop.png"
    loop.symlink_to(loop)
    (flat / "itself").symlink_to(flat / "itself")  # neither a folder nor an image
    assert refused(flat) == f"{loop} is not a regular file, or a link to nowhere; remove it"
    loop.unlink()
    loop.symlink_to(flat / "missing.png")
    assert refused(flat) == f"{loop} is not a regular file, or a link to nowhere; remove it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(flat):
    os.mkfifo(flat / "cat" / "pipe.png")
    assert "pipe.png is not a regular file" in refused(flat)


# Pixels ----------------------------------------------------------------------------------------------------


def write(folder, images):
    """Pillow images as two classes, so that all but the last of each are for training."""
    for index, image in enumerate(images):
        for name in ("a", "b"):
            path = folder / name / f"{index}.{'tiff' if image.mode in ('I', 'F', 'CMYK') else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return folder


def everything(folder):
    return np.concatenate([x for x, _ in read_folder(folder).values()])


def test_grey_images_have_one_channel(tmp_path):
    grey = Image.fromarray(pixels(0, 1))
    images = [grey, grey.convert("LA"), grey.point(lambda value: 255 * (value > 127), mode="1")]
    x = everything(write(tmp_path / "grey", images))
    black = np.where(pixels(0, 1) > 127, np.uint8(255), np.uint8(0))
    assert x.shape == (6, 1, 4, 5)
    assert as_set(x) == as_set([pixels(0, 1), black])
    assert load_data(str(tmp_path / "grey")).x_train.shape[1:] == (1, 4, 5)


def test_one_coloured_image_makes_all_of_them_colour(tmp_path):
    x = everything(write(tmp_path / "mixed", [Image.fromarray(pixels(0, 1)), Image.fromarray(pixels(1))]))
    assert x.shape == (4, 3, 4, 5)
    assert as_set(x) == as_set([np.stack([pixels(0, 1)] * 3), pixels(1).transpose(2, 0, 1)])


def test_transparency_is_dropped_and_the_colour_under_it_stays(tmp_path):
    clear = np.dstack([pixels(0), np.zeros(SIZE[::-1], np.uint8)])
    palette = Image.fromarray(pixels(0)).quantize(8)
    with_bytes = palette.copy()
    with_bytes.info["transparency"] = bytes([0, 128, 255])
    folder = write(tmp_path / "clear", [Image.fromarray(clear), palette, with_bytes])
    (folder / "a" / "3.png").write_bytes((folder / "a" / "0.png").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = everything(folder)
    expected = [pixels(0).transpose(2, 0, 1), np.asarray(palette.convert("RGB")).transpose(2, 0, 1)]
    assert as_set(x) == as_set(expected)


def test_other_colour_spaces_become_rgb(tmp_path):
    image = Image.fromarray(pixels(0)).convert("CMYK")
    assert as_set(everything(write(tmp_path / "print", [image] * 2))) == as_set(
        [np.asarray(image.convert("RGB")).transpose(2, 0, 1)]
    )


def test_sixteen_bits_are_kept(tmp_path):
    """Medical images hold 12 bits or so in 16: eight would make them black or white."""
    deep = pixels(0, 1, dtype=np.uint16) >> 4
    x = everything(write(tmp_path / "deep", [Image.fromarray(deep)] * 3))
    assert (x.dtype, x.shape) == (np.uint16, (6, 1, 4, 5))
    assert all(np.array_equal(image[0], deep) for image in x)
    data = load_data(str(tmp_path / "deep"))
    assert torch.equal(data.x_test[0, 0], torch.from_numpy(deep.astype(np.float32)) / 65535)
    assert len(data.x_train.unique()) > 15
    wide = everything(write(tmp_path / "wide", [Image.fromarray(deep.astype(np.int32))] * 3))
    assert np.array_equal(wide, x)


def test_depths_that_do_not_go_together(tmp_path):
    deep, grey = Image.fromarray(pixels(0, 1, dtype=np.uint16)), Image.fromarray(pixels(0, 1))
    folder = write(tmp_path / "mixed", [grey, deep])
    line = refused(folder)
    assert line == (
        f"{folder / 'a' / '1.png'} has 16 bits a pixel, but {folder / 'a' / '0.png'} 8; make all of them the same"
    )
    floats = Image.fromarray(np.zeros((4, 5), np.float32))
    assert "0.tiff holds floating-point pixels" in refused(write(tmp_path / "floats", [floats] * 2))
    huge = Image.fromarray(np.full((4, 5), 1 << 16, np.int32))
    assert "0.tiff is a damaged image (it has more than 16 bits a pixel)" in refused(
        write(tmp_path / "huge", [huge] * 3)
    )


def test_sizes_that_differ_name_the_first_two(tmp_path):
    folder = fill(tmp_path / "pets", {"a": 2})
    first = folder / "a" / "000.png"
    other = save(folder / "b" / "000.png", size=(6, 4))
    save(folder / "b" / "001.png", size=(7, 4))
    assert refused(folder) == (
        f"{first} has 5×4 pixels, but {other} has 6×4 pixels; all images must be of one size: resize them"
    )


def test_sizes_are_compared_across_parts_and_before_any_image_is_decoded(split, monkeypatch):
    odd = save(split / "val" / "cat" / "odd.png", size=(4, 5))
    monkeypatch.setattr("deepcompress.training.folders._pixels", lambda *_: pytest.fail("decoded"))
    assert f"{odd} has 4×5 pixels" in refused(split)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda raw: b"", "is not an image of any format that Pillow knows; replace or remove it"),
        (lambda raw: b"GIF89a, or so it says", "is "),  # of the one kind or the other, as Pillow likes
        (lambda raw: b"\0" * 500, "is not an image of any format that Pillow knows"),
        (lambda raw: raw[:60], "is a damaged image ("),
        (lambda raw: raw[:-30], "is a damaged image ("),
        (lambda raw: raw.replace(b"IDAT", b"XXXX"), "is not an image of any format that Pillow knows"),
    ],
)
@pytest.mark.parametrize("name", ["ant/000.png", "cat/004.png"])
def test_damaged_images(flat, content, reason, name):
    file = flat / name
    file.write_bytes(content(file.read_bytes()))
    line = refused(flat)
    assert line.startswith(f"{file} {reason}")
    assert line.endswith("replace or remove it")
    assert line.count(str(file)) == 1


@pytest.mark.parametrize("most", [15, 9])  # Pillow warns above its limit, and raises above twice the limit
def test_decompression_bombs(flat, most, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    expected = f"{flat / 'ant' / '000.png'} has more than {most} pixels, as a decompression bomb has; resize it"
    assert refused(flat) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever a program has set
        assert refused(flat) == expected


def test_more_images_than_memory(flat, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr("deepcompress.training.folders.np.empty", refuse)
    assert refused(flat) == f"{flat} holds more images than memory does; resize them, or take fewer"


def test_a_folder_that_cannot_be_listed(flat, monkeypatch):
    from pathlib import Path

    listed = Path.iterdir

    def refuse(path):
        if path.name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert refused(flat) == f"{flat / 'cat'} cannot be read: Permission denied"


def test_images_narrower_than_they_are_many_keep_their_axes(tmp_path):
    """Three pixels high and one wide: nothing is taken for a channel that is none."""
    for name in ("a", "b"):
        for index in range(3):
            save(tmp_path / "thin" / name / f"{index}.png", index, size=(1, 3))
    data = load_data(str(tmp_path / "thin"), normalize="data")
    assert data.x_train.shape[1:] == (3, 3, 1)
    assert torch.allclose(data.x_train.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)


def test_a_network_that_is_not_for_it(flat):
    from deepcompress.errors import NetworkError

    with pytest.raises(NetworkError, match=r"cannot take samples of shape \(3, 4, 5\)"):
        settle(conv_net(), [load_data(str(flat)).all_batches()])
