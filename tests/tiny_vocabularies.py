"""Tiny models of one shape whose vocabularies differ: in size, in order, in special tokens and in rows beyond them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.tiny import tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

JAPANESE = (
    "六十八歳の女性が、三日前から続く発熱と咳を主訴に来院した。",
    "胸部エックス線写真では右下肺野に浸潤影を認める。",
    "患者は発熱と咳を訴えて来院した。最も適切な治療はどれか。",
)
ENGLISH = (
    "A patient with fever and cough comes to the hospital. Which treatment is the most appropriate?",
    "Pneumonia is treated with antibiotics. The answer is A, B, C, D or E.",
)
BEGIN, END, OTHER_END = "<s>", "</s>", "<end>"
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def byte_level(texts: tuple[str, ...], size: int, *special: str) -> Tokenizer:
    """Train a byte-level BPE tokenizer whose special tokens come first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts * 4, trainer)
    return tokenizer


def saved_tokenizer(folder: Path, tokenizer: Tokenizer, *added: str, end: str | None = None) -> Path:
    """Save a tokenizer as transformers does, with tokens added to it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=end)
    fast.add_tokens(list(added))
    fast.save_pretrained(folder)
    return folder


def model_with(folder: Path, tokenizer: Path, rows: int, **config: object) -> Path:
    """Save a model whose embeddings have this many rows, with the tokenizer of another folder."""
    tiny_model(folder, vocab_size=rows, **{"layers": 1, **config})
    for name in _FILES:
        (folder / name).unlink()
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    return folder


def tiny_vocabularies(root: Path, *special: str, **config: object) -> dict[str, Path]:
    """Save `base` (301 tokens, 310 rows), `english` (330, with all of base's but one) and `japanese` (362)."""
    trained = {
        "base": byte_level(ENGLISH, 300, BEGIN, END, *special),
        "english": byte_level(ENGLISH, 330, BEGIN, END, *special),
        "japanese": byte_level(JAPANESE, 360, BEGIN, OTHER_END, *special),
    }
    added = {"base": ("<extra>",), "english": (), "japanese": ("<extra>", "<ja>")}
    settings = {"eos_token_id": 1, "pad_token_id": None, **config}
    folders = {}
    for seed, (name, rows) in enumerate({"base": 310, "english": 330, "japanese": 362}.items()):
        end = OTHER_END if name == "japanese" else END
        tokenizer = saved_tokenizer(root / f"{name}-tokenizer", trained[name], *added[name], end=end)
        folders[name] = model_with(root / name, tokenizer, rows, seed=seed, **settings)
    return folders
