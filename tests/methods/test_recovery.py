"""What is trained after a cut, and towards what: PERP's parts, distillation, text of the dense network's own."""

import pytest
import torch
from tiny_lm import ADAMW, Tiny, cut, dense, nats, text, trained
from torch import Tensor, nn

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.kinds import Objective, Tune
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune
from resprout.core.train import Train
from resprout.core.tuned import Tuned
from resprout.methods.allocate.uniform import Uniform
from resprout.methods.objective.feature_kd import FeatureKd
from resprout.methods.objective.logit_kd import LogitKd
from resprout.methods.recover.finetune import Finetune
from resprout.methods.recover.perp import Perp
from resprout.methods.recover.reconstruct import Rebuild, Reconstruct
from resprout.methods.recover.self_data_distill import SelfDataDistill
from resprout.methods.schedule.constant import Constant
from resprout.methods.schedule.linear import Linear
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.tune.biases_norms import BiasesNorms
from resprout.methods.tune.mask_lora import MaskLora
from resprout.methods.tune.scale_lora import ScaleLora
from resprout.models import build
from resprout.numerics.distance import kl


@pytest.fixture(name="trained")
def trained_fixture() -> dict[str, Tensor]:
    return trained()


# -- what is trained -----------------------------------------------------------------------------------------------


def test_biases_and_norms_are_those():
    model = build("resnet20")
    tune = BiasesNorms()
    own = set(tune.own(model))
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert own == {f"{n}.{p}" for n in norms for p in ("weight", "bias")} | {
        n for n, p in model.named_parameters() if n.endswith("bias")
    }
    assert set(BiasesNorms(norms=False).own(model)) == {n for n in own if n.endswith("bias") and n[:-5] not in norms}
    assert set(BiasesNorms(biases=False).own(model)) == {n for n in own if n.rpartition(".")[0] in norms}
    assert sum(model.get_parameter(n).numel() for n in own) / sum(p.numel() for p in model.parameters()) < 0.01


def test_the_factors_by_hand():
    weight, mask = torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([[True, False], [True, True]])
    beside = {"a": torch.tensor([[1.0, 10.0]]), "b": torch.tensor([[0.5], [2.0]])}  # B A = [[.5, 5], [2, 20]]
    assert MaskLora(1, 2.0).effective(weight, mask, beside).tolist() == [[2.0, 0.0], [6.0, 43.0]]
    assert MaskLora(1, 2.0, masked=False).effective(weight, mask, beside).tolist() == [[2.0, 10.0], [6.0, 43.0]]
    made = ScaleLora(1).effective(weight, mask, {"a": beside["a"] - 1, "b": beside["b"] - 1})
    assert made.tolist() == [[0.5, 0.0], [4.0, 60.0]]


@pytest.mark.parametrize("tune", [ScaleLora(r) for r in (1, 3, 5, 7, 16)] + [MaskLora(3), MaskLora(3, masked=False)])
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3), (6, 1, 5)])
def test_it_begins_with_the_very_weights(tune, shape):
    weight = torch.randn(shape)
    beside = tune.beside("layer.weight", weight, torch.Generator().manual_seed(0))
    assert torch.equal(tune.effective(weight, weight > 0, beside), weight)
    assert all(t.shape == ((len(weight), len(beside["a"]))) for t in (beside["b"],))
    assert len(beside["a"]) == min(tune.rank, len(weight), weight[0].numel())


def test_all_terms_of_a_scale_stay_alike(trained):
    """What the card says: begun alike, r terms learn alike."""
    run = cut(trained)
    kept = {}
    run.report = lambda event, facts: kept.update({n: t.clone() for n, t in run.slots.items()})
    run.do(Train(3, Constant(1e-2), ADAMW, tune=ScaleLora(4)))
    a = [t for n, t in kept.items() if n.endswith("up.weight:a")]
    assert a[0].abs().max() > 1e-3
    assert all(torch.allclose(row, t[0], atol=1e-5) for t in a for row in t)


