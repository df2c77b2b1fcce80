"""Zero-shot multiple choice: which continuation of a context a causal language model finds most likely.

Scored as the evaluation harness of EleutherAI does (Gao et al., "A framework for few-shot language model evaluation", Zenodo,
doi:10.5281/zenodo.5371628, 2021): by the sum of log-probabilities (its `acc`), and by the sum divided by the length of the
continuation in bytes (its `acc_norm`, which counts characters: the same in ASCII), or in tokens.

`endings` makes such items of a file of stories: which sentence comes next, and which are of other stories. (After the Story Cloze
Test, Mostafazadeh et al., NAACL 2016, arXiv:1604.01696, but with random endings, which are easier than written ones.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import ResproutError
from ..core.run import mix
from .perplexity import OPENINGS, Bos, Progress, Row, likelihoods, opening, read, stories

NAMES = ("context", "choices", "answer")


@dataclass(frozen=True)
class Item:
    """A context, two or more continuations, and the place (from 0) of the true one.

    Raises:
        ResproutError: fewer than two choices, an empty or repeated one, or an answer that is none of them.
    """

    context: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        texts = (self.context, *self.choices) if isinstance(self.choices, tuple) else (None,)
        if not all(isinstance(text, str) for text in texts):
            raise ResproutError("an item has a text 'context' and a tuple of texts 'choices'")
        if len(self.choices) < 2 or not all(c.strip() for c in self.choices):
            raise ResproutError(f"an item has two or more choices, none empty; got {self.choices!r}")
        if len(set(self.choices)) < len(self.choices):
            raise ResproutError(f"two choices are the same: {self.choices!r}")
        if (
            isinstance(self.answer, bool)
            or not isinstance(self.answer, int)
            or not 0 <= self.answer < len(self.choices)
        ):
            raise ResproutError(f"answer is a place from 0 to {len(self.choices) - 1}, got {self.answer!r}")


@dataclass(frozen=True)
class Choices:
    """What a model makes of items: for each, of each choice the log-likelihood in nats, its tokens and its bytes.

    Of equal scores the first counts. `cut` contexts did not fit into the window and lost their beginning.
    """

    items: tuple[Item, ...]
    scores: tuple[tuple[float, ...], ...]
    tokens: tuple[tuple[int, ...], ...]
    cut: int = 0

    def _right(self, weights: Sequence[Sequence[int]] | None = None) -> float:
        """The fraction of items whose best choice, by the score over the weight, is the answer."""
        ones = [[1] * len(s) for s in self.scores]
        found = 0
        for item, scores, weight in zip(self.items, self.scores, weights or ones, strict=True):
            values = [s / w for s, w in zip(scores, weight, strict=True)]
            found += values.index(max(values)) == item.answer
        return found / len(self.items)

    @property
    def accuracy(self) -> float:
        """By the sum of log-probabilities: the harness's `acc`."""
        return self._right()

    @property
    def accuracy_per_token(self) -> float:
        """By the mean over the tokens of the continuation."""
        return self._right(self.tokens)

    @property
    def accuracy_per_byte(self) -> float:
        """By the sum over the UTF-8 bytes of the continuation: the harness's `acc_norm`."""
        return self._right([[len(c.encode()) for c in item.choices] for item in self.items])

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return sum(1 / len(item.choices) for item in self.items) / len(self.items)


def choose(
    model: nn.Module,
    items: Sequence[Item],
    tokenizer: Any,
    *,
    window: int = 512,
    delimiter: str = " ",
    bos: Bos = "auto",
    batch: int = 16,
    progress: Progress | None = None,
) -> Choices:
    """Return what `model` makes of `items`.

    Args:
        model: a causal language model, as for `perplexity`.
        items: what is asked.
        tokenizer: the model's own.
        window: tokens that the model sees at once; of what is longer the beginning is left out.
        delimiter: what stands between context and continuation; nothing where one of them brings space of its own.
        bos: as for `perplexity`.
        batch: rows at once at most.
        progress: called with (choices done, choices in all).

    Raises:
        ResproutError: no items, a continuation longer than the window or without a token of its own, a model or tokenizer that
            does not fit, or a score that is NaN.
    """
    if not items:
        raise ResproutError("there are no items to choose in")
    start, rows, cut = opening(tokenizer, bos), [], 0
    for number, item in enumerate(items):
        begun, lost = _tokens(tokenizer, item.context), False
        for choice in item.choices:
            row, shortened = _row(tokenizer, item.context, begun, choice, delimiter, start, window, number)
            lost |= shortened
            rows.append(row)
        cut += lost
    found, _ = likelihoods(model, rows, batch, progress)
    if bool(torch.isnan(found).any()):
        raise ResproutError("a log-likelihood is NaN: check the model's weights, or evaluate in float32")
    scores, tokens, at = [], [], 0
    for item in items:
        places = slice(at, at + len(item.choices))
        scores.append(tuple(found[places].tolist()))
        tokens.append(tuple(len(r.ids) - r.first for r in rows[places]))
        at = places.stop
    return Choices(tuple(items), tuple(scores), tuple(tokens), cut)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    found = tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(found, "ids", found))


