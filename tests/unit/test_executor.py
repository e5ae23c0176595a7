"""The executor: what is applied is what is exported, sources that do not fit, and what stands beside the weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints import open_source
from engine.errors import PlanError, StageError
from engine.events import Event
from engine.executor import Merger
from tests.tiny import read_config, tiny_adapter, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

MODELS = [
    {"model": "clinical", "parameters": {"weight": 0.6, "density": 0.5}},
    {"model": "japanese", "parameters": {"weight": [0.2, 0.5], "density": 0.7}},
]
TIES = {"merge_method": "ties", "base_model": "base", "models": MODELS}


def opened(models: dict[str, Path]) -> dict[str, object]:
    return {name: open_source(folder) for name, folder in models.items()}


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Hash each tensor's bytes."""
    return {
        name: hashlib.sha256(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        for name, tensor in tensors.items()
    }


def load(folder: Path, **options: object) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options)


def copied(models: dict[str, Path], name: str, folder: Path) -> dict[str, Path]:
    """The same models with one of them copied, so that a test may damage it."""
    shutil.copytree(models[name], folder)
    return {**models, name: folder}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("method", ["dare_ties", "ties", "linear"])
def test_what_is_applied_is_what_is_exported(tiny_models, tmp_path, method, dtype):
    config = {**TIES, "merge_method": method, "dtype": dtype, "parameters": {"weight": 0.2}}
    sources = opened(tiny_models)
    model = load(tiny_models["base"], dtype=getattr(torch, dtype))
    Merger({**config, "merge_method": "linear"}, sources).apply(model)  # an earlier candidate leaves nothing behind
    Merger(config, sources, seed=3).apply(model)
    Merger(config, opened(tiny_models), seed=3).write(tmp_path)
    assert digests(model.state_dict()) == digests(load_file(tmp_path / "model.safetensors"))
    assert digests(load(tmp_path).state_dict()) == digests(model.state_dict())


@pytest.mark.parametrize("architecture", ["qwen2", "mistral"])
def test_tied_embeddings_are_one_tensor(tmp_path, architecture):
    models = {
        name: tiny_model(tmp_path / name, architecture=architecture, seed=seed, layers=2, tie_word_embeddings=True)
        for seed, name in enumerate(("base", "clinical", "japanese"))
    }
    merger = Merger({**TIES, "dtype": "float32"}, opened(models))
    assert "lm_head.weight" not in merger.names
    model = load(models["base"])
    merger.apply(model)
    (tmp_path / "out").mkdir()
    merger.write(tmp_path / "out")
    assert digests(load(tmp_path / "out").state_dict()) == digests(model.state_dict())
    assert model.lm_head.weight.equal(merger.tensor("model.embed_tokens.weight"))


def test_resident_sources_give_the_same_bits(tiny_models, tmp_path):
    adapter = tiny_adapter(tmp_path / "adapter", tiny_models["base"])
    found = []
    for resident in (False, True):
        sources = {name: open_source(folder, resident=resident) for name, folder in tiny_models.items()}
        sources["clinical"] = open_source(tiny_models["base"], adapter, resident=resident)
        merger = Merger({**TIES, "dtype": "bfloat16"}, sources)
        found += [digests({name: merger.tensor(name) for name in merger.names}) for _ in range(2)]
    assert all(digest == found[0] for digest in found)


def test_the_seed_alone_changes_the_draw(tiny_models):
    config = {**TIES, "merge_method": "dare_linear"}
    one, same, other = (Merger(config, opened(tiny_models), seed=seed) for seed in (1, 1, 2))
    name = one.names[0]
    assert one.tensor(name).equal(same.tensor(name))
    assert not one.tensor(name).equal(other.tensor(name))


def test_qwen2_layers_stack_and_load(tmp_path):
    models = {
        name: tiny_model(tmp_path / name, architecture="qwen2", seed=seed, layers=3) for seed, name in enumerate("ab")
    }
    first = {"sources": [{"model": "a", "layer_range": [0, 3]}]}
    second = {"sources": [{"model": "b", "layer_range": [1, 3]}]}
    (tmp_path / "out").mkdir()
    Merger({"merge_method": "passthrough", "slices": [first, second]}, opened(models)).write(tmp_path / "out")
    model = load(tmp_path / "out")
    assert len(model.model.layers) == len(model.config.layer_types) == model.config.num_hidden_layers == 5
    theirs = load_file(models["b"] / "model.safetensors")
    assert model.model.layers[3].mlp.up_proj.weight.equal(theirs["model.layers.1.mlp.up_proj.weight"])
    assert model.model.norm.weight.equal(theirs["model.norm.weight"])


