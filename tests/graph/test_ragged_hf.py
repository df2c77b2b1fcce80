"""Smaller networks are ordinary modules: Hugging Face's with layers of unequal width generate, compile, copy, export, train."""

import copy
import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import zoo
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import resprout as rs
from resprout.core.units import Group, living, spread
from resprout.graph.shape import Shape, shape_of

try:
    import transformers
    import zoo_hf
except ImportError:  # transformers is not installed, and no dependency
    transformers = zoo_hf = None

needs_transformers = pytest.mark.skipif(transformers is None, reason="needs transformers")
LANGUAGE = ["llama", "gpt2"]


def uneven(model: nn.Module, groups: tuple[Group, ...]) -> rs.Masks:
    """Masks that keep another number of heads and channels in every layer."""
    alive = {}
    for i, group in enumerate(groups):
        dead = 1 + (i * 5) % max(1, len(group) - 1) if len(group) > 1 else 0
        alive[group.name] = torch.ones(len(group), dtype=torch.bool)
        alive[group.name][torch.randperm(len(group), generator=torch.Generator().manual_seed(i))[:dead]] = False
    dense = rs.Masks.dense(model)
    return rs.Masks(spread(groups, alive, {n: m.shape for n, m in dense.items()}))


def layers(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Heads and channels of the MLPs, without the width that all layers share."""
    found = tuple(g for g in groups if not any("norm" in s.parameter or "ln_" in s.parameter for s in g.slots))
    assert {g.kind for g in found} == {"head", "channel"}
    return found


def ragged(name: str) -> tuple[nn.Module, nn.Module, rs.Masks, dict[str, torch.Tensor]]:
    """The masked dense model, the smaller one, the masks and an example."""
    assert zoo_hf is not None
    model, x = zoo_hf.HF[name](None)
    groups = layers(rs.trace(model, x).groups)
    masks = uneven(model, groups)
    small = rs.shrink(model, masks, x)
    masked = copy.deepcopy(model)
    zeros = spread(groups, living(groups, masks), shapes(masked))  # biases too, which are in no mask
    with torch.no_grad():
        for n, t in masked.state_dict().items():
            t.mul_(zeros[n])
    return masked.eval(), small.eval(), masks, x


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {n: t.shape for n, t in model.state_dict().items()}


def generate(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False)  # pyright: ignore[reportCallIssue]


@needs_transformers
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_ragged_language_model_generates_what_the_masked_one_does(name, tmp_path):
    masked, small, _, x = ragged(name)
    counts = [p.shape for n, p in small.named_parameters() if n.endswith(("up_proj.weight", "c_fc.weight"))]
    assert len(set(counts)) == len(counts) == 2, "layers of unequal width"
    ids = x["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(small(ids).logits, masked(ids).logits, rtol=1e-4, atol=1e-4)
    wished = generate(masked, ids)
    assert torch.equal(generate(small, ids), wished)
    rs.save(tmp_path / "net", small, values="fp32")
    fresh = transformers.AutoModelForCausalLM.from_config(small.config).eval()  # pyright: ignore
    loaded = rs.load(tmp_path / "net", fresh)
    assert loaded is fresh
    assert shapes(fresh) == shapes(small)
    assert all(torch.equal(t, small.state_dict()[n]) for n, t in fresh.state_dict().items())
    assert torch.equal(generate(fresh, ids), wished)


@needs_transformers
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_ragged_model_expands_to_the_masked_one(name):
    masked, small, _, x = ragged(name)
    whole = rs.expand(small, like=masked)
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in masked.state_dict().items())
    assert torch.equal(generate(whole, x["input_ids"]), generate(masked, x["input_ids"]))


@needs_transformers
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_ragged_model_copies_and_trains(name):
    _, small, _, x = ragged(name)
    twin = copy.deepcopy(small)
    ids = x["input_ids"]
    loss = twin(ids, labels=ids).loss
    loss.backward()
    torch.optim.SGD(twin.parameters(), 0.1).step()
    with torch.no_grad():
        assert twin(ids, labels=ids).loss < loss
        assert not torch.equal(twin(ids).logits, small(ids).logits), "a copy of its own"


def hostile(shape: Shape, name: str, weight: str) -> Shape:
    """One thing wrong in each."""
    kept = {n: {d: list(at) for d, at in v.items()} for n, v in shape.kept.items()}
    if name == "index beyond the end":
        kept[weight]["0"][-1] = 1 << 20
    elif name == "index twice":
        kept[weight]["0"][-1] = kept[weight]["0"][0]
    elif name == "no such dimension":
        kept[weight]["7"] = kept[weight].pop("0")
    elif name == "nothing left":
        kept[weight]["0"] = []
    elif name == "no such weight":
        kept["absent.weight"] = kept.pop(weight)
    elif name == "one index fewer":
        kept[weight]["0"].pop()
    elif name == "code by the name of an attribute":
        return dataclasses.replace(shape, attributes={"__class__": 1})
    elif name == "an attribute that grows":
        return dataclasses.replace(shape, attributes={f"{weight.rpartition('.')[0]}.in_features": 1 << 20})
    elif name == "an attribute of another type":
        return dataclasses.replace(shape, attributes={"training": 1})
    elif name == "a norm that is none":
        return dataclasses.replace(shape, norms=[weight.rpartition(".")[0]])
    elif name == "a module that is not there":
        return dataclasses.replace(shape, skipped={"absent": "end"})
    return dataclasses.replace(shape, kept=kept)


HOSTILE = [
    "index beyond the end", "index twice", "no such dimension", "nothing left", "no such weight", "one index fewer",
    "code by the name of an attribute", "an attribute that grows", "an attribute of another type", "a norm that is none",
    "a module that is not there",
]  # fmt: skip


def small_digits(tmp_path: Path) -> tuple[Path, nn.Module]:
    model, x = zoo.OURS["digits_cnn"]()
    small = rs.shrink(model, rs.prune(copy.deepcopy(model), 0.5, granularity="channel", example=x, floor=1), x)
    rs.save(tmp_path / "net", small, values="fp32")
    return tmp_path / "net", small


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_shape_is_refused_and_the_model_untouched(what, tmp_path):
    file, small = small_digits(tmp_path)
    shape = shape_of(small)
    assert shape is not None
    weight = next(n for n, at in shape.kept.items() if "0" in at and n.endswith("weight") and len(at["0"]) > 2)
    bad = hostile(shape, what, weight)
    small._resprout_shape = bad  # pyright: ignore[reportAttributeAccessIssue]
    rs.save(file, small, values="fp32")
    model, _ = zoo.OURS["digits_cnn"]()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(rs.CheckpointError):
        rs.load(file, model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert [type(m) for m in model.modules()] == kinds
    assert shape_of(model) is None


@pytest.mark.parametrize("text", ["", "!", "AAAA", "eJyrrgUAAXUA+Q==", "eJwDAAAAAAE="])
def test_a_shape_that_is_no_shape(text):
    with pytest.raises(rs.CheckpointError, match="shape cannot be read"):
        Shape.from_text(text)


def test_a_file_of_another_model(tmp_path):
    file, _ = small_digits(tmp_path)
    other, _ = zoo.OURS["lenet_300_100"]()
    before = shapes(other)
    with pytest.raises(rs.CheckpointError, match="another model"):
        rs.load(file, other)
    assert shapes(other) == before


def test_metadata_that_was_changed_afterwards_is_noticed(tmp_path):
    file, _ = small_digits(tmp_path)
    with safe_open(file, "pt") as f:
        meta = dict(f.metadata())
    meta["shape"] = Shape({"0.weight": {"0": [0]}}).to_text()
    save_file(load_file(file), file, metadata=meta)
    model, _ = zoo.OURS["digits_cnn"]()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(rs.CheckpointError):
        rs.load(file, model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


# -- a smaller ResNet is an ordinary module --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, torch.Tensor]:
    model, x = zoo.OURS["resnet20"]()
    masks = rs.prune(copy.deepcopy(model), 0.5, granularity="channel", example=x, score="random", floor=1)
    return rs.shrink(model, masks, x).eval(), x


def test_torch_compile_takes_it(resnet):
    small, x = resnet
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compiled = torch.compile(small, backend="inductor")
            got = compiled(x)
        except Exception as error:
            if "compiler" in str(error).lower():
                pytest.skip(f"no compiler: {error}")
            raise
        torch.testing.assert_close(got, small(x), rtol=1e-4, atol=1e-4)


def test_onnx_runtime_computes_the_same(resnet, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    small, x = resnet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(small, (x,), str(tmp_path / "net.onnx"), input_names=["input"], dynamo=False)
    got = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), small(x), rtol=1e-4, atol=1e-4)


def test_our_own_program_knows_it(resnet):
    small, x = resnet
    program = rs.lower(small, x).program
    tensors = dict(small.named_parameters())
    dense, _ = zoo.OURS["resnet20"]()
    whole, own = rs.lower(dense, x).program.macs(), dict(dense.named_parameters())
    macs = sum(m * tensors[n].numel() for n, m in program.macs().items())
    assert macs < sum(m * own[n].numel() for n, m in whole.items())


@pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")
def test_ddp_trains_it(resnet, tmp_path):
    small, x = resnet
    small = copy.deepcopy(small).train()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(small)
        before = {n: p.clone() for n, p in small.named_parameters()}
        nn.functional.cross_entropy(wrapped(x), torch.tensor([1, 2])).backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
        torch.optim.SGD(wrapped.parameters(), 0.1).step()
        assert any(not torch.equal(p, before[n]) for n, p in small.named_parameters())
        assert rs.expand(wrapped, like=zoo.OURS["resnet20"]()[0]) is not None
    finally:
        dist.destroy_process_group()
