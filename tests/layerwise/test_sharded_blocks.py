"""FSDP2 on two processes with half of the data each: the masks of one process with all of it.

Run by torchrun, this file is one rank: `torchrun --nproc-per-node 2 test_sharded_blocks.py FOLDER`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from resprout.core.store import load_tensors, save_tensors
from resprout.layerwise.prune import prune_blocks

transformers = pytest.importorskip("transformers")
HOW = {
    "wanda": {"score": "wanda"},
    "sparsegpt": {"score": None, "solver": "sparsegpt"},
    "owl": {"score": "wanda", "allocate": "owl", "granularity": "weight"},
}


def llama():
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 40,
    }
    config = transformers.LlamaConfig(**small, num_key_value_heads=2, max_position_embeddings=32)
    return transformers.LlamaForCausalLM(config).eval()


def batches() -> list[torch.Tensor]:
    return [torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(i)) for i in range(4)]


def rank(folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for name, how in HOW.items():
        model = llama()
        for block in model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        masks = prune_blocks(model, 0.5, data=batches()[dist.get_rank() :: 2], **how)
        whole = {n: p.full_tensor() for n, p in model.named_parameters() if n in masks}
        tensors = {f"mask:{n}": m.to(torch.uint8) for n, m in masks.items()} | {
            f"weight:{n}": w for n, w in whole.items()
        }
        save_tensors(folder / f"{name}-{dist.get_rank()}.safetensors", tensors, {})
    dist.destroy_process_group()


def test_two_ranks_choose_as_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    done = subprocess.run(
        [*command, str(tmp_path)], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    for name, how in HOW.items():
        model = llama()
        masks = prune_blocks(model, 0.5, data=batches(), **how)
        own = dict(model.named_parameters())
        for r in range(2):
            found, _ = load_tensors(tmp_path / f"{name}-{r}.safetensors")
            for n, mask in masks.items():
                assert torch.equal(found[f"mask:{n}"].bool(), mask), (name, r, n)
                assert torch.allclose(found[f"weight:{n}"], own[n], atol=1e-5), (name, r, n)


if __name__ == "__main__":
    rank(Path(sys.argv[1]))
