"""The values that evaluators share, and what they ask of a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


class ItemError(ValueError):
    """An item file that cannot be read: the message names the file, the line and the reason."""


@dataclass(frozen=True)
class Item:
    """One question with options. `answer` holds the right letters; `cluster` groups items that are not independent."""

    id: str
    question: str
    options: Mapping[str, str]
    answer: tuple[str, ...]
    lang: str
    cluster: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """Which items a recipe asks for: files, the split, and languages, relations and a limit where it narrows them."""

    paths: tuple[Path, ...]
    split: str
    lang: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def described(self) -> str:
        """Name the files for an error."""
        return ", ".join(str(path) for path in self.paths) or "the files that it is given (it wants a path)"


@dataclass(frozen=True)
class Request:
    """A prompt and the texts that might follow it."""

    prompt: str
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """Log-probability of one continuation (natural log, summed over its tokens) and the count of its tokens."""

    logprob: float
    tokens: int


class LanguageModel(Protocol):
    """What an evaluator asks of a model; `engine.inference` answers on transformers."""

    def render(self, question: str) -> str:
        """Write one user turn as a prompt that ends where the answer begins."""
        ...

    def score(self, requests: Sequence[Request]) -> list[tuple[Score, ...]]:
        """Score every continuation of every request, in the order given."""
        ...


@dataclass(frozen=True)
class ItemResult:
    """How a model did on one item. `logprobs` are normalised over the options, so they are comparable across modes."""

    id: str
    lang: str
    cluster: str
    prediction: tuple[str, ...]
    correct: bool
    logprob: float
    logprobs: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Give the JSON object that is stored, one a line."""
        return asdict(self) | {"prediction": list(self.prediction), "logprobs": dict(self.logprobs)}


# Who listens to the progress of an evaluation: items done, items in all.
Progress = Callable[[int, int], None]
