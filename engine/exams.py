"""Exams: the evaluations of a stage's spec with their items loaded. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluators
from engine.errors import PlanError
from evaluators._types import Item, ItemError, Selection


@dataclass(frozen=True)
class Exam:
    """One evaluation of a recipe with its items."""

    evaluator: str
    split: str
    scoring: str
    chat_template: bool
    weight: float
    items: tuple[Item, ...]

    @property
    def about(self) -> dict[str, str]:
        """Say in a row of scores what was asked."""
        return {"evaluator": self.evaluator, "split": self.split, "scoring": self.scoring}


def load_exams(specs: Sequence[Mapping[str, Any]], files: Mapping[str, str]) -> tuple[Exam, ...]:
    """Load the items of a stage's evaluations; `files` maps digests to paths.

    Raises:
        PlanError: A file of items that cannot be used; every malformed line is named.
    """
    return tuple(_exam(spec, files) for spec in specs)


def item_file(system: str, exams: Sequence[Exam], index: int) -> str:
    """Name the file of a system's answers to an exam; an evaluator that is asked again has a number behind it."""
    evaluator = exams[index].evaluator
    before = sum(exam.evaluator == evaluator for exam in exams[:index])
    return f"{system}-{evaluator}{f'-{before + 1}' if before else ''}.jsonl"


def _exam(spec: Mapping[str, Any], files: Mapping[str, str]) -> Exam:
    paths = tuple(Path(files[digest]) for digest in spec["files"])
    lang, relations = _listed(spec.get("lang")), _listed(spec.get("relations"))
    try:
        items = evaluators.load_items(
            spec["evaluator"], Selection(paths, spec["split"], lang, relations, spec.get("limit"))
        )
    except ItemError as error:
        raise PlanError(f"The items of {spec['evaluator']} ({spec['split']}) cannot be used:\n{error}") from error
    return Exam(spec["evaluator"], spec["split"], spec["scoring"], spec["chat_template"], spec["weight"], items)


def _listed(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
