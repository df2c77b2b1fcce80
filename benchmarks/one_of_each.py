"""Methods on weights that train, each against the obvious baseline at the same budget and training.

Networks of digits (64-100-50-10, unless said otherwise): accuracies are of 360 test images, mean and (each seed).

    python benchmarks/one_of_each.py imp-rewind
"""

import argparse
from collections.abc import Callable
from itertools import islice

import torch
from _race import mlp, race, start

import resprout as rs
from resprout import find
from resprout.core.train import Train
from resprout.evaluate.connectivity import between
from resprout.evaluate.stability import apart
from resprout.methods.schedule.cosine import Cosine


def imp_rewind(args: argparse.Namespace) -> None:
    """Rewinding early or to the initialisation; and how far the ticket's training ends from the dense network's."""
    early = (0.0, 0.05, 0.2)
    arms = {f"k = {k:.0%}": f"imp_rewind(epochs=48, rate=0.5, early={k})" for k in early}
    for k, runs in zip(early, race(arms, "0.96875", args.seeds, 0).values(), strict=True):
        found = []
        for run in runs:  # the dense network, trained from the same point in the same order as the ticket was
            twin, last = start(run.seed, 0), [r["trained"] for r in run.journal if r["step"] == "Train"][-2:]
            twin.trained = last[0]
            if k:
                twin.model.load_state_dict(run.tensors_at("early"))
            twin.do(Train(last[1] - last[0], Cosine(0.1, 0.0, warmup=0.05), span=(k, 1.0)))
            found.append(apart(run.model.state_dict(), twin.model.state_dict(), run.masks))
        distance, angle = (sum(getattr(f, n) for f in found) / len(found) for n in ("distance", "angle"))
        print(f"  k = {k:.0%}: ticket and dense network end {distance:.2f} apart, at an angle of {angle:.0f} degrees")


def swamp(args: argparse.Namespace) -> None:
    """Four particles at equal epochs, and as long each as a network that is alone; and the way between two of them.

    In 192 epochs a training of `imp_rewind` has 32, one of a particle 8; in 768 a particle has 32.
    """
    arms = {
        f"{name}, {epochs} epochs": f"{name}(epochs={epochs}, rate=0.5, early=0.05)"
        for epochs in (192, 768)
        for name in ("imp_rewind", "swamp")
    } | {"one particle, 192 epochs": "swamp(epochs=192, rate=0.5, early=0.05, particles=1)"}
    run = race(arms, "0.96875", args.seeds, 0)["swamp, 768 epochs"][0]
    a, b = mlp(0), mlp(0)
    a.load_state_dict(run.tensors_at("particle-0"))
    b.load_state_dict(run.tensors_at("particle-1"))
    line = between(a, b, run.task, points=5, split="test")
    print(f"  test error on the line between two particles: {', '.join(f'{100 * v:.1f}' for v in line.values)} %")


def granet(args: argparse.Namespace) -> None:
    """Against gradual pruning by global magnitude."""
    gradual = "one_way(epochs=20, score=magnitude, allocate=global)"
    race({"one_way (global)": gradual, "granet": "granet(epochs=20)"}, "0.97", args.seeds)


def gsm(args: argparse.Namespace) -> None:
    """Against gradual pruning."""
    race(
        {f"{name}, {e} epochs": f"{name}(epochs={e})" for e in (30, 120) for name in ("one_way", "gsm")},
        "0.95",
        args.seeds,
    )


def lobster(args: argparse.Namespace) -> None:
    """Against gradual pruning, and against its own thresholds without the decay; what the thresholds reach before the cut."""
    for epochs in (30, 120):
        arms = {f"lobster {s}, {epochs} epochs": f"lobster(epochs={epochs}, strength={s})" for s in (0.0, 1e-3)}
        runs = race({f"one_way, {epochs} epochs": f"one_way(epochs={epochs})"} | arms, "0.95", args.seeds)
        for name in arms:
            reached = [[r["sparsity"] for r in run.journal if r["step"] == "WithinTolerance"][-1] for run in runs[name]]
            print(f"  {name}: thresholds alone reach {', '.join(f'{100 * s:.0f}' for s in reached)} %")


def chita(args: argparse.Namespace) -> None:
    """One shot, nothing trained."""
    plain = "remove_once(remover=by_score(score=magnitude, allocate=global), epochs=0)"
    arms = {"magnitude": plain, "chita": "remove_once(remover=chita(), epochs=0)"}
    for budget in ("0.8", "0.9"):
        race(arms, budget, args.seeds)


def robust_pai(args: argparse.Namespace) -> None:
    """Six hidden layers of 100 at 90 % and ten at 80 %, cut before training; and the same trained dense."""
    ways = [
        ("snip", "none"),
        ("snip", "match"),
        ("magnitude", "none"),
        ("magnitude", "formula"),
        ("magnitude", "match"),
    ]
    for depth, lr, budget in ((6, 0.03, "0.9"), (10, 0.02, "0.8")):
        given = f"epochs=20, lr={lr}, optimizer=optimizer(decay=0.0, nesterov=False)"
        arms = {f"{score}, {how}": f"robust_pai({given}, score={score}, rescale={how})" for score, how in ways}
        print(f"{depth} hidden layers")
        race({"dense": f"robust_pai({given}, rescale=none)"}, "0.0", args.seeds, 0, *[100] * depth)
        race(arms, budget, args.seeds, 0, *[100] * depth)


def oba(args: argparse.Namespace) -> None:
    """Half of the hidden units, one cut, nothing trained."""
    for score in ("random", "magnitude", "taylor_channel(p=1)", "oba", "oba(scope=group)"):
        found = []
        for seed in range(args.seeds):
            run = start(seed)
            data = list(islice(run.task.batches("train", seed=9), 8))
            rs.prune(
                run.model, 0.5, score=find.method("score", score), granularity="channel", example=data[0][0][:1],
                data=data, loss=run.task.loss, floor=1,
            )  # fmt: skip
            found.append(100 * run.task.evaluate(run.model.eval(), "test")["accuracy"])
        print(f"{score:24} {sum(found) / len(found):5.1f}  ({', '.join(f'{a:.1f}' for a in found)})", flush=True)


KEYS: dict[str, Callable[[argparse.Namespace], None]] = {
    f.__name__.replace("_", "-"): f for f in (imp_rewind, swamp, granet, gsm, lobster, chita, robust_pai, oba)
}


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("key", choices=list(KEYS))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    KEYS[args.key](args)


if __name__ == "__main__":
    main()
