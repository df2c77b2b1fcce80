"""A run on a model of transformers leaves folders that `from_pretrained` takes."""

from pathlib import Path

import pytest
import torch

import resprout as rs
from resprout.deploy.huggingface import is_pretrained
from resprout.graph.alike import difference, outputs
from resprout.methods.recipe.one_way import OneWay
from resprout.tasks.text import Text

t = pytest.importorskip("transformers")


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_the_folder_is_the_network_that_was_tested(granularity, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    torch.manual_seed(0)
    config = t.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, use_cache=False,
    )  # fmt: skip
    model = t.LlamaForCausalLM(config)
    tokens = torch.arange(640) * 7 % 32
    task = Text(tokens, tokens[:320], tokens[:320], window=16, batch_size=8)
    recipe = OneWay(epochs=1, lr=1e-3)
    result = rs.fit(
        model, task, 0.4, recipe=recipe, granularity=granularity, curve=False, out=tmp_path, precision="fp32"
    )
    folder = Path(str(result.frontier[0].pretrained))
    read = t.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    assert difference(outputs(read, tokens[None, :16]), outputs(model.eval(), tokens[None, :16])) < 1e-5
    assert read.config.use_cache
    assert rs.Result.read(Path(str(result.folder))) == result
    assert is_pretrained(model)
    assert not is_pretrained(torch.nn.Linear(2, 2))