def test_the_folder_holds_a_whole_model(tiny_models, tmp_path):
    events: list[Event] = []
    merger = Merger({**TIES, "out_dtype": "bfloat16", "tokenizer_source": "clinical"}, opened(tiny_models))
    merger.write(tmp_path, events.append, max_shard_bytes=20_000)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (tiny_models["clinical"] / name).read_bytes()
    assert read_config(tmp_path)["dtype"] == "bfloat16"
    assert (tmp_path / "model.safetensors.index.json").exists()
    total = sum(spec.nbytes for spec in merger.specs)
    assert events[-1] == Event("progress", data={"done": total, "total": total, "unit": "B"})
    assert [event.name for event in events] == ["progress"] * len(merger.names)
    assert load(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        (["half"], {}, "bfloat16"),
        (["half", "base"], {}, "float32"),
        (["half", "base"], {"dtype": "float16"}, "float16"),
        (["base"], {"dtype": "float32", "out_dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_one_dtype_for_weights_and_config(tiny_models, names, asked, expected):
    models = [{"model": name, "parameters": {"weight": 1}} for name in names]
    merger = Merger({"merge_method": "linear", "models": models, **asked}, opened(tiny_models))
    assert {spec.dtype for spec in merger.specs} == {merger.plan.config["dtype"]} == {expected}
    assert str(merger.tensor(merger.names[0]).dtype) == f"torch.{expected}"


def refused(config: dict[str, object], models: dict[str, Path]) -> str:
    with pytest.raises(PlanError) as caught:
        Merger(config, opened(models))
    return str(caught.value)


def test_another_size_is_refused_with_a_table(tiny_models, tmp_path):
    small = tiny_model(tmp_path / "small", hidden_size=16)
    text = refused(TIES, {**tiny_models, "clinical": small})
    assert "hidden_size" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["clinical", "japanese", "base"] in lines
    assert ["model.embed_tokens.weight", "384x16", "384x32", "384x32"] in lines
    assert ["hidden_size", "16", "32", "32"] in lines


def test_another_architecture_is_refused(tiny_models, tmp_path):
    qwen = tiny_model(tmp_path / "qwen", architecture="qwen2")
    text = refused(TIES, {**tiny_models, "clinical": qwen})
    assert "Qwen2ForCausalLM" in text
    assert "missing" in text


def test_another_number_of_layers_is_refused(tiny_models, tmp_path):
    short = tiny_model(tmp_path / "short", layers=2)
    assert "different numbers of layers (clinical: 2, japanese: 4, base: 4)" in refused(
        TIES, {**tiny_models, "clinical": short}
    )


def changed_tokenizer(folder: Path, change: str) -> None:
    whole = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = whole["model"]["vocab"]
    if change == "swap":
        vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    else:
        vocabulary[change] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(whole))


def test_a_vocabulary_that_differs_needs_a_tokenizer_source(tiny_models, tmp_path):
    models = copied(tiny_models, "japanese", tmp_path / "copy")
    changed_tokenizer(models["japanese"], "医師")
    text = refused(TIES, models)
    assert "tokenizer of japanese does not match that of clinical: 1 tokens are new (for instance '医師')" in text
    assert "`tokenizer_source`" in text
    plan = Merger({**TIES, "tokenizer_source": "base"}, opened(models)).plan
    assert (plan.vocabulary.maps, plan.warnings) == ({}, ())


def test_a_permuted_vocabulary_is_refused_without_a_tokenizer_source(tiny_models, tmp_path):
    models = copied(tiny_models, "japanese", tmp_path / "copy")
    changed_tokenizer(models["japanese"], "swap")
    assert "2 tokens have other ids (for instance 'A'" in refused(TIES, models)


def test_another_end_token_is_refused_and_another_template_is_a_warning(tiny_models, tmp_path):
    models = copied(tiny_models, "japanese", tmp_path / "copy")
    (models["japanese"] / "chat_template.jinja").write_text("{{ messages }}")
    assert Merger(TIES, opened(models)).plan.warnings == (
        "The chat template of japanese differs from that of base, which the result has.",
    )
    settings = json.loads((models["japanese"] / "tokenizer_config.json").read_text())
    settings.update({"eos_token": "<|endoftext|>"})
    (models["japanese"] / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "eos_token is '<|endoftext|>' instead of '<|im_end|>'" in refused(TIES, models)


LINEAR = {"merge_method": "linear", "models": [{"model": "base", "parameters": {"weight": 1}}]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**TIES, "base_model": None}, "ties needs the base model's"),
        (
            {**TIES, "merge_method": "slerp"},
            "slerp takes at most 1 model besides the base, and model.embed_tokens.weight has 2",
        ),
        ({**TIES, "merge_method": "passthrough"}, "passthrough takes at most 1 model, and"),
        ({**TIES, "tokenizer_source": "other"}, "names the model 'other'"),
        ({**TIES, "base_model": "other"}, "names the model 'other'"),
        ({**TIES, "dtype": "int8"}, "cannot be written as 'int8'"),
        ({**TIES, "models": [MODELS[0], MODELS[0]]}, "'clinical' stands twice in the merge"),
        ({**LINEAR, "base_model": "clinical"}, "`weight` of clinical has no value"),
        ({**LINEAR, "models": [{"model": "base", "parameters": {"weight": 0}}]}, "the weights sum to zero"),
        ({**LINEAR, "tokenizer_source": "base"}, "`tokenizer_source: base` needs a `base_model`"),
        ({"merge_method": "linear"}, "needs `models` or `slices`"),
        (
            {"merge_method": "passthrough", "slices": [{"sources": [{"model": "base", "layer_range": [2, 5]}]}]},
            "Slice 1 takes the layers 2 to 5 of 'base', which has 4",
        ),
    ],
)
def test_a_merge_that_cannot_be_is_refused_before_any_tensor_is_read(tiny_models, config, message):
    assert message in refused(config, tiny_models)


