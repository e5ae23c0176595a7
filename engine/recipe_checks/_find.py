"""Looking things up in the plain data of a recipe, whatever is missing or of the wrong type."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.yaml_source import Path


@dataclass(frozen=True)
class Finding:
    """A mistake and the path at which it stands: at the key, or at its value."""

    path: Path
    message: str
    hint: str
    at_key: bool = False


def find(data: object, *pattern: str) -> Iterator[tuple[Path, Any]]:
    """Give every (path, value) that a pattern leads to; what is not there is left out.

    `*` stands for any key or index, `{}` for any key.

    >>> list(find({"a": [{"b": 1}, {"c": 2}]}, "a", "*", "b"))
    [(('a', 0, 'b'), 1)]
    """
    if not pattern:
        yield (), data
        return
    for step, value in _children(data):
        if pattern[0] in {"*", step} or (pattern[0] == "{}" and isinstance(step, str)):
            for path, found in find(value, *pattern[1:]):
                yield (step, *path), found


def walk(data: object) -> Iterator[tuple[Path, Any]]:
    """Give every (path, value) below some data, in the order of the file."""
    for step, value in _children(data):
        yield (step,), value
        for path, found in walk(value):
            yield (step, *path), found


def merges(data: object) -> Iterator[tuple[Path, Any]]:
    """Give every merge of a recipe and its path: those of `merges`, then `merge`."""
    yield from find(data, "merges", "{}")
    yield from find(data, "merge")


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Suggest what a misspelt word may mean, or say something else."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f"Did you mean `{near[0]}`?" if near else otherwise


def label(path: Path) -> str:
    """Name what stands at a path: its key, with the indices after it."""
    keys = [index for index, step in enumerate(path) if isinstance(step, str)]
    if not keys:
        return "the recipe"
    name = str(path[keys[-1]]) + "".join(f"[{step}]" for step in path[keys[-1] + 1 :])
    return f"`{name}`"


def _children(data: object) -> Iterator[tuple[str | int, Any]]:
    if isinstance(data, dict):
        yield from data.items()
    elif isinstance(data, list):
        yield from enumerate(data)
