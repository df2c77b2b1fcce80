"""`resprout export` as a user meets it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import resprout as rs
from resprout import models
from resprout.cli import app

RUNNER = CliRunner()


def said(*words: object, code: int = 0) -> str:
    """Run a command, check its exit code, and return all it printed."""
    result = RUNNER.invoke(app, ["export", *(str(w) for w in words)])
    assert result.exit_code == code, f"{words}: {result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = models.build("digits_cnn")
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    rs.save(path, model, rs.prune(model, 0.9, allocate="uniform"), values="int8", example=torch.zeros(1, 1, 8, 8))
    return path


def test_c(file, tmp_path):
    text = said(file, "--to", "c", "--out", tmp_path / "c", "--name", "digits", "--device", "rp2040")
    assert "-mcpu=cortex-m0plus" in (tmp_path / "c" / "board.mk").read_text()
    names = {str(p.relative_to(tmp_path / "c")) for p in (tmp_path / "c").rglob("*") if p.is_file()}
    assert {"digits.c", "digits.h", "digits_test.h", "test.c", "Makefile", "board.mk", "board/startup.c"} <= names
    assert re.search(r"RAM: 12,544 bytes", text)
    if shutil.which("make") and shutil.which("gcc"):
        done = subprocess.run(["make", "-C", tmp_path / "c", "test"], capture_output=True, text=True, check=True)
        assert "all outputs as in PyTorch" in done.stdout


def test_torch(file, tmp_path):
    said(file, "--to", "torch", "--model", "digits_cnn", "--out", tmp_path / "net.st")
    model = models.build("digits_cnn").eval()
    model.load_state_dict(load_file(tmp_path / "net.st"), strict=False)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(x), rs.load(file, into=models.build("digits_cnn").eval())(x))


def test_onnx(file, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    said(file, "--to", "onnx", "--out", tmp_path / "net.onnx")
    x = torch.randn(4, 1, 8, 8)
    got = runtime.InferenceSession(tmp_path / "net.onnx").run(None, {"input": x.numpy()})[0]
    want = rs.load(file, into=models.build("digits_cnn").eval())(x)
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--to", "cpp"], "unknown --to 'cpp'; did you mean 'c'?"),
        (["--to", "c", "--name", "My Net"], "name must be lower-case letters"),
        (["--to", "c", "--device", "cortex-m0"], "did you mean 'cortex-m0-microbit'"),
        (["--to", "c", "--device", "rpi4"], "rpi4 is no microcontroller: rs.Runtime runs the file there"),
        (["--to", "torch"], "pass the model whose norms they were"),
        (["--to", "torch", "--model", "digit_cnn"], "did you mean 'digits_cnn'"),
    ],
)
def test_mistakes_are_one_line(file, tmp_path, words, error):
    text = said(file, *words, "--out", tmp_path / "out", code=2)
    assert error in text
    assert text.startswith("error: ")
    assert "Traceback" not in text


@pytest.mark.parametrize("to", ["c", "onnx"])
def test_a_file_without_a_program(tmp_path, to):
    rs.save(tmp_path / "net", torch.nn.Sequential(torch.nn.Linear(3, 2)))
    assert "save it with example=" in said(tmp_path / "net", "--to", to, "--out", tmp_path / "out", code=2)


def test_huggingface(data_dir, tmp_path):
    transformers = pytest.importorskip("transformers")
    source, ids = data_dir / "stories260k", torch.tensor([[1, 40, 50]])
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    masks = rs.prune(model, 0.2, granularity="head", example=ids, floor=1)
    small = rs.shrink(model, masks, ids)
    rs.save(tmp_path / "net", small, values="fp32")
    assert "--model hf:FOLDER" in said(tmp_path / "net", "--to", "huggingface", "--out", tmp_path / "code", code=2)
    text = said(tmp_path / "net", "--to", "huggingface", "--model", f"hf:{source}", "--out", tmp_path / "code")
    assert "trust_remote_code=True" in text
    assert "num_key_value_heads differs" in text
    text = said(tmp_path / "code", "--to", "huggingface", "--ragged", "pad", "--out", tmp_path / "pad")
    assert re.search(r"a plain folder.*[\d,]+ bytes of padding", text, re.S)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pad")
    wished = small.generate(ids, max_new_tokens=9, do_sample=False)
    assert torch.equal(read.generate(ids, max_new_tokens=9, do_sample=False), wished)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "pad")("a tree").input_ids
