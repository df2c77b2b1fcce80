"""Flash, RAM and outputs of two networks on emulated Cortex-M boards.

    python benchmarks/microcontroller.py [--out benchmarks/results/microcontroller.json]

The digits network is trained, cut to 10 % of its weights and trained on (its accuracy is real); ResNet-20 has random weights,
of which 5 % are kept: only its sizes and the equality of outputs mean something. Flash and RAM come from the linker map;
"largest error" is over all outputs, against PyTorch with the file read back into the model.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import resprout as rs
from resprout.deploy import encoding
from resprout.deploy.devices import device
from resprout.deploy.export import board
from resprout.models import build
from resprout.tasks.digits import digits

BOARDS = ("cortex-m0-microbit", "cortex-m3-lm3s6965", "cortex-m4-stm32f411", "nrf52840")
EPOCHS = 6  # before the cut, and after it


def trained() -> tuple[nn.Module, rs.Masks, Tensor, Tensor]:
    """The digits network with a tenth of its weights, and the test images with their labels."""
    torch.manual_seed(0)
    task, model = digits(), build("digits_cnn")
    images, labels = task.train
    (mean,), (std,) = task.mean, task.std
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    masks = rs.Masks.dense(model)
    for epoch in range(2 * EPOCHS):
        if epoch == EPOCHS:
            masks = rs.prune(model, 0.9, allocate="lamp")
            rs.hold(model, masks, optimizer)
        for i in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model((images[i] - mean) / std), labels[i]).backward()
            optimizer.step()
    return model.eval(), masks, (task.test[0] - mean) / std, task.test[1]


def random_resnet() -> tuple[nn.Module, rs.Masks, Tensor, None]:
    torch.manual_seed(0)
    model = build("resnet20").eval()
    return model, rs.prune(model, 0.95, allocate="lamp"), torch.randn(4, 3, 32, 32), None


def measure(name: str, model: nn.Module, masks: rs.Masks, x: Tensor, labels: Tensor | None) -> list[dict[str, Any]]:
    """One row per board that the network fits."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        size = rs.save(Path(folder) / "net", model, masks, values="int8", example=x[:1])
        archive, loaded = encoding.read(Path(folder) / "net"), rs.load(Path(folder) / "net", build(name).eval())
        with torch.no_grad():
            want = loaded(x)
        for on in BOARDS:
            row: dict[str, Any] = {"network": name, "file": size, "device": on}
            rows.append(row)
            try:
                image = board.build(archive, device(on), Path(folder) / "c")
            except rs.BudgetError as error:
                row["fits"] = str(error)
                continue
            got, m = image.run(x), image.measured
            row |= {
                "flash": m.flash,
                "weights": m.weights,
                "code": m.code,
                "ram": m.ram,
                "stack_used": image.stack_used,
            }
            row |= {"inputs": len(x), "largest_error": float((got - want).abs().max())}
            row["same_labels"] = bool((got.argmax(1) == want.argmax(1)).all())
            if labels is not None:
                row["accuracy"] = float((got.argmax(1) == labels).float().mean())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/microcontroller.json"))
    out = parser.parse_args().out
    warnings.simplefilter("ignore", rs.LayerDied)
    rows = [*measure("digits_cnn", *trained()), *measure("resnet20", *random_resnet())]
    print(
        "| network (file) | device | flash | weights | code | RAM | stack used | inputs | largest error | same labels |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        head = f"| {r['network']} ({r['file']:,}) | {r['device']} "
        if "fits" in r:
            print(f"{head}| needs {r['fits'].partition(' would need ')[2].partition(' for ')[0]} {'| ' * 8}|")
            continue
        sizes = [f"{r[k]:,}" for k in ("flash", "weights", "code", "ram", "stack_used", "inputs")]
        print(f"{head}| {' | '.join(sizes)} | {r['largest_error']:.1e} | {'yes' if r['same_labels'] else 'NO'} |")
    print(f"accuracy on the board: {100 * rows[0].get('accuracy', 0):.2f} % of {rows[0]['inputs']} test images")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
