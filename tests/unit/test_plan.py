"""The plan: which stages there are, and what their keys do and do not depend on. No stage runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine import plan as planning
from engine.errors import PlanError
from engine.events import ignore
from engine.pin import Places, pin
from engine.plan import make_plan
from engine.recipe import load_recipe

if TYPE_CHECKING:
    from engine.plan import Plan

TEXT = """\
name: pair
models:
  small: ./base
sft:
  japanese:
    base_model: small
    dataset: {path: ja.jsonl}
    lora: {r: 8}
    training: {learning_rate: 1.0e-3}
  english:
    base_model: small
    dataset: {path: en.jsonl}
merge:
  merge_method: task_arithmetic
  base_model: small
  models:
    - {model: japanese, parameters: {weight: {low: 0.0, high: 1.5}}}
    - {model: english, parameters: {weight: 0.5}}
  dtype: bfloat16
search:
  n_trials: 8
  objective:
    - {evaluator: multiple_choice, path: dev.jsonl, split: dev}
  select:
    top: 2
    on: [{evaluator: multiple_choice, path: select.jsonl, split: select}]
evaluate:
  - {evaluator: multiple_choice, path: test.jsonl, split: test}
"""
NAMES = [
    "prepare_data japanese",
    "sft japanese",
    "prepare_data english",
    "sft english",
    "search pair",
    "merge pair",
    "evaluate pair",
]
EVERY = [name.split()[0] + str(number) for number, name in enumerate(NAMES)]
DATA_JA, SFT_JA, DATA_EN, SFT_EN, SEARCH, MERGE, TEST = range(7)
SEARCHED = {SEARCH, MERGE, TEST}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files to be pinned: a plan reads their digests and never what is in them."""
    return filled(tmp_path / "recipe")


def filled(folder: Path) -> Path:
    (folder / "base").mkdir(parents=True)
    for name in ("base/config.json", "base/model.safetensors"):
        (folder / name).write_text(name)
    for name in ("ja", "en", "dev", "select", "test"):
        (folder / f"{name}.jsonl").write_text(name)
    return folder


def planned(folder: Path, text: str = TEXT) -> Plan:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    recipe = load_recipe(file).recipe
    return make_plan(recipe, pin(recipe, Places(folder, folder / ".store", fetch=False), ignore))


def keys(plan: Plan) -> list[str | None]:
    return [stage.key for stage in plan.stages]


def changed(folder: Path, old: str, new: str) -> set[int]:
    """Tell which stages have another key after a change of the recipe's text."""
    assert old in TEXT
    pairs = zip(keys(planned(folder)), keys(planned(folder, TEXT.replace(old, new))), strict=True)
    return {number for number, (before, after) in enumerate(pairs) if before != after}


# ---- the graph -------------------------------------------------------------------------------------------------------


def test_stages_stand_in_the_order_of_the_work(folder: Path) -> None:
    plan = planned(folder)
    assert [stage.name for stage in plan.stages] == NAMES
    assert [stage.kind for stage in plan.stages] == [name.split()[0] for name in NAMES]
    done = set(plan.given)
    for stage in plan.stages:
        assert set(stage.inputs.values()) <= done
        done.add(stage.name)
    keys_ = [stage.key for stage in plan.stages]
    assert len(set(keys_)) == len(NAMES)
    assert all(key is not None and len(key) == 64 for key in keys_)


def test_inputs_are_models_by_number_the_base_first(folder: Path) -> None:
    merge = planned(folder).stages[MERGE]
    assert merge.inputs == {
        "m0": "./base",
        "m1": "./base",
        "m1+adapter": "sft japanese",
        "m2": "./base",
        "m2+adapter": "sft english",
        "search": "search pair",
    }
    assert merge.labels == {"m0": "small", "m1": "japanese", "m2": "english"}


def test_the_test_is_asked_of_base_parents_and_the_uniform_merge(folder: Path) -> None:
    systems = planned(folder).stages[TEST].spec["systems"]
    assert [(system["role"], system["model"]) for system in systems] == [
        ("base", "m0"),
        ("parent", "m1"),
        ("parent", "m2"),
        ("baseline", "uniform"),
    ]


