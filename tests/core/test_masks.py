"""Masks as values, and which parameters they are for."""

import pytest
import torch
from torch import nn

from resprout.core.errors import ResproutError
from resprout.core.masks import Masks, keep_count, prunable


def masks(*rows):
    return Masks({"ab"[i]: torch.tensor(r, dtype=torch.bool) for i, r in enumerate(rows)})


A, B = masks([1, 1, 0], [0, 1]), masks([1, 0, 0], [0, 1])


def test_algebra():
    cases = [(A & B, B), (A | B, A), (A - B, masks([0, 1, 0], [0, 0])), (~A, masks([0, 0, 1], [1, 0]))]
    assert all(found == expected for found, expected in cases)
    assert B <= A
    assert not A <= B
    assert A not in (B, "masks")


def test_counts():
    assert A.counts == {"a": 2, "b": 1}
    assert A.sizes == {"a": 3, "b": 2}
    assert (A.alive, A.total, A.density) == (3, 5, 0.6)
    assert A.sparsity == pytest.approx(0.4)
    A.counts["a"] = 99  # a copy: the value stays what it is
    assert A.alive == 3
    assert "3 of 5 alive" in repr(A)


def test_digest_tells_bits_shapes_and_names_apart():
    assert A.digest() == masks([1, 1, 0], [0, 1]).digest()
    others = [B, Masks({"a": A["a"], "c": A["b"]}), Masks({"a": A["a"].view(3, 1), "b": A["b"]})]
    assert len({A.digest(), *(o.digest() for o in others)}) == 4


def test_refusals():
    with pytest.raises(ResproutError, match="must be a bool tensor"):
        Masks({"a": torch.ones(3)})
    with pytest.raises(ResproutError, match="different models"):
        A & masks([1, 1])
    with pytest.raises(ResproutError, match="different models: b"):
        A & masks([1, 1, 0], [0, 1, 1])


def test_conv_and_linear_weights_by_default(tiny):
    assert list(prunable(tiny)) == ["0.weight", "4.weight", "6.weight"]
    assert Masks.dense(tiny).sizes == {"0.weight": 72, "4.weight": 128, "6.weight": 48}
    with torch.no_grad():
        tiny[6].weight[0] = 0
    assert Masks.of(tiny).counts["6.weight"] == 40


@pytest.mark.parametrize(
    ("targets", "ignore", "found"),
    [
        (["4"], [], ["4.weight"]),
        (["4.weight", "6"], [], ["4.weight", "6.weight"]),
        (["*.weight"], ["0"], ["4.weight", "6.weight"]),
        (["re:^[46]"], [], ["4.weight", "6.weight"]),
        (None, ["re:0"], ["4.weight", "6.weight"]),
    ],
)
def test_patterns(tiny, targets, ignore, found):
    assert list(prunable(tiny, targets, ignore)) == found


def test_pattern_errors(tiny):
    with pytest.raises(ResproutError, match=r"did you mean '4.weight'"):
        prunable(tiny, ["4.wieght"])
    with pytest.raises(ResproutError, match="lists of names"):
        prunable(tiny, "4.weight")
    with pytest.raises(ResproutError, match="nothing to prune in Sequential"):
        prunable(tiny, None, ["*"])
    with pytest.raises(ResproutError, match="nothing to prune in ReLU"):
        prunable(nn.ReLU())


def test_shared_weight_is_listed_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(prunable(model)) == ["0.weight"]


def test_keep_count():
    assert [keep_count(s, 7) for s in (0.0, 0.5, 1.0)] == [7, 3, 0]
    assert keep_count(0.98, 268_336) == 5_367
