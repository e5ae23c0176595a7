"""What was measured, for people: tables on the terminal, and a dated section on top of RESULTS.md."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
import rich.table

from tests.bench.measure import Usage

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 160
_HEAD = "# What the benchmarks measured\n\nNewest first; old sections stay as they were written.\n"
_GB = 1e9
USAGE = ("CPU s", "wall s", "peak RSS GB", "RssAnon GB", "RssFile GB", "RssShmem GB", "written GB", "output GB")
"""The headings of `usage_row`."""
NOTES = (
    "Each a process of its own, in turn; median (minimum-maximum). CPU: user and system seconds of a process and its "
    "children. RssAnon, RssFile, RssShmem: peaks of the process tree, read every 20 ms; peak RSS: the kernel's mark "
    "(VmHWM). Memory and bytes are medians; GB = 1e9 bytes. No thread variable is set; HF_HUB_OFFLINE=1."
)


@dataclass(frozen=True)
class Run:
    """One process that was measured. `phases` are wall seconds by our event log, empty for the others."""

    method: str
    system: str
    round: int
    usage: Usage
    output: int
    phases: Mapping[str, float] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()

    def line(self) -> str:
        """Say in a line what it took."""
        used = self.usage
        memory = (
            f"RssAnon {used.anon / _GB:.2f} GB, RssFile {used.file / _GB:.2f} GB, peak RSS {used.peak / _GB:.2f} GB"
        )
        return f"{self.method} {self.round + 1}: {self.system}: {used.cpu:.2f} CPU s, {used.wall:.2f} wall s, {memory}"


class RawFile:
    """Every measurement as a line of JSON, written at once: a benchmark that is stopped keeps what it has."""

    def __init__(self, root: Path, name: str, facts: Mapping[str, str]) -> None:
        (root / "raw").mkdir(parents=True, exist_ok=True)
        self.path = root / "raw" / f"{name}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}.jsonl"
        self._add(dict(facts))

    def keep(self, run: Run) -> None:
        """Write a measurement down."""
        self._add(asdict(run))

    def _add(self, value: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first `names` columns are words, the others are numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 2

    def markdown(self) -> str:
        """Write the table as Markdown, under a heading of its own."""
        rule = ["---"] * self.names + ["---:"] * (len(self.headings) - self.names)
        lines = ["| " + " | ".join(row) + " |" for row in (self.headings, rule, *self.rows)]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        """Draw the table on a terminal."""
        table = rich.table.Table(title=self.title, title_justify="left")
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if number < self.names else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


def console() -> Console:
    """Open the terminal; a pipe has no width of its own, and tables need some."""
    return rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def of(runs: Iterable[Run], method: str, system: str) -> list[Run]:
    """Choose the runs of one system with one method."""
    return [run for run in runs if (run.method, run.system) == (method, system)]


def cpu(runs: Iterable[Run]) -> float:
    """Give the median of the CPU seconds."""
    return median(run.usage.cpu for run in runs)


def wall(runs: Iterable[Run]) -> float:
    """Give the median of the wall seconds."""
    return median(run.usage.wall for run in runs)


def median(values: Iterable[float]) -> float:
    """Give the median of at least one value."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Write the median of values and, of more than one, their range."""
    middle = f"{median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f}-{max(values):.2f})"


def usage_row(runs: Sequence[Run]) -> list[str]:
    """Write what runs took, for the headings of USAGE."""
    used = [run.usage for run in runs]
    sizes = ("peak", "anon", "file", "shmem", "written")
    medians = [median(getattr(one, name) for one in used) for name in sizes] + [median(run.output for run in runs)]
    times = [spread([one.cpu for one in used]), spread([one.wall for one in used])]
    return [*times, *(f"{value / _GB:.2f}" for value in medians)]


def section(title: str, facts: Mapping[str, str], notes: Sequence[str], tables: Sequence[Table]) -> str:
    """Write a section of RESULTS.md; `facts` are those of the machine, with their date."""
    lines = [f"- {name}: {value}" for name, value in facts.items() if name != "date"] + [f"- {note}" for note in notes]
    return "\n".join([f"## {facts['date']}: {title}", "", *lines, "", *(table.markdown() for table in tables)])


def put_on_top(text: str, results: Path) -> None:
    """Write a section above the others of a file; these are not touched."""
    old = results.read_text(encoding="utf-8") if results.is_file() else _HEAD
    head, mark, rest = old.partition("\n## ")
    temporary = results.with_name(f".{results.name}.tmp")
    temporary.write_text(f"{head.rstrip()}\n\n{text.rstrip()}\n{mark}{rest}", encoding="utf-8")
    temporary.replace(results)


def publish(text: str, tables: Sequence[Table], console: Console, results: Path | None) -> None:
    """Show the tables, and put the section on top of a file, or print it where there is none."""
    for table in tables:
        table.show(console)
    if results is None:
        console.print(text, markup=False, soft_wrap=True)
    else:
        put_on_top(text, results)
        console.print(f"The section stands on top of {results}.")
