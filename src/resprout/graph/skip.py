"""What stands where a layer has left.

A residual branch that is gone adds a constant (what its biases and norms leave of it; zeros where it has none) to what passes
by. Its last module becomes a `Skip`, which gives that constant; the modules before it become `Pass`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ResproutError

WIDEST = 1 << 24  # channels of a constant; more is a hostile file


@dataclass(frozen=True)
class Branch:
    """A residual branch f of x + f(x) that can leave.

    Attributes:
        name: that of its group.
        weights: those that must be dead.
        end: the module that becomes a `Skip`.
        passes: the modules that become `Pass`.
        bias: the last one that the end adds, by its name within it; "" if it adds none.
    """

    name: str
    weights: tuple[str, ...]
    end: str
    passes: tuple[str, ...]
    bias: str = ""


def tensors_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that a module is called with; the first is what its layer works on."""
    return (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))


class Pass(nn.Module):
    """A module that has left from within a branch: what it is given passes.

    Args:
        outputs: it returns a tuple of so many, the others None; 0: the tensor itself.
        index: the layer's number in the cache of a language model, which goes on counting positions; None: it has none.
    """

    def __init__(self, outputs: int = 0, index: int | None = None):
        super().__init__()
        self.outputs, self.index = outputs, index

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return it."""
        x = next(tensors_in(args, kwargs))
        self._count(x, kwargs)
        y = self.result(x)
        return (y, *(None,) * (self.outputs - 1)) if self.outputs else y

    def result(self, x: Tensor) -> Tensor:
        """Return what the module gives for `x`."""
        return x

    def _count(self, x: Tensor, kwargs: Mapping[str, Any]) -> None:
        """Tell the cache of a language model that these positions have been seen, by keys of no numbers."""
        cache = kwargs.get("past_key_values")
        crossed = any(kwargs.get(name) is not None for name in ("key_value_states", "encoder_hidden_states"))
        if cache is not None and self.index is not None and not crossed:
            none = x.new_empty(x.shape[0], 1, x.shape[1], 0)
            getattr(cache, "self_attention_cache", cache).update(none, none, self.index)

    def extra_repr(self) -> str:
        """How many outputs, where it is a tuple."""
        return f"outputs={self.outputs}" if self.outputs else ""


class Skip(Pass):
    """The end of a branch that has left: a constant per channel, wherever in the batch and at whatever position.

    Args:
        channels: of the constant; 1 is one number for all.
        dim: which dimension the channels are, of a result that is like the input in all others.
        outputs, index: as of `Pass`.
        bias: which tensor of the module that has left can take the constant, where its weights are zeros.
    """

    constant: Tensor

    def __init__(self, channels: int, dim: int, outputs: int = 0, index: int | None = None, bias: str = ""):
        super().__init__(outputs, index)
        self.dim, self.bias = dim, bias
        self.register_buffer("constant", torch.zeros(channels))

    def result(self, x: Tensor) -> Tensor:
        """Return the constant, of the shape of `x`."""
        sizes = [1] * x.dim()
        sizes[self.dim] = -1
        full = list(x.shape)
        if len(self.constant) > 1:
            full[self.dim] = len(self.constant)
        return self.constant.to(x.dtype).reshape(sizes).expand(full).contiguous()

    def extra_repr(self) -> str:
        """Channels, and where they are."""
        return ", ".join(filter(None, (f"{len(self.constant)}, dim={self.dim}", super().extra_repr())))


def kind_of(stand_in: Pass) -> str:
    """Say in a word what stands in: "pass" or "end:CHANNELS:DIM", ":OUTPUTS" where it returns a tuple, and "@BIAS"."""
    first = f"end:{len(stand_in.constant)}:{stand_in.dim}" if isinstance(stand_in, Skip) else "pass"
    bias = f"@{stand_in.bias}" if isinstance(stand_in, Skip) and stand_in.bias else ""
    return (f"{first}:{stand_in.outputs}" if stand_in.outputs else first) + bias


def stand_in(module: nn.Module, kind: str) -> Pass:
    """Return what stands for `module`, by the word of `kind_of`; the constant is zero until it is loaded.

    Raises:
        ResproutError: there is no such kind.
    """
    what, _, bias = kind.partition("@")
    word, *rest = what.split(":")
    number = getattr(module, "layer_idx", None)
    index = number if isinstance(number, int) else None
    try:
        numbers = [int(n) for n in rest]
        if word == "pass" and len(numbers) <= 1 and all(1 <= n <= 99 for n in numbers):
            made = Pass(*numbers, index=index)
        elif word == "end" and 2 <= len(numbers) <= 3 and 1 <= numbers[0] <= WIDEST and -9 < numbers[1] < 9:
            made = Skip(*numbers, index=index, bias=bias)
        else:
            raise ValueError
    except ValueError:
        raise ResproutError(f"{kind!r} says not what stands for a layer that has left; the shape is damaged") from None
    like = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), None)
    return (made if like is None else made.to(like)).train(module.training)
