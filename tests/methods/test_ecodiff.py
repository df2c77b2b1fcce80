"""EcoDiff: gradients through all moves of a sampler, move by move; hard-concrete masks; weights that stand still."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.errors import ResproutError
from resprout.core.gated import Gated
from resprout.core.granularity import Units
from resprout.core.learn import Learn
from resprout.core.masks import Masks
from resprout.core.part import steady
from resprout.core.roles import selectable
from resprout.core.run import Run
from resprout.core.sampled import Network, Sampled, sample
from resprout.core.steps import Mark
from resprout.core.task import Split
from resprout.core.train import Optimizer, Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.gate.hard_concrete import HardConcrete
from resprout.methods.objective.final_latents import FinalLatents
from resprout.methods.recipe.ecodiff import Ecodiff
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.cubic import Cubic

ALIVE: list[StorageWeakRef] = []  # hidden activations of all calls
COUNTS: list[int] = []  # of which there are so many, at each call


class Net(nn.Module):
    """Hidden unit 3 reaches nothing: the planted dead neuron."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        with torch.no_grad():
            self.down.weight[:, 3] = 0

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x).exp()  # whose backward pass needs the result
        ALIVE.append(StorageWeakRef(hidden.untyped_storage()))
        COUNTS.append(living())
        return self.down(hidden / 3)


class Toy(Sampled):
    metric = "score"
    moves = 5  # pyright: ignore[reportAssignmentType]
    steps_per_epoch = 4  # pyright: ignore[reportAssignmentType]

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Tensor]:
        for i in range(start, 4):
            yield torch.randn(5, 6, generator=torch.Generator().manual_seed(seed % 1000 + 100 * epoch + i))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return {"score": 0.0}

    def noise(self, batch: Tensor) -> Tensor:
        return batch

    def move(self, model: Network, latents: Tensor, i: int, batch: Tensor) -> Tensor:
        return latents - 0.2 * model(latents)


def toy() -> Run:
    net = Net()
    run = Run(net, Toy(), granularity=Units("channel"), groups=rs.trace(net, torch.randn(1, 6)).groups)
    run.do(Mark("dense"))
    return run


def living() -> int:
    return sum(not ref.expired() for ref in ALIVE)


@pytest.mark.parametrize("keep", [False, True])
def test_the_gradient_of_all_moves_holds_one_move_at_a_time(keep):
    net, batch = Net(), torch.randn(4, 6)
    found = sample(Toy(), net, batch, keep=True).square().sum()
    want = torch.autograd.grad(found, list(net.parameters()))
    del found
    ALIVE.clear()
    value = sample(Toy(), net, batch, keep).square().sum()
    assert living() == (5 if keep else 0)
    COUNTS.clear()
    got = torch.autograd.grad(value, list(net.parameters()))
    assert ([] if keep else [1] * 5) == COUNTS
    assert all(torch.allclose(g, w, rtol=1e-5, atol=1e-6) for g, w in zip(got, want, strict=True))


def test_a_draw_is_the_same_in_all_moves_and_again_in_the_backward_pass():
    """The gradient of the scores with draws: against the same loss with all moves held."""
    run, batch = toy(), torch.randn(4, 6)
    grads, drawn, dense = [], [], run.fork()

    class Spy(HardConcrete):
        def _draw(self, score: Tensor) -> Tensor:
            drawn.append(super()._draw(score))
            return drawn[-1]

    for keep in (False, True):
        run.slots = {}
        gated = Gated(run, Spy(begin=0.5), lambda t: 8, Global(), weights=False)
        torch.manual_seed(3)
        if keep:
            z = sample(Toy(), steady(gated), batch, keep=True)
            with torch.no_grad():
                want = sample(Toy(), dense.model, batch, keep=True)
            loss = (z - want).norm(dim=1).mean() / 6**0.5
        else:
            loss = FinalLatents()(run, gated, batch)
        loss.backward()
        grads.append(gated.apart[0].grad)
        gated.finish(done=True)
    assert len(drawn) == 2  # once for each loss
    assert float(drawn[0].detach().sum()) < 8
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-7)
    assert bool(grads[0].any())


def test_open_masks_give_the_dense_latents_bit_for_bit():
    run = toy()
    gated = Gated(run, HardConcrete(begin=50.0), lambda t: 8, Global(), weights=False)
    batch = next(iter(run.task.batches("train")))
    assert float(FinalLatents()(run, gated, batch).detach()) == 0.0


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_the_planted_dead_neuron_ends_with_the_lowest_score(norm):
    run = toy()
    before = {n: t.clone() for n, t in run.model.state_dict().items()}
    gate = HardConcrete(weight=0.02, norm=norm)
    train = Train(40, Constant(0.1), Optimizer("adamw"), objective=FinalLatents())
    parts = []

    def make() -> Gated:
        parts.append(Gated(run, gate, lambda t: 8, Global(), weights=False))
        return parts[0]

    with train.under_way(run, make) as (facts, _):
        scores = parts[0].apart[0].detach().clone()
    assert facts["tuned"] == 8
    assert int(scores.argmin()) == 3
    assert float(scores[3]) < float(scores.sort().values[1]) - 0.5
    assert all(torch.equal(t, before[n]) for n, t in run.model.state_dict().items())  # nothing else was trained
    assert all(p.requires_grad for p in run.model.parameters())


