"""Masks: which weights are alive, as an immutable value.

What this file does not do: choose (`select.py`) or enforce (`hold.py`).
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import ResproutError, nearest

PRUNABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def _count(mask: Tensor) -> int:
    if hasattr(mask, "full_tensor"):  # a DTensor: the sum over all shards
        return int(mask.sum().full_tensor())  # pyright: ignore[reportAttributeAccessIssue]
    return int(torch.count_nonzero(mask))


class Masks(Mapping[str, Tensor]):
    """An immutable mapping from parameter name to a bool tensor of its shape; True is alive.

    `a & b`, `a | b` and `a - b` (alive in a, dead in b) work tensor by tensor, `a <= b` says that a nests in b.
    The tensors are shared, not copied: treat them as read-only.

    Raises:
        ResproutError: a value that is not a bool tensor, or two masks of different names or shapes combined.
    """

    __slots__ = ("_counts", "_tensors")

    def __init__(self, tensors: Mapping[str, Tensor]):
        for name, mask in tensors.items():
            if mask.dtype != torch.bool:
                raise ResproutError(f"mask {name!r} must be a bool tensor (True = alive), got {mask.dtype}")
        self._tensors = dict(tensors)
        self._counts: dict[str, int] | None = None

    @classmethod
    def dense(cls, model: nn.Module, targets: Sequence[str] | None = None, ignore: Sequence[str] = ()) -> "Masks":
        """Return the masks with every prunable weight of `model` alive."""
        return cls({n: torch.ones_like(p, dtype=torch.bool) for n, p in prunable(model, targets, ignore).items()})

    @classmethod
    def of(cls, model: nn.Module, targets: Sequence[str] | None = None, ignore: Sequence[str] = ()) -> "Masks":
        """Read the masks off a model: a weight is alive where it is not zero."""
        return cls({n: p.detach() != 0 for n, p in prunable(model, targets, ignore).items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def counts(self) -> dict[str, int]:
        """Weights alive, per tensor."""
        if self._counts is None:
            self._counts = {name: _count(mask) for name, mask in self.items()}
        return dict(self._counts)

    @property
    def sizes(self) -> dict[str, int]:
        """Weights in all, per tensor."""
        return {name: mask.numel() for name, mask in self.items()}

    @property
    def alive(self) -> int:
        """Weights alive, over all tensors."""
        return sum(self.counts.values())

    @property
    def total(self) -> int:
        """Prunable weights, over all tensors."""
        return sum(self.sizes.values())

    @property
    def density(self) -> float:
        """The fraction of weights alive, in [0, 1]."""
        return self.alive / self.total if self.total else 1.0

    @property
    def sparsity(self) -> float:
        """The fraction of weights dead, in [0, 1]."""
        return 1.0 - self.density

    def digest(self) -> str:
        """A SHA-256 of names, shapes and bits: equal masks, equal digest, on any rank and machine."""
        sha = hashlib.sha256()
        for name, mask in self.items():
            sha.update(f"{name}:{tuple(mask.shape)};".encode())
            sha.update(mask.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def _combine(self, other: "Masks", how: Callable[[Tensor, Tensor], Tensor]) -> "Masks":
        if {n: m.shape for n, m in self.items()} != {n: m.shape for n, m in other.items()}:
            odd = sorted(set(self) ^ set(other)) or [n for n in self if self[n].shape != other[n].shape]
            raise ResproutError(f"these masks belong to different models: {', '.join(odd[:3])} differ")
        return Masks({name: how(mask, other[name]) for name, mask in self.items()})

    def __and__(self, other: "Masks") -> "Masks":
        return self._combine(other, torch.logical_and)

    def __or__(self, other: "Masks") -> "Masks":
        return self._combine(other, torch.logical_or)

    def __sub__(self, other: "Masks") -> "Masks":
        return self._combine(other, lambda a, b: a & ~b)

    def __invert__(self) -> "Masks":
        return Masks({name: ~mask for name, mask in self.items()})

    def __le__(self, other: "Masks") -> bool:
        return not any(torch.any(m) for m in (self - other).values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return list(self) == list(other) and all(torch.equal(m, other[n]) for n, m in self.items())

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.alive:,} of {self.total:,} alive, sparsity {self.sparsity:.4f})"


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    module = name.rpartition(".")[0]
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(module, pattern)


def prunable(
    model: nn.Module, targets: Sequence[str] | None = None, ignore: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the prunable parameters of `model` in its own order: conv and linear weights by default.

    Args:
        model: any module; a parameter shared by two names is listed once, under its first.
        targets: parameter or module names, shell patterns, or regular expressions after `re:`; then any parameter
            of two or more dimensions may be meant.
        ignore: the same, left out.

    Raises:
        ResproutError: a pattern that matches nothing, or nothing left to prune.
    """
    params = dict(model.named_parameters())
    owners = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in model.named_modules()
        if isinstance(module, PRUNABLE) or type(module).__name__ == "Conv1D"  # the linear layer of Hugging Face's GPT-2
    }
    owners |= {name for name in params if name.endswith("in_proj_weight")}  # queries, keys and values of an attention
    if isinstance(targets, str) or isinstance(ignore, str):
        raise ResproutError("targets and ignore are lists of names, not one string: write ['name']")
    for pattern in (*(targets or ()), *ignore):
        if not any(_matches(name, pattern) for name in params):
            raise nearest(pattern, params, "parameter (in targets or ignore)")
    if targets is None:
        chosen: Iterable[str] = (n for n in params if n in owners)
    else:
        chosen = (n for n, p in params.items() if p.dim() > 1 and any(_matches(n, t) for t in targets))
    found = {n: params[n] for n in chosen if not any(_matches(n, i) for i in ignore)}
    if not any(p.numel() for p in found.values()):
        raise ResproutError(
            f"nothing to prune in {type(model).__name__}: no conv or linear weight is left; "
            "name parameters with targets=[...] or shorten ignore=[...]"
        )
    return found


def keep_count(sparsity: float, total: int) -> int:
    """Return how many of `total` weights stay alive at `sparsity`: total - round(sparsity * total)."""
    return total - round(sparsity * total)
