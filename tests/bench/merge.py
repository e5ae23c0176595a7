"""Merges of 1.1B-parameter checkpoints: Chogo against mergekit and against bare floors, in turn, in one run.

    python -m tests.bench.merge [--shape tiny] [--rounds 1] [--methods linear,ties] [--results tests/bench/RESULTS.md]

A round of a method is five things one after the other, each a process as a user would start it:

    ours, first run       `recipe run` with a fresh store: the sources are digested too
    mergekit              `mergekit-yaml` with its defaults; it digests nothing
    ours, sources known   `recipe run` with a store that knows the sources' digests and holds no output
    ours, merge alone     the same merge without digests, sums, card, and without being opened again
    the floors            with the first method only: cp, a bare lerp, sha256 of the output, importing torch

Before each the inputs are read through, so that the page cache is warm, and what was written before is on the disk.
Outputs are compared (agreement.py) and removed. It stops at the first process that fails and at the first wrong output.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import machine, report
from tests.bench.measure import measured
from tests.bench.merge_tables import CORE, FIRST, FLOOR, FLOORS, KNOWN, MERGEKIT, tables
from tests.bench.models import SHAPES, bench_folder, make, need_room
from tests.bench.report import RawFile, Run
from tests.bench.systems import agree, configuration, digest, fresh, model_of, run_core, run_mergekit, run_ours, size

METHODS = ("linear", "slerp", "ties", "dare_ties", "passthrough")
_SHAPES = [name for name, shape in SHAPES.items() if "base" in shape.models]
_FLOORS = Path(__file__).with_name("floors.py")
_OUTPUTS = 3  # that lie on the disk at one time
_WARM = (
    "The page cache is warm: all inputs are read through before each process, and earlier writes are on the disk. "
    "Every program merged small models once before, so that its code is in the page cache too."
)
_DIGESTS = (
    "`first run` digests its sources (sha256); `sources known` has their digests from an earlier run, and no output. "
    "Both digest their output, open it again and ask it (which imports transformers), write a card and a lock, and "
    "flush to the disk (fsync): mergekit and the floors do not. `merge alone` reads, merges, writes and flushes."
)


@dataclass(frozen=True)
class Bench:
    """Which models are merged, and where; `said` gathers for each method how near its outputs were."""

    models: Mapping[str, Path]
    layers: int
    work: Path
    said: dict[str, str] = field(default_factory=dict)

    def settle(self) -> None:
        """Bring disk and page cache into the same state before each process."""
        machine.read_through(self.models.values())


def one_round(bench: Bench, method: str, number: int, *, floors: bool) -> Iterator[Run]:
    """Measure each system once, compare what they made, and leave no output behind.

    Raises:
        SystemExit: A process failed, or an output is wrong.
    """
    config = bench.work / f"{method}.yml"
    config.write_text(configuration(method, bench.models, bench.layers), encoding="utf-8")
    first, theirs, second = (bench.work / name for name in ("first", "mergekit", "known"))
    fresh(first)
    bench.settle()
    yield run_ours(config, first, (method, FIRST, number))

    shutil.rmtree(theirs, ignore_errors=True)
    bench.settle()
    usage = run_mergekit(config, theirs)
    yield Run(method, MERGEKIT, number, usage, size(theirs))
    bench.said[method] = agree(method, model_of(first), theirs, *(bench.models[name] for name in ("base", "a", "b")))
    shutil.rmtree(theirs)

    fresh(second, known=first)
    bench.settle()
    yield run_ours(config, second, (method, KNOWN, number))
    if digest(model_of(first)) != digest(model_of(second)):
        raise SystemExit(f"{method}: two runs of ours wrote different weights.")
    shutil.rmtree(second)

    alone = bench.work / "alone"
    shutil.rmtree(alone, ignore_errors=True)
    bench.settle()
    yield Run(method, CORE, number, run_core(config, alone), size(alone))
    if digest(model_of(first)) != digest(alone):
        raise SystemExit(f"{method}: the merge alone wrote other weights than the recipe.")
    shutil.rmtree(alone)
    if floors:
        yield from _floors(bench, model_of(first), number)
    shutil.rmtree(first)


def _floors(bench: Bench, output: Path, number: int) -> Iterator[Run]:
    """Measure what the same bytes cost without a merge around them."""
    a, b, out = str(bench.models["a"]), str(bench.models["b"]), bench.work / "floor"
    commands = (
        ("cp", "--reflink=never", "-r", a, str(out)),
        (sys.executable, str(_FLOORS), "lerp", a, b, str(out)),
        (sys.executable, str(_FLOORS), "sha256", str(output)),
        (sys.executable, "-c", "import torch"),
    )
    for name, command in zip(FLOORS, commands, strict=True):
        shutil.rmtree(out, ignore_errors=True)
        bench.settle()
        usage = measured(command, bench.work / "floor.log")
        if command[2] == "lerp":
            agree("reference", out, bench.models["a"], bench.models["b"])
        yield Run(FLOOR, name, number, usage, size(out))
    shutil.rmtree(out, ignore_errors=True)


def measure(bench: Bench, methods: Sequence[str], rounds: int) -> Iterator[Run]:
    """Measure every method, round after round; the floors in the rounds of the first one."""
    for method in methods:
        for number in range(rounds):
            yield from one_round(bench, method, number, floors=method == methods[0])


def main() -> None:
    """Measure, and tell."""
    options = _options()
    console, root, shape = report.console(), bench_folder(), SHAPES[options.shape]
    console.print(f"The {options.shape} models are made in {root} unless they are there.")
    small = Bench(make("tiny", root), SHAPES["tiny"].layers, _folder(root / "work" / "tiny"))
    bench = Bench(make(options.shape, root), shape.layers, _folder(root / "work" / options.shape))
    need_room(root, _OUTPUTS * shape.nbytes(), "the outputs")
    facts = machine.facts(root)
    console.print("Every program merges the tiny models once, so that its code is in the page cache.")
    for run in measure(small, options.methods, rounds=1):
        console.print(f"  tiny {run.line()}")
    raw, runs = RawFile(root, f"merge-{options.shape}", facts), []
    for run in measure(bench, options.methods, options.rounds):
        raw.keep(run)
        runs.append(run)
        console.print(run.line())
    found = tables(runs, options.methods)
    title = f"merge, {shape.parameters() / 1e9:.2f}B parameters in bfloat16, n = {options.rounds}"
    notes = (report.NOTES, _WARM, _DIGESTS, f"Outputs: {'; '.join(bench.said.values())}.")
    report.publish(report.section(title, facts, notes, found), found, console, options.results)
    console.print(f"Every measurement is a line of {raw.path}.")


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _methods(text: str) -> list[str]:
    methods = text.split(",")
    for method in methods:
        if method not in METHODS:
            raise argparse.ArgumentTypeError(f"{method} is none of {', '.join(METHODS)}")
    return methods


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure merges against mergekit and against bare floors.")
    parser.add_argument("--shape", choices=_SHAPES, default="1b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", type=_methods, default=list(METHODS), help=",".join(METHODS))
    parser.add_argument("--results", type=Path, help="the file that gets the section on top; else it is printed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
