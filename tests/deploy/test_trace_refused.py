"""What devices do not know is refused with a word on what to do instead."""

import pytest
import torch
from models import FLAT, IMAGE, Fn, bn, conv, image, seq
from torch import nn
from torch.nn import functional

from resprout.core.errors import TraceError
from resprout.deploy.trace import lower


def autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return x @ torch.ones(6, 2)


REFUSED = {
    "sigmoid": (seq(conv(4, 4, 1), nn.Sequential(nn.Sigmoid())), IMAGE, r"^'1.0' \(Sigmoid\) uses sigmoid .*yourself$"),
    "log_softmax": (seq(nn.Linear(6, 4), nn.LogSoftmax(-1)), FLAT, "leave it out"),
    "conv1d": (seq(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 1)), FLAT, "unflatten|view"),
    "conv1d first": (seq(nn.Conv1d(2, 2, 1)), image(2, 2, 5), r"\(N, channels, height, width\)"),
    "transposed": (seq(nn.ConvTranspose2d(4, 4, 3)), IMAGE, "conv_transpose2d"),
    "layer norm": (seq(nn.LayerNorm(6)), FLAT, "BatchNorm"),
    "group norm": (seq(nn.GroupNorm(2, 4)), IMAGE, "group_norm"),
    "norm of the batch": (seq(bn(4, track_running_stats=False)), IMAGE, "track_running_stats=True"),
    "ceil mode": (seq(nn.MaxPool2d(3, 2, ceil_mode=True)), IMAGE, "ceil_mode=False"),
    "dilated pool": (seq(nn.MaxPool2d(2, dilation=2)), IMAGE, "no dilation"),
    "divisor": (seq(nn.AvgPool2d(2, divisor_override=3)), IMAGE, "divisor_override"),
    "adaptive": (seq(nn.AdaptiveAvgPool2d(3)), IMAGE, "divides"),
    "even same": (seq(conv(4, 4, 2, padding="same")), IMAGE, "odd kernel"),
    "tanh": (seq(nn.Tanh()), FLAT, "tanh.*devices know Conv2d"),
    "hardtanh": (seq(nn.Hardtanh(-1, 1)), FLAT, "hardtanh"),
    "a negative cap": (lambda: Fn(lambda m, x: x.clamp(max=-1.0)), FLAT, "below 0"),
    "dropout that drops": (lambda: Fn(lambda m, x: functional.dropout(x, 0.5)), FLAT, "training=self.training"),
    "two inputs": (lambda: nn.Bilinear(6, 6, 2), FLAT, "cannot be traced"),
    "two outputs": (lambda: Fn(lambda m, x: (x, x + x)), FLAT, "one tensor in eval mode, got 2"),
    "no output": (lambda: Fn(lambda m, x: None), FLAT, "one tensor in eval mode, got"),
    "constant": (lambda: Fn(lambda m, x: m.p * 2, p=nn.Parameter(torch.ones(1, 3))), FLAT, "does not depend"),
    "product of values": (lambda: Fn(lambda m, x: x * x), FLAT, "two values that depend on the input"),
    "sum with a weight": (lambda: Fn(lambda m, x: torch.add(x, x, alpha=2)), FLAT, "add"),
    "outer sum": (lambda: Fn(lambda m, x: x + x.mean((2, 3), keepdim=True)), IMAGE, "one shape"),
    "image of constants": (lambda: Fn(lambda m, x: x + m.p, p=nn.Parameter(torch.eye(8))), IMAGE, "per channel"),
    "cat along the height": (lambda: Fn(lambda m, x: torch.cat([x, x], 2)), IMAGE, "cat"),
    "some channels": (lambda: Fn(lambda m, x: x[:, 1:]), IMAGE, "slice"),
    "odd rows": (lambda: Fn(lambda m, x: x[:, :, 1::2]), IMAGE, "slice"),
    "permute": (lambda: Fn(lambda m, x: x.permute(0, 2, 3, 1)), IMAGE, "permute"),
    "linear of an image": (seq(nn.Linear(8, 2)), IMAGE, "flat"),
    "border": (seq(nn.ZeroPad2d(1)), IMAGE, "pad"),
    "reflected border": (lambda: Fn(lambda m, x: functional.pad(x, (1, 1, 1, 1), "reflect")), IMAGE, "pad"),
    "mean of features": (lambda: Fn(lambda m, x: x.mean(1)), IMAGE, "mean"),
    "softmax of channels": (seq(nn.Softmax(1)), IMAGE, "softmax"),
    "autocast": (lambda: Fn(autocast), FLAT, "take torch.autocast out"),
    "a branch": (lambda: Fn(lambda m, x: x if x.sum() > 0 else -x), FLAT, "cannot be traced"),
    "attention": (lambda: Fn(lambda m, x: x @ x.t()), FLAT, "uses t "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_devices_do_not_know_is_refused_with_a_remedy(name):
    make, x, words = REFUSED[name]
    with pytest.raises(TraceError, match=words):
        lower(make(), x)


def test_a_model_with_a_state_is_refused():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            return x + self.count

    with pytest.raises(TraceError, match="'count' in eval mode"):
        lower(Counts(), FLAT)


@pytest.mark.parametrize("example", [None, [], torch.zeros(3), torch.zeros(0, 6), {}, "x", torch.zeros(2, 3, 4)])
def test_an_example_that_is_no_batch_is_refused(example):
    with pytest.raises(TraceError, match="example"):
        lower(nn.Linear(6, 2), example)


def test_a_model_that_overwrites_what_its_graph_does_not_show_is_refused():
    def forward(m, x):
        y = m.c(x)
        functional.dropout(y, 0.5, m.training).relu_()  # in eval mode dropout returns `y` itself
        return y

    with pytest.raises(TraceError, match="overwrite a tensor"):
        lower(Fn(forward, c=conv(4, 4, 1)), IMAGE)