def test_stacked_layers_of_another_width_are_refused(tiny_models, tmp_path):
    models = {**tiny_models, "wide": tiny_model(tmp_path / "wide", hidden_size=64)}
    slices = [{"sources": [{"model": name, "layer_range": [0, 2]}]} for name in ("base", "wide")]
    assert "hidden_size" in refused({"merge_method": "passthrough", "slices": slices}, models)


def damaged(models: dict[str, Path], folder: Path, value: float) -> dict[str, Path]:
    found = copied(models, "japanese", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_their_source(tiny_models, tmp_path, value):
    merger = Merger(TIES, opened(damaged(tiny_models, tmp_path / "copy", value)))
    with pytest.raises(StageError, match=r"The tensor model\.norm\.weight of japanese has NaN or infinite values"):
        merger.tensor("model.norm.weight")


def test_values_beyond_float16_are_an_error(tiny_models, tmp_path):
    models = damaged(tiny_models, tmp_path / "copy", 1e9)
    with pytest.raises(StageError, match="which float16 cannot hold"):
        Merger({**TIES, "dtype": "float16"}, opened(models)).tensor("model.norm.weight")


def test_another_live_model_is_refused_and_left_as_it_was(tiny_models, tmp_path):
    merger = Merger({**TIES, "dtype": "float32"}, opened(tiny_models))
    cases = [
        (load(tiny_models["half"]), "is bfloat16"),
        (load(tiny_model(tmp_path / "short", layers=2)), r"only the merge has model\.layers\.2"),
        (
            load(tiny_model(tmp_path / "qwen", architecture="qwen2")),
            r"only it has model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        (
            load(tiny_model(tmp_path / "tied", tie_word_embeddings=True)),
            "it ties lm_head.weight to model.embed_tokens.weight",
        ),
    ]
    for model, message in cases:
        before = digests(model.state_dict())
        with pytest.raises(StageError, match=message):
            merger.apply(model)
        assert digests(model.state_dict()) == before
