"""What is shown of ticks, plans and checkpoints: on a terminal, in a pipe, for a machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from engine.display import Display
from engine.events import Event
from engine.listing import methods

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS = 200
TOTAL = 14_500_000_000


def merge(unit: str = "B") -> Iterator[Event]:
    """Give what a merge says from its start to its end."""
    yield Event("stage_started", "merge pair", {"number": 1, "of": 1})
    for tick in range(1, TICKS + 1):
        yield Event("progress", "merge pair", {"done": TOTAL * tick // TICKS, "total": TOTAL, "unit": unit})
    yield Event("stage_finished", "merge pair", {"seconds": 12.5})


def shown(capsys: pytest.CaptureFixture[str], *, machine: bool = False) -> list[str]:
    display = Display(machine=machine)
    for event in merge():
        display(event)
    return capsys.readouterr().out.splitlines()


def test_a_pipe_is_spared_the_ticks(capsys: pytest.CaptureFixture[str]) -> None:
    first, *between, last = shown(capsys)
    assert first == "[1/1] merge pair …"
    assert last.strip() == "merge pair: done in 12.5 s"
    assert len(between) < TICKS / 2  # there are more than none only where this took seconds


def test_a_machine_is_told_the_pace_and_always_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in shown(capsys, machine=True)]
    ticks = [line for line in lines if line["event"] == "progress"]
    assert [lines[0]["event"], lines[-1]["event"]] == ["stage_started", "stage_finished"]
    assert 1 <= len(ticks) < TICKS / 2
    assert ticks[-1]["done"] == ticks[-1]["total"] == TOTAL
    assert ticks[-1]["bytes_per_second"] > 0
    assert ticks[-1]["seconds_left"] == 0


def test_a_terminal_has_a_bar_with_gigabytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    text = "\n".join(shown(capsys))
    assert "/14.5 GB" in text
    assert text.endswith(" in 12.5 s")


@pytest.mark.parametrize("terminal", [True, False])
def test_methods_are_a_table_on_a_terminal_and_lines_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    Display().methods(methods())
    text = capsys.readouterr().out
    assert ("┃" in text) == terminal
    assert (len(text.splitlines()) == len(methods())) != terminal
    assert "slerp" in text


def test_methods_for_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    Display(machine=True).methods(methods())
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == methods()


def test_the_warnings_of_a_plan_reach_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    Display(machine=True).plan([], ["too little room"])
    (line,) = capsys.readouterr().out.splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told == {"event": "warning", "message": "too little room"}
