"""What is decided per input, on real networks: position ids of pruned tokens, tokens that leave a ViT, filters that stay closed.

    python benchmarks/inputs.py gap | cropr | ftwt | mad | mia   [--data ../shared/data] [--steps N]

Each prints its table; every way has the same training steps.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import resprout as rs
from resprout import find
from resprout.core.run import Run
from resprout.core.steps import Mark, Prune
from resprout.core.train import Optimizer, Train
from resprout.dynamic.ftwt import Ftwt
from resprout.dynamic.gates import Gated, inner, mass, multiply_adds
from resprout.evaluate.audit._audit import Subject
from resprout.evaluate.audit.privacy import Privacy
from resprout.evaluate.audit.robustness import Robustness
from resprout.evaluate.perplexity import encode, opening, read, windows
from resprout.methods.allocate.global_ import Global
from resprout.methods.objective.auxiliary_heads import AuxiliaryHeads
from resprout.methods.objective.mart import Mart
from resprout.methods.recipe.gmp import Gmp
from resprout.methods.recipe.mia_prune import MiaPrune
from resprout.methods.schedule.cosine import Cosine
from resprout.methods.score.mad import Mad
from resprout.methods.score.magnitude import Magnitude
from resprout.methods.score.random import Random as Chance
from resprout.tasks import hub
from resprout.tasks.digits import digits
from resprout.tokens.cropr import Cropr
from resprout.tokens.gap_posid import GapPosid, compact, permuted
from resprout.tokens.prompt import Prompt
from resprout.tokens.random import Random


def gap(data: Path, steps: int) -> None:
    """Stories260k: half of the first 128 tokens leave at random; perplexity of the 63 tokens after them."""
    home = data / "stories260k"
    model, tokenizer = find.network(f"hf:{home}", None).eval(), hub.tokenizer(home)
    held_out = encode(tokenizer, read(data / "tinystories" / "validation.txt"))
    rows = windows(held_out, 192, None, opening(tokenizer))
    text = torch.stack([r.ids for r in rows[:200]])
    g, found = torch.Generator().manual_seed(0), {}
    for part in text.split(10):
        kept = torch.randperm(128, generator=g)[:64]
        ways = {"all tokens": GapPosid()(torch.arange(128), 128), "half, gap_posid": GapPosid()(kept, 128)}
        ways |= {"half, numbered anew": compact(kept, 128), "half, permuted": permuted(kept, 128)}
        for name, way in ways.items():
            said = Prompt(model, part[:, :128], way).feed(part[:, 128:191])
            loss = nn.functional.cross_entropy(said.flatten(0, 1), part[:, 129:192].flatten())
            found.setdefault(name, []).append(float(loss))
    for name, losses in found.items():
        print(f"{name:22} perplexity {torch.tensor(losses).mean().exp():6.2f}")


IMAGES = 2000  # of the test file


def _cifar(data: Path, model: str) -> rs.Arrays:
    task = find.task("cifar10", data / "cifar10", model)
    assert isinstance(task, rs.Arrays)
    few = (task.test[0][:IMAGES], task.test[1][:IMAGES])
    return dataclasses.replace(task, test=few, validation=(task.validation[0][:100], task.validation[1][:100]))


def _train(model: nn.Module, task: rs.Arrays, steps: int, lr: float, optimizer: Optimizer, **how: object) -> float:
    """Train, and return the accuracy on the test images in %."""
    run = Run(model, task)
    run.do(Train(steps, Cosine(lr, 0.0, warmup=0.1), optimizer, looks=1, **how))  # pyright: ignore
    return 100 * run.evaluate("test")


def cropr(data: Path, steps: int) -> None:
    """The trained ViT: patches leave after blocks 1 to 4; as it is, at random, by heads."""
    task, adamw = _cifar(data, "vit_tiny_p4"), Optimizer("adamw", decay=0.0)

    def vit() -> nn.Module:
        return find.network("vit_tiny_p4", data / "cifar10-vit" / "vit-tiny-p4.safetensors")

    print(f"{'dense':24} {100 * Run(vit(), task).evaluate('test'):.2f} %")
    blind, ours = Random(drop=12)(vit()), Cropr(drop=12)(vit())
    print(f"patches each block reads: {ours.counts}")
    print(f"{'random, untrained':24} {100 * Run(blind, task).evaluate('test'):.2f} %")
    print(f"{'random':24} {_train(blind, task, steps, 3e-4, adamw):.2f} %")
    print(f"{'cropr':24} {_train(ours, task, steps, 3e-4, adamw, objective=AuxiliaryHeads()):.2f} %")


def ftwt(data: Path, steps: int) -> None:
    """ResNet-20: half of each block's filters per input, or the same for all inputs."""
    task = _cifar(data, "resnet20")

    def resnet() -> nn.Module:
        return find.network("resnet20", data / "cifar10-resnet" / "resnet20.safetensors")

    x = torch.cat([b[0] for b in task.batches("test")])
    after, read_by = inner(resnet())

    def tell(name: str, gated: Gated, accuracy: float) -> None:
        found = [multiply_adds(gated.eval(), part, read_by) for part in x.split(500)]
        cost, whole = torch.cat([c for c, _ in found]) / 1e6, found[0][1] / 1e6
        least, most = cost.quantile(torch.tensor([0.05, 0.95]).double()).tolist()
        print(
            f"{name:24} {accuracy:.2f} % {cost.mean():.1f} of {whole:.1f} M MACs, 90 % of inputs {least:.1f} to {most:.1f}"
        )

    dense = Gated(resnet(), after)
    tell("dense", dense, 100 * Run(dense, task).evaluate("test"))
    part = 0.7
    method = Ftwt(
        part, weight=10.0
    )  # nothing else learns from the predictors' loss: a learning rate of 0.1, as published
    ours, fixed = method(resnet()), Gated(resnet(), after)
    ours.oracle = part
    tell(f"oracle {part}, untrained", ours, 100 * Run(ours, task).evaluate("test"))
    ours.oracle = None
    _fix(fixed, x[:500], part)
    tell(f"fixed {part}", fixed, _train(fixed, task, steps, 0.01, Optimizer()))
    tell(f"ftwt {part}", ours, _train(ours, task, steps, 0.01, Optimizer(), objective=method.loss()))


