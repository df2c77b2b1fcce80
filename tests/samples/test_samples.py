"""Scores of samples, tasks that serve a part of them, and the two courses."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resprout import CheckpointError, ResproutError
from resprout.core.run import Run
from resprout.core.store import RunFolder
from resprout.core.train import Optimizer, Train
from resprout.methods.schedule.cosine import Cosine
from resprout.models import build
from resprout.numerics.distance import kl
from resprout.samples._kind import Seen
from resprout.samples.el2n import El2n, error_norm
from resprout.samples.forgetting import Forgetting
from resprout.samples.grand import Grand
from resprout.samples.kd_data_pruning import KdDataPruning
from resprout.samples.nlu_data_diet import NluDataDiet
from resprout.samples.random import Random
from resprout.samples.subset import Subset, choose, from_text, to_text
from resprout.tasks.arrays import Arrays
from resprout.tasks.digits import digits
from resprout.tasks.sst2 import Sentences


def blobs(samples: int = 400, classes: int = 3, seed: int = 0, spread: float = 1.5) -> Arrays:
    """Clouds in a plane, which are easy to learn and not quite apart."""
    g = torch.Generator().manual_seed(seed)
    angles = torch.arange(classes) * (2 * math.pi / classes)
    centres = 3 * torch.stack([angles.cos(), angles.sin()], 1)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randint(classes, (count,), generator=g)
        return centres[y] + spread * torch.randn(count, 2, generator=g), y

    return Arrays(split(samples), split(200), split(200), batch_size=20, name="blobs")


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))


def test_el2n_lies_between_0_and_root_2_and_is_root_2_only_for_one_wrong_class():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.randint(5, (200,), generator=torch.Generator().manual_seed(1))
    norms = error_norm(logits, labels)
    assert norms.min() >= 0
    assert norms.max() < math.sqrt(2)
    sure = F.one_hot(torch.tensor([2, 2]), 5) * 1000.0
    assert torch.allclose(error_norm(sure, torch.tensor([2, 3])), torch.tensor([0.0, math.sqrt(2)]).double())
    split = torch.tensor([[-1000.0, 0.0, 0.0]])  # all wrong, but not all in one class
    assert float(error_norm(split, torch.tensor([0]))) == pytest.approx(math.sqrt(1.5))


def test_grand_is_the_gradient_of_a_sample_alone():
    model, task = net(), blobs(12)
    found = Grand(chunk=5)(Seen(model, task))
    for x, y, norm in zip(*task.train, found, strict=True):
        model.zero_grad()
        F.cross_entropy(model(x[None]), y[None]).backward()
        alone = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))  # pyright: ignore
        assert float(norm) == pytest.approx(alone, rel=1e-4)


def test_grand_of_the_last_layer_alone_follows_from_el2n():
    """With a bias alone the gradient is the error itself."""

    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([0.1, -0.2, 0.3]))

        def forward(self, x):
            return x @ torch.eye(2, 3) + self.bias

    seen = Seen(Bias(), blobs(30))
    assert torch.allclose(Grand()(seen), El2n()(seen), atol=1e-6)


def test_forgetting_counts_from_right_to_wrong_and_never_right_is_most():
    looks = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 1, 0, 0]]).bool()
    assert Forgetting()(Seen(net(), blobs(4), list(looks))).tolist() == [2, 0, 1, 4]


def test_a_share_is_exact_and_bits_survive_the_journal():
    scores = torch.tensor([3.0, 1, 2, 2, 5, 0, 2])
    assert choose(scores, 3 / 7).nonzero().flatten().tolist() == [0, 2, 4]  # of equals the earlier
    assert choose(scores, 3 / 7, offset=1 / 7).nonzero().flatten().tolist() == [0, 2, 3]
    keep = torch.rand(77) < 0.4
    assert torch.equal(from_text(to_text(keep), 77), keep)
    with pytest.raises(ResproutError, match="offset"):
        choose(scores, 0.9, 0.5)
    for odd in (to_text(keep)[:-2], to_text(keep) + "00", "zz"):
        with pytest.raises(CheckpointError, match="77"):
            from_text(odd, 77)


def test_a_subset_is_another_run_and_serves_its_samples_once_an_epoch():
    task = blobs(80)
    keep = torch.arange(80) % 2 == 0
    part, other = Subset(task, keep), Subset(task, ~keep)
    assert len({repr(task), repr(part), repr(other)}) == 3
    assert part.steps_per_epoch == 2
    served = torch.cat([x for x, _ in part.batches("train", seed=1)])
    assert sorted(served[:, 0].tolist()) == sorted(task.train[0][keep][:, 0].tolist())
    late = Subset(task, keep, since=5)  # drawn in the middle of what would be an epoch: a whole one begins there
    again = [x for epoch, start in ((2, 1), (3, 0)) for x, _ in late.batches("train", seed=1, epoch=epoch, start=start)]
    assert torch.equal(torch.cat(again[:2]), served)
    assert len(again) == 3
    assert len(next(iter(part.batches("validation")))[1]) == 200
    with pytest.raises(ResproutError, match="kept"):
        Subset(task, keep[:40])


def trained(course, task, seed: int = 0, folder: RunFolder | None = None) -> Run:
    run = Run(net(seed), task, seed=seed, folder=folder)
    run.resume()
    course(run)
    return run


def test_the_diet_is_drawn_anew_and_spends_fewer_steps():
    task = blobs()
    run = trained(NluDataDiet(epochs=10, lr=0.05), task)
    kept = [from_text(r["kept"], 400) for r in run.journal if "kept" in r]
    assert len(kept) == 9
    assert {int(k.sum()) for k in kept} == {200}
    overlap = [float((a & b).sum() / (a | b).sum()) for a, b in pairwise(kept)]
    assert max(overlap[:6]) < 1  # in the end the learning rate is next to nothing
    assert run.trained == 20 + 9 * 10  # 55 % of 200
    assert run.task is task
    static = trained(NluDataDiet(epochs=10, lr=0.05, renew=False), task)
    assert sum("kept" in r for r in static.journal) == 1
    assert static.trained == run.trained


def test_a_score_over_time_goes_on_looking():
    """Forgetting is counted over the whole training, or every draw after the first would be the same."""
    run = trained(NluDataDiet(epochs=6, lr=0.2, score=Forgetting()), blobs(spread=2.5))
    assert sum("right" in r for r in run.journal) == 6
    kept = [r["kept"] for r in run.journal if "kept" in r]
    assert len(set(kept)) > 1


@pytest.mark.parametrize(
    ("course", "says"),
    [
        (NluDataDiet(keep=1.5), "share"),
        (NluDataDiet(keep=math.nan), "share"),
        (NluDataDiet(keep=0.0), "share"),
        (NluDataDiet(keep=0.6, offset=0.5), "share"),
        (NluDataDiet(every=0), "epochs"),
        (KdDataPruning(keep=50), "share"),
        (KdDataPruning(alpha=1.5), "alpha"),
        (KdDataPruning(alpha=math.nan), "alpha"),
        (KdDataPruning(temperature=0.0), "temperature"),
        (KdDataPruning(epochs=0), "epochs"),
        (KdDataPruning(student_epochs=0), "epochs"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(course, says):
    run = Run(net(), blobs(40))
    with pytest.raises(ResproutError, match=says):
        course(run)
    assert run.trained == 0


def test_a_course_goes_on_where_it_was_stopped(tmp_path):
    task, course = blobs(200), NluDataDiet(epochs=5, first=2, lr=0.05, score=Forgetting())

    class Stop(Exception):
        pass

    def stop(event, facts):
        if event == "train" and facts["step"] == 3 and facts["steps"] == 5:
            count.append(1)
            if len(count) == 2:
                raise Stop

    count: list[int] = []
    folder = RunFolder(tmp_path, "x", {})
    run = Run(net(), task, folder=folder, report=stop, save_every=0)
    with pytest.raises(Stop):
        course(run)
    resumed, whole = trained(course, task, folder=folder), trained(course, task)
    assert resumed.trained == whole.trained
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_alpha_0_on_all_samples_is_ordinary_training():
    task = blobs(200)
    course = KdDataPruning(keep=1.0, alpha=0.0, epochs=2, student_epochs=3, lr=0.05)
    run = trained(course, task)
    plain = Run(net(), Subset(task, torch.ones(200, dtype=torch.bool), since=20))
    plain.trained = 20  # the same order of samples
    plain.do(Train(30, Cosine(0.05, 0.0, warmup=0.05), Optimizer()))
    for a, b in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_alpha_1_on_all_samples_comes_near_the_teacher():
    task = blobs(400)
    run = trained(KdDataPruning(keep=1.0, alpha=1.0, epochs=4, student_epochs=10, lr=0.05), task)
    teacher = net()
    teacher.load_state_dict(run.tensors_at("dense"))
    x = task.test[0]
    with torch.no_grad():
        assert float(kl(teacher(x), run.model(x))) < 0.05
        assert not torch.equal(teacher(x), run.model(x))


def test_scores_of_images_and_of_sentences():
    images = Seen(build("digits_cnn"), digits())
    ids = torch.randint(1, 50, (40, 12))
    ids[:20, 8:] = 0
    labels = torch.randint(2, (40,))
    sentences = Seen(build("encoder_small"), Sentences((ids, labels), (ids, labels), (ids, labels)))
    for seen in (images, sentences):
        modes = [m.training for m in seen.model.modules()]
        for score in (El2n(), Grand(64), Random()):
            found = score(seen)
            assert found.shape == seen.samples[1].shape
            assert torch.isfinite(found).all()
            assert torch.equal(found, score(seen))
        assert modes == [m.training for m in seen.model.modules()]