def test_layers_by_a_part_of_their_names(trained):
    run = cut(trained)
    tune = MaskLora(2, layers=r"1\.(up|down)", biases_norms=False)
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    facts = run.do(Train(2, Constant(1e-2), ADAMW, tune=tune))
    moved = {n for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"blocks.1.up.weight", "blocks.1.down.weight"}
    assert facts["tuned"] == 2 * (48 + 48) + 2 * (48 + 24)
    with pytest.raises(rs.ResproutError, match=r"layers='ffn' is found in no name such as embed.weight"):
        run.do(Train(2, Constant(1e-2), tune=MaskLora(layers="ffn")))
    with pytest.raises(rs.ResproutError, match="rank must be 1 or more"):
        run.do(Train(2, Constant(1e-2), tune=ScaleLora(0)))


@pytest.mark.parametrize("tune", [MaskLora(4), MaskLora(4, masked=False), ScaleLora(4)], ids=repr)
def test_merged_zeros_stay_zeros_and_outputs_are_the_same(trained, tune):
    run = cut(trained)
    ids = run.task.test[:64].view(2, 32)
    part = Tuned(run, tune)
    plain = run.model(ids)
    assert torch.equal(part(ids), plain)
    with torch.no_grad():
        for p in part.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) / 20)
        apart = part(ids)
        part.finish(done=True)
        assert not torch.allclose(apart, plain, atol=1e-2)
        if getattr(tune, "masked", True):
            assert torch.allclose(run.model(ids), apart, atol=1e-5)
    assert all(not w[~run.masks[n]].any() for n, w in run.weights().items())


def test_the_ladder_of_perp(trained):
    """Biases and norms give back more than 30 % of the gap, MaskLoRA more than these, all weights are the ceiling."""
    run = cut(trained, 0.8)
    whole, start = nats(dense(trained)), nats(run)
    run.mark("cut")
    back = {}
    for name, tune, lr in (("small", BiasesNorms(), 1e-2), ("mask", MaskLora(4, 8.0), 5e-3), ("all", None, 3e-3)):
        run.restore("cut")
        for step in Finetune(Linear(lr, 0.0, 0.1), ADAMW, tune=tune)(60):
            run.do(step)
        back[name] = (start - nats(run)) / (start - whole)
    assert back["small"] > 0.3
    assert back["mask"] > back["small"] + 0.02
    assert back["all"] > back["mask"] - 0.02


def test_perp_is_adamw_with_a_tenth_of_warm_up(trained):
    run, seen = cut(trained), []
    run.report = lambda event, facts: seen.append(facts["lr"]) if event == "train" else None
    (step,) = Perp(1e-2, MaskLora(2), LogitKd())(20)
    facts = run.do(step)
    assert seen[0] == 0
    assert max(seen) == seen[2] == pytest.approx(1e-2)
    assert seen[-1] == pytest.approx(1e-2 / 18)
    assert facts["tuned"] < sum(p.numel() for p in run.model.parameters()) / 3


def test_layers_are_reconstructed(trained):
    run = cut(trained, 0.8)
    before = nats(run)
    start = {n: w.detach().clone() for n, w in run.weights().items()}
    facts = run.do(Rebuild(MaskLora(8, biases_norms=False), 60, 1e-2))
    assert list(facts["errors"]) == list(run.masks)
    assert all(after < before for before, after in facts["errors"].values())
    assert nats(run) < before - 0.05
    assert all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())
    assert run.trained == 0
    first, layer = next(iter(run.masks)), run.model.blocks[0]  # pyright: ignore
    with torch.no_grad():  # the first layer's error on the calibration data, from its inputs themselves
        error = []
        for batch in run.probe().data():
            y = layer.norm(run.model.embed(batch))  # pyright: ignore
            past = y.cumsum(1) / torch.arange(1, 33)[:, None]
            x = torch.cat([y, past], -1)
            goal = x @ trained[first].T
            error.append([float((goal - x @ w.T).square().sum()) for w in (start[first], run.weights()[first])])
            error[-1].append(float(goal.square().sum()))
    was, now, whole = (sum(e) for e in zip(*error, strict=True))
    assert facts["errors"][first] == pytest.approx([was / whole, now / whole], rel=1e-4)
    steps = Reconstruct(then=Perp())(7)
    assert [type(s).__name__ for s in steps] == ["Rebuild", "Train"]
    with pytest.raises(rs.ResproutError, match="mark it first"):
        Run(Tiny(), text()).do(Reconstruct()(1)[0])


