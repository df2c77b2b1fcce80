"""A small transformer that takes the noise from 8x8 images, for diffusion.

Peebles, Xie: "Scalable Diffusion Models with Transformers", ICCV 2023, arXiv:2212.09748. Here the time and the class come as
planes beside the image, so that the network is called with one tensor as all others are.
"""

from torch import Tensor, nn

from .vit import Encoder

PLANES = 17  # the image, six of time and ten of classes


class Denoiser(nn.Module):
    """Patches and positions, the encoder, and a transposed convolution that makes a patch of each token."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, hidden: int, planes: int = PLANES):
        super().__init__()
        self.embed = nn.Conv2d(planes, width, patch, patch)
        self.position = nn.Parameter(
            nn.init.trunc_normal_(nn.Parameter(Tensor(1, (size // patch) ** 2, width)), std=0.02)
        )
        self.encoder = Encoder(depth, width, heads, hidden)
        self.unembed = nn.ConvTranspose2d(width, 1, patch, patch)
        self.side = size // patch

    def forward(self, x: Tensor) -> Tensor:
        """Return images (N, 1, H, W) of planes (N, planes, H, W)."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.unembed(self.encoder(x).transpose(1, 2).unflatten(2, (self.side, self.side)))


def denoiser_digits() -> Denoiser:
    """Return the one of 2x2 patches, width 64, 3 layers, 4 heads and 128 MLP units: 104,961 parameters."""
    return Denoiser(8, 2, 64, 3, 4, 128)
