"""Rules that remove whole units: the half-space by hand, a group lasso with a known answer, gradient resets."""

import pytest
import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.core.run import Run
from resprout.core.store import RunFolder
from resprout.core.task import Task
from resprout.core.train import Optimizer, Train
from resprout.core.units import Group, Slot
from resprout.graph.trace import trace
from resprout.methods.rule.hspg import Hspg, stays
from resprout.methods.rule.resrep import ResRep
from resprout.methods.schedule.constant import Constant
from resprout.models.resnet import ResNet

UNITS, WIDTH, TRUE = 20, 5, 5


def slot(parameter: str, dim: int, index: Tensor) -> Slot:
    return Slot(parameter, dim, index if index.dim() == 2 else index[:, None])


@pytest.mark.parametrize(
    ("trial", "epsilon", "kept"),
    [((-0.1, 0.5), 0.0, False), ((0.2, 0.5), 0.1, True), ((0.05, 0.5), 0.1, False), ((0.05, 0.5), 0.0, True)],
)
def test_the_half_space_is_the_catalogues(trial, epsilon, kept):
    assert stays(torch.tensor([[1.0, 0.0]]), torch.tensor([trial]), epsilon).tolist() == [kept]


def test_what_is_zero_stays_zero():
    assert stays(torch.zeros(1, 2), torch.ones(1, 2), 0.0).tolist() == [False]


class Additive(nn.Module):
    """y = sum over groups of x_g . w_g: the group lasso's model, one row per group."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(UNITS, WIDTH, generator=torch.Generator().manual_seed(9)) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return (x.view(-1, UNITS, WIDTH) * self.weight).sum((1, 2))


class Regression(Task):
    """Squared loss on minibatches of 32, of which the first five groups of twenty are the truth."""

    @property
    def steps_per_epoch(self) -> int:
        return 32

    def __init__(self, seed: int):
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(1024, UNITS * WIDTH, generator=g)
        truth = torch.zeros(UNITS, WIDTH)
        truth[:TRUE] = torch.randn(TRUE, WIDTH, generator=g)
        self.y = self.x @ truth.flatten() + 0.5 * torch.randn(1024, generator=g)

    def batches(self, split, *, seed=0, epoch=0, start=0, shard=(0, 1)):
        order = torch.randperm(1024, generator=torch.Generator().manual_seed(epoch)).split(32)
        yield from ((self.x[at], self.y[at]) for at in order[start:])

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean() / 2

    def evaluate(self, model, split):
        return {"accuracy": -float(self.loss(model, (self.x, self.y)))}


def lasso(seed: int) -> Run:
    run = Run(Additive(), Regression(seed), Masks({"weight": torch.ones(UNITS, WIDTH, dtype=torch.bool)}))
    run.groups = (Group("weight", "channel", (slot("weight", 0, torch.arange(UNITS)),)),)
    return run


def proximal(seed: int, steps: int, lr: float, penalty: float) -> Tensor:
    """Plain proximal SGD on the same problem, written out: (units,) norms at the end."""
    task, model = Regression(seed), Additive()
    for step in range(steps):
        epoch, start = divmod(step, task.steps_per_epoch)
        (grad,) = torch.autograd.grad(
            task.loss(model, next(task.batches("train", epoch=epoch, start=start))), model.weight
        )
        with torch.no_grad():
            trial = model.weight - lr * grad
            model.weight.copy_(trial * (1 - lr * penalty / trial.norm(dim=1, keepdim=True)).clamp(min=0))
    return model.weight.detach().norm(dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_hspg_finds_the_groups_that_proximal_steps_do_not(seed):
    steps, lr, penalty = 640, 0.05, 0.05
    run = lasso(seed)
    run.do(Train(steps, Constant(lr), Optimizer(momentum=0, decay=0), Hspg(penalty, epsilon=0.5)))
    assert run.masks["weight"].all(1).tolist() == [True] * TRUE + [False] * (UNITS - TRUE)
    assert (run.weights()["weight"] == 0).all(1).tolist() == [False] * TRUE + [True] * (UNITS - TRUE)
    plain = proximal(seed, steps, lr, penalty)
    assert (plain[:TRUE] > 0).all()
    assert int((plain[TRUE:] == 0).sum()) < (UNITS - TRUE) / 3


def network() -> tuple[nn.Sequential, Group]:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 2)
    )
    units = torch.arange(6)
    norm = [slot(f"1.{n}", 0, units) for n in ("weight", "bias", "running_mean", "running_var")]
    flat = slot("5.weight", 1, torch.arange(24).view(6, 4))
    return model, Group("0.weight", "channel", (slot("0.weight", 0, units), slot("0.bias", 0, units), *norm, flat))


def structured() -> Run:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 6, 6, generator=g)
    data = (x, (x.mean((1, 2, 3)) > 0).long())
    model, group = network()
    run = Run(model, rs.Arrays(data, data, data, batch_size=16, name="tiny"))
    run.groups = (group,)
    return run


def test_hspg_zeroes_filter_bias_and_norm_together_and_the_cut_changes_nothing(monkeypatch):
    run = structured()
    outputs = []
    put = run.set_masks

    def spy(masks):
        outputs.append(run.model.eval()(torch.ones(1, 1, 6, 6)))
        put(masks)

    monkeypatch.setattr(run, "set_masks", spy)
    run.do(Train(60, Constant(0.1), Optimizer(momentum=0, decay=0), Hspg(0.2, epsilon=0.5, project=0.25)))
    dead = ~run.masks["0.weight"].flatten(1).any(1)
    assert 0 < int(dead.sum()) < 6
    state = run.model.state_dict()
    assert all((state[n][dead] == 0).all() for n in ("0.weight", "0.bias", "1.weight", "1.bias"))
    assert torch.equal(run.masks["5.weight"].view(2, 6, 4).any(2), (~dead).expand(2, 6))
    assert torch.equal(outputs[0], run.model.eval()(torch.ones(1, 1, 6, 6)))


def test_hspg_spares_the_last_of_a_group():
    run = structured()
    run.do(Train(60, Constant(0.1), Optimizer(momentum=0, decay=0), Hspg(2.0, project=0.25, floor=2)))
    assert int(run.masks["0.weight"].flatten(1).any(1).sum()) == 2


class Stopped(BaseException):
    """A kill in the middle of training."""


@pytest.mark.parametrize("rule", [Hspg(0.2, 0.5, 0.25), ResRep(0.5, penalty=0.02, every=3)])
def test_a_run_that_was_stopped_comes_to_the_same_network(rule, tmp_path):
    def travel(folder: RunFolder | None, stop: int = -1) -> Run:
        run = structured()
        run.folder, run.save_every = folder, 0.0
        assert run.resume() == (folder is not None and stop < 0)

        def report(event, facts):
            if event == "train" and facts["step"] == stop:
                raise Stopped

        run.report = report
        run.do(Train(30, Constant(0.1), rule=rule))
        return run

    whole = travel(None)
    folder = RunFolder(tmp_path, "run", {})
    folder.path.mkdir()
    with pytest.raises(Stopped):
        travel(folder, stop=17)
    again = travel(folder)
    assert again.masks == whole.masks
    state = again.model.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in whole.model.state_dict().items())


@pytest.mark.parametrize("rule", [Hspg(), ResRep(0.5)])
def test_rules_for_units_ask_for_groups(rule):
    run = lasso(0)
    run.groups = ()
    with pytest.raises(ResproutError, match="granularity='channel'"):
        run.do(Train(1, Constant(0.1), rule=rule))


def test_resrep_resets_the_gradient_of_the_forgotten_and_penalises_all():
    """Two units with scales 1: gradients by hand, one forgotten, lambda 0.1, learning rate 0.5, no momentum."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        model.bias.zero_()
    units, blank = torch.arange(2), (torch.zeros(4, 2), torch.zeros(4).long())
    run = Run(model, rs.Arrays(blank, blank, blank, name="none"))
    run.groups = (Group("weight", "channel", (slot("weight", 0, units), slot("bias", 0, units))),)
    run.optimizer = torch.optim.SGD(model.parameters(), 0.5)
    rule = ResRep(0.5, penalty=0.1, momentum=0.0)
    rule.begin(run, 10)
    run.slots["keep:weight"] = torch.tensor([True, False])
    model.weight.grad, model.bias.grad = torch.tensor([[0.4, 0.0], [0.0, 5.0]]), torch.zeros(2)
    rule.after_backward(run, 1, 10)
    rule.after_step(run, 1, 10)  # the optimizer itself has not moved: what moves is the scale
    # kept: dL/dq = 0.4 * 1, so q = 1 - 0.5 * (0.4 + 0.1) = 0.75; forgotten: dL/dq = 5 * 2 is reset, q = 1 - 0.5 * 0.1
    assert run.slots["q:weight"].tolist() == pytest.approx([0.75, 0.95])
    assert model.weight.diag().tolist() == pytest.approx([0.75, 2 * 0.95])
    rule.after_backward(run, 2, 10)  # what is behind the scale learns as through it: gradients times q^2
    assert model.weight.grad.diag().tolist() == pytest.approx([0.4 * 0.75**2, 5 * 0.95**2])


