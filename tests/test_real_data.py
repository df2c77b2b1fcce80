"""Trained networks on real data reproduce their published accuracy before anything is pruned."""

import pytest
import torch

from resprout import find
from resprout.core.run import Run
from resprout.tasks.cifar10 import cifar10


@pytest.mark.data
def test_resnet20_reproduces_its_accuracy(data_dir):
    network = find.network("resnet20", data_dir / "cifar10-resnet" / "resnet20.safetensors", 0)
    run = Run(network, cifar10(str(data_dir / "cifar10")))
    assert run.masks.total == 268_336
    assert run.evaluate("test") == pytest.approx(0.9173, abs=2e-4)


@pytest.mark.data
@pytest.mark.slow
def test_vgg16_reproduces_its_accuracy(data_dir):
    network = find.network("vgg16", data_dir / "cifar10-vgg" / "vgg16.safetensors", 0)
    run = Run(network, cifar10(str(data_dir / "cifar10"), normalise="vgg"))
    assert run.masks.total == 14_715_584
    assert run.evaluate("validation") == pytest.approx(0.9224, abs=1e-3)
    assert run.evaluate("test") == pytest.approx(0.9139, abs=5e-4)


@pytest.mark.data
def test_cifar10_is_what_its_readme_says(data_dir):
    task = cifar10(str(data_dir / "cifar10"))
    assert [len(getattr(task, split)[1]) for split in ("train", "validation", "test")] == [45_000, 5_000, 10_000]
    assert torch.bincount(task.test[1]).tolist() == [1_000] * 10
    x, y = next(iter(task.batches("train", seed=1, epoch=2)))
    again, _ = next(iter(task.batches("train", seed=1, epoch=2)))
    assert x.shape == (128, 3, 32, 32)
    assert y.dtype == torch.int64
    assert torch.equal(x, again)
    third = list(zip(range(3), task.batches("train", seed=1, epoch=2), strict=False))[2][1][0]
    assert torch.equal(third, next(iter(task.batches("train", seed=1, epoch=2, start=2)))[0])
