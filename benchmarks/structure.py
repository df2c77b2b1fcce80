"""Structure: groups of coupled channels beside torch-pruning 1.6.1, and what rounding widths to 8 does to latency.

    taskset -c 1 python benchmarks/structure.py [--out benchmarks/results/structure.json]

Three tables. (1) Published sizes: milliseconds to find all groups, medians, the two taking turns in one process; and whether
the groups are the same sets of (module, inputs or outputs, number of channels). (2) Small models of the same kinds and of
Hugging Face: half of the channels of every group leave, and the output is compared with that of the same channels zeroed. Both
libraries are given the model, the example and the layers whose outputs the network returns, nothing that is written for one
model by hand; where that is not enough for torch-pruning, it is also told the heads of each attention, as its documentation
asks. (3) Latency at 50 % of the channels, chosen at random.

torch-pruning and transformers are not dependencies: pip install torch-pruning==1.6.1 transformers
"""

import argparse
import contextlib
import copy
import io
import json
import platform
import signal
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import resprout as rs
from resprout.core.units import Group, living
from resprout.deploy.timing import processor
from resprout.graph.alike import CLOSE, difference, masked, outputs
from resprout.graph.tape import tensors_of

try:
    import torch_pruning as tp
except ImportError:
    raise SystemExit("the rival is not installed: pip install torch-pruning==1.6.1") from None

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "graph"))
import zoo

try:
    from zoo_hf import HF
except ImportError:
    raise SystemExit("models of Hugging Face are part of this: pip install transformers") from None

Coupled = frozenset[tuple[str, str, int]]  # (module or parameter, "in" or "out", channels)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RETURNED = "the network returns it"
HEADS = ("num_heads", "n_heads", "num_attention_heads", "encoder_attention_heads")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v", "qkv")
PATIENCE = 15  # seconds for one model of the second table


# -- groups, of either library, as sets ------------------------------------------------------------------------------


def side(module: nn.Module, dim: int) -> str:
    """What a dimension of a module's weight is."""
    turned = isinstance(module, (*TRANSPOSED, nn.Embedding)) or type(module).__name__ == "Conv1D"
    return "out" if (dim == 0) != turned else "in"


def ours(model: nn.Module, groups: tuple[Group, ...]) -> list[Coupled]:
    """Our groups: a module's weight, bias and statistics are one entry."""
    modules = dict(model.named_modules())
    found = []
    for group in groups:
        entries = set()
        for slot in group.slots:
            path, _, leaf = slot.parameter.rpartition(".")
            known = leaf in ("weight", "bias", "running_mean", "running_var") and path in modules
            tensor = dict(model.state_dict())[slot.parameter]
            which = side(modules[path], slot.dim) if known and tensor.dim() > 1 else "out"
            entries.add((path if known else slot.parameter, which, slot.index.numel()))
        found.append(frozenset(entries))
    return found


def theirs(model: nn.Module, graph: Any) -> list[Coupled]:
    """torch-pruning's groups; the inputs of a depthwise convolution are its outputs."""
    names = {id(m): n for n, m in model.named_modules()} | {id(p): n for n, p in model.named_parameters()}
    found = []
    for group in graph.get_all_groups():
        entries: dict[tuple[str, str], set[int]] = {}
        for dep, at in group:
            module = dep.target.module
            if id(module) in names:
                out = graph.is_out_channel_pruning_fn(dep.handler) or not isinstance(
                    module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d
                )
                depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
                entries.setdefault((names[id(module)], "out" if out or depthwise else "in"), set()).update(at)
        found.append(frozenset((n, s, len(at)) for (n, s), at in entries.items()))
    return found


