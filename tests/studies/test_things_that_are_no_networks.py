"""The studies of samples, laws, differences and passages: small runs of each, and their verdicts on rows that are known."""

import json
import random

import pytest

from resprout import ResproutError
from resprout.studies import data_diet, distilled_data, extreme_deltas
from resprout.studies.average_parameters import AverageParameters
from resprout.studies.data_diet import ALL, ANEW, CHANCE, ONCE, SHORT, DataDiet
from resprout.studies.distilled_data import DistilledData
from resprout.studies.extreme_deltas import ExtremeDeltas
from resprout.studies.post_training_law import PostTrainingLaw
from resprout.studies.static_pruning import StaticPruning

WAYS = {ALL: (98.0, 100), SHORT: (97.0, 55), CHANCE: (97.0, 55), ONCE: (90.0, 55), ANEW: (98.0, 55)}


def test_a_diet_holds_where_nothing_is_lost():
    rows = [
        {"way": w, "seed": s, "test": test + 0.01 * s, "steps": steps, "seconds": 1.0, "of them drawing": 0.1}
        for s in range(3)
        for w, (test, steps) in WAYS.items()
    ]
    found = data_diet.judge(rows, near=0.5)
    assert found.holds
    assert "55 % of the steps" in found.verdict
    assert len(found.tables["Courses"]) == 5
    worse = [r | {"test": r["test"] - 3} if r["way"] == ANEW else r for r in rows]
    assert data_diet.judge(worse, near=0.5).holds is False


def test_distillation_holds_where_every_way_gains():
    def rows(chance: float) -> list:
        return [
            {"keep": 0.1, "score": w, "alpha": a, "seed": s, "student": v + 0.1 * s, "teacher": 97.0}
            for s in range(3)
            for w, a, v in (("random", 0.0, 70), ("random", 0.9, chance), ("el2n", 0.0, 20), ("el2n", 0.9, 80))
        ]

    assert distilled_data.judge(rows(82), 1.0).holds
    assert distilled_data.judge(rows(75), 1.0).holds is False


def test_differences_hold_where_both_are_better():
    rows = [
        {"optimizer": o, "seed": s, "drop": 0.99, "way": w, "test": v + 0.1 * s}
        for s in range(3)
        for o, w, v in (("Adam", "DARE", 20), ("Adam", "DAREx-q, outputs", 50), ("AdamR", "DARE", 60))
    ]
    assert extreme_deltas.judge(rows, 0.99).holds


def test_a_diet_of_digits(tmp_path):
    study = DataDiet(epochs=2, first=1, every=1, seeds=2)
    found = study(tmp_path)
    assert [r["steps"] for r in found.tables["Courses"]] == [34, 34, 25, 25, 25]
    assert study(tmp_path).verdict == found.verdict  # kept


def test_a_student_of_digits(tmp_path):
    found = DistilledData(epochs=1, student_epochs=1, seeds=2, scores=("random",))(tmp_path)
    assert {r["samples"] for r in found.tables["Trainings"]} == {114}


def test_differences_of_digits(tmp_path):
    found = ExtremeDeltas(base_epochs=1, epochs=1, drop=(0.9,), seeds=2, grid=2)(tmp_path)
    rows = found.tables["What is left"]
    assert [r["way"] for r in rows[:3]] == ["base", "tuned", "DARE"]
    assert rows[2]["KiB"] < rows[1]["KiB"]


def test_characters(tmp_path):
    chance = random.Random(0)
    text = " ".join(chance.choice(["the", "cat", "sat", "on", "a", "mat"]) for _ in range(1500))
    (tmp_path / "text.txt").write_text(text)
    found = AverageParameters(str(tmp_path / "text.txt"), width=24, steps=60, batch=32, every=5, seeds=2)(tmp_path)
    sparse, average, final = found.tables["Networks"]
    assert sparse["average weights"] == pytest.approx(average["average weights"], rel=0.06)
    assert sparse["final weights"] == pytest.approx(final["final weights"], rel=0.1)
    with pytest.raises(ResproutError, match="cannot be read"):
        AverageParameters("nowhere.txt")(tmp_path)


def test_an_index_with_planted_noise(tmp_path):
    chance = random.Random(0)
    topics = {t: [f"{t}{i}" for i in range(12)] for t in "abcdefgh"}
    common = [f"word{i}" for i in range(20)]
    rows, judged = [], []
    for i in range(80):
        own = topics["abcdefgh"[i % 8]]
        said = " ".join(f"{chance.choice(common)} {w}" for w in chance.sample(own, 10)) + f" end {i}"
        rows.append({"_id": str(i), "title": "", "text": said})
    for i in range(40):
        judged += [f"{i}\t{j}\t1" for j in range(80) if j % 8 == i % 8]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [{"_id": str(i), "text": " ".join(chance.sample(topics["abcdefgh"[i % 8]], 2))} for i in range(40)]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))
    study = StaticPruning(str(tmp_path), "grades", ("itn", "random"), (0.2, 0.4), seeds=2)
    found = study(tmp_path / "out")
    assert len(found.tables["Effectiveness"]) == 4
    assert [r["quality"] for r in found.tables["Largest share"]] == ["itn", "random"]
    with pytest.raises(ResproutError, match="holds no collection"):
        StaticPruning(str(tmp_path / "nowhere"))(tmp_path)


@pytest.mark.data
def test_the_law_of_a_language_model(tmp_path, data_dir):
    pytest.importorskip("transformers")
    study = PostTrainingLaw(
        f"hf:{data_dir}/stories260k", str(data_dir / "tinystories"), (0.5,), steps=20, looks=20, window=32, batch=2,
        validation=400, draws=0,
    )  # fmt: skip
    found = study(tmp_path)
    row = found.tables["Curves"][0]
    assert row["loss before"] < row["in the end"] < row["cut"]
    assert len(found.tables["Law"]) == 7
    assert found.holds in (True, False)
