"""Every method on every architecture against mergekit 0.1.5: gradients, filters, slices, to a millionth on float32.

Methods that draw at random are at density one here, where nothing is drawn; see `test_merging.py` for our own masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from engine import merging
from engine.checkpoints import Source, open_source
from engine.executor import Merger
from tests.merging import Example, assert_same, bases, count, every_example, examples
from tests.tiny import ARCHITECTURES, smallest_model
from tests.tiny_vocabularies import tiny_vocabularies

pytestmark = pytest.mark.slow

LAYERS = 3
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
STEADY = ("max_iter",)  # a gradient over whole numbers has others in between, which mergekit refuses

Models = tuple[str, ...]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Models]:
    """Four seeded models of each architecture; the first is the base."""
    root = tmp_path_factory.mktemp("every_method")
    return {
        architecture: tuple(
            str(smallest_model(root / f"{architecture}{seed}", architecture=architecture, seed=seed, layers=LAYERS))
            for seed in range(4)
        )
        for architecture in ARCHITECTURES
    }


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Three Llama models whose tokens differ; the first is the base."""
    return tuple(str(folder) for folder in tiny_vocabularies(tmp_path_factory.mktemp("unions"), layers=1).values())


def varied(method: str, numbers: Mapping[str, float], share: float = 1.0) -> dict[str, Any]:
    """Let each number follow the layers in attention, and be another one in the MLPs."""
    settings: dict[str, Any] = {}
    for name, number in numbers.items():
        if name == "density" and method in RANDOM:
            settings[name] = 1.0
        elif isinstance(number, bool) or name in STEADY:
            settings[name] = number
        else:
            settings[name] = [
                {"filter": "self_attn", "value": [number * share, number * share * 0.5, number * 0.75]},
                {"filter": "mlp", "value": number * 0.8},
                {"value": number},
            ]
    return settings


def whole(method: str, example: Example, models: Models) -> dict[str, Any]:
    """Merge whole models."""
    sources = models[bases(method, example) : count(method, example)]
    entries = [
        {"model": model, "parameters": varied(method, numbers)}
        for model, numbers in zip(sources, example.each, strict=True)
    ]
    return {"models": entries, "parameters": varied(method, example.shared)}


def sliced(method: str, example: Example, models: Models) -> dict[str, Any]:
    """Merge two layers, then one other layer of other models with other numbers."""
    base, others = models[: bases(method, example)], models[1:]
    pieces = []
    for start, layers, turned in ((0, 2, others), (2, 1, others[1:] + others[:1])):
        entries = [{"model": model, "layer_range": [start, start + layers]} for model in base]
        for place, (model, numbers) in enumerate(zip(turned, example.each, strict=False)):
            other = (start + place) % (LAYERS - 1)
            parameters = varied(method, numbers, share=0.9 - 0.1 * start)
            entries.append({"model": model, "layer_range": [other, other + layers], "parameters": parameters})
        pieces.append({"sources": entries, "parameters": varied(method, example.shared, share=1 - 0.2 * start)})
    return {"slices": pieces, "parameters": varied(method, example.shared)}


def scales(merger: Merger, sources: Mapping[str, Source]) -> dict[str, float]:
    """Give the largest element of all that goes into a tensor: rounding is of that size, and so it is in mergekit.

    A result may be many times smaller than its sources: where the base nearly cancels, a few of its last bits differ.
    """
    return {
        name: max(float(sources[source].read(tensor).abs().max()) for source, tensor in step.inputs)
        for name, step in merger.plan.steps.items()
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("method", "number"), every_example())
def test_agrees_with_mergekit(mergekit, models, tmp_path, architecture, method, number):
    example, names = examples(method)[number], models[architecture]
    for lay_out in (whole, sliced):
        config = {"merge_method": method, "dtype": "float32", **lay_out(method, example, names)}
        if bases(method, example):
            config["base_model"] = names[0]
        sources = {name: open_source(Path(name)) for name in names}
        merger = Merger(config, sources)
        found = {name: merger.tensor(name) for name in merger.names}
        assert_same(found, mergekit(config, tmp_path / lay_out.__name__), scales(merger, sources))
        assert ("lm_head.weight" in found) == (architecture in {"llama", "mistral"})


@pytest.mark.parametrize("method", merging.all_names())
def test_agrees_with_mergekit_on_a_union_of_vocabularies(mergekit, vocabularies, tmp_path, method):
    """mergekit numbers new tokens in the order of a hash table, so the rows of tokens are compared by their texts."""
    example = examples(method)[0]
    names = (*vocabularies, vocabularies[0])[: count(method, example)]  # a base may be listed as a source as well
    config = {"merge_method": method, "dtype": "float32", "tokenizer_source": "union", **whole(method, example, names)}
    if bases(method, example):
        config["base_model"] = names[0]
    sources = {name: open_source(Path(name)) for name in names}
    merger = Merger(config, sources)
    found = {name: merger.tensor(name) for name in merger.names}
    expected = mergekit(config, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    for tensors, tokens in ((found, merger.plan.vocabulary.tokens), (expected, theirs)):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][[tokens[token] for token in sorted(theirs)]]
    assert_same(found, expected, scales(merger, sources))


def test_the_methods_that_draw_are_known():
    drawing = {name for name in merging.all_names() if any(not example.any_order for example in examples(name))}
    assert drawing == set(RANDOM)