def test_convolutions_are_reconstructed():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 6),
    )
    x, y = torch.randn(64, 2, 4, 4), torch.randint(6, (64,))
    run = Run(model, rs.Arrays((x, y), (x, y), (x, y), batch_size=16, flip=False))
    run.do(Mark("dense"))
    run.do(Prune(0.5, Magnitude(), Uniform()))
    model.eval()
    with torch.no_grad():
        was = model(x)
        (step,) = Reconstruct(MaskLora(4, 8.0), each=40)(0)
        facts = run.do(step)
        now = model(x)
        run.restore("dense")
        goal = model(x)
    assert all(after < before for before, after in facts["errors"].values())
    assert float((now - goal).square().sum()) < 0.8 * float((was - goal).square().sum())


def test_healing_lowers_the_loss_all_the_way(trained):
    """What the healing of Gromov et al. promises of a model that a layer was cut out of: adapters in what is left of the MLPs."""
    run = dense(trained)
    run.set_masks(rs.Masks({n: m & ("blocks.1." not in n) for n, m in run.masks.items()}))
    start = run.evaluate()
    facts = run.do(
        Train(200, Linear(3e-3, 0.0, 0.1), ADAMW, looks=4, tune=MaskLora(4, 8.0, layers="blocks", biases_norms=False))
    )
    looks = [start, *(value for _, _, value in facts["curve"])]
    assert looks == sorted(looks)
    assert not any(run.weights()[n].any() for n in run.masks if "blocks.1." in n)


# -- towards what --------------------------------------------------------------------------------------------------


def test_logit_distillation_by_hand(trained):
    run = cut(trained)
    batch = run.task.test[:64].view(2, 32)
    own, task = run.model(batch), run.task.loss(run.model, batch)
    with torch.no_grad():
        twin = Tiny()
        twin.load_state_dict(trained)
        goal = twin(batch)
    assert float(LogitKd()(run, run.model, batch).detach()) == pytest.approx(float(kl(goal, own.detach())), rel=1e-6)
    mixed = 0.7 * 16 * kl(goal, own.detach(), 4.0) + 0.3 * task.detach()
    assert float(LogitKd(4.0, 0.3)(run, run.model, batch).detach()) == pytest.approx(float(mixed), rel=1e-6)
    run.restore("dense")
    assert float(LogitKd()(run, run.model, batch).detach()) == 0
    assert torch.equal(FeatureKd(weight=9)(run, run.model, batch), run.task.loss(run.model, batch))
    assert float(FeatureKd("cosine", beside=LogitKd())(run, run.model, batch).detach()) == pytest.approx(0, abs=1e-6)
    for wrong in ({"temperature": 0.0}, {"task": 1.5}):
        with pytest.raises(rs.ResproutError, match="temperature above 0"):
            LogitKd(**wrong)
    with pytest.raises(rs.ResproutError, match="'mse' or 'cosine'"):
        FeatureKd("l1")  # pyright: ignore


