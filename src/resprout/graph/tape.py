"""The tape: every PyTorch operation (ATen) that a forward pass runs, in order, with the module it stands in.

The model runs once, on the meta device (shapes without numbers: fast, and of any size), or, where its code looks at
numbers, for real. This follows the model's own control flow, and sees it where `torch.export` gives up.

What this file does not do: know what operations mean (`rules.py`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.errors import TraceError
from ..core.hold import guards
from ..core.probe import describe


@dataclass(frozen=True)
class Record:
    """One operation: `func(*args, **kwargs)` gave `out`, in the module of path `module`."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any
    module: str


@dataclass
class Tape:
    """A forward pass: its operations, the tensors that are parameters or buffers (by id), what it got and returned."""

    tensors: dict[int, tuple[str, Tensor]]
    inputs: list[Tensor] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    output: Any = None
    calls: Counter[str] = field(default_factory=Counter)  # module -> how often it runs
    keep: list[Any] = field(default_factory=list)  # ids are good as long as what they name lives


class _Recorder(TorchDispatchMode):
    def __init__(self, tape: Tape, stack: list[str]):
        super().__init__()
        self.tape, self.stack = tape, stack

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.tape.records.append(Record(func, args, kwargs or {}, out, self.stack[-1] if self.stack else ""))
        return out


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read an example: a tensor is the one argument, a tuple or list the arguments, a mapping keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, tuple | list) else ((example,), {})


def record(model: nn.Module, example: Any) -> Tape:
    """Run `model` on `example` in eval mode and return the tape; the model is left as it was.

    Raises:
        TraceError: the model cannot take the example.
    """
    args, kwargs = arguments(example)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    try:
        with aside(model):
            meta = {n: t.detach().to("meta") for n, t in named.items()}
            return _run(model, meta, moved(args, "meta"), moved(kwargs, "meta"))
    except Exception:  # of any kind, for it runs the model's own code; numbers may help
        device = next((t.device for t in named.values()), torch.device("cpu"))
        try:
            with aside(model):
                real = {n: t.detach().clone() for n, t in named.items()}
                return _run(model, real, moved(args, device), moved(kwargs, device))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise TraceError(f"{type(model).__name__} cannot be traced with {describe(example)}: {reason}") from error


def _run(model: nn.Module, tensors: dict[str, Tensor], args: Any, kwargs: Any) -> Tape:
    tape = Tape({id(t): (n, t) for n, t in tensors.items()}, tensors_of((args, kwargs)))
    paths = {id(module): path for path, module in model.named_modules()}
    stack: list[str] = []

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        stack.pop()

    def enter(module: nn.Module, args: Any) -> None:
        path = paths.get(id(module))
        stack.append(path if path is not None else stack[-1] if stack else "")
        if path is not None:
            tape.calls[path] += 1

    before = register_module_forward_pre_hook(enter)
    after = register_module_forward_hook(leave, always_call=True)
    try:
        with torch.no_grad(), _Recorder(tape, stack):
            tape.output = torch.func.functional_call(model, tensors, args, kwargs, tie_weights=True)
    finally:
        before.remove()
        after.remove()
    return tape


def moved(tree: Any, device: Any) -> Any:
    """Move the tensors of an example."""
    if isinstance(tree, Tensor):
        return tree.detach().to(device)
    if isinstance(tree, Mapping):
        return {k: moved(v, device) for k, v in tree.items()}
    return type(tree)(moved(v, device) for v in tree) if isinstance(tree, tuple | list) else tree


@contextlib.contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients or guards, no cache of a language model, no fused encoder layers; then all as before."""
    modes, hooks = [(m, m.training) for m in model.modules()], model._forward_pre_hooks
    kept = list(hooks.items())
    for guard in guards(model):
        guard.enforce()
        for key in [k for k, hook in kept if getattr(hook, "__self__", None) is guard]:
            del hooks[key]
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    caches = [(c, c.use_cache) for c in configs.values() if getattr(c, "use_cache", None)]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    for config, _ in caches:
        config.use_cache = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode
        for config, use in caches:
            config.use_cache = use
        hooks.clear()
        hooks.update(kept)


def tensors_of(tree: Any) -> list[Tensor]:
    """Return all tensors in a model's output, whatever it is made of."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [t for v in tree.values() for t in tensors_of(v)]
    return [t for v in tree for t in tensors_of(v)] if isinstance(tree, tuple | list) else []
