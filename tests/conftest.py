"""Tiny networks and images that the tests share."""

import pytest
import torch
from torch import nn


class Counting(nn.Module):
    """The identity; counts how often it was called."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def tiny_network(seed: int = 0, classes: int = 10) -> nn.Module:
    """A small classifier with every kind of state that an attack could disturb; any image size from 8 up."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, classes),
    ).eval()


def eight_bit_images(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Random images on the 8-bit grid, with the extremes 0 and 1 among the pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator).float() / 255


# What no defense takes for a batch of images, and a part of the error that says why.
NO_BATCH = [
    (torch.zeros(3, 8, 8), "shape"),
    (torch.zeros(1, 1, 8, 8), "shape"),
    (torch.zeros(0, 3, 8, 8), "shape"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divide 8-bit"),
]


@pytest.fixture
def network() -> nn.Module:
    return tiny_network()


@pytest.fixture
def x() -> torch.Tensor:
    return eight_bit_images(6)


@pytest.fixture
def y() -> torch.Tensor:
    return torch.arange(6)
