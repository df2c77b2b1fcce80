"""A test collection: passages, queries, and how relevant which is to which; read from files in the layout of BEIR.

`corpus.jsonl` and `queries.jsonl` hold `_id` and `text`, `qrels/test.tsv` query, passage and score. Grades here rise with
relevance. Cranfield's codes do not: 1 is a complete answer, 4 of minimum interest, -1 of none (`codes="cranfield"`).
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from ..core.errors import ResproutError, nearest
from ..core.run import mix

WORD = re.compile(r"[a-z0-9]+")
Codes = Literal["grades", "cranfield"]
Judgements = Mapping[str, Mapping[int, int]]  # query -> position of a passage -> grade from 1


def words(text: str) -> list[str]:
    """Return the words of a text, lower case."""
    return WORD.findall(text.lower())


@dataclass(frozen=True, eq=False)
class Collection:
    """Passages by position, queries by name."""

    passages: Sequence[str]
    queries: Mapping[str, str]
    judgements: Judgements

    @cached_property
    def tokens(self) -> list[list[str]]:
        """The words of each passage."""
        return [words(text) for text in self.passages]

    def among(self, queries: Sequence[str]) -> Collection:
        """Return the collection with some of its queries and their judgements."""
        known = {q: self.judgements[q] for q in queries if q in self.judgements}
        return dataclasses.replace(self, queries={q: self.queries[q] for q in queries}, judgements=known)

    @property
    def relevant(self) -> set[int]:
        """The passages that are relevant to any of the queries."""
        return {passage for grades in self.judgements.values() for passage in grades}

    def with_spam(self, share: float, seed: int = 0) -> tuple[Collection, list[int]]:
        """Return the collection with noise added until it is `share` of all, and the positions of the noise.

        Half are real passages with their words shuffled, half the same few phrases said again and again.

        Raises:
            ResproutError: no share, or passages that are all too short.
        """
        if not 0 <= share < 1:
            raise ResproutError(f"noise is a share in [0, 1) of all passages, got {share:g}")
        chance, old = random.Random(mix(seed, "spam")), list(self.passages)
        count = round(len(old) * share / (1 - share))
        long = [t for t in old if len(t.split()) > 20]
        if not long:
            raise ResproutError("noise is made of passages of more than 20 words, and there is none")
        phrases = [" ".join(chance.choice(long).split()[i : i + 6]) for i in (0, 4, 8, 12)]
        made = []
        for i in range(count):
            if i % 2:
                made.append(" ".join(chance.choice(phrases) for _ in range(chance.randint(5, 30))))
            else:
                shuffled = chance.choice(long).split()
                chance.shuffle(shuffled)
                made.append(" ".join(shuffled))
        return dataclasses.replace(self, passages=[*old, *made]), list(range(len(old), len(old) + count))


def read(folder: str | Path, codes: Codes = "grades") -> Collection:
    """Read a collection.

    Raises:
        ResproutError: a file is missing or is not of that layout; unknown codes.
    """
    if codes not in get_args(Codes):
        raise nearest(str(codes), get_args(Codes), "codes")
    place = Path(folder)
    try:
        corpus, queries, qrels = (_lines(place / n) for n in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"))
        rows, asked = [json.loads(line) for line in corpus], [json.loads(line) for line in queries]
        where = {row["_id"]: i for i, row in enumerate(rows)}
        judged: dict[str, dict[int, int]] = {}
        for line in qrels[1:]:
            query, passage, score = line.split("\t")
            grade = int(score) if codes == "grades" else 5 - int(score) if int(score) > 0 else 0
            if grade > 0:
                judged.setdefault(query, {})[where[passage]] = grade
        texts = [
            row["text"] if row.get("title", "") in row["text"] else f"{row['title']} {row['text']}" for row in rows
        ]
        return Collection(texts, {row["_id"]: row["text"] for row in asked}, judged)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResproutError(
            f"{place} holds no collection ({error!r}): corpus.jsonl, queries.jsonl and qrels/test.tsv are needed"
        ) from error


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
