"""Files are whole or absent, and a run folder has one owner."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import resprout as rs
from resprout.core import store
from resprout.core.store import RunFolder, configuration, load_tensors, save_tensors, write
from resprout.deploy.bytes import Bytes


def refuse(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write(path, b"old")
    monkeypatch.setattr(store.os, call, refuse)
    with pytest.raises(
        rs.ResproutError, match=rf"cannot write {path} \(5,000 bytes\): the disk is full; nothing was half"
    ):
        write(path, b"x" * 5000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    path = small_disk / "net"
    model = torch.nn.Linear(100, 100)
    rs.save(path, model, rs.prune(model, 0.9))
    old = path.read_bytes()
    with pytest.raises(rs.ResproutError, match="the disk is full"):
        rs.save(path, torch.nn.Linear(200, 200), values="fp32")
    assert path.read_bytes() == old
    assert list(small_disk.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(rs.ResproutError, match="cannot write"):
        write(tmp_path / "file" / "inner", b"x")
    with (
        pytest.raises(rs.ResproutError, match="cannot make the run folder"),
        RunFolder(tmp_path / "file", "a", {}).lock(),
    ):
        pass


def test_tensors_and_facts_come_back(tmp_path):
    shared = torch.arange(6.0)
    tensors = {
        "a": shared.view(2, 3),
        "tied": shared.view(2, 3),
        "b": torch.tensor([True, False]),
        "c": torch.tensor(3),
        "d": torch.zeros(0, 4),
        "e": torch.randn(3, 4, dtype=torch.bfloat16).t(),
    }
    save_tensors(tmp_path / "x", tensors, {"n": 1, "list": [1.5, "ü"]})
    got, facts = load_tensors(tmp_path / "x")
    assert facts == {"n": 1, "list": [1.5, "ü"]}
    assert set(got) == set(tensors)
    assert all(torch.equal(got[n], t) and got[n].dtype == t.dtype for n, t in tensors.items())


def test_every_changed_byte_of_a_checkpoint_is_noticed(tmp_path):
    save_tensors(tmp_path / "x", {"a": torch.arange(40.0)}, {"trained": 41, "journal": [{"do": "Prune(0.5)"}]})
    data = (tmp_path / "x").read_bytes()
    noticed = 0
    for at in range(len(data)):
        (tmp_path / "x").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            tensors, facts = load_tensors(tmp_path / "x")
        except rs.CheckpointError:
            noticed += 1
        else:  # a change without meaning, such as in white space
            assert torch.equal(tensors["a"], torch.arange(40.0))
            assert facts == {"trained": 41, "journal": [{"do": "Prune(0.5)"}]}
    assert noticed > 0.95 * len(data)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_tensors(tmp_path / "x", {"a": torch.zeros(9)}, {})
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "short").write_bytes(data[:-1])
    (tmp_path / "empty").write_bytes(b"")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    for name, match in (("short", "cannot be read"), ("empty", "cannot be read"), ("foreign", "is not a checkpoint")):
        with pytest.raises(rs.CheckpointError, match=match):
            load_tensors(tmp_path / name)


HOLDER = """
import sys
from resprout.core.store import RunFolder
with RunFolder(sys.argv[1], "run", {"seed": 1}).lock():
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_by_another_process(tmp_path):
    folder = RunFolder(tmp_path, "run", {"seed": 1})
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(rs.CheckpointError, match="in use by another process"), folder.lock():
            pass
    finally:
        other.kill()  # as hard as can be: the lock must not outlive its owner
        other.communicate()
    with folder.lock():
        assert json.loads((folder.path / "config.json").read_text()) == {"seed": 1}


def test_the_name_follows_from_the_configuration(tmp_path):
    a, same, other = (
        RunFolder(tmp_path, "run", c).path for c in ({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 1, "y": 3})
    )
    assert a == same != other
    assert a.parent == tmp_path
    assert a.name.startswith("run-")


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe\x00", b""])
def test_a_changed_configuration_is_refused(tmp_path, content):
    folder = RunFolder(tmp_path, "run", {"seed": 1})
    with folder.lock():
        pass
    (folder.path / "config.json").write_bytes(content)
    with pytest.raises(rs.CheckpointError, match="was changed or is damaged"), folder.lock():
        pass


def test_what_a_killed_process_half_wrote_is_swept(tmp_path):
    folder = RunFolder(tmp_path, "run", {})
    with folder.lock():
        (folder.path / ".checkpoint.safetensors.123.part").write_bytes(b"half")
        write(folder.path / "result.json", b"{}")
    with folder.lock():
        assert sorted(p.name for p in folder.path.iterdir() if p.name != ".lock") == ["config.json", "result.json"]


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    sparsity: float
    inner: Inner = Inner()
    made: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()
    hidden: int = field(default=3, repr=False)


@pytest.mark.parametrize(
    "value",
    [
        Outer(0.5),
        Outer(0.5, Inner(0.1)),
        Outer(0.5, made=Inner(0.1)),
        Outer(0.5, parts=(Inner(), Inner(2.0))),
        Bytes(100),
        Bytes(100, "fp32"),
        [Inner(1.0), "text"],
    ],
)
def test_configuration_says_everything(value):
    assert eval(configuration(value)) == value


def test_configuration_omits_defaults():
    assert configuration(Outer(0.5)) == "Outer(sparsity=0.5)"
    assert configuration(Outer(0.5, Inner(), Inner(), hidden=4)) == "Outer(sparsity=0.5)"
    assert (
        configuration(Outer(0.5, Inner(0.1), parts=(Inner(),)))
        == "Outer(sparsity=0.5, inner=Inner(rate=0.1), parts=(Inner(),))"
    )
    pair = (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    task = rs.Arrays(pair, pair, pair, name="mine")  # writes its own repr: data have names
    assert configuration(task) == repr(task)
