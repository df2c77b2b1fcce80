"""Attention SSIM: structural similarity of a layer's spatial attention maps in the dense and the sparse network. A map
is the sum of a convolution's output over its channels, L1-normalised per sample and averaged over samples.

"Beyond One-Way Pruning: Bidirectional Pruning-Regrowth for Extreme Accuracy-Sparsity Tradeoff", arXiv:2511.11675; SSIM:
Wang, Bovik, Sheikh, Simoncelli: "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity

from ...core.kinds import Fidelity, Priority
from ...core.probe import Probe


def ssim(x: Tensor, y: Tensor) -> float:
    """Return the mean SSIM of two maps in [0, 1]: window of 7 or the map's odd part, unbiased covariances."""
    side = min(7, *x.shape)
    side -= 1 - side % 2
    ux, uy, xx, yy, xy = (avg_pool2d(m[None], side, 1)[0] for m in (x, y, x * x, y * y, x * y))
    unbiased = side**2 / (side**2 - 1)
    vx, vy, cov = unbiased * (xx - ux * ux), unbiased * (yy - uy * uy), unbiased * (xy - ux * uy)
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * ux * uy + c1) * (2 * cov + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))).mean())


def maps(probe: Probe) -> dict[str, Tensor]:
    """Return the mean attention map of each 2-D convolution's output, min-max scaled to [0, 1]."""
    names = [n.removesuffix(".weight") for n, w in probe.weights().items() if w.dim() == 4 and n.endswith(".weight")]
    sums: dict[str, Tensor] = {}

    def add(name: str, out: Tensor) -> None:
        energy = out.double().sum(1)
        energy = energy / energy.abs().sum((1, 2), keepdim=True).clamp_min(1e-12)
        sums[f"{name}.weight"] = sums.get(f"{name}.weight", 0) + energy.sum(0)

    probe.watch(names, add)  # the scaling below makes the mean over samples and their sum the same
    return {n: (m - m.min()) / (m.max() - m.min()).clamp_min(1e-300) for n, m in sums.items()}


@dataclass(frozen=True)
class AttentionSsim(Priority):
    """SSIM of the maps, or their cosine where a map is smaller than 3 x 3; layers without a map are left out."""

    fidelity: ClassVar[Fidelity] = "paper-checked"

    def __call__(self, dense: Probe, sparse: Probe) -> dict[str, float]:
        """Return weight name -> similarity."""
        before, after = maps(dense), maps(sparse)
        return {
            n: ssim(m, after[n]) if min(m.shape) >= 3 else float(cosine_similarity(m.flatten(), after[n].flatten(), 0))
            for n, m in before.items()
        }
