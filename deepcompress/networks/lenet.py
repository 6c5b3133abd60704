"""The two MNIST networks of the Deep Compression paper (Han et al. 2016, section 5.1).

Both take images of shape (batch, 1, 28, 28) and give logits of shape (batch, 10).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class LeNet300100(nn.Module):
    """LeNet-300-100: two hidden layers of 300 and 100 units (LeCun et al. 1998); 266,610 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (batch, 1, 28, 28) to logits (batch, 10)."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: torch.Tensor = self.fc3(x)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 in its Caffe form: conv 20@5x5, conv 50@5x5, fc 500, fc 10; 431,080 parameters.

    Pooling is 2x2 maximum, and the only other nonlinearity is the ReLU after fc1, as in
    Caffe's ``lenet_train_test.prototxt``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (batch, 1, 28, 28) to logits (batch, 10)."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.fc2(x)
        return logits
