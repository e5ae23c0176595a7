"""The driver of the study: what it tries, and that a search cut off anywhere goes on as if it had not been."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from engine.errors import StageError
from engine.search.driver import Candidate, search

SPACE = {
    "m1.weight": {"low": 0.0, "high": 1.5, "log": False},
    "m2.weight": {"low": 0.0, "high": 1.5, "log": False},
    "m2.density": {"low": 0.2, "high": 1.0, "log": False, "step": 0.3},
    "lambda": {"low": 0.01, "high": 10.0, "log": True},
}
STARTS = [
    ("uniform", {"m1.weight": 0.5, "m2.weight": 0.5, "m2.density": 0.5, "lambda": 1.0}),
    ("parent", {"m1.weight": 1.0, "m2.weight": 0.0, "m2.density": 0.5, "lambda": 1.0}),
]
# TPE draws at random until it has seen ten points: the trials beyond show that it goes on with its history.
N_TRIALS = {"tpe": 15, "random": 6}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory where there is one: a study waits for the disk at every step, and that adds up."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def bowl(number: int, point: Mapping[str, float]) -> tuple[float, Mapping[str, Any]]:
    """A fitness with its peak, 0, at (0.3, 0.8, 0.5, 1)."""
    peak = {"m1.weight": 0.3, "m2.weight": 0.8, "m2.density": 0.5}
    loss = sum((point[name] - value) ** 2 for name, value in peak.items()) + 0.1 * math.log(point["lambda"]) ** 2
    return -loss, {"accuracy": 1 / (1 + loss)}


def failing(number: int, point: Mapping[str, float]) -> tuple[float, Mapping[str, Any]]:
    """As the bowl, but trials 0 and 3 cannot be scored."""
    if number == 0:
        raise ValueError("weights sum to zero")
    if number == 3:
        raise StageError("The merged tensor x has NaN or infinite values.", hint="Its weights are too large.")
    return bowl(number, point)


class CutOff:
    """A score that is interrupted when it comes to a trial."""

    def __init__(self, score: Any, trial: int) -> None:
        self.score = score
        self.trial = trial

    def __call__(self, number: int, point: Mapping[str, float]) -> tuple[float, Mapping[str, Any]]:
        if number == self.trial:
            raise KeyboardInterrupt
        found: tuple[float, Mapping[str, Any]] = self.score(number, point)
        return found


def run(
    folder: Path,
    score: Any = bowl,
    *,
    sampler: str = "tpe",
    n_trials: int | None = None,
    seed: int = 42,
    told: list[Candidate] | None = None,
) -> list[Candidate]:
    folder.mkdir(exist_ok=True)
    heard = [] if told is None else told
    settings = {"n_trials": n_trials or N_TRIALS[sampler], "sampler": sampler, "seed": seed}
    return search(SPACE, score, starts=STARTS, settings=settings, folder=folder, told=heard.append)


def essence(candidates: list[Candidate]) -> list[tuple[Any, ...]]:
    """All of a candidate but its duration."""
    return [(one.number, dict(one.point), one.origin, one.fitness, dict(one.facts)) for one in candidates]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_candidates_come_in_order_starts_first(folder: Path, sampler: str) -> None:
    told: list[Candidate] = []
    found = run(folder, sampler=sampler, told=told)
    assert told == found
    assert [one.number for one in found] == list(range(N_TRIALS[sampler]))
    assert [one.origin for one in found] == ["uniform", "parent", *[sampler] * (N_TRIALS[sampler] - 2)]
    assert [dict(one.point) for one in found[:2]] == [point for _, point in STARTS]
    for one in found:
        assert one.fitness == bowl(0, one.point)[0]
        assert one.facts == bowl(0, one.point)[1]
        assert one.seconds >= 0
        assert all(SPACE[name]["low"] <= value <= SPACE[name]["high"] for name, value in one.point.items())
        assert min(abs(one.point["m2.density"] - value) for value in (0.2, 0.5, 0.8)) < 1e-9
    assert len({tuple(one.point.values()) for one in found}) == len(found)


def test_the_same_seed_makes_the_same_search_and_another_makes_another(folder: Path) -> None:
    first, again, other = (
        essence(run(folder / name, seed=seed)) for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    assert first[:2] == other[:2]
    assert all(one[1] != another[1] for one, another in zip(first[2:], other[2:], strict=True))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_cut_off_anywhere_goes_on_as_if_it_had_not_been(folder: Path, sampler: str) -> None:
    whole = essence(run(folder / "whole", failing, sampler=sampler))
    for trial in range(N_TRIALS[sampler]):
        cut = folder / f"cut-{trial}"
        if trial:  # what was finished before the earlier cut, so that each of these is cut off once
            shutil.copytree(folder / f"done-{trial}", cut)
        with pytest.raises(KeyboardInterrupt):
            run(cut, CutOff(failing, trial), sampler=sampler)
        told: list[Candidate] = []
        assert essence(run(cut, failing, sampler=sampler, told=told)) == whole, f"cut off at trial {trial}"
        assert essence(told) == whole
        run(folder / "done", failing, sampler=sampler, n_trials=trial + 1)
        shutil.copytree(folder / "done", folder / f"done-{trial + 1}")


def test_a_search_cut_off_at_every_trial_in_turn_makes_the_same_study(folder: Path) -> None:
    whole = essence(run(folder / "whole", failing, n_trials=12))
    for trial in range(12):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(folder / "cut", CutOff(failing, trial), n_trials=12)
    assert essence(run(folder / "cut", failing, n_trials=12)) == whole


def test_finished_trials_are_not_scored_again(folder: Path) -> None:
    found = run(folder, n_trials=6)

    def never(number: int, point: Mapping[str, float]) -> tuple[float, Mapping[str, Any]]:
        raise AssertionError(f"trial {number} was scored twice")

    assert run(folder, never, n_trials=6) == found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_more_trials_extend_the_study(folder: Path, sampler: str) -> None:
    whole = essence(run(folder / "whole", sampler=sampler))
    for n_trials in (1, 2, 3, 5):
        assert essence(run(folder / "grown", sampler=sampler, n_trials=n_trials)) == whole[:n_trials]
    assert essence(run(folder / "grown", sampler=sampler)) == whole
    assert essence(run(folder / "grown", sampler=sampler, n_trials=4)) == whole[:4]


def test_what_cannot_be_scored_is_recorded_and_the_search_goes_on(folder: Path) -> None:
    found = run(folder, failing, n_trials=6)
    assert [one.number for one in found if one.fitness is None] == [0, 3]
    assert found[0].facts == {"failed": "weights sum to zero"}
    assert found[3].facts == {"failed": "The merged tensor x has NaN or infinite values."}
    assert found[0].origin == "uniform"
    assert dict(found[0].point) == STARTS[0][1]


def test_a_fault_of_ours_is_not_taken_for_a_merge_that_cannot_be(folder: Path) -> None:
    def broken(number: int, point: Mapping[str, float]) -> tuple[float, Mapping[str, Any]]:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        run(folder, broken)


def test_tpe_finds_better_points_than_its_starts(folder: Path) -> None:
    found = run(folder, n_trials=40)
    assert max(one.fitness or -9.0 for one in found[10:]) > max(one.fitness or -9.0 for one in found[:10])
    assert found[0].fitness == bowl(0, STARTS[0][1])[0]


def test_no_starts_are_needed(folder: Path) -> None:
    settings = {"n_trials": 3, "sampler": "random", "seed": 0}
    found = search(SPACE, bowl, starts=[], settings=settings, folder=folder, told=lambda _: None)
    assert [one.origin for one in found] == ["random"] * 3


@pytest.mark.parametrize("written", [[], ["number", "origin"], ["number", "origin", "seconds"]])
def test_a_kill_between_score_and_tell_leaves_nothing_that_counts(folder: Path, written: list[str]) -> None:
    """A process that dies in the middle of its records leaves a running trial with some of them."""
    whole = essence(run(folder / "whole", failing, sampler="random"))
    run(folder / "killed", failing, sampler="random", n_trials=3)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'killed' / 'study.db'}")
    trial = study.ask()
    for name in written:
        trial.set_user_attr(name, {"number": 3, "origin": "random", "seconds": 0.1}[name])
    assert essence(run(folder / "killed", failing, sampler="random")) == whole
