"""Fields of a model folder's configuration that name code to run: none of them is ever followed, so none is accepted.

transformers has followed each of them at some time without being asked to (CVE-2026-4372 among others).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import PlanError

_CODE = ("auto_map", "model_file", "custom_pipelines")
# The attention that transformers has itself; any other text is the name of a repository of kernels.
_OWN_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")


def refuse_code(folder: Path) -> None:
    """Check that no configuration file of a folder asks for code of its own.

    Raises:
        PlanError: The file and the field that does.
    """
    for file in sorted(folder.glob("*config.json")):
        try:
            whole = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # whoever needs the file says what is wrong with it
        for field, value in _fields(whole):
            name = field.rpartition(".")[2]
            wanted = str(value) if isinstance(value, str) else json.dumps(value)
            if name in _CODE and value:
                raise PlanError(
                    f"{file} asks for code of the model's own: `{field}: {_short(wanted)}`.",
                    hint="Code that comes with a model is never run here. If transformers knows the architecture by "
                    "itself, remove the field in a copy of the folder; else the model cannot be used.",
                )
            if "attn_implementation" in name and _foreign(value):
                raise PlanError(
                    f"{file} asks for an attention from elsewhere: `{field}: {_short(wanted)}`.",
                    hint="It could run any code. Remove the field in a copy of the folder: the weights do not need it.",
                )


def _fields(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - JSON
    """Give every field of a JSON document with its place, `text_config.auto_map`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{place}{key}", value
            yield from _fields(value, f"{place}{key}.")
    elif isinstance(node, list):
        for value in node:
            yield from _fields(value, place)


def _foreign(value: object) -> bool:
    """Tell whether an attention is asked for by a name that transformers does not give to one of its own."""
    if isinstance(value, Mapping):  # one for each part of the model
        return any(_foreign(one) for one in value.values())
    return isinstance(value, str) and value not in _OWN_ATTENTION


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
