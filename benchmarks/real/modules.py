"""The networks of the wheels in plain torch, with the tensor names of their checkpoints.

Each function without arguments makes one, for ``--network benchmarks/real/modules.py:NAME``.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

PITCHES = 360  # of 20 cents each


class Crepe(nn.Module):
    """Pitch of 1,024 samples of audio at 16 kHz, as salience of 360 pitches (Kim et al. 2018)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        """`channels` are those of the input and of the six convolutions."""
        super().__init__()
        self.depth = len(channels) - 1
        for at, (inputs, outputs) in enumerate(pairwise(channels), 1):
            kernel, stride = (512, 4) if at == 1 else (64, 1)
            setattr(self, f"conv{at}", nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1)))
            setattr(self, f"conv{at}_BN", nn.BatchNorm2d(outputs, eps=0.001, momentum=0.0))
        self.classifier = nn.Linear(4 * channels[-1], PITCHES)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Salience (frames, pitches) of frames (frames, 1024)."""
        x = audio[:, None, :, None]
        for at in range(1, self.depth + 1):
            x = F.pad(x, (0, 0, 254, 254) if at == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{at}_BN")(getattr(self, f"conv{at}")(x).relu())
            x = F.max_pool2d(x, (2, 1))
        return self.classifier(x.transpose(1, 2).flatten(1)).sigmoid()


def crepe_tiny() -> Crepe:
    """torchcrepe's smaller network."""
    return Crepe((1, 128, 16, 16, 16, 32, 64))


def crepe_full() -> Crepe:
    """torchcrepe's larger network."""
    return Crepe((1, 1024, 128, 128, 128, 256, 512))


class SpeakerEncoder(nn.Module):
    """A voice as a vector of length 1, from mel spectrograms of 40 bands (Wan et al. 2018)."""

    def __init__(self) -> None:
        """With the sizes of Resemblyzer's checkpoint, whose two numbers of the training loss are not used."""
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.similarity_weight = nn.Parameter(torch.zeros(1))
        self.similarity_bias = nn.Parameter(torch.zeros(1))

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Voices (utterances, 256) of spectrograms (utterances, frames, 40)."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)


def speaker_encoder() -> SpeakerEncoder:
    """Resemblyzer's network."""
    return SpeakerEncoder()


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, 1e-12)})

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.self[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        seen = (scores + mask).softmax(-1) @ v
        return self.output["LayerNorm"](self.output["dense"](seen.transpose(1, 2).flatten(2)) + x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, 1e-12)})

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, mask)
        return self.output["LayerNorm"](self.output["dense"](F.gelu(self.intermediate["dense"](x))) + x)


class MiniLM(nn.Module):
    """A sentence as a vector of length 1: BERT, and the mean over its tokens (Reimers and Gurevych 2019)."""

    def __init__(self, words: int = 30522, width: int = 384, depth: int = 6, heads: int = 12) -> None:
        """With the sizes of all-MiniLM-L6-v2."""
        super().__init__()
        parts = {
            "word_embeddings": nn.Embedding(words, width, padding_idx=0),
            "position_embeddings": nn.Embedding(512, width),
            "token_type_embeddings": nn.Embedding(2, width),
            "LayerNorm": nn.LayerNorm(width, 1e-12),
        }
        self.embeddings = nn.ModuleDict(parts)
        self.embeddings.register_buffer("position_ids", torch.arange(512)[None])
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Block(width, heads, 4 * width) for _ in range(depth))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})  # in the checkpoint; nothing uses it

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Vectors (sentences, 384) of tokens and of which of them count, both (sentences, tokens)."""
        parts, positions = self.embeddings, self.embeddings.position_ids[:, : input_ids.shape[1]]
        x = parts["word_embeddings"](input_ids) + parts["position_embeddings"](positions)
        x = parts["LayerNorm"](x + parts["token_type_embeddings"](torch.zeros_like(input_ids)))
        counts = attention_mask.to(x)
        for block in self.encoder["layer"]:
            x = block(x, (1 - counts)[:, None, None] * -1e9)
        return F.normalize((x * counts[..., None]).sum(1) / counts.sum(1, keepdim=True), dim=1)


def minilm() -> MiniLM:
    """all-MiniLM-L6-v2."""
    return MiniLM()
