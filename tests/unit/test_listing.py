"""What `recipe list methods` tells, and that it is told without the libraries that compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import merging
from engine.errors import PlanError
from engine.listing import method, methods
from engine.tables import method_line, takes

ROOT = Path(__file__).parents[2]


def test_every_method_that_can_be_named_is_listed_once_in_order() -> None:
    names = [one["name"] for one in methods()]
    assert names == sorted({*merging.names(), *merging.MERGEKIT_METHODS})
    assert {"linear", "slerp", "ties", "dare_ties", "model_stock", "ram"} <= set(names)


@pytest.mark.parametrize("one", methods(), ids=lambda one: one["name"])
def test_a_method_is_described(one: dict[str, Any]) -> None:
    assert one["kernel"] == ("chogo" if one["name"] in merging.names() else "mergekit")
    assert one["summary"].endswith(".")
    assert one["paper"] is None or one["paper"].startswith("https://")
    assert one["models"]["min"] <= (one["models"]["max"] or one["models"]["min"])
    for parameter in one["parameters"]:
        assert parameter["required"] == (parameter["default"] is None)
    line = method_line(one)
    assert "\n" not in line
    assert all(parameter["name"] in line for parameter in one["parameters"])


def test_parameters_say_whose_they_are_and_what_they_default_to() -> None:
    line = method_line(method("ties"))
    assert "weight of each model (required)" in line
    assert "normalize (default true)" in line
    assert "Models: base and any number." in line
    assert "https://arxiv.org/abs/2306.01708" in line


@pytest.mark.parametrize(
    ("base", "low", "high", "text"),
    [
        ("required", 1, 1, "base and 1 more"),
        ("required", 0, None, "base and any number"),
        ("required", 2, None, "base and 2 or more"),
        ("not needed", 1, 1, "1"),
        ("not needed", 1, None, "any number"),
        ("not needed", 2, 2, "2"),
        ("optional", 2, 2, "2, with or without a base"),
    ],
)
def test_the_number_of_models_is_said(base: str, low: int, high: int | None, text: str) -> None:
    assert takes({"base": base, "models": {"min": low, "max": high}}) == text


def test_a_method_that_does_not_exist() -> None:
    with pytest.raises(PlanError, match="no merge method 'tiez'"):
        method("tiez")


def test_listing_imports_nothing_that_computes() -> None:
    code = (
        "import sys; from engine.cli import app; app(['list', 'methods'], standalone_mode=False);"
        "sys.exit(', '.join(n for n in ('torch', 'mergekit', 'transformers', 'numpy') if n in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(methods())
