"""`multiple_choice`: any JSONL file in the item schema, a hospital's own exam for example.

Items that carry `meta.split` answer only for that split; a file without it is the split that the recipe says it is.
"""

from __future__ import annotations

from evaluators._multiple_choice import read_items
from evaluators._types import Item, Selection


def items(selection: Selection) -> tuple[Item, ...]:
    """Load the items of the selected files."""
    loaded = [item for path in selection.paths for item in read_items(path)]
    return tuple(item for item in loaded if item.meta.get("split", selection.split) == selection.split)
