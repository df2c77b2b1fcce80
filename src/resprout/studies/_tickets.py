"""Tickets that are known: small networks built by hand, and how to hide them in a large random one; not a study.

Fischer, Burkholz: "Plant 'n' Seek: Can You Find the Winning Ticket?", ICLR 2022, arXiv:2111.11153.

Differences: output weights follow from the values at the knots, exactly, rather than from differences of slopes, which is the
same function; where no unit of the random network has all its signs right, one with a positive match is taken; and the match
is judged by |w - c v| / |c v| by default, for the published |w - c v| takes the smallest weights there are, layer after layer,
until what the ticket puts out is ten thousand times too small to be trained (`relative=False`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.masks import Masks
from ..core.run import mix
from ..core.task import Split, Task
from ..tasks.arrays import Arrays

Layer = tuple[Tensor, Tensor]  # weight (outputs, inputs) and bias, float64
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A sparse network with ReLU after all layers but the last; its edges are the weights that are not zero."""

    layers: tuple[Layer, ...]
    classes: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Return its outputs (samples, outputs), in float64."""
        x = x.double()
        for weight, bias in self.layers[:-1]:
            x = torch.relu(x @ weight.T + bias)
        return x @ self.layers[-1][0].T + self.layers[-1][1]

    @property
    def edges(self) -> int:
        """How many weights it has; biases are not counted."""
        return sum(int((w != 0).sum()) for w, _ in self.layers)


def piecewise(f: Callable[[Tensor], Tensor], low: float, high: float, units: int) -> tuple[Layer, Layer]:
    """Return two layers that compute f of one number, exactly at `units` + 1 knots and linearly in between.

    Unit i is relu(s_i (x - t_i)), its sign s_i alternating; the output's weights solve for the values at the knots.
    """
    knots = torch.linspace(low, high, units + 1, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(units)[:units]
    # A unit bends where it begins; the two last bend outside, so that the units span what is linear between the knots.
    bends = torch.cat([knots[1:-1], (low - 0.5) * torch.ones(1).double()])
    bends[-1] = low - 0.5 if signs[-1] > 0 else high + 0.5
    hidden = torch.relu(signs * (knots[:, None] - bends))
    system = torch.cat([hidden, torch.ones(units + 1, 1, dtype=torch.float64)], 1)
    solved = torch.linalg.solve(system, f(knots))
    solved = torch.where(solved.abs() < 1e-9, 0.0, solved)  # what is straight needs no bend
    return (signs[:, None].clone(), -signs * bends), (solved[:-1].T.contiguous(), solved[-1])


def passed(layer: Layer, depth: int) -> list[Layer]:
    """Return a layer whose outputs are carried on by units that add 1 and take it away again, `depth` layers in all.

    Outputs must be above -1.
    """
    if depth == 1:
        return [layer]
    (weight, bias), eye = layer, torch.eye(len(layer[0]), dtype=torch.float64)
    zero = torch.zeros(len(weight), dtype=torch.float64)
    return [(weight, bias + 1), *[(eye, zero)] * (depth - 2), (eye, zero - 1)]


def relu(depth: int = 4) -> Ticket:
    """y = max(0, x): one weight in each layer."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    return Ticket(tuple((one, zero) for _ in range(depth)))


def circle(depth: int = 4, units: int = 10) -> Ticket:
    """Four classes by the distance of a point of the plane from the origin: equal areas of the unit disc, roughly.

    Squares are made piecewise linear, one unit sums them, and the outputs are lines in the sum whose upper envelope changes at
    0.25, 0.5 and 0.75.
    """
    first, second = piecewise(lambda x: (x**2)[:, None], -1.0, 1.0, units)
    weight = torch.block_diag(first[0], first[0])
    layers = [(weight, first[1].repeat(2)), (second[0].repeat(1, 2), second[1] * 2)]
    eye, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    layers += [(eye, zero)] * (depth - 3)
    slopes = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
    return Ticket((*layers, (slopes, -torch.tensor([0.0, 0.25, 0.75, 1.5], dtype=torch.float64))), classes=True)


def helix(depth: int = 4, units: int = 30) -> Ticket:
    """Three coordinates of a helix that winds down, of one number in [0, 1]."""

    def f(x: Tensor) -> Tensor:
        angle = 5 * math.pi + 3 * math.pi * x
        return torch.stack([angle * angle.cos(), angle * angle.sin(), angle], 1) / (8 * math.pi)

    first, second = piecewise(f, 0.0, 1.0, units)
    return Ticket((first, *passed(second, depth - 1)))


