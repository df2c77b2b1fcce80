"""The C source of a network: compiled with all warnings and sanitizers, it gives PyTorch's outputs."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from programs import everything, random_archive
from random_programs import programs
from torch import nn

import resprout as rs
from resprout import models
from resprout.core.masks import Masks
from resprout.deploy import encoding
from resprout.deploy.encoding import Archive, Sparse
from resprout.deploy.export.c import export
from resprout.deploy.export.source import CORE, source, weight_bytes
from resprout.deploy.interpret import run
from resprout.deploy.program import (
    Activation,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Pool,
    Program,
    Scale,
    Shortcut,
    Softmax,
)

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]
COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]
EXAMPLES = {"digits_cnn": (1, 8, 8), "lenet_300_100": (784,), "resnet20": (3, 32, 32)}

pytestmark = pytest.mark.skipif("gcc" not in COMPILERS, reason="needs gcc: apt-get install gcc")


def compiled(folder: Path, name: str = "net", compiler: str = "gcc") -> Path:
    """The test program of an exported network."""
    made = folder / f"{name}_{compiler}"
    command = [compiler, *STRICT, *SANITIZE, "-o", made, folder / "test.c", folder / f"{name}.c"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def passes(program: Path) -> None:
    """Run a test program, which compares all outputs itself."""
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all outputs as in PyTorch" in done.stdout


def network(name: str, sparsity: float = 0.98) -> tuple[nn.Module, Masks]:
    """A network with norms that do something, pruned without losing a layer."""
    torch.manual_seed(0)
    model = models.build(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # pyright: ignore
            module.running_var.uniform_(0.5, 2)  # pyright: ignore
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model.eval(), rs.prune(model, sparsity, allocate="uniform", floor=1)


# -- whole networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("digits_cnn", "int8"),
        ("digits_cnn", "int4"),
        ("lenet_300_100", "fp16"),
        ("resnet20", "fp32"),
        ("resnet20", "int8"),
    ],
)
def test_networks_at_98_percent(tmp_path, name, values):
    model, masks = network(name)
    x = torch.randn(3, *EXAMPLES[name], generator=torch.Generator().manual_seed(3))
    rs.save(tmp_path / "file", model, masks, values=values, example=x)
    archive = encoding.read(tmp_path / "file")
    export(archive, tmp_path / "c", inputs=x)
    passes(compiled(tmp_path / "c"))
    assert archive.program is not None
    loaded = rs.load(tmp_path / "file", into=models.build(name).eval())
    torch.testing.assert_close(run(archive.program, archive.tensors(), x), loaded(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiler", COMPILERS[1:])
def test_other_compilers_agree(tmp_path, compiler):
    export(random_archive(Program((2, 6, 6), everything()), "int8"), tmp_path)
    passes(compiled(tmp_path, compiler=compiler))


# -- every operation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_every_operation_and_every_kind_of_value(tmp_path, values, density):
    export(random_archive(Program((2, 6, 6), everything()), values, density), tmp_path)
    passes(compiled(tmp_path))


@pytest.mark.parametrize(
    "ops",
    [
        (Flatten(inputs=(0,)),),
        (Activation(inputs=(0,), slope=0.0),),
        (Concat(inputs=(0, 0)),),
        (Add(inputs=(0, 0), cap=1.0),),
        (Scale(inputs=(0,), weight="s", bias="sb", slope=-0.5),),
        (Flatten(inputs=(0,)), Softmax(inputs=(1,))),
        (Pool(inputs=(0,), maximum=False, kernel=(2, 3), stride=(2, 1), padding=(1, 1)),),
        (Shortcut(inputs=(0,), stride=(1, 3)), Activation(inputs=(1,), slope=0.2), Add(inputs=(2, 1))),
    ],
    ids=lambda ops: "-".join(op.name for op in ops),
)
def test_small_programs(tmp_path, ops):
    export(random_archive(Program((3, 4, 5), ops)), tmp_path)
    passes(compiled(tmp_path))


@settings(max_examples=10, deadline=None)
@given(program=programs(), values=st.sampled_from(["fp32", "fp16", "int8", "int4"]), seed=st.integers(0, 99))
def test_random_programs(tmp_path_factory, program, values, seed):
    assume(program.ops)
    folder = tmp_path_factory.mktemp("program")
    export(random_archive(program, values, seed=seed), folder)
    passes(compiled(folder))


sides = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=sides,
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=sides,
    groups=st.sampled_from([1, 2, 4]),
    values=st.sampled_from(["fp32", "int8"]),
)
def test_any_convolution(tmp_path_factory, size, kernel, stride, padding, dilation, groups, values):
    full = [n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)]
    padding = tuple(p + max(0, 1 - f) for p, f in zip(padding, full, strict=True))
    window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    op = Conv(inputs=(0,), weight="w", bias="b", channels=4, groups=groups, **window)
    folder = tmp_path_factory.mktemp("conv")
    export(random_archive(Program((4, *size), (op,)), values), folder)
    passes(compiled(folder))


# -- what the source is --------------------------------------------------------------------------------------------


def test_the_weights_are_those_of_the_file(tmp_path):
    model, masks = network("digits_cnn")
    rs.save(tmp_path / "file", model, masks, values="int8", example=torch.zeros(1, 1, 8, 8))
    archive = encoding.read(tmp_path / "file")
    made = source(archive)
    streams = sum(encoding.pack(s).size for s in archive.weights.values())
    least = streams + 2 * sum(t.numel() for t in archive.rest.values())
    assert least <= made.weight_bytes == weight_bytes(archive) <= least + 3 * 6 * len(archive.weights)  # whole words
    gaps = encoding.pack(archive.weights["7.weight"]).places.unary.tolist()
    assert ", ".join(map(str, gaps[:9])) in made.code


def test_the_header_states_the_memory_and_the_source_needs_nothing_else(tmp_path):
    made = source(random_archive(Program((2, 6, 6), everything()), "int8"), "eye")
    assert "#define EYE_INPUT_SIZE 72 /* floats: 2 x 6 x 6 */" in made.header
    assert "#define EYE_OUTPUT_SIZE 5" in made.header
    assert f"#define EYE_ARENA_BYTES {made.arena_bytes} " in made.header
    assert set(re.findall(r"#include .*", made.header + made.code)) == {"#include <stdint.h>", '#include "eye.h"'}
    assert not re.search(r"\b(malloc|free|memcpy|memset|expf?)\b", made.code)


def test_only_what_is_used_is_there():
    made = source(random_archive(Program((3,), (Linear(inputs=(0,), weight="w", features=2),)), "fp16"))
    assert "struct linear" in made.code
    assert not re.search(r"struct (conv|pool|scale)\b|softmax|static float arena", made.code)


def test_a_value_beyond_the_arena_does_not_compile(tmp_path):
    made = export(random_archive(Program((2, 6, 6), everything())), tmp_path)
    header = (tmp_path / "net.h").read_text()
    (tmp_path / "net.h").write_text(
        header.replace(f"ARENA_BYTES {made.arena_bytes}", f"ARENA_BYTES {made.arena_bytes - 4}")
    )
    done = subprocess.run(
        ["gcc", "-c", tmp_path / "net.c", "-o", tmp_path / "o"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "is negative" in done.stderr


def test_the_test_program_can_fail(tmp_path):
    export(random_archive(Program((2, 6, 6), everything())), tmp_path)
    file = tmp_path / "net_test.h"
    head, _, outputs = file.read_text().partition("net_test_outputs")
    file.write_text(head + "net_test_outputs" + re.sub(r"0\.\d+f", "0.9f", outputs, count=1))
    done = subprocess.run([compiled(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"output \d of input 0 is .*, not 0.9\n", done.stdout)


def test_another_name_and_two_networks_in_one_program(tmp_path):
    archive = random_archive(Program((2, 6, 6), everything()), "int4")
    for name in ("eye", "ear2"):
        export(archive, tmp_path, name=name)
        passes(compiled(tmp_path, name))
    main = '#include "eye.h"\n#include "ear2.h"\nint main(void) { return eye_run(0, 0) - ear2_run(0, 0); }\n'
    (tmp_path / "both.c").write_text(main)
    files = [tmp_path / f for f in ("both.c", "eye.c", "ear2.c")]
    subprocess.run(["gcc", *STRICT, "-o", tmp_path / "both", *files], check=True)
    assert subprocess.run([tmp_path / "both"], check=False).returncode == 0


def test_names_that_would_be_one_in_c_stay_two(tmp_path):
    ops = (Linear(inputs=(0,), weight="a.b", features=3), Linear(inputs=(1,), weight="a_b", features=3))
    export(random_archive(Program((3,), ops), density=1.0), tmp_path)
    passes(compiled(tmp_path))


def test_the_exponential_is_exact_enough(tmp_path):
    x = torch.tensor([[0.0, -0.3, -5.0, -20.0, -86.9, -87.1, -200.0], [3e38, -3e38, 0.0, 1.0, 2.0, 3.0, 4.0]])
    export(Archive("fp16", {}, {}, Program((7,), (Softmax(inputs=(0,)),))), tmp_path, inputs=x)
    passes(compiled(tmp_path))
    x = -87 * torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    (tmp_path / "e.c").write_text(
        f"""#include <stdio.h>
        #include "{CORE / "softmax.h"}"
        int main(void)
        {{
            float x;
            while (scanf("%f", &x) == 1)
                printf("%.9g\\n", (double)exponential(x));
            softmax(&x, &x, 1);
            return 0;
        }}"""
    )
    subprocess.run(["gcc", "-o", tmp_path / "e", tmp_path / "e.c"], check=True)
    given = "\n".join(f"{v:.9g}" for v in x.tolist())
    said = subprocess.run([tmp_path / "e"], input=given, capture_output=True, text=True, check=True).stdout
    got = torch.tensor([float(v) for v in said.split()], dtype=torch.float64)
    assert float((got / x.double().exp() - 1).abs().max()) < 4e-7


def test_half_precision_is_exact(tmp_path):
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    numbers = numbers[numbers.isfinite()]
    program = Program((1,), (Linear(inputs=(0,), weight="w", features=len(numbers)),))
    weight = Sparse((len(numbers), 1), torch.arange(len(numbers)), numbers)
    export(Archive("fp16", {"w": weight}, {}, program), tmp_path, inputs=torch.ones(1, 1))
    test = (tmp_path / "test.c").read_text()
    (tmp_path / "test.c").write_text(test.replace("error <= 1e-4f", "output[j] == expected[j]"))
    passes(compiled(tmp_path))


def test_a_name_from_a_hostile_file_is_no_code(tmp_path):
    evil = "x */ int evil(void) { return 1; } /* é"
    made = export(random_archive(Program((3,), (Linear(inputs=(0,), weight=evil, features=3),))), tmp_path)
    assert "evil(void)" not in made.code
    assert made.code.isascii()
    passes(compiled(tmp_path))


# -- what cannot be ------------------------------------------------------------------------------------------------


def test_a_file_without_a_program_is_refused(tmp_path):
    rs.save(tmp_path / "file", nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(rs.ResproutError, match="save it with example="):
        source(encoding.read(tmp_path / "file"))


@pytest.mark.parametrize("name", ["", "Net", "2net", "my-net", "int main", "test", "stdint"])
def test_names_that_c_does_not_take_are_refused(name):
    with pytest.raises(rs.ResproutError, match="name must be"):
        source(random_archive(Program((3,), (Softmax(inputs=(0,)),))), name)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(rs.ResproutError, match="is a file; name a folder"):
        export(random_archive(Program((3,), (Softmax(inputs=(0,)),))), tmp_path / "out")


def test_a_weight_among_the_rest_is_refused():
    archive = random_archive(Program((3,), (Linear(inputs=(0,), weight="w", features=2),)))
    moved = Archive("fp16", {}, {"w": archive.weights["w"].dense()}, archive.program)
    with pytest.raises(rs.ResproutError, match="'w' is stored among biases and norms"):
        source(moved)


def test_infinite_caps_have_a_number():
    made = source(random_archive(Program((3,), (Activation(inputs=(0,), slope=0.0, cap=math.inf),))))
    assert "activate(output, 3, 0.0f, 3.40282347e+38f)" in made.code
