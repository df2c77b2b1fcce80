"""Channels, heads and blocks on the command line: what can leave, leaving, and coming back."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli import fails, one_thread, run, there
from torch import Tensor, nn

import resprout as rs
from resprout import models
from resprout.cli.structure import example
from resprout.tasks.arrays import Arrays

__all__ = ["one_thread", "there"]  # fixtures
SMALL = ("--granularity", "channel", "--input", "1x8x8")


@pytest.fixture
def dense(there: Path) -> Path:
    torch.manual_seed(3)
    save_file(models.build("digits_cnn").state_dict(), "dense.safetensors")
    return there / "dense.safetensors"


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_inspect_lists_groups_and_what_is_kept_dense():
    said = run("inspect", "--model", "resnet20", "--input", "3x32x32").splitlines()
    rows = {line.split()[0]: line.split() for line in said if line.split()[1:2] in (["channel"], ["layer"])}
    groups, kept = rs.trace(models.build("resnet20"), torch.zeros(1, 3, 32, 32), layers=True)
    assert {n: int(row[2].replace(",", "")) for n, row in rows.items()} == {g.name: len(g) for g in groups}
    assert rows["layer3.2.conv1.weight"][3:] == ["layer3.2.conv1,", "layer3.2.bn1", "layer3.2.conv2"]
    text = "\n".join(said)
    layers = sum(g.kind == "layer" for g in groups)
    assert f"{len(groups) - layers} groups of channels, {layers} whole layers can leave" in text
    assert layers > 0
    assert f"kept dense: {len(kept)}" in text
    assert "the network returns it: linear.weight" in text


def test_layers_leave(there):
    said = run("prune", "--model", "resnet20", "--sparsity", 0.34, "--granularity", "layer", "--input", "3x32x32",
               "--shrink", "--values", "fp32", "--out", "small")  # fmt: skip
    assert "5 of 7 layers alive" in said
    small, whole = rs.load("small", models.build("resnet20")), models.build("resnet20")
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())
    assert small.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert "layers that left" in run("inspect", "small", "--model", "resnet20")


def test_inspect_takes_the_input_from_a_task():
    pytest.importorskip("sklearn")
    said = run("inspect", "--model", "digits_cnn", "--task", "digits")
    assert said == run("inspect", "--model", "digits_cnn", "--input", "1x8x8")


def test_shrunk_is_what_masked_computes_and_says_what_it_gains(dense):
    words = ("--weights", dense, "--sparsity", 0.5, *SMALL, "--values", "fp32")
    run("prune", *words, "--out", "masked")
    said = run("prune", *words, "--out", "small", "--shrink")
    for word in ("112 of 224 channels alive", "parameters 98,", "multiply-adds", "latency", "PyTorch", "wrote small"):
        assert word in said, said
    masked = rs.load("masked", models.build("digits_cnn"))
    small = rs.load("small", models.build("digits_cnn"))
    torch.testing.assert_close(output(small), output(masked), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in masked.parameters())


def test_widths_are_rounded(dense):
    run("prune", "--sparsity", 0.5, *SMALL, "--shrink", "--round-to", 8, "--score", "random", "--out", "small")
    small = rs.load("small", models.build("digits_cnn"))
    assert all(m.out_channels % 8 == 0 for m in small.modules() if isinstance(m, nn.Conv2d))


def test_channels_come_back(dense):
    run("prune", "--weights", dense, "--sparsity", 0.5, *SMALL, "--out", "cut")
    said = run("regrow", "--weights", "cut", "--anchor", dense, "--sparsity", 0, *SMALL, "--score", "magnitude", "--fill",
               "anchor", "--values", "fp32", "--out", "grown")  # fmt: skip
    assert "224 of 224 channels alive" in said
    whole, grown = models.build("digits_cnn"), rs.load("grown", models.build("digits_cnn"))
    whole.load_state_dict(load_file(dense))
    torch.testing.assert_close(output(grown), output(whole), rtol=1e-2, atol=1e-2)  # the cut was kept in fp16


def test_channels_come_back_into_a_smaller_network(dense):
    run("prune", "--weights", dense, "--sparsity", 0.5, *SMALL, "--shrink", "--out", "small")
    said = run("regrow", "--weights", "small", "--sparsity", 0.25, *SMALL, "--fill", "kaiming", "--score", "random")
    assert "168 of 224 channels alive" in said
    assert "folded" in fails("regrow", "--weights", "small", "--anchor", dense, "--sparsity", 0.25, *SMALL)


def test_heads_leave(there):
    said = run("prune", "--model", "vit_tiny_p4", "--sparsity", 0.5, "--granularity", "head", "--input", "3x32x32",
               "--shrink", "--out", "small")  # fmt: skip
    assert "24 of 48 heads alive" in said
    assert "no program, only weights" in said
    assert "2 of" not in run("inspect", "small"), "without the model it is not known of how many"
    assert "of 384" in run("inspect", "small", "--model", "vit_tiny_p4")


def test_blocks_need_no_input(there):
    assert "blocks alive" in run("prune", "--sparsity", 0.5, "--granularity", "block:4x1")


def test_a_smaller_network_is_inspected_measured_and_exported(dense):
    run("prune", "--weights", dense, "--sparsity", 0.5, *SMALL, "--shrink", "--out", "small")
    small = rs.load("small", models.build("digits_cnn"))
    said = run("inspect", "small", "--model", "digits_cnn")
    assert "shape:" not in said, "base 64 is nothing to look at"
    assert "a smaller network" in said
    assert f"{small[7].out_channels} of 128" in said
    assert "resprout" in run("bench", "small", "--against", "none", "--seconds", 0.1)
    run("export", "small", "--to", "onnx", "--out", "net.onnx")
    run("export", "small", "--to", "c", "--out", "c")
    run("export", "small", "--to", "torch", "--model", "digits_cnn", "--out", "net.st")
    twin = rs.load("small", models.build("digits_cnn"))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(load_file("net.st"), strict=False)
    torch.testing.assert_close(output(twin), output(small))


def test_fit_of_channels_writes_a_smaller_network(there):
    pytest.importorskip("sklearn")
    said = run("fit", "--granularity", "channel", "--epochs", 1, "--dense-epochs", 1, "--no-curve", "--budget", "16KiB",
               "--out", there / "out")  # fmt: skip
    file = next(Path(line.removeprefix("wrote ")) for line in said.splitlines() if line.endswith("safetensors"))
    assert file.stat().st_size <= 16 * 1024
    small = rs.load(file, models.build("digits_cnn"))
    assert sum(p.numel() for p in small.parameters()) < 16 * 1024 / 2 < 97_568
    assert "a smaller network" in run("inspect", file, "--model", "digits_cnn")
    if "picture.svg" in said:
        assert "picture.svg" in run("report", file.parent)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prune", "--sparsity", "0.5", "--granularity", "channel"), "--input 3x32x32"),
        (("prune", "--sparsity", "0.5", "--shrink"), "--shrink needs an input"),
        (("prune", "--sparsity", "0.5", "--granularity", "chanel"), "'channel'"),
        (("prune", "--sparsity", "0.5", "--granularity", "channel", "--input", "3,32"), "cannot read --input '3,32'"),
        (("prune", "--sparsity", "0.5", "--granularity", "channel", "--input", "3x8x8"), "cannot be traced"),
        (("prune", "--sparsity", "0.5", "--granularity", "head", "--input", "1x8x8"), "found no heads"),
        (("inspect",), "name a FILE"),
        (("inspect", "--model", "resnet20"), "--input 3x32x32"),
        (("inspect", "dense.safetensors", "--input", "1x8x8"), "without a FILE"),
    ],
)
def test_bad_input_is_one_clear_line(words, says, dense):
    assert says in fails(*words)


def test_a_smaller_network_is_not_pruned_again(dense):
    run("prune", "--weights", dense, "--sparsity", 0.5, *SMALL, "--shrink", "--out", "small")
    assert "shrunk already" in fails("prune", "--weights", "small", "--sparsity", 0.9)


def test_an_example_is_one_input():
    assert example(None, None) is None
    x = example("3x4x5", None)
    assert x is not None
    assert x.shape == (1, 3, 4, 5)
    train = (torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1), torch.zeros(6, dtype=torch.int64))
    y = example(None, Arrays(train, train, train))
    assert y is not None
    assert y.shape == (1, 1, 1, 1)
