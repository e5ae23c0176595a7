"""A 7B-shaped merge against copying the same bytes: sources of 29 GB, an output of 14.5 GB, nothing in the page cache.

    python -m tests.bench.seven_b [--shape tiny] [--rounds 1] [--results tests/bench/RESULTS.md]

A round is, each from an empty page cache:

    the floor             29 GB in and 14.5 GB out: `cat` of one source to /dev/null, then `cp` of the other and fsync
    ours, first run       `recipe run` (linear) with a fresh store: the sources are digested too
    ours, sources known   the same with a store that knows the sources' digests and holds no output

Where root may, the cache is emptied by /proc/sys/vm/drop_caches; else the sources alone are taken out of it. Our output
is compared with torch.lerp and removed. On the disk lie the sources, which stay, and one output at a time.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import machine, report
from tests.bench.measure import Usage, measured
from tests.bench.merge_tables import FLOOR, KNOWN, RECIPES, phases
from tests.bench.models import SHAPES, bench_folder, make, need_room, weights
from tests.bench.report import RawFile, Run, Table
from tests.bench.systems import agree, configuration, fresh, model_of, run_ours, size

METHOD = "linear"
READ, COPY, BOTH = "read b", "copy a and fsync", "in and out"
FLOORS = (READ, COPY, BOTH)
WALL_GOAL = 1.5
"""How many times the wall seconds of copying the same bytes in and out ours may be."""
ANON_GOAL = 1.5
"""GB of anonymous memory that ours must stay below."""
_OUTPUTS = 2  # that the disk must have room for: one is written, and a merge may ask for room to be safe
_READ = ("sh", "-c", 'cat "$@" > /dev/null', "sh")
_COPY = ("sh", "-c", 'cp --reflink=never -r "$1" "$2" && sync "$2"/*', "sh")
_FLOOR_NOTE = (
    f"Floor: `cat b/*.safetensors > /dev/null` ({READ}), then `cp -r a OUT && sync OUT/*` ({COPY}): both sources in, "
    "one output out, one after the other. `first run` digests its sources, `sources known` does not; both digest their "
    "output and flush it to the disk."
)


@dataclass(frozen=True)
class Cold:
    """The two sources and a place for one output; `dropped` gathers how the page cache was emptied."""

    models: Mapping[str, Path]
    layers: int
    work: Path
    dropped: list[str] = field(default_factory=list)

    def drop(self) -> None:
        """Empty the page cache."""
        files = [file for folder in self.models.values() for file in weights(folder)]
        self.dropped.append(machine.drop_caches(files))


def one_round(cold: Cold, number: int) -> Iterator[Run]:
    """Measure the floor and ours, each cold.

    Raises:
        SystemExit: A process failed, or our output is wrong.
    """
    yield from _floor(cold, number)
    config, out = cold.work / f"{METHOD}.yml", cold.work / "ours"
    config.write_text(configuration(METHOD, cold.models, cold.layers), encoding="utf-8")
    fresh(out)
    for system in RECIPES:
        if system == KNOWN:
            fresh(out, known=out)
        cold.drop()
        yield run_ours(config, out, (METHOD, system, number))
        agree("reference", model_of(out), cold.models["a"], cold.models["b"])
    shutil.rmtree(out)


def _floor(cold: Cold, number: int) -> Iterator[Run]:
    out, log = cold.work / "floor", cold.work / "floor.log"
    shutil.rmtree(out, ignore_errors=True)
    cold.drop()
    read = measured((*_READ, *map(str, weights(cold.models["b"]))), log)
    copy = measured((*_COPY, str(cold.models["a"]), str(out)), log)
    written = size(out)
    shutil.rmtree(out)
    yield Run(FLOOR, READ, number, read, 0)
    yield Run(FLOOR, COPY, number, copy, written)
    yield Run(FLOOR, BOTH, number, _together(read, copy), written)


def _together(one: Usage, two: Usage) -> Usage:
    """Add up two processes that ran one after the other."""
    values = {name: getattr(one, name) + getattr(two, name) for name in ("wall", "user", "system", "written")}
    peaks = {name: max(getattr(one, name), getattr(two, name)) for name in ("peak", "anon", "file", "shmem")}
    return Usage(started=one.started, **values, **peaks)


def tables(runs: Sequence[Run]) -> list[Table]:
    """Put the measurements together."""
    names = [(FLOOR, name) for name in FLOORS] + [(METHOD, system) for system in RECIPES]
    both = report.wall(report.of(runs, FLOOR, BOTH))
    ratios = []
    for system in RECIPES:
        mine = report.of(runs, METHOD, system)
        anon = report.median(run.usage.anon / 1e9 for run in mine)
        wall = report.wall(mine) / both
        ratios.append([METHOD, system, f"{wall:.2f}", f"<= {WALL_GOAL}", f"{anon:.2f}", f"< {ANON_GOAL}"])
    return [
        Table(
            "What each took",
            ("what", "system", *report.USAGE),
            [[method, system, *report.usage_row(report.of(runs, method, system))] for method, system in names],
        ),
        Table("Ours / in and out", ("method", "ours", "wall", "goal", "RssAnon GB", "goal"), ratios),
        phases([(METHOD, system, report.of(runs, METHOD, system)) for system in RECIPES]),
    ]


def main() -> None:
    """Measure, and tell."""
    options = _options()
    console, root, shape = report.console(), bench_folder(), SHAPES[options.shape]
    there = (root / options.shape).exists()
    needed = (_OUTPUTS + (0 if there else len(shape.models))) * shape.nbytes()
    need_room(root, needed, f"{'' if there else 'the models and '}the output of a merge")
    if not there:
        console.print(f"Making the {options.shape} models in {root} …")
    made = make(options.shape, root)
    work = root / "work" / f"cold-{options.shape}"
    work.mkdir(parents=True, exist_ok=True)
    cold = Cold({name: made[name] for name in ("a", "b")}, shape.layers, work)
    facts = machine.facts(root)
    raw, runs = RawFile(root, f"cold-{options.shape}", facts), []
    for number in range(options.rounds):
        for run in one_round(cold, number):
            raw.keep(run)
            runs.append(run)
            console.print(run.line())
    found = tables(runs)
    nbytes = shape.nbytes() / 1e9
    title = f"a merge of two sources of {nbytes:.1f} GB against copying, page cache empty, n = {options.rounds}"
    notes = (report.NOTES, _FLOOR_NOTE, f"Page cache before each: {'; '.join(cold.dropped)}.")
    report.publish(report.section(title, facts, notes, found), found, console, options.results)
    console.print(f"Every measurement is a line of {raw.path}. The models stay in {root / options.shape}.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure a merge that fits no page cache against copying its bytes.")
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--results", type=Path, help="the file that gets the section on top; else it is printed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