def test_a_fine_tune_without_a_merge_is_exported(folder: Path) -> None:
    text = TEXT[: TEXT.index("merge:")]
    names = [stage.name for stage in planned(folder, text).stages]
    assert names == [*NAMES[:4], "merge pair"]


def test_equal_work_under_two_names_is_one_stage(folder: Path) -> None:
    twin = TEXT.replace("{path: en.jsonl}", "{path: ja.jsonl}\n    lora: {r: 8}\n    training: {learning_rate: 1.0e-3}")
    names = [stage.name for stage in planned(folder, twin).stages]
    assert names == ["prepare_data japanese", "sft japanese", *NAMES[4:]]


def test_a_file_that_is_listed_twice_counts_twice(folder: Path) -> None:
    twice = planned(folder, TEXT.replace("{path: ja.jsonl}", "{path: [ja.jsonl, ja.jsonl]}")).stages[DATA_JA]
    assert len(twice.spec["files"]) == 2
    assert twice.key != planned(folder).stages[DATA_JA].key


def test_a_recipe_that_makes_no_model_is_refused(folder: Path) -> None:
    with pytest.raises(PlanError, match="makes no model") as caught:
        planned(folder, "name: nothing\n")
    assert caught.value.hint


def test_every_part_that_is_not_built_is_named_at_once(folder: Path) -> None:
    text = TEXT.replace("  n_trials: 8", "  n_trials: 8\n  sampler: cmaes") + (
        "publish: {repo_id: my-org/pair, license: mit}\n"
        "pretrain: {more: {base_model: small, dataset: {path: ja.jsonl}}}\n"
    )
    with pytest.raises(PlanError) as caught:
        planned(folder, text)
    assert str(caught.value) == (
        "not built yet in this version:\n  pretrain.more\n  search.sampler: cmaes\n  publish\n"
        "  Take these parts out of the recipe to run the rest."
    )


def test_what_hangs_on_a_model_that_is_not_fetched_has_no_key_yet(folder: Path) -> None:
    plan = planned(folder, TEXT.replace("./base", "pypi:no-such-models==1.0/small.gguf"))
    assert [stage.name for stage in plan.stages] == ["base small", *NAMES]
    without = {stage.name for stage in plan.stages if stage.key is None}
    assert without == {"base small", *NAMES} - {"prepare_data japanese", "prepare_data english"}


# ---- what keys do not depend on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: pair", "name: another"),
        ("small", "little"),
        ("japanese", "nippon"),
        ("english", "a-zygote"),  # another place in the alphabet
        ("lora: {r: 8}", "lora: {r: 8, lora_dropout: 0.0, target_modules: all-linear}"),
        ("  n_trials: 8", "  n_trials: 8\n  sampler: tpe\n  warm_start: true"),
        ("name: pair", "seed: 42\nname: pair"),
    ],
    ids=["recipe", "model", "section", "order of names", "defaults", "defaults of search", "default seed"],
)
def test_names_and_defaults_are_no_part_of_a_key(folder: Path, old: str, new: str) -> None:
    assert changed(folder, old, new) == set()


def test_places_are_no_part_of_a_key(folder: Path, tmp_path: Path) -> None:
    before = keys(planned(folder))
    assert keys(planned(filled(tmp_path / "elsewhere 調合" / "deep"))) == before
    (folder / "data").mkdir()
    for name in ("ja", "en", "dev", "select", "test"):
        (folder / f"{name}.jsonl").rename(folder / "data" / f"set-{name}.jsonl")
    (folder / "base").rename(folder / "weights")
    text = TEXT.replace("./base", "./weights")
    for name in ("ja", "en", "dev", "select", "test"):
        text = text.replace(f"path: {name}.jsonl", f"path: data/set-{name}.jsonl")
    assert keys(planned(folder, text)) == before


def test_what_is_no_part_of_a_model_does_not_count(folder: Path) -> None:
    before = keys(planned(folder))
    (folder / "base" / "README.md").write_text("a card")
    (folder / "base" / "training.log").write_text("a log")
    assert keys(planned(folder)) == before


