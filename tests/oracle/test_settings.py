"""Which tensors, which base and which numbers: our layout and settings against mergekit's own planner.

The planner is run on real (tiny) models, so that its architecture files, its order of precedence, its gradients and its
filters all take part; nothing is merged.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

import pytest

from engine import merging
from engine.checkpoints import open_checkpoint
from engine.errors import PlanError
from engine.merging._layout import lay_out
from engine.merging._modules import modules_of, owned, place_of, stands_before
from engine.merging._settings import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Resolved = dict[str, tuple[Any, ...]]

pytestmark = pytest.mark.slow

LAYERS = 4
# What a tensor's name may hold; the last is in none.
FILTERS = ("self_attn", "mlp", "layernorm", "o_proj", "lm_head", "embed_tokens", "layers.1.", "model", "*", "absent")
METHODS = ("linear", "task_arithmetic", "ties", "slerp", "passthrough")
# mergekit's architecture files are wrong, or of an older form of the model, in these places.
ODD = (
    ("MixFormerSequentialForCausalLM", "layers."),  # phi-1 as remote code: the embedding and the head are numbered
    ("Qwen2VLForConditionalGeneration", "visual.merger.mlp."),  # two layers that have no number of a layer
    ("Qwen2_5_VLForConditionalGeneration", "visual.merger.mlp."),
    ("WhisperForConditionalGeneration", "model.decoder"),  # the prefix lacks its dot, so no tensor has these names
)


@pytest.fixture(scope="module")
def plan() -> Callable[[dict[str, Any]], Resolved]:
    """Import mergekit once; give each tensor its inputs, its base, and the numbers of each input and of all."""
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    from mergekit.architecture import get_architecture_info
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import _model_out_config
    from mergekit.options import MergeOptions
    from mergekit.plan import MergePlanner

    def run(config: dict[str, Any]) -> Resolved:
        theirs, options = MergeConfiguration.model_validate(config), MergeOptions(quiet=True)
        architecture = get_architecture_info(theirs, options)
        LoaderCache().setup(options=options)
        planner = MergePlanner(theirs, architecture, options, _model_out_config(theirs, architecture))
        planner._plan()
        found: Resolved = {}
        for weight, task in planner._tensors:
            inputs = {str(model): one.name for model, one in task.gather_tensors.weight_info.items()}
            each = {str(model): dict(numbers.items()) for model, numbers in task.input_parameters.items()}
            base = None if task.base_model is None else str(task.base_model)
            found[weight.name] = (inputs, base, each, dict(task.parameters.items()))
        return found

    return run


def ours(config: dict[str, Any], models: dict[str, Path]) -> Resolved:
    method = merging.load(config["merge_method"])
    each = [one for one in method.parameters if one.per_model]
    shared = [one for one in method.parameters if not one.per_model]
    names = {str(path): tuple(open_checkpoint(path).tensors) for path in models.values()}
    found: Resolved = {}
    for merged in lay_out(config, names, "LlamaForCausalLM"):
        base = merged.base if method.needs_base else None
        numbers = {
            part.source: resolve(each, [part.parameters, *merged.scopes], part.tensor, merged.t, part.source)
            for part in merged.inputs
            if part.source != base
        }
        inputs = {part.source: part.tensor for part in merged.inputs}
        found[merged.name] = (
            inputs,
            merged.base,
            numbers,
            resolve(shared, merged.scopes, merged.name, merged.t, "all"),
        )
    return found


def assert_same(found: Resolved, expected: Resolved, method: str) -> None:
    assert sorted(found) == sorted(expected)
    parameters = {one.name: one for one in merging.load(method).parameters}
    for name, (inputs, base, each, shared) in expected.items():
        assert found[name][0] == inputs, name
        assert found[name][1] == base, name
        for source, numbers in each.items():
            # Numbers that make no difference to a method of ours are unknown to it, and a scale of None is 1.
            wanted = {key: 1.0 if value is None else value for key, value in numbers.items() if key in parameters}
            assert found[name][2].get(source, {}) == wanted, (name, source)
        wanted = {key: value for key, value in shared.items() if key in parameters}
        assert found[name][3] == wanted, name


class Draw:
    """Draws settings in every form that mergekit reads."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def config(self, models: list[str]) -> dict[str, Any]:
        method = self.random.choice(METHODS)
        form = self.random.choice(("models", "slices", "modules"))
        config: dict[str, Any] = {"merge_method": method}
        if method not in ("linear", "passthrough"):
            config["base_model"] = models[0]
        if form == "models":
            config["models"] = self.entries(method, models)
        elif form == "slices":
            config["slices"] = self.slices(method, models)
        else:
            listed = (
                {"slices": self.slices(method, models)} if self.coin() else {"models": self.entries(method, models)}
            )
            config["modules"] = {"default": listed | self.settings(method, shared=True, each=True)}
        required = {one.name: self.number() for one in merging.load(method).parameters if one.required}
        top = self.settings(method, shared=True, each=True).get("parameters", {})
        # A list of filters may leave a tensor out: below every other setting there is a number.
        config["parameters"] = {**top, **required}
        return config

    def entries(self, method: str, models: list[str]) -> list[dict[str, Any]]:
        count = {"passthrough": 1, "slerp": 2}.get(method) or self.random.randint(2, 3)
        chosen = models[:count]
        self.random.shuffle(chosen)
        # A base that is not listed is added by the planner.
        if method not in ("linear", "passthrough", "slerp") and self.coin():
            chosen.remove(models[0])
        return [{"model": model, **self.settings(method, shared=False, each=True)} for model in chosen]

    def slices(self, method: str, models: list[str]) -> list[dict[str, Any]]:
        # The planner loses tensors where the first slice has fewer sources than the last, so all have equally many.
        entries = {"passthrough": 1, "slerp": 2}.get(method) or self.random.randint(2, 3)
        found = []
        for _ in range(self.random.randint(1, 3)):
            length = self.random.randint(1, LAYERS)
            sources = []
            for model in models[:entries]:
                start = self.random.randint(0, LAYERS - length)
                settings = self.settings(method, shared=False, each=True)
                sources.append({"model": model, "layer_range": [start, start + length], **settings})
            self.random.shuffle(sources)
            piece = {"sources": sources, **self.settings(method, shared=True, each=True)}
            if method != "passthrough" and self.coin():
                piece["base_model"] = self.random.choice(models[:entries])
            found.append(piece)
        return found

    def settings(self, method: str, *, shared: bool, each: bool) -> dict[str, Any]:
        parameters = {
            one.name: self.setting(one.kind)
            for one in merging.load(method).parameters
            if self.coin() and ((one.per_model and each) or (not one.per_model and shared))
        }
        return {"parameters": parameters} if parameters and self.coin() else {}

    def setting(self, kind: type) -> Any:
        form = self.random.choice(("scalar", "gradient", "condition", "conditions"))
        if form == "conditions":
            conditions = [{"filter": self.random.choice(FILTERS), "value": self.value(kind)} for _ in range(3)]
            return conditions + ([{"value": self.value(kind)}] if self.coin() else [])
        if form == "condition":
            return {"filter": self.random.choice(FILTERS), "value": self.value(kind)}
        return self.value(kind, gradient=form == "gradient")

    def value(self, kind: type, *, gradient: bool | None = None) -> Any:
        draw = self.switch if kind is bool else self.number
        if self.coin() if gradient is None else gradient:
            return [draw() for _ in range(self.random.randint(1, 6))]
        return draw()

    def number(self) -> float | str | int:
        number = round(self.random.uniform(-1, 2), 3)
        return self.random.choice((number, str(number), "1e-3", 1, True))

    def switch(self) -> object:
        return self.random.choice((True, False, 1, 0, "yes", "off", "true", 1.0, "0"))

    def coin(self) -> bool:
        return self.random.random() < 0.5


