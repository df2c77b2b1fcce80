"""Sparse activations: an input of a linear layer that is near the layer's usual value counts as that value.

Chua, Pan, Jain: "Post-Training Statistical Calibration for Higher Activation Sparsity", ENLSP workshop of NeurIPS 2024,
arXiv:2412.07174 (SCAP). A layer computes y = W S_t(x - m) + (b + W m 1), where S_t is zero up to |t|; m is zero, or what the
layer reads most in the calibration data, and t is as large as a share of |x - m| there. It is for decoding a token at a time,
where each zero is a column of W that need not be read.

What this file does not do: be faster. PyTorch multiplies the zeros; what is counted is what a kernel that skips them would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import ResproutError, check_sparsity, nearest
from ..core.hold import unwrap
from ..core.masks import prunable
from ..core.probe import first_tensor, to_device

Mode = Literal["zero", "median", "kde"]
SAMPLES = (100_000, 200_000, 300_000)  # that the density is estimated from; the best of the three peaks is taken
GRID, NARROW = 2000, 0.5  # points, and the part of Scott's bandwidth
ROWS = 4096  # that peaks are compared on


class SparseLinear(nn.Linear):
    """A linear layer that reads `center` in place of what is not more than `threshold` away from it.

    It has the very parameters of the layer it stands for. `seen` and `zeros` count its inputs, and those that need no
    multiplication, within `Sparse.count`.
    """

    def __init__(self, dense: nn.Linear, center: float = 0.0, threshold: float = 0.0):
        nn.Module.__init__(self)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.weight, self.bias = dense.weight, dense.bias
        self.center, self.threshold = center, threshold
        self.counting, self.seen, self.zeros = False, 0, 0
        self.train(dense.training)
        self.register_forward_pre_hook(_stay)

    def sparse(self, x: Tensor) -> Tensor:
        """Return S_t(x - m)."""
        away = x - self.center
        return away.masked_fill(away.abs() <= self.threshold, 0)

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        away = self.sparse(input)
        if self.counting:
            self.seen += away.numel()
            self.zeros += away.numel() - int(torch.count_nonzero(away.detach()))
        out = F.linear(away, self.weight, self.bias)
        return (
            out if self.center == 0 else out + self.center * self.weight.sum(1)
        )  # a constant, which a kernel adds to b

    def extra_repr(self) -> str:
        """The numbers."""
        return f"{super().extra_repr()}, center={self.center:.4g}, threshold={self.threshold:.4g}"


def _stay(module: nn.Module, inputs: Any) -> None:
    """Do nothing, and so keep PyTorch's fused encoder layers, which take no notice of their parts, from being used."""


@dataclass
class Count:
    """Multiply-adds of what has run: of the sparse layers, how many of them are by zero, and of the whole network.

    The whole is all products of matrices, of weights as of attention (whose causal half counts as if it were computed).
    """

    skipped: int = 0
    layers: int = 0
    total: int = 0

    @property
    def fraction(self) -> float:
        """The part of all multiply-adds that is skipped."""
        return self.skipped / max(1, self.total)


@dataclass(frozen=True, eq=False)
class Sparse:
    """What `sparsify_activations` has done: its layers by name, and the share of zeros each had in the calibration data."""

    model: nn.Module
    layers: Mapping[str, SparseLinear]
    calibrated: Mapping[str, float] = field(default_factory=dict)

    @contextmanager
    def count(self) -> Iterator[Count]:
        """Count the multiply-adds of what runs within; the numbers are there at the end."""
        found, counter, fused = Count(), FlopCounterMode(display=False), torch.backends.mha.get_fastpath_enabled()
        for layer in self.layers.values():
            layer.counting, layer.seen, layer.zeros = True, 0, 0
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with counter, sdpa_kernel(SDPBackend.MATH):
                yield found
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for layer in self.layers.values():
                layer.counting = False
        found.total = counter.get_total_flops() // 2
        found.layers = sum(layer.seen * layer.out_features for layer in self.layers.values())
        found.skipped = sum(layer.zeros * layer.out_features for layer in self.layers.values())

    def restore(self) -> None:
        """Put the linear layers back."""
        for name, layer in self.layers.items():
            dense = nn.Linear(1, 1, device="meta")
            dense.in_features, dense.out_features = layer.in_features, layer.out_features
            dense.weight, dense.bias = layer.weight, layer.bias
            self.model.set_submodule(name, dense.train(layer.training))


