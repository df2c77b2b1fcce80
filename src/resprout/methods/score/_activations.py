"""What leaves a layer: its channels after norm and activation, as the next layer reads them; not a method."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ...core.errors import ResproutError
from ...core.probe import Moments, Probe
from ._norms import next_norms
from ._rows import alone, following, makers, owner, readers, rows

Look = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class _View:
    """Units of one weight as one module shows them: its output channels `rows`, in its features `columns`."""

    weight: str
    rows: Tensor
    columns: Tensor
    features: int


def moments(probe: Probe, look: Look, maps: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weight -> mean and variance, (output channels,) each, of what `look` sees in its channels over the batches.

    A channel is looked at where the next layer of its group reads it: the first layer behind the weight, in the order of
    the model's parameters, that has the channel as an input. Where there is none, or no groups are known, it is looked at
    in the layer's own output, or that of the norm right behind it, through a ReLU. Channels that no group holds stay, and
    get 0.

    Args:
        probe: with data.
        look: (channels, samples, *positions) -> (channels, values).
        maps: positions must be those of a feature map, so that no layer behind a flattening will do.

    Raises:
        ResproutError: a layer that does not run as a module, so that nothing can be seen of it.
    """
    inside, outside = _views(probe, maps)
    seen: dict[_View, Moments] = defaultdict(Moments)

    def see(views: dict[str, list[_View]], name: str, x: Tensor, relu: bool) -> None:
        for view in views[name]:
            found = channels(probe.model.get_submodule(name), x, view.features)
            if found is None:
                continue
            values = found[view.columns.to(x.device)]
            values = values.squeeze(1) if view.columns.shape[1] == 1 else values.movedim(1, 2)
            seen[view].add(look(values.relu() if relu else values))

    if outside:
        probe.watch(list(outside), lambda name, x: see(outside, name, x, relu=True))
    if inside:
        probe.watch(list(inside), lambda name, x: see(inside, name, x, relu=False), inputs=True)
    means, variances = ({n: torch.zeros(len(w)).double() for n, w in rows(probe).items()} for _ in range(2))
    for view in (v for views in (outside, inside) for every in views.values() for v in every):
        if view not in seen:
            raise ResproutError(
                f"nothing is seen of {view.weight!r}: its layer is not run as a module; use a score that looks at weights or "
                f"gradients, or add it to ignore=['{view.weight}']"
            )
        for into, number in zip((means, variances), seen[view].result(), strict=True):
            into[view.weight][view.rows] = number.cpu()[:, None].expand(view.rows.shape)
    return means, variances


def _views(probe: Probe, maps: bool) -> tuple[dict[str, list[_View]], dict[str, list[_View]]]:
    """Return module -> views in its input, and module -> views in its output."""
    inside, outside = defaultdict(list), defaultdict(list)
    own = alone(probe)
    modules, sizes = dict(probe.model.named_modules()), rows(probe)
    reads = {g.name: [s for s in readers(probe, g) if not maps or s.repeat == 1] for g in probe.groups}
    for group, made in makers(probe):
        read = following(probe, made.parameter, reads[group.name])
        if read is not None:
            module = modules[owner(read.parameter)]
            width, blocks = int(module.weight.shape[read.dim]), int(getattr(module, "groups", 1))  # pyright: ignore
            columns = (read.index[..., None] + width * torch.arange(blocks)).flatten(1)
            inside[owner(read.parameter)].append(_View(made.parameter, made.index, columns, width * blocks))
        else:
            own.add(made.parameter)
    norms = next_norms(probe)
    for name in (n for n in probe.names if n in own):
        every = torch.arange(len(sizes[name]))[:, None]
        outside[norms.get(name, owner(name))].append(_View(name, every, every, len(every)))
    return inside, outside


def channels(module: nn.Module, x: Tensor, features: int) -> Tensor | None:
    """Put the features first, the samples second; None if `x` does not have that many."""
    for dim in (1, -1) if isinstance(module, _ConvNd | _NormBase | nn.GroupNorm) else (-1, 1):
        if x.dim() > 1 and x.shape[dim] == features:
            return x.movedim(dim, 0)
    return None
