"""ONNX Runtime and a fresh PyTorch model compute from exported files what the program says."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from resprout.core.errors import ResproutError
from resprout.core.masks import Masks
from resprout.deploy import encoding, interpret
from resprout.deploy import program as p
from resprout.deploy.export.onnx import to_onnx
from resprout.deploy.export.torch_ import to_torch
from resprout.deploy.program import Program
from resprout.deploy.trace import lower
from resprout.models import build

SHAPES = {"resnet20": (3, 32, 32), "vgg16": (3, 32, 32), "digits_cnn": (1, 8, 8), "lenet_300_100": (784,)}


def sparse(name: str) -> nn.Module:
    """One of our networks with norms as after training and most weights zero."""
    torch.manual_seed(0)
    model = build(name)
    for _ in range(2):
        model(torch.randn(4, *SHAPES[name]))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= torch.rand(module.weight.shape) > 0.7
    return model.eval()


def onnx_runs(path, program, tensors, x):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (result,) = session.run(["output"], {"input": x.numpy()})
    np.testing.assert_allclose(result, interpret.run(program, tensors, x).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_our_networks_run_in_onnx_runtime_at_any_batch(name, tmp_path):
    model = sparse(name)
    traced = lower(model, torch.zeros(1, *SHAPES[name]))
    size = to_onnx(tmp_path / "net.onnx", traced.program, traced.tensors)
    assert size == (tmp_path / "net.onnx").stat().st_size
    for batch in (1, 3):
        onnx_runs(tmp_path / "net.onnx", traced.program, traced.tensors, torch.randn(batch, *SHAPES[name]))


IMAGE = (4, 7, 6)
ODD = {
    "conv": p.Conv(
        inputs=(0,),
        weight="w",
        bias="b",
        channels=6,
        kernel=(3, 2),
        stride=(2, 1),
        padding=(2, 1),
        dilation=(1, 2),
        groups=2,
        slope=0.1,
        cap=0.5,
    ),
    "conv without bias": p.Conv(inputs=(0,), weight="w", channels=6, kernel=(1, 1), slope=0.0, cap=6.0),
    "scale": p.Scale(inputs=(0,), weight="w", bias="b", slope=0.0),
    "max pool": p.Pool(inputs=(0,), maximum=True, kernel=(3, 2), stride=(2, 1), padding=(1, 1)),
    "mean pool": p.Pool(inputs=(0,), maximum=False, kernel=(3, 2), stride=(2, 1), padding=(1, 1)),
    "mean of what is inside": p.Pool(
        inputs=(0,), maximum=False, kernel=(3, 2), stride=(2, 1), padding=(1, 1), counts_padding=False
    ),
    "add": p.Add(inputs=(0, 0), slope=0.0),
    "a cap alone": p.Activation(inputs=(0,), cap=0.25),
    "no activation": p.Activation(inputs=(0,)),
    "a growing slope": p.Activation(inputs=(0,), slope=-1.5),
    "concat": p.Concat(inputs=(0, 0, 0)),
    "shortcut": p.Shortcut(inputs=(0,), stride=(2, 3), before=1, after=2),
    "flatten": p.Flatten(inputs=(0,)),
}


def random_tensors(program: Program) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {n: torch.randn(shape, generator=g) for n, shape in program.needs().items()}


@pytest.mark.parametrize("name", ODD)
def test_every_operation_runs_in_onnx_runtime(name, tmp_path):
    program = Program(IMAGE, (ODD[name],))
    tensors = random_tensors(program)
    to_onnx(tmp_path / "net.onnx", program, tensors)
    onnx_runs(tmp_path / "net.onnx", program, tensors, torch.randn(2, *IMAGE))


def test_flat_operations_and_awkward_names_run_in_onnx_runtime(tmp_path):
    ops = (
        p.Scale(inputs=(0,), weight="input", bias="output"),
        p.Linear(inputs=(1,), weight="a", features=5, slope=0.0),
        p.Linear(inputs=(2,), weight="b", bias="output", features=5),
        p.Concat(inputs=(3, 2)),
        p.Softmax(inputs=(4,)),
    )
    program = Program((5,), ops)
    tensors = random_tensors(program)
    to_onnx(tmp_path / "net.onnx", program, tensors)
    onnx_runs(tmp_path / "net.onnx", program, tensors, torch.randn(3, 5))


def test_a_scale_of_images_and_of_flat_values_may_share_tensors(tmp_path):
    ops = (
        p.Scale(inputs=(0,), weight="w", bias="b"),
        p.Pool(inputs=(1,), maximum=True, kernel=(7, 6), stride=(7, 6)),
        p.Flatten(inputs=(2,)),
        p.Scale(inputs=(3,), weight="w", bias="b"),
    )
    program = Program(IMAGE, ops)
    to_onnx(tmp_path / "net.onnx", program, tensors := random_tensors(program))
    onnx_runs(tmp_path / "net.onnx", program, tensors, torch.randn(3, *IMAGE))


def test_tensors_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path):
    program = Program(IMAGE, (ODD["conv"],))
    tensors = random_tensors(program)
    with pytest.raises(ResproutError, match=r"needs 'b' of shape \(6,\)"):
        to_onnx(tmp_path / "net.onnx", program, {**tensors, "b": torch.zeros(5)})
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ResproutError, match=r"pip install \"resprout\[onnx\]\""):
        to_onnx(tmp_path / "net.onnx", Program((2,), ()), {})


# -- PyTorch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet20", "digits_cnn", "lenet_300_100"])
@pytest.mark.parametrize("folded", [False, True])
def test_a_fresh_model_takes_the_state_dict_and_computes_the_same(name, folded, tmp_path):
    model, x = sparse(name), torch.randn(2, *SHAPES[name])
    traced = lower(model, x) if folded else None
    archive = encoding.archive(model, Masks.of(model), "fp32", traced)
    fresh = build(name)
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    to_torch(tmp_path / "state.safetensors", archive, fresh if folded else None)
    assert all(torch.equal(t, before[n]) for n, t in fresh.state_dict().items())
    state = load_file(tmp_path / "state.safetensors")
    assert all(t.dtype == torch.float32 for t in state.values())
    fresh.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_convolutions_own_bias_is_folded_too(tiny, tmp_path):
    x = torch.randn(2, 2, 4, 4)
    tiny(x)
    archive = encoding.archive(tiny, Masks.of(tiny), "fp32", lower(tiny, x))
    to_torch(tmp_path / "state.safetensors", archive, tiny)
    expected = tiny.eval()(x)
    tiny.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert not tiny[0].bias.any()
    torch.testing.assert_close(tiny(x), expected, rtol=1e-4, atol=1e-4)


def test_a_folded_file_needs_the_model(tmp_path):
    model = sparse("digits_cnn")
    archive = encoding.archive(model, Masks.of(model), "fp32", lower(model, torch.zeros(1, 1, 8, 8)))
    with pytest.raises(ResproutError, match="norms are folded: pass the model"):
        to_torch(tmp_path / "x", archive)
    with pytest.raises(ResproutError, match="has no"):
        to_torch(tmp_path / "x", archive, build("lenet_300_100"))
    assert not list(tmp_path.iterdir())


def test_tied_tensors_are_written_under_both_names(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    to_torch(tmp_path / "state.safetensors", encoding.archive(model, Masks.of(model), "fp32"))
    assert set(load_file(tmp_path / "state.safetensors")) == set(model.state_dict())
