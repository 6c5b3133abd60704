"""Inputs that need no download: tones, spoken digits, sentences of docstrings, files, rendered text. All by a seed."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly

Array = np.ndarray[Any, np.dtype[Any]]

RATE = 16000  # of audio, in Hz
_PACKAGES = ("matplotlib", "networkx", "numpy", "scipy", "sklearn", "torch")  # whose docstrings are read


def tones(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy harmonic tones (count, 1024) with mean 0 and variance 1, and their pitch (count) in cents above 10 Hz."""
    rng = np.random.default_rng(seed)
    pitch = 55 * 2 ** rng.uniform(0, 4.5, count)
    time = np.arange(1024) / RATE
    harmonics = np.arange(1, 9)
    amplitude = rng.uniform(0.1, 1, (count, 8)) / harmonics ** rng.uniform(0.5, 2, (count, 1))
    amplitude = amplitude * (pitch[:, None] * harmonics < RATE / 2)
    phase = rng.uniform(0, 2 * np.pi, (count, 8, 1))
    waves = np.sin(2 * np.pi * (pitch[:, None] * harmonics)[..., None] * time + phase)
    audio = (amplitude[..., None] * waves).sum(1)
    noise = rng.normal(size=audio.shape) * audio.std(1, keepdims=True)
    audio += noise * 10 ** (-rng.uniform(0, 30, (count, 1)) / 20)
    audio = (audio - audio.mean(1, keepdims=True)) / audio.std(1, keepdims=True)
    return torch.from_numpy(audio).float(), torch.from_numpy(1200 * np.log2(pitch / 10))


def tone_batches() -> list[torch.Tensor]:
    """Tones to calibrate on, for ``--calibrate benchmarks/real/inputs.py:tone_batches``."""
    return list(tones(256, seed=0)[0].split(32))


def utterances(file: Path, count: int, test: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mel spectrograms (utterances, 160, 40) of 1.6 s of spoken digits, `count` of each speaker, and the speakers.

    From the Free Spoken Digit Dataset as one .npz file: the official split's test takes, or the others.
    """
    data, rng = np.load(file), np.random.default_rng(seed)
    recordings = np.split(data["audio"], data["offsets"][1:-1])
    mels, speakers = [], []
    for speaker in np.unique(data["speaker"]):
        own = np.flatnonzero((data["speaker"] == speaker) & ((data["take"] < 5) == test))
        for _ in range(count):
            audio = np.concatenate([recordings[at] for at in rng.choice(own, 8, replace=False)]) / 32768
            audio = resample_poly(audio, 2, 1)[: 16 * 1600]
            audio = audio * 10 ** (-30 / 20) / max(float(np.sqrt(np.mean(audio**2))), 1e-6)
            mels.append(mel_spectrogram(np.pad(audio, (0, 16 * 1600 - len(audio))))[:160])
            speakers.append(int(speaker))
    return torch.stack(mels), torch.tensor(speakers)


def mel_spectrogram(audio: Array) -> torch.Tensor:
    """Power (frames of 10 ms, 40 bands) of audio at 16 kHz, windows of 25 ms."""
    signal, size = torch.from_numpy(audio).float(), 400
    window = torch.hann_window(size)
    spectrum = torch.stft(signal, size, 160, window=window, pad_mode="constant", return_complex=True)
    return (mel_filters(size, 40) @ spectrum.abs().square()).T


@cache
def mel_filters(size: int, bands: int) -> torch.Tensor:
    """Triangles of equal area (bands, size // 2 + 1), on Slaney's scale: linear up to 1 kHz, then logarithmic."""

    def hertz(mel: Array) -> Array:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    edges = hertz(np.linspace(0, top, bands + 2))
    frequencies = np.linspace(0, RATE / 2, size // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)).float()


def sentences(count: int, test: bool, seed: int) -> list[str]:
    """First sentences of docstrings of installed packages, from other modules for tests than for calibration."""
    found = sorted(set(_docstrings(test)))
    return [found[at] for at in np.random.default_rng(seed).permutation(len(found))[:count]]


def _docstrings(test: bool) -> Iterator[str]:
    home = Path(sysconfig.get_paths()["purelib"])
    for package in _PACKAGES:
        for at, path in enumerate(sorted((home / package).glob("*/*.py"))):
            if (at % 2 == 1) == test and "test" not in str(path.relative_to(home)):
                yield from _first_sentences(path)


def _first_sentences(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if 30 <= len(text) <= 160 and re.fullmatch(r"[A-Z][A-Za-z0-9 ,.'()-]+", text):
                yield text


def file_bytes(count: int, test: bool, seed: int) -> Array:
    """What magika looks at of files of this machine (count, 2048), int32: both ends, without blanks; 256 is padding.

    No kind of file (by its name's end) has more than a twentieth of them.
    """
    home, rng = Path(sysconfig.get_paths()["purelib"]), np.random.default_rng(seed)
    every = sorted(path for path in home.rglob("*.*") if path.is_file() and path.stat().st_size >= 64)
    some = [every[at] for at in rng.permutation(len(every)) if (at % 2 == 1) == test]
    kinds: dict[str, int] = {}
    found: list[Array] = []
    for path in some:
        kinds[path.suffix] = kinds.get(path.suffix, 0) + 1
        if kinds[path.suffix] <= max(count // 20, 1) and len(found) < count:
            found.append(_both_ends(path))
    return np.stack(found)


def _both_ends(path: Path, block: int = 4096, part: int = 1024) -> Array:
    with path.open("rb") as file:
        first = file.read(block).lstrip()[:part]
        file.seek(max(path.stat().st_size - block, 0))
        last = file.read(block).rstrip()[-part:]
    row = np.full(2 * part, 256, dtype=np.int32)
    row[: len(first)] = list(first)
    row[2 * part - len(last) :] = list(last)
    return row


def text_lines(count: int, test: bool, seed: int) -> tuple[Array, list[str]]:
    """Rendered lines (count, 3, 48, 480) between -1 and 1, and what is written in them. Four fonts, some noise."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
    rng, images, lines = np.random.default_rng(seed), [], []
    for sentence in sentences(count, test, seed):
        words = sentence.split()
        start = int(rng.integers(max(len(words) - 3, 1)))
        text = " ".join(words[start : start + 4])[:26].strip()
        font = ImageFont.truetype(str(fonts / names[rng.integers(4)]), int(rng.integers(20, 34)))
        paper, ink = int(rng.integers(180, 256)), int(rng.integers(0, 90))
        width = int(font.getlength(text)) + 16
        image = Image.new("RGB", (width, 48), (paper,) * 3)
        ImageDraw.Draw(image).text((8, 24), text, fill=(ink,) * 3, font=font, anchor="lm")
        pixels = np.asarray(image.resize((min(width, 480), 48)), dtype=np.float32) / 127.5 - 1
        pixels = pixels + rng.normal(size=pixels.shape).astype(np.float32) * 0.15
        images.append(np.pad(pixels, ((0, 0), (0, 480 - pixels.shape[1]), (0, 0))).transpose(2, 0, 1))
        lines.append(text)
    return np.stack(images), lines
