"""The rows and differences of `scores.json`: what was measured, on how many items, how surely."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.files import write_atomically
from evaluators._multiple_choice import mean_logprob
from evaluators._statistics import accuracy_interval, paired_difference
from evaluators._types import ItemResult

Answers = tuple[ItemResult, ...]
_DIGITS = 6


def rows(system: Mapping[str, str], exam: Mapping[str, str], results: Answers, *, seed: int) -> list[dict[str, Any]]:
    """Give a row for each language and, where there are several, one for all.

    Args:
        system: `model` and `role`.
        exam: `evaluator`, `split` and `scoring`.
        results: The system's answers.
        seed: Of the bootstrap.
    """
    return [_row(system, exam, lang, part, seed) for lang, part in by_language(results)]


def differences(
    a: tuple[str, Answers], b: tuple[str, Answers], exam: Mapping[str, str], *, seed: int
) -> list[dict[str, Any]]:
    """Give the paired differences of two systems, a row for each language and one for all."""
    other = dict(by_language(b[1]))
    found: list[dict[str, Any]] = []
    for lang, part in by_language(a[1]):
        estimate, p = paired_difference(part, other[lang], seed=seed)
        found.append(
            {
                "a": a[0],
                "b": b[0],
                "evaluator": exam["evaluator"],
                "split": exam["split"],
                "lang": lang,
                "n": estimate.n,
                "difference": round(estimate.value, _DIGITS),
                "ci95": [round(bound, _DIGITS) for bound in estimate.ci95],
                "p": float(f"{p:.4g}"),
            }
        )
    return found


def by_language(results: Answers) -> Iterator[tuple[str, Answers]]:
    """Part the answers by language, and give all of them once more where there are several."""
    languages = list(dict.fromkeys(result.lang for result in results))
    for lang in languages:
        yield lang, tuple(result for result in results if result.lang == lang)
    if len(languages) > 1:
        yield "all", results


def write_items(path: Path, results: Sequence[ItemResult]) -> None:
    """Store per-item results, one JSON object a line; the file is whole or absent."""
    lines = (json.dumps(result.to_json(), ensure_ascii=False) + "\n" for result in results)
    write_atomically(path, "".join(lines))


def read_items(path: Path) -> Answers:
    """Read per-item results back."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(ItemResult(**{**one, "prediction": tuple(one["prediction"])}) for one in found)


def _row(system: Mapping[str, str], exam: Mapping[str, str], lang: str, results: Answers, seed: int) -> dict[str, Any]:
    estimate = accuracy_interval(results, seed=seed)
    return {
        "model": system["model"],
        "role": system["role"],
        "evaluator": exam["evaluator"],
        "split": exam["split"],
        "lang": lang,
        "scoring": exam["scoring"],
        "n": estimate.n,
        "accuracy": round(estimate.value, _DIGITS),
        "ci95": [round(bound, _DIGITS) for bound in estimate.ci95],
        "mean_logprob": round(mean_logprob(results), _DIGITS),
    }
