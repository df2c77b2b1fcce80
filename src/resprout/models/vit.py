"""A small vision transformer for CIFAR with post-norm layers, a class token and learned positions.

Dosovitskiy et al.: "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929; layers of Vaswani et al., arXiv:1706.03762.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu, scaled_dot_product_attention


class Attention(nn.Module):
    """Self-attention with the parameter names of `nn.MultiheadAttention`, but with as many heads as its weights hold."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.head_width = width // heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed tokens (N, T, width) of x (N, T, width)."""
        qkv = linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(2, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and an MLP with ReLU, each with a shortcut and then a norm; names as in `nn.TransformerEncoderLayer`."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (N, T, width)."""
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(relu(self.linear1(x))))


class Patches(nn.Module):
    """A convolution that makes a token of each patch."""

    def __init__(self, patch: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (N, T, width) of images (N, 3, H, W)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """The layers one after another."""

    def __init__(self, depth: int, width: int, heads: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (N, T, width)."""
        for layer in self.layers:
            x = layer(x)
        return x


class ViT(nn.Module):
    """Patches, a class token and positions, the encoder, and a linear layer on the class token."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, hidden: int, classes: int = 10):
        super().__init__()
        self.patch_embed = Patches(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.transformer = Encoder(depth, width, heads, hidden)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.mlp_head(self.transformer(x)[:, 0])


def vit_tiny_p4() -> ViT:
    """Return the one of 4x4 patches, width 128, 6 layers, 8 heads and 256 MLP units: 811,146 parameters."""
    return ViT(32, 4, 128, 6, 8, 256)
