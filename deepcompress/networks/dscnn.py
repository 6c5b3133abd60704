"""DS-CNN, a keyword spotter of depthwise separable convolutions (Zhang, Suda, Lai, Chandra 2017, section 3.3).

Log-mel spectrograms of shape (batch, 1, bands, frames) to logits of shape (batch, 10).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Separable(nn.Module):
    """A 3x3 convolution of each channel by itself, and one of 1x1 over all channels; each with batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to the same shape."""
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class DSCNN(nn.Module):
    """A convolution of 4 bands by 10 frames, and `blocks` separable ones; 23,050 parameters unless said otherwise.

    Four blocks of 64 channels are the layers of the paper's small network, whose input has 10 coefficients by 49
    frames.
    """

    def __init__(self, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (4, 10), 2, padding=(1, 4), bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(Separable(channels) for _ in range(blocks)))
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spectrograms (batch, 1, bands, frames) to logits (batch, 10)."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: torch.Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
