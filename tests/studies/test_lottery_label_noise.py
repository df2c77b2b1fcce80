"""Lottery tickets under label noise: the known task, the phases of planted curves, and a chain that goes on."""

import json

import numpy as np
import pytest
import torch

from resprout import find
from resprout.core.errors import ResproutError
from resprout.studies._study import Finding
from resprout.studies._synthetic import mixture, noisy
from resprout.studies.lottery_label_noise import LotteryLabelNoise, judge, phases

SMALL = {"widths": (8, 16), "seeds": 2, "epochs": 2, "samples": 100, "rate": 0.5, "down_to": 40}


def test_the_mixture_knows_its_truth():
    task = mixture(0.2, train=50, test=20_000, axes=4)
    truth, y = task.truth, task.test[1]
    assert torch.allclose(truth.sum(1), torch.ones(len(y)).double())
    assert 0.2 - 1e-9 <= float(truth.min()) <= float(truth.max()) <= 0.8 + 1e-9
    flat = truth.gather(1, y[:, None])[:, 0]
    assert float(flat.mean()) == pytest.approx(float((truth**2).sum(1).mean()), abs=0.01), (
        "labels are drawn from the truth"
    )
    for low, high in ((0.2, 0.3), (0.3, 0.7), (0.7, 0.8)):
        here = (truth[:, 1] > low) & (truth[:, 1] < high)
        assert float(y[here].double().mean()) == pytest.approx(float(truth[here, 1].mean()), abs=0.04)
    assert float((truth.amax(1) > 0.79).double().mean()) > 0.9, (
        "nearly every label follows from the input but for the flips"
    )


def test_noise_on_the_labels_of_a_real_task():
    clean = find.task("digits", None, "digits_cnn")
    task = noisy(clean, 0.3, seed=1)  # pyright: ignore[reportArgumentType]
    for split in ("train", "validation", "test"):
        (x, y), (x0, y0) = getattr(task, split), getattr(clean, split)
        assert torch.equal(x, x0)
        assert float((y != y0).double().mean()) == pytest.approx(0.3, abs=0.06)
    y0 = clean.test[1]  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.allclose(task.truth[torch.arange(len(y0)), y0], torch.tensor(0.7).double())
    assert torch.allclose(task.truth.sum(1), torch.ones(len(y0)).double())
    assert torch.equal(noisy(clean, 0.0, seed=1).test[1], y0)  # pyright: ignore[reportArgumentType]


def test_phases_of_a_planted_double_descent():
    fit = [1, 1, 1, 1, 0.995, 0.97, 0.92, 0.88, 0.82, 0.8, 0.7, 0.6]
    good = [0.7, 0.7, 0.69, 0.66, 0.62, 0.63, 0.70, 0.76, 0.80, 0.78, 0.65, 0.5]
    found = phases(fit, good, 4000)
    assert found.best == 8
    assert found.names == (*["light"] * 3, *["critical"] * 4, *["sweet"] * 3, *["collapse"] * 2)


def test_phases_where_there_is_no_descent():
    flat = phases([1, 1, 0.9, 0.8], [0.9, 0.9, 0.8, 0.5], 1000)
    assert flat.best == 2, "the best of those that do not fit the noise"
    assert flat.names == ("light", "light", "sweet", "collapse")
    assert phases([1, 1, 1], [0.7, 0.8, 0.75], 1000).best == 1
    assert phases([1, 0.8, 0.8], [0.7, 0.8, 0.8], 1000).best == 2, "of equals the smallest"
    with pytest.raises(ResproutError, match="each round"):
        phases([], [], 10)


def rows(weights: list[int], best: int, error: float) -> list[dict]:
    """A planted chain: the ticket has `best` weights and calibration error and divergence `error`; the dense one 0.3."""
    found = []
    for w in weights:
        here = error if w == best else 0.3
        row = {
            "weights": w,
            "train accuracy": 1.0 if w > best else 0.8,
            "validation accuracy": 0.8 if w == best else 0.7,
        }
        row |= {"validation samples": 4000, "test accuracy": 0.8 if w == best else 0.7, "test loss": here}
        row |= {"calibration error": here, "divergence": here, "confidence": 0.9, "train confidence": 0.9}
        found.append(row | {"bins": [[0, 10], [0.0, 9.0], [0, 7]]})
    return found


