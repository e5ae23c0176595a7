"""The gate after a merge: sound checkpoints pass, and every kind of damage is named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints import TensorSpec, open_checkpoint, write_checkpoint
from engine.errors import StageError
from engine.gate import check_merged
from tests.tiny import read_config, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.events import Event

SINGLE = "model.safetensors"


def specs_of(folder: Path) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(info.name, info.dtype, info.shape) for info in open_checkpoint(folder).tensors.values())


def checked(folder: Path, specs: tuple[TensorSpec, ...] | None = None) -> Event:
    told: list[Event] = []
    check_merged(folder, specs_of(folder) if specs is None else specs, told.append)
    (event,) = told
    return event


def refused(folder: Path, specs: tuple[TensorSpec, ...] | None = None) -> str:
    """Give what is said of a folder; `specs` are those of before the damage where the damage shows in the headers."""
    with pytest.raises(StageError) as caught:
        check_merged(folder, specs_of(folder) if specs is None else specs)
    assert caught.value.hint
    return str(caught.value)


def edit_config(folder: Path, **changes: Any) -> None:
    kept = {key: value for key, value in {**read_config(folder), **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def shard(folder: Path, target: Path) -> Path:
    """Write a model's tensors again in several shards."""
    checkpoint = open_checkpoint(folder)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    write_checkpoint(target, specs_of(folder), checkpoint.read, max_shard_bytes=30_000)
    return target


@pytest.fixture
def merged(tmp_path: Path, tiny_models: dict[str, Path]) -> Path:
    return shutil.copytree(tiny_models["half"], tmp_path / "model")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("architecture", "tied"),
    [("llama", False), ("mistral", True), ("qwen2", False), ("qwen2", True), ("gemma", True)],
)
def test_a_sound_checkpoint_passes(tmp_path: Path, architecture: str, dtype: str, *, tied: bool) -> None:
    settings = {"architecture": architecture, "layers": 2, "tie_word_embeddings": tied}
    folder = tiny_model(tmp_path / "model", dtype=getattr(torch, dtype), **settings)
    event = checked(folder)
    assert event.name == "message"
    assert event.data["text"].startswith("Opened again as ")
    assert event.data["text"].endswith(f": {len(specs_of(folder))} tensors as planned, finite logits.")


def test_a_sharded_checkpoint_passes(merged: Path, tmp_path: Path) -> None:
    folder = shard(merged, tmp_path / "sharded")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert "finite logits" in checked(folder).data["text"]


def test_experts_that_transformers_stacks_pass(tmp_path: Path) -> None:
    """The file holds every expert for itself; the model of transformers 5 holds one tensor for all of a layer."""
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        sliding_window=None,
    )
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    assert any(".experts.1." in spec.name for spec in specs_of(tmp_path))
    assert "finite logits" in checked(tmp_path).data["text"]


def test_an_architecture_that_transformers_does_not_know_is_said(merged: Path) -> None:
    edit_config(merged, architectures=["NeverHeardOfItForCausalLM"], model_type="never_heard_of_it")
    event = checked(merged)
    assert event.name == "warning"
    assert "does not know NeverHeardOfItForCausalLM (model_type never_heard_of_it)" in event.data["message"]


def test_without_architectures_the_model_type_decides(merged: Path) -> None:
    edit_config(merged, architectures=None)
    assert checked(merged).name == "message"
    edit_config(merged, model_type="never_heard_of_it")
    assert checked(merged).name == "warning"


# ---- the folder and the headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "pytorch_model.bin", ".config.json.tmp", "more"])
def test_a_file_too_many(merged: Path, name: str) -> None:
    if name == "more":
        (merged / name).mkdir()
    else:
        (merged / name).write_bytes(b"left over")
    assert f"its folder holds {name}, which the merge did not write" in refused(merged)


