"""Diffusion of the 8x8 digits that ship with scikit-learn: noise is taken away, in a few moves, until a digit is left.

Salimans, Ho: "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022, arXiv:2202.00512 (the network says the
velocity v = a noise - s image at a = cos(t pi / 2), s = sin(t pi / 2)); the deterministic sampler of Song, Meng, Ermon:
"Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, which is then a rotation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.run import mix
from ..core.sampled import Network, Sampled
from ..core.task import Split
from .arrays import Arrays
from .digits import digits

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, repr=False)
class Denoise(Sampled):
    """Take the noise from images of `classes` classes.

    The metric "explained" is the share of the velocity's variance that the network foresees, on noise and times drawn once: 1 is
    all, 0 what the best constant does. It says little of how samples look; for that compare samples.

    Args:
        images: a task of images (N, 1, H, W) and labels.
        moves: of the sampler.
        classes: of the labels.
    """

    images: Arrays
    moves: int = 10  # pyright: ignore[reportIncompatibleMethodOverride]
    classes: int = 10
    metric: ClassVar[str] = "explained"

    def __repr__(self) -> str:
        return f"Denoise({self.images!r}, moves={self.moves}, classes={self.classes})"

    @property
    def steps_per_epoch(self) -> int:
        """As of the images."""
        return self.images.steps_per_epoch

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Yield (planes, velocity, labels, noise); see `Task.batches`."""
        whole = self.images.batches(split, seed=seed, epoch=epoch, start=start)
        rank, world = shard
        for i, (images, labels) in enumerate(whole, start):
            g = torch.Generator().manual_seed(mix(seed if split == "train" else 0, split, epoch, i))
            t, noise = torch.rand(len(images), generator=g), torch.randn(images.shape, generator=g)
            a, s = turned(t)
            batch = self.planes(a * images + s * noise, t, labels), a * noise - s * images, labels, noise
            yield tuple(b[rank::world] for b in batch)  # pyright: ignore[reportReturnType]

    def planes(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return what the network reads: latents, six waves of the time, and one plane for each class."""
        angles = t[:, None] * math.pi * torch.tensor([0.5, 1.0, 2.0], device=z.device)
        said = torch.cat([angles.sin(), angles.cos(), F.one_hot(labels, self.classes)], 1).to(z)
        return torch.cat([z, said[:, :, None, None].expand(-1, -1, *z.shape[2:])], 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean squared error of the velocity."""
        return (model(batch[0]).float() - batch[1]).square().mean()

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return {"explained": share of the velocity's variance, "loss": its mean squared error}."""
        device, error, square, total, n = next(model.parameters()).device, 0.0, 0.0, 0.0, 0
        with torch.no_grad():
            for batch in self.batches(split):
                planes, want = batch[0].to(device), batch[1].to(device)
                error += float((model(planes).float() - want).square().sum())
                square, total, n = square + float(want.square().sum()), total + float(want.sum()), n + want.numel()
        return {"explained": 1 - error / (square - total**2 / n), "loss": error / n}

    def noise(self, batch: Batch) -> Tensor:
        """The batch's own."""
        return batch[3]

    def move(self, model: Network, latents: Tensor, i: int, batch: Batch) -> Tensor:
        """From time 1 - i / moves to the next: turn towards the image that the velocity points to."""
        t = torch.full((len(latents),), 1 - i / self.moves, device=latents.device)
        velocity = model(self.planes(latents, t, batch[2])).float()
        angle = math.pi / 2 / self.moves
        return math.cos(angle) * latents - math.sin(angle) * velocity

    def asked(self, labels: Tensor, seed: int = 0) -> Batch:
        """Return a batch to sample from: noise of `seed` that is to become digits of these labels."""
        height, width = self.images.train[0].shape[-2:]
        noise = torch.randn(len(labels), 1, height, width, generator=torch.Generator().manual_seed(seed))
        return self.planes(noise, torch.ones(len(labels)), labels), noise, labels, noise


def turned(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return (a, s), the parts of image and noise at times `t` in [0, 1], as (N, 1, 1, 1)."""
    angle = (t * math.pi / 2)[:, None, None, None]
    return angle.cos(), angle.sin()


def denoise_digits(data: str | None = None, moves: int = 10, seed: int = 0) -> Denoise:
    """Return the task on the digits, scaled to [-1, 1] and not shifted; batches of 64.

    Args:
        data: not used (the data ship with scikit-learn).
        moves: of the sampler.
        seed: of the split.

    Raises:
        ResproutError: scikit-learn is not installed.
    """
    known = digits(data, seed)
    parts = [(2 * x - 1, y) for x, y in (known.train, known.validation, known.test)]
    return Denoise(Arrays(parts[0], parts[1], parts[2], batch_size=64, name=f"digits-{seed}"), moves)
