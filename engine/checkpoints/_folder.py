"""The files of a merged model beside its weights: an adapted `config.json` and copies of the tokenizer's files."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from engine.checkpoints._tokenizer import TOKENIZER_FILES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.checkpoints._reader import Checkpoint

_DTYPE_KEYS = ("dtype", "torch_dtype")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# A local path, which tells where the model was trained and is wrong anywhere else.
_PRIVATE = ("_name_or_path",)


def merged_config(
    config: Mapping[str, Any], *, dtype: str, layers: Sequence[Mapping[str, Any]], tokenizer: Mapping[str, Any]
) -> dict[str, Any]:
    """Adapt a source's config to the merged weights.

    Args:
        config: the config to start from.
        dtype: torch's name of the weights' dtype.
        layers: for each layer of the result, what `layer_settings` gives for the layer that it follows.
        tokenizer: the config of the tokenizer's source, whose special token ids are taken.
    """
    adapted = {key: value for key, value in config.items() if key not in _PRIVATE}
    # transformers 5 writes `dtype`; what reads older files looks for `torch_dtype`.
    adapted.update(dict.fromkeys([key for key in _DTYPE_KEYS if key in adapted] or _DTYPE_KEYS[:1], dtype))
    for key in _LAYER_COUNTS:
        if key in adapted:
            adapted[key] = len(layers)
    if "layer_types" in adapted:  # Qwen2 and others refuse to load where this list does not follow the layers
        adapted["layer_types"] = [layer["layer_types"] for layer in layers]
    adapted.update({key: tokenizer[key] for key in _TOKEN_IDS if key in tokenizer})
    return adapted


def layer_settings(config: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """Give the per-layer settings of one layer of a source."""
    types = config.get("layer_types") or []
    return {"layer_types": types[layer]} if layer < len(types) else {"layer_types": "full_attention"}


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json`, flushed to the disk."""
    _write(folder / "config.json", (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())


def copy_tokenizer(source: Checkpoint, folder: Path) -> None:
    """Copy the tokenizer's files and `generation_config.json` bit by bit, where the source has them."""
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        file = source.file(name)
        if file is not None:
            _write(folder / name, file.read_bytes())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
