"""How well a causal language model predicts a text, under a stated protocol.

Perplexity is exp(nats per token): Jelinek, Mercer, Bahl, Baker, "Perplexity - a measure of the difficulty of speech recognition
tasks", JASA 1977. It depends on the tokenizer and on how much context each token has, so it is only comparable under the same
protocol:

- "windows": the text is tokenised once, as a whole, and cut into windows, each of the opening token `<s>` (where the tokenizer
  has one) and `window - 1` tokens; the last, partial window is dropped. With a `stride` shorter than that, windows overlap, and
  what a window shares with the one before it is context and is not scored again.
- "stories": the text is split at each blank line that is followed by one of `openings`; each piece is tokenised by itself, begins
  with `<s>`, and is cut at the window.

Windows of the published tables of pruned language models (Frantar, Alistarh, arXiv:2301.00774) have no `<s>` each: `bos=None`.

What this file does not do: load models and tokenizers (see `tasks/hub.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError, nearest

OPENINGS = ("Once upon a time", "One day,")
PIECE = 1 << 25  # logits taken to float32 at a time, and about as many asked of the model at once
Progress = Callable[[int, int], None]
Bos = int | Literal["auto"] | None


class Row(NamedTuple):
    """Token ids int64 (length,), and the place, from 1, of the first that is scored; those before are context."""

    ids: Tensor
    first: int = 1


@dataclass(frozen=True)
class Likelihood:
    """What a model says of a text: the nats of all scored tokens, how many they are, and how many were its first choice."""

    nats: float
    tokens: int
    right: int
    protocol: str = ""

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats per token); infinite where that is more than a float holds."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def likelihood(self) -> float:
        """The geometric mean of the probability of the next token, in [0, 1]: 1 / perplexity."""
        return math.exp(-self.loss)

    @property
    def accuracy(self) -> float:
        """The fraction of tokens that were the model's first choice."""
        return self.right / self.tokens

    def metrics(self) -> dict[str, float]:
        """Return all of these by name."""
        names = ("likelihood", "perplexity", "loss", "accuracy")
        return {name: getattr(self, name) for name in names} | {"tokens": float(self.tokens)}


def perplexity(
    model: nn.Module,
    text: str | Path | Tensor,
    tokenizer: Any = None,
    *,
    window: int = 512,
    stride: int | None = None,
    protocol: Literal["windows", "stories"] = "windows",
    openings: Sequence[str] = OPENINGS,
    bos: Bos = "auto",
    batch: int = 16,
    progress: Progress | None = None,
) -> Likelihood:
    """Return how well `model` predicts `text`; its `perplexity` is that of the protocol (see the head of this file).

    Args:
        model: called as model(ids (rows, length)); returns logits (rows, length, vocabulary), or an object with `.logits`.
        text: the text itself, the path of a UTF-8 file, or token ids int64 (tokens,), for which no tokenizer is needed.
        tokenizer: the model's own, of `transformers` or `tokenizers`.
        window: tokens that the model sees at once, `<s>` included.
        stride: tokens by which windows advance; default all of a window, so that they do not overlap.
        protocol: "windows" or "stories".
        openings: of "stories": what a piece begins with.
        bos: the id of `<s>`; "auto" is the tokenizer's, where it puts one itself before a text; None is none.
        batch: rows at once at most; fewer where the vocabulary is large.
        progress: called with (rows done, rows in all).

    Raises:
        ResproutError: an empty text or one shorter than a window, a tokenizer that does not fit, or a loss that is NaN.
    """
    if protocol not in ("windows", "stories"):
        raise nearest(protocol, ("windows", "stories"), "protocol")
    if isinstance(text, Path):
        text = read(text)
    if isinstance(text, Tensor):
        if protocol == "stories":
            raise ResproutError("protocol='stories' splits a text: give the text and its tokenizer, not token ids")
        start, ids = None if bos == "auto" else bos, text
    else:
        start = opening(tokenizer, bos)
        ids = encode(tokenizer, text) if protocol == "windows" else torch.empty(0, dtype=torch.int64)
    head = "" if start is None else "<s> + "
    if protocol == "windows":
        rows = windows(ids, window, stride, start)
        said = (
            f"windows of {head}{window - (start is not None)} tokens, stride {stride or window - (start is not None)}"
        )
    else:
        if stride is not None:
            raise ResproutError("stride= is of protocol='windows'; stories are cut at the window")
        first = [] if start is None else [start]
        pieces = (torch.tensor([*first, *encode(tokenizer, p).tolist()][:window]) for p in stories(str(text), openings))
        rows = [Row(p) for p in pieces if len(p) > 1]
        if not rows:
            raise ResproutError("the text holds no story of two tokens")
        said = f"{len(rows)} stories, {head}piece, cut at {window} tokens"
    scores, right = likelihoods(model, rows, batch, progress)
    return total(scores, right, rows, said)


