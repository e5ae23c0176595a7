"""Runs that are stopped, doubled, or have nobody to talk to: the exit code, prose, and the command to type next."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.pipeline.workspace import COMMAND, MERGE, PATIENCE, SEARCH, TRAIN, Workspace, environment, prepare, wait_for

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Workspace:
    """A recipe whose search takes long; every test here stops it, and it goes on in the next."""
    return prepare(tmp_path_factory.mktemp("searching"), models, SEARCH)


def trials(workspace: Workspace) -> int:
    return sum(event["event"] == "trial_finished" for event in workspace.events())


def started(workspace: Workspace) -> subprocess.Popen[str]:
    """Run the recipe, and come back when it has scored a few candidates."""
    before = trials(workspace)
    process = workspace.start("run", "recipe.yaml")
    wait_for(process, lambda: trials(workspace) >= before + 3)
    return process


def test_a_signal_stops_the_search_and_says_how_to_go_on(searching: Workspace) -> None:
    process = started(searching)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "to go on: recipe run recipe.yaml\n" in errors
    assert "Traceback" not in errors
    assert searching.events()[-1]["event"] == "run_failed"
    assert not list(searching.store.glob("outputs/.tmp-*"))
    planned = searching.call("plan", "recipe.yaml")
    assert "search sought    will run, because it was begun: it goes on where it was" in planned.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_imports_of_training(
    models: dict[str, Path], tmp_path: Path, number: int, code: int
) -> None:
    workspace = prepare(tmp_path, {"base": models["base"]}, TRAIN)
    process = workspace.start("run", "recipe.yaml")
    wait_for(process, lambda: any(event["stage"] == "sft japanese" for event in workspace.events()))
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert errors.endswith("What is finished is kept; to go on: recipe run recipe.yaml\n")
    assert "Traceback" not in errors


def test_a_second_run_is_refused_with_the_pid_and_a_dead_one_is_not_waited_for(searching: Workspace) -> None:
    first = started(searching)
    before = len(searching.events())
    second = searching.call("run", "recipe.yaml")
    assert second.returncode == 1
    assert f"process {first.pid} on {socket.gethostname()}, since 2" in second.stderr
    assert "run the same command again" in second.stderr
    assert "Traceback" not in second.stderr
    assert all(event["event"] != "run_failed" for event in searching.events()[before:])  # the log is the first one's
    first.kill()
    first.communicate()
    third = started(searching)
    third.terminate()
    third.communicate(timeout=PATIENCE)
    assert third.returncode == 143
    check_nothing_was_asked_again(searching)


def check_nothing_was_asked_again(workspace: Workspace) -> None:
    """What an earlier run scored is told again word for word, the seconds it took among them."""
    told: dict[int, dict[str, object]] = {}
    repeated = 0
    for event in workspace.events():
        if event["event"] == "trial_finished":
            body = {name: value for name, value in event.items() if name != "at"}
            repeated += event["number"] in told
            assert told.setdefault(event["number"], body) == body
    assert list(told) == list(range(len(told)))
    assert repeated


def test_a_reader_that_leaves_is_no_error_worth_a_traceback(searching: Workspace) -> None:
    for arguments in (["run", "recipe.yaml"], ["run", "--json", "recipe.yaml"], ["plan", "recipe.yaml"]):
        process = searching.start(*arguments)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=PATIENCE) == 1
        assert not errors, errors


def test_json_lines_all_parse(models: dict[str, Path], tmp_path: Path) -> None:
    workspace = prepare(tmp_path, models, MERGE)
    done = workspace.call("run", "--json", "recipe.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["event"] for event in events]
    assert (names[0], names[-2:]) == ("stage_started", ["stage_finished", "run_finished"])
    assert events[-1]["folder"] == "merged/pair"
    planned = workspace.call("plan", "--json", "recipe.yaml")
    assert [json.loads(line)["stored"] for line in planned.stdout.splitlines()] == [True]
    failed = workspace.call("run", "--json", "nowhere.yaml")
    last = json.loads(failed.stdout.splitlines()[-1])
    assert (last["event"], last["kind"], last["exit_code"]) == ("run_failed", "RecipeError", failed.returncode)
    assert "nowhere.yaml" in last["message"]


def test_without_a_terminal_there_are_plain_lines(reference: Workspace) -> None:
    for arguments in (("plan", "recipe.yaml"), ("run", "recipe.yaml"), ("run", "nowhere.yaml")):
        done = reference.call(*arguments)
        written = done.stdout + done.stderr
        assert written.endswith("\n")
        assert not [char for char in written if ord(char) < 32 and char != "\n"]


def test_on_a_terminal_there_are_colours(reference: Workspace) -> None:
    """The plain lines are no accident: the same command colours them where it can."""
    master, slave = os.openpty()
    terminal = {**environment(), "TERM": "xterm-256color"}
    command = [COMMAND, "plan", "recipe.yaml"]
    subprocess.run(command, cwd=reference.folder, env=terminal, stdout=slave, check=True, timeout=PATIENCE)
    os.close(slave)
    assert b"\x1b[" in os.read(master, 65536)
    os.close(master)
