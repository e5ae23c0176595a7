"""The card, and what `recipe show` says, word for word. To accept new words: `UPDATE_GOLDEN=1 pytest tests/golden`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.pipeline.workspace import Workspace, prepare

FOLDER = Path(__file__).parent / "shown"
TIES = """\
# As people publish it.
models:
  - model: ./base
  - model: ./other
    parameters:
      density: 0.5
      weight:
        - filter: self_attn
          value: [0, 0.5, 1]
        - value: 0.6
merge_method: ties
base_model: ./base
parameters: {normalize: false}
dtype: bfloat16
"""
# What depends on versions and on the clock.
CHANGING = (
    (r"[0-9a-f]{64}", "<sha256>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, in [\d.]+ s", "<time>"),
    (r"python 3\.\d+\.\d+, chogo .*", "<versions>"),
    (r"(?m)^ (\S+) +[\d.]+ (?:bytes|kB) +<sha256> *$", r" \1  <size>  <sha256>"),
    (r"(?m)^ (\S+) +[\d.]+ (?:bytes|kB) +not recorded *$", r" \1  <size>  not recorded"),
    (r"(?m) +$", ""),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    import torch

    from tests.tiny import tiny_model

    root = tmp_path_factory.mktemp("shown")
    models = {
        name: tiny_model(root / name, seed=seed, layers=2, dtype=torch.bfloat16)
        for seed, name in enumerate(("base", "other"))
    }
    (models["other"] / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    workspace = prepare(root / "work", models, f"name: {'ties'}\n")
    (workspace.folder / "ties.yaml").write_text(TIES)
    done = workspace.call("run", "ties.yaml")
    assert done.returncode == 0, done.stderr
    assert "The sources' cards do not state one licence (./base: not stated, ./other: apache-2.0)" in done.stderr
    return workspace


def compare(name: str, text: str) -> None:
    for pattern, stands in CHANGING:
        text = re.sub(pattern, stands, text)
    golden = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def shown(workspace: Workspace, *place: str) -> str:
    done = workspace.call("show", *place)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_card(workspace: Workspace) -> None:
    compare("card.md", (workspace.model / "README.md").read_text())


def test_a_run_its_name_and_its_model_are_shown_alike(workspace: Workspace) -> None:
    whole = shown(workspace, "merged/ties")
    compare("run.txt", whole)
    assert shown(workspace, "ties") == whole
    assert shown(workspace, "merged/ties/model") == whole


def test_a_checkpoint_of_any_origin(workspace: Workspace) -> None:
    compare("checkpoint.txt", shown(workspace, "base"))
