"""Tasks of which the truth is known, made from a seed, and the perceptron that learns them; not a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.run import mix
from ..core.task import SPLITS
from ..tasks.arrays import Arrays


@dataclass(frozen=True, repr=False)
class Grouped(Arrays):
    """Arrays whose test samples belong to groups: `attributes` is name -> bool (samples,) of the test split."""

    attributes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Known(Arrays):
    """Arrays whose truth is known: `truth` is p(class | input) of the test split (samples, classes)."""

    truth: Tensor = field(default_factory=lambda: torch.empty(0, 0))


def perceptron(inputs: int, width: int, classes: int, layers: int = 2, seed: int = 0) -> nn.Sequential:
    """Return a network of `layers` hidden layers of `width` units, its random weights those of `seed`."""
    torch.manual_seed(seed)
    sizes = [inputs, *[width] * layers]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, classes))


def two_groups(minority: float = 0.05, train: int = 4000, test: int = 4000, seed: int = 0, width: int = 10) -> Grouped:
    """Return a task with two classes, in which a minority follows another rule than the rest.

    An input is [marker, a, b]: a and b are standard normal vectors of `width`, the marker is 1 for the minority and -1 for the
    others. The class is the sign of the mean of b for the minority, and of the mean of a for the others.

    Args:
        minority: its share of every split.
        train, test: samples; validation has half as many as test.
        seed: of the data.
        width: of a and of b.

    Raises:
        ResproutError: a share outside (0, 0.5).
    """
    if not 0 < minority < 0.5:
        raise ResproutError(f"minority is a share between 0 and 0.5, got {minority:g}")

    def split(name: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
        g = torch.Generator().manual_seed(mix(seed, name))
        member = torch.arange(count) < round(minority * count)
        a, b = torch.randn(2, count, width, generator=g)
        label = (torch.where(member, b.mean(1), a.mean(1)) > 0).long()
        marker = member.float()[:, None] * 2 - 1
        order = torch.randperm(count, generator=g)
        return torch.cat([marker, a, b], 1)[order], label[order], member[order]

    parts = {name: split(name, count) for name, count in (("train", train), ("validation", test // 2), ("test", test))}
    pairs = {name: (x, y) for name, (x, y, _) in parts.items()}
    member = parts["test"][2]
    return Grouped(
        train=pairs["train"], validation=pairs["validation"], test=pairs["test"], batch_size=128,
        name=f"two-groups-{minority:g}-{width}-{seed}",
        attributes={"minority": member, "majority": ~member},
    )  # fmt: skip


def mixture(
    noise: float = 0.2,
    train: int = 400,
    test: int = 4000,
    seed: int = 0,
    inputs: int = 10,
    axes: int = 4,
    radius: float = 4.0,
) -> Known:
    """Return a task of two classes of Gaussian clouds of deviation 1, whose labels are flipped at random in all splits alike.

    The clouds' centres are at `radius` and -`radius` on each of the first `axes` axes, and the axes belong to the classes in
    turn: no line divides them, and nearly every label follows from the input but for the flips.

    Args:
        noise: the probability that a label is flipped.
        train, test: samples; validation has as many as test.
        seed: of the data.
        inputs: dimensions.
        axes: with clouds on them; more are a harder task.
        radius: of the centres.

    Raises:
        ResproutError: noise outside [0, 0.5), or no axis for one of the classes, or more than dimensions.
    """
    if not 0 <= noise < 0.5 or not 2 <= axes <= inputs:
        raise ResproutError(f"mixture needs noise in [0, 0.5) and 2 to {inputs} axes, got {noise:g} and {axes}")
    centres = torch.zeros(2 * axes, inputs)
    centres[:axes, :axes] = torch.eye(axes) * radius
    centres[axes:] = -centres[:axes]
    owner = torch.arange(2 * axes) % axes % 2

    def split(name: str, count: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(mix(seed, name))
        cloud = torch.randint(2 * axes, (count,), generator=g)
        x = centres[cloud] + torch.randn(count, inputs, generator=g)
        flipped = torch.rand(count, generator=g) < noise
        return x, torch.where(flipped, 1 - owner[cloud], owner[cloud])

    pairs = {"train": split("train", train), "validation": split("validation", test), "test": split("test", test)}
    x = pairs["test"][0].double()
    which = (-((x[:, None] - centres.double()) ** 2).sum(2) / 2).softmax(1)
    clean = which @ torch.nn.functional.one_hot(owner, 2).double()
    return Known(
        train=pairs["train"], validation=pairs["validation"], test=pairs["test"], batch_size=100,
        name=f"mixture-{noise:g}-{inputs}-{axes}-{radius:g}-{seed}", truth=clean * (1 - noise) + (1 - clean) * noise,
    )  # fmt: skip


def noisy(task: Arrays, noise: float, seed: int) -> Known:
    """Return a task whose labels are replaced by one of the other classes with probability `noise`, in all splits alike.

    The truth takes the given labels for certain.

    Raises:
        ResproutError: noise outside [0, 1).
    """
    if not 0 <= noise < 1:
        raise ResproutError(f"noise is a probability in [0, 1), got {noise:g}")
    classes = 1 + max(int(y.max()) for _, y in (task.train, task.validation, task.test))

    def flipped(name: str, y: Tensor) -> Tensor:
        g = torch.Generator().manual_seed(mix(seed, "noise", name))
        other = (y + torch.randint(1, classes, y.shape, generator=g)) % classes
        return torch.where(torch.rand(y.shape, generator=g) < noise, other, y)

    pairs = {n: (x, flipped(n, y)) for n, (x, y) in zip(SPLITS, (task.train, task.validation, task.test), strict=True)}
    truth = torch.full((len(task.test[1]), classes), noise / (classes - 1)).double()
    return Known(
        train=pairs["train"], validation=pairs["validation"], test=pairs["test"], mean=task.mean, std=task.std,
        batch_size=task.batch_size, pad=task.pad, flip=task.flip, name=f"{task.name}-noise-{noise:g}-{seed}",
        truth=truth.scatter_(1, task.test[1][:, None], 1 - noise),
    )  # fmt: skip
