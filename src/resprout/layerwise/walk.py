"""Walk through the blocks of a network: each sees what the blocks before it, as they are by then, make of the data.

What this file does not do: choose weights (`prune.py`), or read a model from its files (`folder.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.blocks import find_blocks
from ..core.errors import ResproutError
from ..core.masks import Masks
from ..core.probe import Probe, first_tensor, to_device
from ..graph.tape import aside

Forward = Callable[[nn.Module, Any], Any]


@dataclass
class Call:
    """How a block is called with one batch: the hidden states, and the rest of its arguments."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Block:
    """A block on the way.

    Attributes:
        index: from 0.
        name: its path in the model.
        module: itself, with weights.
        calls: one for each batch; `hidden` is what it reads now.
        changed: whether its weights are others than those it came with: set by who changes them.
    """

    index: int
    name: str
    module: nn.Module
    calls: list[Call] = field(repr=False)
    changed: bool = False

    def run(self, call: Call) -> Tensor:
        """Return the hidden states that it makes of one batch, where the inputs are kept."""
        device = next(self.module.parameters()).device
        out = self.module(
            to_device(call.hidden, device), *to_device(call.args, device), **to_device(call.kwargs, device)
        )
        return (out[0] if isinstance(out, tuple | list) else out).to(call.hidden.device)

    def probe(self, masks: Masks, anchor: dict[str, Tensor] | None = None) -> Probe:
        """Return a probe of the block by itself; `masks` and `anchor` name its own parameters.

        It answers what needs weights and inputs. There is no loss to take gradients of.
        """
        return Probe(self.module, masks, range(len(self.calls)), self._no_loss, anchor, training=False)

    def _no_loss(self, module: nn.Module, at: int) -> Tensor:
        if torch.is_grad_enabled():
            raise ResproutError(
                "block by block there is no loss to take gradients of: use a score of weights and inputs such as 'wanda', or "
                "rs.prune on the whole model"
            )
        self.run(self.calls[at])
        return torch.zeros(())


class _Passing(nn.Module):
    """Stands for a block: notes how it is called and hands the hidden states on."""

    def __init__(self, block: nn.Module, calls: list[list[Call]], index: int, several: bool, last: bool):
        super().__init__()
        self._block = [block]  # in a list, so that it is no module of this one
        self.calls, self.index, self.several, self.last = calls, index, several, last

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # models ask their blocks for facts such as attention_type
            return getattr(self._block[0], name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        read = hidden if self.index == 0 else hidden.new_empty(0)  # what later ones read is made when it is their turn
        self.calls[self.index].append(Call(read, args, kwargs))
        if self.last:
            raise _Arrived
        return (hidden,) if self.several else hidden


class _Arrived(Exception):
    """All blocks have been called."""


@contextmanager
def _replaced(blocks: nn.ModuleList | nn.Sequential, by: Sequence[nn.Module]) -> Iterator[None]:
    kept = list(blocks)
    for i, module in enumerate(by):
        blocks[i] = module
    try:
        yield
    finally:
        for i, module in enumerate(kept):
            blocks[i] = module


def usual(model: nn.Module, batch: Any) -> Any:
    """Call a model with a batch: a mapping as keyword arguments, else its first tensor."""
    return model(**batch) if isinstance(batch, dict) else model(first_tensor(batch))


def calls(model: nn.Module, path: str, batches: Sequence[Any], forward: Forward = usual) -> list[list[Call]]:
    """Return how each block is called with each batch; only for the first one with the hidden states that it reads.

    Nothing of the blocks is computed, but for the first one on the first batch.

    Args:
        model: with weights in all that runs before the first block, and in that.
        path: of the list of blocks.
        batches: what `forward` takes.
        forward: calls the model.

    Raises:
        ResproutError: no batches, or a block that is not called or not with hidden states first.
    """
    if not len(batches):
        raise ResproutError("data= is empty: at least one batch is needed")
    blocks: Any = model.get_submodule(path)
    device = next(blocks[0].parameters()).device
    found: list[list[Call]] = [[] for _ in blocks]
    first: list[bool] = []

    def note(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any], out: Any) -> None:
        first.append(isinstance(out, tuple | list))
        raise _Arrived

    with aside(model):
        handle = blocks[0].register_forward_hook(note, with_kwargs=True)
        try:
            _until_arrived(model, to_device(batches[0], device), forward)
        finally:
            handle.remove()
        if not first:
            raise ResproutError(f"the model does not call {path}.0: name its list of blocks with blocks=")
        last = len(blocks) - 1
        passing = [_Passing(b, found, i, first[0], i == last) for i, b in enumerate(blocks)]
        with _replaced(blocks, passing):
            for batch in batches:
                _until_arrived(model, to_device(batch, device), forward)
    for index, each in enumerate(found):
        if len(each) != len(batches):
            raise ResproutError(
                f"the model calls {path}.{index} {len(each)} times for {len(batches)} batches; each block must run once"
            )
    return found


