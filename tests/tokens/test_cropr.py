"""Cropr: heads that do not touch the backbone, token counts, and the patch that matters."""

import pytest
import torch
import torch.nn.functional as F

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.core.run import Run
from resprout.core.train import Optimizer, Train
from resprout.methods.objective.auxiliary_heads import AuxiliaryHeads
from resprout.methods.schedule.cosine import Cosine
from resprout.models.vit import ViT
from resprout.tokens.cropr import Cropr
from resprout.tokens.random import Random


def vit(depth: int = 4) -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, 32, depth, 4, 64, classes=4)


def one_patch(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, and in one patch of 16 the pattern of the class."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(9)) * 2
    x = torch.randn(count, 3, 16, 16, generator=g) * 0.5
    y, at = torch.randint(4, (count,), generator=g), torch.randint(16, (count,), generator=g)
    for i in range(count):
        top, left = divmod(int(at[i]), 4)
        x[i, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] = patterns[y[i]]
    return x, y, at


def test_without_drops_it_is_the_vit_bit_for_bit():
    model, x = vit().eval(), torch.randn(3, 3, 16, 16)
    assert torch.equal(Cropr(drop=0, heads=8)(model).eval()(x), model(x))
    assert torch.equal(Random(drop=0)(model).eval()(x), model(x))


def test_token_counts_follow_the_schedule():
    for fuse, expected in ((True, [16, 12, 9, 16]), (False, [16, 12, 9, 9])):
        model = Cropr(drop=3, heads=8, fuse=fuse)(vit()).eval()
        seen: list[int] = []
        for layer in model.layers:
            layer.register_forward_pre_hook(lambda m, a, seen=seen: seen.append(a[0].shape[1] - 1))
        logits, places = model.walk(torch.randn(2, 3, 16, 16))
        assert seen == expected == model.counts
        assert places.shape == (2, 9)
        assert bool((places.diff(dim=1) > 0).all())
        assert logits.shape == (2, 4)
    with pytest.raises(ResproutError, match="drop fewer"):
        Cropr(drop=9, heads=8)(vit())
    with pytest.raises(ResproutError, match="divide"):
        Cropr(drop=3, heads=5)(vit())
    with pytest.raises(ResproutError, match="patch_embed"):
        Cropr()(torch.nn.Linear(2, 2))


def test_the_heads_do_not_touch_the_backbone():
    """Catalogue: the gradient of the auxiliary losses with respect to the backbone is exactly 0."""
    model, x, y = Cropr(drop=3, heads=8)(vit()).train(), torch.randn(5, 3, 16, 16), torch.randint(4, (5,))
    task = rs.Arrays(*[(x, y)] * 3, batch_size=5)
    run = Run(model, task)
    torch.manual_seed(0)
    both = AuxiliaryHeads()(run, model, (x, y))
    torch.manual_seed(0)
    (both - task.loss(model, (x, y))).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.vit.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.scorers.parameters())
    with pytest.raises(ResproutError, match="heads"):
        AuxiliaryHeads()(Run(vit(), task), vit(), (x, y))


def test_at_inference_only_products_are_computed():
    model, called = Cropr(drop=3, heads=8)(vit()).eval(), []
    for scorer in model.scorers:
        scorer.head.register_forward_hook(lambda *a: called.append(1))
    model(torch.randn(2, 3, 16, 16))
    assert not called


def test_the_patch_that_matters_stays_after_training():
    """Catalogue: kept in more than 95 % of images; at random in (1 - R/M) of each step."""
    x, y, _ = one_patch(2000, 0)
    task = rs.Arrays((x, y), (x[:100], y[:100]), (x[:100], y[:100]), batch_size=64)
    torch.manual_seed(0)
    model = Cropr(drop=4, spare=1, fuse=False, heads=8)(vit(2))
    run = Run(model, task)
    train = Optimizer("adamw", decay=0.0)
    run.do(Train(150, Cosine(1e-2, 0.0, warmup=0.1), train, objective=AuxiliaryHeads(), looks=1))
    x, y, at = one_patch(1000, 1)
    with torch.no_grad():
        logits, places = model.eval().walk(x)
        blind = Random(drop=4, spare=1, fuse=False)(vit(2)).eval().walk(x)[1]
    assert float((places == at[:, None]).any(1).double().mean()) > 0.95
    assert float((blind == at[:, None]).any(1).double().mean()) == pytest.approx(11 / 16, abs=0.05)
    assert float(F.cross_entropy(logits, y)) < 1.0