TICKETS = {"relu": relu, "circle": circle, "helix": helix}
RANGES = {"relu": (-1.0, 1.0), "circle": (-1.0, 1.0), "helix": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Planted:
    """A random network with a ticket in it: the masks of the ticket, and what its outputs are to be multiplied by."""

    network: nn.Sequential
    masks: Masks
    scale: Tensor


def plant(ticket: Ticket, width: int, seed: int, relative: bool = True) -> Planted:
    """Hide a ticket in a random network of `width` units a layer (He's initialisation, biases too).

    Layer by layer, each unit of the ticket takes the unit of the network, not taken yet, whose weights where the ticket has some
    come nearest to c times the ticket's, c > 0 their best factor; those weights become c times the ticket's, and what reads the
    unit is divided by c. Outputs stay where they are and share one factor.

    Raises:
        ResproutError: the ticket does not fit into the width.
    """
    sizes = [ticket.layers[0][0].shape[1], *[width] * (len(ticket.layers) - 1), len(ticket.layers[-1][0])]
    if max(len(w) for w, _ in ticket.layers[:-1]) > width:
        raise ResproutError(
            f"the ticket has {max(len(w) for w, _ in ticket.layers[:-1])} units in a layer, not {width}"
        )
    g = torch.Generator().manual_seed(mix(seed, "network"))
    network, masks = nn.Sequential(), {}
    places, scales = list(range(sizes[0])), torch.ones(sizes[0], dtype=torch.float64)
    for depth, (weight, bias) in enumerate(ticket.layers):
        linear = nn.Linear(sizes[depth], sizes[depth + 1])
        std = math.sqrt(2 / sizes[depth])
        with torch.no_grad():
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=g) * std)
            linear.bias.copy_(torch.randn(linear.bias.shape, generator=g) * std)
        last = depth == len(ticket.layers) - 1
        mask = torch.zeros_like(linear.weight, dtype=torch.bool)
        free, taken, factors = list(range(len(linear.weight))), [], []
        common = (
            float(linear.weight.detach().abs().mean() / (weight / scales).abs()[weight != 0].mean()) if last else None
        )
        for unit, row in enumerate(weight / scales):
            columns = [places[i] for i in row.nonzero().flatten().tolist()]
            wanted = torch.cat([bias[unit : unit + 1], row[row != 0]])
            at = unit if last else _match(linear, free, columns, wanted, relative)
            have = torch.cat([linear.bias[at : at + 1], linear.weight[at, columns]]).detach().double()
            c = common or float(wanted @ have / wanted.square().sum())
            c = c if c > 0 else float(have.abs().mean() / wanted.abs().mean())
            with torch.no_grad():
                linear.bias[at], linear.weight[at, columns] = c * wanted[0], (c * wanted[1:]).float()
            mask[at, columns] = True
            free.remove(at)
            taken.append(at)
            factors.append(c)
        masks[f"{2 * depth}.weight"] = mask
        network.append(linear)
        if not last:
            network.append(nn.ReLU())
        places, scales = taken, torch.tensor(factors, dtype=torch.float64)
    return Planted(network, Masks(masks), 1 / scales)


def _match(linear: nn.Linear, free: list[int], columns: list[int], wanted: Tensor, relative: bool) -> int:
    """The free unit that is nearest to a positive multiple of what is wanted, first among those with all signs right."""
    have = torch.cat([linear.bias[free, None], linear.weight[free][:, columns]], 1).detach().double()
    c = have @ wanted / wanted.square().sum()
    off = (have - c[:, None] * wanted).abs().sum(1)
    off = off / c.clamp_min(1e-12) if relative else off
    signs = ((have * wanted) >= 0).all(1)
    for able in (signs & (c > 0), c > 0, torch.ones_like(signs)):
        if bool(able.any()):
            return free[int(off.masked_fill(~able, torch.inf).argmin())]
    raise AssertionError


@torch.no_grad()
def rescaled(network: nn.Sequential, factor: Tensor | float) -> nn.Sequential:
    """Multiply what the network puts out by a positive factor, spread evenly over its layers; in place.

    With weights times a, and the biases of layer k times a^k, the outputs of L layers with ReLU are a^L times what they were.
    """
    linear = [m for m in network if isinstance(m, nn.Linear)]
    a = float(factor) ** (1 / len(linear))
    for k, layer in enumerate(linear, start=1):
        layer.weight *= a
        layer.bias *= a**k
    return network


@dataclass(frozen=True, eq=False)
class Curve(Task):
    """Regression of what a ticket computes; its metric is R^2, 1 - mean square / variance."""

    train: Pair
    validation: Pair
    test: Pair
    name: str
    batch_size: int = 128
    metric = "fit"

    def __repr__(self) -> str:
        return f"Curve({self.name!r})"

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of the training data."""
        return len(self.train[1]) // self.batch_size

    def batches(
        self, split: Split, *, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Pair]:
        """Yield (inputs, values)."""
        x, y = getattr(self, split)
        order = torch.arange(len(y))
        if split == "train":
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(mix(seed, "order", epoch)))
        for rows in order.split(self.batch_size)[start : self.steps_per_epoch if split == "train" else None]:
            yield x[rows][shard[0] :: shard[1]], y[rows][shard[0] :: shard[1]]

    def loss(self, model: nn.Module, batch: Pair) -> Tensor:
        """Return the mean square error."""
        return F.mse_loss(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Return {"fit": R^2}, at most 1."""
        x, y = getattr(self, split)
        return {"fit": 1 - float(F.mse_loss(model(x), y) / (y - y.mean(0)).square().mean())}


def task_of(name: str, ticket: Ticket, count: int, seed: int, noise: float = 0.01) -> Task:
    """Return the task whose truth is the ticket: uniform inputs; values with a little noise in training, classes without."""

    def split(part: str) -> Pair:
        g = torch.Generator().manual_seed(mix(seed, name, part))
        low, high = RANGES[name]
        x = torch.rand(count, ticket.layers[0][0].shape[1], generator=g) * (high - low) + low
        y = ticket(x)
        if ticket.classes:
            return x, y.argmax(1)
        return x, (y + (noise * torch.randn(y.shape, generator=g) if part == "train" else 0)).float()

    parts = [split(part) for part in ("train", "validation", "test")]
    if ticket.classes:
        return Arrays(parts[0], parts[1], parts[2], batch_size=128, name=f"{name}-{count}-{seed}")
    return Curve(parts[0], parts[1], parts[2], f"{name}-{count}-{seed}-{noise:g}")
