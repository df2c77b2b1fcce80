"""Hugging Face folders: what `from_pretrained` reads is what was pruned, and `generate` goes on with and without a cache."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import resprout as rs
from resprout.core.units import spread
from resprout.graph.alike import difference, outputs
from resprout.graph.shape import shape_of

t = pytest.importorskip("transformers")
OFF = torch.zeros(1, dtype=torch.bool)
PROMPT = torch.tensor([[1, 40, 50, 60, 70]])


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """Code that comes with a folder is cached in a folder of the test's own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def keep(units: int, left: int, seed: int = 0) -> Tensor:
    """So many of these units, at random."""
    alive = torch.zeros(units, dtype=torch.bool)
    alive[torch.randperm(units, generator=torch.Generator().manual_seed(seed))[:left]] = True
    return alive


def cut(model: nn.Module, structure: Any, alive: dict[str, Tensor]) -> nn.Module:
    """The model with these units of these groups alone."""
    dead = {g.name: alive.get(g.name, torch.ones(len(g), dtype=torch.bool)) for g in structure.groups}
    assert alive.keys() <= dead.keys()
    shapes = {n: m.shape for n, m in rs.Masks.dense(model).items()}
    return rs.shrink(model, rs.Masks(spread(structure.groups, dead, shapes)), structure=structure)


def greedy(model: Any, ids: Tensor, **how: Any) -> Tensor:
    return model.generate(ids, max_new_tokens=24, min_new_tokens=24, do_sample=False, **how)


def auto(folder: Path, kind: Any = None) -> Any:
    return (kind or t.AutoModelForCausalLM).from_pretrained(folder, trust_remote_code=True, dtype="auto").eval()


# -- the trained stories260k: 5 blocks, width 64, MLP 172, 8 heads of width 8 that share 4 ---------------------------


@pytest.fixture(scope="module")
def stories(data_dir) -> tuple[Any, Any, Path]:
    folder = data_dir / "stories260k"
    model = t.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, rs.trace(model, {"input_ids": PROMPT}, layers=True), folder


