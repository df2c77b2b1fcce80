"""Corruptions: in range, repeatable, worse with severity, and hand figures where they are easy."""

import pytest
import torch

from resprout.core.errors import ResproutError
from resprout.evaluate.corruptions import (
    SUITE,
    blur,
    brightness,
    contrast,
    corrupt,
    gaussian_noise,
    occlusion,
    pixelate,
)


@pytest.fixture
def images() -> torch.Tensor:
    """Three-channel pictures with structure at every scale."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(40, 3, 4, 4, generator=g)
    fine = torch.rand(40, 3, 16, 16, generator=g)
    return (0.7 * torch.nn.functional.interpolate(coarse, size=16, mode="bilinear") + 0.3 * fine).clamp(0, 1)


@pytest.mark.parametrize("corruption", SUITE, ids=lambda c: c.__name__)
def test_in_range_repeatable_and_worse_with_severity(corruption, images):
    before, rng = images.clone(), torch.get_rng_state()
    distances = []
    for severity in (1, 2, 3, 4, 5):
        made = corrupt(images, corruption, severity, seed=1)
        assert made.shape == images.shape
        assert 0 <= made.min() <= made.max() <= 1
        assert torch.equal(made, corrupt(images, corruption, severity, seed=1))
        distances.append(float((made - images).pow(2).mean()))
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1]
    assert torch.equal(images, before)
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize("corruption", [gaussian_noise, occlusion])
def test_chance_follows_the_seed(corruption, images):
    assert not torch.equal(corrupt(images, corruption, 3, seed=1), corrupt(images, corruption, 3, seed=2))


def test_bytes_mean_the_same_as_fractions(images):
    whole = (images * 255).round().to(torch.uint8)
    assert torch.allclose(corrupt(whole, blur, 3), corrupt(whole.float() / 255, blur, 3))


def test_a_flat_image_survives_what_only_moves_detail():
    flat = torch.full((2, 1, 8, 8), 0.4)
    for corruption in (blur, contrast, pixelate):
        assert torch.allclose(corrupt(flat, corruption, 5), flat, atol=1e-6)


def test_figures_by_hand():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    assert torch.allclose(corrupt(ramp, brightness, 3), (ramp + 0.3).clamp(max=1))
    assert torch.allclose(corrupt(ramp, contrast, 5), 0.5 + (ramp - 0.5) * 0.15, atol=1e-6)
    coarse = corrupt(ramp, pixelate, 3)  # half as many pixels: means of 2 x 2
    assert torch.allclose(coarse[0, 0, :2, :2], ramp[0, 0, :2, :2].mean().expand(2, 2))
    hidden = corrupt(torch.zeros(500, 1, 10, 10), occlusion, 4)  # a square of 5 x 5 in grey
    assert hidden.sum((1, 2, 3)).tolist() == [12.5] * 500
    assert (hidden.amax((0, 1)) == 0.5).all(), "every place is covered in some image"
    noise = corrupt(torch.full((1, 1, 200, 200), 0.5), gaussian_noise, 2) - 0.5
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)


def test_blur_against_scipy():
    from scipy.ndimage import gaussian_filter

    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    ours = corrupt(image, blur, 4)[0, 0]
    theirs = gaussian_filter(image[0, 0].double().numpy(), 0.08 * 32, mode="nearest", radius=8)
    assert torch.allclose(ours.double(), torch.from_numpy(theirs), atol=1e-5)


def test_bad_input_is_named(images):
    with pytest.raises(ResproutError, match="severity"):
        corrupt(images, blur, 6)
    with pytest.raises(ResproutError, match="before they are normalised"):
        corrupt(images - 1, blur, 1)
    with pytest.raises(ResproutError, match="samples, channels"):
        corrupt(images[0], blur, 1)
