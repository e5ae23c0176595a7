"""The driver that owns the Optuna study: ask, score, tell; killed at any instant, it goes on where it was.

The study lies in SQLite with one writer. A candidate's place in the sequence is the count of those finished before it,
and the sampler is seeded by that place: a trial that was cut off is asked for again with the same seed and the same
history, so a resumed search makes the same study as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import StageError
from engine.search.space import nearest

if TYPE_CHECKING:
    import optuna

_STUDY = "search"


@dataclass(frozen=True)
class Candidate:
    """A scored point. `origin` says where it came from: parent, uniform … or the sampler's name."""

    number: int
    point: Mapping[str, float]
    origin: str
    fitness: float | None
    facts: Mapping[str, Any]
    seconds: float


# Scores a point: (number, point) -> (fitness, other facts as JSON). May raise ValueError or StageError for a merge that
# cannot be; one that is not finite, for example.
Score = Callable[[int, Mapping[str, float]], tuple[float, Mapping[str, Any]]]


def search(
    space: Mapping[str, Mapping[str, Any]],
    score: Score,
    *,
    starts: Sequence[tuple[str, Mapping[str, float]]],
    settings: Mapping[str, Any],
    folder: Path,
    told: Callable[[Candidate], None],
) -> list[Candidate]:
    """Score `n_trials` candidates, first the given starts, then what the sampler asks for.

    Args:
        space: Ranges by name (`low`, `high`, `log`, `step`).
        score: What scores a point.
        starts: Points to try first, with their origin.
        settings: `n_trials`, `sampler` (tpe or random), `seed`.
        folder: Where the study lives; found there, it is continued.
        told: Called with every candidate, also with those of an earlier run.

    Returns:
        All finished candidates in their order; one that could not be scored has no fitness.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open(folder, settings)
    distributions = {name: _distribution(value) for name, value in space.items()}
    candidates = _finished(study)
    for candidate in candidates:
        told(candidate)
    while len(candidates) < settings["n_trials"]:
        number = len(candidates)
        started = time.monotonic()
        if number < len(starts):
            origin, point = starts[number]
            value, facts = _attempt(score, number, point)
            attributes = _attributes(number, origin, facts, started)
            study.add_trial(_trial(point, distributions, value, attributes))
        else:
            study.sampler = _sampler(settings, number)
            trial = study.ask(distributions)
            point = trial.params
            value, facts = _attempt(score, number, point)
            for name, fact in _attributes(number, settings["sampler"], facts, started).items():
                trial.set_user_attr(name, fact)
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
        candidates = _finished(study)
        told(candidates[-1])
    return candidates[: settings["n_trials"]]


def _open(folder: Path, settings: Mapping[str, Any]) -> optuna.Study:
    """Open the study and close what a killed process left open."""
    import optuna

    storage = optuna.storages.RDBStorage(
        f"sqlite:///{(folder / 'study.db').resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    study = optuna.create_study(
        study_name=_STUDY,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=_sampler(settings, 0),
    )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _sampler(settings: Mapping[str, Any], number: int) -> optuna.samplers.BaseSampler:
    import optuna

    seed = (settings["seed"] * 1_000_003 + number) % 2**32
    if settings["sampler"] == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def _distribution(value: Mapping[str, Any]) -> optuna.distributions.BaseDistribution:
    import optuna

    # Where the step does not divide the range, Optuna warns and ends it at the last number of the grid.
    high = nearest(value["high"], value)
    return optuna.distributions.FloatDistribution(
        value["low"], high, log=value.get("log", False), step=value.get("step")
    )


def _attempt(score: Score, number: int, point: Mapping[str, float]) -> tuple[float | None, Mapping[str, Any]]:
    try:
        value, facts = score(number, point)
    except StageError as error:
        return None, {"failed": error.message}
    except ValueError as error:
        return None, {"failed": str(error)}
    if not math.isfinite(value):  # Optuna would refuse it, and the trial would be asked for again for ever
        return None, {"failed": f"its score is {value}, not a finite number"}
    return value, facts


def _attributes(number: int, origin: str, facts: Mapping[str, Any], started: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 3)
    # The facts last: they make a failed trial count, and a kill between two attributes must not leave half of one.
    return {"number": number, "origin": origin, "seconds": seconds, "facts": dict(facts)}


def _trial(
    point: Mapping[str, float],
    distributions: Mapping[str, optuna.distributions.BaseDistribution],
    value: float | None,
    attributes: Mapping[str, Any],
) -> optuna.trial.FrozenTrial:
    import optuna

    state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state, value=value, params=dict(point), distributions=dict(distributions), user_attrs=dict(attributes)
    )


def _finished(study: optuna.Study) -> list[Candidate]:
    """List the candidates that were scored or found impossible; one that was cut off is neither and does not count."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and _counts(trial)]
    return [
        Candidate(
            trial.user_attrs["number"],
            trial.params,
            trial.user_attrs["origin"],
            trial.value,
            trial.user_attrs["facts"],
            trial.user_attrs["seconds"],
        )
        for trial in found
    ]


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.value is not None or "failed" in trial.user_attrs.get("facts", {})
