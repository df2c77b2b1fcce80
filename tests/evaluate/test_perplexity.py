"""Perplexity: by hand on a table of probabilities, against a plain loop over transformers, and figures of the data's README."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.evaluate import perplexity as module
from resprout.evaluate.perplexity import Likelihood, Row, likelihoods, opening, stories, total, windows


class Bigrams(nn.Module):
    """A causal model: the logits of the next token are a row of a table."""

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]


@pytest.fixture
def bigrams() -> Bigrams:
    return Bigrams(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))


def ids(n: int, top: int = 7) -> torch.Tensor:
    return torch.randint(top, (n,), generator=torch.Generator().manual_seed(1))


def test_by_hand():
    table = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5]]).log()
    found = rs.perplexity(Bigrams(table), torch.tensor([0, 1, 1, 2, 0]), window=5)
    nats = -sum(map(math.log, (0.25, 0.75, 0.125, 0.25)))
    assert (found.tokens, found.right) == (4, 1)
    assert found.nats == pytest.approx(nats, abs=1e-6)
    assert found.perplexity == pytest.approx(math.exp(nats / 4), abs=1e-6)
    assert found.likelihood == pytest.approx(1 / found.perplexity)
    assert found.accuracy == 0.25
    assert found.metrics()["loss"] == found.loss
    assert found.protocol == "windows of 5 tokens, stride 5"


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary():
    found = rs.perplexity(Bigrams(torch.zeros(7, 7)), ids(100), window=10)
    assert found.perplexity == pytest.approx(7, rel=1e-6)
    assert found.tokens == 10 * 9


def test_windows_by_hand():
    text = torch.arange(10)
    assert [(r.ids.tolist(), r.first) for r in windows(text, 4, None, 99)] == [
        ([99, 0, 1, 2], 1),
        ([99, 3, 4, 5], 1),
        ([99, 6, 7, 8], 1),
    ]
    assert [(r.ids.tolist(), r.first) for r in windows(text, 4)] == [([0, 1, 2, 3], 1), ([4, 5, 6, 7], 1)]
    assert [(r.ids.tolist(), r.first) for r in windows(text, 5, 2, 99)][:3] == [
        ([99, 0, 1, 2, 3], 1),
        ([99, 2, 3, 4, 5], 3),
        ([99, 4, 5, 6, 7], 3),
    ]


@pytest.mark.parametrize("bos", [None, 3])
@pytest.mark.parametrize("stride", [1, 2, 5, 7])
def test_every_token_is_scored_once_whatever_the_stride(bigrams, bos, stride):
    """A table sees one token back, so context does not matter: strides differ only in the tokens they reach."""
    rows = windows(ids(60), 9, stride, bos)
    scored = [rows[0].ids[1:].tolist(), *(r.ids[r.first :].tolist() for r in rows[1:])]
    reached = [*([] if bos is None else [bos]), *ids(60).tolist()]
    flat = [t for part in scored for t in part]
    assert flat == reached[1 : len(flat) + 1]
    found = total(*likelihoods(bigrams, rows), rows)
    table = bigrams.table.detach().log_softmax(1)
    by_hand = -sum(float(table[a, b]) for a, b in zip(reached, flat, strict=False))
    assert found.nats == pytest.approx(by_hand, rel=1e-6)


def test_rows_of_all_lengths_go_together(bigrams):
    rows = [Row(ids(n), first) for n, first in ((5, 1), (2, 1), (9, 4), (9, 8), (3, 2))]
    together = likelihoods(bigrams, rows)
    for batch in (1, 2):
        alone = likelihoods(bigrams, rows, batch)
        assert torch.allclose(together[0], alone[0], atol=1e-6)
        assert torch.equal(together[1], alone[1])


def test_pieces_of_logits_are_the_whole(bigrams, monkeypatch):
    whole = rs.perplexity(bigrams, ids(200), window=20)
    seen: list[torch.Size] = []
    bigrams.register_forward_hook(lambda m, x, out: seen.append(out.shape))
    monkeypatch.setattr(module, "PIECE", 20 * 7 * 2)
    assert rs.perplexity(bigrams, ids(200), window=20).nats == pytest.approx(whole.nats, rel=1e-7)
    assert max(s.numel() for s in seen) == 20 * 7 * 2
    monkeypatch.setattr(module, "PIECE", 7 * 3)
    assert rs.perplexity(bigrams, ids(200), window=20).nats == pytest.approx(whole.nats, rel=1e-7)


def test_bfloat16_logits_are_summed_in_float32():
    table = torch.zeros(2, 4096, dtype=torch.bfloat16)  # in bfloat16 the normaliser, log 4096 = 8.3178, would be 8.3125
    found = likelihoods(Bigrams(table), [Row(torch.tensor([0, 1, 0]))])[0]
    assert float(found) == pytest.approx(-2 * math.log(4096), abs=1e-5)


def test_the_model_is_left_as_it_was_and_progress_is_told(bigrams):
    bigrams.train()
    told: list[tuple[int, int]] = []
    rs.perplexity(bigrams, ids(100), window=10, batch=4, progress=lambda done, of: told.append((done, of)))
    assert bigrams.training
    assert told == [(1, 10), (5, 10), (9, 10), (10, 10)]
    assert bigrams.table.grad is None


def test_stories_are_split_at_their_openings():
    text = "Once upon a time A.\n\nStill A.\n\nOne day, B.\n\n\nOnce upon a time C.\nOne day, still C.\n"
    assert stories(text) == [
        "Once upon a time A.\n\nStill A.",
        "One day, B.",
        "Once upon a time C.\nOne day, still C.",
    ]
    assert stories("a.\n\nA+b\n\nA+c", ["A+"]) == ["a.", "A+b", "A+c"]


def test_infinite_loss_is_a_likelihood_of_zero():
    assert Likelihood(1e6, 10, 0).perplexity == math.inf
    assert Likelihood(1e6, 10, 0).likelihood == 0


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"text": torch.tensor([], dtype=torch.int64)}, "0 tokens, and one window takes"),
        ({"text": ids(5)}, "5 tokens, and one window takes 512"),
        ({"text": ids(50).float()}, "int64"),
        ({"text": ids(50).view(5, 10)}, "int64"),
        ({"window": 1}, "window must be 2"),
        ({"window": 10, "stride": 11}, "stride must be from 1 to 10"),
        ({"window": 10, "stride": 0}, "stride must be from 1"),
        ({"window": 10, "batch": 0}, "batch"),
        ({"protocol": "windoes"}, "did you mean 'windows'"),
        ({"protocol": "stories"}, "not token ids"),
        ({"text": "a text"}, "AutoTokenizer"),
        ({"text": "a text", "tokenizer": "folder"}, "AutoTokenizer"),
        ({"text": Path("/nowhere.txt")}, "cannot be read"),
        ({"text": ids(50, 9) + 5, "window": 10}, "tokenizer"),
    ],
)
def test_bad_input_is_named(bigrams, given, match):
    with pytest.raises(ResproutError, match=match):
        rs.perplexity(bigrams, **({"text": ids(50)} | given))


def test_bad_models_and_files_are_named(bigrams, tmp_path):
    with torch.no_grad():
        bigrams.table[3] = torch.nan
    with pytest.raises(ResproutError, match="NaN"):
        rs.perplexity(bigrams, ids(50), window=10)
    with pytest.raises(ResproutError, match="language model"):
        rs.perplexity(nn.Sequential(nn.Embedding(7, 3), nn.Flatten()), ids(50), window=10)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ResproutError, match="UTF-8"):
        rs.perplexity(bigrams, tmp_path / "latin.txt", None)


@pytest.fixture(scope="session")
def storyteller(data_dir):
    transformers = pytest.importorskip("transformers")
    folder = data_dir / "stories260k"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.data
def test_windows_are_those_of_a_plain_loop(storyteller, data_dir):
    model, tokenizer = storyteller
    text = (data_dir / "tinystories" / "validation.txt").read_text()[:3000]
    tokens, nats, right, n = tokenizer(text, add_special_tokens=False).input_ids, 0.0, 0, 0
    for at in range(0, len(tokens) - 127 + 1, 127):
        window = torch.tensor([[1, *tokens[at : at + 127]]])
        with torch.no_grad():
            logits = model(window).logits[0]
        for place in range(1, 128):
            nats -= float(logits[place - 1].log_softmax(0)[window[0, place]])
            right += int(logits[place - 1].argmax() == window[0, place])
            n += 1
    found = rs.perplexity(model, text, tokenizer, window=128)
    assert (found.tokens, found.right) == (n, right)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.protocol == "windows of <s> + 127 tokens, stride 127"
    longer = rs.perplexity(model, text, tokenizer, window=128, stride=32)
    assert longer.loss < found.loss  # more context
    half = rs.perplexity(copy.deepcopy(model).bfloat16(), text, tokenizer, window=128)
    assert half.loss == pytest.approx(found.loss, rel=5e-3)


@pytest.mark.data
def test_stories_are_those_of_a_plain_loop(storyteller, data_dir):
    model, tokenizer = storyteller
    text = (data_dir / "tinystories" / "validation.txt").read_text()[:3000]
    nats, n = 0.0, 0
    for piece in (
        text.replace("\n\nOne day,", "\n\n@One day,").replace("\n\nOnce upon", "\n\n@Once upon").split("\n\n@")
    ):
        row = torch.tensor([tokenizer(piece.strip()).input_ids[:200]])
        with torch.no_grad():
            nats += float(model(row, labels=row).loss) * (row.shape[1] - 1)
        n += row.shape[1] - 1
    found = rs.perplexity(model, text, tokenizer, window=200, protocol="stories")
    assert found.tokens == n
    assert found.nats == pytest.approx(nats, rel=1e-5)


@pytest.mark.data
def test_what_the_model_cannot_take_is_refused(storyteller, data_dir):
    model, tokenizer = storyteller
    assert opening(tokenizer) == 1
    with pytest.raises(ResproutError, match="give window=512"):
        rs.perplexity(model, ids(2000, 500), window=600)
    with pytest.raises(ResproutError, match="knows 512 tokens"):
        rs.perplexity(model, ids(2000, 700))
    with pytest.raises(ResproutError, match="empty"):
        rs.perplexity(model, "", tokenizer)
    with pytest.raises(ResproutError, match="stride= is of"):
        rs.perplexity(model, "Once upon a time", tokenizer, protocol="stories", stride=3)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "protocol", "tokens", "loss", "perplexity"),
    [
        ("tinystories/validation.txt", "windows", 392_959, 1.6719, 5.322),
        ("tinystories/validation.txt", "stories", 306_236, 1.5010, 4.486),
        ("tinystories/train-sample.txt", "windows", 476_763, 1.7418, 5.707),
        ("wikitext-2/test.txt", "windows", 761_901, 5.2686, 194.14),
    ],
)
def test_the_figures_of_the_readme_are_reproduced(storyteller, data_dir, file, protocol, tokens, loss, perplexity):
    model, tokenizer = storyteller
    found = rs.perplexity(model, data_dir / file, tokenizer, protocol=protocol)
    assert found.tokens == tokens
    assert found.loss == pytest.approx(loss, abs=6e-5)
    assert found.perplexity == pytest.approx(perplexity, rel=1e-4)
