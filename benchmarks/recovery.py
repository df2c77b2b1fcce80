"""What a short training gives back to a pruned language model, and how much of it the small parts of a network can do.

    python benchmarks/recovery.py --data ../shared/data

stories260k at 60 % by magnitude and by Wanda (uniform per row, as in language.py), then `--steps` optimizer steps on
train-sample.txt with each way; each learning rate is tried once and chosen on the first half of validation.txt, the perplexity
is that on the second. PERP's schedule for all: AdamW without decay, a tenth of warm-up, then linearly to zero. A cell that is in
the results already is not run again.

The opening of the second half of validation.txt holds letters that are not ASCII, three of a thousand, which the dense model
predicts badly and the training text has too; that of the first half holds none. Who learns from the dense model alone does not
learn them.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import resprout as rs
from resprout import find
from resprout.core.kinds import Objective, Recover, Tune
from resprout.core.run import Run
from resprout.core.train import Optimizer
from resprout.methods.objective.feature_kd import FeatureKd
from resprout.methods.objective.logit_kd import LogitKd
from resprout.methods.recover.finetune import Finetune
from resprout.methods.recover.reconstruct import Reconstruct
from resprout.methods.recover.self_data_distill import SelfDataDistill
from resprout.methods.schedule.linear import Linear
from resprout.methods.tune.biases_norms import BiasesNorms
from resprout.methods.tune.mask_lora import MaskLora
from resprout.methods.tune.scale_lora import ScaleLora
from resprout.tasks import hub
from resprout.tasks.text import text

HERE = Path(__file__).parent
CUTS: dict[str, dict[str, Any]] = {
    "magnitude": {"score": "magnitude", "granularity": "row"},
    "Wanda": {"score": "wanda"},
}
SMALL, LARGE = (3e-3, 1e-2), (1e-3, 3e-3)
ADAMW, LORA = Optimizer("adamw", decay=0.0), MaskLora(4, 8.0)


def train(lr: float, tune: Tune | None = None, objective: Objective | None = None) -> Recover:
    """PERP's schedule."""
    return Finetune(Linear(lr, 0.0, 0.1), ADAMW, tune=tune, objective=objective)


WAYS: dict[str, tuple[Callable[[float], Recover], tuple[float, float]]] = {
    "MaskLoRA layer by layer, no training": (lambda lr: Reconstruct(replace(LORA, biases_norms=False), lr=lr), SMALL),
    "norms": (lambda lr: train(lr, BiasesNorms()), (1e-2, 3e-2)),
    "ScaleLoRA and norms": (lambda lr: train(lr, ScaleLora(4)), SMALL),
    "LoRA-Prune and norms": (lambda lr: train(lr, replace(LORA, masked=False)), SMALL),
    "MaskLoRA and norms": (lambda lr: train(lr, LORA), SMALL),
    "all weights": (train, LARGE),
    "all weights, logits of the dense": (lambda lr: train(lr, None, LogitKd()), LARGE),
    "all weights, logits and states of the dense": (lambda lr: train(lr, None, FeatureKd(beside=LogitKd())), LARGE),
    "MaskLoRA and norms, logits of the dense": (lambda lr: train(lr, LORA, LogitKd()), SMALL),
    "MaskLoRA and norms, text of the dense": (lambda lr: SelfDataDistill(train(lr, LORA)), SMALL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with stories260k/ and tinystories/")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=40_000, help="tokens of each half of validation.txt")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "recovery.json")
    args = parser.parse_args()
    home = args.data / "stories260k"
    tokenizer = hub.tokenizer(home)
    task = text(args.data / "tinystories", tokenizer=tokenizer, window=args.window, batch_size=args.batch)
    held = {s: getattr(task, s)[: args.held_out] for s in ("validation", "test")}
    settings = {k: str(v) for k, v in vars(args).items() if k in ("sparsity", "steps", "batch", "window", "held_out")}
    file: Path = args.results
    known = json.loads(file.read_text()) if file.exists() else {}
    lines = known["lines"] if known.get("settings") == settings else []

    def perplexity(model: torch.nn.Module) -> dict[str, float]:
        return {s: rs.perplexity(model, t, tokenizer, window=512).perplexity for s, t in held.items()}

    def keep(**line: Any) -> None:
        lines.append(line)
        print(line, flush=True)
        facts = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": platform.platform(),
            "settings": settings,
            "lines": lines,
        }
        file.write_text(json.dumps(facts, indent=1) + "\n")

    def there(**line: Any) -> bool:
        return any(line.items() <= found.items() for found in lines)

    if not there(way="dense"):
        keep(cut="", way="dense", **perplexity(find.network(f"hf:{home}", None)))
    data = list(torch.cat([b for _, b in zip(range(8), task.batches("train"), strict=False)]).split(8))
    for cut, how in CUTS.items():
        model = find.network(f"hf:{home}", None)
        dense = {n: t.clone() for n, t in model.state_dict().items()}
        masks = rs.prune_blocks(model, args.sparsity, data=data, **how)
        start = {n: t.clone() for n, t in model.state_dict().items()}
        if not there(cut=cut, way="nothing"):
            keep(cut=cut, way="nothing", alive=masks.alive, **perplexity(model))
        for way in args.ways:
            recover, rates = WAYS[way]
            for lr in rates:
                if there(cut=cut, way=way, lr=lr):
                    continue
                model.load_state_dict(start)
                run = Run(model, task, masks, probe_batches=16)
                run.points["dense"] = dense
                run.evaluate = lambda split=None: 0.0  # the perplexities below are all that is asked
                began = time.perf_counter()
                facts = [run.do(step) for step in recover(lr)(args.steps if "no training" not in way else 0)][-1]
                share = facts.get("tuned", 0 if "no training" in way else sum(p.numel() for p in model.parameters()))
                seconds = round(time.perf_counter() - began, 1)
                assert all(not w[~masks[n]].any() for n, w in run.weights().items())
                keep(cut=cut, way=way, lr=lr, tuned=share, seconds=seconds, **perplexity(model))


if __name__ == "__main__":
    main()
