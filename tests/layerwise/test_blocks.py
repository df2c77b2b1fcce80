"""Block by block: the same as all at once where that can be said, streamed from disk the same to the bit, and resumable."""

import copy
import errno
import json
import os
import shutil
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.errors import CheckpointError, ResproutError
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.layerwise import folder as folders
from resprout.layerwise.prune import prune_blocks, prune_folder
from resprout.layerwise.walk import calls, find_blocks, walk
from resprout.numerics.curvature import grams

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 40}


def llama(**more):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=32, **more)
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def data():
    return [torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("source")
    llama().save_pretrained(place)
    return place


MODELS = {
    "llama": llama,
    "gpt-neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL)),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(hidden_size=16, ffn_dim=24, num_hidden_layers=3, num_attention_heads=4, vocab_size=40,
                               word_embed_proj_dim=16, max_position_embeddings=32, pad_token_id=1, bos_token_id=2)
    ),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(  # windows of attention in every other block
        transformers.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=4, sliding_window=4)
    ),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_that_changes_nothing_reads_what_the_model_computes(name, data):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    path = find_blocks(model)
    seen = {}
    blocks = model.get_submodule(path)
    handles = [
        b.register_forward_pre_hook(lambda m, a, i=i: seen.setdefault(i, []).append(a[0].detach()))
        for i, b in enumerate(blocks)
    ]
    with torch.no_grad():
        for batch in data:
            model(batch)
    for handle in handles:
        handle.remove()
    for block in walk(model, data):
        for call, expected in zip(block.calls, seen[block.index], strict=True):
            assert torch.equal(call.hidden, expected)
    assert block.index == 2
    assert list(model.get_submodule(path)) == list(blocks)


def test_the_second_block_reads_what_the_first_one_makes_once_it_is_pruned(data):
    model = llama()
    blocks = walk(model, data)
    first = next(blocks)
    with torch.no_grad():
        for p in first.module.parameters():
            p.zero_()  # the residual stream is all that is left
    before = [c.hidden.clone() for c in first.calls]
    second = next(blocks)
    assert all(torch.equal(c.hidden, x) for c, x in zip(second.calls, before, strict=True))


def test_shared_inputs_are_summed_once_and_right(data):
    model = llama()
    names = [n for n in Masks.dense(model) if "layers.1" in n]
    probe = Probe(model, Masks.dense(model), data, lambda m, b: m(b).logits.mean(), training=False)
    found = grams(probe, names)
    q, k, gate, o = (
        found[f"model.layers.1.{n}.weight"]
        for n in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "self_attn.o_proj")
    )
    assert q is k
    assert q is not gate
    assert q is not o
    expected = torch.zeros(16, 16)

    def add(module, args):
        expected.add_(args[0].detach().flatten(0, -2).T @ args[0].detach().flatten(0, -2))

    handle = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(add)
    with torch.no_grad():
        for batch in data:
            model(batch)
    handle.remove()
    assert torch.allclose(o[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        {"score": "wanda"},
        {"score": "magnitude", "granularity": "weight"},
        {"score": None, "solver": "sparsegpt"},
        {"score": "wanda", "solver": "sparsegpt", "granularity": "2:4"},
        {"score": "wanda", "allocate": "global", "granularity": "weight"},
    ],
    ids=str,
)
def test_in_memory_and_from_disk_are_the_same_to_the_bit(how, data, source, tmp_path):
    model = llama()
    masks = prune_blocks(model, 0.5, data=data, **how)
    assert masks.alive == masks.total // 2
    own = dict(model.named_parameters())
    assert all(torch.equal(own[n] != 0, m) for n, m in masks.items())
    assert all("layers" in n for n in masks)
    counts = prune_folder(source, tmp_path / "out", 0.5, data=data, **how)
    assert counts == masks.counts
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in model.state_dict().items())
    assert not (tmp_path / "out" / ".work").exists()


def test_magnitude_block_by_block_is_magnitude(data):
    model, twin = llama(), llama()
    masks = prune_blocks(model, 0.5, data=data, score="magnitude", granularity="weight")
    same = rs.prune(twin, 0.5, score="magnitude", allocate="uniform", targets=["model.layers.*"])
    assert masks == same


def test_what_is_dead_stays_dead(data):
    model = llama()
    first = prune_blocks(model, 0.3, data=data)
    second = prune_blocks(model, 0.6, data=data, masks=first, score=None, solver="sparsegpt")
    assert second <= first
    with pytest.raises(ResproutError):
        prune_blocks(model, 0.2, data=data, masks=second)


def test_killed_and_called_again(data, source, tmp_path):
    """The process is killed after the first block; what it has written is not made again, and the result is the same."""
    script = f"""
import torch, os
from resprout.layerwise.prune import prune_folder
data = [torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(i)) for i in range(3)]
def report(event, facts):
    if facts["index"] == 1:
        os.kill(os.getpid(), 9)
prune_folder({str(source)!r}, {str(tmp_path / "out")!r}, 0.5, data=data, allocate="lamp", report=report)
"""
    assert subprocess.run([sys.executable, "-c", script], env=os.environ, check=False).returncode == -9
    parts = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("model-*.safetensors")}
    assert len(parts) == 1
    counts = prune_folder(source, tmp_path / "out", 0.5, data=data, allocate="lamp")
    assert all((tmp_path / "out" / n).stat().st_mtime_ns == t for n, t in parts.items())
    model = llama()
    assert prune_blocks(model, 0.5, data=data, allocate="lamp").counts == counts
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in model.state_dict().items())


