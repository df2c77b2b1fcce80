"""`rs.regrow` in rounds."""

import copy

import pytest
import torch
from torch import nn

import resprout as rs


def start() -> tuple[nn.Module, rs.Masks, dict]:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    data = [(torch.randn(32, 8), torch.randint(4, (32,))) for _ in range(2)]
    given = {"data": data, "loss": lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), "anchor": dense}
    cut = copy.deepcopy(dense)
    return cut, rs.prune(cut, 0.9), given | {"fill": "anchor"}


def test_scores_of_the_dense_network_say_the_same_in_every_round():
    cut, masks, given = start()
    found = [rs.regrow(copy.deepcopy(cut), masks, 0.3, score="saliency", rounds=r, **given) for r in (1, 5)]
    assert found[0] == found[1]


def test_scores_of_the_sparse_network_are_taken_anew():
    cut, masks, given = start()
    once, often, by_hand = (copy.deepcopy(cut) for _ in range(3))
    first = rs.regrow(once, masks, 0.3, score="newton_gain", **given)
    found = rs.regrow(often, masks, 0.3, score="newton_gain", rounds=3, **given)
    assert found.sparsity == first.sparsity
    assert found != first
    assert masks <= found
    total, step = masks.total, masks
    for r in (1, 2, 3):
        alive = masks.alive + (first.alive - masks.alive) * r // 3
        step = rs.regrow(by_hand, step, 1 - alive / total, score="newton_gain", **given)
    assert step == found
    assert all(torch.equal(a, b) for a, b in zip(by_hand.parameters(), often.parameters(), strict=True))


def test_no_round_is_refused():
    cut, masks, given = start()
    with pytest.raises(rs.ResproutError, match="rounds must be 1 or more, got 0"):
        rs.regrow(cut, masks, 0.3, rounds=0, **given)
