"""Eight tiny random models, one per family, saved as folders that `load_model` boots without a network."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

BOS = "<|bos|>"
CONTEXT = 64
WIDTH = 32


def _configs(vocab: int) -> dict[str, PreTrainedConfig]:
    ends = {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 0}
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    common = {**ends, **sizes, "max_position_embeddings": CONTEXT, "pad_token_id": None}
    grouped = {**common, "num_key_value_heads": 2, "head_dim": 8}
    return {
        "gpt2": GPT2Config(**ends, n_positions=CONTEXT, n_embd=WIDTH, n_layer=3, n_head=4),
        "llama": LlamaConfig(**grouped),
        "neox": GPTNeoXConfig(**common, rotary_pct=0.5),
        "gemma2": Gemma2Config(**grouped, sliding_window=16, query_pre_attn_scalar=8),
        "qwen3": Qwen3Config(**grouped),
        "mistral": MistralConfig(**grouped, sliding_window=16),
        "gemma3": Gemma3TextConfig(**grouped, sliding_window=16, query_pre_attn_scalar=8),
        "phi3": Phi3Config(**common, num_key_value_heads=2),
    }


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, after a BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([BOS, *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens([BOS])
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token=BOS, eos_token=BOS)


def _jitter(model: torch.nn.Module) -> None:
    """Gains and biases that are not ones and zeros, so that folding and biases are tested for real."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(8.0)  # from the init's std of 0.02 to about 1 / sqrt(width)


def save_all(folder: Path, families: Iterable[str]) -> dict[str, Path]:
    """The families' names and the folders they were saved to. Seeded."""
    pieces = tokenizer()
    configs, saved = _configs(len(pieces)), {}
    for family in families:
        config = configs[family]
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        _jitter(model)
        saved[family] = folder / family
        model.save_pretrained(saved[family])
        pieces.save_pretrained(saved[family])
    return saved