def test_resrep_forgets_the_asked_share_and_cuts_it():
    run = structured()
    run.do(Train(60, Constant(0.05), rule=ResRep(0.5, penalty=0.02, start=0.1, every=4)))
    dead = ~run.masks["0.weight"].flatten(1).any(1)
    assert int(dead.sum()) == 3
    norm = run.model.state_dict()["1.weight"]
    assert (norm[dead] == 0).all()
    assert (norm[~dead] != 0).all()


@pytest.mark.parametrize("rule", [Hspg(1.0, epsilon=0.5, project=0.2), ResRep(0.4, penalty=0.01, every=4)])
def test_on_traced_groups_the_shrunk_network_is_the_trained_one(rule):
    """A residual network, whose sums tie the units of several layers."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, 16, 16, generator=g)
    data = (x, (x.mean((1, 2, 3)) > 0).long())
    torch.manual_seed(0)
    run = Run(ResNet(1, classes=2), rs.Arrays(data, data, data, batch_size=16, name="tiny"))
    structure = trace(run.model, x[:1])
    run.groups = structure.groups
    run.do(Train(24, Constant(0.1), Optimizer(momentum=0, decay=0), rule))
    small = rs.shrink(run.model, run.masks, structure=structure).eval()
    sizes = [sum(p.numel() for p in m.parameters()) for m in (small, run.model)]
    assert sizes[0] < 0.95 * sizes[1]
    torch.testing.assert_close(small(x), run.model.eval()(x), atol=1e-5, rtol=1e-5)
