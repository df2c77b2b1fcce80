"""The geometry of a classifier: norms of features, their angles to class weights, and margins.

Li, Liu, Yu, Kailkhura, Cao, Diffenderfer, Bremer, Pascucci, "'Understanding Robustness Lottery': A Geometric Visual
Comparative Analysis of Neural Network Pruning Approaches", arXiv:2206.07918. With h the features that the last linear layer
reads, w_c its weights and b_c its biases, the logit of class c is z_c = |w_c| |h| cos(w_c, h) + b_c: networks differ in
lengths, in angles, or in both.

Similarity of features: Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019,
arXiv:1905.00414 (linear CKA).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.errors import ResproutError
from ..core.task import Split, Task
from .outputs import Outputs


@dataclass(frozen=True, eq=False)
class Geometry:
    """Features float64 (samples, width), class weights (classes, width), biases (classes,) and labels int64 (samples,).

    Angles are in degrees.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    labels: Tensor

    @cached_property
    def norms(self) -> Tensor:
        """|h| (samples,)."""
        return self.features.norm(dim=1)

    @cached_property
    def cosines(self) -> Tensor:
        """Of the features and each class's weights (samples, classes); 0 where either is zero."""
        lengths = self.norms[:, None] * self.weight.norm(dim=1)
        return torch.where(lengths > 0, self.features @ self.weight.T / lengths, 0.0).clamp(-1, 1)

    @cached_property
    def logits(self) -> Tensor:
        """|w_c| |h| cos + b_c (samples, classes)."""
        return self.norms[:, None] * self.weight.norm(dim=1) * self.cosines + self.bias

    @cached_property
    def angles(self) -> Tensor:
        """Of the features and each class's weights (samples, classes)."""
        return self.cosines.arccos().rad2deg()

    @cached_property
    def angle(self) -> Tensor:
        """To the weights of the true class (samples,)."""
        return self._of_label(self.angles)

    @cached_property
    def margin(self) -> Tensor:
        """The logit of the true class less the largest other (samples,); positive where it is classified rightly."""
        return self._of_label(self.logits) - self._others(self.logits, -torch.inf).amax(1)

    @cached_property
    def angular_margin(self) -> Tensor:
        """The smallest angle to another class's weights less that to the true class's (samples,)."""
        return self._others(self.angles, torch.inf).amin(1) - self.angle

    @cached_property
    def said(self) -> Outputs:
        """What follows from the logits alone: which samples are right, how sure it is of them."""
        return Outputs(self.logits, self.labels)

    def angle_to_means(self, means: Tensor) -> Tensor:
        """Return the angle to the mean features of the true class (samples,); `means` is (classes, width)."""
        return Geometry(self.features, means, torch.zeros(len(means)).double(), self.labels).angle

    @cached_property
    def means(self) -> Tensor:
        """The mean direction of each class's features (classes, width); NaN where a class does not occur."""
        member = torch.nn.functional.one_hot(self.labels, len(self.weight)).double()
        directions = torch.nn.functional.normalize(self.features, dim=1)
        return member.T @ directions / member.sum(0)[:, None]

    def with_norms(self, norms: Tensor) -> Geometry:
        """Return the same directions with other lengths (samples,): what the change of angle alone does."""
        directions = torch.nn.functional.normalize(self.features, dim=1)
        return Geometry(directions * norms[:, None], self.weight, self.bias, self.labels)

    def _of_label(self, of_classes: Tensor) -> Tensor:
        return of_classes.gather(1, self.labels[:, None])[:, 0]

    def _others(self, of_classes: Tensor, never: float) -> Tensor:
        return of_classes.scatter(1, self.labels[:, None], never)


