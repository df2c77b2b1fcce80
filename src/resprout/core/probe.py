"""All that a score may ask of a model and its data: lazy, cached, and leaving no trace.

Everything is evaluated by `torch.func.functional_call` on detached copies of what training would change, so that
weights, gradients, buffers, mode and random state of the model are afterwards what they were, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import ResproutError
from .masks import Masks
from .units import Group

Loss = Callable[[nn.Module, Any], Tensor]
Tensors = dict[str, Tensor]


def first_tensor(batch: Any) -> Tensor:
    """Return the first tensor of a batch (nested in tuples, lists and mappings): by convention the inputs."""
    while not isinstance(batch, Tensor):
        if isinstance(batch, str):
            raise TypeError(f"{batch!r} holds no tensor")  # a string's first element is a string, for ever
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch (nested in tuples, lists and mappings) to `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {k: to_device(v, device) for k, v in batch.items()}
    if isinstance(batch, tuple | list):
        moved = [to_device(v, device) for v in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)  # namedtuples take them apart
    return batch


class LossOf(nn.Module):
    """The loss as a module, so that `functional_call` can swap the model's tensors underneath it."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Any) -> Tensor:
        """Return the loss of one batch."""
        return self.loss(self.model, batch)


class Probe:
    """What a score may see.

    Args:
        model: the network, as it stands.
        masks: which of its weights are alive; default all prunable ones.
        data: a re-iterable of batches (a list, say), or what makes it; needed by scores that look at data.
        loss: `loss(model, batch)` -> a scalar tensor.
        anchor: name -> tensor of the dense network (its `state_dict`), for scores that look back at it.
        seed: of the random scores.
        live: gradients that are at hand (a backward pass has just left them, or their running mean), used instead
            of new ones.
        live_fisher: the diagonal Fisher to go with them; default their squares.
        training: in which mode the losses are taken; in training mode norms use the batch's own statistics, which a
            freshly cut network needs.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks | None = None,
        data: Sequence[Any] | Callable[[], Sequence[Any]] | None = None,
        loss: Loss | None = None,
        anchor: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        live: Tensors | None = None,
        live_fisher: Tensors | None = None,
        training: bool = True,
    ):
        self.model = model
        self.masks = Masks.dense(model) if masks is None else masks
        self.seed = seed
        self.training = training
        self.groups: tuple[Group, ...] = ()  # coupled channels, where the granularity is structured
        self._data, self._loss, self._anchor = data, loss, anchor
        self._live, self._live_fisher = live, live_fisher
        self._state: Mapping[str, Tensor] = {}
        self._memo: dict[str, Any] = {}
        self._at_anchor: Probe | None = None
        params = dict(model.named_parameters())
        for name, mask in self.masks.items():
            if name not in params or params[name].shape != mask.shape:
                raise ResproutError(
                    f"the masks name {name!r} of shape {tuple(mask.shape)}, which {type(model).__name__} does not have"
                )

    # -- what stands still -------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The prunable weights."""
        return list(self.masks)

    def weights(self) -> Tensors:
        """Return the prunable weights, detached (not copies)."""
        params = dict(self.model.named_parameters())
        return {n: self._state[n].detach() if n in self._state else params[n].detach() for n in self.names}

    def anchor(self) -> Tensors:
        """Return the dense network's prunable weights.

        Raises:
            ResproutError: no anchor was given.
        """
        if self._anchor is None:
            raise ResproutError("this method looks at the dense network: pass anchor=dense_model")
        odd = [n for n, m in self.masks.items() if n not in self._anchor or self._anchor[n].shape != m.shape]
        if odd:
            raise ResproutError(f"the anchor has no {odd[0]!r} of this network's shape; pass the model's dense twin")
        device = next(self.model.parameters()).device
        return {n: self._anchor[n].detach().to(device) for n in self.names}

    def values(self) -> Tensors:
        """Return the prunable weights, the dead ones with their values in the dense network where it is known."""
        if self._anchor is None:
            return self.weights()
        dense = self.anchor()
        return {n: torch.where(self.masks[n], w, dense[n]) for n, w in self.weights().items()}

    def at_anchor(self) -> Probe:
        """Return a probe of the dense network itself, on the same data; computed once."""
        if self._at_anchor is None:
            self.anchor()
            dense = Probe(
                self.model,
                Masks.dense(self.model, self.names),
                self._data,
                self._loss,
                self._anchor,
                self.seed,
            )
            dense.training, dense._state, dense.groups = self.training, self._anchor or {}, self.groups
            self._at_anchor = dense
        return self._at_anchor

    def generator(self) -> torch.Generator:
        """Return a fresh generator, the same at each call."""
        return torch.Generator().manual_seed(self.seed)

    # -- what looks at data ------------------------------------------------------------------------------------

    def data(self) -> Sequence[Any]:
        """Return the batches.

        Raises:
            ResproutError: none were given.
        """
        if self._data is None or self._loss is None:
            raise ResproutError("this method looks at data: pass data=[batch, ...] and loss=lambda model, batch: ...")
        if callable(self._data):
            self._data = self._data()
        if not hasattr(self._data, "__len__"):
            raise ResproutError("data= is read several times: pass a list of batches, not an iterator")
        if len(self._data) == 0:
            raise ResproutError("data= is empty: at least one batch is needed")
        return self._data

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Compute within it as `training` says; mode and random state are then what they were."""
        modes = [(m, m.training) for m in self.model.modules()]
        devices = [p.device for p in self.model.parameters() if p.device.type == "cuda"][:1]
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            self.model.train(self.training)
            try:
                yield
            finally:
                for module, mode in modes:
                    module.training = mode

    def _tensors(self, weights: Tensors | None = None) -> Tensors:
        """The model's own tensors, safe to be written to, with `weights` (and the anchor's) in their places."""
        own = {n: p.detach() for n, p in self.model.named_parameters()}
        own |= {n: b.clone() for n, b in self.model.named_buffers()}
        own |= {n: t.detach().to(own[n].device, copy=True) for n, t in self._state.items() if n in own}
        return own | (weights or {})

    def loss(self, batch: Any, weights: Tensors | None = None) -> Tensor:
        """Return the loss on one batch with `weights` in place of the prunable ones; differentiable in them.

        Raises:
            ResproutError: the loss cannot take the batch, or is not a finite scalar.
        """
        assert self._loss is not None
        device = next(self.model.parameters()).device
        tensors = {f"model.{n}": t for n, t in self._tensors(weights).items()}
        whole = LossOf(self.model, self._loss)
        value = take(
            lambda moved: torch.func.functional_call(whole, tensors, (moved,), tie_weights=True),
            to_device(batch, device),
        )
        if not torch.isfinite(value):
            raise ResproutError(
                f"the loss is {float(value.detach())}: check the batch, the weights and the learning rate"
            )
        return value

    def per_batch(self) -> Iterator[Tensors]:
        """Yield the gradient of each batch's loss for every prunable weight, dead ones included (or the live ones)."""
        if self._live is not None:
            yield self._live
            return
        for batch in self.data():
            with self.aside(), torch.enable_grad():
                weights = {n: w.clone().requires_grad_() for n, w in self.weights().items()}
                grads = _derivatives(self.loss(batch, weights), weights)
            yield grads

    def _mean(self, name: str, of: Callable[[Tensor], Tensor]) -> Tensors:
        if name not in self._memo:
            total = {n: torch.zeros_like(w) for n, w in self.weights().items()}
            count = 0
            for grads in self.per_batch():
                count += 1
                for n, g in grads.items():
                    total[n] += of(g)
            self._memo[name] = {n: share(t / count) for n, t in total.items()}
        return self._memo[name]

    def gradients(self) -> Tensors:
        """Return the mean gradient over the batches, dL/dw, for every prunable weight, dead ones included."""
        return self._live if self._live is not None else self._mean("gradients", lambda g: g)

    def fisher(self) -> Tensors:
        """Return the diagonal empirical Fisher: the mean over batches of (dL/dw)^2."""
        if self._live is not None:
            return self._live_fisher or {n: g.square() for n, g in self._live.items()}
        return self._mean("fisher", torch.square)

    def hessian_product(self, vectors: Tensors | None = None) -> Tensors:
        """Return H v, the mean over batches of the Hessian times `vectors` (default: the mean gradient)."""
        vectors = self.gradients() if vectors is None else vectors
        total = {n: torch.zeros_like(w) for n, w in self.weights().items()}
        for batch in self.data():
            # The fused kernels of attention have no second derivative.
            with self.aside(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                weights = {n: w.clone().requires_grad_() for n, w in self.weights().items()}
                first = _derivatives(self.loss(batch, weights), weights, create_graph=True)
                inner = torch.stack([(g * vectors[n]).sum() for n, g in first.items()]).sum()
                second = _derivatives(inner, weights) if inner.requires_grad else {}  # none: linear in the weights
            for n, g in second.items():
                total[n] += g
        return {n: share(t / len(self.data())) for n, t in total.items()}

    def hessian_forms(self, vectors: Sequence[Tensors]) -> Tensor:
        """Return v^T H v of each of `vectors`, float64 (vectors,); they may hold some weights only, and be zero elsewhere."""
        total = torch.zeros(len(vectors), dtype=torch.float64)
        for batch in self.data():
            with self.aside(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                weights = {n: w.clone().requires_grad_() for n, w in self.weights().items()}
                first = _derivatives(self.loss(batch, weights), weights, create_graph=True)  # once for all vectors
                for i, vector in enumerate(vectors):
                    inner = torch.stack([(first[n] * v).sum() for n, v in vector.items()]).sum()
                    if inner.requires_grad:
                        own = [weights[n] for n in vector]
                        second = torch.autograd.grad(
                            inner, own, retain_graph=True, allow_unused=True, materialize_grads=True
                        )
                        total[i] += sum(float((h * v).sum()) for h, v in zip(second, vector.values(), strict=True))
        return share(total / len(self.data()))

    # -- what looks inside -------------------------------------------------------------------------------------

    def input_shape(self) -> torch.Size:
        """Return the shape of the first batch's input, which is its first tensor."""
        return first_tensor(next(iter(self.data()))).shape

    def call(self, weights: Tensors, *inputs: Tensor) -> Tensor:
        """Return the model's output for `inputs` with `weights` in place and all other tensors as they are."""
        with self.aside():
            return torch.func.functional_call(self.model, self._tensors(weights), inputs, tie_weights=True)

    @torch.no_grad()
    def watch(self, names: Sequence[str], fn: Callable[[str, Tensor], None], inputs: bool = False) -> None:
        """Run the batches and call `fn(name, tensor)` with what each named module puts out, or (`inputs`) what it reads."""
        modules = dict(self.model.named_modules())

        def hook(name: str) -> Callable[..., None]:
            if inputs:
                return lambda module, args, given: fn(name, first_tensor((args, given) if args else given).detach())
            return lambda module, args, out: fn(name, first_tensor(out).detach())

        def attach(module: nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
            if inputs:
                return module.register_forward_pre_hook(hook(name), with_kwargs=True)
            return module.register_forward_hook(hook(name))

        handles = [attach(modules[name], name) for name in names]
        try:
            for batch in self.data():
                with self.aside():
                    self.loss(batch)
        finally:
            for handle in handles:
                handle.remove()


class Moments:
    """Mean and variance per channel of values that come in pieces, in float64, merged exactly.

    Chan, Golub, LeVeque: "Algorithms for Computing the Sample Variance", The American Statistician 1983.
    """

    def __init__(self) -> None:
        self.count, self._mean, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Take in `values` of shape (channels, n)."""
        values, n, count = values.detach().double(), values.shape[1], self.count
        mean = values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        if count:
            off = mean - self._mean
            squares = self._squares + squares + off.square() * (count * n / (count + n))
            mean = self._mean + off * (n / (count + n))
        self.count, self._mean, self._squares = count + n, mean, squares

    def result(self) -> tuple[Tensor, Tensor]:
        """Return (mean, population variance) of shape (channels,), over all ranks of the process group."""
        count = share(torch.full_like(self._mean[:1], self.count))
        mean = share(self._mean * self.count) / count
        return mean, share(self._squares + (self._mean - mean).square() * self.count) / count


def _derivatives(value: Tensor, weights: Tensors, create_graph: bool = False) -> Tensors:
    """Return d value / d weights, zero for weights that `value` does not depend on."""
    if not value.requires_grad:
        raise ResproutError("the loss does not depend on the weights: compute it from model(...) without detaching it")
    inputs = list(weights.values())
    grads = torch.autograd.grad(value, inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    return dict(zip(weights, grads, strict=True))


def take(loss: Callable[[Any], Tensor], batch: Any) -> Tensor:
    """Return `loss(batch)`.

    Raises:
        ResproutError: the loss cannot take the batch, or is no scalar.
    """
    try:
        value = loss(batch)
    except ResproutError:
        raise
    except (TypeError, RuntimeError, IndexError, KeyError, AttributeError, ValueError) as error:
        raise ResproutError(f"loss(model, batch) cannot take this batch ({describe(batch)}): {error}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ResproutError(f"loss(model, batch) must return a scalar tensor, got {describe(value)}")
    return value


def share(tensor: Tensor) -> Tensor:
    """Return the mean of `tensor` over the ranks of the process group, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def describe(batch: Any) -> str:
    """Return the shapes and types of a batch in a few words."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{k}: {describe(v)}" for k, v in batch.items()) + "}"
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__}({', '.join(describe(v) for v in batch)})"
    return type(batch).__name__
