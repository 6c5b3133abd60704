"""Spoken digits as log-mel spectrograms: the Free Spoken Digit Dataset (Jackson et al. 2016-2020).

Recordings come at 8 kHz, most of them shorter than a second. Each becomes an image of one channel, 32 mel bands by 50
frames: 32 ms every 20 ms. Keyword spotters take such images (Zhang et al. 2017, "Hello Edge", section 3.1, have 40 ms).
"""

from __future__ import annotations

import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from deepcompress.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

RATE = 8000  # samples a second, as all recordings have
BANDS, FRAMES = 32, 50
TEST_TAKES = range(5)  # the data set's own split: of each speaker and digit, takes 0 to 4 are for testing
_WINDOW, _HOP = 256, 160
_LOWEST = 60.0  # Hz, of the first band
_FLOOR = 1e-6  # of the power, so that silence has a logarithm
_NAME = re.compile(r"(\d)_\w+_(\d+)\.wav", re.ASCII)

Recording = tuple[Array, int, int]  # int16 samples, digit, take


def read_fsdd(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The parts ``train`` and ``test``: spectrograms, float32 (n, 1, `BANDS`, `FRAMES`), and digits, int64 (n,).

    Args:
        folder: of the data sets. Recordings are looked for in ``fsdd/fsdd.npz`` (``audio``, int16, of all recordings;
            ``offsets``, where each begins and the last ends; ``digit`` and ``take`` of each), and in
            ``free-spoken-digit-dataset/recordings`` or ``fsdd/recordings`` as ``DIGIT_SPEAKER_TAKE.wav``.

    Raises:
        DataError: none of these is there, or what is there cannot be read.
    """
    parts: dict[str, list[tuple[torch.Tensor, int]]] = {"train": [], "test": []}
    for audio, digit, take in _recordings(folder):
        part = "test" if take in TEST_TAKES else "train"
        parts[part].append((fitted(torch.from_numpy(audio)), digit))
    for part, found in parts.items():
        if not found:
            raise DataError(f"fsdd: {folder} holds no recordings for the part {part!r}")
    return {
        part: (log_mel(torch.stack([audio for audio, _ in found])), torch.tensor([digit for _, digit in found]))
        for part, found in parts.items()
    }


def fitted(audio: torch.Tensor) -> torch.Tensor:
    """One recording, integers of 16 bits (n,), as one second of float32 in -1..1: its middle, or silence around it."""
    signal = audio.to(torch.float32) / 32768
    missing = RATE - len(signal)
    if missing > 0:
        return F.pad(signal, (missing // 2, missing - missing // 2))
    return signal[-missing // 2 :][:RATE]


def log_mel(audio: torch.Tensor) -> torch.Tensor:
    """Seconds of audio, float32 (n, `RATE`), as logarithms of mel powers, float32 (n, 1, `BANDS`, `FRAMES`)."""
    window = torch.hann_window(_WINDOW)
    spectrum = torch.stft(audio, _WINDOW, _HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square()[:, :, :FRAMES]
    return torch.log(_mel_bands() @ power + _FLOOR)[:, None]


def _mel_bands() -> torch.Tensor:
    """Triangles that overlap by half, evenly spaced in mel (2595 log10(1 + f / 700)): (`BANDS`, frequencies)."""
    frequencies = torch.linspace(0, RATE / 2, _WINDOW // 2 + 1)
    mel = 2595 * torch.log10(1 + frequencies / 700)
    lowest = 2595 * np.log10(1 + _LOWEST / 700)
    edges = torch.linspace(float(lowest), float(mel[-1]), BANDS + 2)
    width = edges[1] - edges[0]
    return (1 - (mel - edges[1:-1, None]).abs() / width).clamp_min(0)


# Where recordings are ------------------------------------------------------------------------------------------


def _recordings(folder: Path) -> Iterator[Recording]:
    packed = folder / "fsdd" / "fsdd.npz"
    if packed.is_file():
        return _from_npz(packed)
    for place in (folder / "free-spoken-digit-dataset", folder / "fsdd"):
        if (place / "recordings").is_dir():
            return _from_waves(place / "recordings")
    raise DataError(
        f"fsdd is not in {folder}: clone https://github.com/Jakobovski/free-spoken-digit-dataset into it (it may be "
        "fsdd/fsdd.npz or fsdd/recordings, too), or point --data-dir or DEEPCOMPRESS_DATA at a folder that holds it"
    )


def _from_npz(path: Path) -> Iterator[Recording]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            audio, offsets, digits, takes = (stored[key] for key in ("audio", "offsets", "digit", "take"))
    except Exception as error:  # numpy and zipfile raise anything on damaged bytes
        raise DataError(f"fsdd: {path} cannot be read: {error}") from None
    if audio.dtype != np.int16 or not _belong_together(audio, offsets, digits, takes):
        raise DataError(f"fsdd: {path} must hold int16 audio, and one digit and one take for each pair of offsets")
    for number, (digit, take) in enumerate(zip(digits, takes, strict=True)):
        yield audio[offsets[number] : offsets[number + 1]], int(digit), int(take)


def _belong_together(audio: Array, offsets: Array, digits: Array, takes: Array) -> bool:
    """Whether offsets rise and stay in the audio, and there is a whole digit and take between each two of them."""
    flat = all(array.ndim == 1 for array in (audio, offsets, digits, takes))
    whole = all(array.dtype.kind in "iu" for array in (offsets, digits, takes))
    if not flat or not whole or not len(offsets) - 1 == len(digits) == len(takes):
        return False
    places, known = offsets.astype(np.int64), np.isin(digits, range(10))
    return bool((np.diff(places) > 0).all() and places[0] >= 0 and places[-1] <= len(audio) and known.all())


def _from_waves(folder: Path) -> Iterator[Recording]:
    for path in sorted(folder.iterdir()):
        name = _NAME.fullmatch(path.name)
        if name:
            yield _wave(path), int(name[1]), int(name[2])


def _wave(path: Path) -> Array:
    try:
        with wave.open(str(path)) as stored:
            form = (stored.getnchannels(), stored.getsampwidth(), stored.getframerate())
            audio = stored.readframes(stored.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"fsdd: {path} cannot be read: {error or 'it ends early'}") from None
    if form != (1, 2, RATE):
        raise DataError(
            f"fsdd: {path} has {form[0]} channels of {form[1]} bytes at {form[2]} Hz; it must have 1 of 2 at {RATE} Hz"
        )
    return np.frombuffer(audio, "<i2").astype(np.int16)