@pytest.mark.parametrize(("large", "error", "holds"), [(64, 0.1, True), (512, 0.1, False), (64, 0.5, False)])
def test_the_verdict_of_planted_chains(large, error, holds):
    weights = [1024, 512, 256, 128, 64, 32]
    chains = {}
    for seed in range(5):
        wobble = error + 0.01 * seed
        chains[seed, 8] = rows(weights, 64, wobble)
        chains[seed, 16] = rows([4096, 2048, *weights], large, wobble)
    found = judge(chains, 0.2)
    assert found.holds is holds
    assert {r["N*"] for r in found.tables["best"] if r["begun with"] == 16} == {large}
    assert f"its size N* is {large / 64:.2f} times as large" in found.verdict
    assert f"within a factor of 2 is {'shown' if large == 64 else 'refuted'}" in found.verdict
    assert [len(found.tables[n]) for n in ("by size", "best")] == [2, 10]


def test_a_chain_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    whole = LotteryLabelNoise(**SMALL)(tmp_path / "whole")
    calls = []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    from resprout.compare.train import train

    with monkeypatch.context() as patch:
        patch.setattr("resprout.studies.lottery_label_noise.train", killed)
        with pytest.raises(KeyboardInterrupt):
            LotteryLabelNoise(**SMALL)(tmp_path / "cut")
    again = LotteryLabelNoise(**SMALL)(tmp_path / "cut")
    assert again.tables == whole.tables
    monkeypatch.setattr("resprout.studies.lottery_label_noise.train", None)  # nothing is trained again
    assert LotteryLabelNoise(**SMALL)(tmp_path / "cut").verdict == whole.verdict
    counts = [r["weights"] for r in whole.tables["rounds"] if (r["begun with"], r["seed"]) == (16, 0)]
    assert counts[:3] == [448, 224, 112]
    assert counts[-1] > 40
    whole.write(tmp_path / "finding.json")
    assert Finding.read(tmp_path / "finding.json").verdict == whole.verdict
    assert json.loads((tmp_path / "finding.json").read_text())["figures"]


def test_a_real_task_with_noise_runs(tmp_path):
    study = LotteryLabelNoise(task="digits", model="digits_cnn", seeds=2, epochs=0.2, rate=0.9, down_to=90_000)
    found = study(tmp_path)
    assert {r["begun with"] for r in found.tables["best"]} == {"digits_cnn"}
    assert "N* is" not in found.verdict, "one size says nothing of sizes"


def test_bad_input_is_named():
    with pytest.raises(ResproutError, match="belong together"):
        LotteryLabelNoise(task="digits")
    with pytest.raises(ResproutError, match="rate between 0 and 1"):
        LotteryLabelNoise(rate=1.0)
    with pytest.raises(ResproutError, match="noise"):
        mixture(0.5)


@pytest.mark.slow
def test_the_ticket_knows_what_it_does_not_know(tmp_path):
    """The catalogue's check, on 5 seeds: confidence near 0.8 at N*, above 0.95 dense; smaller calibration error on each.

    Its third part, N* within a factor of 2 over widths, is what the study measures (and does not find certain).
    """
    best = LotteryLabelNoise(widths=(64,), down_to=24)(tmp_path).tables["best"]
    assert len(best) == 5
    assert np.mean([r["train confidence, dense"] for r in best]) > 0.95
    assert np.mean([r["train confidence, N*"] for r in best]) == pytest.approx(0.8, abs=0.05)
    assert all(r["calibration error, N*"] < r["calibration error, dense"] for r in best)
    assert all(r["divergence, N*"] < r["divergence, dense"] for r in best)
