"""Which groups of test samples to look at: those the task knows of, or classes and what is odd about images.

Hooker, Moorosi, Clark, Bengio, Denton: "Characterising Bias in Compressed Models", arXiv:2010.03058 (2020).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.task import Task

TENTH = 0.1
Groups = Mapping[str, Tensor]  # name -> bool (samples,)


def groups_of(task: Task, labels: Tensor, classes: int) -> Groups:
    """Return the task's own groups, or classes, and of images the darkest, the brightest and the most atypical tenth.

    Atypical is an image far from the mean of its class (Euclidean, over the test split).

    Raises:
        ResproutError: groups of the task that are not bool (samples,), or one that is empty.
    """
    own = getattr(task, "attributes", None)
    if own is not None:
        for name, member in own.items():
            if member.dtype != torch.bool or member.shape != labels.shape or not bool(member.any()):
                raise ResproutError(
                    f"attributes[{name!r}] of the task must be bool ({len(labels)},), one for each test sample, and not empty"
                )
        return own
    found = {f"class {c}": labels == c for c in range(classes) if bool((labels == c).any())}
    images = torch.cat([batch[0] for batch in task.batches("test")])
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        return found
    flat = images.flatten(1).double()
    means = torch.stack([flat[labels == c].mean(0) if f"class {c}" in found else flat[0] for c in range(classes)])
    light, far = flat.mean(1), (flat - means[labels]).norm(dim=1)
    return found | {"darkest": _tenth(-light), "brightest": _tenth(light), "most atypical": _tenth(far)}


def _tenth(values: Tensor) -> Tensor:
    """The tenth with the largest values, at least one."""
    member = torch.zeros(len(values), dtype=torch.bool)
    member[values.topk(max(1, round(TENTH * len(values)))).indices] = True
    return member
