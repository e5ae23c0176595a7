"""Workspaces for whole runs: a tiny model, the quickstart's facts, a recipe, and `recipe` as a subprocess."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
FACTS = REPOSITORY / "recipes" / "quickstart" / "facts.yaml"
COMMAND = str(Path(sys.executable).with_name("recipe"))
# Hangs end some time; nothing is ever this slow.
PATIENCE = 400

_TRAINING = """\
    lora: {r: 4, lora_alpha: 8, target_modules: all-linear}
    training:
      learning_rate: 1.0e-2
      num_train_epochs: 2
      per_device_train_batch_size: 8
      max_length: 256
      warmup_steps: 0.1
      logging_steps: 1
      save_steps: 2
"""
RECIPE = f"""\
name: tiny
seed: 42
models:
  small: ./base
sft:
  japanese:
    base_model: small
    dataset: {{path: facts.yaml, format: fact_table, lang: ja, relations: [hormone_gland, poison_antidote], limit: 40}}
{_TRAINING}\
  english:
    base_model: small
    dataset: {{path: facts.yaml, format: fact_table, lang: en, relations: [marker_tumour, muscle_nerve], limit: 40}}
{_TRAINING}\
merge:
  merge_method: task_arithmetic
  base_model: small
  models:
    - model: japanese
      parameters: {{weight: {{low: 0.0, high: 1.5}}}}
    - model: english
      parameters: {{weight: {{low: 0.0, high: 1.5}}}}
  dtype: bfloat16
search:
  n_trials: 16
  objective:
    - {{evaluator: fact_table, path: facts.yaml, split: dev, limit: 16}}
  select:
    top: 3
    on:
      - {{evaluator: fact_table, path: facts.yaml, split: select, limit: 16}}
evaluate:
  - {{evaluator: fact_table, path: facts.yaml, split: test, limit: 48}}
"""
"""Everything at once: two fine-tunes, a search, a merge, a test; about ten seconds, most of them imports."""

MERGE = """\
name: pair
models:
  small: ./base
merge:
  merge_method: linear
  models:
    - {model: small, parameters: {weight: 0.5}}
    - {model: ./other, parameters: {weight: 0.5}}
  dtype: bfloat16
"""
"""A merge of two folders and nothing else."""

SEARCH = """\
name: sought
models:
  small: ./base
merge:
  merge_method: linear
  models:
    - {model: small, parameters: {weight: {low: 0.0, high: 1.0}}}
    - {model: ./other, parameters: {weight: {low: 0.0, high: 1.0}}}
  dtype: bfloat16
search:
  n_trials: 400
  objective:
    - {evaluator: fact_table, path: facts.yaml, split: dev, limit: 8}
evaluate:
  - {evaluator: fact_table, path: facts.yaml, split: test, limit: 8}
"""
"""A search without training: quick to begin, and long enough to be stopped in."""

TRAIN = RECIPE[: RECIPE.index("  english:")].replace("name: tiny", "name: taught")
"""The first fine-tune of the whole recipe and nothing else."""


@dataclass(frozen=True)
class Workspace:
    """A folder with a recipe in it, and what `recipe` does there."""

    folder: Path
    name: str = "tiny"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def merged(self) -> Path:
        """The run directory."""
        return self.folder / "merged" / self.name

    @property
    def model(self) -> Path:
        return self.merged / "model"

    @property
    def store(self) -> Path:
        return self.folder / "merged" / ".store"

    @property
    def sums(self) -> str:
        return (self.model / "SHA256SUMS").read_text()

    @property
    def scores(self) -> dict[str, Any]:
        return json.loads((self.merged / "scores.json").read_text())

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `recipe` in the folder; both streams are pipes, and Ctrl-C reaches it though it be ignored here."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": _listen_to_ctrl_c}
        return subprocess.Popen([COMMAND, *arguments], cwd=self.folder, env=environment(), **{**pipes, **options})

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `recipe` in the folder to its end."""
        return self._finished(COMMAND, *arguments)

    def python(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script in the folder in a fresh interpreter."""
        return self._finished(sys.executable, "-c", script)

    def _finished(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the recipe to its end, which has to be a good one."""
        done = self.call("run", "recipe.yaml")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    def events(self, folder: Path | None = None) -> list[dict[str, Any]]:
        """Read the log; a torn last line is left out, as the engine leaves it out."""
        file = (folder or self.merged) / "events.jsonl"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def no_traceback(done: subprocess.CompletedProcess[str]) -> str:
    """Check that an error is told in prose, and give what was told."""
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.stderr.strip()
    return done.stderr


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Wait until something has happened in a run that goes on; it may not end before."""
    patience = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.01)


def environment() -> dict[str, str]:
    """Give the tests' environment without what would colour or widen the output."""
    gone = ("FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "TTY_COMPATIBLE")
    return {name: value for name, value in os.environ.items() if name not in gone}


def prepare(folder: Path, models: dict[str, Path], text: str = RECIPE) -> Workspace:
    """Fill a folder with a recipe, the facts and copies of models (name in the folder -> where it lies)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    shutil.copy(FACTS, folder / "facts.yaml")
    for name, model in models.items():
        shutil.copytree(model, folder / name)
    return Workspace(folder, text.split("name: ", 1)[1].split("\n", 1)[0])


def without_seconds(scores: dict[str, Any]) -> dict[str, Any]:
    """Give scores without the one number that is a time."""
    return {**scores, "search": {name: value for name, value in scores["search"].items() if name != "seconds"}}
