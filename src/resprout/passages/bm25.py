"""BM25 over passages in memory, as Lucene counts it.

Robertson, Zaragoza: "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations and Trends in Information
Retrieval 2009.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Index:
    """Postings of some passages; no stemming and no stop words.

    Args:
        tokens: the words of every passage.
        keep: bool (passages,), which of them are indexed; default all.
        k1, b: how soon repetitions stop to count, and how much length does.
    """

    def __init__(
        self, tokens: Sequence[Sequence[str]], keep: NDArray[np.bool_] | None = None, k1: float = 1.2, b: float = 0.75
    ):
        ids: list[int] = list(range(len(tokens))) if keep is None else np.flatnonzero(keep).tolist()
        self.size = len(ids)
        lengths = np.array([len(tokens[i]) for i in ids], dtype=np.float64)
        mean = max(1.0, float(lengths.mean()) if ids else 1.0)
        postings: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for row, i in enumerate(ids):
            for word, count in Counter(tokens[i]).items():
                where, counts = postings[word]
                where.append(row)
                counts.append(count)
        self._ids, self._postings = np.array(ids, dtype=np.int64), {}
        for word, (where, counts) in postings.items():
            rows, tf = np.array(where), np.array(counts, dtype=np.float64)
            idf = np.log(1 + (len(ids) - len(rows) + 0.5) / (len(rows) + 0.5))
            self._postings[word] = rows, idf * tf / (tf + k1 * (1 - b + b * lengths[rows] / mean))

    @property
    def entries(self) -> int:
        """Postings in all: what the index takes."""
        return sum(len(rows) for rows, _ in self._postings.values())

    def search(self, query: Sequence[str], most: int = 1000) -> list[int]:
        """Return the positions of the passages that share a word with the query, best first; of equals the earlier."""
        scores = np.zeros(self.size)
        for word in query:
            if word in self._postings:
                rows, weights = self._postings[word]
                scores[rows] += weights
        order = np.argsort(-scores, kind="stable")[:most]
        return self._ids[order[scores[order] > 0]].tolist()
