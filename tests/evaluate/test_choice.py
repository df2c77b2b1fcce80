"""Multiple choice: by hand on a table of probabilities, one at a time against batches, and items made of real stories."""

import json
import math

import pytest
import torch
from torch import nn

from resprout.core.errors import ResproutError
from resprout.evaluate.choice import Item, choose, endings, read_items

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["[UNK]", "a", "b", "cc", "d"]


class Bigrams(nn.Module):
    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]


@pytest.fixture
def words():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


def test_by_hand(words):
    p = torch.full((5, 5), 0.1)
    p[1] = torch.tensor([0.05, 0.05, 0.5, 0.3, 0.1])  # after a
    p[3] = torch.tensor([0.01, 0.01, 0.01, 0.01, 0.96])  # after cc
    item = Item("b a", ("b", "cc d"), 1)
    found = choose(Bigrams(p.log()), [item], words)
    assert found.scores[0] == pytest.approx((math.log(0.5), math.log(0.3 * 0.96)), abs=1e-5)
    assert found.tokens == ((1, 2),)
    assert found.accuracy == 0  # 0.5 > 0.288
    assert found.accuracy_per_token == 1  # 0.5 < 0.288 ** (1 / 2)
    assert found.accuracy_per_byte == 1  # 0.5 < 0.288 ** (1 / 4)
    assert found.chance == 0.5
    assert found.cut == 0


def test_space_between_context_and_choice_is_there_once(words):
    model = Bigrams(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    ways = [Item("a", ("b", "d"), 0), Item("a ", ("b", "d"), 0), Item("a", (" b", " d"), 0)]
    found = choose(model, ways, words)
    assert found.scores[0] == found.scores[1] == found.scores[2]


def test_a_context_that_does_not_fit_loses_its_beginning(words):
    model = Bigrams(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    long, short = Item("b d " * 10 + "a", ("b cc", "d"), 0), Item("d a", ("b cc", "d"), 0)
    assert choose(model, [long], words, window=4).cut == 1
    assert choose(model, [long], words, window=4).scores == choose(model, [short], words).scores
    with pytest.raises(ResproutError, match="window=2"):
        choose(model, [long], words, window=2)


def test_bad_items_are_named(words, tmp_path):
    model = Bigrams(torch.zeros(5, 5))
    with pytest.raises(ResproutError, match="no items"):
        choose(model, [], words)
    with pytest.raises(ResproutError, match="no context"):
        choose(model, [Item("", ("a", "b"), 0)], words)
    assert choose(model, [Item("", ("a", "b"), 0)], words, bos=4).accuracy == 1
    for wrong, match in (
        (("c", ("a",), 0), "two or more"),
        (("c", ("a", " "), 0), "none empty"),
        (("c", ("a", "a"), 0), "the same"),
        (("c", ("a", "b"), 2), "from 0 to 1"),
        (("c", ("a", "b"), True), "from 0 to 1"),
        (("c", "ab", 0), "tuple"),
        ((None, ("a", "b"), 0), "text"),
    ):
        with pytest.raises(ResproutError, match=match):
            Item(*wrong)  # pyright: ignore
    file = tmp_path / "items.jsonl"
    good = json.dumps({"context": "a", "choices": ["b", "d"], "answer": 1})
    file.write_text(f"{good}\n\n{good}\n")
    assert read_items(file) == [Item("a", ("b", "d"), 1)] * 2
    for line, match in (
        ('{"context": "a"', "line 2: .*delimiter"),
        ("[1]", "line 2: an item is an object"),
        ('{"context": "a", "answer": 1}', "'choices'"),
        ('{"context": "a", "choices": "ab", "answer": 1}', "line 2: .*tuple"),
        ('{"context": "a", "choices": ["b", "d"], "answer": "1"}', "line 2: answer"),
    ):
        file.write_text(f"{good}\n{line}\n")
        with pytest.raises(ResproutError, match=match):
            read_items(file)
    file.write_text("\n")
    with pytest.raises(ResproutError, match="no items"):
        read_items(file)
    with torch.no_grad():
        model.table[1] = torch.nan
    with pytest.raises(ResproutError, match="NaN"):
        choose(model, [Item("a", ("b", "d"), 0)], words)


TALE = 'Once upon a time {0} ran. "Hi!" said {0}. Then {0} ate. Then {0} slept? At last {0} woke.'


def test_endings_by_hand():
    text = "\n\n".join(TALE.format(name) for name in ("Ann", "Bob", "Cid", "Dan", "Eva"))
    items = endings(text, 5, choices=3, seed=1)
    assert items == endings(text, 5, choices=3, seed=1)
    assert items != endings(text, 5, choices=3, seed=2)
    assert sorted(i.context for i in items) == sorted(map(_context, ("Ann", "Bob", "Cid", "Dan", "Eva")))
    for item in items:
        name = item.context.split()[4]
        assert [name in c for c in item.choices] == [j == item.answer for j in range(3)]
    with pytest.raises(ResproutError, match="5 stories of more than 3 sentences, and 6"):
        endings(text, 6)
    with pytest.raises(ResproutError, match="choices="):
        endings(text, 2, choices=1)
    with pytest.raises(ResproutError, match="too much alike"):
        endings("\n\n".join([TALE.format("Ann")] * 5), 3, sentences=4)


def _context(name: str) -> str:
    return TALE.format(name).split(" Then " + name + " slept")[0]


@pytest.mark.data
def test_batches_with_padding_are_the_same_as_one_at_a_time_on_real_stories(data_dir):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(data_dir / "stories260k", use_safetensors=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data_dir / "stories260k")
    items = endings((data_dir / "tinystories" / "validation.txt").read_text(), 24)
    together = choose(model, items, tokenizer)
    for number, item in enumerate(items):
        alone = choose(model, [item], tokenizer, batch=1)
        assert together.scores[number] == pytest.approx(alone.scores[0], abs=1e-5 * max(map(abs, alone.scores[0])))
        assert together.tokens[number] == alone.tokens[0]
    first, choice = items[0], items[0].choices[2]  # and the same as transformers' own loss on the continuation
    ids = torch.tensor([tokenizer(f"{first.context} {choice}").input_ids])
    labels = ids.clone()
    labels[:, : len(tokenizer(first.context).input_ids)] = -100
    with torch.no_grad():
        loss = float(model(ids, labels=labels).loss)
    assert together.scores[0][2] == pytest.approx(-loss * int((labels >= 0).sum()), rel=1e-5)
    assert together.accuracy_per_token > 0.4 > together.chance
