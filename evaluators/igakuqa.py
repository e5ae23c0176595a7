"""`igakuqa`: the Japanese national medical licensing examination (Kasai et al., arXiv 2303.18027), split by year.

The recipe names the files, or the folder that holds `igakuqa_<year>.jsonl`. The source repository states no licence, so
the engine ships no item of it.
"""

from __future__ import annotations

from evaluators._multiple_choice import read_items
from evaluators._types import Item, Selection

# Years apart, so that a question that recurs in the next exam cannot stand on both sides of one search.
YEARS = {"dev": (2018,), "select": (2019,), "test": (2020, 2021, 2022)}


def items(selection: Selection) -> tuple[Item, ...]:
    """Load the exam years that belong to the split."""
    years = YEARS[selection.split]
    files = [
        file for path in selection.paths for file in (sorted(path.glob("igakuqa_*.jsonl")) if path.is_dir() else [path])
    ]
    return tuple(item for file in files for item in read_items(file) if item.meta.get("year") in years)
