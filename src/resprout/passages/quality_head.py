"""Learned quality: a small classifier of passages that were ever judged relevant against others, asked before anyone asks.

Chang, Mishra, Macdonald, MacAvaney: "Neural Passage Quality Estimation for Static Pruning", SIGIR 2024, arXiv:2407.12170. There
it is a T5 that says "true" or "false" (QualT5); here a logistic regression on a dozen numbers that describe a passage, which
trains in a second on a few hundred judgements. What its figures are worth for QualT5 is not known.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ._kind import Quality, Scores
from .cdd import Cdd
from .collection import Collection
from .fluency import Fluency
from .itn import Itn


@dataclass(frozen=True)
class QualityHead(Quality):
    """log p(relevant) of a logistic regression with so much `decay`, on `features` and their squares."""

    decay: float = 1e-3
    key: ClassVar[str | None] = "qualt5-static-prune"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, collection: Collection, seed: int = 0) -> Scores:
        """Learn and score.

        Raises:
            ResproutError: no passage is judged relevant, or all are.
        """
        y = torch.zeros(len(collection.passages), dtype=torch.float64)
        y[sorted(collection.relevant)] = 1
        if not 0 < int(y.sum()) < len(y):
            raise ResproutError(
                "a quality is learned from passages that were judged relevant and others; there are no such two"
            )
        x = torch.from_numpy(features(collection))
        x = torch.cat([x, x.square()], 1)
        x = (x - x.mean(0)) / x.std(0).clamp_min(1e-9)
        weight = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        balance = torch.where(y > 0, len(y) / y.sum() / 2, len(y) / (len(y) - y.sum()) / 2)
        optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(x @ weight[1:] + weight[0], y, balance)
            loss = loss + self.decay * weight[1:].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            return F.logsigmoid(x @ weight[1:] + weight[0]).numpy()


def features(collection: Collection) -> NDArray[np.float64]:
    """Return what describes each passage, of any language: length, repetition, rarity and fluency of its words."""
    count = len(collection.tokens)
    seen = Counter(w for t in collection.tokens for w in set(t))
    rare = {w: math.log((count + 1) / (n + 0.5)) for w, n in seen.items()}
    rows = []
    for text, tokens in zip(collection.passages, collection.tokens, strict=True):
        n = max(1, len(tokens))
        weights = [rare[w] for w in tokens] or [0.0]
        most = Counter(tokens).most_common(1)[0][1] if tokens else 0
        row = [math.log1p(len(tokens)), most / n, float(np.mean(weights)), float(np.std(weights)), max(weights)]
        row += [sum(map(len, tokens)) / n, sum(w.isdigit() for w in tokens) / n]
        rows.append([*row, sum(not c.isalnum() and not c.isspace() for c in text) / max(1, len(text))])
    measured = [q(collection) for q in (Itn(), Cdd(), Fluency())]
    return np.column_stack([np.array(rows), *measured])
