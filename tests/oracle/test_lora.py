"""LoRA tools against PEFT 0.21 and mergekit 0.1.5: what is written loads there and does there what it should."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoints import open_adapter, open_checkpoint
from engine.lora import Part, combine_adapters, extract_adapter, merge_adapter
from tests.tiny import tiny_adapter, tiny_model

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.nn import Module

pytestmark = pytest.mark.slow

TOKENS = torch.arange(3, 60).reshape(3, 19)
PATTERNS = {
    "r": 4,
    "lora_alpha": 8,
    "rank_pattern": {"q_proj": 2, r"^model\.layers\.[02]\.mlp\.up_proj": 6, "layers.1.self_attn.v_proj": 3},
    "alpha_pattern": {"self_attn.q_proj": 5, r"layers\.\d+\.mlp\.up_proj": 12, "v_proj": 7},
}


def causal(folder: Path) -> Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(base: Path, adapter: Path) -> PeftModel:
    """Load an adapter with PEFT, for which a key that fits nothing, or is missing, is a warning."""
    from peft import PeftModel

    model = causal(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        return PeftModel.from_pretrained(model, adapter)


def logits(model: Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.fixture(scope="module")
def made(tiny_models, tmp_path_factory):
    """Adapters of `base`: of all linear modules, of two with rsLoRA, and with patterns."""
    root, base = tmp_path_factory.mktemp("adapters"), tiny_models["base"]
    narrow = {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]}
    return {
        "all": tiny_adapter(root / "all", base, seed=0),
        "narrow": tiny_adapter(root / "narrow", base, seed=1, **narrow),
        "patterns": tiny_adapter(root / "patterns", base, seed=2, **PATTERNS),
    }


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("name", ["patterns", "all"])
def test_updates_are_those_of_peft(tiny_models, made, tmp_path, name, use_rslora):
    adapter = made[name]
    if use_rslora:
        settings = PATTERNS if name == "patterns" else {}
        adapter = tiny_adapter(tmp_path / "adapter", tiny_models["base"], seed=4, use_rslora=True, **settings)
    opened = open_adapter(adapter, open_checkpoint(tiny_models["base"]).tensors)
    layers = {f"{name}.weight": one for name, one in adapted(tiny_models["base"], adapter).named_modules()}
    assert len(opened.updates) == 28
    for tensor, update in opened.updates.items():
        theirs = layers[f"base_model.model.{tensor}"]
        assert update.scaling == pytest.approx(theirs.scaling["default"])
        assert_same(opened.delta(tensor), theirs.get_delta_weight("default").detach(), 1e-6)


@pytest.mark.parametrize("name", ["all", "narrow", "patterns"])
def test_a_merged_model_is_that_of_merge_and_unload(tiny_models, made, tmp_path, name):
    merge_adapter(tiny_models["base"], made[name], tmp_path / "out")
    model = adapted(tiny_models["base"], made[name])
    expected = logits(model)
    found = logits(causal(tmp_path / "out"))
    assert_same(found, expected)
    assert_same(found, logits(model.merge_and_unload()))
    assert float((found - logits(causal(tiny_models["base"]))).abs().max()) > 1e-2 * float(found.abs().max())


@pytest.mark.parametrize("architecture", ["mistral", "qwen2"])
def test_other_architectures_merge_and_extract(tmp_path, architecture):
    base = tiny_model(tmp_path / "base", architecture=architecture)
    adapter = tiny_adapter(tmp_path / "adapter", base, seed=6)
    merge_adapter(base, adapter, tmp_path / "merged")
    expected = logits(adapted(base, adapter))
    assert_same(logits(causal(tmp_path / "merged")), expected)
    found = extract_adapter(base, tmp_path / "merged", tmp_path / "found", rank=4)
    assert found.left_out == ()
    assert_same(logits(adapted(base, tmp_path / "found")), expected)


def test_a_combination_is_peft_s_concatenation(tiny_models, made, tmp_path):
    names, weights = ("all", "narrow", "patterns"), (0.7, -0.4, 1.2)
    parts = [Part(made[name], weight) for name, weight in zip(names, weights, strict=True)]
    combine_adapters(tmp_path / "out", parts)
    base = causal(tiny_models["base"])
    start = base.state_dict()
    total = {name: tensor.clone() for name, tensor in start.items()}
    for name, weight in zip(names, weights, strict=True):
        merged = adapted(tiny_models["base"], made[name]).merge_and_unload().state_dict()
        for key in total:
            total[key] += weight * (merged[key] - start[key])
    base.load_state_dict(total)
    assert_same(logits(adapted(tiny_models["base"], tmp_path / "out")), logits(base))


def test_two_adapters_agree_with_add_weighted_adapter(tiny_models, tmp_path):
    adapters = [tiny_adapter(tmp_path / str(seed), tiny_models["base"], seed=seed, r=2 + seed) for seed in (0, 1)]
    combine_adapters(tmp_path / "cat", [Part(adapters[0], 0.7), Part(adapters[1], -0.4)])
    combine_adapters(tmp_path / "svd", [Part(adapters[0], 0.7), Part(adapters[1], 0.4)], rank=3)
    model = adapted(tiny_models["base"], adapters[0])
    model.load_adapter(adapters[1], "other")
    model.add_weighted_adapter(["default", "other"], [0.7, -0.4], "cat", combination_type="cat")
    model.add_weighted_adapter(["default", "other"], [0.7, 0.4], "svd", combination_type="svd", svd_rank=3)
    for name in ("cat", "svd"):
        model.set_adapter(name)
        assert_same(logits(adapted(tiny_models["base"], tmp_path / name)), logits(model))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_adapter_of_the_embeddings_loads(tiny_models, tmp_path):
    base = tiny_models["base"]
    adapter = tiny_adapter(tmp_path / "adapter", base, target_modules=["embed_tokens", "lm_head", "q_proj"])
    combine_adapters(tmp_path / "out", [Part(adapter, 0.5), Part(adapter, 0.25)], base=base)
    merge_adapter(base, tmp_path / "out", tmp_path / "merged")
    found = logits(adapted(base, tmp_path / "out"))
    assert_same(logits(causal(tmp_path / "merged")), found)
    extract_adapter(base, tmp_path / "merged", tmp_path / "found", rank=4, embeddings=True)
    assert_same(logits(adapted(base, tmp_path / "found")), found)


def test_an_extraction_agrees_with_mergekit(tiny_models, tmp_path):
    base, tuned = tiny_models["base"], tiny_models["clinical"]
    extract_adapter(base, tuned, tmp_path / "ours", rank=3)
    command = [str(Path(sys.executable).with_name("mergekit-extract-lora")), "--skip-undecomposable"]
    command += ["-e", "embed_tokens", "-e", "lm_head", "--max-rank", "3", "--model", str(tuned)]
    command += ["--base-model", str(base), "--out-path", str(tmp_path / "theirs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert sorted(ours) == sorted(theirs)
    for key in [key for key in ours if "lora_A" in key]:
        partner = key.replace("lora_A", "lora_B")
        # Theirs decomposes in float32, which is felt where neighbouring singular values are close.
        assert_same(ours[partner] @ ours[key], theirs[partner] @ theirs[key], 1e-4)
    # Theirs is read here, and it is the same update.
    merge_adapter(base, tmp_path / "theirs", tmp_path / "merged")
    assert_same(logits(causal(tmp_path / "merged")), logits(adapted(base, tmp_path / "ours")), 1e-4)


def test_modules_of_different_ranks_load(tiny_models, tmp_path):
    found = extract_adapter(tiny_models["base"], tiny_models["clinical"], tmp_path / "out", rank=32, embeddings=True)
    assert {one.rank for one in found.modules} == {16, 32}
    merge_adapter(tiny_models["base"], tmp_path / "out", tmp_path / "merged")
    assert_same(logits(causal(tmp_path / "merged")), logits(adapted(tiny_models["base"], tmp_path / "out")))
    # With every rank that there is, the matrices are those of the tuned model.
    expected, merged = (
        load_file(folder / "model.safetensors") for folder in (tiny_models["clinical"], tmp_path / "merged")
    )
    for name in [name for name, tensor in expected.items() if tensor.dim() > 1]:
        assert_same(merged[name], expected[name])
