"""What `recipe plan` says, word for word. To accept new words: `UPDATE_GOLDEN=1 pytest tests/golden`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pipeline.workspace import MERGE, RECIPE, SEARCH, Workspace, prepare

FOLDER = Path(__file__).parent / "plans"
QUICK = SEARCH.replace("n_trials: 400", "n_trials: 3")
HEAVY = ("torch", "transformers", "peft", "trl", "optuna", "datasets", "numpy", "scipy", "huggingface_hub")
UNFETCHED = """\
name: unfetched
models:
  small: pypi:no-such-models==1.0/models/small.gguf
sft:
  taught:
    base_model: small
    dataset: {path: facts.yaml, format: fact_table, lang: ja}
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    import torch

    from tests.tiny import tiny_model

    root = tmp_path_factory.mktemp("planned")
    names = ("base", "other")
    models = {
        name: tiny_model(root / name, seed=seed, layers=2, dtype=torch.bfloat16) for seed, name in enumerate(names)
    }
    return prepare(root / "work", models, QUICK)


def compare(workspace: Workspace, name: str) -> None:
    """Plan the recipe as it stands and compare what is said with a golden text."""
    before = listing(workspace.folder)
    done = workspace.call("plan", "recipe.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert listing(workspace.folder) == before
    golden = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(done.stdout, encoding="utf-8")
    assert done.stdout == golden.read_text(encoding="utf-8")


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """List everything in a folder with size and time, but the remembered digests, which a first plan may write."""
    remembered = ("digests.json", ".store", "merged")
    stats = [(path, path.lstat()) for path in sorted(folder.rglob("*")) if path.name not in remembered]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def test_before_and_after_a_run(workspace: Workspace) -> None:
    compare(workspace, "before")
    workspace.run()
    compare(workspace, "after")
    # A name changes nothing; more trials go on from those that are there; another seed is another run.
    workspace.recipe.write_text(QUICK.replace("name: sought", "name: renamed").replace("small", "little"))
    compare(workspace, "renamed")
    workspace.recipe.write_text(QUICK.replace("n_trials: 3", "n_trials: 5"))
    compare(workspace, "longer")
    workspace.recipe.write_text("seed: 7\n" + QUICK)
    compare(workspace, "other_seed")


def test_a_whole_recipe(workspace: Workspace, tmp_path: Path) -> None:
    compare(prepare(tmp_path, {"base": workspace.folder / "base"}, RECIPE), "whole")


def test_a_model_that_is_not_fetched(tmp_path: Path) -> None:
    compare(prepare(tmp_path, {}, UNFETCHED), "unfetched")


def test_a_stored_output_that_is_damaged_is_named(workspace: Workspace, tmp_path: Path) -> None:
    whole = prepare(tmp_path, {name: workspace.folder / name for name in ("base", "other")}, MERGE)
    whole.run()
    weights = next(whole.store.glob("outputs/*/model/model.safetensors"))
    weights.unlink()
    done = whole.call("plan", "recipe.yaml")
    assert done.returncode == 1
    folder = weights.parents[1].relative_to(whole.folder)
    assert f"The stored output {folder} is damaged: model/model.safetensors is missing" in done.stderr
    assert f"rm -r {folder}" in done.stderr


def test_planning_imports_nothing_heavy(workspace: Workspace) -> None:
    script = (
        "import sys; from engine.cli import app; app(['plan', 'recipe.yaml'], standalone_mode=False);"
        f"sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    )
    done = workspace.python(script)
    assert done.returncode == 0, done.stderr
