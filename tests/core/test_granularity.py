"""Units: single weights and n of every m."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resprout.core import select
from resprout.core.choose import best_of_rows, by_row
from resprout.core.errors import ResproutError
from resprout.core.granularity import NM, Row, Weight, parse
from resprout.core.kinds import Scores
from resprout.core.masks import Masks
from resprout.methods.allocate.global_ import Global
from resprout.methods.allocate.uniform import Uniform


def test_two_of_four_linear():
    scores = Scores({"w": torch.tensor([[4.0, 1, 3, 2, 0, 0, 0, 5]])})
    assert NM(2, 4).choose(scores, 4, Global())["w"].int().tolist() == [[1, 0, 1, 0, 1, 0, 0, 1]]


def test_two_of_four_conv_counts_inputs_at_each_kernel_position():
    score = torch.zeros(1, 4, 1, 2)
    score[0, :, 0, 0] = torch.tensor([1.0, 2, 3, 4])
    score[0, :, 0, 1] = torch.tensor([4.0, 3, 2, 1])
    mask = NM(2, 4).choose(Scores({"w": score}), 4, Global())["w"]
    assert mask[0, :, 0, 0].int().tolist() == [0, 0, 1, 1]
    assert mask[0, :, 0, 1].int().tolist() == [1, 1, 0, 0]


def test_regrowth_from_one_to_two_of_four():
    score = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).abs()
    one = NM(1, 4).choose(Scores({"w": score}), 12, Global())
    two = NM(2, 4).choose(Scores({"w": score.flip(0)}, ~one, one), 24, Global())
    assert one <= two
    assert (two["w"].view(6, 2, 4).sum(-1) == 2).all()


def test_rows_by_hand():
    scores = {"w": torch.tensor([[9.0, 8, 7, 6], [1, 2, 3, 4]])}
    assert Row().choose(Scores(scores), 4, Global())["w"].int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert Row().choose(Scores(scores), 5, Global())["w"].int().tolist() == [[1, 1, 1, 0], [0, 0, 1, 1]]
    assert parse("row") == Row()


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_rows_are_equal_within_what_lives_and_nest(rows, columns, seed, data):
    score = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    masks, total = Masks({"w": torch.ones(rows, columns, dtype=torch.bool)}), rows * columns
    few = data.draw(st.integers(0, total))
    some = Row().choose(Scores({"w": score}, masks), few, Uniform())
    each = some["w"].sum(1)
    assert some.alive == few
    assert int(each.max() - each.min()) <= 1
    more = Row().choose(Scores({"w": -score}, ~some, some), data.draw(st.integers(few, total)), Uniform())
    assert some <= more
    fewer = Row().choose(Scores({"w": -score}, some), few // 2, Uniform())
    assert fewer <= some
    assert fewer.alive == few // 2


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9), st.data())
def test_rows_get_what_equal_wishes_get(bounds, data):
    lower, upper = torch.tensor([min(b) for b in bounds]), torch.tensor([max(b) for b in bounds])
    keep = data.draw(st.integers(int(lower.sum()), int(upper.sum())))
    names = range(len(bounds))
    low, high = (dict(zip(names, b.tolist(), strict=True)) for b in (lower, upper))
    assert by_row(keep, lower, upper).tolist() == list(
        select.apportion(dict.fromkeys(names, 1.0), keep, low, high).values()
    )
    for wrong in (int(lower.sum()) - 1, int(upper.sum()) + 1):
        with pytest.raises(ResproutError, match="rows that hold"):
            by_row(wrong, lower, upper)


def sorted_rows(scores, counts, among):
    """The definition: a stable sort of each row, position deciding ties."""
    chosen = torch.zeros_like(among)
    for row, (score, count, may) in enumerate(zip(scores, counts.tolist(), among, strict=True)):
        order = score.float().masked_fill(~may, -torch.inf).argsort(descending=True, stable=True)
        chosen[row, order[:count]] = True
    return chosen


@given(st.integers(1, 12), st.integers(1, 40), st.sampled_from([1, 3, 1000]), st.integers(0, 10**6), st.booleans())
def test_the_best_of_each_row_are_those_of_a_stable_sort(rows, columns, levels, seed, some):
    g = torch.Generator().manual_seed(seed)
    scores = (torch.randn(rows, columns, generator=g) * levels).round() / levels
    among = torch.rand(rows, columns, generator=g) < (0.7 if some else 2)
    counts = (torch.rand(rows, generator=g) * (among.sum(1) + 1)).long()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "CHUNK", 64)  # a few rows at a time
        assert torch.equal(best_of_rows(scores, counts, among), sorted_rows(scores, counts, among))
        if not some:
            assert torch.equal(best_of_rows(scores, counts), sorted_rows(scores, counts, among))


def test_scores_of_rows_are_computed_a_few_rows_at_a_time():
    weight, norm = torch.randn(40, 3, 5, dtype=torch.bfloat16), torch.rand(3, 5)
    asked = []

    def worth(w, n):
        asked.append(len(w))
        return w.abs().float() * n

    lazy = select.Elementwise(worth, (weight, norm.expand_as(weight)))  # norms that no row has a copy of
    counts = torch.arange(40) % 16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "CHUNK", 150)
        chosen = best_of_rows(lazy, counts)
    assert torch.equal(chosen, sorted_rows((weight.abs().float() * norm).flatten(1), counts, torch.ones_like(chosen)))
    assert max(asked) == 150
    assert Row().choose(Scores({"w": lazy}), 300, Uniform())["w"].sum((1, 2)).tolist() == [8] * 20 + [7] * 20
    with pytest.raises(ResproutError, match="NaN"):
        best_of_rows(weight.float().flatten(1).index_fill(0, torch.tensor([30]), torch.inf), counts)


@given(
    st.sampled_from([Weight(), Row(), NM(2, 4)]), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6), st.data()
)
def test_a_run_of_columns_at_a_time_adds_up(granularity, rows, groups, seed, data):
    g = torch.Generator().manual_seed(seed)
    score, columns = torch.randn(rows, 4 * groups, generator=g), 4 * groups
    alive = torch.ones(rows, columns, dtype=torch.bool)
    if not isinstance(granularity, NM):
        alive = torch.rand(rows, columns, generator=g) < 0.7
    keep = rows * columns // 2 if isinstance(granularity, NM) else data.draw(st.integers(0, int(alive.sum())))
    pick, width = granularity.pick(alive, keep), data.draw(st.sampled_from([4, 8]))
    mask = torch.cat([pick(score[:, a : a + width], a) for a in range(0, columns, width)], 1)
    assert int(mask.sum()) == keep
    assert not (mask & ~alive).any()
    whole = granularity.pick(alive, keep)(score, 0)  # in one run: simply the best
    assert float(score[whole].sum()) >= float(score[mask].sum()) - 1e-5


def test_what_has_no_columns_cannot_be_picked():
    with pytest.raises(ResproutError, match="channels"):
        parse("channel").pick(torch.ones(2, 2, dtype=torch.bool), 2)
    with pytest.raises(ResproutError, match="2:4"):
        NM(2, 4).pick(torch.ones(2, 6, dtype=torch.bool), 6)


def test_pattern_errors():
    linear, conv = Scores({"w": torch.ones(2, 8)}), Scores({"conv1.weight": torch.ones(4, 3, 3, 3)})
    with pytest.raises(ResproutError, match=r"means sparsity 0.5 exactly"):
        NM(2, 4).choose(linear, 5, Global())
    with pytest.raises(ResproutError, match=r"'conv1.weight'.*ignore="):
        NM(2, 4).choose(conv, 54, Global())
    other = Masks({"w": torch.tensor([[True] * 4 + [False] * 4] * 2)})
    with pytest.raises(ResproutError, match="start from dense masks"):
        NM(2, 4).choose(Scores(linear.tensors, other), 8, Global())
    bad = torch.ones(2, 8)
    bad[0, 0] = torch.nan
    with pytest.raises(ResproutError, match="'w' hold NaN"):
        NM(2, 4).choose(Scores({"w": bad}), 8, Global())


def test_parse():
    assert parse("weight") == Weight()
    assert parse("2:4") == NM(2, 4) == parse(NM(2, 4))
    for wrong in ("4:2", "0:4", "channel!"):
        with pytest.raises(ResproutError, match="unknown granularity"):
            parse(wrong)


def test_floor_and_ceiling():
    scores = Scores({"a": torch.arange(100.0) + 1, "b": torch.arange(10.0) / 100})
    assert Weight().choose(scores, 20, Global()).counts == {"a": 20, "b": 0}
    assert Weight().choose(scores, 20, Global(), floor=3).counts == {"a": 17, "b": 3}
    assert Weight().choose(scores, 13, Global(), ceiling=0.12).counts == {"a": 12, "b": 1}
    assert Weight().choose(scores, 11, Uniform(), floor=5).counts == {"a": 6, "b": 5}
    with pytest.raises(ResproutError, match="cannot be spread"):
        Weight().choose(scores, 20, Global(), ceiling=0.05)