# ---- what keys depend on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "others"),
    [
        ("ja.jsonl", {DATA_JA, SFT_JA, *SEARCHED}),
        ("en.jsonl", {DATA_EN, SFT_EN, *SEARCHED}),
        ("dev.jsonl", SEARCHED),
        ("select.jsonl", SEARCHED),
        ("test.jsonl", {TEST}),
        ("base/model.safetensors", {SFT_JA, SFT_EN, *SEARCHED}),
        ("base/config.json", {SFT_JA, SFT_EN, *SEARCHED}),
    ],
)
def test_bytes_change_the_keys_of_what_reads_them(folder: Path, file: str, others: set[int]) -> None:
    before = keys(planned(folder))
    (folder / file).write_text("other bytes")
    after = keys(planned(folder))
    assert {number for number in range(7) if before[number] != after[number]} == others


@pytest.mark.parametrize(
    ("old", "new", "others"),
    [
        ("name: pair", "name: pair\nseed: 7", {SFT_JA, SFT_EN, *SEARCHED}),
        ("1.0e-3", "2.0e-3", {SFT_JA, *SEARCHED}),
        ("{r: 8}", "{r: 4}", {SFT_JA, *SEARCHED}),
        ("{path: en.jsonl}", "{path: en.jsonl, limit: 3}", {DATA_EN, SFT_EN, *SEARCHED}),
        ("high: 1.5", "high: 1.6", SEARCHED),
        ("weight: 0.5", "weight: 0.6", SEARCHED),
        ("task_arithmetic", "ties", SEARCHED),
        ("bfloat16", "float32", SEARCHED),
        ("n_trials: 8", "n_trials: 9", SEARCHED),
        ("n_trials: 8", "n_trials: 8\n  sampler: random", SEARCHED),
        ("n_trials: 8", "n_trials: 8\n  seed: 1", SEARCHED),
        ("top: 2", "top: 3", SEARCHED),
        ("split: dev}", "split: dev, scoring: option_text}", SEARCHED),
        ("split: dev}", "split: dev, weight: 2.0}", SEARCHED),
        ("split: test}", "split: test, limit: 5}", {TEST}),
        ("split: test}", "split: test, chat_template: false}", {TEST}),
    ],
)
def test_settings_change_the_keys_of_what_they_steer(folder: Path, old: str, new: str, others: set[int]) -> None:
    assert changed(folder, old, new) == others


def test_the_order_of_the_models_is_the_authors(folder: Path) -> None:
    first = "    - {model: japanese, parameters: {weight: {low: 0.0, high: 1.5}}}\n"
    second = "    - {model: english, parameters: {weight: 0.5}}\n"
    assert changed(folder, first + second, second + first) == SEARCHED


def test_a_raised_version_changes_the_keys_from_there_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(planned(folder))
    monkeypatch.setitem(planning.VERSIONS, "search", planning.VERSIONS["search"] + 1)
    after = keys(planned(folder))
    assert {number for number in range(7) if before[number] != after[number]} == SEARCHED


# ---- scratch ---------------------------------------------------------------------------------------------------------


def test_more_trials_go_on_in_the_same_scratch(folder: Path) -> None:
    short, long = (planned(folder, TEXT.replace("n_trials: 8", f"n_trials: {count}")) for count in (8, 20))
    assert short.stages[SEARCH].key != long.stages[SEARCH].key
    assert short.stages[SEARCH].scratch == long.stages[SEARCH].scratch
    assert short.stages[MERGE].scratch != long.stages[MERGE].scratch


def test_another_search_has_another_scratch(folder: Path) -> None:
    one, other = (planned(folder, TEXT.replace("high: 1.5", f"high: {high}")) for high in (1.5, 1.6))
    assert one.stages[SEARCH].scratch != other.stages[SEARCH].scratch
    scratches = [stage.scratch for stage in one.stages]
    assert len(set(scratches)) == len(scratches)
    assert not set(scratches) & set(keys(one))
