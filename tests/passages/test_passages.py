"""Retrieval metrics, the test of equivalence, qualities of passages, and Cranfield with noise planted in it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from resprout import ResproutError
from resprout.evaluate.membership import attacked
from resprout.passages._kind import kept
from resprout.passages.bm25 import Index
from resprout.passages.cdd import Cdd
from resprout.passages.collection import Collection, read, words
from resprout.passages.fluency import Fluency
from resprout.passages.itn import Itn
from resprout.passages.metrics import equivalence, ndcg, recall, reciprocal_rank
from resprout.passages.quality_head import QualityHead
from resprout.passages.random import Random

SMALL = Collection(
    ["the wing lifts", "the wing of the wing", "", "heat in a slab of steel"], {"q": "wing lift"}, {"q": {0: 3, 1: 1}}
)  # fmt: skip


@pytest.fixture(scope="module")
def cranfield(data_dir) -> Collection:
    return read(data_dir / "cranfield", "cranfield")


def test_metrics_by_hand():
    grades = {7: 3, 8: 1}
    assert ndcg([8, 5, 7], grades) == pytest.approx((1 + 3 / 2) / (3 + 1 / math.log2(3)))
    assert ndcg([7, 8], grades) == 1
    assert reciprocal_rank([5, 8, 7], grades) == 0.5
    assert reciprocal_rank([5] * 10 + [7], grades) == 0
    assert recall([5, 8], grades) == 0.5


def test_bm25_by_hand():
    index = Index([["a", "b"], ["a", "a", "c", "c"], ["d"]], k1=1.2, b=0.75)
    assert index.search(["c"]) == [1]
    assert index.search(["a"]) == [1, 0]  # twice in the longer one
    assert index.search(["nowhere"]) == []
    assert index.entries == 5
    mean, idf = 7 / 3, math.log(1 + 1.5 / 2.5)
    rows, weights = index._postings["a"]
    assert rows.tolist() == [0, 1]
    assert weights.tolist() == pytest.approx(
        [idf * 1 / (1 + 1.2 * (0.25 + 0.75 * 2 / mean)), idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 4 / mean))]
    )
    half = Index([["a", "b"], ["a", "a", "c", "c"], ["d"]], np.array([True, False, True]))
    assert half.search(["a", "c", "d"]) == [2, 0]


def test_equivalence_agrees_with_scipy():
    chance = np.random.default_rng(0)
    theirs = chance.random(60)
    ours = theirs + chance.normal(0.004, 0.05, 60)
    lower = stats.ttest_1samp(ours - theirs, -0.03, alternative="greater").pvalue
    upper = stats.ttest_1samp(ours - theirs, 0.03, alternative="less").pvalue
    assert equivalence(ours, theirs, 0.03) == pytest.approx(max(lower, upper), rel=1e-9)
    assert equivalence(theirs, theirs, 0.05 * theirs.mean()) < 0.05
    assert equivalence(theirs * 0.9, theirs, 0.05 * theirs.mean()) > 0.5
    with pytest.raises(ResproutError, match="bound"):
        equivalence(ours, theirs, 0.0)


def test_qualities_by_hand():
    assert Itn()(SMALL).tolist() == pytest.approx([1.0, 0.6, 0.0, 1.0])
    alike = Collection(["a b a b", "a b", "c c c c"], {}, {})
    scores = Cdd(smooth=0.5)(alike)
    assert scores[0] == pytest.approx(scores[1])
    assert scores[0] > scores[2]
    p, q = np.array([0.3, 0.3, 0.4]), 0.5 * np.array([0.5, 0.5, 0]) + 0.5 * np.array([0.3, 0.3, 0.4])
    assert scores[0] == pytest.approx(-float((p * np.log(p / q)).sum()))
    fluent = Fluency()(Collection(["the wing of a plane"] * 3 + ["plane a of wing the"], {}, {}))
    assert fluent[0] > fluent[3]
    for quality in (Itn(), Cdd(), Fluency(), Random(), QualityHead()):
        found = quality(SMALL)
        assert found.shape == (4,)
        assert np.isfinite(found).all()
        assert found.argmin() == 2 or isinstance(quality, Random | QualityHead)


def test_the_cut_is_exact():
    assert kept(np.array([3.0, 1.0, 2.0, 2.0]), 0.5).tolist() == [True, False, True, False]
    assert kept(np.array([3.0, 1.0, 2.0]), 0.0).all()
    with pytest.raises(ResproutError, match="share"):
        kept(np.array([1.0]), 1.0)


def test_numbers_that_are_none_are_refused():
    for wrong, says in (
        (lambda: kept(np.array([]), 0.5), "no passages"),
        (lambda: kept(np.array([1.0, math.nan]), 0.5), "NaN"),
        (lambda: equivalence([0.1, math.nan], [0.1, 0.2], 0.05), "finite"),
        (lambda: equivalence([0.1, 0.2, 0.3], [0.1, 0.2], 0.05), "pairs"),
        (lambda: equivalence([0.1, 0.2], 0.1, 0.05), "pairs"),
        (lambda: equivalence([0.1, 0.2], [0.1, 0.2], math.nan), "bound"),
        (lambda: SMALL.with_spam(1.0), "share"),
        (lambda: Collection(["too short"], {}, {}).with_spam(0.5), "20 words"),
        (lambda: Cdd(smooth=0.0)(SMALL), "smooth"),
        (lambda: Cdd(smooth=math.nan)(SMALL), "smooth"),
        (lambda: Fluency(backoff=0.0)(SMALL), "backoff"),
    ):
        with pytest.raises(ResproutError, match=says):
            wrong()


def test_passages_without_a_word_are_worth_something_finite():
    empty = Collection(["", "..."], {}, {})
    for quality in (Itn(), Cdd(), Fluency(), Random()):
        assert np.isfinite(quality(empty)).all()


def test_files_that_are_no_collection(tmp_path):
    (tmp_path / "qrels").mkdir()
    files = {
        "corpus.jsonl": '{"_id": "1", "text": "the wing"}\n{"_id": "2", "title": "heat", "text": "in a slab"}\n',
        "queries.jsonl": '{"_id": "q", "text": "wing"}\n',
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\t1\t2\n\n",
    }

    def write(**changed: str) -> None:
        for name, text in (files | changed).items():
            (tmp_path / name).write_text(text)

    write()
    found = read(tmp_path)
    assert found.passages == ["the wing", "heat in a slab"]
    assert found.judgements == {"q": {0: 2}}
    for wrong in (
        {"corpus.jsonl": files["corpus.jsonl"][:-20]},
        {"corpus.jsonl": "7\n"},
        {"corpus.jsonl": '["1", "the wing"]\n'},
        {"corpus.jsonl": '{"_id": "1", "text": null}\n'},
        {"queries.jsonl": '{"text": "wing"}\n'},
        {"qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\t1\n"},
        {"qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\t3\t2\n"},
    ):
        write(**wrong)
        with pytest.raises(ResproutError, match="holds no collection"):
            read(tmp_path)
    write()
    with pytest.raises(ResproutError, match="codes"):
        read(tmp_path, "beir")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ResproutError, match="holds no collection"):
        read(tmp_path / "nowhere")


@pytest.mark.data
def test_cranfield_is_read_with_grades_that_rise(cranfield):
    assert len(cranfield.passages) == 1400
    assert len(cranfield.queries) == 225
    grades = [g for found in cranfield.judgements.values() for g in found.values()]
    assert [grades.count(g) for g in (1, 2, 3, 4)] == [363, 734, 387, 128]


@pytest.mark.data
def test_planted_noise_is_found_and_dropped_without_loss(cranfield):
    mixed, noise = cranfield.with_spam(0.3)
    assert len(noise) / len(mixed.passages) == pytest.approx(0.3, abs=0.001)
    names = list(mixed.queries)
    scores = QualityHead()(mixed.among(names[::2]))
    spam = np.zeros(len(mixed.passages), dtype=bool)
    spam[noise] = True
    assert attacked(torch.from_numpy(scores[~spam]), torch.from_numpy(scores[spam])).auc > 0.95
    held = [q for q in names[1::2] if q in mixed.judgements]

    def values(keep=None) -> list[float]:
        index = Index(mixed.tokens, keep)
        return [ndcg(index.search(words(mixed.queries[q])), mixed.judgements[q]) for q in held]

    full, clean, pruned = values(), values(~spam), values(kept(scores, 0.25))
    assert np.mean(pruned) > np.mean(full) > 0.3  # less noise among the first ten
    assert equivalence(pruned, clean, 0.05 * float(np.mean(clean))) < 0.05
