"""Biases and norms alone: the least that is worth training after a cut, some tenths of a percent of a network.

Zimmer, Andoni, Spiegel, Pokutta: "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", arXiv:2312.15230.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn

from ...core.kinds import Fidelity, Tune


@dataclass(frozen=True)
class BiasesNorms(Tune):
    """All biases, and the scales and shifts of all layers that are called a norm; batch norms take new statistics besides."""

    biases: bool = True
    norms: bool = True
    key: ClassVar[str | None] = "perp"
    fidelity: ClassVar[Fidelity] = "identity-checked"

    def own(self, model: nn.Module) -> Collection[str]:
        """Return their names."""
        norms = {f"{prefix}." for prefix, module in model.named_modules() if "Norm" in type(module).__name__}
        found = []
        for name, _ in model.named_parameters():
            of_norm = name[: name.rfind(".") + 1] in norms
            if (self.norms and of_norm) or (self.biases and not of_norm and name.endswith("bias")):
                found.append(name)
        return found

    def beside(self, name: str, weight: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def effective(self, weight: Tensor, mask: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        """Return the weight."""
        return weight
