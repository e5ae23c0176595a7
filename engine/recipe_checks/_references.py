"""Names of models: each section's name is its own, what a recipe names is there, and nothing is made from itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.recipe_checks._find import Finding, find, nearest
from engine.references import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.yaml_source import Path, Source

_SECTIONS = ("models", "pretrain", "sft")
_TOKENIZERS: tuple[tuple[str, ...], ...] = (("merge", "tokenizer_source"), ("merge", "tokenizer", "source"))
_TOKENIZER_WORDS = ("base", "union")
_MADE_FROM: tuple[tuple[str, ...], ...] = (
    ("models", "{}"),
    ("pretrain", "{}", "base_model"),
    ("sft", "{}", "base_model"),
)
_PLACES: tuple[tuple[str, ...], ...] = (
    *_MADE_FROM,
    ("merge", "base_model"),
    ("merge", "models", "*", "model"),
    ("merge", "slices", "*", "base_model"),
    ("merge", "slices", "*", "sources", "*", "model"),
    ("merge", "modules", "*", "models", "*", "model"),
    ("merge", "modules", "*", "slices", "*", "base_model"),
    ("merge", "modules", "*", "slices", "*", "sources", "*", "model"),
    ("merge", "tokenizer", "tokens", "*", "source", "model"),
)


def check_references(source: Source) -> Iterator[Finding]:
    """Find names given twice, names that nothing has, and circles."""
    names: dict[str, Path] = {}
    for section in _SECTIONS:
        for path, _ in find(source.data, section, "{}"):
            name = str(path[1])
            if name in names:
                hint = "Give one of them another name."
                yield Finding(path, f"`{name}` names a model of `{names[name][0]}` already", hint, at_key=True)
            elif name in _TOKENIZER_WORDS:
                yield Finding(path, f"`{name}` means something else in `tokenizer_source`", "Rename it.", at_key=True)
            names.setdefault(name, path)
    if not set(_SECTIONS) & set(source.unreadable):
        yield from _unknown(source, names)
    yield from _circles(source, names)


def _unknown(source: Source, names: Mapping[str, Path]) -> Iterator[Finding]:
    for pattern in (*_PLACES, *_TOKENIZERS):
        known = (*names, *_TOKENIZER_WORDS) if pattern in _TOKENIZERS else tuple(names)
        for path, value in find(source.data, *pattern):
            for name in _section_names(value):
                if name not in known:
                    hint = nearest(name, known, f"A repository of the Hub is org/{name}, a folder ./{name}.")
                    yield Finding(path, f"no section of this recipe is named `{name}`", hint)


def _circles(source: Source, names: Mapping[str, Path]) -> Iterator[Finding]:
    made_from: dict[str, tuple[str, ...]] = {}
    for pattern in _MADE_FROM:
        for path, value in find(source.data, *pattern):
            made_from.setdefault(str(path[1]), tuple(name for name in _section_names(value) if name in names))
    reported: list[str] = []
    for name, path in names.items():
        circle = _circle(name, made_from)
        if circle and name not in reported:
            reported += circle
            way = " → ".join(circle)
            yield Finding(path, f"`{name}` is made from itself: {way}", "Name another base_model.", at_key=True)


def _circle(start: str, made_from: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Give the way from a name back to itself, or nothing."""
    ways: list[tuple[str, ...]] = [(start, name) for name in made_from.get(start, ())]
    seen: list[str] = []
    while ways:
        way = ways.pop()
        if way[-1] == start:
            return way
        if way[-1] not in seen:
            seen.append(way[-1])
            ways += [(*way, name) for name in made_from.get(way[-1], ())]
    return ()


def _section_names(value: object) -> list[str]:
    """Give the sections that a reference names: of its source and of its adapter."""
    try:
        reference = parse_reference(value) if isinstance(value, str) else None
    except ValueError:
        return []
    if reference is None:
        return []
    parts = (reference, reference.adapter)
    return [part.name for part in parts if part is not None and part.kind == "section"]
