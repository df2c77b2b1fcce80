"""A vision transformer whose patches become fewer from block to block, and the heads that say which; not a method.

It goes around a `resprout.models.vit.ViT`, or anything with its parts: `patch_embed`, `cls_token`, `pos_embed`,
`transformer.layers` and `mlp_head`. Blocks and heads are shared with that network, not copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError

PARTS = ("patch_embed", "cls_token", "pos_embed", "transformer", "mlp_head")


class CrossAttention(nn.Module):
    """One query in `heads` parts that attends to tokens, and a head that tells the class from what it gathers.

    Keys and values are the tokens themselves. Patches only: the class token always stays, and would tell the class by itself.
    """

    def __init__(self, width: int, heads: int, classes: int):
        super().__init__()
        if width % heads:
            raise ResproutError(f"heads must divide the width of the tokens, {width}, got {heads}")
        self.heads = heads
        self.query = nn.Parameter(torch.randn(heads, width // heads) * 0.02)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        self.head.auxiliary = True  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (samples, tokens) of tokens (samples, tokens, width); in training the head speaks besides."""
        parts = x.detach().unflatten(2, (self.heads, -1))
        products = torch.einsum("nthd,hd->nht", parts, self.query)
        if self.training:
            weights = (products / parts.shape[-1] ** 0.5).softmax(2)
            gathered = torch.einsum("nht,nthd->nhd", weights, parts).flatten(1)
            self.head(self.norm(gathered + self.mlp(gathered)))
        return products.detach().sum(1)


class CroppedViT(nn.Module):
    """The network, with `drop` patches fewer after every block but the last `spare` (one more the first time).

    Survivors keep their order. With `fuse` all patches that left stand behind the survivors before the last block. Without
    `scorers` the choice is random.

    Raises:
        ResproutError: a network without the parts, or too few patches.
    """

    def __init__(self, vit: Any, drop: int, spare: int, fuse: bool):
        super().__init__()
        missing = [name for name in PARTS if not hasattr(vit, name)]
        if missing:
            raise ResproutError(
                f"{type(vit).__name__} has no {missing[0]!r}: tokens are cropped in a ViT of resprout.models"
            )
        self.vit, self.drop, self.spare, self.fuse = vit, drop, spare, fuse
        self.scorers = nn.ModuleList()
        if drop < 0 or spare < 1 or min(self.counts) < 1:
            raise ResproutError(
                f"drop={drop}, spare={spare} leave {min(self.counts)} patches; drop fewer, spare 1 or more"
            )

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks."""
        return self.vit.transformer.layers

    @property
    def crops(self) -> int:
        """After how many blocks patches leave."""
        return max(0, len(self.layers) - self.spare)

    @property
    def width(self) -> int:
        """Of a token."""
        return self.vit.pos_embed.shape[2]

    @property
    def classes(self) -> int:
        """Outputs of the network."""
        return self.vit.mlp_head[-1].out_features

    @property
    def counts(self) -> list[int]:
        """Patches that each block reads; those of the last one where they come back are all."""
        patches = self.vit.pos_embed.shape[1] - 1
        first = 1 if self.drop else 0
        left = [patches - (i * self.drop + first if i else 0) for i in range(self.crops + 1)]
        left += [left[-1]] * (len(self.layers) - len(left))
        return [*left[:-1], patches] if self.fuse else left

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.walk(x)[0]

    def walk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and which patches were left, int64 (samples, kept), before any came back."""
        x = self.vit.patch_embed(images)
        x = torch.cat([self.vit.cls_token.expand(len(x), -1, -1), x], 1) + self.vit.pos_embed
        places = torch.arange(x.shape[1] - 1, device=x.device).expand(len(x), -1)
        gone = []
        for i, layer in enumerate(self.layers):
            if i == len(self.layers) - 1 and self.fuse and gone:
                x = torch.cat([x, *gone], 1)
            x = layer(x)
            if i < self.crops and self.drop:
                leave = self.drop + (i == 0)
                stay, left = self._choice(i, x[:, 1:], leave)
                gone.append(take(x[:, 1:], left))
                x = torch.cat([x[:, :1], take(x[:, 1:], stay)], 1)
                places = places.gather(1, stay)
        return self.vit.mlp_head(x[:, 0]), places

    def _choice(self, at: int, x: Tensor, leave: int) -> tuple[Tensor, Tensor]:
        """Which tokens stay and which leave, each in ascending order."""
        if len(self.scorers):
            scores = self.scorers[at](x)
        elif self.training:
            scores = torch.rand(x.shape[:2], device=x.device)
        else:
            scores = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(at)).to(x.device)
        order = scores.argsort(dim=1, descending=True, stable=True)
        keep = x.shape[1] - leave
        return order[:, :keep].sort(1).values, order[:, keep:].sort(1).values


def take(x: Tensor, places: Tensor) -> Tensor:
    """Return tokens (samples, chosen, width) of x (samples, tokens, width)."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
