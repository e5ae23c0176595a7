"""A plain mergekit configuration, read as the `merge` of a recipe: what mergekit ignores is a warning here."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from engine.recipe_checks._find import find
from engine.recipe_checks._merge import unknown_parameters
from engine.recipe_checks._prose import unknown_keys
from engine.references import parse_reference

if TYPE_CHECKING:
    from engine.errors import Problem
    from engine.yaml_source import Path, Source

_ONLY_IN_RECIPES = ("seed", "pretrain", "sft", "merge", "search", "evaluate", "publish")
_TOLERATED = "int8_mask"  # a switch of old configurations, which only ever saved memory
_REFERENCES = (
    ("base_model",),
    ("models", "*", "model"),
    ("slices", "*", "base_model"),
    ("slices", "*", "sources", "*", "model"),
    ("modules", "*", "models", "*", "model"),
    ("modules", "*", "slices", "*", "base_model"),
    ("modules", "*", "slices", "*", "sources", "*", "model"),
    ("tokenizer_source",),
    ("tokenizer", "source"),
)


def wrap_mergekit(source: Source, merge: type[BaseModel]) -> tuple[Source, tuple[Problem, ...]]:
    """Make a recipe of a plain mergekit configuration: its name is the file's, `merge` (the model) its only section.

    Returns:
        The recipe's source, without the keys that mergekit would ignore, and a warning for each of these.
    """
    config = copy.deepcopy(source.data)
    problems = list(source.problems)
    for key in _ONLY_IN_RECIPES:
        if key in config:
            del config[key]
            message = f"`{key}` belongs to a recipe, and a top-level `merge_method` makes this a mergekit configuration"
            hint = "Put the mergekit configuration under `merge:` and add a `name:`."
            problems.append(source.problem((key,), message, hint=hint, at_key=True))
    for pattern in _REFERENCES:
        for path, value in list(find(config, *pattern)):
            _put(config, path, _outside(value))
    wrapped = _nest(replace(source, data=config, problems=tuple(problems)))
    return _without_unknown(wrapped, merge)


def _without_unknown(source: Source, merge: type[BaseModel]) -> tuple[Source, tuple[Problem, ...]]:
    """Take out, with a warning each, the keys and parameters that nothing reads."""
    config = source.data["merge"]
    unread = [(finding.path, finding) for finding in unknown_parameters(source)]
    try:
        merge.model_validate(config)
    except ValidationError as error:
        for finding in unknown_keys(error, config, merge):
            message = f"`{finding.path[-1]}` is not a key of a mergekit configuration"
            unread.append((("merge", *finding.path), replace(finding, message=message)))
    for path, _ in unread:
        _remove(source.data, path)
    warnings = [
        source.problem(path, f"{finding.message}: it is ignored", hint=finding.hint, at_key=True)
        for path, finding in unread
        if path[-1] != _TOLERATED
    ]
    return source, tuple(sorted(warnings, key=lambda warning: (warning.line, warning.column)))


def _nest(source: Source) -> Source:
    """Move a source's data under `merge` and name it after its file."""
    stem = re.sub("[^A-Za-z0-9._-]+", "-", FilePath(source.file).stem).strip("-._")[:96]
    start = source.keys[("merge_method",)]
    return replace(
        source,
        data={"name": stem or "merge", "merge": source.data},
        keys={("merge",): start} | {("merge", *path): place for path, place in source.keys.items()},
        values={("merge",): start} | {("merge", *path): place for path, place in source.values.items() if path},
    )


def _outside(value: object) -> object:
    """Read a bare name as mergekit does: a folder that is there, or a repository of the Hub without a namespace."""
    try:
        reference = parse_reference(value) if isinstance(value, str) else None
    except ValueError:
        return value
    if reference is None or value in {"base", "union"}:
        return value
    adapter = reference.adapter
    parts = [part for part in (replace(reference, adapter=None), adapter) if part]
    return "+".join(_located(part.name) if part.kind == "section" else str(part) for part in parts)


def _located(name: str) -> str:
    return f"./{name}" if FilePath(name).exists() else f"hf:{name}"


def _put(data: Any, path: Path, value: object) -> None:  # noqa: ANN401 - plain data
    for step in path[:-1]:
        data = data[step]
    data[path[-1]] = value


def _remove(data: Any, path: Path) -> None:  # noqa: ANN401 - plain data
    for step in path[:-1]:
        if isinstance(data, dict) and step not in data:
            return  # it went with the section around it
        data = data[step]
    data.pop(path[-1], None)
