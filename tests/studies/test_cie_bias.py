"""Whom compression hurts: groups by hand, and the planted minority of the catalogue's check."""

import dataclasses

import pytest
import torch

from resprout import find
from resprout.core.errors import ResproutError
from resprout.evaluate import exemplars
from resprout.studies._population import AGAIN, DENSE, Population, levels, stacked
from resprout.studies._synthetic import perceptron, two_groups
from resprout.studies.cie_bias import CieBias, Part, excess, group_rows, groups_of


def planted(wrong: dict[str, list[int]], samples: int = 200, models: int = 5) -> Part:
    """A part whose populations get the given samples wrong, and network i sample 100 + i; the minority is the first ten."""
    labels = torch.arange(samples) % 2
    predicted = {}
    for label, places in wrong.items():
        said = labels.repeat(models, 1)
        said[:, places] = 1 - said[:, places]
        for i in range(models):
            said[i, 100 + i] = 1 - said[i, 100 + i]
        predicted[label] = said
    member = torch.arange(samples) < 10
    task = two_groups(train=20, test=20)
    return Part("planted", task, predicted, labels, 2, {"minority": member, "majority": ~member})


def test_rows_of_a_planted_minority_by_hand():
    part = planted({DENSE: [0], AGAIN: [1], "90 %": [0, 2, 3, 50]})
    rows = {(r["group"], r["population"]): r for r in group_rows(part, levels((0.9,)))}
    hurt = rows["minority", "90 %"]
    assert hurt["error"] == pytest.approx(30)  # 0, 2 and 3 of ten
    assert hurt["false positives"] == pytest.approx(40)  # 0 and 2 of five
    assert hurt["false negatives"] == pytest.approx(20)  # 3 of five
    assert hurt["change"] == pytest.approx(200)
    assert hurt["over-indexing"] == pytest.approx((2 / 3) / (10 / 200))  # exemplars are 2, 3 and 50
    assert rows["majority", "90 %"]["error"] == pytest.approx(100 * 2 / 190)
    gap = excess(part, "90 %", part.groups["minority"])
    assert gap.mean == pytest.approx(20 - 100 / 190)
    assert rows["minority", DENSE]["over-indexing"] is None, "no exemplar, no share"


def test_the_verdict_of_a_planted_minority():
    hurt = planted({DENSE: [], AGAIN: [], "90 %": list(range(8))}, samples=4000)
    found = CieBias(sparsities=(0.9,)).judge([hurt, dataclasses.replace(hurt, name="other")], levels((0.9,)))
    assert found.holds is True
    assert "most atypical" not in found.verdict
    image = dataclasses.replace(hurt, name="images", groups=hurt.groups | {"most atypical": hurt.groups["minority"]})
    both = CieBias(sparsities=(0.9,)).judge([hurt, image], levels((0.9,))).verdict
    assert "images task, 90 % sparsity: the error of the most atypical tenth changes by +80.0 points more" in both
    assert "'minority' (0.25 % of the samples) by +80.0 points" in found.verdict
    same = planted({DENSE: [0, 20], AGAIN: [1], "90 %": [0, 20]}, samples=4000)
    assert CieBias(sparsities=(0.9,)).judge([same, same], levels((0.9,))).holds is None
    spared = planted({DENSE: list(range(8)), AGAIN: [], "90 %": []}, samples=4000)
    assert CieBias(sparsities=(0.9,)).judge([spared, spared], levels((0.9,))).holds is False


def test_groups_of_images_are_classes_and_tenths():
    task = find.task("digits", None, "digits_cnn")
    labels = task.test[1]  # pyright: ignore[reportAttributeAccessIssue]
    found = groups_of(task, labels, 10)
    assert [int(found[f"class {c}"].sum()) for c in range(10)] == torch.bincount(labels).tolist()
    light = task.test[0].mean((1, 2, 3))  # pyright: ignore[reportAttributeAccessIssue]
    assert int(found["brightest"].sum()) == int(found["darkest"].sum()) == int(found["most atypical"].sum()) == 36
    assert light[found["brightest"]].min() >= light[~found["brightest"]].max()
    assert light[found["darkest"]].max() <= light[~found["darkest"]].min()


def test_a_tasks_own_groups_are_taken_and_checked():
    task = two_groups(0.1, train=50, test=80)
    assert groups_of(task, task.test[1], 2)["minority"].sum() == 8
    bad = dataclasses.replace(task, attributes={"odd": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ResproutError, match="attributes\\['odd'\\]"):
        groups_of(bad, task.test[1], 2)
    with pytest.raises(ResproutError, match="minority"):
        two_groups(0.6)


def test_the_planted_task_is_what_it_says():
    task = two_groups(0.05, train=100, test=2000, seed=3)
    (x, y), member = task.test, task.attributes["minority"]
    assert int(member.sum()) == 100
    assert torch.equal(x[:, 0] == 1, member)
    rule = torch.where(member, x[:, 11:].mean(1), x[:, 1:11].mean(1)) > 0
    assert torch.equal(rule.long(), y)
    assert task.fingerprint == two_groups(0.05, train=100, test=2000, seed=3).fingerprint
    assert task.fingerprint != two_groups(0.05, train=100, test=2000, seed=4).fingerprint


@pytest.mark.slow
def test_the_minority_is_over_represented_among_the_exemplars(tmp_path):
    """The catalogue's check: over-indexing above 3 at 95 %, dense accuracy on exemplars 20 points lower than on the rest."""
    task = two_groups()
    networks = Population(tmp_path, task, lambda seed: perceptron(21, 128, 2, seed=seed), steps=620, models=5)
    predicted = {label: stacked(m) for label, m in networks.all({DENSE: 0.0, AGAIN: 0.0, "95 %": 0.95}).items()}
    labels, minority = task.test[1], task.attributes["minority"]
    chosen = exemplars.exemplars(predicted[DENSE], predicted["95 %"], 2)
    assert exemplars.over_indexing(chosen, minority) > 3
    for who in (DENSE, AGAIN):  # the second had no part in the choice
        inside, outside = (exemplars.accuracies(predicted[who], labels, c).mean() for c in (chosen, ~chosen))
        assert outside - inside > 0.2
    overall = [exemplars.accuracies(predicted[x], labels).mean() for x in (DENSE, "95 %")]
    assert abs(overall[0] - overall[1]) < 0.02
