"""pydantic's errors in plain words, each at its place in the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from engine.recipe_checks._find import Finding, label, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from engine.errors import Problem
    from engine.yaml_source import Path, Source

_SECTION = "a section of keys and values"
_WANTED = {
    "float_type": ("a number", "Write it plainly, for example 0.5 or 2.0e-4."),
    "finite_number": ("a finite number", "Write it plainly, for example 0.5 or 2.0e-4."),
    "int_type": ("a whole number", "Write it without a point, for example 16."),
    "int_from_float": ("a whole number", "Write it without a point, for example 16."),
    "bool_type": ("true or false", "Only true and false are switches; yes, no, on and off are words."),
    "string_type": ("text", "Put it in quotes."),
    "tuple_type": ("a list", "Write [a, b], or one entry a line with `- `."),
    "dict_type": (_SECTION, "Write `key: value` lines below it, or {key: value}."),
    "mapping_type": (_SECTION, "Write `key: value` lines below it, or {key: value}."),
    "model_type": (_SECTION, "Write `key: value` lines below it, or {key: value}."),
    "model_attributes_type": (_SECTION, "Write `key: value` lines below it, or {key: value}."),
    "union_tag_invalid": ("a number or a range", "Lists and filters do not stand inside one another."),
}
_LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}


def explain(error: ValidationError, source: Source, root: type[BaseModel]) -> list[Problem]:
    """Say in plain words what is wrong with a recipe's keys and values."""
    if source.data is None:
        return []  # the syntax is broken, and that has been said
    details = error.errors(include_url=False)
    paths = [_path(detail["loc"], source.data) for detail in details]
    extra = [path for detail, path in zip(details, paths, strict=True) if _is_extra(detail)]
    findings: dict[Path, Finding] = {}
    for detail, path in zip(details, paths, strict=True):
        if detail["type"] == "missing":
            missing = str(detail["loc"][-1])
            misspelt = difflib.get_close_matches(missing, [str(other[-1]) for other in extra if other[:-1] == path])
            if not misspelt and (path or missing not in source.unreadable):
                findings[*path, missing] = _explain_missing(missing, path, root)
        # A value that may have several forms fails once for each: the deepest complaint is the most precise.
        elif path not in findings and not any(other[: len(path)] == path for other in findings):
            findings[path] = _explain_one(detail, path, root)
    return [
        source.problem(found.path, found.message, hint=found.hint, at_key=found.at_key) for found in findings.values()
    ]


def unknown_keys(error: ValidationError, data: object, root: type[BaseModel]) -> list[Finding]:
    """Give the keys that no section has, each at its path in `data`, and nothing else that is wrong."""
    details = [detail for detail in error.errors(include_url=False) if _is_extra(detail)]
    return [_explain_one(detail, _path(detail["loc"], data), root) for detail in details]


def _is_extra(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden"


def _path(loc: tuple[int | str, ...], data: object) -> Path:
    """Follow an error into the data; the tags that pydantic adds for unions and keys lead nowhere and are left out."""
    path: list[str | int] = []
    for step in loc:
        children = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(children, dict) and step in children:
            data = children[step]
            path.append(step)
    return tuple(path)


def _explain_missing(name: str, path: Path, root: type[BaseModel]) -> Finding:
    if name.isdigit():
        return Finding(path, f"{label(path)} has too few entries", "Add what is missing.")
    fields = _fields(root, path)
    says = f". {fields[name]}" if fields.get(name) else "."
    return Finding(path, f"{label(path)} lacks `{name}`", f"Add `{name}: …`{says}", at_key=True)


def _explain_one(detail: ErrorDetails, path: Path, root: type[BaseModel]) -> Finding:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    name, shown = label(path), _shown(detail["input"])
    if kind == "extra_forbidden":
        keys = list(_fields(root, path[:-1]))
        where = label(path[:-1])
        hint = nearest(str(path[-1]), keys, f"Its keys are {', '.join(keys)}.")
        return Finding(path, f"`{path[-1]}` is not a key of {where}", hint, at_key=True)
    if kind in _WANTED:
        wanted, hint = _WANTED[kind]
        return Finding(path, f"{name} wants {wanted}, got {shown}", hint)
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return Finding(path, f"{name} wants a number {words} {context[key]:g}, got {shown}", "Change the number.")
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "`").replace("True", "true").replace("False", "false")
        hint = nearest(str(value), re.findall("'([^']*)'", str(context["expected"])), "Choose one of these.")
        return Finding(path, f"{name} is {choices}, got {shown}", hint)
    if kind == "value_error":
        return _explain_ours(context["error"], path)
    return _explain_form(detail, path)


def _explain_form(detail: ErrorDetails, path: Path) -> Finding:
    kind, name, at_key = detail["type"], label(path), detail["loc"][-1] == "[key]"
    if kind == "string_pattern_mismatch":
        pattern = str(detail["ctx"]["pattern"])
        hint = "Use letters, digits, `.`, `_` and `-`, starting with a letter or a digit."
        if "a-f" in pattern:
            hint = "A sha256 has 64 hexadecimal digits in lower case."
        if "/" in pattern:
            hint = "Write your-org/name."
        message = f"{name} cannot be a name" if at_key else f"{name} cannot be {_shown(detail['input'])}"
        return Finding(path, message, hint, at_key=at_key)
    if kind in {"string_too_short", "too_short"}:
        return Finding(path, f"{name} is empty", "Give at least one entry.", at_key=at_key)
    if kind == "too_long":
        return Finding(path, f"{name} has too many entries", "Remove what is too much.")
    return Finding(path, f"{name}: {detail['msg']}", "Change the value.", at_key=at_key)


def _explain_ours(error: Exception, path: Path) -> Finding:
    """Write a refusal of our own validators: (what is wrong, what to do), or both in two sentences."""
    message, hint = error.args if len(error.args) > 1 else (str(error), "")
    if not hint:
        message, _, hint = message.partition(". ")
    joint = " " if message.startswith(("wants", "is ")) else ": "
    return Finding(path, f"{label(path)}{joint}{message}", hint or "Change the value.")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list, tuple)):
        return "a list" if not isinstance(value, dict) else "a section"
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "…'"  # noqa: PLR2004 - fits a line


def _fields(root: type[BaseModel], path: Path) -> dict[str, str]:
    """Give the keys of the section at a path and what each is for; of the forms a section may have, the first."""
    kinds: list[Any] = [root]
    for step in path:
        kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    sections = [found for kind in kinds for found in _sections(kind)]
    if not sections:
        return {}
    return {name: field.description or "" for name, field in sections[0].model_fields.items()}


def _sections(kind: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - a type annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if get_origin(kind) in {Annotated, Union, UnionType}:
        return [found for part in get_args(kind) for found in _sections(part)]
    return []


def _inside(kind: Any, step: str | int) -> list[Any]:  # noqa: ANN401 - type annotations
    """Give the types that the value under a key or an index may have."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _inside(parts[0], step)
    if origin in {Union, UnionType}:
        return [inner for part in parts for inner in _inside(part, step)]
    if origin is Mapping and isinstance(step, str):
        return [parts[1]]
    if origin is tuple and isinstance(step, int):
        return [parts[0]]
    if isinstance(kind, type) and issubclass(kind, BaseModel) and step in kind.model_fields:
        return [kind.model_fields[str(step)].annotation]
    return []
