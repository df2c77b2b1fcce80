"""Heads and MLP channels of a trained language model leave by a search over levels: tyr and darwinlm at one budget.

    python benchmarks/language_search.py --data ../shared/data

Calibrated and searched on 64 windows of 128 tokens of tinystories/train-sample.txt, evaluated on the first 100k tokens of
validation.txt (windows of 512, the protocol of `rs.perplexity`). "healed" is after 60 steps of AdamW on 16 such windows each.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.kinds import Remover
from resprout.core.masks import Masks
from resprout.core.roles import selectable
from resprout.core.run import Run
from resprout.core.steps import Mark, Remove
from resprout.evaluate.perplexity import encode, opening, read
from resprout.methods.recover.finetune import Finetune
from resprout.methods.remove._levels import Level, base, settle, sites
from resprout.methods.remove.darwinlm import Darwinlm
from resprout.methods.remove.tyr import Tyr
from resprout.methods.schedule.constant import Constant
from resprout.tasks import hub
from resprout.tasks.text import Text

HERE = Path(__file__).parent
HEAL = Finetune(Constant(1e-3))
THREE = {"survivors": (8, 2, 1), "shares": (1 / 16, 1 / 4, 1.0)}
LITTLE = {"offspring": 8, "survivors": (4, 1), "shares": (1 / 4, 1.0), "recover": HEAL}
WAYS: dict[str, Remover | None] = {
    "magnitude of units": None,
    "tyr, same everywhere": Tyr(iterations=1, generations=0),
    "tyr": Tyr(iterations=3, generations=10, offspring=32, **THREE),
    "darwinlm, same everywhere": Darwinlm(generations=0),
    "darwinlm without training": Darwinlm(generations=24, steps=(0, 0), **LITTLE),
    "darwinlm": Darwinlm(generations=8, steps=(2, 10), **LITTLE),
}


def by_magnitude(run: Run, budget: Budget) -> None:
    """Take the units with the least norm of all their weights, the same share everywhere; nothing makes up for them."""
    places = sites(run, budget)
    counts = base(run, budget, places, [range(len(p.group) + 1) for p in places])
    levels, weights = [], {n: w.detach() for n, w in run.weights().items()}
    for place, gone in zip(places, counts, strict=True):
        slots = [s for s in place.group.slots if s.parameter in weights]
        energy = sum(weights[s.parameter].square().movedim(s.dim, 0).flatten(1).sum(1)[s.index].sum(1) for s in slots)
        alive = torch.ones(len(place.group), dtype=torch.bool)
        alive[torch.as_tensor(energy).argsort()[:gone]] = False
        levels.append(Level(gone, alive, weights[place.reader]))
    settle(run, places, levels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with stories260k/ and tinystories/")
    parser.add_argument("--budgets", nargs="+", default=["0.3"], help="sparsities of all prunable weights")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--heal", type=int, default=60, help="steps of training afterwards; 0 for none")
    args = parser.parse_args()
    home, text = args.data / "stories260k", args.data / "tinystories"
    tokenizer = hub.tokenizer(home)
    train = encode(tokenizer, read(text / "train-sample.txt"))
    held_out = encode(tokenizer, read(text / "validation.txt"))[: 196 * 511]
    start = opening(tokenizer)
    task = Text(train, held_out[:2048], held_out[:2048], 128, start, 16, "tinystories")

    def perplexity(model: torch.nn.Module) -> float:
        return rs.perplexity(model, held_out, tokenizer, window=512).perplexity

    lines = []
    for asked in args.budgets:
        for way in args.ways:
            model = find.network(f"hf:{home}", None)
            structure, masks = rs.trace(model, torch.zeros(1, 16, dtype=torch.int64), layers=True), Masks.dense(model)
            groups = selectable(model, structure.groups, list(masks), masks)
            run = Run(model, task, masks, probe_batches=4, groups=groups)
            run.do(Mark("dense"))
            began, budget, remover = time.perf_counter(), Budget.parse(asked), WAYS[way]
            if remover is None:
                by_magnitude(run, budget)
            else:
                run.do(Remove(budget, remover))
            line = {"way": way, "budget": asked, "sparsity": round(run.masks.sparsity, 4)}
            line |= {"seconds": round(time.perf_counter() - began, 1), "perplexity": perplexity(run.model)}
            for step in HEAL(args.heal) if args.heal else ():
                run.do(step)
            line |= {"healed": perplexity(run.model)} if args.heal else {}
            lines.append(line)
            print(line, flush=True)
    facts = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform(), "heal": args.heal, "lines": lines}
    file = HERE / "results" / "language_search.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
