"""Convolutions that pool or add as they go: less memory, and the same numbers."""

import shutil
import subprocess

import pytest
import torch
from programs import random_archive

from resprout.deploy.export.c import export
from resprout.deploy.export.fused import fused
from resprout.deploy.plan import plan
from resprout.deploy.program import Activation, Add, Conv, Flatten, Linear, Op, Pool, Program
from resprout.deploy.trace import lower
from resprout.models import build


def conv(name: str, x: int, **activation: float) -> Conv:
    """From 3 channels to 3, in the same height and width."""
    window = {"kernel": (3, 3), "padding": (1, 1)}
    return Conv(inputs=(x,), weight=name, bias=f"{name}.bias", channels=3, **window, **activation)


def pool(x: int) -> Pool:
    return Pool(inputs=(x,), maximum=True, kernel=(2, 2), stride=(2, 2))


def mean(x: int) -> Pool:
    return Pool(inputs=(x,), maximum=False, kernel=(3, 2), stride=(1, 2), padding=(1, 1), counts_padding=False)


CASES: dict[str, tuple[tuple[Op, ...], str]] = {
    "pooled": ((conv("a", 0, slope=0), pool(1), conv("b", 2), mean(3)), "conv_pool conv_pool"),
    "residual": (
        (conv("a", 0), conv("b", 1, slope=0), conv("c", 2), Add(inputs=(3, 1), slope=0), conv("d", 4)),
        "conv conv conv_add conv",
    ),
    "two convolutions": (
        (conv("a", 0), conv("b", 0), Add(inputs=(1, 2)), Activation(inputs=(3,), slope=0), conv("c", 4)),
        "conv conv_add activation conv",
    ),
    # the caller's input and a convolution's own operand cannot be overwritten: nothing is won
    "onto the input": ((conv("a", 0), conv("b", 1), Add(inputs=(0, 2)), conv("c", 3)), "conv conv add conv"),
    "onto its own operand": ((conv("a", 0), conv("b", 1), Add(inputs=(1, 2)), conv("c", 3)), "conv conv add conv"),
    "onto what is needed later": (
        (conv("a", 0), conv("b", 1, slope=0), conv("c", 2), Add(inputs=(3, 1)), conv("d", 4), Add(inputs=(5, 1))),
        "conv conv conv_add conv_add",
    ),
    "activated before the sum": (
        (conv("a", 0), conv("b", 1), conv("c", 2, slope=0), Add(inputs=(1, 3)), conv("d", 4)),
        "conv conv conv add conv",
    ),
    "read twice": ((conv("a", 0), pool(1), conv("b", 1), pool(3), Add(inputs=(2, 4))), "conv pool conv_pool add"),
    "a sum with itself": ((conv("a", 0), Add(inputs=(1, 1)), conv("b", 2)), "conv add conv"),
    "to a linear layer": (
        (conv("a", 0), pool(1), Flatten(inputs=(2,)), Linear(inputs=(3,), weight="l", features=4)),
        "conv_pool flatten linear",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_fused(case):
    ops, names = CASES[case]
    program = Program((3, 5, 6), ops)
    found = fused(program)
    assert " ".join(op.name for op in found.program.ops) == names
    assert found.program.output == program.output
    assert found.size <= plan(program).size


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc: apt-get install gcc")
@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_the_plain_program(tmp_path, case):
    export(random_archive(Program((3, 5, 6), CASES[case][0])), tmp_path)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=address,undefined"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "test", tmp_path / "test.c", tmp_path / "net.c"], check=True)
    done = subprocess.run([tmp_path / "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "shape", "plain", "size"),
    [
        # the first convolution's result, the second's (or its pooled form and one channel)
        ("digits_cnn", (1, 8, 8), 32 * 64 + 64 * 64, 32 * 64 + 64 * 16 + 64),
        # a block's operand, its first convolution's result, its second's
        ("resnet20", (3, 32, 32), 3 * 16 * 1024, 2 * 16 * 1024),
        ("vgg16", (3, 32, 32), 2 * 64 * 1024, 64 * 1024 + 64 * 256 + 1024),
    ],
)
def test_sizes_by_hand(name, shape, plain, size):
    program = lower(build(name), torch.zeros(2, *shape)).program
    assert plan(program).size == plain
    assert fused(program).size == size