MLP, HEADS = "model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.self_attn.q_proj.weight"
CASES: dict[str, tuple[dict[str, Tensor], int, str]] = {  # what is left, parameters (by hand), why it is not plain
    "MLPs alike": ({MLP.format(i): keep(172, 100, i) for i in range(5)}, 260_032 - 5 * 3 * 72 * 64, ""),
    "MLPs ragged": (
        {MLP.format(i): keep(172, 100 + i, i) for i in range(5)},
        260_032 - 3 * 64 * (72 + 71 + 70 + 69 + 68),
        "intermediate_size differs: 100 in model.layers.0, 101 in model.layers.1 (5 sizes in all)",
    ),
    # a key/value head: 2 x 8 rows of q, 8 of k and of v, 16 columns of o
    "heads alike": ({HEADS.format(i): keep(4, 2, i) for i in range(5)}, 260_032 - 5 * 2 * 48 * 64, ""),
    "heads that Llama refuses": (
        {HEADS.format(i): keep(4, 3, i) for i in range(5)}, 260_032 - 5 * 48 * 64, "not a multiple"
    ),
    "heads ragged": (
        {HEADS.format(i): keep(4, 1 + i % 3, i) for i in range(5)},
        260_032 - 48 * 64 * (3 + 2 + 1 + 3 + 2),
        "num_key_value_heads differs: 1 in model.layers.0, 2 in model.layers.1 (3 sizes in all)",
    ),
    # a block: 3 x 172 x 64 of the MLP, 4 x 48 x 64 of the attention, two norms of 64
    "blocks": (
        {f"model.layers.{i}.{part}": OFF for i in (0, 3) for part in ("self_attn", "mlp")},
        260_032 - 2 * (3 * 172 * 64 + 4 * 48 * 64 + 2 * 64), "",
    ),
    "branches": (
        {"model.layers.0.self_attn": OFF, "model.layers.3.mlp": OFF},
        260_032 - (3 * 172 * 64 + 4 * 48 * 64 + 2 * 64),
        "model.layers.0.self_attn, model.layers.3.mlp have left without the rest of a block",
    ),
    "all of it": (
        {"model.layers.0.self_attn": OFF, "model.layers.3.mlp": OFF, "model.layers.2.self_attn": OFF,
         "model.layers.2.mlp": OFF} | {MLP.format(i): keep(172, 90 + i, i) for i in (0, 1, 4)}
        | {HEADS.format(1): keep(4, 1), HEADS.format(4): keep(4, 3)},
        260_032 - 2 * (3 * 172 * 64 + 4 * 48 * 64 + 2 * 64) - 3 * 64 * (82 + 81 + 78) - 48 * 64 * (3 + 1),
        "model.layers.0.self_attn, model.layers.2.mlp have left without the rest of a block",
    ),
    "width": ({"model.layers.0.self_attn.o_proj.weight": keep(64, 48)}, 260_032 * 3 // 4, ""),
    "width, MLPs and a block": (
        {"model.layers.0.self_attn.o_proj.weight": keep(64, 48), "model.layers.2.self_attn": OFF, "model.layers.2.mlp": OFF}
        | {MLP.format(i): keep(172, 90, i) for i in (0, 1, 3, 4)},
        48 * (512 + 4 * (64 + 32 + 32 + 64 + 3 * 90 + 2) + 1), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_folder_generates_what_was_pruned(case, stories, tmp_path):
    model, structure, source = stories
    alive, parameters, why = CASES[case]
    if "refuses" in case and t.__version__ < "5":
        why = ""  # earlier versions take any number of heads
    small = cut(model, structure, alive)
    wished = greedy(small, PROMPT, use_cache=False)
    for ragged in ("code", "pad"):
        out = tmp_path / ragged
        saved = rs.save_pretrained(small, out, tokenizer=source, ragged=ragged)
        assert saved.parameters_before == 260_032
        assert saved.custom_code == (bool(why) and ragged == "code")
        assert why in saved.why
        assert bool(saved.padding) == (bool(why) and ragged == "pad")
        if ragged == "code" or not why:
            assert saved.parameters == parameters
        assert saved.bytes == sum(f.stat().st_size for f in out.iterdir())
        assert saved.difference <= 1e-5
        assert (out / "modeling_ragged.py").exists() == saved.custom_code
        assert len({f.stat().st_mode for f in out.iterdir() if "token" not in f.name}) == 1, "readable by others"
        read = auto(out)
        assert isinstance(read, t.LlamaForCausalLM)
        assert read.lm_head.weight is read.model.embed_tokens.weight
        assert read.generation_config.eos_token_id == 2
        with torch.no_grad():
            torch.testing.assert_close(read(PROMPT).logits, small(PROMPT).logits, rtol=1e-5, atol=1e-4)
        for how in ({"use_cache": False}, {"use_cache": True}, {"cache_implementation": "static"}):
            assert torch.equal(greedy(read, PROMPT, **how), wished), how
        ours: Any = rs.load_pretrained(out)
        assert type(ours) is t.LlamaForCausalLM
        assert torch.equal(greedy(ours, PROMPT), wished)
    tokens = t.AutoTokenizer.from_pretrained(out)("Once upon a time").input_ids
    assert tokens == t.AutoTokenizer.from_pretrained(source)("Once upon a time").input_ids


@pytest.mark.parametrize("case", CASES)
def test_a_folder_goes_back_into_the_dense_network(case, stories, tmp_path):
    model, structure, _ = stories
    small = cut(model, structure, CASES[case][0])
    rs.save_pretrained(small, tmp_path / "net")
    back: Any = rs.load_pretrained(tmp_path / "net", dense=model)
    assert shape_of(back) == shape_of(small)
    whole = rs.expand(back, like=model).state_dict()
    for name, tensor in model.state_dict().items():  # plain norms of fewer channels have been scaled
        torch.testing.assert_close(whole[name], tensor, rtol=1e-6 if "width" in case else 0, atol=0)


def test_a_folder_needs_no_resprout(stories, tmp_path):
    model, structure, _ = stories
    small = cut(model, structure, CASES["all of it"][0])
    rs.save_pretrained(small, tmp_path / "net")
    code = (tmp_path / "net" / "modeling_ragged.py").read_text()
    assert "import resprout" not in code
    assert len(code.splitlines()) < 250
    program = (
        "import sys; sys.modules['resprout'] = None\n"
        "import torch, transformers as t\n"
        f"net = t.AutoModelForCausalLM.from_pretrained({str(tmp_path / 'net')!r}, trust_remote_code=True).eval()\n"
        f"ids = torch.tensor({PROMPT.tolist()})\n"
        "for cache in (False, True):\n"
        "    print(net.generate(ids, max_new_tokens=24, min_new_tokens=24, do_sample=False, use_cache=cache).tolist())\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_MODULES_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(greedy(small, PROMPT, use_cache=False).tolist())] * 2


def test_without_its_code_nothing_takes_a_ragged_folder_for_a_dense_one(stories, tmp_path):
    model, structure, _ = stories
    rs.save_pretrained(cut(model, structure, {"model.layers.3.mlp": OFF}), tmp_path / "net")
    with pytest.raises(ValueError, match="trust_remote_code"):
        t.AutoModelForCausalLM.from_pretrained(tmp_path / "net", trust_remote_code=False)


def test_transformers_trains_and_saves_it_again(stories, tmp_path):
    model, structure, _ = stories
    rs.save_pretrained(cut(model, structure, CASES["all of it"][0]), tmp_path / "net")
    read = auto(tmp_path / "net").train()
    read(PROMPT, labels=PROMPT).loss.backward()
    torch.optim.SGD(read.parameters(), 0.01).step()
    read.eval().save_pretrained(tmp_path / "trained")
    wished = outputs(read, PROMPT)
    assert difference(outputs(auto(tmp_path / "trained"), PROMPT), wished) < 1e-6
    assert difference(outputs(rs.load_pretrained(tmp_path / "trained"), PROMPT), wished) < 1e-6


def test_what_has_been_read_is_pruned_and_written_again(stories, tmp_path):
    model, structure, _ = stories
    rs.save_pretrained(cut(model, structure, CASES["all of it"][0]), tmp_path / "net")
    read = rs.load_pretrained(tmp_path / "net")
    masks = rs.prune(read, 0.3, granularity="channel", example={"input_ids": PROMPT}, floor=1)
    smaller = rs.shrink(read, masks, {"input_ids": PROMPT})
    for ragged in ("code", "pad"):
        saved = rs.save_pretrained(smaller, tmp_path / ragged, ragged=ragged)
        assert torch.equal(greedy(auto(saved.folder), PROMPT), greedy(smaller, PROMPT))


# -- masks, types, shards ---------------------------------------------------------------------------------------------


def test_masked_weights_are_zeros_and_the_others_as_they_were(stories, tmp_path):
    model, _, _ = stories
    dense = {n: w.clone() for n, w in model.state_dict().items()}
    masks = rs.Masks({n: w.abs() > w.abs().median() for n, w in dense.items() if n in rs.Masks.dense(model)})
    saved = rs.save_pretrained(model, tmp_path / "net", masks=masks, max_shard="200KB")
    assert not saved.custom_code
    assert saved.why == ""
    assert saved.sparsity == pytest.approx(masks.sparsity)
    assert (tmp_path / "net" / "model.safetensors.index.json").exists()
    read = t.AutoModelForCausalLM.from_pretrained(tmp_path / "net").state_dict()
    for name, weight in dense.items():
        assert torch.equal(read[name], weight * masks[name] if name in masks else weight)
        assert torch.equal(model.state_dict()[name], weight), "the model is left as it is"


def test_half_precision(stories, tmp_path):
    model, structure, _ = stories
    small = cut(model, structure, CASES["MLPs ragged"][0])
    saved = rs.save_pretrained(small, tmp_path / "net", dtype="bfloat16")
    assert auto(saved.folder).dtype == torch.bfloat16
    assert {x.dtype for x in rs.load_pretrained(saved.folder).parameters()} == {torch.bfloat16}
    with safe_open(saved.folder / "model.safetensors", "pt") as f:
        weight = f.get_tensor("model.layers.4.mlp.up_proj.weight")
    assert torch.equal(weight, small.state_dict()["model.layers.4.mlp.up_proj.weight"].bfloat16())


# -- other architectures ----------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.tensor([[3, 7, 9, 11, 13, 30]])
NETS: dict[str, tuple[str, str, dict[str, Any], str, str]] = {  # model, configuration, MLP and heads of a block
    "gpt2": ("GPT2LMHeadModel", "GPT2Config",
             {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32, "pad_token_id": 0,
              "bos_token_id": 1, "eos_token_id": 2},
             "transformer.h.{}.mlp.c_proj.weight", "transformer.h.{}.attn.c_proj.weight"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", TINY | {"num_key_value_heads": 2, "tie_word_embeddings": True},
              "model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.self_attn.q_proj.weight"),
    "mistral": ("MistralForCausalLM", "MistralConfig", TINY | {"num_key_value_heads": 2, "sliding_window": 4},
                "model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.self_attn.q_proj.weight"),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", TINY | {"num_key_value_heads": 2},  # gate and up fused, heads kept dense
             "model.layers.{}.mlp.gate_up_proj.weight", ""),
    "opt": ("OPTForCausalLM", "OPTConfig",
            {k: v for k, v in TINY.items() if k != "intermediate_size"} | {"ffn_dim": 40, "word_embed_proj_dim": 32},
            "model.decoder.layers.{}.fc1.weight", "model.decoder.layers.{}.self_attn.k_proj.weight"),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", TINY | {"use_parallel_residual": False},
             "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight", ""),
    "bert": ("BertForSequenceClassification", "BertConfig", TINY | {"num_labels": 3},
             "bert.encoder.layer.{}.intermediate.dense.weight", "bert.encoder.layer.{}.attention.self.query.weight"),
}  # fmt: skip


@pytest.fixture(scope="module")
def nets() -> Any:
    made: dict[str, Any] = {}

    def get(name: str) -> tuple[Any, Any]:
        if name not in made:
            cls, config, sizes, *_ = NETS[name]
            torch.manual_seed(0)
            model = getattr(t, cls)(getattr(t, config)(**sizes)).eval()
            with torch.no_grad():
                for p in model.parameters():
                    p += 0.1 * torch.randn(p.shape)  # norms and biases that do something
            made[name] = model, rs.trace(model, {"input_ids": IDS}, layers=True)
        return made[name]

    return get


@pytest.mark.parametrize("what", ["MLPs alike", "MLPs ragged", "heads ragged", "last block", "a branch", "width"])
@pytest.mark.parametrize("name", NETS)
def test_architectures(name, what, nets, tmp_path):
    model, structure = nets(name)
    sizes, (*_, mlp, heads) = {g.name: len(g) for g in structure.groups}, NETS[name]
    if what == "heads ragged":
        if not heads:
            pytest.skip("its heads cannot leave")
        alive = {heads.format(i): keep(sizes[heads.format(i)], 1 + i % 2, i) for i in range(3)}
    elif what.startswith("MLPs"):
        step = 3 if what == "MLPs ragged" else 0
        alive = {mlp.format(i): keep(sizes[mlp.format(i)], 20 + step * i, i) for i in range(3)}
    elif what == "width":
        alive = {structure.groups[0].name: keep(32, 24)}
    else:
        branches = [g.name for g in structure.groups if g.kind == "layer" and ".2." in g.name]
        alive = dict.fromkeys(branches if what == "last block" else branches[:1], OFF)
    small = cut(model, structure, alive)
    wished = outputs(small, {"input_ids": IDS})
    plain = {
        "MLPs alike": True, "MLPs ragged": False, "heads ragged": False, "a branch": False, "last block": name != "bert",
        "width": name in ("qwen2", "mistral", "phi3"),  # norms that take no mean off
    }[what]  # fmt: skip
    for ragged in ("code", "pad"):
        saved = rs.save_pretrained(small, tmp_path / ragged, ragged=ragged)
        assert saved.custom_code == (not plain and ragged == "code"), saved.why
        kind = t.AutoModelForSequenceClassification if name == "bert" else t.AutoModelForCausalLM
        read = auto(saved.folder, kind)
        assert difference(outputs(read, {"input_ids": IDS}), wished) < 1e-5
        assert difference(outputs(rs.load_pretrained(saved.folder), {"input_ids": IDS}), wished) < 1e-5
        if name != "bert":
            sequences = [greedy(m, IDS, use_cache=c) for m, c in ((small, False), (read, False), (read, True))]
            assert all(torch.equal(s, sequences[0]) for s in sequences)


def test_norms_that_a_configuration_cannot_say_go_on_counting(nets, tmp_path):
    model, structure = nets("gpt2")
    saved = rs.save_pretrained(cut(model, structure, {structure.groups[0].name: keep(32, 24)}), tmp_path / "net")
    assert "class LayerNorm" in (saved.folder / "modeling_ragged.py").read_text()
    norm: Any = auto(saved.folder).transformer.ln_f
    assert (norm.of, norm.normalized_shape) == (32, (24,))


# -- whole or not at all ----------------------------------------------------------------------------------------------


@pytest.fixture
def small(nets) -> nn.Module:
    model, structure = nets("qwen2")
    return cut(model, structure, {NETS["qwen2"][3].format(i): keep(40, 20 + 3 * i) for i in range(3)})


def test_what_is_there_stays_unless_asked(small, tmp_path):
    out = tmp_path / "net"
    out.mkdir()
    rs.save_pretrained(small, out)  # empty: fine
    (out / "mine.txt").write_text("mine")
    with pytest.raises(rs.ResproutError, match=r"not empty.*overwrite=True"):
        rs.save_pretrained(small, out)
    assert (out / "mine.txt").exists()
    rs.save_pretrained(small, out, overwrite=True)
    assert not (out / "mine.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    (tmp_path / "file").write_text("")
    with pytest.raises(rs.ResproutError, match="is a file"):
        rs.save_pretrained(small, tmp_path / "file", overwrite=True)


def test_a_full_disk_leaves_what_was_there(small, tmp_path):
    out = tmp_path / "net"
    rs.save_pretrained(small, out)
    before = {f.name: f.read_bytes() for f in out.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the weights take more
    try:
        with pytest.raises(rs.ResproutError, match="nothing was half-written"):
            rs.save_pretrained(small, out, overwrite=True)
        with pytest.raises(rs.ResproutError, match="nothing was half-written"):
            rs.save_pretrained(small, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {f.name: f.read_bytes() for f in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_a_killed_process_leaves_no_half_folder(small, tmp_path):
    out = tmp_path / "net"
    program = (
        "import torch, transformers as t, resprout as rs\n"
        f"net = t.Qwen2ForCausalLM(t.Qwen2Config(**{TINY | {'num_key_value_heads': 2}}))\n"
        f"while True: rs.save_pretrained(net, {str(out)!r}, overwrite=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    for _ in range(600):  # until the first is there, and another on its way
        time.sleep(0.1)
        if out.exists() and any(tmp_path.glob(".net.*.part/*")):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    if out.exists():  # else it had just made room for the next
        rs.load_pretrained(out)
    rs.save_pretrained(small, out, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["net"], "what was left is cleared away"


def test_a_folder_that_was_about_to_be_replaced_gets_its_name_back(small, tmp_path):
    rs.save_pretrained(small, tmp_path / "net")
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "net").rename(tmp_path / f".net.{dead.pid}.old")
    (tmp_path / f".net.{dead.pid}.part").mkdir()
    with pytest.raises(rs.ResproutError, match="not empty"):
        rs.save_pretrained(small, tmp_path / "net")
    rs.load_pretrained(tmp_path / "net")
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


# -- damaged, hostile, foreign ----------------------------------------------------------------------------------------


def damage(folder: Path, what: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    data = bytearray(weights.read_bytes())
    facts = json.loads(config.read_text())
    if what == "cut short":
        weights.write_bytes(data[: len(data) // 2])
    elif what == "cut short, and no checksum":
        weights.write_bytes(data[: len(data) // 2])
        (folder / "resprout.json").unlink()
    elif what == "a bit":
        data[-5] ^= 1
        weights.write_bytes(data)
    elif what == "no weights":
        weights.unlink()
    elif what == "a configuration cut short":
        config.write_text(config.read_text()[:100])
    elif what == "no configuration":
        config.unlink()
    elif what == "a size less":
        next(iter(facts["ragged"]["shapes"].values()))[0] -= 1
    elif what == "no such weight":
        facts["ragged"]["shapes"]["absent.weight"] = [1]
    elif what == "a branch that is there":
        facts["ragged"]["skipped"]["model.layers.0.mlp"] = {"channels": 1, "dim": -1}
    elif what == "a class of ours":
        facts["ragged"]["numbers"]["model.__class__"] = 1
    elif what == "another class":
        facts["ragged"]["class"] = "os"
    elif what == "no facts":
        facts["ragged"] = {"class": "Qwen2ForCausalLM"}
    elif what == "a note that is none":
        (folder / "resprout.json").write_text("[]")
    if facts != (
        json.loads(config.read_text()) if what not in ("a configuration cut short", "no configuration") else facts
    ):
        config.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "what",
    ["cut short", "cut short, and no checksum", "a bit", "no weights", "a configuration cut short", "no configuration",
     "a size less", "no such weight", "a branch that is there", "a class of ours", "another class", "no facts",
     "a note that is none"],
)  # fmt: skip
def test_damaged_folders_are_refused(what, small, tmp_path):
    rs.save_pretrained(small, tmp_path / "net")
    damage(tmp_path / "net", what)
    with pytest.raises(rs.ResproutError):
        rs.load_pretrained(tmp_path / "net")


def test_no_code_of_the_folder_is_run(small, tmp_path):
    rs.save_pretrained(small, tmp_path / "net")
    (tmp_path / "net" / "modeling_ragged.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert difference(outputs(rs.load_pretrained(tmp_path / "net"), IDS), outputs(small, IDS)) == 0
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_another_network(small, stories, nets, tmp_path):
    rs.save_pretrained(small, tmp_path / "net")
    with pytest.raises(rs.CheckpointError, match="another model than dense="):
        rs.load_pretrained(tmp_path / "net", dense=stories[0])
    with pytest.raises(rs.CheckpointError, match="another model than dense="):
        rs.load_pretrained(tmp_path / "net", dense=nets("mistral")[0])
    rs.save_pretrained(small, tmp_path / "pad", ragged="pad")
    with pytest.raises(rs.CheckpointError, match="padded"):
        rs.load_pretrained(tmp_path / "pad", dense=nets("qwen2")[0])


def test_what_cannot_be_written(small, nets, tmp_path):
    out = tmp_path / "net"
    with pytest.raises(rs.ResproutError, match=r"must be a model of transformers.*rs\.save"):
        rs.save_pretrained(nn.Linear(2, 2), out)
    with pytest.raises(rs.ResproutError, match="did you mean 'code'"):
        rs.save_pretrained(small, out, ragged="cod")
    with pytest.raises(rs.ResproutError, match="dtype must be"):
        rs.save_pretrained(small, out, dtype="int8")
    with pytest.raises(rs.ResproutError, match="max_shard must be"):
        rs.save_pretrained(small, out, max_shard="five")
    with pytest.raises(rs.ResproutError, match="tokenizer= "):
        rs.save_pretrained(small, out, tokenizer=tmp_path)
    with pytest.raises(rs.ResproutError, match="the masks name"):
        rs.save_pretrained(small, out, masks=rs.Masks.dense(nets("qwen2")[0]))
    broken = nets("mistral")[0].__class__(nets("mistral")[0].config)
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = 1e6
    with pytest.raises(rs.ResproutError, match="too large for torch"):
        rs.save_pretrained(broken, out, dtype="float16")
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(rs.ResproutError, match="NaN"):
        rs.save_pretrained(broken, out)
    assert not list(tmp_path.iterdir())
