"""MART: train on attacked inputs, with more weight on what the network gets wrong without an attack.

Wang, Zou, Yi, Bailey, Ma, Gu: "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020. `beta` is
that of Lee, Kim, Ro, CVPR 2022, arXiv:2204.02738, which trains so before and after its cut; MART itself has 6. The loss is
about twice cross-entropy and steep where a network is surely wrong: take a lower learning rate.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ResproutError
from ...core.kinds import Fidelity, Objective
from ...core.modes import evaluating
from ...core.run import Run
from ...evaluate.attack import pgd, scale


@dataclass(frozen=True)
class Mart(Objective):
    """CE(adv) - log(1.0001 - max wrong p_adv) + beta * KL(p || p_adv) * (1 - p of the label), by PGD from a random start.

    `epsilon` and `step` are in units of a white pixel; a task that normalises says so by its `mean` and `std`.
    """

    epsilon: float = 0.03
    step: float = 0.0069
    steps: int = 10
    beta: float = 0.5
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def __call__(self, run: Run, model: nn.Module, batch: Any) -> Tensor:
        """Attack, and return the loss.

        Raises:
            ResproutError: batches are not (inputs, labels).
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not batch[0].is_floating_point():
            raise ResproutError(
                "mart attacks the inputs: batches must be (inputs, labels) with inputs that are numbers"
            )
        x, y = batch
        mean, std = (t.to(x.device) for t in scale(run.task, x))
        with evaluating(model):
            moved = pgd(
                lambda x: F.cross_entropy(model(x).float(), y), x, self.epsilon / std, self.step / std, self.steps,
                (0 - mean) / std, (1 - mean) / std, run.generator("mart"),
            )  # fmt: skip
        return mart(model(x).float(), model(moved).float(), y, self.beta)


def mart(clean: Tensor, attacked: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Return the loss of logits (samples, classes)."""
    p, q = clean.softmax(1), attacked.softmax(1)
    own = p.gather(1, labels[:, None])[:, 0]
    wrong = q.scatter(1, labels[:, None], 0.0).amax(1)
    boosted = F.cross_entropy(attacked, labels, reduction="none") - (1.0001 - wrong).log()
    apart = (p * (p.clamp_min(1e-12).log() - q.clamp_min(1e-12).log())).sum(1)
    return (boosted + beta * apart * (1 - own)).mean()
