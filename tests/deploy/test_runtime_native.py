"""The C library of the runtime: how it is built and found, and itself under sanitizers and on another processor."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import everything

from resprout.core.errors import ResproutError
from resprout.deploy import interpret
from resprout.deploy.program import Activation, Conv, Flatten, Linear, Pool, Program
from resprout.deploy.runtime import Runtime, build, native
from resprout.deploy.runtime.lower import lower

CHECK = Path(__file__).parent / "runtime_check.c"
PUBLIC = '__attribute__((visibility("default")))'
IMAGES = 17  # more than any instruction set has lanes


def conv(i, weight, channels, kernel=3, **more):
    return Conv(inputs=(i,), weight=weight, channels=channels, kernel=(kernel, kernel), **more)


NETWORKS = [
    Program((2, 6, 6), everything()),
    Program(
        (3, 16, 16),
        (
            conv(0, "a", 20, padding=(1, 1), slope=0.0),
            conv(1, "b", 20, padding=(1, 1), groups=20, slope=0.0, cap=6.0),
            conv(2, "c", 24, 1, stride=(2, 2)),
            Pool(inputs=(3,), maximum=True, kernel=(2, 2), stride=(2, 2)),
            conv(4, "d", 33, padding=(1, 1), slope=0.1),
            conv(5, "e", 7, padding=(2, 2), dilation=(2, 2)),
            Pool(inputs=(6,), maximum=False, kernel=(4, 4), stride=(4, 4)),
            Flatten(inputs=(7,)),
            Linear(inputs=(8,), weight="f", features=5),
        ),
    ),
]


def tensors_of(program, density=0.3):
    g = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(s, generator=g) / 2 for n, s in program.needs().items()}
    return {n: t * (torch.rand(t.shape, generator=g) < density) if t.dim() > 1 else t for n, t in tensors.items()}


def dump(program):
    """A network, an input and PyTorch's output, as runtime_check.c reads them."""
    tensors = tensors_of(program)
    x = torch.randn(IMAGES, *program.input, generator=torch.Generator().manual_seed(1))
    lowered = lower(program, tensors)
    arrays = {a.ctypes.data: a.tobytes() for a in lowered.kept}

    def piece(content: bytes | None) -> bytes:
        return np.int32(-1 if content is None else len(content)).tobytes() + (content or b"")

    parts = [np.array([len(lowered.shapes), len(lowered.ops), IMAGES], np.int32).tobytes()]
    parts.append(piece(lowered.shapes.tobytes()))
    for op in lowered.ops:
        parts.append(piece(bytes(op)))
        parts += [piece(arrays.get(address)) for address in (op.row, op.place, op.value, op.bias)]
    parts += [piece(x.numpy().tobytes()), piece(interpret.run(program, tensors, x).numpy().tobytes())]
    return b"".join(parts)


