"""Mean shift: what the cut weights gave a layer on average becomes part of its bias, b + E[W_cut x]; then train on.

Berisha, Mehnert, Condurache: "Variance-Based Pruning for Accelerating and Compressing Trained Networks", ICCV 2025,
arXiv:2507.12988 (there for the hidden units of MLPs, with 10 epochs of AdamW after it).
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Recover, Step
from ...core.masks import PRUNABLE, Masks
from ...core.probe import Moments, Probe
from ...core.run import Run
from ..score._norms import next_norms
from ..score._rows import owner, rows
from .finetune import Finetune


@dataclass(frozen=True)
class MeanShift(Recover):
    """Once after one cut from the dense network: what has died since is made up for by the dense network's means."""

    then: Recover = Finetune()  # noqa: RUF009
    key: ClassVar[str | None] = "vbp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, steps: int) -> tuple[Step, ...]:
        """Return Shift, then what `then` does."""
        return (Shift(), *self.then(steps))


@dataclass(frozen=True)
class Shift(Step):
    """Shift the biases by the means of the dense network (the point "dense"), taken in evaluation mode."""

    def __call__(self, run: Run) -> dict[str, Any]:
        """Shift.

        Raises:
            ResproutError: no point "dense", or a layer that can take up no shift.
        """
        data = run.probe().data()
        dense = Probe(run.model, run.masks, data, run.task.loss, run.anchor, training=False).at_anchor()
        return {"shifted": list(compensate(run.model, run.masks, dense))}


def compensate(model: nn.Module, masks: Masks, dense: Probe, create: bool = False) -> tuple[str, ...]:
    """Shift `model`'s biases, so that its layers' outputs keep the means they have in the dense network; return which.

    Without a bias, the running mean of a batch norm right behind the layer takes up the shift.

    Args:
        model: the cut network, changed in place.
        masks: what is alive in it.
        dense: a probe of the network before the cut; in evaluation mode (`training=False`) the means are those of use.
        create: give a layer that has neither a bias; the network then has one parameter more.

    Raises:
        ResproutError: a layer that can take up no shift.
    """
    found = {n: s for n, s in shifts(dense, masks).items() if bool(s.any())}
    modules, norms = dict(model.named_modules()), next_norms(dense)
    sinks: dict[str, tuple[Tensor | None, int]] = {}
    for weight in found:
        layer, norm = modules[owner(weight)], modules.get(norms.get(weight, "-"))
        sinks[weight] = layer.bias, 1  # pyright: ignore[reportArgumentType]
        if layer.bias is None and isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            sinks[weight] = norm.running_mean, -1
        if sinks[weight][0] is None and not create:
            raise ResproutError(
                f"{weight!r} has lost weights, and its layer has no bias (nor a batch norm right behind it) to make up for "
                "their mean: give it a bias, or call compensate(..., create=True)"
            )
    for weight, (sink, sign) in sinks.items():
        layer = modules[owner(weight)]
        if sink is None:
            layer.register_parameter("bias", nn.Parameter(found[weight].to(next(layer.parameters()))))
        else:
            sink.detach().add_(found[weight].to(sink), alpha=sign)
    return tuple(found)


def shifts(dense: Probe, masks: Masks) -> dict[str, Tensor]:
    """Return weight -> the mean over samples and positions of what its dead weights gave each output (outputs,).

    In a linear layer that is W[:, P] mu_P for the dead inputs P; in a convolution its padding is counted, so that the mean
    is kept, though single positions at the border are not. Outputs without any weight alive are dead, and lose nothing.
    """
    twins, means = {}, {}
    modules = dict(dense.model.named_modules())
    alive = {n: m.any(1) for n, m in rows(dense, masks).items()}
    for name, weight in dense.weights().items():
        cut = weight * ~masks[name]
        if not bool(cut.any() and alive[name].any()):
            continue
        if not isinstance(modules[owner(name)], PRUNABLE):
            raise ResproutError(f"the mean of {name!r} is unknown: only linear layers and convolutions can be shifted")
        twin = copy.deepcopy(modules[owner(name)])
        twin.weight = nn.Parameter(cut, requires_grad=False)
        twin.register_parameter("bias", None)
        twins[owner(name)], means[owner(name)] = twin, Moments()

    def see(name: str, x: Tensor) -> None:
        lost = twins[name](x)
        dim = -1 if isinstance(twins[name], nn.Linear) else 1
        means[name].add(lost.movedim(dim, 0).flatten(1))

    dense.watch(list(twins), see, inputs=True)
    found = {}
    for name, mean in means.items():
        weight = f"{name}.weight" if name else "weight"
        if not mean.count:
            raise ResproutError(
                f"nothing is seen of {weight!r}: its layer is not run as a module; add it to ignore=[...]"
            )
        found[weight] = mean.result()[0] * alive[weight]
    return found