def classifier(model: nn.Module, example: Tensor) -> nn.Linear:
    """Return the linear layer whose output is the network's.

    Raises:
        ResproutError: the network's output is no linear layer's.
    """
    last: list[tuple[nn.Linear, Tensor]] = []
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    hooks = [m.register_forward_hook(lambda m, _, out: last.append((m, out))) for m in linear]  # pyright: ignore
    training = model.training
    try:
        with torch.no_grad():
            out = model.eval()(example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    for module, own in reversed(last):
        if isinstance(out, Tensor) and own.shape == out.shape and torch.equal(own, out):
            return module
    raise ResproutError(
        f"{type(model).__name__} does not end in a linear layer whose output is the logits: angles to class weights are "
        "not defined for it"
    )


@torch.no_grad()
def geometry(model: nn.Module, task: Task, split: Split) -> Geometry:
    """Return the features of a whole split, in its order, in evaluation mode, and the class weights.

    Raises:
        ResproutError: the network does not end in a linear layer, or the task's batches are not (inputs, labels).
    """
    device = next(model.parameters()).device
    return of_batches(model, ((x.to(device), y) for x, y in _pairs(task.batches(split))))


def _pairs(batches: Iterable[object]) -> Iterable[tuple[Tensor, Tensor]]:
    for batch in batches:
        if not isinstance(batch, tuple) or len(batch) != 2 or batch[1].dtype != torch.int64 or batch[1].dim() != 1:
            raise ResproutError("geometry is of classifiers: the task's batches must be (inputs, labels)")
        yield batch


@torch.no_grad()
def of_batches(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Geometry:
    """Return the geometry of `model` on batches of (inputs, labels); it is left in the mode it was in.

    Raises:
        ResproutError: no batch, or a network that does not end in a linear layer.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    last, hook, training = None, None, model.training
    try:
        for x, y in batches:
            if last is None:
                last = classifier(model, x[:1])
                hook = last.register_forward_pre_hook(
                    lambda _, given: features.append(given[0].detach().cpu().double())
                )
                model.eval()
            model(x)
            labels.append(y.cpu())
    finally:
        model.train(training)
        if hook is not None:
            hook.remove()
    if last is None:
        raise ResproutError("geometry needs a batch: the split is empty")
    weight = last.weight.detach().cpu().double()
    bias = torch.zeros(len(weight)).double() if last.bias is None else last.bias.detach().cpu().double()
    return Geometry(torch.cat(features), weight, bias, torch.cat(labels))


def correlations(signatures: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Pearson's correlation of each pair of rows (rows, rows) of (rows, values).

    A row that does not vary correlates by 1 with one that differs from it by a constant, by 0 with others.
    """
    x = np.asarray(signatures, dtype=np.float64)
    x = x - x.mean(1, keepdims=True)
    length = np.sqrt((x**2).sum(1))
    still = length <= 1e-12 * np.sqrt(x.shape[1])
    unit = x / np.where(still, 1.0, length)[:, None]
    found = np.clip(unit @ unit.T, -1, 1)
    found[np.ix_(still, still)] = 1.0
    found[np.ix_(still, ~still)] = found[np.ix_(~still, still)] = 0.0
    np.fill_diagonal(found, 1.0)
    return found


def cka(ours: Tensor, theirs: Tensor) -> float:
    """Return the linear CKA of two sets of features (samples, width), in [0, 1]: 1 up to rotation and one scale.

    Raises:
        ResproutError: other samples, or features that do not vary.
    """
    if ours.dim() != 2 or theirs.dim() != 2 or len(ours) != len(theirs):
        raise ResproutError(
            f"cka needs features of the same samples, got {tuple(ours.shape)} and {tuple(theirs.shape)}"
        )
    x, y = (f.double() - f.double().mean(0) for f in (ours, theirs))
    scale = float((x.T @ x).norm() * (y.T @ y).norm())
    if scale == 0:
        raise ResproutError("cka needs features that vary over the samples")
    return float((x.T @ y).norm() ** 2) / scale


@dataclass(frozen=True, eq=False)
class Tree:
    """A hierarchical clustering: `order` puts the like side by side, `heights` are the distances of the merges."""

    order: tuple[int, ...]
    heights: tuple[float, ...]
    links: NDArray[np.float64]

    def clusters(self, count: int) -> tuple[int, ...]:
        """Return the cluster of each row when cut into `count`, numbered from 0 in the order of first appearance."""
        from scipy.cluster.hierarchy import fcluster

        if len(self.order) == 1:
            return (0,)
        seen: dict[int, int] = {}
        return tuple(seen.setdefault(int(c), len(seen)) for c in fcluster(self.links, count, "maxclust"))


def tree(similarity: NDArray[np.floating]) -> Tree:
    """Cluster rows by average linkage of 1 - similarity (rows, rows).

    Raises:
        ResproutError: not square and symmetric.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    s = np.asarray(similarity, dtype=np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1] or not np.allclose(s, s.T):
        raise ResproutError(f"a similarity is square and symmetric, got {s.shape}")
    if len(s) == 1:
        return Tree((0,), (), np.empty((0, 4)))
    distance = np.clip(1 - (s + s.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    links = linkage(squareform(distance, checks=False), "average")
    return Tree(tuple(int(i) for i in leaves_list(links)), tuple(float(h) for h in links[:, 2]), links)
