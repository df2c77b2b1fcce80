"""A network on its way into a folder: its class, configuration, values, and how it differs from what the configuration says."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...core import extras
from ...core.errors import ResproutError
from ...core.hold import unwrap
from ...core.masks import Masks
from ...graph.shape import Shape, shape_of

Sizes = dict[str, tuple[int, ...]]  # parameter or buffer -> its shape


@dataclass(frozen=True)
class Net:
    """A network as data.

    Attributes:
        cls: its class in transformers.
        config: its configuration, which says the sizes of the dense network.
        state: its `state_dict`, masked, with the names of tied weights too; a tied weight is one tensor.
        shape: what is left of the dense network.
        norms: norms that count channels that have left -> {"of": how many, "dim": along which dimension}.
    """

    cls: Any
    config: Any
    state: dict[str, Tensor]
    shape: Shape = field(default_factory=Shape)
    norms: dict[str, dict[str, int]] = field(default_factory=dict)

    def sizes(self) -> Sizes:
        """Return the shapes of the values."""
        return {n: tuple(t.shape) for n, t in self.state.items()}


def class_named(name: Any) -> Any:
    """Return a model class of transformers.

    Raises:
        ResproutError: transformers has none of this name.
    """
    library = extras.transformers()
    found = getattr(library, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, library.PreTrainedModel):
        raise ResproutError(f"transformers {library.__version__} has no model class {name!r}")
    return found


def build(cls: Any, config: Any) -> nn.Module:
    """Return the network that a configuration says, without values (on the device "meta"); `config` is left as it is."""
    with torch.device("meta"):
        return cls(copy.deepcopy(config))


def sizes(cls: Any, config: Any) -> Sizes:
    """Return the shapes of all that a configuration says."""
    return {n: tuple(t.shape) for n, t in build(cls, config).state_dict().items()}


def gather(model: nn.Module, masks: Masks | None, dtype: torch.dtype | None) -> Net:
    """Return a model of transformers as data; the model is left as it is.

    Args:
        model: dense, masked or shrunk.
        masks: which weights are alive; default those that are not zero.
        dtype: of all values that are no whole numbers; None leaves them as they are.

    Raises:
        ResproutError: another model; masks of another model; NaN, infinity, or values too large for `dtype`.
    """
    library, bare = extras.transformers(), unwrap(model)
    cls: Any = type(bare)
    if not isinstance(bare, library.PreTrainedModel) or getattr(library, cls.__name__, None) is not cls:
        raise ResproutError(
            f"model= must be a model of transformers itself, got {cls.__module__}.{cls.__name__}; rs.save writes any module"
        )
    own = dict(bare.named_parameters())
    odd = [n for n, m in (masks or {}).items() if n not in own or own[n].shape != m.shape]
    if odd:
        raise ResproutError(f"the masks name {odd[0]!r}, which {cls.__name__} does not have in that shape")
    factors = {id(own[n]): m for n, m in (masks or {}).items()}
    state: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    for name, tensor in bare.state_dict(keep_vars=True).items():
        if id(tensor) not in made:
            made[id(tensor)] = _value(name, tensor, factors.get(id(tensor)), dtype)
        state[name] = made[id(tensor)]
    config = with_biases(cls, bare.config, state)
    config.dtype = next(t.dtype for t in state.values() if t.is_floating_point())
    if getattr(config, "use_cache", True) is False:  # off while a network is trained; whoever generates wants it
        config.use_cache = True
    shape = shape_of(bare) or Shape()
    norms = {p: {"of": m.of, "dim": getattr(m, "dim", -1)} for p in shape.norms for m in [_norm(bare, p)]}
    return Net(cls, config, state, shape, norms)


def with_biases(cls: Any, config: Any, state: dict[str, Tensor]) -> Any:
    """Return a copy of the configuration that says the biases which layers were given; others that it says then are zero.

    Args:
        cls: the model's class.
        config: its configuration.
        state: the model's; gets the zeros.

    Raises:
        ResproutError: it cannot say them.
    """
    said: Any = copy.deepcopy(config)
    wanted = [n for n in state.keys() - sizes(cls, said).keys() if n.endswith(".bias")]
    for flag in [k for k, v in vars(said).items() if "bias" in k and v is False] if wanted else ():
        more = copy.deepcopy(said)
        setattr(more, flag, True)
        new = sizes(cls, more).keys() - sizes(cls, said).keys()
        if new & set(wanted):
            said = more
            missing = {n: f"{n.removesuffix('bias')}weight" for n in sorted(new - state.keys())}
            state |= {n: state[w].new_zeros(len(state[w])) for n, w in missing.items() if w in state}
    lost = sorted(set(wanted) - sizes(cls, said).keys())
    if lost:
        raise ResproutError(f"{type(said).__name__} has no field that says {lost[0]!r}: save it with rs.save")
    return said


def _norm(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)


def _value(name: str, tensor: Tensor, mask: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    if tensor.is_meta:
        raise ResproutError(
            f"{name!r} has no values (it is on the device meta): load the model whole, without offloading"
        )
    value = tensor.detach()
    if mask is not None:
        value = value * mask.to(value.device)
    if not value.is_floating_point():
        return value.cpu().contiguous()
    finite = bool(torch.isfinite(value).all())
    value = value.to("cpu", dtype or value.dtype).contiguous()
    if not finite or not bool(torch.isfinite(value).all()):
        why = (
            f"numbers too large for {dtype}: choose dtype='bfloat16'"
            if finite
            else "NaN or infinity: mend the weights first"
        )
        raise ResproutError(f"{name!r} holds {why}")
    return value


def once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values without the further names of tied weights, and none a view of another."""
    seen: dict[int, str] = {}
    return {n: t for n, t in state.items() if seen.setdefault(id(t), n) == n}


def bytes_of(state: Mapping[str, Tensor]) -> int:
    """Return how many bytes the values take, tied ones once."""
    return sum(t.numel() * t.element_size() for t in once(state).values())


def counted(model: nn.Module) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(math.prod(p.shape) for p in model.parameters())
