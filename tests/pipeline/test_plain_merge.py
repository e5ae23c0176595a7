"""`recipe run` on a plain mergekit file: checked weights with card, lock and sums, and `recipe show` tells of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import PinError
from engine.files import sha256_of
from engine.show import show
from tests.pipeline.workspace import Workspace, no_traceback, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

SLERP = """\
slices:
  - sources:
      - {model: ./base, layer_range: [0, 2]}
      - {model: ./other, layer_range: [0, 2]}
merge_method: slerp
base_model: ./base
parameters:
  t:
    - {filter: mlp, value: [0.2, 0.8]}
    - value: 0.5
dtype: float32
"""

DOCUMENTS = """\
name: mean
merge_method: linear
models:
  - {model: ./base, parameters: {weight: 0.5}}
  - {model: ./other, parameters: {weight: 0.5}}
---
merge_method: task_arithmetic
base_model: ./base
models:
  - {model: mean, parameters: {weight: 0.25}}
dtype: bfloat16
"""


def plain(folder: Path, models: dict[str, Path]) -> Workspace:
    workspace = prepare(folder, models, "name: slerp\n")
    workspace.recipe.rename(folder / "slerp.yaml").write_text(SLERP)
    return workspace


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Workspace:
    workspace = plain(tmp_path_factory.mktemp("plain"), models)
    done = workspace.call("run", "slerp.yaml")
    assert done.returncode == 0, done.stderr
    assert "Opened again as LlamaForCausalLM: 21 tensors as planned, finite logits." in done.stdout
    return workspace


def test_the_run_leaves_what_a_user_needs(merged: Workspace) -> None:
    assert {"recipe.yaml", "recipe.lock.yaml", "report.md", "model"} <= {path.name for path in merged.merged.iterdir()}
    names = {path.name for path in merged.model.iterdir()}
    assert {"README.md", "SHA256SUMS", "mergekit_config.yml", "recipe.lock.yaml", "lineage.json"} <= names
    assert (merged.merged / "recipe.yaml").read_text() == SLERP
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=merged.model, check=False)
    assert done.returncode == 0


def test_the_card_names_the_sources_the_method_and_that_nothing_was_tested(merged: Workspace) -> None:
    card = (merged.model / "README.md").read_text()
    lock = (merged.model / "recipe.lock.yaml").read_text()
    for name in ("base", "other"):
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        digest = row.split("sha256:", 1)[1][:64]
        assert digest in lock
        assert "layer_range [0, 2]" in row
    assert "(mlp: [0.2, 0.8]; else 0.5)" in card
    assert "No evaluation was run on this model" in card
    assert "このモデルは評価されていません" in card
    assert "sha256sum -c SHA256SUMS" in card


def test_what_is_shown_for_a_machine(merged: Workspace) -> None:
    told = json.loads(merged.call("show", "slerp", "--json").stdout)
    assert told["weights"] | {"bytes": 0} == {
        "architecture": "LlamaForCausalLM",
        "layers": 2,
        "hidden_size": 32,
        "vocabulary": 384,
        "tied": False,
        "tensors": 21,
        "parameters": 43168,
        "bytes": 0,
        "dtypes": {"float32": 21},
        "shards": 1,
    }
    assert [(one["name"], one["role"], one["layers"]) for one in told["lineage"]["sources"]] == [
        ("base", "base", ["[0, 2]"]),
        ("other", "model", ["[0, 2]"]),
    ]
    assert told["lineage"]["merge"]["slices"][0]["sources"][1] == {"model": "other", "layer_range": [0, 2]}
    assert told["lineage"]["tokenizer"] == "base"
    assert {one["name"]: one["sha256"] for one in told["files"]} == {
        path.name: sha256_of(path) for path in merged.model.iterdir() if path.name != "SHA256SUMS"
    }
    assert told["scores"]["rows"] == []
    assert told["made"]["seconds"] > 0


def test_a_model_folder_that_travelled_is_shown_without_the_run(merged: Workspace, tmp_path: Path) -> None:
    folder = shutil.copytree(merged.model, tmp_path / "downloaded")
    told = show(folder, tmp_path)
    assert told["name"] == "slerp"
    assert (told["scores"], told["made"]) == (None, None)
    assert len(told["lineage"]["sources"]) == 2


def test_a_model_of_mergekit_is_shown_with_its_configuration(merged: Workspace, tmp_path: Path) -> None:
    folder = shutil.copytree(merged.folder / "base", tmp_path / "theirs")
    (folder / "mergekit_config.yml").write_text(SLERP)
    told = show(folder, tmp_path)
    assert told["lineage"] is None
    assert told["merge"]["merge_method"] == "slerp"


def test_a_merge_of_merges_tells_of_both(models: dict[str, Path], tmp_path: Path) -> None:
    workspace = prepare(tmp_path, models, "name: documents\n")
    workspace.recipe.rename(tmp_path / "documents.yaml").write_text(DOCUMENTS)
    done = workspace.call("run", "documents.yaml")
    assert done.returncode == 0, done.stderr
    lineage = show(workspace.merged, tmp_path)["lineage"]
    assert lineage["merge"]["merge_method"] == "task_arithmetic"
    assert [one["name"] for one in lineage["sources"]] == ["base", "mean"]
    assert lineage["sources"][1]["pinned"] == "the merge mean of this recipe"
    (inner,) = lineage["merges"]
    assert (inner["name"], inner["merge"]["merge_method"]) == ("mean", "linear")
    assert [one["name"] for one in inner["sources"]] == ["base", "other"]
    card = (workspace.model / "README.md").read_text()
    assert "| mean | model | weight 0.25 | not stated | the merge mean of this recipe |" in card
    assert "### mean" in card
    mergekit = (workspace.model / "mergekit_config.yml").read_text()
    assert "./stages/merge-mean/model" in mergekit
    assert (workspace.merged / "stages/merge-mean/model/config.json").is_file()


def test_a_search_is_shown_with_its_test(reference: Workspace) -> None:
    done = reference.call("show", "tiny")
    assert done.returncode == 0, done.stderr
    sources = {line.split()[0]: line for line in done.stdout.splitlines() if " + LoRA fine-tune of this recipe" in line}
    assert set(sources) == {"japanese", "english"}
    assert all("weight " in line and "rank 4" in line for line in sources.values())
    assert "Test split" in done.stdout
    assert "No evaluation" not in done.stdout


@pytest.mark.parametrize(
    ("place", "said", "hint"),
    [
        ("slrep", "There is no model at slrep", "Did you mean merged/slerp?"),
        ("merged/slrep", "There is no model at merged/slrep", "Did you mean merged/slerp?"),
        ("nothing-like-it", "There is no model at nothing-like-it", "merged holds slerp."),
        ("merged", "merged holds no model", "It holds slerp: name one"),
        ("merged/.store", "holds no model", "Name a run or a model folder."),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest_name(
    merged: Workspace, monkeypatch: pytest.MonkeyPatch, place: str, said: str, hint: str
) -> None:
    monkeypatch.chdir(merged.folder)
    with pytest.raises(PinError) as caught:
        show(Path(place), Path("merged"))
    assert said in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_run_that_has_not_finished_is_said(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "events.jsonl").touch()
    with pytest.raises(PinError, match="has no model yet"):
        show(Path("begun"), tmp_path)


def test_showing_imports_nothing_that_computes(merged: Workspace) -> None:
    script = (
        "import sys; from engine.cli import app; app(['show', 'slerp'], standalone_mode=False);"
        "sys.exit(', '.join(n for n in ('torch', 'transformers', 'optuna', 'numpy') if n in sys.modules) or 0)"
    )
    done = merged.python(script)
    assert done.returncode == 0, done.stderr


# ---- before the merge ------------------------------------------------------------------------------------------------


def add(file: str, field: str, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        whole = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**whole, field: value}))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (add("config.json", "auto_map", {"AutoModelForCausalLM": "evil.Model"}), "other/config.json asks for code"),
        (add("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.T", None]}), "other/tokenizer_config.json"),
        (add("config.json", "_attn_implementation_internal", "evil/kernel"), "`_attn_implementation_internal: evil/k"),
    ],
)
def test_a_source_that_asks_for_code_is_refused(
    models: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    workspace = plain(tmp_path, models)
    damage(workspace.folder / "other")
    done = workspace.call("run", "slerp.yaml")
    assert done.returncode == 2
    assert said in no_traceback(done)
    assert not (workspace.store / "outputs").exists()


def test_a_plan_tells_what_the_merge_would_warn_of(models: dict[str, Path], tmp_path: Path) -> None:
    workspace = plain(tmp_path, models)
    add("config.json", "rms_norm_eps", 0.25)(workspace.folder / "other")
    for command, told in (("plan", 1), ("run", 1), ("plan", 0)):
        done = workspace.call(command, "slerp.yaml")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("rms_norm_eps differs between the sources") == told, command
