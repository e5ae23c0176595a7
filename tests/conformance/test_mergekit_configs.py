"""Configurations as people publish them in model cards: each loads, with the warnings that its second line lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from engine.recipe import Merge, as_data, check_recipe, dump_recipe, load_recipe
from engine.recipe_checks._methods import methods
from engine.references import ModelReference
from engine.yaml_source import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = sorted((Path(__file__).parent / "mergekit_configs").glob("*.yaml"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
WARNING = re.compile(r"(\d+) (.+)")


def expected(path: Path) -> list[tuple[int, str]]:
    """Read the second line: `# warnings: none`, or a line number and a part of the text for each."""
    said = path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# warnings: ")
    found = [WARNING.fullmatch(part) for part in said.split("; ") if said != "none"]
    return [(int(one[1]), one[2]) for one in found if one is not None]


def references(node: object) -> Iterator[ModelReference]:
    if isinstance(node, ModelReference):
        yield node
    elif isinstance(node, dict | tuple):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from references(inner)


def test_there_are_enough_of_them():
    assert len(FILES) >= 25
    used = {document["merge_method"] for path in FILES for document in yaml.safe_load_all(path.read_text("utf-8"))}
    rare = {"ram", "ramplus_tl", "della_linear", "breadcrumbs"}
    assert used == set(methods()) - rare


@each_file
def test_it_opens_with_what_it_shows(path):
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"# [A-Z].{20,}\.", first)
    assert second == "# warnings: none" or (second.startswith("# warnings: ") and expected(path))


@each_file
def test_it_loads_with_the_warnings_that_it_lists(path):
    loaded = load_recipe(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [warning.line for warning in loaded.warnings] == [line for line, _ in expected(path)]
    for warning, (line, part) in zip(loaded.warnings, expected(path), strict=True):
        assert part in warning.message
        assert warning.source == lines[line - 1]
        assert warning.hint
    assert loaded.recipe.merge is not None
    assert loaded.recipe.name == path.stem


@each_file
def test_it_is_a_recipe_that_loads_back_equal_and_without_warnings(path):
    recipe = load_recipe(path).recipe
    again = check_recipe(parse(dump_recipe(recipe), "again.yaml"))
    assert again.recipe == recipe
    assert again.warnings == ()


@pytest.mark.slow
@each_file
def test_mergekit_takes_it_too_and_finds_the_same_models(path):
    from mergekit.config import MergeConfiguration

    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    theirs = [MergeConfiguration.model_validate(document) for document in documents]
    recipe = load_recipe(path).recipe
    merges = [*recipe.merges.values(), recipe.merge]
    assert sorted(map(models, merges)) == sorted(
        sorted({str(model) for model in one.referenced_models()}) for one in theirs
    )


def models(merge: Merge) -> list[str]:
    """Name the models whose tensors are merged, as mergekit writes them."""
    data = as_data(merge.model_copy(update={"tokenizer_source": None, "tokenizer": None}))
    return sorted({str(one).removeprefix("hf:") for one in references(data)})