def _until_arrived(model: nn.Module, batch: Any, forward: Forward) -> None:
    try:
        forward(model, batch)
    except _Arrived:
        pass
    except (TypeError, IndexError, KeyError, AttributeError, ValueError, RuntimeError) as error:
        raise ResproutError(f"the model cannot take this batch: {error}") from error


def trim() -> None:
    """Give freed memory back to the system, where the C library is glibc: it keeps what lies between allocations that live."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Shelf:
    """Where blocks are when nothing is done to them. This one leaves them in the model; `folder.py` has one on disk."""

    def open(self) -> None:
        """Give the model what runs before its first block, if it lacks that."""

    def close(self) -> None:
        """The first block has been reached with all batches: what runs before it is done with."""

    def take(self, name: str, block: nn.Module) -> None:
        """Give the block its weights, if it lacks them."""

    def put_back(self, name: str, block: nn.Module, changed: bool) -> None:
        """It is done with."""

    def done(self, name: str) -> bool:
        """Whether what is taken has been worked on before, in a run that was stopped."""
        return False

    def keep(self, name: str, tensor: Tensor) -> Tensor:
        """Keep a tensor for later, and return it as it is kept."""
        return tensor.cpu()

    def kept(self, name: str) -> Tensor | None:
        """Return what a run that was stopped has kept under this name, if it has."""


def walk(
    model: nn.Module,
    batches: Sequence[Any],
    blocks: str | None = None,
    forward: Forward = usual,
    shelf: Shelf | None = None,
    device: str | torch.device | None = None,
) -> Iterator[Block]:
    """Yield the blocks one after another; whatever is done to one in the meantime, the next one reads what it makes then.

    Args:
        model: blocks run in evaluation mode.
        batches: what the model is called with.
        blocks: the path of the list of blocks, if it is not found by itself.
        forward: calls the model with a batch.
        shelf: where blocks come from and go to.
        device: where a block is worked on; the cached inputs stay where the model is.

    Raises:
        ResproutError: no blocks, no data, or hidden states that are not finite.
    """
    path, shelf = find_blocks(model, blocks), shelf or Shelf()
    modules: Any = model.get_submodule(path)
    shelf.open()
    shelf.take(f"{path}.0", modules[0])
    home = next(modules[0].parameters()).device
    found = calls(model, path, batches, forward)
    shelf.close()
    hidden = [call.hidden for call in found[0]]
    for index, module in enumerate(modules):
        block = Block(index, f"{path}.{index}", module, found[index])
        for call, x in zip(block.calls, hidden, strict=True):
            call.hidden = x
        hidden = []
        shelf.take(block.name, module)
        if device is not None:
            module.to(device)
        yield block
        hidden = advance(block)
        shelf.put_back(block.name, module if device is None else module.to(home), block.changed)


@torch.no_grad()
def advance(block: Block) -> list[Tensor]:
    """Return what a block makes of its inputs, batch by batch; the inputs are let go.

    Raises:
        ResproutError: NaN or infinity.
    """
    mode, made = block.module.training, []
    block.module.eval()
    while block.calls:
        made.append(block.run(block.calls[0]))
        block.calls.pop(0)
        if not torch.isfinite(made[-1]).all():
            raise ResproutError(f"{block.name} puts out NaN or infinity; check the weights, and the precision")
    block.module.train(mode)
    return made
