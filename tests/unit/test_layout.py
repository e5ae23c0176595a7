"""The layout of a merge: modules, slices and bases, and what does not fit. Numbers are compared in tests/oracle."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import PlanError
from engine.merging._layout import lay_out, layer_sources, model_names
from engine.merging._method import Parameter
from engine.merging._settings import resolve

LLAMA = (
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)),
    "model.norm.weight",
)
QWEN = "Qwen2_5_VLForConditionalGeneration"
VISION = (
    *LLAMA,
    "visual.patch_embed.proj.weight",
    *(f"visual.blocks.{layer}.attn.proj.weight" for layer in range(3)),
    "visual.merger.ln_q.weight",
    "visual.merger.mlp.0.weight",
)


def models(*names: str, **more: Any) -> dict[str, Any]:
    return {"models": [{"model": name} for name in names], **more}


def stack(*ranges: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [{"sources": [{"model": name, "layer_range": [start, stop]}]} for name, start, stop in ranges]


def refusal(
    config: dict[str, Any], names: tuple[str, ...] = LLAMA, architecture: str = "LlamaForCausalLM"
) -> PlanError:
    with pytest.raises(PlanError) as caught:
        lay_out(config, {"a": names, "b": names}, architecture)
    assert caught.value.hint
    return caught.value


def test_default_is_the_whole_of_a_model_with_one_module() -> None:
    names = {"a": LLAMA, "b": LLAMA}
    for architecture in ("LlamaForCausalLM", "NobodyKnowsForCausalLM", ""):
        inside = {"modules": {"default": models("a", "b")}}
        assert lay_out(inside, names, architecture) == lay_out(models("a", "b"), names, architecture)


def test_each_module_has_layers_of_its_own() -> None:
    config = {
        "modules": {
            "vision_tower": models("b", parameters={"weight": 1}),
            "text_decoder": models("a", "b"),
            "multi_modal_projector": models("a"),
        },
        "parameters": {"weight": 2},
    }
    laid = lay_out(config, {"a": VISION, "b": VISION}, QWEN)
    assert sorted(one.name for one in laid) == sorted(VISION)
    found = {one.name: ([part.source for part in one.inputs], one.t, one.scopes) for one in laid}
    top = {"weight": 2}
    assert found["visual.blocks.1.attn.proj.weight"] == (["b"], 0.5, ({}, {"weight": 1}, top))
    assert found["model.layers.1.mlp.up_proj.weight"] == (["a", "b"], 1.0, ({}, {}, top))
    assert found["visual.merger.mlp.0.weight"] == (["a"], 0.0, ({}, {}, top))
    assert found["lm_head.weight"][0] == ["a", "b"]
    # The layers that a config counts are those of the text.
    assert layer_sources(config, {"a": VISION, "b": VISION}, QWEN) == (("a", 0), ("a", 1))


def test_whole_models_of_several_modules_need_no_modules() -> None:
    laid = {one.name: one.t for one in lay_out(models("a", "b"), {"a": VISION, "b": VISION}, QWEN)}
    assert set(laid) == set(VISION)
    assert (laid["visual.blocks.1.attn.proj.weight"], laid["model.layers.1.mlp.up_proj.weight"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"text_decodr": models("a")}, "no module 'text_decodr'", "Did you mean 'text_decoder'?"),
        (
            {"default": models("a")},
            "no module 'default'",
            "Its modules: text_decoder, multi_modal_projector, vision_tower.",
        ),
        (
            {"text_decoder": models("a")},
            "leaves multi_modal_projector, vision_tower out",
            "List every module: text_decoder, multi_modal_projector, vision_tower.",
        ),
    ],
)
def test_modules_are_those_of_the_architecture(given: dict[str, Any], message: str, hint: str) -> None:
    error = refusal({"modules": given}, VISION, QWEN)
    assert message in error.message
    assert error.hint == hint


def test_slices_of_several_modules_stand_under_their_module() -> None:
    assert "do not say which layers" in refusal({"slices": stack(("a", 0, 2))}, VISION, QWEN).message
    others = {"vision_tower": models("a"), "multi_modal_projector": models("a")}
    swapped = {"modules": {"text_decoder": {"slices": stack(("b", 1, 2), ("a", 0, 1))}, **others}}
    laid = {one.name: one.inputs[0] for one in lay_out(swapped, {"a": VISION, "b": VISION}, QWEN)}
    assert laid["model.layers.0.mlp.up_proj.weight"].tensor == "model.layers.1.mlp.up_proj.weight"
    deeper = {"modules": {"text_decoder": {"slices": stack(("b", 0, 2), ("a", 0, 1))}, **others}}
    assert "text_decoder with 3 layers instead of the 2" in refusal(deeper, VISION, QWEN).message


def test_a_slice_may_have_a_base_of_its_own() -> None:
    slices = [*stack(("a", 0, 1), ("b", 0, 2)), {**stack(("b", 0, 1))[0], "base_model": "b"}]
    laid = {one.name: one.base for one in lay_out({"slices": slices, "base_model": "a"}, {"a": LLAMA, "b": LLAMA})}
    layers = [laid[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(4)]
    assert layers == ["a", "a", "a", "b"]
    assert (laid["model.embed_tokens.weight"], laid["lm_head.weight"]) == ("a", "b")


def test_every_model_is_named_once_in_the_order_of_the_merge() -> None:
    assert model_names(models("b", "a", base_model="c")) == ("b", "a", "c")
    config = {"modules": {"x": models("b"), "y": {"slices": stack(("d", 0, 1), ("b", 0, 1))}}, "base_model": "b"}
    assert model_names(config) == ("b", "d")


def test_a_merge_of_nothing_is_refused() -> None:
    with pytest.raises(PlanError, match="needs `models` or `slices`"):
        lay_out({"base_model": "a"}, {"a": LLAMA})


@pytest.mark.parametrize(
    ("kind", "setting", "t", "value"),
    [
        (int, [2, 4], 0.5, 3),
        (int, "1e3", 0.0, 1000),
        (bool, ["yes", 0.0], 1.0, False),
        (bool, "T", 0.0, True),
        (float, {"filter": "norm", "value": ["1", 2]}, 0.25, 1.25),
    ],
)
def test_a_parameter_is_of_its_kind(kind: type, setting: object, t: float, value: float) -> None:
    found = resolve([Parameter("x", 0.0, kind)], [{"x": setting}], "model.norm.weight", t, "a")["x"]
    assert found == value
    assert type(found) is kind


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [(int, [1, 2], "1.5 is no whole number"), (int, 0.5, "0.5 is no whole number"), (bool, 2, "2 is neither true nor")],
)
def test_a_number_of_another_kind_is_refused(kind: type, setting: object, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        resolve([Parameter("x", 0.0, kind)], [{"x": setting}], "model.norm.weight", 0.5, "a")