def explained(
    mine: list[Coupled], other: list[Coupled], returned: set[str], kept: dict[str, str]
) -> dict[str, Counter]:
    """Why groups are found by one library only, and how often."""
    only_mine, only_other = [g for g in mine if g not in other], [g for g in other if g not in mine]
    why: dict[str, Counter] = {"ours": Counter(), "theirs": Counter()}
    made = {(n, s): g for g in only_other for n, s, _ in g if s == "out"}
    for group in only_mine:
        twin = next((made[n, s] for n, s, _ in group if (n, s) in made), None)
        if twin is None:
            why["ours"]["torch-pruning has no such group"] += 1
        elif {e[:2] for e in twin} == {e[:2] for e in group}:
            why["ours"]["the same modules, coupled by other positions (heads, or parts of a concatenation)"] += 1
        elif {e[:2] for e in twin} > {e[:2] for e in group}:
            why["ours"]["part of a larger group of torch-pruning"] += 1
        else:
            why["ours"]["other modules hang together"] += 1
    mine_out = {(n, s) for g in mine for n, s, _ in g if s == "out"}
    for group in only_other:
        outs = [(n, s) for n, s, _ in group if s == "out"]
        reason = next((kept[f"{n}.weight"] for n, _ in outs if f"{n}.weight" in kept), None)
        if any(n in returned for n, _ in outs):
            why["theirs"]["outputs of the network, which we keep"] += 1
        elif any(o in mine_out for o in outs):
            why["theirs"]["another grouping of what we found too"] += 1
        else:
            why["theirs"][f"kept dense by us: {(reason or 'no reason').partition(':')[0]}"] += 1
    return why


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def build(model: nn.Module, x: Any) -> Any:
    """torch-pruning's graph."""
    inputs = dict(x) if isinstance(x, dict) else x
    return tp.DependencyGraph().build_dependency(
        model, inputs, output_transform=lambda out: [t for t in tensors_of(out) if t.requires_grad], verbose=False
    )


def traced(name: str, repeats: int) -> dict[str, Any]:
    """One row of the first table."""
    model, x = zoo.full(name)
    structure = rs.trace(model, x)  # also warms up
    row: dict[str, Any] = {"model": name, "groups": len(structure.groups), "kept_dense": len(structure.kept_dense)}
    took: dict[str, list[float]] = {"ours": [], "theirs": []}
    try:
        graph = build(model, x)
        other = theirs(model, graph)
    except Exception as error:  # of any kind: it is what is measured
        row["theirs_fails"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:160]
        other = None
    for _ in range(repeats if seconds(lambda: rs.trace(model, x)) < 2 else 1):
        took["ours"].append(seconds(lambda: rs.trace(model, x)))
        if other is not None:
            took["theirs"].append(seconds(lambda: list(build(model, x).get_all_groups())))
    row["ours_ms"] = round(1e3 * statistics.median(took["ours"]), 1)
    if other is not None:
        mine, returned = (
            ours(model, structure.groups),
            {n.rpartition(".")[0] for n, why in structure.kept_dense.items() if why == RETURNED},
        )
        why = explained(mine, other, returned, structure.kept_dense)
        row |= {
            "theirs_ms": round(1e3 * statistics.median(took["theirs"]), 1),
            "theirs_groups": len(other),
            "same_groups": len(set(mine) & set(other)),
            "ours_only": dict(why["ours"]),
            "theirs_only": dict(why["theirs"]),
        }
    return row


# -- is what was removed what was masked? ----------------------------------------------------------------------------


def checked(model: nn.Module, x: Any) -> dict[str, Any]:
    """One row of the second table."""
    structure = rs.trace(model, x)
    returned = [n for n, why in structure.kept_dense.items() if why == RETURNED]
    theirs = attempt(model, lambda: their_twins(model, x, returned), x)
    row: dict[str, Any] = {"theirs": theirs}
    told = heads(model)
    if told and theirs.get("difference", 1) > CLOSE and "Timeout" not in theirs.get("error", ""):
        row["theirs_heads_told"] = attempt(model, lambda: their_twins(model, x, returned, heads=told), x)
    for found in list(row.values()):
        if found.get("difference", 0) > CLOSE:  # is it because a norm over channels divides by fewer?
            mine = told if found is not theirs else None
            rest = attempt(model, lambda mine=mine: their_twins(model, x, returned, norms=False, heads=mine), x)
            found["without_layer_norms"] = rest
    return {
        "groups": len(structure.groups),
        "kept_dense": len(structure.kept_dense),
        "ours": attempt(model, lambda: our_twins(model, structure), x),
        **row,
    }


def attempt(model: nn.Module, twins: Callable[[], tuple[nn.Module, nn.Module]], x: Any) -> dict[str, Any]:
    """The largest difference between masked and pruned, as a part of the output, and the parameters left; or the error."""
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(PATIENCE)
    try:
        masked, small = twins()
        left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
        gap = difference(outputs(masked, x), outputs(small, x))
        if gap == float("inf"):
            return {"error": "outputs of another shape"}
        return {"difference": float(f"{gap:.1e}"), "left": round(left, 3)}
    except Exception as error:  # of any kind: it is what is measured
        return {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:120]}
    finally:
        signal.alarm(0)


def _late(*_: Any) -> None:
    raise TimeoutError(f"no result in {PATIENCE} s")


