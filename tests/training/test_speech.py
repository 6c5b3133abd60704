"""Spoken digits as spectrograms."""

from __future__ import annotations

import math
import os
import wave

import numpy as np
import pytest
import torch

from deepcompress.errors import DataError
from deepcompress.training.data import load_data
from deepcompress.training.speech import BANDS, FRAMES, RATE, fitted, log_mel, read_fsdd


def test_a_recording_becomes_one_second_silence_around_or_its_middle():
    assert fitted(torch.tensor([16384, -32768, 8192], dtype=torch.int16)).nonzero().flatten().tolist() == [
        3998,
        3999,
        4000,
    ]
    assert fitted(torch.arange(RATE).to(torch.int16)).tolist() == [k / 32768 for k in range(RATE)]
    assert (fitted(torch.arange(10_001).to(torch.int16)) * 32768)[[0, -1]].tolist() == [1000, 8999]


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 3000.0])
def test_a_tone_is_in_the_band_of_its_mel(frequency):
    seconds = torch.arange(RATE) / RATE
    image = log_mel(torch.sin(2 * math.pi * frequency * seconds)[None])
    assert image.shape == (1, 1, BANDS, FRAMES)

    def mel(hertz):
        return 2595 * math.log10(1 + hertz / 700)

    width = (mel(RATE / 2) - mel(60)) / (BANDS + 1)
    exact = (mel(frequency) - mel(60)) / width - 1
    assert abs(int(image[0, 0, :, 25].argmax()) - exact) <= 1


def test_silence_is_the_floor():
    assert torch.equal(log_mel(torch.zeros(1, RATE)), torch.full((1, 1, BANDS, FRAMES), math.log(1e-6)))


def tone(digit, take):
    count = 2000 + 100 * digit + take
    return (8000 * np.sin(np.arange(count) * (0.1 + 0.05 * digit))).astype(np.int16)


@pytest.fixture
def waves(tmp_path):
    folder = tmp_path / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        for take in (0, 4, 5, 6):
            with wave.open(str(folder / f"{digit}_jo_{take}.wav"), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(tone(digit, take).tobytes())
    (folder / "notes.txt").write_text("no recording")
    return folder


@pytest.fixture
def packed(tmp_path):
    (tmp_path / "packed" / "fsdd").mkdir(parents=True)
    all_of = [(digit, take, tone(digit, take)) for digit in range(10) for take in (0, 4, 5, 6)]
    np.savez(
        tmp_path / "packed" / "fsdd" / "fsdd.npz",
        audio=np.concatenate([audio for _, _, audio in all_of]),
        offsets=np.cumsum([0, *(len(audio) for _, _, audio in all_of)]),
        digit=np.array([digit for digit, _, _ in all_of], np.uint8),
        take=np.array([take for _, take, _ in all_of], np.uint8),
    )
    return tmp_path / "packed"


def test_waves_and_the_packed_file_are_the_same_data(waves, packed, tmp_path):
    ours, theirs = read_fsdd(tmp_path), read_fsdd(packed)
    for part in ("train", "test"):
        assert torch.equal(ours[part][0], theirs[part][0])
        assert ours[part][1].tolist() == theirs[part][1].tolist() == [digit for digit in range(10) for _ in range(2)]


def test_the_data_set_shifts_and_holds_out_a_ninth(packed):
    data = load_data("fsdd", packed)
    assert (len(data.x_train), len(data.x_val), len(data.x_test), data.shift, data.flip) == (18, 2, 20, 2, False)
    assert data.x_train.mean() == pytest.approx(0, abs=1e-5)


def test_recordings_of_another_form_are_named(waves, tmp_path):
    with wave.open(str(waves / "3_jo_5.wav"), "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(400))
    with pytest.raises(DataError, match=r"3_jo_5.wav has 2 channels of 2 bytes at 16000 Hz; it must have 1 of 2 at"):
        read_fsdd(tmp_path)
    (waves / "3_jo_5.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"3_jo_5.wav cannot be read"):
        read_fsdd(tmp_path)


OTHERS = {
    "floats": {"audio": np.zeros(10, np.float32)},
    "few digits": {"digit": np.zeros(3, np.uint8)},
    "no whole digits": {"digit": np.zeros(40, np.float32)},
    "no digits": {"digit": np.full(40, 10)},
    "digits below zero": {"digit": np.full(40, -1)},
    "two channels": {"audio": np.zeros((200_000, 2), np.int16)},
    "falling": {"offsets": np.arange(41)[::-1].copy()},
    "empty recordings": {"offsets": np.zeros(41, np.int64)},
    "beyond the end": {"offsets": np.arange(41) * 10**6},
    "one take": {"take": np.uint8(3)},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_packed_file_of_another_form_is_refused(packed, change):
    path = packed / "fsdd" / "fsdd.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays | change)
    with pytest.raises(DataError, match=r"fsdd.npz must hold int16 audio, and one digit and one take for each pair"):
        read_fsdd(packed)
    whole = path.read_bytes()
    for damaged in (b"no zip", whole[: len(whole) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"fsdd.npz cannot be read"):
            read_fsdd(packed)


def test_parts_and_folders_that_are_missing(waves, tmp_path):
    for path in waves.glob("*_0.wav"):
        path.unlink()
    for path in waves.glob("*_4.wav"):
        path.unlink()
    with pytest.raises(DataError, match="holds no recordings for the part 'test'"):
        read_fsdd(tmp_path)
    with pytest.raises(DataError, match=r"fsdd is not in .*nowhere: clone https://github.com/Jakobovski/free-spoken"):
        read_fsdd(tmp_path / "nowhere")


@pytest.mark.skipif(not os.environ.get("DEEPCOMPRESS_DATA"), reason="DEEPCOMPRESS_DATA names no folder with fsdd")
def test_fsdd():
    data = load_data("fsdd")
    assert [len(part) for part in (data.x_train, data.x_val, data.x_test)] == [2400, 300, 300]
    assert data.y_test.bincount().tolist() == [30] * 10
