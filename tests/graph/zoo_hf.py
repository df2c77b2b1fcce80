"""Tiny Hugging Face models from configuration, with random weights and without a download.

Each function returns the model in eval mode and an example, a dict of keyword tensors. `attention` is the `attn_implementation`
("eager", "sdpa"); None is the model's own choice. `HF` maps a name to such a function. Tests that use this file begin with
`pytest.importorskip("transformers")`.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from torch import Tensor, nn

Example = dict[str, Tensor]
Built = tuple[nn.Module, Example]
VOCAB, LENGTH = 100, 7
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
} | SPECIAL
ROTARY: dict[str, Any] = DECODER | {
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "use_cache": False,
}
ENCODER: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PIXELS: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_channels": 3}


def _build(model: Any, config: Any, attention: str | None, **example: Tensor) -> Built:
    """Return the model with norms and biases that do something, and the example."""
    if attention is not None:
        config._attn_implementation = attention
    torch.manual_seed(0)
    built = model(config).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in built.parameters():
            if p.dim() == 1 or not p.any():  # norms start with ones, biases and class tokens with zeros: move all
                p += 0.2 * torch.randn(p.shape, generator=g)
            elif p.square().mean() < 0.05**2:
                p *= 4  # the usual 0.02 makes attention uniform in so small a model
    return built, example


def tokens(length: int = LENGTH, seed: int = 2) -> Tensor:
    return torch.randint(3, VOCAB, (2, length), generator=torch.Generator().manual_seed(seed))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def bert(attention: str | None = "eager") -> Built:
    config = t.BertConfig(vocab_size=VOCAB, max_position_embeddings=32, num_labels=3, **ENCODER, **NO_DROPOUT)
    mask = torch.ones(2, LENGTH, dtype=torch.int64)
    mask[1, -2:] = 0
    ids = tokens()
    return _build(
        t.BertForSequenceClassification, config, attention,
        input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids),
    )  # fmt: skip


def gpt2(attention: str | None = "eager") -> Built:
    config = t.GPT2Config(
        vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SPECIAL,
    )  # fmt: skip
    return _build(t.GPT2LMHeadModel, config, attention, input_ids=tokens())


def opt(attention: str | None = "eager") -> Built:
    config = t.OPTConfig(
        ffn_dim=64, num_attention_heads=4, word_embed_proj_dim=32, dropout=0.0, use_cache=False, **DECODER
    )
    ids = tokens()
    return _build(t.OPTForCausalLM, config, attention, input_ids=ids, attention_mask=torch.ones_like(ids))


def llama(attention: str | None = "eager") -> Built:
    """Four heads that share two key/value heads; input and output embeddings apart."""
    return _build(t.LlamaForCausalLM, t.LlamaConfig(**ROTARY), attention, input_ids=tokens())


def qwen2(attention: str | None = "eager") -> Built:
    """Like Llama, with biases in q, k, v and tied embeddings."""
    config = t.Qwen2Config(tie_word_embeddings=True, **ROTARY)
    return _build(t.Qwen2ForCausalLM, config, attention, input_ids=tokens())


def mistral(attention: str | None = "eager") -> Built:
    """Like Llama, with a sliding window that is shorter than the example."""
    config = t.MistralConfig(sliding_window=4, **ROTARY)
    return _build(t.MistralForCausalLM, config, attention, input_ids=tokens())


def _t5(feed_forward: str, tied: bool, attention: str | None) -> Built:
    config = t.T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.0, initializer_factor=0.4, feed_forward_proj=feed_forward, use_cache=False,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    config.tie_word_embeddings = tied  # transformers 5 takes the argument for the scale of the outputs only
    return _build(
        t.T5ForConditionalGeneration, config, attention, input_ids=tokens(), decoder_input_ids=tokens(5, seed=4)
    )


def t5(attention: str | None = None) -> Built:
    """Encoder and decoder, relative positions, tied embeddings, MLP with ReLU."""
    return _t5("relu", True, attention)


def t5_gated(attention: str | None = None) -> Built:
    """T5 v1.1: gated GELU, and the output embedding apart."""
    return _t5("gated-gelu", False, attention)


def vit(attention: str | None = "eager") -> Built:
    config = t.ViTConfig(num_labels=5, **PIXELS, **ENCODER, **NO_DROPOUT)
    return _build(t.ViTForImageClassification, config, attention, pixel_values=noise(2, 3, 16, 16))


def deit(attention: str | None = "eager") -> Built:
    """With the distillation token, and the mean of two heads."""
    config = t.DeiTConfig(num_labels=5, **PIXELS, **ENCODER, **NO_DROPOUT)
    return _build(t.DeiTForImageClassificationWithTeacher, config, attention, pixel_values=noise(2, 3, 16, 16))


def clip(attention: str | None = "eager") -> Built:
    """Both towers."""
    text = ENCODER | SPECIAL | {"vocab_size": VOCAB, "max_position_embeddings": 16, "eos_token_id": VOCAB - 1}
    vision = ENCODER | PIXELS | {"hidden_size": 48}
    config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    ids = tokens() % (VOCAB - 1)
    ids[:, -1] = VOCAB - 1  # the text's feature is that of its end token
    return _build(t.CLIPModel, config, attention, input_ids=ids, pixel_values=noise(2, 3, 16, 16))


def whisper(attention: str | None = "eager") -> Built:
    config = t.WhisperConfig(
        vocab_size=VOCAB, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=10,
        max_target_positions=16, dropout=0.0, use_cache=False, decoder_start_token_id=1, suppress_tokens=None,
        begin_suppress_tokens=None, **SPECIAL,
    )  # fmt: skip
    return _build(
        t.WhisperForConditionalGeneration, config, attention,
        input_features=noise(2, 8, 20), decoder_input_ids=tokens(5, seed=4),
    )  # fmt: skip


def wavlm(attention: str | None = None) -> Built:
    """Raw waveform; convolutions, group norm, gated relative position bias."""
    config = t.WavLMConfig(
        conv_dim=(16, 16, 16), conv_stride=(4, 2, 2), conv_kernel=(8, 3, 3), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4, num_buckets=16, max_bucket_distance=32, num_ctc_classes=20, vocab_size=20,
        feat_proj_dropout=0.0, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, final_dropout=0.0,
        layerdrop=0.0, mask_time_prob=0.0, **ENCODER,
    )  # fmt: skip
    return _build(t.WavLMModel, config, attention, input_values=noise(2, 400))


def mamba(attention: str | None = None) -> Built:
    """No attention: the argument is there so that all functions are alike."""
    config = t.MambaConfig(
        vocab_size=VOCAB, hidden_size=32, state_size=4, num_hidden_layers=2, expand=2, conv_kernel=4, time_step_rank=4,
        use_cache=False, **SPECIAL,
    )  # fmt: skip
    return _build(t.MambaForCausalLM, config, attention, input_ids=tokens())


HF: dict[str, Callable[..., Built]] = {
    f.__name__: f
    for f in (bert, gpt2, opt, llama, qwen2, mistral, t5, t5_gated, vit, deit, clip, whisper, wavlm, mamba)
}