def our_twins(model: nn.Module, structure: rs.Structure) -> tuple[nn.Module, nn.Module]:
    """The model with half of each group masked, and without it."""
    whole, masks = copy.deepcopy(model), None
    for kind in sorted({g.kind for g in structure.groups}):
        masks = rs.prune(
            whole, 0.5, granularity=kind, example=structure, score="random", allocate="uniform", floor=1, masks=masks
        )
    if masks is None:
        raise RuntimeError("no group")
    alive = living(structure.groups, masks)
    return masked(model, structure.groups, alive), rs.shrink(model, masks, structure=structure)


def heads(model: nn.Module) -> dict[str, int]:
    """The layers that make queries, keys and values, and of how many heads, as torch-pruning's documentation has one give."""
    config = getattr(model, "config", None)
    found = {}
    for name, module in model.named_modules():
        many = next((n for c in (model.get_submodule(name.rpartition(".")[0]), config) for a in HEADS
                     if isinstance(n := getattr(c, a, None), int)), None)  # fmt: skip
        leaf = name.rpartition(".")[2]
        shared = getattr(config, "num_key_value_heads", None) if leaf in ("k_proj", "v_proj") else None
        if isinstance(module, nn.Linear) and leaf in PROJECTIONS and many is not None:
            found[name] = shared if isinstance(shared, int) else many
    return found


def their_twins(
    model: nn.Module, x: Any, returned: list[str], norms: bool = True, heads: Mapping[str, int] | None = None
) -> tuple[nn.Module, nn.Module]:
    """The same by torch-pruning: what it removes is zeroed in a twin. Without `norms`, not the channels of layer norms."""
    small, twin = copy.deepcopy(model), copy.deepcopy(model)
    paths, other = dict(small.named_modules()), dict(twin.named_modules())
    names = {id(m): n for n, m in paths.items()} | {id(p): n for n, p in small.named_parameters()}
    last = small.get_output_embeddings() if hasattr(small, "get_output_embeddings") else None  # may be tied
    kept = {id(p) for n, p in small.named_parameters(remove_duplicate=False) if n in returned}  # of tied layers too
    pruner = tp.pruner.BasePruner(
        small,
        dict(x) if isinstance(x, dict) else x,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=0.5,
        ignored_layers=[m for m in paths.values() if id(getattr(m, "weight", None)) in kept or m is last],
        num_heads={paths[n]: many for n, many in (heads or {}).items()},
        prune_num_heads=bool(heads),
        prune_head_dims=not heads,
        head_pruning_ratio=0.5 if heads else 0.0,
        output_transform=lambda out: [t for t in tensors_of(out) if t.requires_grad],
    )
    left: dict[tuple[str, int], list[int]] = {}  # of each dimension that shrinks, the original positions
    for group in pruner.step(interactive=True):
        if not norms and any("LayerNorm" in type(dep.target.module).__name__ for dep, _ in group):
            continue
        for dep, at in group:
            name = names.get(id(dep.target.module))
            if name is None or not pruner.DG.is_out_channel_pruning_fn(dep.handler) or not at:
                continue
            for tensor, dim in made(other.get(name) or dict(twin.named_parameters())[name]):
                place = left.setdefault((name, id(tensor)), list(range(tensor.shape[dim])))
                with torch.no_grad():
                    tensor.index_fill_(dim, torch.tensor([place[i] for i in at]), 0)
                left[name, id(tensor)] = [p for i, p in enumerate(place) if i not in set(at)]
        group.prune()
    return twin, small


def made(module: Any) -> list[tuple[Tensor, int]]:
    """The tensors of a module that make its outputs, and along which dimension."""
    if isinstance(module, Tensor):
        return [(module, max((d for d, n in enumerate(module.shape) if n > 1), default=0))]
    dim = 1 if isinstance(module, (*TRANSPOSED, nn.Embedding)) or type(module).__name__ == "Conv1D" else 0
    found = [
        (t, dim if t.dim() > 1 else 0) for n in ("weight", "bias") if isinstance(t := getattr(module, n, None), Tensor)
    ]
    if not found and any(True for _ in module.parameters()):
        raise RuntimeError(f"{type(module).__name__} is pruned as a whole: no masked twin to compare with")
    return found


# -- latency ---------------------------------------------------------------------------------------------------------


def rounding(name: str, seed: int, time_for: float) -> dict[str, Any]:
    """Latency at 50 % of the channels, chosen at random over all layers, with widths as they come and as multiples of 8."""
    model, x = zoo.full(name)
    structure = rs.trace(model, x)
    masks = rs.prune(
        copy.deepcopy(model), 0.5, granularity="channel", example=structure, score="random", floor=8, seed=seed
    )
    plain, round8 = (rs.shrink(model, masks, structure=structure, round_to=to) for to in (1, 8))
    gains = {
        "as_they_come": rs.gain(model, plain, x, onnx=True, seconds=time_for),
        "round_to_8": rs.gain(model, round8, x, onnx=True, seconds=time_for),
        "round_to_8_beside_as_they_come": rs.gain(plain, round8, x, onnx=True, seconds=time_for),
    }
    return {"model": name, "input": list(x.shape), **{n: facts(g) for n, g in gains.items()}}


