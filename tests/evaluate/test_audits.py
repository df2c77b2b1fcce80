"""The audits: each question on networks of which the answer is known, and the way through `fit`."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import resprout as rs
from resprout import catalog, find
from resprout.core.errors import ResproutError
from resprout.evaluate.attack import fgsm, pgd
from resprout.evaluate.audit._audit import Auditor, Subject, plain
from resprout.evaluate.audit.calibration import Calibration, temperature
from resprout.evaluate.audit.privacy import Privacy
from resprout.evaluate.audit.robustness import Robustness
from resprout.evaluate.audit.subgroups import Subgroups
from resprout.evaluate.membership import ATTACKS, attacked, best_threshold, modified_entropy
from resprout.evaluate.outputs import Outputs
from resprout.report.audited import tables
from resprout.report.page import write_page
from resprout.studies._synthetic import perceptron, two_groups
from resprout.tasks.digits import digits


def noise_task(count: int = 500, inputs: int = 20) -> rs.Arrays:
    """Random labels: whoever is right on training data has learnt it by heart."""
    g = torch.Generator().manual_seed(0)
    parts = [(torch.randn(count, inputs, generator=g), torch.randint(2, (count,), generator=g)) for _ in range(3)]
    return rs.Arrays(*parts, batch_size=100)


def learn(model: nn.Module, task: rs.Arrays, steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    epoch = 0
    while steps > 0:
        for batch in task.batches("train", epoch=epoch):
            optimizer.zero_grad()
            task.loss(model, batch).backward()
            optimizer.step()
            steps -= 1
        epoch += 1
    return model.eval()


# -- privacy ---------------------------------------------------------------------------------------------------


def test_members_like_strangers_are_not_told_apart_and_memories_are():
    """The calibration that the catalogue asks for: AUC 0.5 +- 0.02 without a difference, above 0.9 by heart."""
    task = noise_task(4000)
    untrained = perceptron(20, 64, 2, seed=3)
    fair = Privacy(samples=4000, draws=50)(Subject(untrained, task))
    for row in fair["attacks"]:
        assert row["auc"] == pytest.approx(0.5, abs=0.02 if row["attack"] != "network" else 0.04), row
        assert row["auc interval"][0] < 0.5 < row["auc interval"][1]
    small = noise_task(300)
    by_heart = learn(perceptron(20, 256, 2, seed=3), small, 600)
    found = Privacy(samples=300, draws=50)(Subject(by_heart, small))
    assert found["auc"] > 0.9
    assert found["attack accuracy"] > 0.8
    assert found["generalisation gap"] > 0.4


def test_the_area_and_the_rate_by_hand():
    found = attacked(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([2.0, 0.0, 0.0]), rate=0.4, draws=20)
    assert found.auc == pytest.approx((3 + 2.5 + 2) / 9)  # equal scores count half
    assert found.tpr == 1  # one stranger of three may pass, so that the threshold lies just above the zeros
    assert attacked(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([2.0, 0.0, 0.0]), rate=0.3, draws=5).tpr == 1 / 3
    assert attacked(torch.tensor([2.0]), torch.tensor([2.0]), draws=5).tpr == 0  # a tie is no member
    assert best_threshold(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([2.0, 0.0, 0.0])) == 1.0


def test_the_area_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, generator=g).round(decimals=1) + 0.5, torch.randn(200, generator=g).round(decimals=1)
    truth = [1] * 300 + [0] * 200
    expected = metrics.roc_auc_score(truth, torch.cat([a, b]).numpy())
    assert attacked(a, b, draws=5).auc == pytest.approx(expected)


def test_modified_entropy_knows_the_label_and_entropy_does_not():
    said = Outputs(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))
    assert modified_entropy(said)[0] > modified_entropy(said)[1]
    assert ATTACKS["entropy"](said)[0] == ATTACKS["entropy"](said)[1]
    p = said.logits.double().softmax(1)[1]
    by_hand = (1 - p[1]) * p[1].log() + p[0] * (1 - p[0]).log()
    assert float(modified_entropy(said)[1]) == pytest.approx(float(by_hand))


def test_members_are_seen_without_augmentation():
    task = digits()
    assert task.pad
    x, _ = next(iter(plain(task).batches("train", seed=5)))
    whole = task._scale(task.train[0])
    assert all((whole == image).flatten(1).all(1).any() for image in x[:5])


# -- robustness ------------------------------------------------------------------------------------------------


def test_an_attack_stays_in_its_box_and_finds_the_corner_of_a_linear_loss():
    x, w = torch.rand(4, 3), torch.tensor([1.0, -2.0, 0.5])
    moved = pgd(lambda v: (v @ w).sum(), x, 0.1, 0.05, 10, 0.0, 1.0)
    assert torch.allclose(moved, (x + 0.1 * w.sign()).clamp(0, 1))
    assert torch.equal(fgsm(lambda v: (v @ w).sum(), x, 0.1), x + 0.1 * w.sign())
    g = torch.Generator().manual_seed(0)
    wild = pgd(lambda v: (v**2).sum(), x, torch.tensor([0.1, 0.2, 0.0]), 1.0, 5, generator=g)
    assert bool(((wild - x).abs() <= torch.tensor([0.1, 0.2, 0.0]) + 1e-6).all())


def test_robustness_without_room_is_the_accuracy_and_more_room_is_less():
    task = dataclasses.replace(digits(), pad=0)
    torch.manual_seed(0)
    model = learn(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), task, 200)
    still = Robustness(epsilon=0.0, severities=())(Subject(model, task))
    assert still["fgsm"] == still["pgd"] == still["clean"] > 0.85
    little, much = (Robustness(epsilon=e, severities=())(Subject(model, task)) for e in (0.03, 0.15))
    assert still["clean"] > little["pgd"] > much["pgd"]
    assert much["pgd"] <= much["fgsm"]
    worse = Robustness(severities=(1, 5))(Subject(model, task))["corruptions"]
    mean = {s: sum(r["accuracy"] for r in worse if r["severity"] == s) for s in (1, 5)}
    assert mean[1] > mean[5]


def test_an_audit_leaves_the_mode_of_every_module_as_it_was():
    """Norms that are frozen while all else learns stay frozen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)).train()
    model[1].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    subject = Subject(model, digits(), Subject(model, digits()))
    for audit in (Robustness(samples=20, severities=(1,)), Calibration(), Privacy(samples=20, draws=2), Subgroups()):
        audit(subject)
        assert [m.training for m in model.modules()] == [True, True, False, True, True], audit
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_audits_refuse_what_does_not_fit():
    with pytest.raises(ResproutError, match="images"):
        Auditor({"robustness": Robustness()}, noise_task())
    odd = dataclasses.replace(digits(), mean=(), std=(), train=(torch.randn(9, 1, 8, 8), torch.arange(9)))
    odd = dataclasses.replace(odd, test=odd.train)
    with pytest.raises(ResproutError, match=r"\[0, 1\]"):
        Robustness().check(odd)
    with pytest.raises(ResproutError, match="severities"):
        Robustness(severities=(9,)).check(digits())
    with pytest.raises(ResproutError, match="did you mean"):
        catalog.audits("privcy")
    with pytest.raises(ResproutError, match="once"):
        catalog.audits(["privacy", Privacy(draws=3)])


