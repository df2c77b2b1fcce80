"""What a rule learns about dead weights while training goes on, kept in `run.slots`; not a method."""

import torch

from ...core.probe import Probe
from ...core.run import Run


def gather(run: Run, memory: float) -> None:
    """Update running means of g and of g^2 times the batch size (the Fisher diagonal, up to the squared mean)."""
    for name, g in (run.live or {}).items():
        for label, now in ((f"g:{name}", g), (f"h:{name}", g.square().mul_(run.rows))):
            if label in run.slots:
                run.slots[label].lerp_(now, 1 - memory)
            else:
                run.slots[label] = now.clone()


def remember(run: Run) -> None:
    """Keep the values of the living, before a cut: of those that die it is the last value."""
    for name, weight in run.weights().items():
        label, now = f"v:{name}", weight.detach()
        run.slots[label] = torch.where(run.masks[name], now, run.slots.get(label, now))


def witness(run: Run) -> Probe:
    """Return a probe whose gradients and Fisher are the running means, and whose anchor is the values at the cut."""
    g, h, v = ({n: run.slots[f"{kind}:{n}"] for n in run.masks} for kind in "ghv")
    return run.probe_with(run.samples, run.task.loss, v, g, h)