@torch.no_grad()
def _fix(gated: Gated, x: Tensor, part: float) -> None:
    """Open for all inputs the filters that are hottest on average, as many as inputs have open on average."""
    gated.eval()(x)
    for name, gate in zip(gated.names, gated.gates, strict=True):
        count = round(float(mass(gated.heat[name], part).sum(1).double().mean()))
        gate.linear.bias.fill_(-5.0)  # pyright: ignore
        gate.linear.bias[gated.heat[name].mean(0).topk(count).indices] = 5.0  # pyright: ignore
        gate.requires_grad_(False)


def mad(data: Path, steps: int) -> None:
    """Digits, trained by MART twice as long: cut to 95 % by several scores of all training data, trained by MART again."""
    task, mart = digits(), Mart(epsilon=0.1, step=0.04, steps=5)
    audit = Robustness(epsilon=0.1, severities=())
    box = 0.1 / task.std[0]
    ways = {"random": Chance(), "magnitude": Magnitude(), "mad": Mad(epsilon=box, step=box / 4)}
    ways["mad, no products"] = Mad(epsilon=box, step=box / 4, products=False)
    for seed in range(2):
        model = find.network("digits_cnn", None, seed)
        run = Run(model, task, seed=seed, probe_batches=task.steps_per_epoch)
        run.do(Train(2 * steps, Cosine(0.01, 0.0, warmup=0.1), Optimizer(), objective=mart, looks=1))
        run.do(Mark("dense"))
        print(f"seed {seed}: accuracy, and under attack: dense {_two(audit(Subject(model, task)))}")
        for name, score in ways.items():
            fork = run.fork()
            fork.do(Prune(0.95, score, Global(), floor=1))
            cut = _two(audit(Subject(fork.model, task)))
            fork.do(Train(steps, Cosine(0.01, 0.0, warmup=0.1), Optimizer(), objective=mart, looks=1))
            layers = "/".join(str(k) for k in fork.masks.counts.values())
            print(f"  {name:18} {_two(audit(Subject(fork.model, task)))}   at the cut {cut}, alive {layers}")


def mia(data: Path, steps: int) -> None:
    """A perceptron that knows 200 digits by heart, cut to 90 % by mia_prune or gmp: what its answers betray."""
    whole = digits()
    task = dataclasses.replace(whole, train=(whole.train[0][:200], whole.train[1][:200]), pad=0)
    epochs = steps / task.steps_per_epoch
    for seed in range(3):
        told = []
        for recipe in (Gmp(), MiaPrune(every=10)):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
            result = rs.fit(
                model, task, 0.9, recipe=recipe, epochs=epochs, dense_epochs=epochs, curve=False, out=None, seed=seed,
                audit=[Privacy(samples=200)],
            )  # fmt: skip
            names = {"dense": result.dense} if not told else {}
            for name, a in (names | {type(recipe).__name__: result.frontier[0]}).items():
                found = a.audits["privacy"]
                low, high = found["auc interval"]
                told.append(f"{name} accuracy {100 * a.test:.1f} %, AUC {found['auc']:.3f} [{low:.3f}, {high:.3f}]")
        print(f"seed {seed}: " + "; ".join(told))


def _two(facts: dict[str, float]) -> str:
    return f"{100 * facts['clean']:.1f} / {100 * facts['pgd']:.1f} %"


WAYS: dict[str, tuple[Callable[[Path, int], None], int]] = {
    "gap": (gap, 0),
    "cropr": (cropr, 320),
    "ftwt": (ftwt, 320),
    "mad": (mad, 340),
    "mia": (mia, 300),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(WAYS))
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="with cifar10/, cifar10-vit/ and so on"
    )
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps of each training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    began = time.process_time()
    way, steps = WAYS[args.what]
    way(args.data, args.steps or steps)
    print(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
