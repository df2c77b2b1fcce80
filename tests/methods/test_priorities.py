"""Attention maps: identity, small maps, and the oracle."""

import copy
import io
import json

import pytest
import torch
from torch import nn

from resprout.core.granularity import Weight
from resprout.core.kinds import Scores
from resprout.core.probe import Probe
from resprout.methods.allocate.lamp import Lamp
from resprout.methods.priority.attention_ssim import AttentionSsim, ssim
from resprout.methods.score.magnitude import Magnitude
from resprout.models import build


@pytest.mark.parametrize("shape", [(3, 3), (4, 6), (8, 8), (32, 32)])
def test_ssim_is_that_of_scikit_image(shape):
    metrics = pytest.importorskip("skimage.metrics")
    g = torch.Generator().manual_seed(0)
    x, y = (torch.rand(shape, generator=g, dtype=torch.float64) for _ in range(2))
    side = min(7, *shape) - (1 - min(7, *shape) % 2)
    expected = metrics.structural_similarity(x.numpy(), y.numpy(), win_size=side, data_range=1.0)
    assert ssim(x, y) == pytest.approx(float(expected), abs=1e-12)


def test_a_network_is_like_itself_and_small_maps_take_the_cosine(loss):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(12, 6))
    batch = (torch.randn(4, 2, 6, 6), torch.zeros(4, dtype=torch.long))
    probe = Probe(model, data=[batch], loss=loss)
    assert AttentionSsim()(probe, probe) == pytest.approx({"0.weight": 1.0, "2.weight": 1.0})
    other = copy.deepcopy(model)
    nn.init.normal_(other[0].weight)
    assert AttentionSsim()(probe, Probe(other, data=[batch], loss=loss))["0.weight"] < 1


@pytest.mark.data
def test_an_independent_implementation(data_dir, oracles_dir, loss):
    np, pq, image = (pytest.importorskip(n) for n in ("numpy", "pyarrow.parquet", "PIL.Image"))
    from safetensors.torch import load_file

    rows = pq.read_table(data_dir / "cifar10" / "test-00000-of-00001.parquet").slice(0, 512).to_pylist()
    pixels = [np.asarray(image.open(io.BytesIO(r["image"]["bytes"])).convert("RGB")) for r in rows]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.tensor(np.stack(pixels)) / 255 - mean) / std).permute(0, 3, 1, 2)
    data = list(zip(x.split(128), torch.zeros(512, dtype=torch.long).split(128), strict=True))
    dense = build("resnet20")
    dense.load_state_dict(load_file(data_dir / "cifar10-resnet" / "resnet20.safetensors"))
    sparse = copy.deepcopy(dense)
    masks = Weight().choose(Scores(Magnitude()(Probe(dense))), 26_834, Lamp())
    with torch.no_grad():
        for name, mask in masks.items():
            sparse.get_parameter(name).mul_(mask)
    found = AttentionSsim()(*(Probe(m, data=data, loss=loss, training=False) for m in (dense, sparse)))
    oracle = json.loads((oracles_dir / "attention_ssim.json").read_text())["0.9"]
    assert found == pytest.approx({f"{layer}.weight": v for layer, v in oracle.items()}, abs=2e-5)
