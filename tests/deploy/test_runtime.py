"""The runtime gives what PyTorch gives, on every instruction set that this machine has."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import everything
from random_programs import programs
from torch import nn

import resprout as rs
from resprout.core.errors import ResproutError
from resprout.deploy import interpret
from resprout.deploy.program import Add, Conv, Flatten, Linear, Pool, Program
from resprout.deploy.runtime import Runtime, _Chain, build, native
from resprout.deploy.runtime.batch import best_cut, cuts, halves
from resprout.models import build as model_of

SETS = [isa for isa in build.SETS if native.library().rs_lanes(isa.encode())]


def random_tensors(program, density=0.4, seed=0):
    g = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=g) / 2 for n, s in program.needs().items()}
    return {n: t * (torch.rand(t.shape, generator=g) < density) if t.dim() > 1 else t for n, t in tensors.items()}


def agree(program, tensors, batch, isa, threads=1, trials=0.0):
    x = torch.randn(batch, *program.input, generator=torch.Generator().manual_seed(1))
    y = Runtime((program, tensors), threads, isa=isa, trials=trials)(x)
    wanted = interpret.run(program, tensors, x)
    torch.testing.assert_close(torch.from_numpy(y), wanted, rtol=1e-4, atol=1e-4)


def settled(model):
    """Norms as after training, so that folding matters."""
    g = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight, 0.5, 1.5),
            ):
                tensor.data.copy_(torch.rand(tensor.shape, generator=g) * (high - low) + low)
    return model.eval()


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize(
    ("name", "shape", "sparsity"),
    [
        ("vgg16", (3, 32, 32), 0.99),
        ("resnet20", (3, 32, 32), 0.9),
        ("digits_cnn", (1, 8, 8), 0.8),
        ("lenet_300_100", (1, 28, 28), 0.0),
    ],
)
def test_models_as_in_pytorch(name, shape, sparsity, isa):
    model = settled(model_of(name))
    if sparsity:
        rs.prune(model, sparsity, score="random", allocate="erk")
    x = torch.randn(17, *shape, generator=torch.Generator().manual_seed(0))
    runtime = Runtime.of(model, x[:2], isa=isa)
    with torch.no_grad():
        wanted = model(x).numpy()
    scale = max(1.0, float(np.abs(wanted).max()))
    for n in (1, 17):
        assert np.abs(runtime(x[:n].numpy()) - wanted[:n]).max() < 1e-4 * scale
    assert runtime.isa == isa
    assert runtime.ram > 0


@pytest.mark.parametrize("isa", SETS)
@settings(max_examples=40, deadline=None)
@given(
    program=programs(), batch=st.sampled_from([1, 3, 16, 21]), threads=st.sampled_from([1, 2]), seed=st.integers(0, 99)
)
def test_random_programs(isa, program, batch, threads, seed):
    agree(program, random_tensors(program, 0.4, seed), batch, isa, threads)


@pytest.mark.parametrize("isa", SETS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), density=st.sampled_from([0.0, 0.05, 0.5, 1.0]), batch=st.sampled_from([1, 5, 16]))
def test_random_convolutions(isa, data, density, batch):
    def pair(low, high):
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups, depth, wide = data.draw(st.sampled_from([(1, 5, 7), (1, 16, 20), (2, 2, 3), (6, 1, 1), (6, 1, 2)]))
    kernel, stride, dilation = pair(1, 5), pair(1, 3), pair(1, 2)
    padding, plane = pair(0, 3), data.draw(st.sampled_from([(1, 1), (2, 2), (4, 4), (5, 7), (8, 8), (9, 33), (16, 16)]))
    conv = Conv(
        inputs=(0,),
        weight="w",
        bias=data.draw(st.sampled_from([None, "b"])),
        channels=groups * wide,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        slope=data.draw(st.sampled_from([0.0, 0.1, 1.0])),
    )
    try:
        program = Program((groups * depth, *plane), (conv,))
    except ResproutError:
        return  # the kernel does not fit into the plane
    agree(program, random_tensors(program, density), batch, isa, trials=data.draw(st.sampled_from([0.0, 1e-4])))


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_operation(isa, threads):
    program = Program((2, 6, 6), everything())
    for batch in (1, 16, 35):
        agree(program, random_tensors(program), batch, isa, threads)


@pytest.mark.parametrize("maximum", [True, False])
@pytest.mark.parametrize("plane", [(2, 2), (4, 4), (8, 8), (6, 16), (32, 32), (7, 9)])
def test_pooling_of_all_widths(plane, maximum):
    program = Program((3, *plane), (Pool(inputs=(0,), maximum=maximum, kernel=(2, 2), stride=(2, 2)),))
    agree(program, {}, 3, SETS[0])


def test_maxima_let_nan_through():
    program = Program((1, 2, 2), (Pool(inputs=(0,), maximum=True, kernel=(2, 2), stride=(2, 2)),))
    for place in range(4):
        x = torch.zeros(4)
        x[place] = torch.nan
        assert np.isnan(Runtime((program, {}))(x.view(1, 1, 2, 2))).all()


def test_several_layers_on_two_threads_many_times():
    convs = [Conv(inputs=(i,), weight=f"w{i}", channels=48, kernel=(3, 3), padding=(1, 1), slope=0.0) for i in range(4)]
    program = Program((48, 16, 16), (*convs, Flatten(inputs=(4,)), Linear(inputs=(5,), weight="l", features=10)))
    tensors = random_tensors(program, 0.3)
    runtime, x = Runtime((program, tensors), threads=2), torch.randn(1, 48, 16, 16)
    wanted = interpret.run(program, tensors, x).numpy()
    for _ in range(200):
        assert np.allclose(runtime(x), wanted, rtol=1e-4, atol=1e-2)


def test_calls_from_several_python_threads():
    model = settled(model_of("digits_cnn"))
    x = torch.randn(64, 1, 8, 8)
    runtime, wrong = Runtime.of(model, x[:1]), []
    wanted = model(x).detach().numpy()

    def work(i):
        for _ in range(20):
            if np.abs(runtime(x[i : i + 9]) - wanted[i : i + 9]).max() > 1e-4:
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_the_file_runs(tmp_path):
    model = settled(model_of("digits_cnn"))
    masks = rs.prune(model, 0.9)
    x = torch.randn(5, 1, 8, 8)
    rs.save(tmp_path / "m.safetensors", model, masks, values="int8", example=x)
    y = rs.Runtime(tmp_path / "m.safetensors")(x)
    read = rs.load(tmp_path / "m.safetensors", into=model_of("digits_cnn")).eval()
    assert np.abs(y - read(x).detach().numpy()).max() < 1e-4
    rs.save(tmp_path / "plain.safetensors", model, masks)
    with pytest.raises(ResproutError, match="example="):
        rs.Runtime(tmp_path / "plain.safetensors")


def test_without_a_compiler_torch_does_it(monkeypatch, tmp_path):
    def none():
        raise build.CompilerError("there is no C compiler")

    program = Program((2, 6, 6), everything())
    tensors, x = random_tensors(program), torch.randn(3, 2, 6, 6)
    wanted = Runtime((program, tensors))(x)
    monkeypatch.setattr(native, "library", none)
    runtime = Runtime((program, tensors))
    assert runtime.isa == "torch"
    assert np.allclose(runtime(x), wanted, atol=1e-4)
    assert runtime.layers() == []
    with pytest.raises(ResproutError, match="no C compiler"):
        Runtime((program, tensors), isa="portable")


def test_bad_arguments():
    program = Program((2, 6, 6), everything())
    tensors = random_tensors(program)
    runtime = Runtime((program, tensors))
    for x, said in (
        (np.zeros((1, 2, 6, 5)), r"\(N, 2, 6, 6\)"),
        (np.zeros((2, 6, 6)), r"\(N, 2, 6, 6\)"),
        (np.zeros((0, 2, 6, 6)), "empty"),
        (np.zeros((1, 2, 6, 6), complex), "real"),
    ):
        with pytest.raises(ResproutError, match=said):
            runtime(x)
    assert runtime(np.zeros((1, 2, 6, 6), np.int64)).shape == (1, 5)
    with pytest.raises(ResproutError, match="threads"):
        Runtime((program, tensors), threads=0)
    with pytest.raises(ResproutError, match="avx"):
        Runtime((program, tensors), isa="avx1024")
    with pytest.raises(ResproutError, match="needs"):
        Runtime((program, {}))


def test_inputs_in_any_memory_order():
    program = Program((2, 6, 6), everything())
    runtime = Runtime((program, random_tensors(program)))
    x = np.random.default_rng(0).standard_normal((3, 6, 6, 2)).astype(np.float32)
    assert np.array_equal(runtime(x.transpose(0, 3, 1, 2)), runtime(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))


def test_layers_tell_what_became_of_them():
    model = settled(model_of("resnet20"))
    rs.prune(model, 0.95, allocate="erk")
    runtime = Runtime.of(model, torch.zeros(1, 3, 32, 32))
    layers = {layer.name: layer for layer in runtime.layers(runs=3)}
    weight = model.layer1[0].conv1.weight
    conv = layers["layer1.0.conv1.weight"]
    assert conv.nonzeros == torch.count_nonzero(weight)
    assert conv.flops == 2 * conv.nonzeros * 32 * 32
    assert conv.variant
    assert conv.microseconds > 0
    assert "add" not in layers  # every addition is taken in by a convolution


def test_programs_are_cut_where_one_value_lives():
    convs = [Conv(inputs=(i,), weight=f"w{i}", channels=3, kernel=(3, 3), padding=(1, 1)) for i in range(3)]
    program = Program((3, 8, 8), (*convs, Add(inputs=(1, 3)), Flatten(inputs=(4,))))
    assert cuts(program) == [1, 4]  # between the first convolution and the addition, its result waits
    x, tensors = torch.randn(2, 3, 8, 8), random_tensors(program)
    for cut in cuts(program):
        head, tail = halves(program, cut)
        between = interpret.run(head, tensors, x)
        assert torch.equal(interpret.run(tail, tensors, between), interpret.run(program, tensors, x))
    alone, beside = {0: 1.0, 1: 2.0, 2: 2.0, 3: 1.0, 4: 1.0}, {0: 5.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}
    assert best_cut(program, alone, beside) == 1
    assert best_cut(program, alone, dict.fromkeys(alone, 9.0)) == 5
    assert best_cut(program, alone, dict.fromkeys(alone, 0.0)) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_batches_in_two_halves_and_on_threads(threads):
    model = settled(model_of("digits_cnn"))
    rs.prune(model, 0.9)
    x = torch.randn(101, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    runtime = Runtime.of(model, x[:1], threads)
    wanted = model(x).detach().numpy()
    assert np.abs(runtime(x) - wanted).max() < 1e-4
    runtime._batch = []
    runtime._fastest = lambda _: split(runtime)  # whatever is fastest here: in two halves it must be right as well
    assert np.abs(runtime(x) - wanted).max() < 1e-4
    assert len(runtime._batch) == threads


def split(runtime):
    head, tail = halves(runtime.program, 3)
    between = np.empty((runtime._lanes, *head.output), np.float32)
    return _Chain((runtime._made(head, False, 1), runtime._made(tail, True, 1)), between)
