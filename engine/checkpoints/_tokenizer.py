"""What two checkpoints' tokenizers must share before their embeddings may be averaged row by row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.checkpoints._reader import Checkpoint

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class TokenizerFacts:
    """`rules`: a hash of how text is cut (normaliser, merges), or of a SentencePiece file, whose vocabulary is {}."""

    vocabulary: Mapping[str, int]
    rules: str
    special: Mapping[str, str | None]
    chat_template: str | None


@dataclass(frozen=True)
class TokenizerDifference:
    """Why two tokenizers are not one. `moved`: common tokens have other ids, so rows of the embeddings do not match."""

    text: str
    moved: bool


def read_tokenizer(checkpoint: Checkpoint) -> TokenizerFacts | None:
    """Read what matters of a checkpoint's tokenizer; None where the folder has none."""
    settings = _json(checkpoint.file("tokenizer_config.json"))
    special = {key: _content(settings.get(key)) for key in _SPECIAL}
    template_file = checkpoint.file("chat_template.jinja")
    template = template_file.read_text(encoding="utf-8") if template_file else settings.get("chat_template")
    chat_template = template if isinstance(template, str) else None
    file = checkpoint.file("tokenizer.json")
    if file is not None:
        whole = _json(file)
        vocabulary = _vocabulary(whole)
        merges = whole.get("model", {}).get("merges") or []
        # Older files write a merge as "a b", newer ones as ["a", "b"].
        pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
        rules = hashlib.sha256(json.dumps([whole.get("normalizer"), pairs], sort_keys=True).encode()).hexdigest()
        return TokenizerFacts(vocabulary, rules, special, chat_template)
    file = checkpoint.file("tokenizer.model") or checkpoint.file("spiece.model")
    if file is None:
        return None
    return TokenizerFacts({}, hashlib.sha256(file.read_bytes()).hexdigest(), special, chat_template)


def compare_tokenizers(first: TokenizerFacts, second: TokenizerFacts) -> TokenizerDifference | None:
    """Say how two tokenizers differ in vocabulary or special tokens; None if ids mean the same in both."""
    ours, theirs = first.vocabulary, second.vocabulary
    if not (ours and theirs) and first.rules != second.rules:
        return TokenizerDifference("their files differ, and SentencePiece files are compared as a whole", moved=False)
    moved = [token for token, number in ours.items() if theirs.get(token, number) != number]
    gone = [token for token in ours if token not in theirs]
    new = [token for token in theirs if token not in ours]
    parts = []
    if moved:
        token = moved[0]
        parts.append(f"{len(moved)} tokens have other ids (for instance {token!r}: {ours[token]} and {theirs[token]})")
    parts += [f"{len(gone)} tokens are missing (for instance {gone[0]!r})"] if gone else []
    parts += [f"{len(new)} tokens are new (for instance {new[0]!r})"] if new else []
    parts += [
        f"{key} is {second.special[key]!r} instead of {first.special[key]!r}"
        for key in _SPECIAL
        if first.special[key] != second.special[key]
    ]
    return TokenizerDifference("; ".join(parts), moved=bool(moved)) if parts else None


def _json(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise PlanError(f"{file} is no valid JSON: {error}.", hint="Download or write it again.") from error
    return value if isinstance(value, dict) else {}


def _vocabulary(whole: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = whole.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: the position is the id
        vocabulary = {entry[0]: position for position, entry in enumerate(vocabulary)}
    added = {entry["content"]: entry["id"] for entry in whole.get("added_tokens", [])}
    return {**vocabulary, **added}


def _content(token: object) -> str | None:
    if isinstance(token, dict):  # an AddedToken, written with its flags
        token = token.get("content")
    return token if isinstance(token, str) else None
