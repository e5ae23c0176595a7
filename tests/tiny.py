"""Tiny seeded models for tests: real architectures, real tokenizers and real adapters of a few kilobytes."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = 384
_TEXTS = (
    "患者は発熱と咳を訴えて来院した。最も適切な治療はどれか。",
    "肺炎の診断には胸部エックス線検査が有用である。",
    "A patient with fever and cough comes to the hospital. Which treatment is the most appropriate?",
    "Pneumonia is treated with antibiotics. The answer is A, B, C, D or E.",
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPECIAL_TOKENS = dict(
    zip(("bos_token", "pad_token", "eos_token"), (_SPECIAL[0], _SPECIAL[0], _SPECIAL[2]), strict=True)
)
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "gemma": ("GemmaConfig", "GemmaForCausalLM"),
}
_SMALLEST = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
_PECULIAR: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"tie_word_embeddings": True},  # it has biases besides
    # Its norms are stored as differences from one, and its heads together are wider than the model.
    "gemma": {"tie_word_embeddings": True, "head_dim": 16},
}
ARCHITECTURES = tuple(_PECULIAR)


@functools.cache
def _trained() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS * 4, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(folder: Path) -> Path:
    """Save a byte-level BPE tokenizer of at most VOCABULARY tokens with a ChatML template into `folder`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        model_max_length=512,
        **_SPECIAL_TOKENS,
    )
    tokenizer.chat_template = _CHATML
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(
    folder: Path,
    *,
    architecture: str = "llama",
    seed: int = 0,
    layers: int = 4,
    dtype: torch.dtype = torch.float32,
    **config: object,
) -> Path:
    """Save a seeded random model (about 0.1 M parameters) and its tokenizer into `folder`.

    `architecture` is `llama`, `mistral`, `qwen2` or `gemma`; `config` overrides settings (`tie_word_embeddings=True`).
    """
    import transformers

    config_class, model_class = (getattr(transformers, name) for name in _CLASSES[architecture])
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**{**settings, **config}))
        with torch.no_grad():
            for parameter in model.parameters():
                # Norms and biases start equal in every seed; a merge has to see different ones.
                parameter.add_(torch.randn_like(parameter) * 0.02)
    model.to(dtype).save_pretrained(folder)
    return tiny_tokenizer(folder)


def smallest_model(folder: Path, *, architecture: str = "llama", seed: int = 0, layers: int = 2) -> Path:
    """Save a model of some 10,000 parameters, tied where real models of its architecture are."""
    settings = {**_SMALLEST, **_PECULIAR[architecture]}
    return tiny_model(folder, architecture=architecture, seed=seed, layers=layers, **settings)


def tiny_adapter(folder: Path, base: Path, seed: int = 0, **lora: object) -> Path:
    """Save a seeded PEFT LoRA adapter of `base` with a non-zero B into `folder`; `lora` overrides LoraConfig."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**settings, **lora}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


def read_config(folder: Path) -> dict[str, object]:
    """Read a model folder's config.json."""
    return json.loads((folder / "config.json").read_text())
