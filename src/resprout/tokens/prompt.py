"""A prompt of which only some tokens entered a causal language model of Hugging Face, and what comes after it.

Position ids and the cache are given to the model explicitly, and so is a mask of ones: without one, transformers takes ids that
do not follow each other for several sequences packed into one, and lets none of them see another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ._kind import Kept


class Prompt:
    """Read the tokens that were kept, and go on from there.

    Args:
        model: a causal language model of Hugging Face with rotary positions (Llama and its kin).
        tokens: int64 (samples, tokens), the full prompt; or float (samples, tokens, width), embeddings, as of images.
        kept: which of them enter, and with which ids.

    Attributes:
        logits: (samples, kept, words), of the kept tokens.
        next: the position id of what comes next.

    Raises:
        ResproutError: tokens of another form, or fewer than `kept` speaks of.
    """

    @torch.no_grad()
    def __init__(self, model: Any, tokens: Tensor, kept: Kept):
        if tokens.dim() != (3 if tokens.is_floating_point() else 2):
            raise ResproutError(
                f"tokens are (samples, tokens) or embeddings (samples, tokens, width), got {tuple(tokens.shape)}"
            )
        if int(kept.order.max()) >= tokens.shape[1]:
            raise ResproutError(
                f"kept names place {int(kept.order.max())} of {tokens.shape[1]} tokens: give it their number as total"
            )
        self.model, self.seen, self.next, self._cache = model, 0, kept.following, None
        order, ids = kept.order.to(tokens.device), kept.ids.to(tokens.device)
        self.logits = self._read(tokens[:, order], ids)

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """Read further tokens, int64 (samples, tokens), and return their logits."""
        ids = torch.arange(self.next, self.next + tokens.shape[1], device=tokens.device)
        self.next += tokens.shape[1]
        return self._read(tokens, ids)

    def generate(self, count: int) -> Tensor:
        """Return the `count` most likely tokens to come, one after another, int64 (samples, count); they have been read then."""
        said = [self._last[:, :0]]
        for _ in range(count):
            said.append(self._last)
            self.feed(said[-1])
        return torch.cat(said, 1)

    def _read(self, tokens: Tensor, ids: Tensor) -> Tensor:
        self.seen += tokens.shape[1]
        given = {"inputs_embeds" if tokens.is_floating_point() else "input_ids": tokens}
        mask = torch.ones(len(tokens), self.seen, dtype=torch.int64, device=tokens.device)
        out = self.model(
            **given, position_ids=ids[None].expand(len(tokens), -1), attention_mask=mask, past_key_values=self._cache,
            use_cache=True,
        )  # fmt: skip
        self._cache, self._last = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        return out.logits
