"""The merge: a method that exists, parameters that it takes, and ranges that a search fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.recipe_checks._find import Finding, find, label, merges, nearest, walk
from engine.recipe_checks._methods import methods, taken_by
from engine.recipe_checks._unread import unread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.yaml_source import Path, Source

_MOST_MERGES = 64  # each may be made of the one before it, and plans follow such a chain to its end
_INPUTS = ("models", "slices", "modules")
_ENTRIES = (
    ("models",),
    ("slices", "*", "sources"),
    ("modules", "*", "models"),
    ("modules", "*", "slices", "*", "sources"),
)


def check_merge(source: Source) -> Iterator[Finding]:
    """Find methods and parameters that do not exist, what is missing or repeated, and ranges without a search."""
    for path, config in merges(source.data):
        if isinstance(config, dict):
            yield from _method(path, config)
            yield from unread(path, config)
            yield from _inputs(path, config)
            yield from _repeated(path, config, source)
    yield from _several(source)
    yield from _ranges(source)


def _several(source: Source) -> Iterator[Finding]:
    count = len(list(find(source.data, "merges", "{}")))
    if count and "merge" not in (*source.data, *source.unreadable):
        message = "`merges` are made for `merge`, and the recipe has none"
        yield Finding(("merges",), message, "Call the one that is the result `merge`.", at_key=True)
    if count > _MOST_MERGES:
        message = f"`merges` holds more than {_MOST_MERGES} merges"
        yield Finding(("merges",), message, "Name the results of other recipes by their folders.", at_key=True)


def _method(path: Path, config: dict[str, Any]) -> Iterator[Finding]:
    method = config.get("merge_method")
    if not isinstance(method, str):
        return
    place = (*path, "merge_method")
    taken = taken_by(method)
    if taken is None:
        hint = nearest(method, methods(), f"Methods: {', '.join(methods())}.")
        yield Finding(place, f"there is no merge method `{method}`", hint)
    elif taken.needs_base and not any(_bases(config)):
        yield Finding(place, f"`{method}` needs a `base_model`", "Add `base_model: …`: the model that it starts from.")


def _bases(config: dict[str, Any]) -> Iterator[bool]:
    """Tell of the merge, and of each slice with a base of its own, whether there is a base."""
    yield config.get("base_model") is not None
    for pattern in (("slices", "*"), ("modules", "*", "slices", "*")):
        for _, piece in find(config, *pattern):
            yield isinstance(piece, dict) and piece.get("base_model") is not None


def _inputs(path: Path, config: dict[str, Any]) -> Iterator[Finding]:
    given = [key for key in _INPUTS if config.get(key) is not None]
    misspelt = [key for key in config if key not in _INPUTS and "Did" in nearest(str(key), _INPUTS, "")]
    if not given and not misspelt:
        yield Finding(path, f"{label(path)} lacks `models` (or `slices`)", "List the models to merge.", at_key=True)
    pairs = [(given[0], key) for key in given[1:]]
    if config.get("tokenizer") is not None and config.get("tokenizer_source") is not None:
        pairs.append(("tokenizer_source", "tokenizer"))
    for first, second in pairs:
        message = f"`{second}` does not go together with `{first}`"
        yield Finding((*path, second), message, "Keep one of the two.", at_key=True)
    for inner, module in find(config, "modules", "{}"):
        keys = [key for key in ("models", "slices") if isinstance(module, dict) and module.get(key) is not None]
        if isinstance(module, dict) and len(keys) != 1:
            message = f"{label(inner)} wants either `models` or `slices`"
            yield Finding((*path, *inner), message, "Keep one of the two." if keys else "List the models to merge.")


def _repeated(path: Path, config: dict[str, Any], source: Source) -> Iterator[Finding]:
    """Find models that stand twice among those of one merge or one slice, which no method takes."""
    for pattern in _ENTRIES:
        for inner, listed in find(config, *pattern):
            seen: dict[str, Path] = {}
            for index, entry in enumerate(listed if isinstance(listed, list) else ()):
                model = entry.get("model") if isinstance(entry, dict) else None
                here = (*path, *inner, index, "model")
                first = seen.setdefault(repr(model), here)
                if model is not None and first != here:
                    place = source.values.get(first)
                    message = f"the model {model!r} stands here already" + (f" (line {place.line})" if place else "")
                    yield Finding(here, message, "Name each model once and add its weights up.")


def _ranges(source: Source) -> Iterator[Finding]:
    sections = source.data if isinstance(source.data, dict) else {}
    if {"merge", "search"} & set(source.unreadable):
        return
    ranges = {("merge", *path): value for path, value in walk(sections.get("merge")) if _is_range(value)}
    for path, value in walk(sections.get("merges")):
        if _is_range(value):
            message = "a range belongs to `merge`: the search fills no other merge"
            yield Finding(("merges", *path), message, "Write a number.")
    has_search = sections.get("search") is not None
    if ranges and not has_search:
        message = "this range needs a `search`, and the recipe has none"
        yield Finding(next(iter(ranges)), message, "Add a section `search`, or write a number.")
    if has_search and sections.get("merge") is None:
        message = "`search` has nothing to fill: the recipe has no `merge`"
        yield Finding(("search",), message, "Add a section `merge`, or remove `search`.", at_key=True)
    elif has_search and not ranges:
        message = "`search` has nothing to fill: no number of `merge` is a range"
        yield Finding(("search",), message, "Write {low: …, high: …} for a number of `merge`.", at_key=True)
    for path, value in ranges.items():
        yield from _division(path, value.get("by"))


def _is_range(value: object) -> bool:
    return isinstance(value, dict) and ("low" in value or "high" in value)


def _division(path: Path, by: object) -> Iterator[Finding]:
    """Find a range by layer group in a list of layer groups, and one by module under a filter or in a list."""
    in_list, under_filter = isinstance(path[-1], int), path[-1] == "value"
    if (by == "layer_group" and in_list) or (by == "module" and (in_list or under_filter)):
        message = f"`by: {by}` would divide what is divided already"
        yield Finding((*path, "by"), message, "Give the parameter this one range, or leave `by` out.", at_key=True)
