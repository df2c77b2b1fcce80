"""Between two weight tensors along the arc that joins their directions (Shoemake, SIGGRAPH 1985)."""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return sin((1 - t) O) / sin O a + sin(t O) / sin O b, O the angle between both; a straight line where there is none."""
    if t in (0, 1):
        return (b if t else a).clone()
    x, y = a.double().flatten(), b.double().flatten()
    lengths = x.norm() * y.norm()
    cosine = (x @ y) / lengths if lengths > 0 else torch.ones(())
    if abs(float(cosine)) > 1 - 1e-12:
        return torch.lerp(a, b, t)
    angle = torch.arccos(cosine)
    return ((torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)).view_as(a).to(a.dtype)
