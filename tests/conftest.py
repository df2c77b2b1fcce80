"""What all tests share: the data folders, and a network small enough for anything."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

torch.set_num_threads(1)  # the networks are tiny: a second thread costs more than it brings
SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"needs the folder named by {variable} (or {default}), which is absent")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return _folder("RESPROUT_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def oracles_dir() -> Path:
    return _folder("RESPROUT_ORACLES", SHARED / "oracles")


@pytest.fixture
def tiny() -> nn.Sequential:
    """A convolution, a norm with a buffer, dropout and a linear layer: 72 + 128 + 48 weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Dropout(0.5),
        nn.Linear(8, 6),
    )


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three batches that fit `tiny`."""
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(5, 2, 4, 4, generator=g), torch.randint(6, (5,), generator=g)) for _ in range(3)]


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(name="loss")
def loss_fixture():
    return loss
