"""Files of mergekit's whole grammar run unchanged and give the tensors that mergekit gives."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tensors = dict[str, torch.Tensor]

pytestmark = pytest.mark.slow

FILES = {
    "slices with bases of their own": """\
merge_method: slerp
slices:
  - base_model: ./base
    sources:
      - {model: ./base, layer_range: [0, 2]}
      - {model: ./clinical, layer_range: [1, 3]}
    parameters: {t: [0.2, 0.7]}
  - base_model: ./japanese
    residual_weight: 0.5
    sources:
      - {model: ./clinical, layer_range: [2, 4]}
      - {model: ./japanese, layer_range: [2, 4]}
    parameters:
      t:
        - {filter: self_attn, value: [0, 1]}
parameters: {t: 0.4}
dtype: float32
""",
    "a module": """\
modules:
  default:
    models:
      - model: ./base
      - model: ./clinical
        parameters: {weight: "0.6", density: 0.4}
      - model: ./japanese
        parameters:
          weight:
            - filter: mlp
              value: [0.1, 0.9]
    parameters: {weight: 0.3, lambda: 0.8}
merge_method: ties
base_model: ./base
parameters: {density: 0.7, lambda: 5, normalize: yes, int8_mask: 1}
dtype: float32
""",
    "references in the long form, anchors and merge keys": """\
x-defaults: &half {weight: 0.5}
models:
  - model: {model: {path: ./clinical, revision: null}, lora: null}
    parameters: {<<: *half}
  - model: {model: ./japanese}
    parameters: {<<: *half, weight: 1.5}
merge_method: linear
parameters: {normalize: on}
dtype: torch.float32
""",
}
SEVERAL = """\
name: both
merge_method: linear
models:
  - {model: ./clinical, parameters: {weight: 0.6}}
  - {model: ./japanese, parameters: {weight: 0.4}}
dtype: float32
---
merge_method: slerp
base_model: both
models:
  - model: both
  - model: second
parameters: {t: [0.2, 0.5]}
dtype: float32
---
name: second
merge_method: task_arithmetic
base_model: ./base
models:
  - {model: both, parameters: {weight: 0.5}}
  - {model: ./clinical, parameters: {weight: -0.25}}
dtype: float32
"""


@pytest.fixture
def workspace(tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with copies of the models; the paths in the files start there."""
    for name in ("base", "clinical", "japanese"):
        shutil.copytree(tiny_models[name], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_ours(workspace: Path) -> Callable[[str], Path]:
    """Run a file by the command, in this process; give the run directory."""
    from engine.cli import app

    def run(text: str) -> Path:
        (workspace / "config.yml").write_text(text, encoding="utf-8")
        app(["run", "config.yml", "--json"], standalone_mode=False)
        return workspace / "merged" / "config"

    return run


@pytest.fixture(scope="session")
def run_theirs() -> Callable[[str, Path], None]:
    """Import mergekit once and run a file by its own executor; of several documents, by its own command."""
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from mergekit.scripts.multimerge import main

    def run(text: str, folder: Path) -> None:
        if "\n---\n" in text:
            folder.mkdir()
            (folder / "several.yml").write_text(text, encoding="utf-8")
            parts = str(folder / "parts")
            arguments = [str(folder / "several.yml"), "-I", parts, "--out-path", str(folder), "--quiet"]
            main([*arguments, "--no-copy-tokenizer", "--no-write-model-card"], standalone_mode=False)
            return
        config = MergeConfiguration.model_validate(yaml.safe_load(text))
        run_merge(config, str(folder), MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False))

    return run


def tensors(folder: Path) -> Tensors:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype == torch.float32
        scale, difference = float(tensor.abs().max()), float((found[name] - tensor).abs().max())
        assert difference <= 1e-6 * scale, f"{name} differs by {difference} at a scale of {scale}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_agrees_with_mergekit(run_ours, run_theirs, workspace, name):
    run_theirs(FILES[name], workspace / "theirs")
    assert_same(tensors(run_ours(FILES[name]) / "model"), tensors(workspace / "theirs"))


def test_documents_that_refer_to_each_other_agree_with_mergekit(run_ours, run_theirs, workspace, monkeypatch):
    run_theirs(SEVERAL, workspace / "theirs")
    folder = run_ours(SEVERAL)
    assert_same(tensors(folder / "model"), tensors(workspace / "theirs"))
    for name in ("both", "second"):
        assert_same(tensors(folder / "stages" / f"merge-{name}" / "model"), tensors(workspace / "theirs/parts" / name))
    # What a run leaves says it all again: the lock is a recipe of three merges, of which each was made once.
    lock = yaml.safe_load((folder / "recipe.lock.yaml").read_text(encoding="utf-8"))
    assert (list(lock["merges"]), lock["merge"]["base_model"]) == (["both", "second"], "both")
    assert len(list((workspace / "merged/.store/outputs").iterdir())) == 3
    # And the configuration beside the model makes the last merge of what the others made.
    config = (folder / "model" / "mergekit_config.yml").read_text(encoding="utf-8")
    monkeypatch.chdir(folder)
    run_theirs(config, workspace / "again")
    assert_same(tensors(workspace / "again"), tensors(folder / "model"))


def test_the_lock_of_several_merges_repeats_the_run(run_ours, workspace):
    from engine.cli import app

    folder = run_ours(SEVERAL)
    before = tensors(folder / "model")
    stored = sorted((workspace / "merged/.store/outputs").iterdir())
    app(["run", str(folder / "recipe.lock.yaml"), "--json"], standalone_mode=False)
    assert sorted((workspace / "merged/.store/outputs").iterdir()) == stored
    assert_same(tensors(folder / "model"), before)


def test_a_folder_with_a_plus_sign_is_taken_as_it_is(run_ours, workspace):
    (workspace / "clinical").rename(workspace / "clinical+more")
    text = "merge_method: linear\nmodels: [{model: ./clinical+more, parameters: {weight: 1}}]\ndtype: float32\n"
    folder = run_ours(text)
    assert_same(tensors(folder / "model"), tensors(workspace / "clinical+more"))
    lock = yaml.safe_load((folder / "recipe.lock.yaml").read_text(encoding="utf-8"))
    assert "clinical+more" in lock["merge"]["models"][0]["model"]["model"]
