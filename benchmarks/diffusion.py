"""EcoDiff against obvious baselines: distance of final samples to the dense network's, at the same budget, nothing retrained.

    python benchmarks/diffusion.py --weights /tmp/denoiser.safetensors

The network is trained first where the file is not there. Distance: root mean square over pixels in [-1, 1], of 500 samples from
noise that no training has seen, 50 of each class; read as digits: the share whose nearest real digit has the class asked for.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from _said import said
from safetensors.torch import save_file

import resprout as rs
from resprout import find
from resprout.core.budget import Budget
from resprout.core.granularity import Units
from resprout.core.masks import Masks
from resprout.core.roles import selectable
from resprout.core.run import Run
from resprout.core.sampled import sample
from resprout.core.steps import Arrive, Mark, Meet
from resprout.core.train import Optimizer, Train
from resprout.methods.allocate.global_ import Global
from resprout.methods.recipe.ecodiff import Ecodiff
from resprout.methods.schedule.cosine import Cosine
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.random import Random
from resprout.methods.score.taylor import Taylor

LABELS = torch.arange(10).repeat_interleave(50)


def start(weights: Path, epochs: float, seed: int) -> Run:
    task = find.task("denoise_digits", None, "denoiser_digits")
    model = find.network("denoiser_digits", weights if weights.exists() else None)
    if not weights.exists():
        dense = Run(model, task)
        lr, adamw = Cosine(3e-3, 0.0, warmup=0.1), Optimizer("adamw", decay=0.0)
        print(dense.do(Train(round(epochs * task.steps_per_epoch), lr, adamw, looks=5))["curve"], flush=True)
        save_file(model.state_dict(), weights)
    structure = rs.trace(model, next(iter(task.batches("train")))[0][:1])
    masks = Masks.dense(model)
    wanted = [n for n in masks if not n.startswith(("embed", "unembed"))]
    run = Run(
        model, task, seed=seed, granularity=Units("width"), groups=selectable(model, structure.groups, wanted, masks)
    )
    run.do(Mark("dense"))
    return run


@torch.no_grad()
def made(run: Run) -> torch.Tensor:
    run.model.eval()
    return sample(run.task, run.model, run.task.asked(LABELS, seed=99), keep=True).flatten(1)


def read(run: Run, samples: torch.Tensor) -> float:
    x, y = run.task.images.train
    near = torch.cdist(samples, x.flatten(1)).argmin(1)
    return float((y[near] == LABELS).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, default=Path("/tmp/denoiser.safetensors"))
    parser.add_argument("--dense-epochs", type=float, default=60)
    parser.add_argument("--epochs", type=float, default=4, help="of learning masks, in batches of 16")
    parser.add_argument("--budget", default="0.2,0.3")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default="magnitude,random,taylor,ecodiff")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    whole = made(first := start(asked.weights, asked.dense_epochs, 0))
    print(said({"arm": "dense", "explained": round(first.evaluate("test"), 4), "read": read(first, whole)}))
    scores = {"magnitude": Magnitude(), "random": Random(), "taylor": Taylor()}
    for seed in range(asked.seeds):
        for text in asked.budget.split(","):
            budget = Budget.parse(text)
            for arm in asked.arms.split(","):
                run = start(asked.weights, 0, seed)
                if arm in scores:
                    run.do(Meet(budget, scores[arm], Global()))
                    run.do(Arrive(budget))
                else:
                    images = dataclasses.replace(run.task.images, batch_size=16)
                    run.task = dataclasses.replace(run.task, images=images)
                    Ecodiff(epochs=asked.epochs)(run, [budget])
                samples = made(run)
                row = {"arm": arm, "seed": seed, "sparsity": round(run.masks.sparsity, 3), "units": run.units.alive}
                row |= {"distance": round(float((samples - whole).square().mean() ** 0.5), 4)}
                row |= {"read": round(read(run, samples), 3), "explained": round(run.evaluate("test"), 4)}
                print(said(row | {"seconds": run.journal[-2]["seconds"]}), flush=True)


if __name__ == "__main__":
    main()
