"""Item files, and what models of known behaviour deserve in both ways of scoring."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import evaluators
from evaluators._multiple_choice import accuracy, mean_logprob, read_items, score_items
from evaluators._types import Item, ItemError, LanguageModel, Request, Score, Selection

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


class Responder:
    """A language model whose answers follow a rule: (prompt, its continuations) -> log-probabilities."""

    def __init__(self, rule: Callable[[str, Sequence[str]], Sequence[float]], tokens: int = 1) -> None:
        self.rule = rule
        self.tokens = tokens
        self.asked: list[Request] = []

    def render(self, question: str) -> str:
        return f"<user>{question}</user>"

    def score(self, requests: Sequence[Request]) -> list[tuple[Score, ...]]:
        self.asked += requests
        return [
            tuple(Score(each, self.tokens) for each in self.rule(request.prompt, request.continuations))
            for request in requests
        ]


def item(number: int, answer: str = "A", **changes: Any) -> Item:
    options = {letter: f"text {letter} of {number}" for letter in "ABCD"}
    given = {"question": f"question {number}?", "options": options, "answer": tuple(answer), "lang": "en"}
    return Item(id=f"i{number}", cluster=f"i{number}", **{**given, **changes})


def perfect(items: Sequence[Item]) -> Callable[[str, Sequence[str]], list[float]]:
    """Know every answer: by its letter, and by its text."""

    def rule(prompt: str, continuations: Sequence[str]) -> list[float]:
        asked = next(one for one in items if one.question in prompt)
        right = {*asked.answer, *(asked.options[letter] for letter in asked.answer)}
        return [-0.1 if one in right else -9.0 for one in continuations]

    return rule


def row(number: int, **changes: Any) -> dict[str, Any]:
    options = {"A": "one", "B": "two", "C": "three"}
    return {"id": f"q{number}", "question": "Which?", "options": options, "answer": ["A"], "meta": {}, **changes}


def write(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ---- reading --------------------------------------------------------------------------------------------------------


MALFORMED: list[tuple[Mapping[str, Any] | str, str]] = [
    ('{"id": "x", ', "not JSON: Expecting property name enclosed in double quotes at column 13"),
    ('["q"]', "a line wants one JSON object"),
    (row(3, id=3), "'id' wants a text"),
    (row(4, question="  "), "'question' wants a text"),
    (row(5, options=["one", "two"]), "'options' wants an object of letters and texts"),
    (row(6, options={"A": 1, "B": 2}), "'options' wants an object of letters and texts"),
    ({name: value for name, value in row(7).items() if name != "answer"}, "'answer' wants a list of letters"),
    (row(8, answer="A"), "'answer' wants a list of letters"),
    (row(9, answer=[["A"]]), "'answer' wants a list of letters"),
    (row(10, answer=[]), "'answer' is empty"),
    (row(11, answer=["D"]), "the answer 'D' is not among the options A, B, C"),
    (row(12, options={"A": None, "B": "two"}), "the answer 'A' is not among the options A, B"),
    (row(13, meta=None), "'meta' wants an object"),
    (row(0), "the id 'q0' stands on line 1 already"),
]


def test_every_malformed_line_is_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", [row(0), "", *(line for line, _ in MALFORMED)])
    with pytest.raises(ItemError) as caught:
        read_items(path)
    expected = {f"{path}:{number}: {reason}" for number, (_, reason) in enumerate(MALFORMED, start=3)}
    assert set(str(caught.value).splitlines()) == expected


def test_a_file_of_another_encoding_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(json.dumps(row(1, question="熱は?"), ensure_ascii=False).encode("cp932"))
    with pytest.raises(ItemError, match=r"items\.jsonl: not UTF-8 at byte \d+; save the file as UTF-8"):
        read_items(path)


def test_missing_and_empty_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="cannot be read: No such file"):
        read_items(tmp_path / "none.jsonl")
    with pytest.raises(ItemError, match="no scorable item is left"):
        read_items(write(tmp_path / "items.jsonl", [row(1, meta={"needs_image": True})]))


def test_items_that_cannot_be_scored_are_left_out(tmp_path: Path) -> None:
    flags = ("needs_image", "excluded", "defect")
    rows = [row(number, meta={flag: True}) for number, flag in enumerate(flags)]
    rows += [row(3, meta={"dup_of": "q9"}), row(4, options={}, answer=[]), row(5, meta={"needs_image": False}), row(6)]
    assert [one.id for one in read_items(write(tmp_path / "items.jsonl", rows))] == ["q5", "q6"]


def test_an_unscorable_item_may_lack_its_answer(tmp_path: Path) -> None:
    rows = [row(1, meta={"excluded": True}, answer=[]), row(2)]
    assert [one.id for one in read_items(write(tmp_path / "items.jsonl", rows))] == ["q2"]


def test_stems_go_before_the_question_and_absent_options_go(tmp_path: Path) -> None:
    rows = [
        row(1, meta={"stem": "次の文を読め。", "serial_group": "s1", "lang": "ja"}),
        row(2, options={"A": "one", "B": "two", "C": None}, answer=["B"]),
    ]
    first, second = read_items(write(tmp_path / "items.jsonl", rows))
    assert first.question == "次の文を読め。\n\nWhich?"
    assert (first.cluster, first.lang) == ("s1", "ja")
    assert (second.options, second.answer) == ({"A": "one", "B": "two"}, ("B",))
    assert (second.cluster, second.lang) == ("q2", "en")


def test_line_separators_of_unicode_stay_within_their_line(tmp_path: Path) -> None:
    loaded = read_items(write(tmp_path / "items.jsonl", [row(1, question="a\u2028b\u0085c?"), row(2)]))
    assert [one.question for one in loaded] == ["a\u2028b\u0085c?", "Which?"]


def test_a_file_answers_for_the_split_that_its_items_name(tmp_path: Path) -> None:
    rows = [row(1, meta={"split": "dev"}), row(2, meta={"split": "test"}), row(3)]
    path = write(tmp_path / "items.jsonl", rows)
    found = {
        split: [one.id for one in evaluators.load_items("multiple_choice", Selection((path,), split))]
        for split in ("dev", "select", "test")
    }
    assert found == {"dev": ["q1", "q3"], "select": ["q3"], "test": ["q2", "q3"]}


def test_a_selection_that_leaves_nothing_is_explained(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", [row(1, meta={"lang": "en"})])
    with pytest.raises(ItemError, match=re.escape(f"multiple_choice: no item of split dev in ja in {path}")):
        evaluators.load_items("multiple_choice", Selection((path,), "dev", lang=("ja",)))
    with pytest.raises(ItemError, match="it wants a path"):
        evaluators.load_items("multiple_choice", Selection((), "dev"))


# ---- scoring --------------------------------------------------------------------------------------------------------


ITEMS = tuple(item(number, "ABCD"[number % 4], lang=("ja", "en")[number % 2]) for number in range(200))


def test_the_responder_is_a_language_model() -> None:
    model: LanguageModel = Responder(perfect(ITEMS))
    assert model.render("x") == "<user>x</user>"


@pytest.mark.parametrize("scoring", ["letter", "option_text"])
def test_a_perfect_model_gets_everything_right(scoring: str) -> None:
    results = score_items(Responder(perfect(ITEMS)), ITEMS, scoring=scoring)
    assert [result.id for result in results] == [one.id for one in ITEMS]
    assert accuracy(results) == 1.0
    assert mean_logprob(results) == pytest.approx(-math.log1p(3 * math.exp(-8.9)))
    assert [result.prediction for result in results] == [one.answer for one in ITEMS]


@pytest.mark.parametrize("scoring", ["letter", "option_text"])
def test_a_model_that_always_says_a_gets_the_share_of_a(scoring: str) -> None:
    always = Responder(lambda _, continuations: [-1.0, *[-2.0] * (len(continuations) - 1)])
    results = score_items(always, ITEMS, scoring=scoring)
    assert accuracy(results) == 0.25
    assert {result.prediction for result in results} == {("A",)}


@pytest.mark.parametrize("scoring", ["letter", "option_text"])
def test_a_model_that_guesses_is_at_chance(scoring: str) -> None:
    draw = random.Random(0)
    many = tuple(item(number, "ABCD"[number % 4]) for number in range(2000))
    results = score_items(Responder(lambda _, ones: [-draw.random() for _ in ones]), many, scoring=scoring)
    assert accuracy(results) == pytest.approx(0.25, abs=0.03)


def test_a_model_that_cannot_tell_options_apart_has_the_log_of_their_share() -> None:
    results = score_items(Responder(lambda _, ones: [-3.0 for _ in ones]), ITEMS, scoring="letter")
    assert mean_logprob(results) == pytest.approx(-math.log(4))
    assert all(sum(map(math.exp, result.logprobs.values())) == pytest.approx(1) for result in results)


def test_option_texts_are_compared_by_their_mean_over_tokens() -> None:
    one = item(0, "A", options={"A": "long", "B": "short"})

    class Lengths:
        def render(self, question: str) -> str:
            return question

        def score(self, requests: Sequence[Request]) -> list[tuple[Score, ...]]:
            return [(Score(-4.0, 8), Score(-1.0, 1)) for _ in requests]

    (result,) = score_items(Lengths(), [one], scoring="option_text")
    assert result.correct
    assert result.logprob == pytest.approx(-0.5 - math.log(math.exp(-0.5) + math.exp(-1.0)))


@pytest.mark.parametrize(
    ("ranking", "prediction", "correct"),
    [("CABD", ("A", "C"), True), ("ACBD", ("A", "C"), True), ("ABCD", ("A", "B"), False), ("BDAC", ("B", "D"), False)],
)
def test_an_item_with_two_answers_wants_both(ranking: str, prediction: tuple[str, ...], correct: bool) -> None:
    rule = {letter: -float(place) for place, letter in enumerate(ranking)}
    model = Responder(lambda _, ones: [rule[one] for one in ones])
    (result,) = score_items(model, [item(0, "CA")], scoring="letter")
    assert (result.prediction, result.correct) == (prediction, correct)
    together = math.exp(rule["A"]) + math.exp(rule["C"])
    assert result.logprob == pytest.approx(math.log(together / sum(map(math.exp, rule.values()))))


def test_letters_are_asked_for_in_the_language_of_the_item() -> None:
    model = Responder(perfect(ITEMS))
    score_items(model, [item(1, lang="ja"), item(2)], scoring="letter")
    asked = {request.prompt: request.continuations for request in model.asked}
    japanese, english = sorted(asked, key=lambda prompt: "question 2?" in prompt)
    assert "A. text A of 1\nB. text B of 1\nC. text C of 1\nD. text D of 1" in japanese
    assert "正しい選択肢を記号で答えてください。" in japanese
    assert "Answer with the letter of the right option." in english
    assert set(asked.values()) == {("A", "B", "C", "D")}


def test_option_texts_are_asked_for_without_showing_them() -> None:
    model = Responder(perfect(ITEMS))
    score_items(model, [item(1)], scoring="option_text")
    assert model.asked == [Request("<user>question 1?</user>", tuple(item(1).options.values()))]


def test_letters_of_several_tokens_are_refused() -> None:
    with pytest.raises(ItemError, match=r"the letters A, B, C, D are not one token each.*use scoring: option_text"):
        score_items(Responder(lambda _, ones: [-1.0 for _ in ones], tokens=2), ITEMS, scoring="letter")


def test_progress_reaches_the_count_of_items() -> None:
    told: list[tuple[int, int]] = []
    score_items(Responder(perfect(ITEMS)), ITEMS, scoring="letter", progress=lambda *count: told.append(count))
    assert [total for _, total in told] == [200] * len(told)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (200, 200)


# ---- the Japanese licensing examination -----------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="the examination has no licence to ship; its files are not beside here")
@pytest.mark.parametrize(("split", "year", "count"), [("dev", 2018, 284), ("select", 2019, 291), ("test", 2020, 282)])
def test_igakuqa_has_a_year_a_split(split: str, year: int, count: int) -> None:
    loaded = evaluators.load_items("igakuqa", Selection((SHARED,), split))
    assert len(loaded) == count
    assert {one.meta["year"] for one in loaded} == {year}
    files = tuple(sorted(SHARED.glob("igakuqa_*.jsonl")))
    assert evaluators.load_items("igakuqa", Selection(files, split)) == loaded
    assert {one.lang for one in loaded} == {"ja"}