@pytest.mark.parametrize("measure", ["mse", "cosine"])
def test_feature_distillation_by_hand(trained, measure):
    run = cut(trained)
    batch = run.task.test[:64].view(2, 32)
    twin = Tiny()
    twin.load_state_dict(trained)

    def states(model: Tiny) -> list[Tensor]:
        x, found = model.embed(batch), []
        for block in model.blocks:
            x = block(x)
            found.append(x)
        return found

    pairs = zip(states(twin), states(run.model), strict=True)  # pyright: ignore
    if measure == "mse":
        each = [(a - b).square().sum() / a.square().sum() for a, b in pairs]
    else:
        each = [(1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean() for a, b in pairs]
    wanted = run.task.loss(run.model, batch) + 0.5 * sum(each) / 3
    assert float(FeatureKd(measure, 0.5)(run, run.model, batch).detach()) == pytest.approx(
        float(wanted.detach()), rel=1e-5
    )


def test_a_teacher_teaches_more_than_the_text(trained):
    """Minitron's finding: from the same cut and at equal tokens, the logits of the dense network beat the next token."""
    ends = {}
    for name, objective in (("text", None), ("logits", LogitKd()), ("states", FeatureKd(beside=LogitKd()))):
        run = cut(trained, 0.8)
        for step in Finetune(Linear(3e-3, 0.0, 0.1), ADAMW, objective=objective)(60):
            run.do(step)
        ends[name] = nats(run)
    assert ends["logits"] < ends["text"]
    assert ends["states"] < ends["text"]


@pytest.mark.parametrize(
    "objective", [LogitKd(4.0, 0.1), FeatureKd(blocks="", beside=LogitKd()), FeatureKd("cosine", blocks="")]
)
@pytest.mark.parametrize("tune", [None, BiasesNorms(), MaskLora(2), ScaleLora(2)])
def test_all_of_it_on_a_classifier(tiny, objective: Objective, tune: Tune):
    g = torch.Generator().manual_seed(1)
    x, tiny[5].p = torch.randn(64, 2, 4, 4, generator=g), 0.0
    y = x.mean((2, 3)).argmax(1) + 2 * (x[:, 0, 0, 0] > 0)
    run = Run(tiny, rs.Arrays((x, y), (x, y), (x, y), batch_size=32, flip=False))
    run.do(Train(60, Constant(1e-2), ADAMW))
    run.do(Mark("dense"))
    run.do(Prune(0.5, Magnitude(), Uniform()))

    def apart() -> float:
        run.model.eval()
        return float(objective(run, run.model, (x, y)).detach())

    before = apart()
    for step in Finetune(Linear(1e-2, 0.0), ADAMW, objective=objective, tune=tune)(30):
        run.do(step)
    assert apart() < before
    assert all(not w.detach()[~run.masks[n]].any() for n, w in run.weights().items())


def test_the_command_line_reads_them(trained):
    words = (
        "remove_once(epochs=0.2, remover=by_score(score=magnitude, allocate=uniform), "
        "recover=finetune(tune=mask_lora(rank=8, layers='up|down'), objective=logit_kd(task=0.5)))"
    )
    recipe = find.method("recipe", words)
    assert recipe.recover.tune == MaskLora(8, layers="up|down")  # pyright: ignore
    assert recipe.recover.objective == LogitKd(task=0.5)  # pyright: ignore
    run = dense(trained)
    recipe(run, [Budget.parse("0.7")])  # pyright: ignore
    assert [r["step"] for r in run.journal] == ["Mark", "Remove", "Train", "Arrive"]
    assert run.masks.sparsity == pytest.approx(0.7, abs=1e-3)
    more = find.method("recover", "perp(tune=scale_lora, objective=feature_kd(measure=cosine, beside=logit_kd))")
    assert more == Perp(tune=ScaleLora(), objective=FeatureKd("cosine", beside=LogitKd()))
    own = find.method("recover", "self_data_distill(sets=2, then=finetune(tune=biases_norms))")
    assert own == SelfDataDistill(Finetune(tune=BiasesNorms()), sets=2)