def total(scores: Tensor, right: Tensor, rows: Sequence[Row], protocol: str = "") -> Likelihood:
    """Return the sum over rows of what `likelihoods` found.

    Raises:
        ResproutError: it is NaN.
    """
    nats = -float(scores.sum())
    if math.isnan(nats):
        raise ResproutError("the model's loss on the text is NaN: check its weights, or evaluate in float32")
    return Likelihood(nats, sum(len(r.ids) - r.first for r in rows), int(right.sum()), protocol)


def read(path: Path) -> str:
    """Return a UTF-8 text.

    Raises:
        ResproutError: no such file, or no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResproutError(f"{path} cannot be read as UTF-8 text: {error}") from error


def encode(tokenizer: Any, text: str) -> Tensor:
    """Return the token ids int64 (tokens,) of a text, without `<s>` and its like.

    Raises:
        ResproutError: something that is no tokenizer, or a text without a token.
    """
    if not hasattr(tokenizer, "encode") or isinstance(tokenizer, str):
        raise ResproutError(
            f"tokenizer= must be the model's tokenizer, got {tokenizer!r}; load it: AutoTokenizer.from_pretrained(FOLDER)"
        )
    quiet = {"verbose": False} if hasattr(tokenizer, "model_max_length") else {}  # a whole file is longer than a window
    found = tokenizer.encode(text, add_special_tokens=False, **quiet)
    ids = torch.tensor(getattr(found, "ids", found), dtype=torch.int64)
    if len(ids) == 0:
        raise ResproutError("the text is empty: the tokenizer finds no token in it")
    return ids


def opening(tokenizer: Any, bos: Bos = "auto") -> int | None:
    """Return the id that rows begin with: `bos` itself, or with "auto" that of `<s>` where the tokenizer puts one itself."""
    if bos != "auto":
        return bos
    own = getattr(tokenizer, "bos_token_id", None)
    return own if own is not None and tokenizer.encode("a")[0] == own else None


def windows(ids: Tensor, window: int, stride: int | None = None, bos: int | None = None) -> list[Row]:
    """Cut token ids (tokens,) into windows; a partial one at the end is dropped.

    Raises:
        ResproutError: ids of another form, fewer than one window, or an impossible window or stride.
    """
    if ids.dim() != 1 or ids.dtype != torch.int64:
        raise ResproutError(f"token ids are int64 (tokens,), got {ids.dtype} {tuple(ids.shape)}")
    step = window - (bos is not None)
    if window < 2:
        raise ResproutError(f"window must be 2 or more tokens, got {window}")
    stride = step if stride is None else stride
    if not 1 <= stride <= step:
        raise ResproutError(f"stride must be from 1 to {step} with window={window}, got {stride}")
    if len(ids) < step:
        raise ResproutError(f"the text has {len(ids):,} tokens, and one window takes {step:,}; give a smaller window=")
    head = ids.new_tensor([] if bos is None else [bos])
    starts = range(0, len(ids) - step + 1, stride)
    return [Row(torch.cat([head, ids[at : at + step]]), max(1, window - stride) if at else 1) for at in starts]


def stories(text: str, openings: Sequence[str] = OPENINGS) -> list[str]:
    """Split a text at each blank line that is followed by one of `openings`; pieces are stripped of space at their ends.

    Raises:
        ResproutError: no opening.
    """
    if isinstance(openings, str) or not openings or not all(openings):
        raise ResproutError("openings= is a list of the words that stories begin with")
    begins = "|".join(map(re.escape, openings))
    return [piece.strip() for piece in re.split(rf"\n\s*\n(?={begins})", text) if piece.strip()]


def logits_of(out: Any) -> Tensor:
    """Return the logits of what a model returned: a tensor, an object with `.logits`, or a tuple that begins with them.

    Raises:
        ResproutError: none of these.
    """
    found = getattr(out, "logits", out[0] if isinstance(out, tuple) and out else out)
    if not isinstance(found, Tensor):
        raise ResproutError(f"the model must return logits, or an object with .logits; got {type(out).__name__}")
    return found


@torch.no_grad()
def likelihoods(
    model: nn.Module, rows: Sequence[Row], batch: int = 16, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood of each row's scored tokens, float64 (rows,), and how many were first choices, int64 (rows,).

    Rows of all lengths go together, padded on the right, where a causal model does not see it. Logits of any type are taken to
    float32 a piece at a time; not more than `batch` rows, nor many more than `PIECE` logits, are asked for at once.

    Raises:
        ResproutError: a row longer than the model can take, ids that it does not know, or other than logits.
    """
    if batch < 1:
        raise ResproutError(f"batch must be 1 or more, got {batch}")
    longest = max((len(r.ids) for r in rows), default=0)
    _check(model, rows, longest)
    device, modes = next(model.parameters()).device, [(m, m.training) for m in model.modules()]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))  # what needs most memory comes first
    scores, right = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.int64)
    model.eval()
    try:
        done, size = 0, 1  # one row tells how large the vocabulary is
        while done < len(order):
            chosen = order[done : done + size]
            out = _call(model, [rows[i].ids for i in chosen], device)
            for i, logits in zip(chosen, out, strict=True):
                ids, first = rows[i]
                scores[i], right[i] = _score(logits[first - 1 : len(ids) - 1], ids[first:].to(device))
            done += len(chosen)
            size = max(1, min(batch, PIECE // out[0].numel()))
            if progress is not None:
                progress(done, len(order))
    finally:
        for module, mode in modes:
            module.training = mode
    return scores, right


def _check(model: nn.Module, rows: Sequence[Row], longest: int) -> None:
    """Refuse what a model would answer with nonsense, or with an error of the device."""
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < longest:
        raise ResproutError(f"the model was made for {most:,} tokens, and a row has {longest:,}: give window={most}")
    ask = getattr(model, "get_input_embeddings", None)
    known = getattr(ask() if callable(ask) else None, "num_embeddings", None)
    top = max((int(r.ids.max()) for r in rows), default=-1)
    if isinstance(known, int) and top >= known:
        raise ResproutError(
            f"the model knows {known:,} tokens, and the text has token {top}: is it another's tokenizer?"
        )


def _call(model: nn.Module, ids: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the logits (rows, longest, vocabulary) of rows of any length."""
    padded = nn.utils.rnn.pad_sequence(list(ids), batch_first=True)
    try:
        out = logits_of(model(padded.to(device)))
    except IndexError as error:
        top = int(padded.max())
        raise ResproutError(
            f"the model cannot take the text (highest token {top}): {error}; is it its tokenizer?"
        ) from error
    if out.dim() != 3 or out.shape[:2] != padded.shape or out.shape[2] <= int(padded.max()):
        raise ResproutError(
            f"logits of ids {tuple(padded.shape)} are (rows, length, vocabulary), got {tuple(out.shape)} with highest token "
            f"{int(padded.max())}: is it a language model, and its tokenizer?"
        )
    return out


def _score(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of log-probabilities of `ids` (tokens,) under logits (tokens, vocabulary), and how many are the largest."""
    score, right = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    size = max(1, PIECE // logits.shape[1])
    for part, wanted in zip(logits.split(size), ids.split(size), strict=True):
        values = part.float()
        found = values.gather(1, wanted[:, None])[:, 0] - values.logsumexp(1)
        score += found.double().sum().cpu()
        right += (values.argmax(1) == wanted).sum().cpu()
    return score, right