def test_learn_with_frozen_weights_cuts_exactly():
    run = toy()
    before = {n: t.clone() for n, t in run.model.state_dict().items()}
    train = Train(8, Constant(0.1), Optimizer("adamw"), objective=FinalLatents())
    run.do(Learn(train, HardConcrete(), 5, Cubic(0.0, 1.0), 0.0, 1.0, Global(), weights=False))
    assert run.units.alive == 5
    for name, weight in run.weights().items():
        assert torch.equal(weight, before[name] * run.masks[name])


def test_a_unit_passes_with_the_chance_of_its_score_and_l0_is_the_chance_to_be_above_zero():
    gate, n = HardConcrete(weight=1.0, norm="l0"), 200_000
    torch.manual_seed(0)
    for score in (-2.0, 0.0, 1.5):
        scores = {"a": torch.full((n,), score)}
        passed = gate(scores, 0, lambda s, k: Masks({}), {"a": torch.zeros(n)})["a"]
        assert set(passed.unique().tolist()) <= {0.0, 1.0}
        assert float(passed.mean()) == pytest.approx(float(torch.tensor(score).sigmoid()), abs=0.004)
        u = torch.rand(n)
        soft = ((u.logit() + score) / 0.83).sigmoid() * 1.2 - 0.1
        assert float(gate.penalty(scores, 0.0)) == pytest.approx(float((soft > 0).float().mean()), abs=0.004)


def test_the_penalty_is_a_mean_over_groups_of_means():
    scores = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([5.0])}
    assert float(HardConcrete(weight=0.5).penalty(scores, 0.0)) == pytest.approx(0.5 * (2 + 5) / 2)


def test_it_says_what_it_cannot_do(tiny):
    with pytest.raises(ResproutError, match="makes samples"):
        FinalLatents()(Run(tiny, find.task("digits", None, "")), tiny, None)
    with pytest.raises(ResproutError, match="mark it first"):
        FinalLatents()(Run(Net(), Toy()), Net(), torch.randn(2, 6))
    with pytest.raises(ResproutError, match="'l1' or 'l0'"):
        HardConcrete(norm="l2")  # pyright: ignore[reportArgumentType]


# -- the small diffusion model ----------------------------------------------------------------------------------------


def denoiser() -> Run:
    model, task = find.network("denoiser_digits", None), find.task("denoise_digits", None, "denoiser_digits")
    masks, structure = Masks.dense(model), rs.trace(model, next(iter(task.batches("train")))[0][:1])
    wanted = [n for n in masks if not n.startswith(("embed", "unembed"))]
    groups = selectable(model, structure.groups, wanted, masks)
    run = Run(model, task, granularity=Units("width"), groups=groups)
    run.do(Mark("dense"))
    return run


def test_heads_and_mlp_units_of_a_denoiser_leave_to_a_budget_and_for_good():
    run = denoiser()
    assert [(g.kind, len(g)) for g in run.groups] == [("head", 4), ("channel", 128)] * 3
    Ecodiff(epochs=0.1)(run, [Budget.parse("0.2")])
    assert run.journal[-1]["sparsity"] >= 0.2
    task = run.task
    example = next(iter(task.batches("validation")))[0][:3]
    small = rs.shrink(run.model, run.masks, example)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in run.model.parameters())
    torch.testing.assert_close(small(example), run.model(example), rtol=1e-4, atol=1e-4)


def test_the_sampler_turns_noise_into_the_image_that_is_known():
    """A network that knows the image says the very velocity, and the sampler ends on it exactly, in however many moves."""
    task = find.task("denoise_digits", None, "denoiser_digits")
    assert isinstance(task, Sampled)
    _, _, labels, noise = next(iter(task.batches("train")))
    images = torch.rand(noise.shape) * 2 - 1

    def oracle(x: Tensor) -> Tensor:
        s, a = x[:, 1:2], x[:, 4:5]  # sin and cos of t pi / 2
        return a * noise - s * images

    made = sample(task, oracle, (noise, noise, labels, noise), keep=True)
    torch.testing.assert_close(made, images, rtol=1e-4, atol=1e-4)


def test_the_metric_is_none_for_the_best_constant():
    task = find.task("denoise_digits", None, "denoiser_digits")

    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.level.expand(len(x), 1, 8, 8)

    model = Nothing()
    with torch.no_grad():
        model.level.copy_(torch.cat([b[1].flatten() for b in task.batches("validation")]).mean())
    assert task.evaluate(model, "validation")["explained"] == pytest.approx(0.0, abs=1e-5)
    first, again = (next(iter(task.batches("train", seed=5, epoch=2))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
