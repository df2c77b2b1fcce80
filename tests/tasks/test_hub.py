"""Models and tokenizers of Hugging Face folders: what is loaded, what is refused, and `resprout fit` on one."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from typer.testing import CliRunner

import resprout as rs
from resprout import find
from resprout.cli import app
from resprout.compare import compare
from resprout.core.errors import CheckpointError, ResproutError
from resprout.core.masks import Masks
from resprout.core.probe import Probe
from resprout.tasks import hub

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
TEXT = "the cat sat on the mat. a dog ran to the cat.\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny Llama with tied embeddings and its tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.train_from_iterator([TEXT], tokenizers.trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"]))
    raw.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=32
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text(TEXT * 60)
    (tmp_path / "data" / "valid.txt").write_text(TEXT * 20)
    return tmp_path / "data"


def test_a_folder_is_the_model_of_transformers(made):
    network = find.network(f"hf:{made}", None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(made)
    ids = torch.randint(40, (2, 9))
    with torch.no_grad():
        assert torch.equal(network(ids).logits, theirs(ids).logits)
    assert not network.training
    assert network(ids).past_key_values is None
    masks = Masks.dense(network)  # embeddings, tied here, are not pruned
    assert len(masks) == 2 * 7
    assert not any("embed" in n or "lm_head" in n for n in masks)
    assert network.lm_head.weight is network.model.embed_tokens.weight  # pyright: ignore


def test_bfloat16_weights_come_as_float32(made, tmp_path):
    transformers.AutoModelForCausalLM.from_pretrained(made).bfloat16().save_pretrained(tmp_path)
    assert all(p.dtype == torch.float32 for p in hub.network(tmp_path).parameters())


def test_a_classifier_is_one_where_its_configuration_says_so(tmp_path):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    network = hub.network(tmp_path)
    assert type(network).__name__ == "BertForSequenceClassification"
    assert network(torch.randint(30, (2, 5))).logits.shape == (2, 3)


def test_the_bar_of_transformers_is_off_and_its_setting_stays(made, capsys):
    bars = transformers.utils.logging
    before = bars.is_progress_bar_enabled()
    hub.network(made)
    assert "Loading" not in capsys.readouterr().err
    assert bars.is_progress_bar_enabled() == before


def test_pickles_are_refused(folder):
    weights = load((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, a pickle"):
        hub.network(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ResproutError, match=r"no \*\.safetensors"):
        hub.network(folder)


def test_damaged_folders_are_named(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load(whole)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        hub.network(folder)
    save_file({n: t for n, t in tensors.items() if "layers.1.mlp.up" not in n}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 'model\.layers\.1\.mlp\.up_proj\.weight' \(1 such"):
        hub.network(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name][:5].clone()}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match="cannot be read"):
        hub.network(folder)
    weights.write_bytes(whole)
    hub.network(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ResproutError, match="cannot load"):
        hub.network(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ResproutError, match=r"no config\.json"):
        hub.network(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ResproutError, match="no tokenizer"):
        hub.tokenizer(folder)


@pytest.mark.parametrize("where", ["../nowhere", "/nowhere/model", "a/b/c", "~/model", Path("nowhere")])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(where):
    with pytest.raises(ResproutError, match="there is no folder"):
        hub.network(where)
    with pytest.raises(ResproutError, match="there is no folder"):
        hub.tokenizer(where)


def test_the_task_takes_the_tokenizer_of_the_model(made, data):
    task = find.task("text", data, f"hf:{made}")
    assert (task.window, task.bos) == (32, 1)  # pyright: ignore
    assert "halved" in repr(task)
    with pytest.raises(ResproutError, match="of the tasks that is text, not digits"):
        find.task("digits", None, f"hf:{made}")


def test_a_file_may_hold_tied_weights_under_one_name(made):
    network = find.network(f"hf:{made}", None)
    with torch.no_grad():
        network.lm_head.weight.zero_()  # pyright: ignore
    find.read_weights(network, made / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), hub.network(made).parameters(), strict=True))


def test_hessian_products_go_through_attention(made, data):
    """Against differences of gradients, in float64."""
    network, task = hub.network(made).double(), find.task("text", data, f"hf:{made}")
    batch = next(iter(task.batches("train")))
    masks = Masks.dense(network, ["*q_proj"])
    along = {
        n: torch.randn(m.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for n, m in masks.items()
    }

    def gradients(step: float) -> dict[str, torch.Tensor]:
        moved = hub.network(made).double()
        with torch.no_grad():
            for name, param in moved.named_parameters():
                param += step * along.get(name, torch.zeros_like(param))
        return Probe(moved, masks, [batch], task.loss).gradients()

    found = Probe(network, masks, [batch], task.loss).hessian_product(along)
    up, down = gradients(1e-4), gradients(-1e-4)
    for name, product in found.items():
        assert product.abs().max() > 1e-6
        assert torch.allclose(product, (up[name] - down[name]) / 2e-4, rtol=1e-3, atol=1e-7)


def test_fit_from_the_command_line(made, data, tmp_path):
    words = ["fit", "--model", f"hf:{made}", "--task", "text", "--data", str(data), "--budget", "0.5", "--epochs", "4"]
    result = CliRunner().invoke(app, [*words, "--no-curve", "--out", str(tmp_path / "runs"), "--precision", "fp32"])
    assert result.exit_code == 0, result.output
    assert "resprout" in result.output
    (folder,) = (tmp_path / "runs").iterdir()
    facts = json.loads((folder / "result.json").read_text())
    assert facts["dense"]["steps"] == 0
    assert facts["frontier"][0]["sparsity"] == 0.5
    assert facts["frontier"][0]["validation"] > 2 * facts["dense"]["validation"]
    assert any("cannot be traced" in note for note in facts["notes"])


def test_compare_begins_with_the_weights_of_the_folder(made, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"task": "text", "model": f"hf:{made}", "data": data, "sparsity": (0.5,), "epochs": 0.5, "seeds": 1}
    with pytest.raises(ResproutError, match="controls begin with random weights"):
        compare(("one_way",), controls=("scratch",), **given)
    compare(("one_way",), jobs=1, **given)
    (folder,) = (tmp_path / "comparisons").iterdir()
    assert folder.name == f"text-{made.name}"
    rows = [json.loads(f.read_text()) for f in folder.glob("cells/*/row.json")]
    dense = next(r for r in rows if r["arm"] == "dense")
    measured = find.task("text", data, f"hf:{made}").evaluate(hub.network(made), "test")
    assert dense["steps"] == 0
    assert dense["test"] == pytest.approx(measured["likelihood"], rel=1e-4)


def test_a_folder_with_layers_of_unequal_width_is_a_model_like_any_other(data_dir, tmp_path):
    """Its code is not run, and nobody is asked whether it may be."""
    home = data_dir / "stories260k"
    dense, x = find.network(f"hf:{home}", None), {"input_ids": torch.tensor([[1, 40, 50, 60]])}
    structure = rs.trace(dense, x)
    masks = rs.prune(copy.deepcopy(dense), 0.2, granularity="channel", example=structure, floor=1)
    small = rs.shrink(dense, masks, structure=structure)
    assert rs.save_pretrained(small, tmp_path / "small", tokenizer=home).custom_code
    read = find.network(f"hf:{tmp_path / 'small'}", None)
    with torch.no_grad():
        assert torch.allclose(read(**x).logits, small(**x).logits, atol=1e-5)
    text = "Once upon a time, there was a cat."
    assert hub.tokenizer(tmp_path / "small")(text).input_ids == hub.tokenizer(home)(text).input_ids
