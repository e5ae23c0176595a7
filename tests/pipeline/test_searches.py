"""Searches that are lengthened, that fail in places, and whose test asks one evaluator twice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from engine.search.driver import search
from tests.pipeline.workspace import SEARCH, prepare, without_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.mark.slow
def test_a_longer_search_goes_on_from_the_shorter_one(models: dict[str, Path], tmp_path: Path) -> None:
    short, long = (SEARCH.replace("400", count) for count in ("4", "14"))
    grown = prepare(tmp_path / "grown", models, short)
    grown.run()
    study = next(grown.store.glob("scratch/*/study.db"))
    first = {file: file.stat().st_ino for file in study.parent.glob("trial-*")}
    assert len(first) == 4
    grown.recipe.write_text(long)
    grown.run()
    assert {file: file.stat().st_ino for file in first} == first
    assert len(list(study.parent.glob("trial-*"))) == 14
    fresh = prepare(tmp_path / "fresh", models, long)
    fresh.run()
    assert grown.sums == fresh.sums
    assert without_seconds(grown.scores) == without_seconds(fresh.scores)


def test_a_score_that_is_no_number_fails_the_trial_and_not_the_search(tmp_path: Path) -> None:
    def score(number: int, point: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        return (math.nan if number in (0, 3) else -point["w"]), {}

    found = search(
        {"w": {"low": 0.0, "high": 1.0}},
        score,
        starts=[("uniform", {"w": 0.5})],
        settings={"n_trials": 6, "sampler": "tpe", "seed": 1},
        folder=tmp_path,
        told=lambda candidate: None,
    )
    assert [candidate.number for candidate in found] == list(range(6))
    assert [candidate.number for candidate in found if candidate.fitness is None] == [0, 3]
    assert found[3].facts["failed"] == "its score is nan, not a finite number"


def test_an_evaluator_that_is_asked_twice_keeps_both_answers(models: dict[str, Path], tmp_path: Path) -> None:
    one = "split: test, limit: 8"
    twice = f"{one}, lang: ja}}\n  - {{evaluator: fact_table, path: facts.yaml, {one}, lang: en}}"
    workspace = prepare(tmp_path, models, SEARCH.replace("400", "2").replace(f"{one}}}", twice))
    workspace.run()
    items = workspace.merged / "stages" / "evaluate-sought" / "items"
    languages = {
        file.name: {'"lang": "ja"' in line for line in file.read_text().splitlines()} for file in items.iterdir()
    }
    for system in ("m0", "m1", "uniform", "winner"):
        assert languages.pop(f"{system}-fact_table.jsonl") == {True}
        assert languages.pop(f"{system}-fact_table-2.jsonl") == {False}
    assert not languages
