"""Programs for tests, and archives of random weights for them."""

import torch

from resprout.deploy.encoding import Archive, Sparse
from resprout.deploy.program import (
    Activation,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Op,
    Pool,
    Program,
    Scale,
    Shortcut,
    Softmax,
)
from resprout.deploy.quantise import quantise


def everything() -> tuple[Op, ...]:
    """A network that has each operation, from an input of (2, 6, 6)."""
    return (
        Conv(inputs=(0,), weight="a", bias="ab", channels=4, kernel=(3, 3), padding=(1, 1), slope=0.1),  # 4 x 6 x 6
        Conv(
            inputs=(1,), weight="b", channels=4, kernel=(3, 2), stride=(1, 2), groups=4, slope=0, cap=1.5
        ),  # 4 x 4 x 3
        Shortcut(inputs=(0,), stride=(2, 2), before=1, after=2),  # 5 x 3 x 3
        Pool(inputs=(1,), maximum=True, kernel=(2, 2), stride=(2, 2)),  # 4 x 3 x 3
        Concat(inputs=(3, 4, 4)),  # 13 x 3 x 3
        Scale(inputs=(5,), weight="s", bias="sb", slope=0),
        Pool(
            inputs=(2,), maximum=False, kernel=(3, 3), stride=(1, 1), padding=(1, 1), counts_padding=False
        ),  # 4 x 4 x 3
        Activation(inputs=(7,), slope=0.5, cap=0.25),
        Add(inputs=(8, 2), slope=0),
        Flatten(inputs=(9,)),  # 48
        Flatten(inputs=(6,)),  # 117
        Concat(inputs=(10, 11)),  # 165
        Linear(inputs=(12,), weight="l", bias="lb", features=5),
        Softmax(inputs=(13,)),
    )


def random_archive(program: Program, values: str = "fp16", density: float = 0.3, seed: int = 0) -> Archive:
    """An archive with random numbers, made without a model."""
    g = torch.Generator().manual_seed(seed)
    weights, rest = {}, {}
    sparse = {op.weight for op in program.ops if isinstance(op, Conv | Linear)}
    for name, shape in program.needs().items():
        numbers = torch.randn(shape, generator=g) / 2
        if name not in sparse:
            rest[name] = numbers if values == "fp32" else numbers.half().float()
            continue
        places = torch.nonzero((torch.rand(shape, generator=g) < density).reshape(-1)).flatten()
        alive = numbers.reshape(-1)[places]
        if values.startswith("int"):
            weights[name] = quantise(shape, places.numpy(), alive.numpy(), values)
        else:
            weights[name] = Sparse(shape, places, alive.half() if values == "fp16" else alive)
    return Archive(values, weights, rest, program)
