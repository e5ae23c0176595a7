"""The quickstart's fact table, and the rules by which items and training rows are drawn from any table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

import evaluators
from evaluators import fact_table
from evaluators._types import ItemError, Selection

TABLE = Path(__file__).parents[2] / "recipes" / "quickstart" / "facts.yaml"
SPLITS = ("dev", "select", "test")
RELATIONS = fact_table.read_table(TABLE)
FACTS = {fact.id: fact for relation in RELATIONS for fact in relation.facts}
ITEMS = {split: fact_table.items(Selection((TABLE,), split)) for split in SPLITS}
EVERY = [item for items in ITEMS.values() for item in items]


def normalised(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def runs(text: str, pattern: str, length: int) -> set[str]:
    """List the substrings of a length within the stretches of a text that match a pattern."""
    found = re.findall(pattern, unicodedata.normalize("NFKC", text).casefold())
    return {part[start : start + length] for part in found for start in range(len(part) - length + 1)}


def test_the_table_is_large_enough() -> None:
    assert len(RELATIONS) == 8
    assert sum(len(relation.facts) for relation in RELATIONS) == len(FACTS) >= 240
    for split in SPLITS:
        assert {item.lang for item in ITEMS[split]} == {"ja", "en"}
    assert all(count >= 300 for count in Counter(item.lang for item in ITEMS["test"]).values())


@pytest.mark.parametrize("lang", fact_table.LANGUAGES)
def test_no_subject_is_asked_for_twice_with_two_answers(lang: str) -> None:
    for relation in RELATIONS:
        subjects = Counter(fact.subject[lang] for fact in relation.facts)
        assert [subject for subject, count in subjects.items() if count > 1] == []


def test_one_answer_has_one_text_in_each_language() -> None:
    for relation in RELATIONS:
        assert len({fact.answer["en"] for fact in relation.facts}) == len(
            {fact.answer["ja"] for fact in relation.facts}
        )
        assert len({(fact.answer["en"], fact.answer["ja"]) for fact in relation.facts}) == len(
            {fact.answer["en"] for fact in relation.facts}
        )


def test_no_subject_gives_its_answer_away() -> None:
    kanji, katakana, word = r"[\u4e00-\u9fff々]+", r"[\u30a1-\u30ffー]+", r"[a-z]+"
    shared = {
        fact.id: (
            runs(fact.subject["ja"], kanji, 1) & runs(fact.answer["ja"], kanji, 1)
            | runs(fact.subject["ja"], katakana, 2) & runs(fact.answer["ja"], katakana, 2)
            | runs(fact.subject["en"], word, 4) & runs(fact.answer["en"], word, 4)
        )
        for fact in FACTS.values()
    }
    assert {name: found for name, found in shared.items() if found} == {}


def test_no_wording_serves_two_splits() -> None:
    seen = Counter(
        normalised(wording)
        for relation in RELATIONS
        for by_split in relation.wordings.values()
        for wordings in by_split.values()
        for wording in wordings
    )
    assert [wording for wording, count in seen.items() if count > 1] == []


def test_splits_share_neither_ids_nor_texts() -> None:
    ids = Counter(item.id for item in EVERY)
    assert [name for name, count in ids.items() if count > 1] == []
    splits = defaultdict(set)
    for item in EVERY:
        splits[normalised(item.question)].add(item.meta["split"])
    assert [text for text, found in splits.items() if len(found) > 1] == []


def test_training_rows_hold_no_question_that_is_asked() -> None:
    asked = {normalised(item.question) for item in EVERY}
    for lang in fact_table.LANGUAGES:
        rows = list(fact_table.training_rows(TABLE, lang))
        assert len(rows) == 3 * len(FACTS)
        assert {normalised(row["messages"][0]["content"]) for row in rows} & asked == set()
        assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in rows)


def test_training_rows_teach_the_relations_and_the_language_asked_for() -> None:
    rows = list(fact_table.training_rows(TABLE, "ja", ["drug_class"]))
    answers = {fact.answer["ja"] for fact in RELATIONS[0].facts}
    assert RELATIONS[0].name == "drug_class"
    assert len(rows) == 3 * len(RELATIONS[0].facts)
    assert {row["messages"][1]["content"] for row in rows} == answers


def test_items_have_four_options_of_their_relation_one_of_them_right() -> None:
    of_relation = {relation.name: relation.facts for relation in RELATIONS}
    for item in EVERY:
        fact, facts = FACTS[item.cluster], of_relation[item.meta["subject"]]
        assert "".join(item.options) == fact_table.LETTERS
        assert len(set(item.options.values())) == 4, item.id
        assert [item.options[letter] for letter in item.answer] == [fact.answer[item.lang]]
        acceptable = {other.answer[item.lang] for other in facts if other.answer["en"] in fact.also}
        assert set(item.options.values()) <= {other.answer[item.lang] for other in facts}
        assert not acceptable & set(item.options.values()), item.id


def test_a_subject_with_the_answer_of_another_is_not_asked_against_it() -> None:
    """`also` names answers of the relation; one that names nothing is a slip of the pen that protects nobody."""
    for relation in RELATIONS:
        answers = {fact.answer["en"] for fact in relation.facts}
        assert {
            name: set(fact.also) - answers for name, fact in FACTS.items() if name.startswith(f"{relation.name}:")
        } == {fact.id: set() for fact in relation.facts}


@pytest.mark.parametrize("split", SPLITS)
def test_the_right_letters_are_balanced(split: str) -> None:
    from scipy.stats import chisquare

    counts = Counter(item.answer[0] for item in ITEMS[split])
    assert chisquare([counts[letter] for letter in fact_table.LETTERS]).pvalue > 0.01, counts


def test_option_sets_differ_between_splits() -> None:
    sets: dict[tuple[str, str], dict[str, frozenset[str]]] = defaultdict(dict)
    for item in EVERY:
        sets[item.cluster, item.lang][item.id] = frozenset(item.options.values())
    different = [len(set(found.values())) == len(found) for found in sets.values()]
    assert sum(different) / len(different) > 0.9


@pytest.mark.parametrize("split", SPLITS)
def test_every_prefix_is_balanced_over_languages_and_relations(split: str) -> None:
    sizes = {relation.name: 2 * len(relation.facts) for relation in RELATIONS}
    languages = Counter(dict.fromkeys(fact_table.LANGUAGES, 0))
    rounds: dict[str, Counter[str]] = defaultdict(lambda: Counter(dict.fromkeys(sizes, 0)))
    for item in ITEMS[split]:
        languages[item.lang] += 1
        relations = rounds[item.id.rpartition(":")[2]]
        relations[item.meta["subject"]] += 1
        assert max(languages.values()) - min(languages.values()) <= 1
        # A relation may fall behind only by having no fact left in this round of wordings.
        behind = [name for name, count in relations.items() if max(relations.values()) - count > 2]
        assert all(relations[name] == sizes[name] for name in behind), relations
    assert list(rounds) == (["test0", "test1"] if split == "test" else [f"{split}0"])
    assert all(relations == sizes for relations in rounds.values())


def test_a_limit_keeps_the_first_items() -> None:
    limited = evaluators.load_items("fact_table", Selection((TABLE,), "dev", limit=32))
    assert limited == ITEMS["dev"][:32]
    assert len({item.meta["subject"] for item in limited}) == 8


def test_a_selection_narrows_by_language_and_relation() -> None:
    chosen = evaluators.load_items("fact_table", Selection((TABLE,), "dev", ("ja",), ("muscle_nerve",)))
    assert {(item.lang, item.meta["subject"]) for item in chosen} == {("ja", "muscle_nerve")}
    assert len(chosen) == len(next(one for one in RELATIONS if one.name == "muscle_nerve").facts)


_DIGEST = """
import hashlib, sys
from pathlib import Path
from evaluators import fact_table
from evaluators._types import Selection
table = Path(sys.argv[1])
drawn = [fact_table.items(Selection((table,), split)) for split in ("dev", "select", "test")]
drawn += [list(fact_table.training_rows(table, lang)) for lang in ("ja", "en")]
print(hashlib.sha256(repr(drawn).encode()).hexdigest())
"""


def test_items_do_not_depend_on_the_order_of_sets() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST, str(TABLE)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TABLE.parents[2])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1


def small(facts: list[object], **wordings: object) -> dict[str, object]:
    asked = {split: [f"{split} {{subject}}?"] for split in ("train", *SPLITS)} | wordings
    return {"relations": {"r": {"wordings": {"ja": asked, "en": asked}, "facts": facts}}}


def facts(count: int) -> list[object]:
    return [{"en": [f"s{one}", f"a{one}"], "ja": [f"主{one}", f"答{one}"]} for one in range(count)]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"relation": {}}, "not a fact table"),
        ([1, 2], "not a fact table"),
        (small([*facts(4), {"en": ["s", "a"]}]), "r lacks a part: KeyError('ja')"),
        (small([*facts(4), {"en": ["s", False], "ja": ["主", "答"]}]), "False is no text; put it in quotes"),
        (small(facts(4), dev=["{subjekt}?"]), "r lacks a part: KeyError('subjekt')"),
        (small(facts(4), dev=["which one?"]), "does not name the {subject}"),
        (small(facts(3)), "only 2 wrong options are left"),
        (small([*facts(4), {"en": ["s", "a0"], "ja": ["主", "答0"], "also": ["a1"]}]), "only 2 wrong options are left"),
    ],
)
def test_a_table_that_cannot_be_asked_is_explained(tmp_path: Path, table: object, reason: str) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text(yaml.safe_dump(table, allow_unicode=True), encoding="utf-8")
    with pytest.raises(ItemError, match=re.escape(reason)) as caught:
        fact_table.items(Selection((path,), "dev"))
    assert "r:s" in str(caught.value) or str(path) in str(caught.value)


def test_a_missing_table_and_an_unknown_relation_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="cannot be read: No such file"):
        fact_table.items(Selection((tmp_path / "facts.yaml",), "dev"))
    with pytest.raises(ItemError, match="no relation 'drug_clas'; it has drug_class, "):
        fact_table.items(Selection((TABLE,), "dev", relations=("drug_clas",)))
