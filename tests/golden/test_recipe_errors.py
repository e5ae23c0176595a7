"""The exact words in which broken recipes are refused. To accept new ones: `UPDATE_GOLDEN=1 pytest tests/golden`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.errors import RecipeError
from engine.recipe import load_recipe

FOLDER = Path(__file__).parent / "recipe_errors"
BROKEN = sorted(FOLDER.glob("*.yaml"))


def refuse(path: Path) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return caught.value


def test_there_are_broken_recipes() -> None:
    assert len(BROKEN) >= 3


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_the_message_is_the_golden_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    said = str(refuse(Path(path.name))) + "\n"
    golden = path.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(said, encoding="utf-8")
    assert said == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_every_problem_has_its_place_and_a_hint(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    for problem in refuse(path).problems:
        assert problem.source == lines[problem.line - 1]
        assert 1 <= problem.column <= len(problem.source) + 1
        assert problem.hint


def test_eight_mistakes_are_reported_at_once_each_on_its_line() -> None:
    problems = refuse(FOLDER / "eight_mistakes.yaml").problems
    assert [(problem.line, problem.message.split(" ", 1)[0]) for problem in problems] == [
        (6, "no"),  # a reference to a section that is not there
        (8, "`learning_rate`"),  # a word where a number is wanted
        (9, "`training`"),  # a key given twice
        (11, "there"),  # an unknown merge method
        (15, "`weight`:"),  # a range upside down
        (18, "`dtpye`"),  # an unknown key
        (24, "there"),  # an unknown evaluator
        (27, "yakugakuqa"),  # the test reads the items of the objective
    ]
    carets = [problem.source[problem.column - 1 :] for problem in problems]
    assert [text.split(maxsplit=1)[0] for text in carets] == [
        "mistrall",
        "fast,",
        "training:",
        "dare_tie",
        "{low:",
        "dtpye:",
        "medmcqq,",
        "{evaluator:",
    ]
