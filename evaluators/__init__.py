"""Benchmarks and how they are scored. One public file is one evaluator; this package imports nothing of `engine`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluators._types import Item, Selection


def names() -> tuple[str, ...]:
    """List the evaluators: the public files of this folder, in alphabetical order. Imports none of them."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load_items(name: str, selection: Selection) -> tuple[Item, ...]:
    """Load the items that a recipe's evaluator reference selects.

    Raises:
        ItemError: A file that cannot be read, malformed items, or a selection that leaves none.
    """
    from evaluators._types import ItemError

    items: tuple[Item, ...] = import_module(f"evaluators.{name}").items(selection)
    if selection.lang:
        items = tuple(item for item in items if item.lang in selection.lang)
    if not items:
        languages = f" in {', '.join(selection.lang)}" if selection.lang else ""
        raise ItemError(f"{name}: no item of split {selection.split}{languages} in {selection.described}")
    return items[: selection.limit]