def checked(tmp_path, command, sets, *flags, emulator=()):
    """What runtime_check.c finds, all sources compiled by `command`."""
    warnings, objects = ("-Wall", "-Wextra", "-Werror", f"-I{build.SOURCES}"), []
    for name, (source, *own) in [*build.jobs(sets), ("check.o", [str(CHECK)])]:
        made = tmp_path / name
        options = ["-std=gnu11", *warnings, *flags, *own]
        subprocess.run([command, *options, "-c", build.SOURCES / source, "-o", made], check=True)
        objects.append(made)
    subprocess.run([command, *flags, *objects, "-o", tmp_path / "check", "-lm", "-lpthread"], check=True)
    data = tmp_path / "networks.bin"
    data.write_bytes(np.int32(len(NETWORKS)).tobytes() + b"".join(map(dump, NETWORKS)))
    done = subprocess.run([*emulator, tmp_path / "check", data], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
@pytest.mark.parametrize(
    ("sets", "optimise"),
    [(["portable"], "-O0"), pytest.param(list(build.SETS), "-O1", marks=pytest.mark.slow)],
    ids=["portable", "all"],
)
def test_sanitizers_find_nothing(tmp_path, sets, optimise):
    flags = (optimise, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert checked(tmp_path, "gcc", {isa: build.SETS[isa] for isa in sets}, *flags) in sets


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")),
    reason="needs Debian's gcc-aarch64-linux-gnu and qemu-user",
)
def test_neon_under_qemu(tmp_path):
    portable = {"portable": build.SETS["portable"]}
    found = checked(tmp_path, "aarch64-linux-gnu-gcc", portable, "-O1", "-static", emulator=["qemu-aarch64"])
    assert found == "portable"


def test_structures_are_those_of_c(tmp_path):
    main = 'int main(void) { printf("%zu %zu", sizeof(rs_op), sizeof(rs_conv_info)); return 0; }'
    sizes = f'#include "net.h"\n#include <stdio.h>\n{main}\n'
    (tmp_path / "sizes.c").write_text(sizes)
    command = [*build.compiler(), f"-I{build.SOURCES}", tmp_path / "sizes.c", "-o", tmp_path / "sizes"]
    subprocess.run(command, check=True)
    said = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True).stdout
    assert said == f"{ctypes.sizeof(native.Op)} {ctypes.sizeof(native.Info)}"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A source tree with one trivial C file instead of the runtime's, and a cache of its own."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "one.c").write_text(f"{PUBLIC} int one(void) {{ return 1; }}\n")
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "jobs", lambda: [("one.o", ["one.c"])])
    monkeypatch.setattr(build, "beside", lambda: tmp_path / build.NAME)
    monkeypatch.setenv("RESPROUT_CACHE", str(tmp_path / "cache"))
    return sources


def test_built_once_and_again_only_when_a_source_changes(tree, monkeypatch):
    calls = []
    real = build.build
    monkeypatch.setattr(build, "build", lambda target: calls.append(target) or real(target))
    first = native._built()
    assert native._built() == first
    assert calls == [first]
    assert sorted(p.suffix for p in first.parent.iterdir()) in ([".so"], [".lock", ".so"])  # nothing half-made is left
    (tree / "one.c").write_text(f"{PUBLIC} int one(void) {{ return 2; }}\n")
    second = native._built()
    assert second != first
    assert ctypes.CDLL(str(second)).one() == 2


def test_installed_with_a_key_that_says_what_it_was_made_from(tree):
    made = build.install()
    assert made == build.beside()
    assert made.with_suffix(".key").read_text() == build.fingerprint()
    (tree / "one.c").write_text(f"{PUBLIC} int one(void) {{ return 2; }}\n")
    assert made.with_suffix(".key").read_text() != build.fingerprint()


def test_compilers_that_are_missing_or_fail(tree, monkeypatch):
    target = tree / "x.so"
    (tree / "one.c").write_text("this is not C\n")
    with pytest.raises(build.CompilerError, match=r"one\.c"):
        build.build(target)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(build.CompilerError, match="install gcc or clang"):
        build.build(target)
    assert not target.exists()


def test_padding_that_would_overflow_is_refused():
    """Two dimensions of padding are multiplied with the channels, in lanes also with each other."""
    wide = Conv(
        inputs=(0,), weight="w", channels=64, kernel=(1, 1), groups=64, padding=(0, 1 << 26), stride=(1, 1 << 26)
    )
    program = Program((64, 1, 1), (wide,))
    lowered = lower(program, tensors_of(program, 1.0))
    ops, why = (native.Op * 1)(*lowered.ops), ctypes.create_string_buffer(200)
    made = native.library().rs_net_new(b"portable", 1, 1, 0.0, 2, lowered.shapes.ctypes.data, 1, ops, why, 200)
    assert made is None
    assert b"too large" in why.value
    runtime = Runtime((program, tensors_of(program, 1.0)), isa="portable", trials=0)
    x = torch.randn(5, 64, 1, 1)  # more than the lanes: one by one they fit
    assert np.allclose(runtime(x), interpret.run(program, tensors_of(program, 1.0), x).numpy(), atol=1e-6)


def test_values_that_no_memory_holds_are_refused():
    ops = tuple(Activation(inputs=(i,), slope=0.0) for i in range(10))
    with pytest.raises(ResproutError, match="too large"):
        Runtime((Program((1 << 28,), ops), {}))