def _row(
    tokenizer: Any,
    context: str,
    begun: Sequence[int],
    choice: str,
    delimiter: str,
    start: int | None,
    window: int,
    number: int,
) -> tuple[Row, bool]:
    """The row of one choice, and whether its context had to be shortened.

    Both texts are tokenised together, as the model would read them; what the context alone does not fill is the continuation.
    Space at the end of the context belongs to the continuation, for tokens begin with their space.
    """
    kept = context.rstrip()
    if kept != context:
        choice, begun = context[len(kept) :] + choice, _tokens(tokenizer, kept)
    elif kept and not choice[:1].isspace():
        choice = delimiter + choice
    ids = _tokens(tokenizer, kept + choice)
    head = [] if start is None else [start]
    own = len(ids) - len(begun)
    room = window - len(head)
    if own < 1:
        raise ResproutError(f"item {number}: the tokenizer leaves {choice!r} no token of its own after its context")
    if own >= window:
        raise ResproutError(
            f"item {number}: a choice has {own} tokens, and window={window} holds no more than {window - 1}"
        )
    if not head and not begun:
        raise ResproutError(f"item {number} has no context, and the tokenizer no <s> to begin with; give bos=")
    ids = [*head, *ids[-room:]]
    return Row(torch.tensor(ids, dtype=torch.int64), len(ids) - own), len(begun) + own > room


def read_items(file: str | Path) -> list[Item]:
    """Return the items of a JSONL file: a line each, {"context": text, "choices": [text, ...], "answer": place from 0}.

    Raises:
        ResproutError: no such file, an empty one, or a line that is no item, by its number.
    """
    path, found = Path(file), []
    for number, line in enumerate(read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            facts = json.loads(line)
            if not isinstance(facts, dict) or any(name not in facts for name in NAMES):
                raise ResproutError(f"an item is an object with {', '.join(map(repr, NAMES))}")
            choices = facts["choices"]
            found.append(
                Item(facts["context"], tuple(choices) if isinstance(choices, list) else choices, facts["answer"])
            )
        except (json.JSONDecodeError, ResproutError) as error:
            raise ResproutError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ResproutError(f"{path} holds no items")
    return found


def endings(
    text: str, count: int, choices: int = 4, seed: int = 0, openings: Sequence[str] = OPENINGS, sentences: int = 3
) -> list[Item]:
    """Return items made of stories: `sentences` sentences, and which sentence comes next.

    The wrong ones are sentences of other stories, at random places after their beginning. The same arguments make the same items.

    Args:
        text: of stories (see `perplexity.stories`).
        count: of items, each of another story.
        choices: of each, the true one included.
        seed: of stories, places and orders.
        openings: what stories begin with.
        sentences: of the context.

    Raises:
        ResproutError: too few stories that are long enough.
    """
    if choices < 2 or count < 1 or sentences < 1:
        raise ResproutError(
            f"choices= must be 2 or more, count= and sentences= 1 or more; got {choices}, {count}, {sentences}"
        )
    told = [parts for story in stories(text, openings) if len(parts := _sentences(story)) > sentences]
    if len(told) < max(count, choices):
        raise ResproutError(
            f"the text has {len(told)} stories of more than {sentences} sentences, and {max(count, choices)} are needed"
        )
    chance = torch.Generator().manual_seed(mix(seed, "endings"))
    items = []
    for i in torch.randperm(len(told), generator=chance)[:count].tolist():
        true, wrong = told[i][sentences], []
        for j in torch.randperm(len(told), generator=chance).tolist():
            if j == i or len(wrong) == choices - 1:
                continue
            other = told[j][sentences + _draw(len(told[j]) - sentences, chance)]
            if other not in (true, *wrong):
                wrong.append(other)
        if len(wrong) < choices - 1:
            raise ResproutError(
                "the stories are too much alike: there are not enough different sentences for the choices"
            )
        answer = _draw(choices, chance)
        items.append(Item(" ".join(told[i][:sentences]), (*wrong[:answer], true, *wrong[answer:]), answer))
    return items


def _draw(below: int, chance: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=chance))


def _sentences(story: str) -> list[str]:
    """Split at space after a full stop and its like, with the quotation mark that may follow it, unless what follows goes on."""
    flat = " ".join(story.split())
    return [part for part in re.split(r"""(?:(?<=[.!?])|(?<=[.!?]["'”])) (?![a-z])""", flat) if part]
