"""The only module that draws: rich on a terminal, plain lines in a pipe, JSON on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.card import interval, percent
from engine.events import Event
from engine.runner import Status

_PLAIN_EVERY = 15.0
_PIPE_WIDTH = 120


class Display:
    """Shows events to a person or a machine."""

    def __init__(self, *, machine: bool = False) -> None:
        self._machine = machine
        # A pipe has no width; tables that are cut for 80 columns would lose their headings.
        self._console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._spoke = 0.0

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self._machine:
            self._line({"event": event.name, "stage": event.stage, **event.data})
            return
        shown = getattr(self, f"_on_{event.name}", None)
        if shown is not None:
            shown(event)

    def plan(self, stages: Sequence[Status], warnings: Sequence[str]) -> None:
        """Show the stages of a plan with what is stored."""
        if self._machine:
            for one in stages:
                self._line({"stage": one.stage.name, "stored": one.stored, "reason": one.reason, "key": one.stage.key})
            return
        for warning in warnings:
            self._warn(warning)
        width = max(len(one.stage.name) for one in stages)
        for number, one in enumerate(stages, start=1):
            word = "[green]stored[/]" if one.stored else f"will run, {escape(one.reason)}"
            self._console.print(f"{number:>2}  {escape(one.stage.name):<{width}}  {word}")

    def scores(self, scores: Mapping[str, Any], folder: Path, seconds: float) -> None:
        """Show the closing table: the test split, and where the result is."""
        if self._machine:
            self._line({"event": "run_finished", "folder": str(folder), "scores": scores})
            return
        rows = [row for row in scores["rows"] if row["split"] == "test"]
        if rows:
            self._console.print(_score_table(rows, rich=self._console.is_terminal))
        if scores["differences"]:
            self._console.print(_difference_table(scores["differences"], rich=self._console.is_terminal))
        self._console.print(
            f"\nDone in {_duration(seconds)}. The model is in {folder / 'model'}, the report in {folder / 'report.md'}."
        )

    def error(self, text: str, *, kind: str, code: int) -> None:
        """Show what went wrong, in prose, on standard error."""
        self.close()
        if self._machine:
            self._line({"event": "run_failed", "kind": kind, "message": text, "exit_code": code})
        else:
            self._errors.print(
                f"[red]{kind}[/] {escape(text)}" if self._errors.is_terminal else f"{kind}: {text}",
                markup=self._errors.is_terminal,
            )

    def text(self, text: str) -> None:
        """Print a text as it is."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    # ---- events ----

    def _on_message(self, event: Event) -> None:
        self._print(f"      {escape(event.data['text'])}")

    def _on_warning(self, event: Event) -> None:
        self._warn(event.data["message"])

    def _on_stage_reused(self, event: Event) -> None:
        self._print(f"{_place(event)}{escape(event.stage)}: [green]stored[/]")

    def _on_stage_started(self, event: Event) -> None:
        self._print(f"{_place(event)}[bold]{escape(event.stage)}[/] …")
        self._spoke = time.monotonic()

    def _on_stage_finished(self, event: Event) -> None:
        self.close()
        self._print(f"      {escape(event.stage)}: [green]done[/] in {_duration(event.data['seconds'])}")

    def _on_loss(self, event: Event) -> None:
        self._print(f"      step {event.data['step']}: loss {event.data['loss']:.4f}")

    def _on_progress(self, event: Event) -> None:
        done, total, unit = event.data["done"], event.data["total"], event.data["unit"]
        if self._console.is_terminal:
            self._advance(event.stage, done, total)
        elif time.monotonic() - self._spoke > _PLAIN_EVERY or (done == total and unit != "B"):
            self._spoke = time.monotonic()
            self._print(f"      {done}/{total} {unit}")

    def _on_trial_finished(self, event: Event) -> None:
        data = event.data
        point = "  ".join(f"{name}={value:.3f}" for name, value in data["point"].items())
        if data["fitness"] is None:
            scored = f"failed: {escape(str(data['failed']))}"
        else:
            mark = "  [green]best so far[/]" if data["fitness"] == data["best"] else ""
            scored = f"logprob {data['fitness']:.4f}  accuracy {percent(data['accuracy'])} %{mark}"
        self._print(
            f"      {data['number'] + 1:>3}/{data['total']} {escape(data['origin']):<8} {escape(point)}  {scored}"
        )
        if self._console.is_terminal:
            self._advance(event.stage, data["number"] + 1, data["total"])

    # ---- drawing ----

    def _advance(self, stage: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("      {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(escape(stage), total=total)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def _print(self, text: str) -> None:
        self._console.print(text)

    def _warn(self, text: str) -> None:
        self._errors.print(f"[yellow]warning[/] {escape(text)}")

    def _line(self, value: Mapping[str, Any]) -> None:
        self._console.file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._console.file.flush()


def _place(event: Event) -> str:
    return f"\\[{event.data['number']}/{event.data['of']}] " if "number" in event.data else "      "


def _score_table(rows: Sequence[Mapping[str, Any]], *, rich: bool) -> Table:
    table = Table(title="Test split", box=None if not rich else Table().box, title_justify="left")
    for name in ("model", "role", "lang"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "accuracy %", "95 % interval", "mean logprob"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        style = "bold green" if row["role"] == "winner" and rich else None
        cells = (str(row["n"]), percent(row["accuracy"]), interval(row), f"{row['mean_logprob']:.3f}")
        table.add_row(escape(row["model"]), row["role"], row["lang"], *cells, style=style)
    return table


def _difference_table(rows: Sequence[Mapping[str, Any]], *, rich: bool) -> Table:
    table = Table(title="Winner minus …", box=None if not rich else Table().box, title_justify="left")
    for name in ("against", "lang"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "points", "95 % interval", "McNemar p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = (str(row["n"]), f"{100 * row['difference']:+.1f}", interval(row), f"{row['p']:.2g}")
        table.add_row(escape(row["b"]), row["lang"], *cells)
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