# -- calibration and subgroups ---------------------------------------------------------------------------------


def test_calibration_finds_the_temperature_that_was_planted():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=g) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    assert temperature(Outputs(logits, labels)) == pytest.approx(1.0, abs=0.1)
    assert temperature(Outputs(logits * 3, labels)) == pytest.approx(3.0, abs=0.3)
    task = rs.Arrays(*[(logits * 3, labels)] * 3)
    found = Calibration()(Subject(nn.Sequential(nn.Identity(), Scale()), task))
    assert found["error"] > 0.1 > 0.04 > found["error scaled"]
    assert sum(row["samples"] for row in found["bins"]) == 4000


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.one


def test_subgroups_find_the_minority_that_pays():
    """A network that has forgotten the minority's rule, beside one that knows both."""
    task = two_groups(0.1, train=400, test=1000)

    class Rule(nn.Module):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.unit, self.both = nn.Parameter(torch.ones(())), both

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x[:, 1:11].mean(1), x[:, 11:].mean(1)
            said = torch.where(x[:, 0] > 0, b, a) if self.both else a
            return torch.stack([-said, said], 1) * self.unit

    dense = Subject(Rule(True), task)
    found = Subgroups()(Subject(Rule(False), task, dense))
    assert found["worst group"] == found["pays most"] == "minority"
    row = next(r for r in found["groups"] if r["group"] == "minority")
    assert row["dense error"] == 0
    assert row["excess"] == pytest.approx(row["error"], abs=1e-9)
    assert row["z"] > 5
    assert row["over-indexing"] == pytest.approx(10, rel=0.01)
    same = Subgroups()(Subject(Rule(True), task, dense))
    assert same["changed samples"] == 0


# -- the way through fit ---------------------------------------------------------------------------------------


def test_any_run_can_be_asked_during_and_after(tmp_path):
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    how = {"budget": 0.8, "epochs": 1, "dense_epochs": 1, "curve": False, "out": tmp_path}
    bare = rs.fit(model(), digits(), **how)
    assert bare.dense.audits == {}
    quick = [
        Robustness(samples=20, steps=2, severities=(1,)),
        Privacy(samples=50, draws=20),
        "subgroups",
        "calibration",
    ]
    after = rs.fit(model(), digits(), audit=quick, **how)
    assert after.folder == bare.folder  # the same run, asked more
    assert after.journal == bare.journal
    for arrival in (after.dense, *after.frontier):
        assert set(arrival.audits) == {"robustness", "privacy", "subgroups", "calibration"}
        assert arrival.audits["calibration"]["accuracy"] == pytest.approx(arrival.test)
    assert rs.Result.read(after.folder) == after
    again = rs.fit(model(), digits(), audit="calibration", **how)
    assert again == after  # known answers are kept
    others = how | {"out": tmp_path / "other"}
    during = rs.fit(model(), digits(), audit=quick, **others)
    assert during.frontier[0].audits == after.frontier[0].audits
    assert json.dumps(during.dense.audits) == json.dumps(after.dense.audits)
    titles = [title for title, _, _ in tables(after)]
    assert titles[0].startswith("audit Robustness(")
    pytest.importorskip("plotly")
    page = write_page(after.folder).read_text()
    assert "reliability" in page.lower()
    assert "tpr at 1 % fpr" in page


def test_audits_on_the_command_line_may_have_settings():
    made = find.several("audit", "robustness(samples=20, severities=(1, 2)), privacy")
    assert made == [Robustness(samples=20, severities=(1, 2)), Privacy()]
    assert {c.name for c in catalog.cards() if c.kind == "audit"} == {
        "calibration", "privacy", "robustness", "subgroups",
    }  # fmt: skip
