"""Two processes with shards choose the very masks of one process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from resprout.core.select import Elementwise, top

SHAPES = {"a": (7, 6), "b": (5, 3, 3), "c": (9, 5)}
KEEPS = (0, 1, 20, 61, 131, 132)


def scores(levels):
    g = torch.Generator().manual_seed(0)
    return {n: (torch.randn(s, generator=g) * levels).round() / levels for n, s in SHAPES.items()}


def worker(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    out = {}
    for dim in (0, 1):
        for levels in (1, 1000):
            shards = {n: distribute_tensor(t, mesh, [Shard(dim)]) for n, t in scores(levels).items()}
            for keep in KEEPS:
                lazy = {n: Elementwise(torch.abs, (t,)) for n, t in shards.items()}
                masks = top(lazy, keep)
                assert masks.alive == keep
                out[dim, levels, keep] = {n: m.full_tensor() for n, m in masks.items()}  # pyright: ignore
    torch.save(out, f"{folder}/{rank}.pt")
    dist.barrier()  # nobody leaves while the other still listens
    dist.destroy_process_group()


def test_shards_choose_as_one(tmp_path):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for (dim, levels, keep), masks in found.items():
            alone = top({n: t.abs() for n, t in scores(levels).items()}, keep)
            for name, mask in masks.items():
                assert torch.equal(mask, alone[name]), (dim, levels, keep, name)
