"""How many passages can leave an index before anyone who asks will notice, and who says which?

Chang, Mishra, Macdonald, MacAvaney: "Neural Passage Quality Estimation for Static Pruning", SIGIR 2024, arXiv:2407.12170. On a
small test collection with BM25, and a small learned head in place of the T5; it learns from half of the queries, and the other
half is what everything is measured on. "Equivalent" is the paper's test: two one-sided paired t-tests within 5 % of the full
index's mean.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import find
from ..core.errors import ResproutError
from ..core.kinds import Fidelity
from ..passages._kind import kept as staying
from ..passages.bm25 import Index
from ..passages.collection import Collection, read, words
from ..passages.metrics import equivalence, ndcg, recall, reciprocal_rank
from ..report.figure import Figure, lines
from ._study import Finding, Study, Tell, silent

METRICS = {"nDCG@10": ndcg, "RR@10": reciprocal_rank, "recall@100": recall}
Values = Mapping[str, Sequence[float]]  # metric -> one number a query


@dataclass(frozen=True)
class StaticPruning(Study):
    """Drop each share `pruned` of the passages by each quality, and measure retrieval on queries that no quality has seen.

    Attributes:
        data: folder of a collection in the layout of BEIR; `codes` says what its scores mean.
        qualities: as in `resprout list --kind passage`; of "random" there are `seeds`: means, and the median p.
        pruned: shares, rising.
        planted: noise is added until it is this share of all passages; the full index is that without it.
        bound, level: of equivalence: the share of the full index's mean, and p.
        k1, b: of BM25.
    """

    data: str = "../shared/data/cranfield"
    codes: str = "cranfield"
    qualities: tuple[str, ...] = ("quality_head", "fluency", "itn", "cdd", "random")
    pruned: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
    planted: float = 0.0
    bound: float = 0.05
    level: float = 0.05
    seeds: int = 5
    k1: float = 1.2
    b: float = 0.75
    claim: ClassVar[str] = (
        "A quarter of the passages can be dropped by a learned quality, with effectiveness that is statistically equivalent."
    )
    key: ClassVar[str | None] = "qualt5-static-prune"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, folder: Path, tell: Tell = silent) -> Finding:
        """Run it.

        Raises:
            ResproutError: no quality or share, or codes that are unknown.
        """
        began = time.monotonic()
        if self.codes not in ("grades", "cranfield") or not self.qualities or not self.pruned:
            raise ResproutError('static_pruning needs qualities, shares, and codes "grades" or "cranfield"')
        collection, clean = read(self.data, self.codes), None
        if self.planted:
            collection, noise = collection.with_spam(self.planted)
            clean = ~np.isin(np.arange(len(collection.passages)), noise)
        asked = [q for q in collection.queries if q in collection.judgements]
        learned, held = collection.among(asked[::2]), collection.among(asked[1::2])
        full, entries = self._measured(held, clean)
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.qualities):
            tell(name, i / len(self.qualities))
            quality: Any = find.method("passage", name)
            began_scoring = time.monotonic()
            scores = [quality(learned, seed) for seed in range(self.seeds if name == "random" else 1)]
            spent = (time.monotonic() - began_scoring) / len(scores)
            for share in self.pruned:
                found = [self._measured(held, staying(s, share)) for s in scores]
                row = {"quality": name, "pruned, %": round(100 * share, 1)} | self._row([v for v, _ in found], full)
                row |= {"index, %": round(100 * float(np.mean([e for _, e in found])) / entries, 1)}
                rows.append(row | {"seconds of scoring": round(spent, 2)})
        return self._found(rows, full, len(held.queries), time.monotonic() - began)

    def _measured(self, held: Collection, stay: Any) -> tuple[Values, int]:
        """Every metric of every query, and the postings of the index."""
        index = Index(held.tokens, stay, self.k1, self.b)
        rankings = {q: index.search(words(text)) for q, text in held.queries.items()}
        values = {m: [f(rankings[q], held.judgements[q]) for q in held.queries] for m, f in METRICS.items()}
        return values, index.entries

    def _row(self, values: Sequence[Values], full: Values) -> dict[str, Any]:
        """The means, and the median over seeds of the largest p of equivalence over the metrics."""
        row: dict[str, Any] = {m: round(float(np.mean([v[m] for v in values])), 4) for m in METRICS}
        bounds = {m: self.bound * float(np.mean(full[m])) for m in METRICS}
        p = float(np.median([max(equivalence(v[m], full[m], bounds[m]) for m in METRICS) for v in values]))
        return row | {"p": round(p, 4), "equivalent": p < self.level}

    def _found(self, rows: list[dict[str, Any]], full: Values, queries: int, seconds: float) -> Finding:
        most = []
        for name in self.qualities:
            same = [r["pruned, %"] for r in rows if r["quality"] == name and r["equivalent"]]
            most.append({"quality": name, "pruned and equivalent, %": max(same, default=0.0)})
        first, chance = most[0], next((m for m in most if m["quality"] == "random"), most[-1])
        means = ", ".join(f"{m} {float(np.mean(v)):.4f}" for m, v in full.items())
        verdict = (
            f"of the full index ({means}; {queries} queries) {first['quality']} drops up to "
            f"{first['pruned and equivalent, %']:g} % with equivalent effectiveness, {chance['quality']} up to "
            f"{chance['pruned and equivalent, %']:g} %"
        )
        holds = first["pruned and equivalent, %"] >= 25 and chance["pruned and equivalent, %"] < 25
        return Finding(
            verdict, holds, {"Largest share": most, "Effectiveness": rows}, (self._figure(rows, full),), seconds
        )

    def _figure(self, rows: list[dict[str, Any]], full: Values) -> Figure:
        series: dict[str, Any] = {}
        for name in self.qualities:
            own = [r for r in rows if r["quality"] == name]
            start = [float(np.mean(full["nDCG@10"]))]
            series[name] = {"x": [0.0, *(r["pruned, %"] for r in own)], "y": start + [r["nDCG@10"] for r in own]}
        words_ = (
            "Mean nDCG@10 of BM25 on queries no quality has learned from, over the share of passages dropped by each."
        )
        return lines("Effectiveness over the share pruned", series, "passages pruned, %", "nDCG@10", words=words_)