def test_an_index_beside_one_file(merged: Path) -> None:
    (merged / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "holds model.safetensors.index.json" in refused(merged)


def test_a_shard_that_is_cut_off(merged: Path) -> None:
    specs = specs_of(merged)
    (merged / SINGLE).write_bytes((merged / SINGLE).read_bytes()[:-100])
    said = refused(merged, specs)
    assert "cannot be opened again" in said
    assert "truncated" in said


def test_a_tensor_too_few_and_one_too_many(merged: Path) -> None:
    specs = specs_of(merged)
    assert "it has model.norm.weight, which the merge did not make" in refused(
        merged, tuple(spec for spec in specs if spec.name != "model.norm.weight")
    )
    edit_tensors(merged, lambda tensors: tensors.pop("model.norm.weight"))
    assert "it lacks model.norm.weight" in refused(merged, specs)


def test_a_tensor_that_the_index_does_not_name(merged: Path, tmp_path: Path) -> None:
    folder = shard(merged, tmp_path / "sharded")
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    size = open_checkpoint(folder).tensors["model.norm.weight"]
    del whole["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(whole))
    assert f"has {size.stop - size.start} bytes that belong to none of its tensors" in refused(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: tensor.float(), "is float32 [32] instead of bfloat16 [32]"),
        (lambda tensor: tensor[:31].clone(), "is bfloat16 [31] instead of bfloat16 [32]"),
    ],
)
def test_a_tensor_of_another_dtype_or_shape(
    merged: Path, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    specs = specs_of(merged)
    edit_tensors(merged, lambda tensors: tensors.update({"model.norm.weight": change(tensors["model.norm.weight"])}))
    assert f"model.norm.weight {said}" in refused(merged, specs)


# ---- the config ------------------------------------------------------------------------------------------------------


def test_a_config_of_another_dtype(merged: Path) -> None:
    edit_config(merged, dtype="float32")
    assert "its config.json says float32, and " in refused(merged)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 5}, "LlamaForCausalLM wants model.layers.4.input_layernorm.weight"),
        ({"num_hidden_layers": 3}, "LlamaForCausalLM has no place for model.layers.3.input_layernorm.weight"),
        ({"vocab_size": 400}, "lm_head.weight is [384, 32], and LlamaForCausalLM wants [400, 32]"),
        ({"num_key_value_heads": 4}, "self_attn.k_proj.weight is [16, 32], and LlamaForCausalLM wants [32, 32]"),
        ({"attention_bias": True}, "wants model.layers.0.self_attn.k_proj.bias"),
    ],
)
def test_weights_that_are_not_those_of_the_config(merged: Path, changes: dict[str, Any], said: str) -> None:
    edit_config(merged, **changes)
    whole = refused(merged)
    assert said in whole
    assert "base_model" in whole


def test_a_head_that_is_missing_is_missed_unless_it_is_tied(merged: Path) -> None:
    edit_tensors(merged, lambda tensors: tensors.pop("lm_head.weight"))
    assert "LlamaForCausalLM wants lm_head.weight, which the merge does not have" in refused(merged)
    edit_config(merged, tie_word_embeddings=True)
    assert checked(merged).name == "message"


def test_a_config_that_transformers_refuses(merged: Path) -> None:
    edit_config(merged, hidden_size=33)
    assert "cannot open the merged model as LlamaForCausalLM: " in refused(merged)


# ---- the forward pass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "hint"), [("float16", "dtype: bfloat16"), ("bfloat16", "Lower the weights")])
def test_logits_that_are_not_finite(tmp_path: Path, dtype: str, hint: str) -> None:
    """Every weight is finite, and their products are not."""
    folder = tiny_model(tmp_path / "model", layers=2, dtype=getattr(torch, dtype))
    large = torch.finfo(getattr(torch, dtype)).max / 4
    edit_tensors(
        folder, lambda tensors: [tensors[name].fill_(large) for name in ("model.norm.weight", "lm_head.weight")]
    )
    said = refused(folder)
    assert "logits of a test sentence" in said
    assert hint in said
