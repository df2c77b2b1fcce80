"""Biases that a cut has given to layers (bias compensation): the folder has them, where a configuration can say so."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import resprout as rs
from resprout.core.probe import Probe
from resprout.graph.alike import difference, outputs
from resprout.methods.recover.mean_shift import compensate

t = pytest.importorskip("transformers")
IDS = torch.arange(12)[None] % 32
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(ids, labels=ids).loss


def compensated(name: str, granularity: str, sparsity: float) -> tuple[nn.Module, nn.Module]:
    """The dense network, and one shrunk whose layers were given what they lost in the mean."""
    torch.manual_seed(0)
    dense = getattr(t, f"{name}ForCausalLM")(getattr(t, f"{name}Config")(**SIZES)).eval()
    data, model = [torch.randint(32, (8, 16))], copy.deepcopy(dense)
    masks = rs.prune(model, sparsity, granularity=granularity, example={"input_ids": IDS}, floor=1)
    found = compensate(model, masks, Probe(dense, masks, data, loss, training=False), create=True)
    assert found
    return dense, rs.shrink(model, masks, {"input_ids": IDS})


@pytest.mark.parametrize("granularity", ["channel", "width"])
def test_a_llama_says_its_biases_and_has_them_back_in_the_dense_network(granularity, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    dense, small = compensated("Llama", granularity, 0.3)
    wished = outputs(small, {"input_ids": IDS})
    assert difference(wished, outputs(dense, {"input_ids": IDS})) > 1e-4
    saved = rs.save_pretrained(small, tmp_path / "net")
    read = t.AutoModelForCausalLM.from_pretrained(saved.folder, trust_remote_code=True).eval()
    assert read.config.mlp_bias
    assert difference(outputs(read, {"input_ids": IDS}), wished) < 1e-5
    assert difference(outputs(rs.load_pretrained(saved.folder), {"input_ids": IDS}), wished) < 1e-5
    again = rs.load_pretrained(saved.folder, dense=dense)
    assert difference(outputs(again, {"input_ids": IDS}), wished) < 1e-5
    assert {n for n, _ in again.named_parameters() if n.endswith("bias")} == {
        n for n, _ in small.named_parameters() if n.endswith("bias")
    }


def test_a_configuration_without_such_a_field_is_named(tmp_path):
    small = compensated("Mistral", "channel", 0.3)[1]
    with pytest.raises(rs.ResproutError, match=r"MistralConfig has no field that says .*down_proj.bias.*rs\.save"):
        rs.save_pretrained(small, tmp_path / "net")
    assert not list(tmp_path.iterdir())
