"""What to do about an operation that devices do not know.

What this file does not do: decide which those are (`trace.py`).
"""

from __future__ import annotations

from torch.fx import Node

from ..core.errors import TraceError
from .graph import kind, location

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, ReLU6, LeakyReLU, clamp, max and mean pooling, add, cat along channels, flatten, "
    "softmax, a scale or shift per channel, and a ResNet's option-A shortcut"
)
REMEDIES = {
    "log_softmax": "leave it out of the model (the order of the logits is the same) or use softmax",
    "conv1d": "write it as a Conv2d with kernel (1, k) on images of height 1",
    "conv3d": "only two-dimensional convolutions run on devices",
    "layer_norm": "use BatchNorm2d, whose statistics are constants",
    "group_norm": "use BatchNorm2d, whose statistics are constants",
    "instance_norm": "use BatchNorm2d, whose statistics are constants",
    "batch_norm": "use track_running_stats=True: in eval mode the statistics must be constants",
    "dropout": "pass training=self.training, so that eval mode drops nothing",
    "sigmoid": "use ReLU or Hardtanh(0, c) within, and apply sigmoid to the result yourself",
    "silu": "use ReLU or ReLU6",
    "gelu": "use ReLU or ReLU6",
    "hardswish": "use ReLU or ReLU6",
    "adaptive": "use an output size that divides height and width",
    "max_pool2d": "use ceil_mode=False and no dilation",
    "avg_pool2d": "use ceil_mode=False and no divisor_override",
    "autocast": "take torch.autocast out of the model",
    "pad": "give the padding to the convolution or pooling instead",
}


def unsupported(node: Node, reason: str = "") -> TraceError:
    """Return the error for a node: where it stands, what it is, and what would help."""
    name = kind(node)
    remedy = next((r for k, r in REMEDIES.items() if k in name), f"devices know {SUPPORTED}")
    return TraceError(f"{location(node)} uses {name} {reason or 'in a way that devices do not know'}; {remedy}")
