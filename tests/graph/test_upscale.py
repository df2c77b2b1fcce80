"""Unconstrained channels: the order against brute force over permutations, the export against the masked model."""

from dataclasses import replace
from itertools import combinations, permutations

import pytest
import torch
import zoo
from torch import nn

from resprout.core.errors import TraceError
from resprout.core.masks import Masks
from resprout.graph.alike import difference, outputs
from resprout.graph.interval import arrange, consecutive
from resprout.graph.shape import shape_of
from resprout.graph.trace import trace
from resprout.graph.upscale import Pick, Slice, order, selects, upscale


def contiguous(order, one) -> bool:
    places = [i for i, unit in enumerate(order) if unit in one]
    return not places or places[-1] - places[0] + 1 == len(places)


def random_sets(seed: int, count: int) -> list[frozenset[int]]:
    g = torch.Generator().manual_seed(seed)
    number = int(torch.randint(2, 6, (), generator=g))
    sets = []
    for _ in range(number):
        size = int(torch.randint(1, count, (), generator=g))
        sets.append(frozenset(torch.randperm(count, generator=g)[:size].tolist()))
    return sets


def test_an_order_is_found_exactly_when_there_is_one():
    """All triples of sets of five, and random sets of six: the brute force over permutations is the judge."""
    every = [frozenset(c) for k in (2, 3, 4) for c in combinations(range(5), k)]
    cases = [(list(c), 5) for c in combinations(every, 3)][::7] + [(random_sets(s, 6), 6) for s in range(150)]
    answers = [0, 0]
    for sets, count in cases:
        exists = any(all(contiguous(p, s) for s in sets) for p in permutations(range(count)))
        order = consecutive(sets, count)
        answers[exists] += 1
        assert (order is not None) == exists, sets
        if order is not None:
            assert sorted(order) == list(range(count))
            assert all(contiguous(order, s) for s in sets), (sets, order)
    assert min(answers) > 50


def test_the_chain_of_the_catalogue_needs_no_select():
    sets = [frozenset(range(6)), frozenset(range(4, 10)), frozenset(range(2, 8))]
    shuffled = torch.randperm(10, generator=torch.Generator().manual_seed(1)).tolist()
    sets = [frozenset(shuffled[i] for i in s) for s in sets]
    order = arrange(sets, 10)
    assert all(contiguous(order, s) for s in sets)


def test_what_is_contiguous_already_stays_where_it_is():
    assert arrange([frozenset({1, 2}), frozenset({2, 3, 4})], 6) == list(range(6))


@pytest.mark.parametrize("seed", range(40))
def test_where_no_order_serves_all_the_heaviest_part_is_served(seed):
    sets, count = random_sets(seed, 6), 6
    served = max(
        sum(len(s) for s in sets if 1 < len(s) < count and contiguous(p, s)) for p in permutations(range(count))
    )
    order = arrange(sets, count)
    assert sum(len(s) for s in sets if 1 < len(s) < count and contiguous(order, s)) == served


class Residual(nn.Module):
    """Three layers that read one sum, made by two others."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1), nn.BatchNorm2d(10))
        self.a, self.b = nn.Conv2d(10, 4, 1), nn.Conv2d(10, 4, 3, padding=1)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.branch(x))
        return self.head(x.mean((2, 3))) + self.a(x).mean((2, 3)) + self.b(x).mean((2, 3))


class Dense(nn.Module):
    """Each layer reads what all before it have made, after a norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(18, 5)

    def forward(self, x):
        found = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            found.append(layer(torch.relu(norm(torch.cat(found, 1)))))
        return self.head(torch.relu(self.norms[3](torch.cat(found, 1))).mean((2, 3)))


class Inception(nn.Module):
    """Four branches read one tensor, and are put beside each other."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branches = nn.ModuleList([nn.Conv2d(8, 5, k, padding=k // 2) for k in (1, 3, 5)])
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 3, 1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(18 * 36, 4))

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(torch.cat([*(b(x) for b in self.branches), self.pool(x)], 1)))


def lively(model: nn.Module) -> nn.Module:
    """Norms with statistics, as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.uniform_(tensor, -1, 1)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(module.running_var, 0.5, 2)  # pyright: ignore[reportArgumentType]
    return model.eval()


def free_masks(model: nn.Module, seed: int, share: float = 0.5) -> Masks:
    """Every layer drops its own inputs, at random."""
    g = torch.Generator().manual_seed(seed)
    masks = {}
    for name, full in Masks.dense(model).items():
        columns = torch.rand(full.shape[1], generator=g) < share
        masks[name] = full & (columns.view(-1, *[1] * (full.dim() - 2)) | (full.shape[1] <= 3))
    return Masks(masks)


@torch.no_grad()
def masked(model: nn.Module, masks: Masks, x: torch.Tensor) -> torch.Tensor:
    weights = {n: p * masks[n] for n, p in model.named_parameters() if n in masks}
    return torch.func.functional_call(model, weights, (x,))


