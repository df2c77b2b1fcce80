"""Which norm follows which weight; not a method."""

from torch import nn

from ...core.masks import PRUNABLE
from ...core.probe import Probe
from ._rows import inputs_first, rows


def scales(probe: Probe) -> dict[str, nn.Parameter]:
    """Return norm module -> its scale per channel, for modules whose type calls itself a norm (RMS norms included)."""
    named = {n: getattr(m, "weight", None) for n, m in probe.model.named_modules() if "Norm" in type(m).__name__}
    return {n: w for n, w in named.items() if isinstance(w, nn.Parameter) and w.dim() == 1}


def next_norms(probe: Probe) -> dict[str, str]:
    """Return weight -> the norm behind it: the next one in the order of modules, before any other layer, and as wide."""
    found, norms, layer = {}, scales(probe), ""
    sizes = {n: len(r) for n, r in rows(probe).items()}
    for name, module in probe.model.named_modules():
        if isinstance(module, PRUNABLE) or inputs_first(module):
            layer = f"{name}.weight" if name else "weight"
        elif name in norms and len(norms[name]) == sizes.get(layer):
            found.setdefault(layer, name)
    return found
