"""Own kernels against mergekit 0.1.5 and PEFT on whole float32 checkpoints: one configuration, the same tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from engine import merging
from engine.checkpoints import open_source
from engine.executor import Merger
from engine.merging._sparsify import random_lanes
from tests.merging import assert_same
from tests.tiny import tiny_adapter, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

GRADIENT = [0.0, 0.5, 0.3, 0.7, 1.0]


def ours(config: dict, models: list[Path], folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    Merger(config, {str(model): open_source(model) for model in models}).write(folder)
    return load_file(folder / "model.safetensors")


def configuration(method: str, models: dict[str, Path], per_model: dict, parameters: dict, *, base: bool) -> dict:
    """Weights 0.7 and -0.4 (so that signs disagree), and `per_model` on the first alone."""
    entries = [
        {"model": str(models["clinical"]), "parameters": {"weight": 0.7, **per_model}},
        {"model": str(models["japanese"]), "parameters": {"weight": -0.4}},
    ]
    config = {"merge_method": method, "models": entries, "parameters": parameters, "dtype": "float32"}
    return {**config, "base_model": str(models["base"])} if base else config


CASES = [
    ("linear", {}, {"normalize": True}, False),
    ("linear", {"weight": GRADIENT}, {"normalize": False}, False),
    ("linear", {}, {"weight": 0.25}, True),
    ("task_arithmetic", {}, {"lambda": 0.6}, True),
    ("task_arithmetic", {"weight": GRADIENT}, {"normalize": True}, True),
    ("ties", {"density": 0.3}, {}, True),
    ("ties", {"density": 0.3}, {"normalize": False, "lambda": 1.3, "density": 0.55, "int8_mask": True}, True),
    ("ties", {"density": 1.0}, {"density": 0.2, "rescale": True}, True),
    ("dare_linear", {"density": 1.0}, {"normalize": True}, True),
    ("dare_ties", {"density": 1.0}, {}, True),
]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_mergekit(mergekit, tiny_models, tmp_path, case):
    method, per_model, parameters, base = case
    config = configuration(method, tiny_models, per_model, parameters, base=base)
    found = ours(config, list(tiny_models.values()), tmp_path / "ours")
    assert_same(found, mergekit(config, tmp_path / "theirs"))


@pytest.mark.parametrize("layers", [1, 4])
def test_slerp_follows_gradients_and_filters_as_mergekit_does(mergekit, tmp_path, layers):
    models = [
        tiny_model(tmp_path / f"model{seed}", architecture="mistral", seed=seed, layers=layers) for seed in (0, 1)
    ]
    config = {
        "merge_method": "slerp",
        "base_model": str(models[0]),
        "slices": [{"sources": [{"model": str(model), "layer_range": [0, layers]} for model in models]}],
        "parameters": {
            "t": [
                {"filter": "self_attn", "value": GRADIENT},
                {"filter": "mlp", "value": list(reversed(GRADIENT))},
                {"value": 0.35},
            ]
        },
        "dtype": "float32",
    }
    assert_same(ours(config, models, tmp_path / "ours"), mergekit(config, tmp_path / "theirs"))


def test_stacked_slices_agree_with_mergekit(mergekit, tmp_path):
    models = [tiny_model(tmp_path / f"model{seed}", seed=seed, layers=3) for seed in (0, 1)]
    second = {
        "model": str(models[1]),
        "layer_range": [1, 3],
        "parameters": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1.0}]},
    }
    config = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(models[0]), "layer_range": [0, 3]}]}, {"sources": [second]}],
        "dtype": "float32",
    }
    assert_same(ours(config, models, tmp_path / "ours"), mergekit(config, tmp_path / "theirs"))


def test_slices_of_a_base_alone_and_of_a_merge_agree_with_mergekit(mergekit, tiny_models, tmp_path):
    base, clinical = str(tiny_models["base"]), str(tiny_models["clinical"])
    config = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "slices": [
            {
                "sources": [
                    {"model": base, "layer_range": [0, 2]},
                    {"model": clinical, "layer_range": [1, 3], "parameters": {"weight": [0.2, 0.9]}},
                ],
                "parameters": {"lambda": 0.5},
            },
            {"sources": [{"model": base, "layer_range": [2, 4]}]},
        ],
        "parameters": {"lambda": 0.9},
        "dtype": "float32",
    }
    assert_same(ours(config, list(tiny_models.values()), tmp_path / "ours"), mergekit(config, tmp_path / "theirs"))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
@pytest.mark.parametrize("rescale", [True, False])
def test_random_methods_agree_with_mergekit_on_our_masks(mergekit, monkeypatch, tiny_models, method, rescale):
    """mergekit's draw, which is of another generator and depends on all before it, is replaced by ours.

    The probabilities, which DELLA takes from ranks, and all else are its own.
    """
    from mergekit.merge_methods import merge_tensors

    names = ("base", "clinical", "japanese")
    config = configuration(method, tiny_models, {"density": 0.5}, {"density": 0.8, "rescale": rescale}, base=True)
    sources = {str(tiny_models[name]): open_source(tiny_models[name]) for name in names}
    merger = Merger(config, sources, seed=7)
    for name in merger.names:
        position = iter(range(2))

        def draw(probabilities, name=name, position=position):
            lanes = random_lanes(probabilities, f"7/{name}/{next(position)}", 0).float()
            return (lanes < (probabilities * 65536).round() - 32768).float()

        monkeypatch.setattr(torch, "bernoulli", draw)
        expected = merge_tensors(
            [source.read(name) for source in sources.values()],
            method,
            base_index=0,
            ids=names,
            parameters={"weight": {"clinical": 0.7, "japanese": -0.4}, "rescale": rescale}
            | {"density": {"clinical": 0.5, "japanese": 0.8}},
        )
        assert_same({name: merger.tensor(name)}, {name: expected})
        assert next(position, None) is None, "each source was drawn for once"


def test_the_methods_of_mergekit_are_all_known(mergekit):
    from mergekit.merge_methods import registered_methods

    registered = {method.spec.name for method in registered_methods()}
    assert registered == {*merging.names(), *merging.MERGEKIT_METHODS}
    assert not set(merging.names()) & set(merging.MERGEKIT_METHODS)


@pytest.mark.parametrize("name", merging.all_names())
def test_parameters_and_defaults_are_those_of_mergekit(mergekit, name):
    from mergekit.merge_methods import get

    theirs = {spec.name: spec for spec in get(name).spec.parameters}
    for parameter in merging.load(name).parameters:
        spec = theirs[parameter.name]
        assert parameter.required == spec.required
        assert parameter.per_model == (spec.scope.value != "shared")
        assert (parameter.kind is bool) == (spec.value_type is bool)
        # mergekit's `scale` defaults to None, which scales by nothing.
        assert parameter.required or parameter.default == (1.0 if spec.default is None else spec.default)
    # These have no effect there on a method that drops no elements.
    assert {parameter.name for parameter in merging.load(name).parameters} >= set(theirs) - {"density", "rescale"}


@pytest.mark.parametrize("name", merging.all_names())
def test_as_many_sources_are_taken_as_mergekit_takes(mergekit, name):
    from mergekit.merge_methods import get

    method, contract = merging.load(name), get(name).spec.contract
    assert method.needs_base == (contract.base.value == "required")
    assert method.takes_base == (contract.base.value == "optional")
    base = int(method.needs_base)
    assert method.min_sources == max(contract.min_inputs - base, contract.min_non_base or 0)
    most = [contract.max_non_base, None if contract.max_inputs is None else contract.max_inputs - base]
    assert method.max_sources == min((number for number in most if number is not None), default=None)


@pytest.mark.parametrize(
    "lora",
    [{}, {"use_rslora": True, "lora_alpha": 3}, {"target_modules": ["embed_tokens", "q_proj"]}],
    ids=["linear", "rslora", "embedding"],
)
def test_an_adapter_agrees_with_peft(tiny_models, tmp_path, lora):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tiny_models["base"]
    adapter = tiny_adapter(tmp_path / "adapter", base, seed=3, **lora)
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    source = open_source(base, adapter)
    assert source.adapter is not None
    for name in source.adapter.updates:
        assert not source.read(name).equal(source.checkpoint.read(name))
    assert_same({name: source.read(name) for name in source.checkpoint.tensors}, dict(merged.state_dict()))