@pytest.mark.parametrize("make", [Residual, Dense, Inception])
@pytest.mark.parametrize("seed", range(4))
def test_the_export_computes_what_the_masked_model_computes(make, seed):
    torch.manual_seed(seed)
    model, x = lively(make()), torch.randn(3, 3, 8, 8)
    masks = free_masks(model, seed)
    small = upscale(model, masks, x)
    y = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(small(y), masked(model, masks, y), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in small.parameters() if p.dim() > 1) == masks.alive - unread(model, masks, x)


def unread(model: nn.Module, masks: Masks, x: torch.Tensor) -> int:
    """Weights alive in rows that make what nothing reads."""
    gone = {n: torch.zeros(len(m), dtype=torch.bool) for n, m in masks.items()}
    for group in trace(model, x).groups:
        reads = [s for s in group.slots if s.parameter in masks and s.dim == 1]
        used = torch.stack([masks[s.parameter].transpose(0, 1).flatten(1).any(1)[s.index].any(1) for s in reads])
        some = used.any(0)
        some[0] |= not bool(some.any())  # a group keeps one
        for slot in group.slots:
            if slot.parameter in masks and slot.dim == 0:
                gone[slot.parameter][slot.index[~some].flatten()] = True
    return sum(int(masks[n][rows].sum()) for n, rows in gone.items())


def test_chains_of_subsets_are_slices_after_reordering_and_copies_before():
    torch.manual_seed(0)
    model, x = lively(Residual()), torch.randn(2, 3, 6, 6)
    shuffled = torch.randperm(10)
    subsets = {
        "a.weight": range(6),
        "b.weight": range(4, 10),
        "head.weight": range(2, 8),
        "branch.0.weight": range(3, 5),
    }
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    for name, subset in subsets.items():
        gone = torch.ones(10, dtype=torch.bool).index_fill_(0, shuffled[list(subset)], False)
        masks[name][:, gone] = False
    small = upscale(model, Masks(masks), x)
    assert selects(small) == (4, 0)
    torch.testing.assert_close(small(x), masked(model, Masks(masks), x), atol=1e-5, rtol=1e-5)
    group = next(g for g in trace(model, x).groups if g.name == "stem.0.weight")
    assert order(model, group) == list(range(10))  # all is read by all: nothing moves


def test_it_is_an_ordinary_module():
    torch.manual_seed(0)
    model, x = lively(Residual()), torch.randn(2, 3, 6, 6)
    small = upscale(model, free_masks(model, 3), x)
    again = upscale(model, free_masks(model, 3), x)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))
    program = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(program(x), small(x))
    assert str(Slice(1, 2, 5)) == "Slice(2:5, dim=1)"
    assert torch.equal(Pick(1, torch.tensor([2, 0]))(torch.arange(6).view(2, 3)), torch.tensor([[2, 0], [5, 3]]))


def test_a_wrong_structure_is_noticed():
    """Without the slot of one of its readers, a group cannot be permuted, nor can its channels leave."""
    torch.manual_seed(0)
    model, x = lively(Residual()), torch.randn(2, 3, 6, 6)
    found = trace(model, x)
    groups = tuple(replace(g, slots=tuple(s for s in g.slots if s.parameter != "head.weight")) for g in found.groups)
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    for name in ("a.weight", "b.weight", "branch.0.weight"):
        masks[name][:, 2:4] = False
    with pytest.raises(TraceError, match=r"use rs\.shrink"):
        upscale(model, Masks(masks), x, structure=replace(found, groups=groups))


class Own(nn.Module):
    """Uses a layer's weight behind the layer's back."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return nn.functional.linear(self.a(x), self.b.weight) + self.c(self.a(x))


def test_a_layer_that_is_not_called_goes_on_reading_everything():
    model, x = Own(), torch.randn(2, 4)
    masks = {n: m.clone() for n, m in Masks.dense(model).items()}
    masks["b.weight"][:, 2] = False
    masks["c.weight"][:, 4] = False
    small = upscale(model, Masks(masks), x)
    assert selects(small) == (1, 0)
    assert small.get_parameter("b.weight").shape == (3, 6)
    torch.testing.assert_close(small(x), masked(model, Masks(masks), x))


def test_the_product_is_no_part_of_the_dense_network():
    """Its channels are in another order, so that expand must not take it for one that was only shrunk."""
    model, x = lively(Residual()), torch.randn(2, 3, 6, 6)
    assert shape_of(upscale(model, free_masks(model, 0), x)) is None


@pytest.mark.parametrize("name", ["mobilenet_v3", "shufflenet_v2", "googlenet", "vit_tiny_p4"])
def test_networks_of_others(name):
    model, x = zoo.MODELS[name]()
    masks = free_masks(model, 0)
    small = upscale(model, masks, x)
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    assert difference([masked(model, masks, y)], outputs(small, y)) < 1e-5
    assert sum(selects(small)) > 0
