"""What networks put out, the dense teacher, and the distances between them."""

import math

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.outputs import outputs, taught
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune
from resprout.core.train import Train
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.schedule.constant import Constant
from resprout.methods.score.magnitude import Magnitude
from resprout.numerics.distance import angular, distance, euclidean, js, kl
from resprout.tasks.text import Text


@pytest.fixture
def run(tiny) -> Run:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(40, 2, 4, 4, generator=g), torch.randint(6, (40,), generator=g)
    found = Run(tiny, rs.Arrays((x, y), (x, y), (x, y), batch_size=8, flip=False))
    found.do(Train(3, Constant(0.1)))
    return found


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 3, 4])


def test_outputs_are_those_of_the_modules_and_can_be_trained_through(tiny):
    x, _ = batch()
    tiny.eval()
    with outputs(tiny, ("0", "4", "")) as found:
        assert found == {}
        out = tiny(x)
    assert found[""] is out
    assert torch.equal(found["0"], tiny[0](x))
    assert found["4"].requires_grad
    assert hooks(tiny) == 0
    tiny(x)
    assert found[""] is out


def test_the_first_tensor_of_tuples_and_mappings_counts():
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return (x + 1, None)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.pair(x)[0] * 2, "other": x}

    x = torch.arange(3.0)
    with outputs(Named(), ("", "pair")) as found:
        pass
    model = Named()
    with outputs(model, ("", "pair")) as found:
        model(x)
        model(x + 1)
    assert torch.equal(found["pair"], x + 2)  # of several calls the last
    assert torch.equal(found[""], 2 * x + 4)


def test_no_hook_stays_after_an_error(tiny):
    with pytest.raises(RuntimeError, match="enough"), outputs(tiny, ("0", "")):
        raise RuntimeError("enough")
    assert hooks(tiny) == 0
    with pytest.raises(AttributeError), outputs(tiny, ("0", "nothing")):
        pass
    assert hooks(tiny) == 0


def test_the_teacher_is_the_dense_network_and_leaves_no_trace(run):
    x, y = batch()
    run.model.eval()
    dense = run.model(x).detach()
    within = run.model[:3](x).detach()
    run.do(Mark("dense"))
    run.do(Prune(0.7, Magnitude(), Uniform()))
    run.do(Train(2, Constant(0.1)))
    run.model.train()
    run.model[1].eval()
    run.task.loss(run.model, (x, y)).backward()
    rng = torch.get_rng_state()
    modes = [m.training for m in run.model.modules()]
    before = [t.clone() for t in run.model.state_dict().values()] + [p.grad.clone() for p in run.model.parameters()]
    found = taught(run, (x, y), ("", "2"))
    assert torch.equal(found[""], dense)
    assert torch.equal(found["2"], within)
    assert not found[""].requires_grad
    assert modes == [m.training for m in run.model.modules()]
    assert torch.equal(rng, torch.get_rng_state())
    after = [*run.model.state_dict().values(), *(p.grad for p in run.model.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert hooks(run.model) == 0
    run.model.eval()
    assert not torch.equal(run.model(x), dense)


def test_a_teacher_with_tied_weights():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("scale", torch.full((1,), 2.0))
            self.register_buffer("passing", torch.ones(1), persistent=False)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids)) * self.scale * self.passing

    model, ids = Tied(), torch.randint(7, (90,))
    run = Run(model, Text(ids, ids, ids, window=8, batch_size=2), rs.Masks.dense(model, ["embed*"]))
    run.do(Mark("dense"))
    dense = model(ids[None]).detach()
    with torch.no_grad():
        model.embed.weight.mul_(3)
        model.scale.mul_(0.5)
    assert torch.equal(taught(run, ids[None])[""], dense)


def test_a_teacher_there_must_be(run):
    with pytest.raises(rs.ResproutError, match="mark it first"):
        taught(run, batch())


# -- distances -----------------------------------------------------------------------------------------------------


def some(seed: int, scale: float = 3.0) -> Tensor:
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("measure", ["kl", "js", "angular", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_distance_is_zero_for_equals_only_and_a_mean(measure, dtype):
    a, b = some(0).to(dtype), some(1).to(dtype)
    assert float(distance(measure, a, a.clone())) == 0
    assert float(distance(measure, a, b)) > 1e-3
    near = distance(measure, a.float(), a.float() + some(2, 1e-3))
    assert 0 < float(near) < 1e-2
    each = [float(distance(measure, x, y)) for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
    assert float(distance(measure, a, b)) == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert distance(measure, a, b).dtype == torch.float32


@pytest.mark.parametrize("measure", ["js", "angular", "euclidean"])
def test_what_is_symmetric(measure):
    a, b = some(0), some(1)
    assert float(distance(measure, a, b)) == pytest.approx(float(distance(measure, b, a)), rel=1e-6)


@pytest.mark.parametrize("measure", ["kl", "js", "angular", "euclidean"])
@pytest.mark.parametrize("apart", [0.0, 1e-4, 1.0, 300.0])
def test_gradients_are_finite(measure, apart):
    a, b = some(0), (some(0) + some(1, apart)).requires_grad_()
    value = distance(measure, a, b)
    value.backward()
    assert b.grad is not None
    assert torch.isfinite(b.grad).all()
    if apart == 0 and measure in ("kl", "js"):
        assert float(b.grad.abs().max()) < 1e-6


def test_js_is_at_most_the_logarithm_of_two():
    one, other = torch.tensor([[1000.0, 0, 0]]), torch.tensor([[0, 0, 1000.0]])
    assert float(js(one, other)) == pytest.approx(math.log(2), rel=1e-6)
    for scale in (0.1, 1, 10, 100, 1000):
        assert 0 <= float(js(some(0, scale), some(1, scale))) <= math.log(2) + 1e-6


@pytest.mark.parametrize("of", [kl, js])
def test_words_that_are_forbidden_to_both_say_nothing(of):
    p, q = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    never = torch.full((1, 1), -math.inf)
    found = of(torch.cat([p, never], 1), torch.cat([q, never], 1))
    assert found.item() == pytest.approx(of(p, q).item())
    found.backward()
    assert torch.isfinite(q.grad).all()  # pyright: ignore[reportArgumentType]


def test_golden_values():
    p, q = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.25, 0.5]).log()
    assert float(kl(p, q)) == pytest.approx(0.25 * math.log(2), rel=1e-6)
    middle = [0.375, 0.25, 0.375]
    by_hand = sum(a * math.log(a / m) for a, m in zip((0.5, 0.25, 0.25), middle, strict=True))
    assert float(js(p, q)) == pytest.approx(by_hand, rel=1e-5)
    assert float(kl(p, q, top=2)) == pytest.approx(  # of (0.5, 0.25) against (0.25, 0.25), both made to sum to one
        2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), rel=1e-5
    )
    warm = kl(p * 2, q * 2, temperature=2.0)
    assert float(warm) == pytest.approx(float(kl(p, q)), rel=1e-6)
    assert float(kl(p, q, top=3)) == float(kl(p, q, top=9)) == float(kl(p, q))
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    y = torch.tensor([[0.0, 3.0], [-1.0, 0.0], [1.0, 0.0]])
    assert float(angular(x, y)) == pytest.approx((0.5 + 1 + 0) / 3)
    assert float(angular(x, 7 * x)) == 0
    assert float(euclidean(x, y)) == pytest.approx((math.sqrt(10) + 2 + 1) / 3)
    small = torch.tensor([1.0, 1e-5])
    assert float(angular(torch.tensor([1.0, 0.0]), small)) == pytest.approx(1e-5 / math.pi, rel=1e-3)