@pytest.mark.parametrize("seed", range(60))
def test_every_tensor_has_the_inputs_the_base_and_the_numbers_that_mergekit_gives_it(plan, tiny_models, seed):
    models = {name: tiny_models[name] for name in ("base", "clinical", "japanese")}
    config = Draw(seed).config([str(path) for path in models.values()])
    assert_same(ours(config, models), plan(config), config["merge_method"])


def test_the_drawn_configurations_hold_every_form(tiny_models):
    drawn = [Draw(seed).config(["a", "b", "c"]) for seed in range(60)]
    assert {config["merge_method"] for config in drawn} == set(METHODS)
    for form in ("models", "slices", "modules"):
        assert sum(form in config for config in drawn) > 10
    text = repr(drawn)
    assert all(part in text for part in ("filter", "'value': [", "'base_model': 'b'", "'yes'", "'1e-3'"))


@pytest.mark.parametrize("place", ["models", "slices"])
def test_a_number_that_nothing_gives_is_missed_by_both(plan, tiny_models, place):
    path = str(tiny_models["base"])
    entry = {"model": path, "parameters": {"weight": [{"filter": "mlp", "value": 1.0}]}}
    sources = [{**entry, "layer_range": [0, LAYERS]}]
    config = {"merge_method": "linear", place: [entry] if place == "models" else [{"sources": sources}]}
    with pytest.raises(RuntimeError, match="Missing required parameter weight"):
        plan(config)
    with pytest.raises(PlanError, match="has no value for the tensor"):
        ours(config, {"base": tiny_models["base"]})


def architectures() -> dict[str, Any]:
    from mergekit.architecture.json_definitions import JSON_ARCHITECTURES

    return {architecture.architectures[0]: architecture for architecture in JSON_ARCHITECTURES}


class Three:
    """A config in which whatever counts layers is three."""

    def __getattr__(self, name: str) -> Any:
        return Three() if name.endswith("_config") else 3


def test_every_architecture_of_mergekit_has_our_modules_our_layers_and_our_ends():
    found = architectures()
    assert len(found) > 40
    for name, architecture in found.items():
        modules = modules_of(name)
        assert {module.name for module in modules} == set(architecture.modules)
        parts = {
            key: [(module.weight_prefix or "") + one.name for one in module.architecture.all_weights(Three())]
            for key, module in architecture.modules.items()
        }
        every = [tensor for part in parts.values() for tensor in part]
        for module in modules:
            assert set(owned(module, modules, every)) == set(parts[module.name])
        for module in architecture.modules.values():
            assert_ends(name, module.architecture, module.weight_prefix or "")


def assert_ends(name: str, module: Any, prefix: str) -> None:
    """Compare where the layers of a module stand, and what stands before and after them."""

    def is_odd(tensor: str) -> bool:
        return any(name == odd and tensor.startswith(start) for odd, start in ODD)

    ends = {one.name: True for one in module.pre_weights(Three())} | {
        one.name: False for one in module.post_weights(Three())
    }
    for tensor, is_before in ends.items():
        if not is_odd(prefix + tensor):
            assert (place_of(prefix + tensor), stands_before(prefix + tensor)) == (None, is_before), (name, tensor)
    for layer in range(module.num_layers(Three())):
        for one in module.layer_weights(layer, Three()):
            place = place_of(prefix + one.name)
            assert is_odd(prefix + one.name) or (place is not None and place[1] == layer), (name, one.name)