def test_only_one_block_has_weights_at_a_time(data, source, tmp_path, monkeypatch):
    """And nothing else has: what runs before the blocks is let go once all batches have come through it."""
    most = []

    def counted(self, name, block, changed):
        most.append(sum(p.numel() for p in self.model.parameters() if not p.is_meta))
        kept(self, name, block, changed)

    kept = folders.Folder.put_back
    monkeypatch.setattr(folders.Folder, "put_back", counted)
    prune_folder(source, tmp_path / "out", 0.5, data=data)
    one = sum(p.numel() for p in llama().model.layers[0].parameters())
    assert most == [one] * 3


def test_inputs_are_cached_once(data):
    """Those of later blocks are made when it is their turn; what a block has read is let go."""
    model = llama()
    found = calls(model, "model.layers", data)
    assert [[c.hidden.numel() for c in each] for each in found] == [[2 * 12 * 16] * 3, [0] * 3, [0] * 3]
    alive = weakref.WeakSet()
    for block in walk(model, data):
        alive.update(c.hidden for c in block.calls)
        assert len(alive) == len(data)


def test_every_other_weight_has_a_shard_of_its_own(data, source, tmp_path):
    prune_folder(source, tmp_path / "out", 0.5, data=data)
    index = json.loads((tmp_path / "out" / folders.INDEX).read_text())
    other = {n: f for n, f in index["weight_map"].items() if ".layers." not in n}
    assert len(set(other.values())) == len(other) == 3
    files = [tmp_path / "out" / f for f in set(index["weight_map"].values())]
    assert sorted(files) == sorted((tmp_path / "out").glob("*.safetensors"))
    assert index["metadata"]["total_size"] == sum(f.stat().st_size for f in files)


def test_what_is_written_can_be_read_by_whom_the_umask_lets(data, source, tmp_path):
    prune_folder(source, tmp_path / "out", 0.5, data=data)
    (tmp_path / "plain").touch()
    modes = {p.stat().st_mode for p in (tmp_path / "out").glob("*.safetensors")}
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_a_full_disk_leaves_nothing_half_written(data, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "fsync", full)
        with pytest.raises(ResproutError, match=r"layers\.0.*No space"):
            folders._write(tmp_path / "layers.0.safetensors", {"w": torch.ones(2)})
    assert not list(tmp_path.iterdir())
    prune_folder(source, tmp_path / "whole", 0.5, data=data)
    with pytest.raises(KeyboardInterrupt):
        prune_folder(source, tmp_path / "out", 0.5, data=data, report=interrupt)
    left = tmp_path / "out" / ".model-model.layers.1.safetensors.1.part"  # as a process that is killed leaves it
    left.write_bytes(b"half")
    prune_folder(source, tmp_path / "out", 0.5, data=data)
    assert not left.exists()
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert all((tmp_path / "out" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)


def interrupt(event, facts):
    raise KeyboardInterrupt


def test_tied_embeddings_and_ignored_blocks(data, tmp_path):
    llama(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    counts = prune_folder(tmp_path / "tied", tmp_path / "out", 0.5, data=data, ignore=["model.layers.1.*"])
    assert not any("layers.1." in n for n in counts)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    # An allocation that looks at scores walks through the folder twice.
    again = prune_folder(tmp_path / "tied", tmp_path / "lamp", 0.5, data=data, allocate="lamp")
    assert sum(again.values()) == prune_blocks(llama(tie_word_embeddings=True), 0.5, data=data, allocate="lamp").alive
    dense = llama(tie_word_embeddings=True).model.layers[1].state_dict()
    assert all(torch.equal(t, loaded.model.layers[1].state_dict()[n]) for n, t in dense.items())


def test_bad_folders(data, source, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        prune_folder(tmp_path, tmp_path / "out", 0.5, data=data)
    with pytest.raises(ResproutError, match="is read"):
        prune_folder(source, source, 0.5, data=data)
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        prune_folder(source, full, 0.5, data=data)
    cut = tmp_path / "cut"
    shutil.copytree(source, cut)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        prune_folder(cut, tmp_path / "out", 0.5, data=data)
    (cut / "model.safetensors").unlink()
    (cut / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="pickled"):
        prune_folder(cut, tmp_path / "out", 0.5, data=data)
    (cut / folders.INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        prune_folder(cut, tmp_path / "out", 0.5, data=data)


def test_bad_requests(data):
    model = llama()
    before = copy.deepcopy(model.state_dict())
    for wrong, message in (
        ({"score": None}, "score="),
        ({"granularity": "channel"}, "channels"),
        ({"granularity": "2:4", "sparsity": 0.6}, "sparsity 0.5"),
        ({"data": []}, "data="),
        ({"blocks": "model.norm"}, "model.layers"),
        ({"sparsity": 50}, "fraction"),
        ({"score": "taylor"}, "no loss"),
        ({"data": [torch.full((1, 4), 99)]}, "batch"),
        ({"targets": ["lm_head.*"]}, "targets="),
    ):
        with pytest.raises(ResproutError, match=message):
            prune_blocks(model, **{"sparsity": 0.5, "data": data} | wrong)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    with pytest.raises(ResproutError, match="blocks="):
        prune_blocks(nn.Linear(2, 2), 0.5, data=data)


def test_a_block_that_puts_out_nan_is_named(data):
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(ResproutError, match=r"layers\.1"):
        prune_blocks(model, 0.5, data=data)
