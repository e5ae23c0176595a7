"""The shape of the project: its linters, its import rules, its recipes, and that planning starts fast."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import evaluators
from engine.recipe import load_recipe

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("engine", "evaluators", "tests") for path in (ROOT / package).rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("recipe*.yaml"))
HEAVY = ("torch", "transformers", "optuna")


def called(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_passes(name: str, *arguments: str) -> None:
    done = called(str(Path(sys.executable).with_name(name)), *arguments)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_ruff_finds_nothing() -> None:
    assert_passes("ruff", "check", "--quiet")


def test_ruff_would_reformat_nothing() -> None:
    assert_passes("ruff", "format", "--check")


@pytest.mark.slow
def test_mypy_finds_nothing() -> None:
    assert_passes("mypy", "--strict")


def test_data_flows_one_way() -> None:
    assert_passes("lint-imports", "--no-cache")


@pytest.mark.parametrize("module", ["engine.recipe", "engine.plan", "engine.cli", "engine.preflight"])
def test_planning_imports_nothing_that_computes(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = called(sys.executable, "-c", code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_planning_and_checking_a_recipe_imports_nothing_that_computes() -> None:
    code = (
        "import sys; from pathlib import Path; from engine.recipe import load_recipe; import evaluators\n"
        f"load_recipe(Path({str(RECIPES[0])!r}))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = called(sys.executable, "-c", code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_there_are_recipes() -> None:
    assert ROOT / "recipes" / "quickstart" / "recipe.yaml" in RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_loads_and_opens_with_a_sentence_and_its_command(path: Path) -> None:
    loaded = load_recipe(path)
    assert loaded.warnings == ()
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [
        line.removeprefix("#").strip() for line in lines[: next(n for n, one in enumerate(lines) if one[:1] != "#")]
    ]
    assert re.fullmatch(r"[A-Z].{20,}[.]", head[0]), head
    assert any(f"recipe run {path.relative_to(ROOT)}" in line for line in head), head


@pytest.mark.parametrize("name", evaluators.names())
def test_an_evaluator_is_a_function_of_a_selection(name: str) -> None:
    module = importlib.import_module(f"evaluators.{name}")
    (parameter,) = inspect.signature(module.items).parameters.values()
    assert parameter.annotation == "Selection"
    assert inspect.signature(module.items).return_annotation == "tuple[Item, ...]"
    assert module.items.__doc__


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert said
    assert len(said.split()) >= 3


def test_only_the_display_prints() -> None:
    printing = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.is_relative_to(ROOT / "engine") or path.is_relative_to(ROOT / "evaluators")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert set(printing) <= {"engine/display.py"}
