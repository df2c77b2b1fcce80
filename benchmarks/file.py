"""The saved file of VGG16: bytes against the entropy bound, error of the values, speed of writing and reading.

    python benchmarks/file.py [--threads 1] [--data shared/data] [--out benchmarks/results/file.json]
    python benchmarks/file.py --accuracy 400 [--sparsity 0.9885] [--weights sparse.safetensors]

The bound is the entropy of places that are as likely as any others (per tensor of N weights, a fraction p alive, N * H(p)
bits) and the plain bits of each value. Bytes are those of the whole file: biases, scales, program and header included. Speed is
megabytes of dense float32 weights per second of processor time (the machine is shared): `encode` from the model to the
file's bytes, `decode` from the file to dense tensors, `size` what a search for a budget asks many times; medians.

With --accuracy N the network is pruned once, trained for N steps (or read from --weights), saved in each type, read back
and tested; integers are rounded without and with 256 training images.
"""

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import resprout as rs
from resprout.deploy import encoding
from resprout.deploy.timing import processor
from resprout.deploy.trace import Traced, lower
from resprout.models import build
from resprout.tasks.cifar10 import cifar10

BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}


def vgg16(data: Path) -> nn.Module:
    model = build("vgg16")
    state = load_file(data / "cifar10-vgg" / "vgg16.safetensors")
    model.load_state_dict({n: t.float() for n, t in state.items()}, strict=False)
    return model.eval()


def median(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def sizes(model: nn.Module, masks: rs.Masks, traced: Traced, values: str) -> dict[str, Any]:
    """Bytes, and the relative error of the weights."""
    whole = encoding.archive(model, masks, values, traced)
    written = encoding.encode(whole)
    bound = sum(s.entropy + s.alive * BITS[values] / 8 for s in whole.weights.values())
    dense = 4 * sum(t.numel() for t in whole.tensors().values())
    norms = {n: float(s.values().norm()) for n, s in whole.weights.items()}
    error = sum((whole.errors.get(n, 0.0) * norm) ** 2 for n, norm in norms.items()) ** 0.5
    return {
        "values": values,
        "bytes": len(written),
        "bound": round(bound),
        "ratio": round(len(written) / bound, 4),
        "times_smaller": round(dense / len(written), 1),
        "error": round(error / sum(norm**2 for norm in norms.values()) ** 0.5, 5),
    }


def speeds(model: nn.Module, masks: rs.Masks, traced: Traced, values: str, repeats: int) -> dict[str, float]:
    """Megabytes of dense weights per second, and what one look at the size takes."""
    megabytes = 4 * masks.total / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net"
        path.write_bytes(encoding.encode(encoding.archive(model, masks, values, traced)))
        encode = median(lambda: encoding.encode(encoding.archive(model, masks, values, traced)), repeats)
        decode = median(lambda: encoding.read(path).tensors(), repeats)
    size = median(lambda: encoding.size(model, masks, values, traced), repeats)
    return {
        "encode_mb_per_s": round(megabytes / encode),
        "decode_mb_per_s": round(megabytes / decode),
        "size_ms": round(1e3 * size, 1),
    }


def finetuned(model: nn.Module, masks: rs.Masks, task: rs.Task, steps: int) -> None:
    """Train the weights that are alive, in bfloat16, with one cycle of the learning rate."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rs.hold(model, masks, optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps, pct_start=0.2)
    model.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    epochs = (batch for epoch in itertools.count() for batch in task.batches("train", seed=0, epoch=epoch))
    for batch in itertools.islice(epochs, steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, task: rs.Task) -> float:
    """Per cent of the test set."""
    hits = [(model(x).argmax(1) == y).float() for x, y in task.batches("test")]
    return round(100 * float(torch.cat(hits).mean()), 2)


def accuracies(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The accuracy of a sparse network after each way to save it."""
    task, model = cifar10(str(args.data / "cifar10"), normalise="vgg"), vgg16(args.data)
    masks = rs.prune(model, args.sparsity, allocate="lamp")
    if args.weights:
        model.load_state_dict(load_file(args.weights), strict=False)
        masks = rs.Masks.of(model)
    else:
        finetuned(model, masks, task, args.accuracy)
    images = [x for x, _ in itertools.islice(task.batches("train", seed=1), 2)]
    traced, rows = lower(model, images[0]), []
    with tempfile.TemporaryDirectory() as folder:
        for values, data in [("fp32", None), ("int8", None), ("int8", images), ("int4", None), ("int4", images)]:
            start = time.process_time()
            size = rs.save(Path(folder) / "net", model, masks, values=values, example=traced, data=data)
            seconds = round(time.process_time() - start, 1)
            again = rs.load(Path(folder) / "net", build("vgg16")).eval()
            row = {"values": values, "data": data is not None, "bytes": size, "save_s": seconds}
            rows.append({"sparsity": round(masks.sparsity, 4), **row, "accuracy": accuracy(again, task)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--accuracy", type=int, metavar="STEPS", help="train for so many steps and test")
    parser.add_argument("--sparsity", type=float, default=0.9885)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "file.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "machine": f"{processor()}, {platform.system()} {platform.machine()}",
        "threads": args.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "network": "VGG16, CIFAR-10, trained, magnitude masks, norms folded",
    }
    if args.accuracy is not None:
        result["accuracy"] = accuracies(args)
        args.out.with_stem(f"{args.out.stem}_accuracy").write_text(json.dumps(result, indent=1) + "\n")
        return
    result |= {"sizes": [], "speeds": []}
    model = vgg16(args.data)
    traced, trained = lower(model, torch.zeros(1, 3, 32, 32)), {n: t.clone() for n, t in model.state_dict().items()}
    for allocate in ("lamp", "erk"):
        for sparsity in (0.9, 0.95, 0.97, 0.9885, 0.995):
            model.load_state_dict(trained)
            masks, point = rs.prune(model, sparsity, allocate=allocate), {"allocate": allocate, "sparsity": sparsity}
            for values in BITS:
                row = point | sizes(model, masks, traced, values)
                result["sizes"].append(row)
                print(*row.values(), sep="\t", flush=True)
            if allocate == "lamp":
                for values in ("fp16", "int8"):
                    row = point | {"values": values} | speeds(model, masks, traced, values, args.repeats)
                    result["speeds"].append(row)
                    print(row, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
