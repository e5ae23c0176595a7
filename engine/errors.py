"""The error tree: what a person did or met, in prose, with the place and the remedy.

    RecipeEngineError
    ├── RecipeError   every problem of a recipe at once: line, column, source line, hint    exit 2
    ├── PinError      a repository, revision or file that cannot be found                   exit 2
    ├── PlanError     references, splits or sources that do not fit                         exit 2
    ├── StageError    the stage, the cause and what to do next                              exit 1
    └── StoreError    who holds the lock; which entry is damaged and how to remove it       exit 1

Anything else that reaches the command line is a bug and is shown as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

# East Asian full-width characters begin behind this code point.
_LAST_NARROW = 0x2E7F


class RecipeEngineError(Exception):
    """Base of every error that is the user's to mend. `hint` says what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe file. `line` and `column` count from 1; 0 means the file as a whole."""

    message: str
    line: int = 0
    column: int = 0
    source: str = ""
    hint: str | None = None

    def render(self, file: str) -> str:
        """Write `file:line:column: message`, the source line with a caret, and the hint."""
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        parts = [f"{place}: {self.message}"]
        if self.source:
            # Full-width characters take two cells: pad with a full-width space so that the caret stands right.
            before = self.source[: self.column - 1]
            pad = "".join("\u3000" if ord(char) > _LAST_NARROW else ("\t" if char == "\t" else " ") for char in before)
            parts += [f"    {self.source}", f"    {pad}^"]
        if self.hint:
            parts.append(f"  {self.hint}")
        return "\n".join(parts)


class RecipeError(RecipeEngineError):
    """Every problem of one recipe file, in the order of its lines."""

    exit_code = 2

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.column))
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        rendered = "\n\n".join(problem.render(file) for problem in self.problems)
        super().__init__(f"{file} has {count}:\n\n{rendered}")


class PinError(RecipeEngineError):
    """A model or file that cannot be found or is not what the lock says."""

    exit_code = 2


class PlanError(RecipeEngineError):
    """References, splits or sources that do not fit together, or a part that is not built yet."""

    exit_code = 2


class StageError(RecipeEngineError):
    """A stage that could not be carried out."""


class StoreError(RecipeEngineError):
    """A store entry that is locked by another process, damaged, or cannot be written."""