class _Learning(SparseLinear):
    """Takes its center and threshold from the first inputs that it sees, and computes with them at once."""

    def __init__(self, dense: nn.Linear, sparsity: float, mode: Mode):
        super().__init__(dense)
        self.wanted, self.found = sparsity, -1.0
        self.mode: Mode = mode

    def forward(self, input: Tensor) -> Tensor:
        """Learn, and return what the sparse layer does."""
        if self.found < 0:
            if not torch.isfinite(input).all():
                raise ResproutError("the inputs of a layer hold NaN or infinity; check the batches and the weights")
            centers = centers_of(input, self.mode)
            errors = [self._error(input, c) for c in centers] if len(centers) > 1 else [0.0]
            self.center = centers[errors.index(min(errors))]
            self.threshold = threshold_of(input, self.center, self.wanted)
            self.found = float((self.sparse(input) == 0).double().mean())
        return super().forward(input)

    def _error(self, x: Tensor, center: float) -> float:
        """How far the output moves, |W x - W x'|, on some rows."""
        rows = x.flatten(0, -2)
        rows = rows[:: max(1, len(rows) // ROWS)]
        self.center, self.threshold = center, threshold_of(x, center, self.wanted)
        return float(F.linear(rows - center - self.sparse(rows), self.weight).norm())


def threshold_of(x: Tensor, center: float, sparsity: float) -> float:
    """Return the t that as much of |x - center| as `sparsity` is not above."""
    distances = (x - center).abs().flatten().float()
    k = round(sparsity * distances.numel())
    return float(distances.kthvalue(k).values) if k else 0.0


def centers_of(x: Tensor, mode: Mode) -> list[float]:
    """Return what m may be: one number, or with "kde" the peaks of densities estimated from more and more samples."""
    flat = x.detach().flatten().float()
    if mode == "zero":
        return [0.0]
    if mode == "median":
        return [float(flat.median())]
    strides = sorted({max(1, flat.numel() // n) for n in SAMPLES}, reverse=True)
    return list(dict.fromkeys(peak(flat[::stride]) for stride in strides))


def peak(samples: Tensor) -> float:
    """Return where a Gaussian kernel density of the samples (n,), on `GRID` points and of `NARROW` bandwidth, is highest."""
    low, high = float(samples.min()), float(samples.max())
    width = NARROW * float(samples.std()) * len(samples) ** -0.2  # Scott's rule
    if not high > low or not width > 0:
        return low
    counts = torch.histc(samples, GRID, low, high).double().cpu()
    apart = (high - low) / GRID
    reach = min(GRID - 1, max(1, round(4 * width / apart)))
    kernel = torch.exp(-((torch.arange(-reach, reach + 1).double() * apart / width) ** 2) / 2)
    density = F.conv1d(counts[None, None], kernel[None, None], padding=reach).flatten()
    return low + apart * (int(density.argmax()) + 0.5)


def sparsify_activations(
    model: nn.Module,
    sparsity: float | Mapping[str, float],
    *,
    data: Sequence[Any],
    mode: Mode | Mapping[str, Mode] = "median",
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
) -> Sparse:
    """Let linear layers of `model` read zeros: each one learns where, in the order they run, behind those before it.

    Args:
        model: changed in place; its parameters stay the same objects, and its `state_dict` has the same names.
        sparsity: the share of a layer's inputs that is zero on the calibration data: a number, or patterns -> numbers, such as
            {"*.up_proj": 0.3, "*.down_proj": 0.7}; of several patterns that match the first counts.
        data: batches of inputs, or tuples that begin with inputs, or mappings of keyword arguments; they go through the model as
            one batch, so that all layers learn from all of it.
        mode: what inputs are compared to: "zero", the "median" of the layer's inputs, or the peak of their density ("kde").
            A number for a layer, as the threshold is; patterns as above.
        targets, ignore: which layers (see `masks.prunable`); default all linear ones.

    Raises:
        ResproutError: no linear layer, no data, a pattern or mode that is unknown, layers that do not run, or NaN.

    Example:
        >>> sparse = sparsify_activations(model, 0.5, data=batches)
        >>> with sparse.count() as count:
        ...     model(tokens)
        >>> count.fraction  # of the network's multiply-adds
    """
    bare = unwrap(model)
    wanted = [
        n.removesuffix(".weight")
        for n in prunable(bare, targets, ignore)
        if n.endswith(".weight") and type(bare.get_submodule(n.removesuffix(".weight"))) is nn.Linear
    ]
    shares = _by_layer(bare, sparsity, wanted)
    modes = _by_layer(bare, mode, wanted)
    for each in shares.values():
        check_sparsity(each)
    if odd := [m for m in modes.values() if m not in get_args(Mode)]:
        raise nearest(str(odd[0]), get_args(Mode), "mode")
    chosen = [n for n in wanted if n in shares]
    if not chosen:
        raise ResproutError(
            f"{type(bare).__name__} has no linear layer to make read zeros: check targets=, ignore= and patterns"
        )
    if not len(data):
        raise ResproutError("data= is empty: at least one batch is needed")
    dense = {n: bare.get_submodule(n) for n in chosen}
    learning = {n: _Learning(d, shares[n], modes.get(n, "median")) for n, d in dense.items()}  # pyright: ignore
    training = [(m, m.training) for m in bare.modules()]
    try:
        for n, layer in learning.items():
            bare.set_submodule(n, layer)
        bare.eval()
        with torch.no_grad():
            _call(bare, to_device(_joined(data), next(bare.parameters()).device))
        if missing := [n for n, layer in learning.items() if layer.found < 0]:
            raise ResproutError(f"nothing is seen of {missing[0]!r}: it is not run as a module; add it to ignore=[...]")
    except BaseException:
        for n, layer in dense.items():
            bare.set_submodule(n, layer)
        raise
    finally:
        for module, was in training:
            module.training = was
    made = {n: SparseLinear(dense[n], layer.center, layer.threshold) for n, layer in learning.items()}  # pyright: ignore
    for n, layer in made.items():
        bare.set_submodule(n, layer)
    return Sparse(bare, made, {n: layer.found for n, layer in learning.items()})


def _by_layer(model: nn.Module, given: Any, names: Sequence[str]) -> dict[str, Any]:
    """What each layer is given, of one value or of patterns."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    found: dict[str, Any] = {}
    for pattern, value in given.items():
        for name in (n.removesuffix(".weight") for n in prunable(model, [pattern])):
            found.setdefault(name, value)
    return {n: found[n] for n in names if n in found}


def _joined(data: Sequence[Any]) -> Any:
    """All batches as one, as the model is called with it.

    Raises:
        ResproutError: they do not fit together.
    """
    try:
        if isinstance(data[0], Mapping):
            return {k: torch.cat([b[k] for b in data]) if isinstance(v, Tensor) else v for k, v in data[0].items()}
        return torch.cat([first_tensor(b) for b in data])
    except (RuntimeError, KeyError, TypeError) as error:
        raise ResproutError(f"the batches of data= do not go together as one: {error}") from error


def _call(model: nn.Module, batch: Any) -> None:
    try:
        _ = model(**batch) if isinstance(batch, Mapping) else model(batch)
    except (TypeError, RuntimeError, IndexError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, ResproutError):
            raise
        raise ResproutError(f"the model cannot take the calibration data: {error}") from error
