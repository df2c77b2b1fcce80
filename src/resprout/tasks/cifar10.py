"""CIFAR-10 from Parquet files (columns `image` or `img`: struct with encoded `bytes`; `label`).

Krizhevsky: "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ResproutError
from ..core.store import load_tensors, save_tensors
from .arrays import Arrays

RESNET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
VGG = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
VIT = (VGG[0], (0.2023, 0.1994, 0.2010))


def cifar10(data: str | None = None, seed: int = 0, normalise: str = "resnet") -> Arrays:
    """Return the task: train is the first 45,000 training rows, validation the last 5,000, test the test file.

    Args:
        data: folder with `train-*.parquet` and `test-*.parquet`; default the environment variable RESPROUT_CIFAR10.
        seed: not used (the split is by rows).
        normalise: "resnet", "vgg" or "vit": the channel statistics that the network was trained with.

    Raises:
        ResproutError: no such folder or files, pyarrow or Pillow missing, or a file that is damaged.
    """
    folder = Path(data or os.environ.get("RESPROUT_CIFAR10") or "")
    if not (data or os.environ.get("RESPROUT_CIFAR10")):
        raise ResproutError("task 'cifar10' needs --data FOLDER (with train-*.parquet and test-*.parquet)")
    x, y = read(folder, "train")
    test = read(folder, "test")
    if len(y) <= 5000:
        raise ResproutError(
            f"{folder} holds {len(y)} training rows; more than 5,000 are needed, 5,000 of them to validate"
        )
    mean, std = {"resnet": RESNET, "vgg": VGG, "vit": VIT}[normalise]
    return Arrays(
        (x[:-5000], y[:-5000]), (x[-5000:], y[-5000:]), test, mean, std, pad=4, flip=True, name=f"cifar10-{normalise}"
    )  # fmt: skip


def read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return (images uint8 (N, 3, 32, 32), labels) of all `split-*.parquet` files, decoded once and cached.

    The cache is in RESPROUT_CACHE, or ~/.cache/resprout.
    """
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise ResproutError(f"no {split}-*.parquet in {folder.resolve()}; pass --data FOLDER")
    stamp = hashlib.sha256(repr([(f.resolve(), f.stat().st_size, f.stat().st_mtime_ns) for f in files]).encode())
    root = Path(os.environ.get("RESPROUT_CACHE") or Path.home() / ".cache" / "resprout")
    cache = root / f"cifar10-{split}-{stamp.hexdigest()[:12]}.safetensors"
    if cache.exists():
        tensors, _ = load_tensors(cache)
        return tensors["x"], tensors["y"]
    try:
        import pyarrow
        import pyarrow.parquet as pq
        from PIL import Image
    except ImportError as error:
        raise ResproutError(
            "reading Parquet images needs pyarrow and Pillow: pip install 'resprout[images]'"
        ) from error
    images, labels = [], []
    for file in files:
        try:
            table = pq.read_table(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise ResproutError(f"{file} cannot be read: {error}") from error
        column = next((c for c in ("image", "img") if c in table.column_names), None)
        if column is None or "label" not in table.column_names:
            raise ResproutError(f"{file} has columns {table.column_names}; 'image' (or 'img') and 'label' are needed")
        for row in table.column(column).to_pylist():
            images.append(np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")))
        labels += table.column("label").to_pylist()
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    y = torch.tensor(labels)
    save_tensors(cache, {"x": x, "y": y}, {"source": str(folder)})
    return x, y
