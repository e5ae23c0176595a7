"""The tables of the merge benchmark: what each took, the ratios with their goals, the floors, where our time goes."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench import report
from tests.bench.report import Run, Table

FIRST, KNOWN, CORE, MERGEKIT = "ours, first run", "ours, sources known", "ours, merge alone", "mergekit"
RECIPES, OURS = (FIRST, KNOWN), (FIRST, KNOWN, CORE)
FLOOR = "floor"
FLOORS = ("cp", "bare lerp", "sha256 of the output", "import torch")
GOALS = {"linear": 3.0, "slerp": 8.0, "ties": 7.0, "dare_ties": 4.0}
"""How many times ours mergekit's CPU seconds should be; of the wall seconds half as many."""
OVER_LERP = 1.3
"""How many times the bare lerp our linear merge may take."""


def tables(runs: Sequence[Run], methods: Sequence[str]) -> list[Table]:
    """Put the measurements together."""
    ours = [(method, system) for method in methods for system in OURS]
    return [
        Table(
            "What each took",
            ("method", "system", *report.USAGE),
            [
                [method, system, *report.usage_row(report.of(runs, method, system))]
                for method in methods
                for system in (*OURS, MERGEKIT)
            ],
        ),
        Table(
            "mergekit / ours",
            ("method", "ours", "CPU", "goal", "wall", "goal"),
            [_ratios(runs, method, system) for method, system in ours],
        ),
        Table(
            "Our RssAnon as a share of mergekit's memory (goal: at most 0.2 of its peak RSS)",
            ("method", "ours", "of its peak RSS", "of its RssAnon"),
            [_memory(runs, method, system) for method, system in ours],
        ),
        Table(
            "Floors",
            ("floor", *report.USAGE),
            [[name, *report.usage_row(report.of(runs, FLOOR, name))] for name in FLOORS],
            names=1,
        ),
        Table(
            f"Ours / floor (goal for linear: CPU / lerp at most {OVER_LERP})",
            ("method", "ours", "CPU / lerp", "wall / lerp", "CPU / (lerp + sha256)", "CPU / cp", "wall / cp"),
            [_over_floor(runs, method, system) for method, system in ours],
        ),
        phases([(method, system, report.of(runs, method, system)) for method in methods for system in RECIPES]),
    ]


def phases(groups: Sequence[tuple[str, str, Sequence[Run]]]) -> Table:
    """Tell where our wall seconds go, for groups of (method, system, runs)."""
    rows = [
        [method, system, *(report.spread([run.phases[name] for run in runs]) for name in ("before", "in", "after"))]
        for method, system, runs in groups
    ]
    headings = ("method", "ours", "before the stage (start, digests, preflight)", "the stage", "after it")
    return Table("Where our wall seconds go, by the event log", headings, rows)


def _ratios(runs: Sequence[Run], method: str, system: str) -> list[str]:
    theirs, mine = report.of(runs, method, MERGEKIT), report.of(runs, method, system)
    cpu, wall = report.cpu(theirs) / report.cpu(mine), report.wall(theirs) / report.wall(mine)
    goal = GOALS.get(method)
    wanted = ("", "") if goal is None else (f">= {goal:g}", f">= {goal / 2:g}")
    return [method, system, f"{cpu:.2f}", wanted[0], f"{wall:.2f}", wanted[1]]


def _memory(runs: Sequence[Run], method: str, system: str) -> list[str]:
    theirs, mine = report.of(runs, method, MERGEKIT), report.of(runs, method, system)
    anon = report.median(run.usage.anon for run in mine)
    shares = (
        anon / report.median(sizes)
        for sizes in ([run.usage.peak for run in theirs], [run.usage.anon for run in theirs])
    )
    return [method, system, *(f"{share:.3f}" for share in shares)]


def _over_floor(runs: Sequence[Run], method: str, system: str) -> list[str]:
    mine = report.of(runs, method, system)
    copy, lerp, sums = (report.of(runs, FLOOR, name) for name in FLOORS[:3])
    cpu, wall = report.cpu(mine), report.wall(mine)
    ratios = (
        cpu / report.cpu(lerp),
        wall / report.wall(lerp),
        cpu / (report.cpu(lerp) + report.cpu(sums)),
        cpu / report.cpu(copy),
        wall / report.wall(copy),
    )
    return [method, system, *(f"{ratio:.2f}" for ratio in ratios)]
