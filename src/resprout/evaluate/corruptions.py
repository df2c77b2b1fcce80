"""Images made worse on purpose: six corruptions in five severities, as tensors, the same for the same seed.

Kinds after Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019,
arXiv:1903.12261. The strengths are ours and scale with the image, so that 8 x 8 and 32 x 32 pixels suffer alike: figures are
not comparable with those on CIFAR-10-C.

Every corruption takes images in [0, 1] before they are normalised, (samples, channels, height, width), and returns such.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import ResproutError
from ..core.run import mix

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, int, int], Tensor]


def gaussian_noise(images: Tensor, severity: int, seed: int) -> Tensor:
    """Add independent noise to every pixel and channel."""
    noise = torch.randn(images.shape, generator=_generator(seed, "gaussian_noise", severity))
    return images + noise * _at((0.05, 0.1, 0.15, 0.22, 0.3), severity)


def blur(images: Tensor, severity: int, seed: int) -> Tensor:
    """Convolve with a Gaussian whose deviation is 2 to 10 % of the width; the border is repeated."""
    sigma = _at((0.02, 0.04, 0.06, 0.08, 0.1), severity) * images.shape[-1]
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(images)
    flat = F.pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view(images.shape)


def contrast(images: Tensor, severity: int, seed: int) -> Tensor:
    """Draw every pixel towards the mean of its image."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * _at((0.75, 0.6, 0.45, 0.3, 0.15), severity)


def brightness(images: Tensor, severity: int, seed: int) -> Tensor:
    """Add light; what is white already stays so."""
    return images + _at((0.1, 0.2, 0.3, 0.4, 0.5), severity)


def pixelate(images: Tensor, severity: int, seed: int) -> Tensor:
    """Average over cells, so that 75 to 25 % as many are left along each side."""
    share, (height, width) = _at((0.75, 0.625, 0.5, 0.375, 0.25), severity), images.shape[-2:]
    return _cells(height, share).to(images) @ images @ _cells(width, share).to(images).T


def occlusion(images: Tensor, severity: int, seed: int) -> Tensor:
    """Cover a square, 20 to 60 % as wide as the image, in mid-grey, at a place of its own in each image."""
    share, (height, width) = _at((0.2, 0.3, 0.4, 0.5, 0.6), severity), images.shape[-2:]
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    generator, n = _generator(seed, "occlusion", severity), len(images)
    top = torch.randint(height - tall + 1, (n, 1, 1, 1), generator=generator)
    left = torch.randint(width - wide + 1, (n, 1, 1, 1), generator=generator)
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    covered = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return torch.where(covered, torch.tensor(0.5, dtype=images.dtype), images)


SUITE: tuple[Corruption, ...] = (gaussian_noise, blur, contrast, brightness, pixelate, occlusion)


def corrupt(images: Tensor, corruption: Corruption, severity: int, seed: int = 0) -> Tensor:
    """Return corrupted copies of images, float in [0, 1].

    Args:
        images: (samples, channels, height, width), uint8, or float in [0, 1]: not normalised.
        corruption: one of `SUITE`, or a function like those.
        severity: 1 (hardly seen) to 5.
        seed: of what is random.

    Raises:
        ResproutError: another shape, normalised images, or a severity outside 1 to 5.
    """
    if images.dim() != 4:
        raise ResproutError(f"corruptions are of images (samples, channels, height, width), got {tuple(images.shape)}")
    if severity not in SEVERITIES:
        raise ResproutError(f"severity is one of 1, 2, 3, 4, 5, got {severity!r}")
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if len(x) and not (float(x.min()) >= 0 and float(x.max()) <= 1):
        span = f"[{float(x.min()):.3g}, {float(x.max()):.3g}]"
        raise ResproutError(f"images are in [0, 1] here, got {span}; corrupt them before they are normalised")
    return corruption(x, severity, seed).clamp(0, 1)


def _cells(size: int, share: float) -> Tensor:
    """The matrix (size, size) that puts the mean of its cell in the place of every pixel of a line."""
    count = max(1, round(size * share))
    cell = torch.arange(size) * count // size
    together = (cell[:, None] == cell).float()
    return together / together.sum(1, keepdim=True)


def _at(strengths: tuple[float, ...], severity: int) -> float:
    return strengths[severity - 1]


def _generator(seed: int, *labels: object) -> torch.Generator:
    return torch.Generator().manual_seed(mix(seed, *labels))
