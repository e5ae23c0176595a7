"""Reading items and scoring options: what every multiple-choice evaluator shares."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators._types import Item, ItemError, ItemResult, LanguageModel, Progress, Request, Score

# Raised when prompts or arithmetic change, so that scores of different versions never mix.
SCORER_VERSION = 1
SCORINGS = ("letter", "option_text")
_CHUNK = 64

_LETTER_PROMPT = {
    "ja": "{question}\n\n{options}\n\n正しい選択肢を記号で答えてください。",
    "en": "{question}\n\n{options}\n\nAnswer with the letter of the right option.",
}


def read_items(path: Path) -> tuple[Item, ...]:
    """Read the scorable items of a JSONL file in the item schema (`id, question, options, answer, meta`).

    Left out: items that need an image, are excluded by the examiners, are defective, repeat another (`dup_of`) or
    have no options. The text of a serial case (`meta.stem`) is put before the question.

    Raises:
        ItemError: Every malformed line at once, with its number and the reason.
    """
    items: list[Item] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, row in _rows(path, problems):
        reason = _malformed(row)
        if reason is None and row["id"] in seen:
            reason = f"the id {row['id']!r} stands on line {seen[row['id']]} already"
        if reason is not None:
            problems.append(f"{path}:{number}: {reason}")
            continue
        seen[row["id"]] = number
        if _scorable(row):
            items.append(_item(row))
    if problems:
        raise ItemError("\n".join(problems))
    if not items:
        raise ItemError(f"{path}: no scorable item is left; an item needs id, question, options and answer")
    return tuple(items)


def score_items(
    model: LanguageModel, items: Sequence[Item], *, scoring: str, progress: Progress | None = None
) -> tuple[ItemResult, ...]:
    """Ask every item of the model.

    Args:
        model: What answers.
        items: What is asked, in the order in which results come back.
        scoring: `letter`: log-probability of each letter after the question with its options. `option_text`:
            log-likelihood of each option's text as the answer, divided by its count of tokens.
        progress: Called with (items done, items in all).

    Raises:
        ItemError: `letter` with a tokenizer for which a letter is not one token.
    """
    # Neighbours of one language and length share a batch with little padding.
    order = sorted(range(len(items)), key=lambda index: (items[index].lang, len(items[index].question), index))
    results: dict[int, ItemResult] = {}
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        scores = model.score([_request(model, items[index], scoring) for index in chunk])
        results |= {index: _result(items[index], each, scoring) for index, each in zip(chunk, scores, strict=True)}
        if progress is not None:
            progress(len(results), len(items))
    return tuple(results[index] for index in range(len(items)))


def accuracy(results: Sequence[ItemResult]) -> float:
    """Give the share of items that were answered right."""
    return sum(result.correct for result in results) / len(results)


def mean_logprob(results: Sequence[ItemResult]) -> float:
    """Give the mean log-probability of the right answer among the options: the fitness of a search."""
    return math.fsum(result.logprob for result in results) / len(results)


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ItemError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ItemError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}")


def _malformed(row: Any) -> str | None:  # noqa: ANN401, PLR0911 - a row of a stranger's file may be anything
    if not isinstance(row, dict):
        return "a line wants one JSON object"
    for key in ("id", "question"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return f"{key!r} wants a text"
    options, answer = row.get("options"), row.get("answer")
    if not isinstance(options, dict) or not all(isinstance(text, str | None) for text in options.values()):
        return "'options' wants an object of letters and texts"
    if not isinstance(answer, list) or not all(isinstance(letter, str) for letter in answer):
        return "'answer' wants a list of letters"
    if not isinstance(row.get("meta", {}), dict):
        return "'meta' wants an object"
    if options and _scorable(row):
        if not answer:
            return "'answer' is empty"
        strangers = [letter for letter in answer if not isinstance(options.get(letter), str)]
        if strangers:
            return f"the answer {strangers[0]!r} is not among the options {', '.join(options)}"
    return None


def _scorable(row: Mapping[str, Any]) -> bool:
    meta = row.get("meta", {})
    unfit = any(meta.get(flag) for flag in ("needs_image", "excluded", "defect", "dup_of"))
    return bool(row["options"]) and not unfit


def _item(row: Mapping[str, Any]) -> Item:
    meta = row.get("meta", {})
    stem = meta.get("stem")
    question = f"{stem}\n\n{row['question']}" if stem else row["question"]
    options = {letter: text for letter, text in row["options"].items() if text is not None}
    cluster = str(meta.get("cluster") or meta.get("serial_group") or row["id"])
    return Item(row["id"], question, options, tuple(row["answer"]), str(meta.get("lang", "en")), cluster, meta)


def _request(model: LanguageModel, item: Item, scoring: str) -> Request:
    if scoring == "option_text":
        return Request(model.render(item.question), tuple(item.options.values()))
    options = "\n".join(f"{letter}. {text}" for letter, text in item.options.items())
    template = _LETTER_PROMPT.get(item.lang, _LETTER_PROMPT["en"])
    return Request(model.render(template.format(question=item.question, options=options)), tuple(item.options))


def _result(item: Item, scores: tuple[Score, ...], scoring: str) -> ItemResult:
    if scoring == "letter" and any(score.tokens != 1 for score in scores):
        raise ItemError(
            f"item {item.id}: the letters {', '.join(item.options)} are not one token each for this tokenizer; "
            "use scoring: option_text"
        )
    # The mean over tokens keeps a long option from losing by its length alone.
    raw = {letter: score.logprob / score.tokens for letter, score in zip(item.options, scores, strict=True)}
    total = _logsumexp(list(raw.values()))
    logprobs = {letter: value - total for letter, value in raw.items()}
    ranked = sorted(logprobs, key=lambda letter: -logprobs[letter])
    prediction = tuple(sorted(ranked[: len(item.answer)]))
    right = _logsumexp([logprobs[letter] for letter in item.answer])
    correct = prediction == tuple(sorted(item.answer))
    return ItemResult(item.id, item.lang, item.cluster, prediction, correct, right, logprobs)


def _logsumexp(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))
