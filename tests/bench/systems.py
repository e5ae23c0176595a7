"""The programs that are measured, started as a user starts them, and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from tests.bench.measure import Usage, measured
from tests.bench.models import weights
from tests.bench.report import Run

_REPOSITORY = Path(__file__).parents[2]
_DIGESTS = Path(".store") / "digests.json"


def configuration(method: str, models: Mapping[str, Path], layers: int) -> str:
    """Write the mergekit configuration of a benchmark; JSON is YAML too."""
    a, b = ({"model": str(models[name])} for name in ("a", "b"))
    common = {"merge_method": method, "dtype": "bfloat16"}
    if method == "passthrough":
        halves = ({**a, "layer_range": [0, layers // 2]}, {**b, "layer_range": [layers // 2, layers]})
        return json.dumps({**common, "slices": [{"sources": [half]} for half in halves]})
    if method == "slerp":
        return json.dumps({**common, "base_model": str(models["a"]), "models": [a, b], "parameters": {"t": 0.4}})
    sparse = {} if method == "linear" else {"density": 0.5}
    weighted = [{**one, "parameters": {"weight": weight, **sparse}} for one, weight in ((a, 0.6), (b, 0.4))]
    base = {} if method == "linear" else {"base_model": str(models["base"])}
    return json.dumps({**common, **base, "models": weighted})


def run_ours(config: Path, out: Path, label: tuple[str, str, int]) -> Run:
    """Run the recipe; `label` is method, system and round. The store in `out` may know digests, and no output.

    Beside what the kernel measured stand the wall seconds before, in and after the stages, by our own event log.

    Raises:
        SystemExit: It failed, did not make exactly one checkpoint, or took it out of the store.
    """
    command = [_program("recipe"), "run", str(config), "--out", str(out)]
    usage = measured(command, out.with_suffix(".log"))
    log = model_of(out).parent / "events.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines()
    events = [{**event, "after": _since(event["at"], usage.started)} for event in map(json.loads, lines)]
    starts = [event["after"] for event in events if event["event"] == "stage_started"]
    ends = [event["after"] for event in events if event["event"] == "stage_finished"]
    if not starts or len(starts) != len(ends) or any(event["event"] == "stage_reused" for event in events):
        raise SystemExit(f"This run of ours did not do its work anew: {log}")
    phases = {"before": starts[0], "in": ends[-1] - starts[0], "after": usage.wall - ends[-1]}
    return Run(*label, usage, size(model_of(out)), phases, events)


def run_mergekit(config: Path, out: Path) -> Usage:
    """Run mergekit with its defaults."""
    return measured([_program("mergekit-yaml"), str(config), str(out)], out.with_suffix(".log"))


def run_core(config: Path, out: Path) -> Usage:
    """Run the merge alone."""
    return measured([sys.executable, "-m", "tests.bench.core", str(config), str(out)], out.with_suffix(".log"))


def fresh(out: Path, known: Path | None = None) -> None:
    """Empty a folder of ours; where `known` is another one, the digests that its store holds are kept.

    Raises:
        SystemExit: `known` holds no digests, so that its sources would be digested again.
    """
    digests = None if known is None else known / _DIGESTS
    if digests is not None and not digests.is_file():
        raise SystemExit(f"{digests} is not there: our store keeps digests elsewhere, and this benchmark has to know.")
    kept = None if digests is None else digests.read_bytes()
    shutil.rmtree(out, ignore_errors=True)
    if kept is not None:
        (out / _DIGESTS).parent.mkdir(parents=True)
        (out / _DIGESTS).write_bytes(kept)


def model_of(out: Path) -> Path:
    """Find the one checkpoint that a run of ours made.

    Raises:
        SystemExit: There is none, or more than one.
    """
    models = list(out.glob("*/model"))
    if len(models) != 1:
        raise SystemExit(f"{out} has {len(models)} checkpoints where one was to be made.")
    return models[0]


def agree(method: str, *folders: Path) -> str:
    """Compare outputs in a process of its own; tell how near they are.

    Raises:
        SystemExit: They are not the same work.
    """
    command = [sys.executable, "-m", "tests.bench.agreement", method, *map(str, folders)]
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The outputs are wrong ({method}). {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def size(folder: Path) -> int:
    """Count the bytes of a folder's files; none where there is no folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def digest(folder: Path) -> str:
    """Digest the weights of a checkpoint."""
    whole = hashlib.sha256()
    for path in weights(folder):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _program(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise SystemExit(f"{path} is not there: install the project with its extra `test`.")
    return str(path)


def _since(at: str, started: float) -> float:
    return round(datetime.fromisoformat(at).timestamp() - started, 3)
