"""Differences of two networks: identities of the drop, the search for q, AdamR, and the file."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resprout import CheckpointError, ResproutError
from resprout.deltas._kind import Pair
from resprout.deltas.adam_r import AdamR
from resprout.deltas.dare import Dare, dropped
from resprout.deltas.darex import Darex, analytic
from resprout.deltas.delta import added, difference, load, save
from resprout.deltas.largest import Largest

CLASSES, WIDTH = 6, 40


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def clouds(samples: int, seed: int, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(7))
    centres += shift * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(8))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (samples,), generator=g)
    return 0.7 + centres[y] + 1.2 * torch.randn(samples, WIDTH, generator=g), y


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    with torch.no_grad():
        return float((model(batch[0]).argmax(1) == batch[1]).float().mean())


def tuned(make, steps: int = 150, base: nn.Module | None = None, batch=None) -> tuple[nn.Module, nn.Module]:
    base = net() if base is None else base
    model = copy.deepcopy(base)
    optimizer, batch = make(model.parameters()), clouds(600, 1) if batch is None else batch
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return base, model


@pytest.fixture(scope="module")
def far() -> Pair:
    """A network of a task near to this one that has moved far: the differences are large, where DARE fails."""
    base = tuned(lambda p: torch.optim.Adam(p, 3e-3), 60, batch=clouds(600, 5, shift=1.0))[1]
    base, model = tuned(lambda p: torch.optim.Adam(p, 3e-2), base=base)
    shown, held = clouds(200, 2), clouds(400, 3)
    return Pair(base, model, data=[shown], loss=loss, worth=lambda m: accuracy(m, held))


def test_the_mean_and_the_variance_of_a_dropped_layer_are_as_the_paper_says():
    p, q, draws = 0.9, 0.3, 20_000
    g = torch.Generator().manual_seed(0)
    x, delta = torch.rand(30, generator=g).double(), torch.randn(1, 30, generator=g).double()
    many = dropped(delta.expand(draws, 30), p, g) / q
    out, c = many @ x, (delta * x).flatten()
    variance = p * (1 - p) / q**2 * float(c.square().sum())
    assert float(out.mean()) == pytest.approx(float(c.sum()) * (1 - p) / q, abs=3 * math.sqrt(variance / draws))
    kurtosis = float(((out - out.mean()) ** 4).mean()) / variance**2
    assert float(out.var()) == pytest.approx(variance, abs=3 * variance * math.sqrt((kurtosis - 1) / draws))


def test_q_of_one_less_p_is_dare(far):
    ours, theirs = Darex(drop=0.9, by=1 - 0.9)(far), Dare(drop=0.9)(far)
    assert all(torch.allclose(ours[n], theirs[n]) for n in theirs)
    kept = sum(int((d != 0).sum()) for d in ours.values()) / sum(d.numel() for d in ours.values())
    assert kept == pytest.approx(0.1, abs=0.02)


def test_rows_and_columns_leave_whole():
    delta, g = torch.ones(50, 40, 3, 3), torch.Generator().manual_seed(0)
    rows, columns = dropped(delta, 0.5, g, "row"), dropped(delta, 0.5, g, "column")
    assert set(rows.flatten(1).mean(1).tolist()) == {0.0, 1.0}
    assert set(columns.movedim(1, 0).flatten(1).mean(1).tolist()) == {0.0, 1.0}


def test_large_differences_want_a_larger_q(far):
    held = clouds(1000, 4)

    def reached(method, seeds=3) -> float:
        pairs = [Pair(far.base, far.tuned, data=far.data, loss=loss, worth=far.worth, seed=s) for s in range(seeds)]
        return sum(accuracy(p.network(method(p)), held) for p in pairs) / seeds

    whole, plain = accuracy(far.tuned, held), reached(Dare(0.99))
    assert whole > 0.95
    for by in ("worth", "outputs", "formula"):
        assert reached(Darex(0.99, by=by, grid=10)) > plain + 0.2  # pyright: ignore
    assert all(0.01 <= q <= 1 for q in Darex(0.99, by="outputs", grid=12).rescale(far).values())


def test_the_formula_minimises_its_bound():
    g = torch.Generator().manual_seed(0)
    delta, mean, p, eta = torch.randn(1, 20, generator=g), torch.rand(1, 20, generator=g), 0.9, 0.8
    found = analytic(delta, mean, p, eta=eta, grid=4000)
    c = (delta.double() * mean.double())[0]

    def bound(q: float) -> float:
        phi = (1 - 2 * p) / math.log((1 - p) / p)
        first = eta * (1 - (1 - p) / q) * float(c.sum())
        return abs(first + eta**2 * phi * float(c.square().sum()) / (4 * q * q) + math.log(2 / 0.05))

    assert 0.1 <= found < 1
    assert bound(found) <= min(bound(0.1 + 0.9 * i / 500) for i in range(500)) + 1e-6
    two = analytic(torch.cat([delta, delta]), torch.cat([mean, mean]), p, eta=eta, grid=4000)
    assert two == pytest.approx(found)  # groups: each output reads its own inputs


def test_the_formula_sees_the_means_of_the_inputs(far):
    assert torch.allclose(far.means["0.weight"][0], far.data[0][0].double().mean(0), atol=1e-5)
    assert all(0.01 <= q < 1 for q in Darex(by="formula").rescale(far).values())


def test_the_largest_are_an_exact_count(far):
    for method in (Largest(0.9), Largest(0.9, inputs=True)):
        kept = method(far)
        assert {n: int((d != 0).sum()) for n, d in kept.items()} == {"0.weight": 256, "2.weight": 38}
    biggest = far.delta["0.weight"].abs().flatten().topk(256).values.min()
    assert Largest(0.9)(far)["0.weight"].abs().flatten().topk(256).values.min() == biggest


def test_what_is_ignored_stays_whole(far):
    pair = Pair(far.base, far.tuned, ignore=("2.weight",))
    assert set(pair.delta) == {"0.weight"}
    model = pair.network(Dare(0.99)(pair))
    assert torch.allclose(model.get_parameter("2.weight"), far.tuned.get_parameter("2.weight"))
    assert torch.allclose(model.get_parameter("0.bias"), far.tuned.get_parameter("0.bias"))


def test_adam_r_without_pull_is_adam_and_with_it_stays_near():
    plain = tuned(lambda p: torch.optim.Adam(p, 3e-3))[1]
    ours = tuned(lambda p: AdamR(p, 3e-3, pull=0.0))[1]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain.parameters(), ours.parameters(), strict=True))
    held = clouds(1000, 4)
    base, far = tuned(lambda p: torch.optim.Adam(p, 3e-2), 300)
    near = tuned(lambda p: AdamR(p, 3e-2, pull=1e-2), 300)[1]

    def size(model) -> float:
        return sum(float(d.abs().sum()) for d in difference(model, base).values())

    assert size(near) < size(far) / 3
    assert accuracy(near, held) > accuracy(far, held) - 0.02


def test_a_difference_in_a_file_comes_back_small(far, tmp_path):
    kept = far.whole | Largest(0.99)(far)
    size = save(tmp_path / "delta.safetensors", far.base, kept, values="fp32")
    dense = save(tmp_path / "whole.safetensors", far.base, far.whole, values="fp32")
    assert size < dense / 4
    model = load(tmp_path / "delta.safetensors", far.base)
    want = added(far.base, kept)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), want.parameters(), strict=True))
    with pytest.raises(CheckpointError):
        load(tmp_path / "delta.safetensors", nn.Linear(3, 2))


def test_mistakes_are_said(far):
    with pytest.raises(ResproutError, match="one architecture"):
        difference(net(), nn.Linear(2, 2))
    with pytest.raises(ResproutError, match="probability"):
        Dare(1.0)(far)
    with pytest.raises(ResproutError, match="worth="):
        Darex(by="worth")(Pair(far.base, far.tuned))
    with pytest.raises(ResproutError, match="data="):
        Darex()(Pair(far.base, far.tuned))
    for wrong, says in (
        (Darex(drop=1.0, by="formula"), "probability"),
        (Darex(drop=math.nan, by="formula"), "probability"),
        (Darex(by="worth", seeds=0), "seeds"),
        (Darex(by="worth", grid=0), "grid"),
        (Darex(by="formula", gamma=1.0), "gamma"),
        (Darex(by="formulas"), "formula"),  # pyright: ignore[reportArgumentType]
        (Darex(by=1.5), "q lies"),
        (Dare(unit="rows"), "row"),  # pyright: ignore[reportArgumentType]
        (Largest(1.5), "drop"),
    ):
        with pytest.raises(ResproutError, match=says):
            wrong(far)
    with pytest.raises(ResproutError, match="eps"):
        AdamR(far.tuned.parameters(), lr=math.nan)


def test_a_worth_that_is_no_number_is_no_choice(far):
    with pytest.raises(ResproutError, match="worth of q"):
        Darex(by="worth", grid=2)(Pair(far.base, far.tuned, worth=lambda model: math.nan))


def test_dropping_nothing_is_the_whole_difference(far):
    for by in ("formula", "outputs", 1.0):
        assert all(torch.equal(d, far.delta[n]) for n, d in Darex(drop=0.0, by=by)(far).items())  # pyright: ignore


def test_the_means_of_layers_that_do_not_run_are_missed():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(WIDTH, CLASSES), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    pair = Pair(Idle(), Idle(), data=[clouds(20, 0)], loss=loss)
    for method in (Darex(by="formula"), Largest(inputs=True)):
        with pytest.raises(ResproutError, match="idle"):
            method(pair)


def test_looking_leaves_every_module_in_its_mode(far):
    tuned = copy.deepcopy(far.tuned).train()
    tuned[1].eval()
    Darex(grid=2)(Pair(far.base, tuned, data=far.data, loss=loss))
    assert [m.training for m in tuned] == [True, False, True]


def test_a_file_that_is_cut_short_is_refused(far, tmp_path):
    place = tmp_path / "delta.safetensors"
    save(place, far.base, far.whole | Largest(0.9)(far))
    place.write_bytes(place.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load(place, far.base)
