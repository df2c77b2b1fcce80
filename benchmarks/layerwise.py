r"""Large language models block by block: memory against loading the whole, and time beside plain transcriptions and the floor.

    python benchmarks/layerwise.py memory --work /tmp/llama     # 1.1 billion random weights: 2.2 GB on disk, twice
    taskset -c 1 python benchmarks/layerwise.py

`memory` writes a randomly initialised Llama of TinyLlama's form in shards, then prunes it from folder to folder and, in another
process, as a whole in memory; peak resident memory is the operating system's, and a process beside it looks every 5 ms how much
of that is anonymous and how much is pages of files. What 70 billion take is arithmetic.

`speed` prunes one block of that form and times, in one run and taking turns: ours; a plain transcription of the published
procedure (one hook and one matrix for every layer, as the authors' procedure goes); and the floor, which is the two forward
passes and for SparseGPT the matrix products and the triangular factors that no implementation can do without.
"""

import argparse
import copy
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resprout.core.masks import Masks
from resprout.deploy.timing import processor
from resprout.layerwise.prune import Cut, prune_blocks, prune_folder
from resprout.layerwise.walk import Block, Call, advance, calls, find_blocks
from resprout.numerics.curvature import factor

HERE = Path(__file__).parent
FORM = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip
SEVENTY = {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
METHODS = {"wanda": ("wanda", None), "sparsegpt": (None, "sparsegpt")}


def config(**form: int):
    """A Llama's configuration in bfloat16."""
    from transformers import LlamaConfig

    return LlamaConfig(**form, dtype="bfloat16", tie_word_embeddings=False)


def write(place: Path) -> None:
    """A randomly initialised model, a shard for every block; never whole in memory."""
    from transformers import LlamaForCausalLM

    place.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = LlamaForCausalLM(config(**FORM))
    config(**FORM).save_pretrained(place)
    generator, where = torch.Generator().manual_seed(0), {}
    groups: dict[str, list[str]] = {}
    for name in model.state_dict():
        groups.setdefault(name.split(".")[2] if ".layers." in name else "rest", []).append(name)
    for group, names in groups.items():
        tensors = {}
        for name in names:
            shape = model.get_parameter(name).shape
            random = torch.randn(shape, generator=generator) * 0.02 if len(shape) > 1 else torch.ones(shape)
            tensors[name] = random.to(torch.bfloat16)
            where[name] = f"model-{group}.safetensors"
        save_file(tensors, place / f"model-{group}.safetensors", {"format": "pt"})
    size = 2 * sum(p.numel() for p in model.parameters())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


def batches(samples: int, length: int) -> list[Tensor]:
    """Random token ids."""
    ids = torch.randint(0, FORM["vocab_size"], (samples, length), generator=torch.Generator().manual_seed(1))
    return list(ids.split(2))


def one(way: str, method: str, work: Path, samples: int, length: int) -> None:
    """Prune in this process, and print what it took."""
    watch = subprocess.Popen([sys.executable, "-c", WATCH, str(os.getpid())], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    began, (score, solver) = time.perf_counter(), METHODS[method]
    if way == "folder":
        shutil.rmtree(work / f"out-{method}", ignore_errors=True)  # or it would go on where an earlier run was stopped
        prune_folder(
            work / "dense", work / f"out-{method}", 0.5, data=batches(samples, length), score=score, solver=solver
        )
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(work / "dense")
        prune_blocks(model, 0.5, data=batches(samples, length), score=score, solver=solver)
    took = {"seconds": time.perf_counter() - began, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    print(json.dumps(took | json.loads(watch.communicate("enough")[0])))


def memory(work: Path, samples: int, length: int) -> dict:
    """Each way in a process of its own."""
    if not (work / "dense" / "model.safetensors.index.json").exists():
        write(work / "dense")
    lines = []
    for method in METHODS:
        for way in ("folder", "whole"):
            command = [sys.executable, __file__, "one", "--way", way, "--method", method, "--work", str(work)]
            command += ["--samples", str(samples), "--length", str(length)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            lines.append({"method": method, "way": way} | json.loads(said))
            print(lines[-1], flush=True)
    idle = int(subprocess.run([sys.executable, "-c", IDLE], check=True, capture_output=True, text=True).stdout)
    forms = {name: parts(form, samples, length) for name, form in (("1.1 B", FORM), ("70 B", SEVENTY))}
    forms["70 B, 128 samples of 2,048"] = parts(SEVENTY, 128, 2048)
    return {"tokens": samples * length, "idle": idle, "lines": lines, "arithmetic": forms}


# Python with all that is imported to make such a model, and no model.
IDLE = (
    "import resource, torch, resprout.layerwise.prune; from transformers import AutoModelForCausalLM, LlamaForCausalLM; "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
)

# The most that another process has had of each kind of memory, in bytes, until told that it is enough.
WATCH = """
import json, select, sys
most = {"RssAnon": 0, "RssFile": 0}
while not select.select([sys.stdin], [], [], 0.005)[0]:
    for line in open(f"/proc/{sys.argv[1]}/status"):
        key, _, value = line.partition(":")
        if key in most:
            most[key] = max(most[key], 1024 * int(value.split()[0]))
print(json.dumps({"anonymous": most["RssAnon"], "mapped": most["RssFile"]}))
"""


def parts(form: dict, samples: int, length: int) -> dict[str, int]:
    """Bytes of what is in memory, by arithmetic: all of a block, its Gram matrices (SparseGPT), the cache, the embedding."""
    d, f = form["hidden_size"], form["intermediate_size"]
    kv = d * form["num_key_value_heads"] // form["num_attention_heads"]
    block = 2 * (2 * d * d + 2 * d * kv + 3 * d * f + 2 * d)
    grams = 4 * (3 * d * d + f * f)  # of q, k and v together, o, gate and up together, down
    whole = block * form["num_hidden_layers"] + 2 * 2 * d * form["vocab_size"]
    cache, embedding = 2 * d * samples * length, 2 * d * form["vocab_size"]
    return {"whole": whole, "block": block, "grams": grams, "cache": cache, "embedding": embedding,
            "together": block + grams + cache + embedding}  # fmt: skip


# -- speed -----------------------------------------------------------------------------------------------------------


def transcribed(block: Block, method: str) -> None:
    """The published procedure as it reads: a hook for each layer, forward, prune each layer, forward again."""
    layers = {n: m for n, m in block.module.named_modules() if isinstance(m, nn.Linear)}
    found: dict[str, Tensor] = {}
    seen = dict.fromkeys(layers, 0)

    def see(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            x = args[0].reshape(-1, args[0].shape[-1]).t().float()
            n, count = x.shape[1], seen[name]
            seen[name] = count + n
            if method == "wanda":
                found[name] = found.get(name, torch.zeros(len(x))) * (count / (count + n)) + x.square().sum(1) / (
                    count + n
                )
            else:
                old = found.get(name, torch.zeros(len(x), len(x))) * (count / (count + n))
                x = x * (2 / (count + n)) ** 0.5
                found[name] = old + x @ x.t()

        return hook

    handles = [m.register_forward_hook(see(n)) for n, m in layers.items()]
    for call in block.calls:
        block.run(call)
    for handle in handles:
        handle.remove()
    for name, layer in layers.items():
        w = layer.weight.data.float()
        if method == "wanda":
            score = w.abs() * found[name].sqrt()
            cut = torch.sort(score, dim=1, stable=True)[1][:, : w.shape[1] // 2]
            layer.weight.data.scatter_(1, cut, 0)
        else:
            layer.weight.data = by_columns(w, found.pop(name)).to(layer.weight.dtype)


def by_columns(w: Tensor, h: Tensor, run: int = 128) -> Tensor:
    """SparseGPT's Algorithm 1 at 50 %, a threshold for each run of columns."""
    n = w.shape[1]
    h += 0.01 * h.diagonal().mean() * torch.eye(n)
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for a in range(0, n, run):
        b = min(a + run, n)
        part, inner, errors = w[:, a:b].clone(), u[a:b, a:b], torch.zeros(len(w), b - a)
        score = part**2 / inner.diagonal()[None] ** 2
        cut = score <= torch.sort(score.flatten())[0][score.numel() // 2]
        for j in range(b - a):
            new = part[:, j].clone()
            new[cut[:, j]] = 0
            errors[:, j] = (part[:, j] - new) / inner[j, j]
            part[:, j:] -= errors[:, j : j + 1] @ inner[j : j + 1, j:]
            part[:, j] = new
        w[:, a:b] = part
        w[:, b:] -= errors @ u[a:b, b:]
    return w


def floor(block: Block, method: str) -> None:
    """The forward passes; for SparseGPT also one matrix for each input, its factor, and the products that carry errors on."""
    for call in block.calls:
        block.run(call)
        block.run(call)
    if method == "wanda":
        return
    d, f = block.module.self_attn.q_proj.in_features, block.module.mlp.down_proj.in_features
    kv = block.module.self_attn.k_proj.out_features
    for width, outputs in ((d, [d, kv, kv]), (d, [d]), (d, [f, f]), (f, [d])):
        h = torch.zeros(width, width)
        for call in block.calls:
            x = call.hidden.reshape(-1, d).float()
            x = x if width == d else x.repeat(1, -(-width // d))[:, :width].contiguous()
            for a in range(0, width, 512):  # it is symmetric
                h[a : a + 512, a:].addmm_(x[:, a : a + 512].t(), x[:, a:])
        h.diagonal().add_(h.diagonal().mean())
        u = factor(h)
        for rows in outputs:
            w, errors = torch.zeros(rows, width), torch.zeros(rows, 128)
            for a in range(0, width - 128, 128):
                w[:, a + 128 :].addmm_(errors, u[a : a + 128, a + 128 :])


def speed(samples: int, length: int, rounds: int) -> dict:
    """One block, three ways, in turns."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(config(**(FORM | {"num_hidden_layers": 2}))).to(torch.bfloat16).eval()
    path = find_blocks(model)
    prepared = calls(model, path, batches(samples, length))
    module, lines = model.model.layers[0], {}
    for method, (score, solver) in METHODS.items():
        cut, took, twice = Cut.parse(score, solver, "weight" if solver else "row"), {}, {}
        for turn in range(rounds + 1):
            for name in ("ours", "transcription", "floor"):
                block = Block(
                    0, "block", copy.deepcopy(module), [Call(c.hidden, c.args, c.kwargs) for c in prepared[0]]
                )
                masks = Masks.dense(block.module)
                with torch.no_grad():
                    began = time.perf_counter()
                    if name == "ours":
                        cut(block, masks, {n: m.numel() // 2 for n, m in masks.items()})
                        advance(block)
                    elif name == "transcription":
                        transcribed(block, method)
                        advance(block)
                    else:
                        floor(block, method)
                    if turn:
                        took.setdefault(name, []).append(time.perf_counter() - began)
        for name in ("ours", "transcription"):
            ratios = sorted(a / b for a, b in zip(took[name], took["floor"], strict=True))
            twice[name] = [ratios[len(ratios) // 4], statistics.median(ratios), ratios[3 * len(ratios) // 4]]
        lines[method] = {"seconds": {n: statistics.median(t) for n, t in took.items()}, "to_floor": twice}
        print(method, lines[method], flush=True)
    return {"tokens": samples * length, "rounds": rounds, "threads": torch.get_num_threads(), "lines": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="speed", choices=("memory", "speed", "one"))
    parser.add_argument("--work", type=Path, default=Path("llama"))
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=("folder", "whole"), help="of `one`, which `memory` starts")
    parser.add_argument("--method", choices=METHODS, default="wanda", help="of `one`")
    args = parser.parse_args()
    if args.part == "one":
        one(args.way, args.method, args.work, args.samples, args.length)
        return
    found = (
        memory(args.work, args.samples, args.length)
        if args.part == "memory"
        else speed(args.samples, args.length, args.rounds)
    )
    file = HERE / "results" / f"layerwise_{args.part}.json"
    facts = {"machine": platform.platform(), "processor": processor(), "date": time.strftime("%Y-%m-%d")}
    file.write_text(json.dumps(facts | found, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
