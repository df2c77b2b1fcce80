"""The sparse networks that runtime.py runs: weights, ONNX file, inputs and what PyTorch makes of them, in a folder each."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import resprout as rs
from resprout import find
from resprout.deploy.export.onnx import to_onnx
from resprout.deploy.trace import lower

WEIGHTS = {"vgg16": "cifar10-vgg/vgg16.safetensors", "resnet20": "cifar10-resnet/resnet20.safetensors"}
STATISTICS = 4 * 64  # images


def prepare(folder: Path, net: str, sparsity: float, batches: list[int], data: Path | None) -> None:
    """Write weights.safetensors, net.onnx, and x<batch>.npy and y<batch>.npy for every batch size.

    Masks are random with Erdős–Rényi-kernel densities. The norms' statistics are those of the pruned network, so that its
    activations are of the size, and as often zero, as in a trained one. Weights are trained ones where `data` is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = find.network(net, None if data is None else data / WEIGHTS[net])
    images = _images(net, data, STATISTICS + max(batches))
    rs.prune(model, sparsity, score="random", allocate="erk", seed=0)
    restate(model, images[:STATISTICS].split(64))
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "weights.safetensors")
    traced = lower(model, images[:1])
    to_onnx(folder / "net.onnx", traced.program, traced.tensors)
    for batch in batches:
        x = images[STATISTICS : STATISTICS + batch]
        with torch.no_grad():
            np.save(folder / f"y{batch}.npy", model(x).numpy())
        np.save(folder / f"x{batch}.npy", x.numpy())


def restate(model: nn.Module, batches: tuple[Tensor, ...]) -> None:
    """Set the batch norms' statistics to the mean over some batches, and leave the model in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.eval()


def _images(net: str, data: Path | None, count: int) -> Tensor:
    if data is None:
        return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    task = find.task("cifar10", data / "cifar10", net)
    return torch.cat([x for x, _ in task.batches("validation", seed=0)])[:count]
