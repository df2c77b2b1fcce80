"""A small text encoder with pre-norm layers, learned positions and a classifier on the mean of the tokens.

Devlin, Chang, Lee, Toutanova: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL 2019,
arXiv:1810.04805; norms before each part as in Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020,
arXiv:2002.04745, so that it trains from scratch.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class Attention(nn.Module):
    """Self-attention that does not look at padding, with as many heads as its weights hold."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.head_width = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the mixed tokens (N, T, width) of x (N, T, width); `seen`, bool (N, 1, 1, T), says which are words."""
        q, k, v = (f(x).unflatten(2, (-1, self.head_width)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.output(scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and an MLP with GELU, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the tokens (N, T, width)."""
        x = x + self.dropout(self.attention(self.norm1(x), seen))
        return x + self.dropout(self.down(gelu(self.up(self.norm2(x)))))


class TextEncoder(nn.Module):
    """Words and positions, the layers, and a linear layer on the mean over what is no padding (id 0).

    Its input is int64 (N, T) with T up to `length`.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        classes: int,
        dropout: float,
    ):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.layers = nn.ModuleList(Layer(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.words.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (N, classes)."""
        seen = ids != 0
        x = self.dropout(self.words(ids) + self.positions[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, seen[:, None, None])
        words = seen[:, :, None].to(x.dtype)
        return self.head(self.dropout((self.norm(x) * words).sum(1) / words.sum(1).clamp(min=1)))


def encoder_small() -> TextEncoder:
    """Return the one for SST-2: 8,000 words, 64 positions, width 128, 4 layers, 4 heads, 512 MLP units: 1.8 M parameters."""
    return TextEncoder(8000, 64, 128, 4, 4, 512, 2, 0.1)
