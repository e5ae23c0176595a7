"""What must agree inside one section: formats and their fields, digests and files, 4 bits and adapters, licences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.recipe_checks._find import Finding, find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.yaml_source import Path, Source

_FILES = (
    ("pretrain", "*", "dataset"),
    ("sft", "*", "dataset"),
    ("search", "objective", "*"),
    ("search", "constraints", "*"),
    ("search", "select", "on", "*"),
    ("evaluate", "*"),
)
_HUB_DATASET = re.compile(r"hf:[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
_NEEDS_FULL_PRECISION = ("pissa", "olora", "orthogonal")


def check_sections(source: Source) -> Iterator[Finding]:
    """Find fields that do not fit their neighbours."""
    for pattern in _FILES:
        for path, section in find(source.data, *pattern):
            if isinstance(section, dict):
                yield from _files(path, section)
            if isinstance(section, dict) and pattern[0] == "sft":
                yield from _fact_table(path, section)
    for kind in ("pretrain", "sft"):
        for path, _ in find(source.data, kind, "{}", "quantization"):
            yield from _quantized(path[:-1], source.data[kind][path[1]])
    for path, _ in find(source.data, "publish", "license"):
        yield from _licence(path[:-1], source.data["publish"])


def _files(path: Path, section: dict[str, object]) -> Iterator[Finding]:
    files, digests = _listed(section.get("path")), _listed(section.get("sha256"))
    for file in files:
        if isinstance(file, str) and file.startswith("hf:") and not _HUB_DATASET.fullmatch(file):
            yield Finding((*path, "path"), f"{file!r} is no data set of the Hub", "Write hf:org/name[@revision].")
    # A folder has a digest for each of its files, so there may be more.
    if digests and len(digests) < len(files):
        message = f"`sha256` has fewer digests ({len(digests)}) than `path` has files ({len(files)})"
        yield Finding((*path, "sha256"), message, "Give one digest for each file, in their order.", at_key=True)


def _fact_table(path: Path, section: dict[str, object]) -> Iterator[Finding]:
    if section.get("format") == "fact_table":
        if "lang" not in section:
            hint = "Add `lang: ja` or `lang: en`: the language that is taught."
            yield Finding(path, "the format fact_table lacks `lang`", hint, at_key=True)
        return
    for key in ("lang", "relations"):
        if section.get(key) is not None:
            message = f"`{key}` belongs to the format fact_table"
            yield Finding((*path, key), message, "Add `format: fact_table`, or remove it.", at_key=True)


def _quantized(path: Path, section: dict[str, object]) -> Iterator[Finding]:
    lora = section.get("lora")
    if section["quantization"] != "nf4":
        return
    if path[0] == "pretrain" and lora is None:
        message = "`quantization: nf4` needs `lora`: 4-bit weights cannot be trained themselves"
        yield Finding((*path, "quantization"), message, "Add `lora: {r: 16}`, or remove quantization.")
    start = lora.get("init_lora_weights") if isinstance(lora, dict) else None
    if start in _NEEDS_FULL_PRECISION:
        message = f"`init_lora_weights: {start}` reads weights that a 4-bit base has not"
        hint = "Remove it, or remove `quantization: nf4`."
        yield Finding((*path, "lora", "init_lora_weights"), message, hint)


def _licence(path: Path, section: dict[str, object]) -> Iterator[Finding]:
    if section["license"] != "other":
        return
    for key in ("license_name", "license_link"):
        if key not in section:
            yield Finding((*path, "license"), f"`license: other` lacks `{key}`", f"Add `{key}: …`.")


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