def facts(gain: rs.Gain) -> dict[str, Any]:
    """A gain as JSON: before, after."""
    times = {
        t.engine: {"ms": [round(t.before, 2), round(t.after, 2)], "ratio": [round(r, 3) for r in t.ratio]}
        for t in gain.times
    }
    return {"parameters": gain.parameters, "multiply_adds": gain.macs, "times": times}


# -- tables ----------------------------------------------------------------------------------------------------------


def first(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | groups | torch-pruning | the same | ms | torch-pruning | ours only | torch-pruning only |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "theirs_ms" not in r:
            lines.append(f"| {r['model']} | {r['groups']} | fails: {r['theirs_fails']} | | {r['ours_ms']} | | | |")
            continue
        only = ["; ".join(f"{k} {why}" for why, k in r[w].items()) for w in ("ours_only", "theirs_only")]
        counts = f"{r['groups']} | {r['theirs_groups']} | {r['same_groups']}"
        lines.append(f"| {r['model']} | {counts} | {r['ours_ms']} | {r['theirs_ms']} | {' | '.join(only)} |")
    return lines


def second(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| model | ours | left | torch-pruning | left | told the heads | left |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        cells = [c for w in ("ours", "theirs", "theirs_heads_told") for c in outcome(r.get(w, {}))]
        lines.append(f"| {r['model']} | {' | '.join(cells)} |")
    return lines


def outcome(found: dict[str, Any]) -> tuple[str, str]:
    if not found:
        return "", ""
    if "error" in found:
        return "fails: " + found["error"].replace("|", "/"), ""
    gap, left = found["difference"], f"{100 * found['left']:.0f} %"
    if found["left"] == 1:
        return "prunes nothing", left
    if gap <= CLOSE:
        return "equal", left
    norms = found.get("without_layer_norms", {}).get("difference", 1) <= CLOSE
    return f"differs by {gap:.2g}{' (layer norms)' if norms else ''}", left


def third(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | widths | multiply-adds | engine | dense ms | ms | times faster (quartiles) |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        for label, which in (("as they come", "as_they_come"), ("round_to=8", "round_to_8")):
            for engine, t in r[which]["times"].items():
                low, middle, high = t["ratio"]
                macs = f"{r[which]['multiply_adds'][1] / 1e6:,.0f} M"
                lines.append(
                    f"| {r['model']} | {label} | {macs} | {engine} | {t['ms'][0]} | {t['ms'][1]} | "
                    f"{middle:.2f} ({low:.2f}–{high:.2f}) |"
                )
        for engine, t in r["round_to_8_beside_as_they_come"]["times"].items():
            low, middle, high = t["ratio"]
            lines.append(
                f"| {r['model']} | round_to=8 beside as they come | | {engine} | {t['ms'][0]} | {t['ms'][1]} | "
                f"{middle:.2f} ({low:.2f}–{high:.2f}) |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of tracing")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring latency, for each pair and engine")
    parser.add_argument("--parts", nargs="+", default=["time", "check", "round"], choices=["time", "check", "round"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "structure.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    result |= {
        "machine": f"{processor()}, {platform.system()} {platform.machine()}",
        "command": " ".join(["python", *sys.argv]),
        "threads": 1,
        "torch": torch.__version__,
        "torch_pruning": version("torch-pruning"),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if "time" in args.parts:
        result["trace"] = [told(traced(name, args.repeats)) for name in zoo.MODELS]
    if "check" in args.parts:
        small = {**zoo.MODELS, **{f"hf {n}": f for n, f in HF.items()}}
        result["check"] = [told({"model": name, **quietly(lambda f=f: checked(*f()))}) for name, f in small.items()]
    if "round" in args.parts:
        result["round"] = [told(rounding(name, 0, args.seconds)) for name in ("vgg16", "resnet50")]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, table in (("trace", first), ("check", second), ("round", third)):
        print("\n".join(["", *table(result[name])]) if name in result else "")


def told(row: dict[str, Any]) -> dict[str, Any]:
    print(row, file=sys.stderr, flush=True)
    return row


def quietly(run: Callable[[], Any]) -> Any:
    """Without what torch-pruning prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run()


if __name__ == "__main__":
    main()
