"""`kill -9` at random moments, and the same command again: the result is that of the run that nothing disturbed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.pipeline.workspace import MERGE, PATIENCE, Workspace, prepare, without_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Moment:
    """A kill: after `count` events of a kind in a stage (or from the start of the command), and up to `within` more."""

    stage: str
    event: str
    count: int
    within: float


# The run spends most of its time in imports, so moments that are drawn over its whole length would seldom hit the work.
# Each of these is drawn within one part of it; which item, step or instruction it hits is chance.
MOMENTS = (
    Moment("sft japanese", "stage_started", 1, 5.0),
    Moment("sft japanese", "loss", 2, 0.2),  # about the first checkpoint
    Moment("sft english", "loss", 7, 0.1),  # in the second epoch
    Moment("search tiny", "stage_started", 1, 1.5),
    Moment("search tiny", "trial_finished", 5, 0.5),
    Moment("search tiny", "trial_finished", 15, 0.6),  # about the select split
    Moment("search tiny", "stage_finished", 1, 0.02),
    Moment("merge tiny", "stage_started", 1, 0.03),
    Moment("evaluate tiny", "stage_started", 1, 0.0),
    Moment("evaluate tiny", "stage_started", 1, 1.0),
)


@dataclass(frozen=True)
class Wreck:
    """What a kill left: the stage that it hit, and the answers that were on the disk by then."""

    stage: str
    answers: dict[str, tuple[int, int]]


def test_ten_kills_change_nothing(reference: Workspace, models: dict[str, Path], tmp_path: Path) -> None:
    workspace = prepare(tmp_path, {"base": models["base"]})
    draw = random.Random(0)
    wrecks = [killed(workspace, moment, draw) for moment in MOMENTS]
    workspace.run()
    landed = [wreck.stage for wreck in wrecks]
    # A merge of this size takes a few hundredths of a second; the merge's own test below hits one for certain.
    assert {stage.split()[0] for stage in landed} >= {"sft", "search", "evaluate"}, landed
    assert workspace.sums == reference.sums, landed
    assert without_seconds(workspace.scores) == without_seconds(reference.scores), landed
    check_nothing_was_done_twice(workspace, wrecks)
    check_nothing_is_left_over(workspace)


def test_five_kills_anywhere_change_nothing(reference: Workspace, models: dict[str, Path], tmp_path: Path) -> None:
    workspace = prepare(tmp_path, {"base": models["base"]})
    draw = random.Random(1)
    whole = sum(event.get("seconds", 0.0) for event in reference.events() if event["event"] == "stage_finished")
    wrecks = [killed(workspace, Moment("", "", 0, whole), draw) for _ in range(5)]
    workspace.run()
    landed = [wreck.stage for wreck in wrecks]
    assert workspace.sums == reference.sums, landed
    assert without_seconds(workspace.scores) == without_seconds(reference.scores), landed
    check_nothing_was_done_twice(workspace, wrecks)
    check_nothing_is_left_over(workspace)


def test_kills_in_a_merge_leave_it_absent_or_whole(models: dict[str, Path], tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole", models, MERGE)
    whole.run()
    workspace = prepare(tmp_path / "killed", models, MERGE)
    draw = random.Random(2)
    wrecks = [killed(workspace, Moment("merge pair", "stage_started", 1, within), draw) for within in (0.3, 1.0, 1.5)]
    workspace.run()
    assert "merge pair" in [wreck.stage for wreck in wrecks]
    assert workspace.sums == whole.sums
    check_nothing_was_done_twice(workspace, wrecks)
    check_nothing_is_left_over(workspace)


def killed(workspace: Workspace, moment: Moment, draw: random.Random) -> Wreck:
    """Run the recipe up to a moment, and kill it there without warning; a run that ends before is left to its end."""
    before = len(workspace.events())
    process = workspace.start("run", "recipe.yaml", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + PATIENCE
    while process.poll() is None and not _reached(workspace.events()[before:], moment):
        assert time.monotonic() < patience, moment
        time.sleep(0.002)
    # The kill stays in its stage: on a quick machine the rest of the run would be over in half a second.
    deadline = time.monotonic() + draw.uniform(0, moment.within)
    while process.poll() is None and time.monotonic() < deadline and not _over(workspace.events()[before:], moment):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return Wreck(_unfinished(workspace.events()), _answers(workspace))


def check_nothing_was_done_twice(workspace: Workspace, wrecks: Sequence[Wreck]) -> None:
    """No stage runs after it was whole, and no answers that were on the disk are written again."""
    events = workspace.events()
    whole: set[str] = set()
    for event in events:
        assert not (event["event"] == "stage_started" and event["stage"] in whole), event
        if event["event"] in ("stage_finished", "stage_reused"):
            whole.add(event["stage"])
    finished = [event["stage"] for event in events if event["event"] == "stage_finished"]
    assert len(finished) == len(set(finished))
    last = _answers(workspace)
    for wreck in wrecks:
        assert wreck.answers.items() <= last.items(), wreck.stage
    told: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "trial_finished":
            body = {name: value for name, value in event.items() if name != "at"}
            # The same seconds: a trial that was asked again would not take the same time to the millisecond.
            assert told.setdefault(event["number"], body) == body


def check_nothing_is_left_over(workspace: Workspace) -> None:
    """Nothing half-written stays, and no scratch but that of the search, which a longer search goes on from."""
    left = [path.name for path in workspace.merged.parent.rglob("*") if path.name.startswith((".tmp-", ".model."))]
    assert not left
    scratch = workspace.store / "scratch"
    assert all((folder / "study.db").is_file() for folder in scratch.iterdir())


def _reached(events: Sequence[dict[str, Any]], moment: Moment) -> bool:
    met = [event for event in events if (event["event"], event["stage"]) == (moment.event, moment.stage)]
    return len(met) >= moment.count or _over(events, moment)


def _over(events: Sequence[dict[str, Any]], moment: Moment) -> bool:
    """Tell whether the stage is whole, now or from before: then there is nothing of it left to hit."""
    whole = ("stage_finished", "stage_reused")
    return any(event["event"] in whole and event["stage"] == moment.stage for event in events)


def _unfinished(events: Sequence[dict[str, Any]]) -> str:
    state = {event["stage"]: event["event"] for event in events if event["event"].startswith("stage_")}
    begun = [stage for stage, last in state.items() if last == "stage_started"]
    return begun[-1] if begun else "between stages"


def _answers(workspace: Workspace) -> dict[str, tuple[int, int]]:
    """Give the inode and time of every file of answers: one that is written again has others."""
    files = sorted(workspace.store.glob("scratch/*/*-*-fact_table.jsonl"))
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_the_study_holds_every_trial_once(reference: Workspace) -> None:
    study = next(reference.store.glob("scratch/*/study.db"))
    lines = (reference.merged / "stages/search-tiny/trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(16))
    assert study.stat().st_size > 0
