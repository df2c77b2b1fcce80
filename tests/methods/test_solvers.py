"""SparseGPT by hand, and Wanda on a layer whose inputs differ in size."""

import pytest
import torch
from torch import nn

from resprout.core.errors import ResproutError
from resprout.core.granularity import Weight
from resprout.core.kinds import Pick
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.core.select import dense
from resprout.methods.score.wanda import Wanda
from resprout.methods.solve.sparsegpt import Sparsegpt


class These(Pick):
    def __init__(self, mask):
        self.mask = torch.tensor(mask, dtype=torch.bool)

    def __call__(self, scores, first):
        return self.mask[:, first : first + scores.shape[1]]


def solve(solver, weight, gram, pick):
    return solver(weight, solver.prepare(gram.clone()), pick)


def test_sparsegpt_by_hand():
    """H = [[2, 1], [1, 2]]: without the first weight, the second takes up H_21 / H_22 = 1/2 of it."""
    gram, weight = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[4.0, 1.0]])
    assert solve(Sparsegpt(damping=0), weight, gram, These([[0, 1]])).tolist() == [[0.0, pytest.approx(3.0)]]
    assert solve(Sparsegpt(damping=0), weight, gram, These([[1, 0]])).tolist() == [
        [4.0, 0.0]
    ]  # nothing goes to the left
    # w^2 / [H^-1]_jj with [H^-1] = [[2, -1], [-1, 2]] / 3, and for the last column 1 / [H]_22 is left: 16 * 3/2 > 1 * 2
    assert solve(Sparsegpt(damping=0), weight, gram, Weight().pick(torch.ones(1, 2, dtype=torch.bool), 1)).tolist() == [
        [4.0, 0.0]
    ]


@pytest.mark.parametrize("block", [1, 3, 128])
def test_sparsegpt_cuts_to_the_left_of_all_that_makes_up_for_them_exactly(block):
    """Where all columns that go stand before those that stay, the answer is the least-squares solution."""
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(8, 50, generator=g), torch.randn(3, 8, generator=g)
    keep = torch.tensor([[0] * 4 + [1] * 4] * 3)
    found = solve(Sparsegpt(block=block, damping=0), weight, x @ x.T, These(keep.tolist()))
    best = torch.linalg.lstsq(x[4:].T, (weight @ x).T).solution.T
    assert torch.allclose(found[:, 4:], best, atol=1e-4)
    assert not found[:, :4].any()


def test_inputs_that_are_never_read_cost_nothing():
    gram = torch.diag(torch.tensor([1.0, 0.0, 1.0]))
    found = solve(
        Sparsegpt(), torch.tensor([[1.0, 100.0, 2.0]]), gram, Weight().pick(torch.ones(1, 3, dtype=torch.bool), 2)
    )
    assert found[0, 1] == 0
    assert torch.allclose(found[0, [0, 2]], torch.tensor([1.0, 2.0]))


def test_a_gram_matrix_that_is_not_positive():
    with pytest.raises(ResproutError, match="damping"):
        solve(Sparsegpt(damping=0), torch.ones(1, 2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), These([[1, 0]]))


def test_wanda_by_hand():
    """Inputs (1, 2) and (3, 2) have root mean squares sqrt(5) and 2; |w| times that."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    probe = Probe(model, data=[torch.tensor([[1.0, 2.0], [3.0, 2.0]])], loss=lambda m, b: m(b).sum())
    expected = torch.tensor([[1.0, 2.0], [3.0, 0.0]]) * torch.tensor([5.0, 4.0]).sqrt()
    assert torch.allclose(dense(Wanda()(probe)["weight"]), expected)
    masks = Masks({"weight": torch.tensor([[True, True], [True, False]])})
    anchor = {"weight": torch.full((2, 2), 7.0)}
    probe = Probe(model, masks, [torch.tensor([[1.0, 2.0], [3.0, 2.0]])], lambda m, b: m(b).sum(), anchor)
    assert dense(Wanda()(probe)["weight"])[1, 1] == pytest.approx(14.0)  # the dead one with the dense network's value


def test_wanda_of_a_convolution_counts_each_place_of_the_kernel():
    model = nn.Conv2d(2, 4, 2, groups=2, bias=False)
    x = torch.zeros(1, 2, 3, 3)
    x[0, 1, 0, 0] = 2.0  # read once, by the upper left of the kernel, at one of four positions
    found = dense(Wanda()(Probe(model, data=[x], loss=lambda m, b: m(b).sum()))["weight"])
    assert not found[:2].any()
    assert torch.allclose(found[2:, 0, 0, 0], model.weight[2:, 0, 0, 0].abs().detach() * 1.0)
    assert not found[2:, 0, 1].any()
