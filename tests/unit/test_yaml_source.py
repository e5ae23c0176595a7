"""YAML with the place of every key: lines, columns, double keys, and files that are broken or hostile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.yaml_nodes import Place
from engine.yaml_source import Source, parse, read_source, to_yaml

if TYPE_CHECKING:
    from pathlib import Path


def messages(source: Source) -> list[str]:
    return [problem.message for problem in source.problems]


def the_problem(text: str) -> tuple[int, int, str]:
    [problem] = parse(text, "x.yaml").problems
    return problem.line, problem.column, problem.message


class TestData:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-4", 1e-4),
            ("2.0e-4", 2e-4),
            ("-.5", -0.5),
            ("+7", 7),
            ("012", 12),
            (".inf", math.inf),
            ("true", True),
            ("False", False),
            ("~", None),
            ("NULL", None),
            ("", None),
            ("on", "on"),
            ("off", "off"),
            ("yes", "yes"),
            ("No", "No"),
            ("tRUE", "tRUE"),
            ("2024-01-01", "2024-01-01"),
            ("12:30:45", "12:30:45"),
            ("1_000", "1_000"),
            ("0x1f", "0x1f"),
            ("'1e-4'", "1e-4"),
            ('"true"', "true"),
            ("9" * 200, "9" * 200),
            ("東京", "東京"),
        ],
    )
    def test_a_scalar_is_what_it_looks_like(self, text: str, value: object) -> None:
        found = parse(f"key: {text}", "x.yaml").data["key"]
        assert found == value
        assert type(found) is type(value)

    def test_aliases_are_copied(self) -> None:
        source = parse("a: &lora {r: 8}\nb: *lora\n", "x.yaml")
        assert source.data == {"a": {"r": 8}, "b": {"r": 8}}
        assert source.values["b", "r"] == Place(1, 14)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
            max_leaves=12,
        ).filter(lambda data: "${" not in repr(data))
    )
    def test_what_is_written_is_read_back(self, data: object) -> None:
        source = parse(to_yaml({"data": data}), "x.yaml")
        assert source.problems == ()
        assert source.data == {"data": data}

    @pytest.mark.parametrize("text", ["1e-4", "1e5", "on", "null", "0o17", "<<", "=", " x ", "a: b", "#", "2024-01-01"])
    def test_words_that_look_like_something_else_are_quoted(self, text: str) -> None:
        assert parse(to_yaml({text: [text]}), "x.yaml").data == {text: [text]}


class TestPlaces:
    def test_keys_and_values_know_their_line_and_column(self) -> None:
        source = parse("# 処方\nmerge:\n  models:\n    - model: 臨床\n      weight: 0.5\n", "x.yaml")
        assert source.keys["merge",] == Place(2, 1)
        assert source.keys["merge", "models", 0, "weight"] == Place(5, 7)
        assert source.values["merge", "models", 0, "model"] == Place(4, 14)
        assert source.keys["merge", "models", 0] == source.values["merge", "models", 0] == Place(4, 7)

    def test_the_caret_stands_under_the_word_after_japanese_text(self) -> None:
        source = parse("sft: {名前: 臨床, r: x}\n", "x.yaml")
        rendered = source.problem(("sft", "r"), "wrong").render("x.yaml").split("\n")
        # Each full-width character before the word is matched by one full-width space.
        assert rendered[1] == "    sft: {名前: 臨床, r: x}"
        assert rendered[2] == "          \u3000\u3000  \u3000\u3000     ^"
        assert rendered[1].index("x}") == rendered[2].index("^")

    def test_what_is_missing_is_placed_at_the_section_around_it(self) -> None:
        source = parse("a:\n  b: {c: 1}\n", "x.yaml")
        assert source.problem(("a", "b", "gone", 3), "no").line == 2
        assert source.problem(("gone",), "no").line == 0

    def test_a_byte_order_mark_and_other_line_ends_change_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: {c: 2}\r\n")
        source = read_source(path)
        assert source.data == {"a": 1, "b": {"c": 2}}
        assert source.values["b", "c"] == Place(2, 8)
        assert source.problem(("b",), "no").source == "b: {c: 2}"


class TestRefusals:
    # No test asserts a time: what the limits did not stop here would run for minutes, or for ever.

    def test_each_double_key_is_a_problem_and_the_first_stands(self) -> None:
        source = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n", "x.yaml")
        assert source.data == {"a": 1, "b": {"c": 1}}
        assert [(p.line, p.column, p.message) for p in source.problems] == [
            (2, 11, "`c` is given twice"),
            (3, 1, "`a` is given twice"),
        ]
        assert source.problems[1].hint == "It stands in line 1 already; keep one of the two."

    @pytest.mark.parametrize(
        ("text", "tag"),
        [
            ("a: !!python/object/apply:os.system ['touch canary']", "!!python/object/apply:os.system"),
            ("a: !!python/name:os.system ''", "!!python/name:os.system"),
            ("a: !env HF_TOKEN", "!env"),
            ("a: !!timestamp 2024-01-01", "!!timestamp"),
        ],
    )
    def test_a_tag(self, text: str, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert the_problem(text) == (1, 4, f"the tag `{tag}` is not part of a recipe")
        assert not list(tmp_path.iterdir())

    def test_an_alias_bomb_is_refused_at_once(self) -> None:
        levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
        source = parse("\n".join(["a0: &a0 [x]", *levels]), "x.yaml")
        assert messages(source) == ["the file holds more than 50,000 values once its aliases are written out"]

    @pytest.mark.parametrize("text", ["[" * 900_000, "{a: " * 200_000, "a: [\n" * 150_000, "- " * 400_000])
    def test_endless_nesting_is_refused_at_once(self, text: str) -> None:
        source = parse(text, "x.yaml")
        assert messages(source) == ["nested deeper than 32 levels"]

    def test_many_broken_sections_do_not_take_long(self) -> None:
        assert parse("a: b: c\n" * 120_000, "x.yaml").problems

    def test_an_anchor_that_holds_itself(self) -> None:
        assert the_problem("a: &a [*a]") == (1, 8, "`*a` has no anchor `&a` before it")

    @pytest.mark.parametrize(
        ("text", "place", "words"),
        [
            ("1: x", (1, 1), "the key `1` is not text"),
            ("true: x", (1, 1), "the key `true` is not text"),
            ("a:\n  ? [b, c]\n  : 1", (2, 5), "the key (a sequence) is not text"),
            ("a: {<<: {b: 1}}", (1, 5), "the merge key `<<` is not part of a recipe"),
            ("a: x\n...\nb: y", (3, 1), "not valid YAML: did not find expected <document start>"),
            ("a: x\r---\rb: y", (2, 1), "another document starts here"),
            (
                "token: ${oc.env:HF_TOKEN}",
                (1, 8),
                "`${oc.env:HF_TOKEN}` would stay as it is: a recipe has no variables",
            ),
            ("日本: \x1b[2J", (1, 5), "the character U+001B cannot stand in YAML"),
            ("", (0, 0), "the file is empty"),
            ("# nothing\n", (0, 0), "the file is empty"),
            ("a:\n\t- b\n", (2, 1), "not valid YAML: found character that cannot start any token"),
            ("a:\n  b: 1\n   c: 2\n", (3, 5), "not valid YAML: mapping values are not allowed in this context"),
            ("a: [1, 2\n", (2, 1), "not valid YAML: did not find expected ',' or ']'"),
            ("a: 'x\n", (2, 1), "not valid YAML: found unexpected end of stream"),
        ],
    )
    def test_a_mistake_has_its_place(self, text: str, place: tuple[int, int], words: str) -> None:
        line, column, message = the_problem(text)
        assert (line, column) == place
        assert message.startswith(words)

    def test_no_control_character_reaches_the_message(self) -> None:
        [problem] = parse("a: \x1b[2J", "x.yaml").problems
        assert problem.source == "a: \ufffd[2J"

    def test_a_broken_section_hides_no_other(self) -> None:
        source = parse("a: {b: 1\nc: 2\nd: e: f\na: 3\ng: {h: 1, h: 2}\n", "x.yaml")
        assert source.data == {"c": 2, "a": 3, "g": {"h": 1}}
        assert source.unreadable == ("a", "d")
        assert [problem.line for problem in source.problems] == [2, 3, 5]
        assert source.values["g", "h"] == Place(5, 8)

    def test_an_alias_into_another_section_is_no_second_problem(self) -> None:
        source = parse("a: &x 1\nb: {c\nd: *x\n", "x.yaml")
        assert source.unreadable == ("b",)
        assert len(source.problems) == 1


class TestDocuments:
    def test_each_has_its_own_data_and_the_lines_of_the_file(self) -> None:
        source = parse(
            "# head\n%YAML 1.1\n---\na: &x 1\n--- # two\nb: {c: *x, c: 2}\nd: e: f\n---\n# nothing\n---\ng: 3\n", "x"
        )
        assert [one.data for one in (source, *source.others)] == [{"a": 1}, {"b": {"c": None}}, {"g": 3}]
        assert [one.start for one in (source, *source.others)] == [1, 5, 10]
        assert [(problem.line, problem.source) for problem in source.others[0].problems] == [
            (6, "b: {c: *x, c: 2}"),
            (7, "d: e: f"),
        ]
        assert source.others[1].values["g",] == Place(11, 4)
        assert source.others[0].unreadable == ("d",)

    def test_an_empty_one_is_none(self) -> None:
        for text in ("---\na: 1\n---\n", "a: 1\n---\n# nothing\n...\n"):
            source = parse(text, "x")
            assert (source.data, source.others, source.problems) == ({"a": 1}, (), ())

    def test_a_line_inside_a_text_begins_none(self) -> None:
        source = parse("a: |\n  ---\n  b\nc: '--- d'\n---e: 1\n", "x")
        assert (source.data, source.others) == ({"a": "---\nb\n", "c": "--- d", "---e": 1}, ())

    def test_too_many_are_not_read(self) -> None:
        source = parse("---\na: 1\n" * 100_000, "x")
        assert len(source.others) == 31
        assert [(problem.line, problem.message) for problem in source.problems] == [
            (65, "the file has more than 32 documents")
        ]


class TestMergekit:
    """A document with a top-level `merge_method`, which is read as mergekit's reader does."""

    def test_merge_keys_are_followed(self) -> None:
        source = parse(
            "merge_method: x\na: &a {w: 1, d: 2}\nb: &b {d: 3, e: 4}\nc: {w: 5, <<: *a}\nd: {<<: [*a, *b], e: 6}\n"
            "e: &e {<<: *a, f: 7}\nf: {<<: *e}\n",
            "x",
        )
        assert source.problems == source.warnings == ()
        assert source.is_mergekit
        assert source.data["c"] == {"w": 5, "d": 2}
        assert source.data["d"] == {"w": 1, "d": 2, "e": 6}
        assert source.data["f"] == {"w": 1, "d": 2, "f": 7}
        assert source.keys["d", "d"] == source.keys["a", "d"] == Place(2, 14)

    def test_of_a_key_given_twice_the_last_counts_with_a_warning(self) -> None:
        source = parse("merge_method: x\na: {b: 1, b: 2}\na: {b: 3, <<: {b: 4}}\n", "x")
        assert source.data["a"] == {"b": 3}
        assert source.problems == ()
        assert [(warning.line, warning.message) for warning in source.warnings] == [
            (3, "`a` is given twice: mergekit reads the last")
        ]

    @pytest.mark.parametrize(
        ("value", "place"), [("1", (2, 9)), ("[{a: 1}, x]", (2, 18)), ("", (2, 9))], ids=["number", "list", "nothing"]
    )
    def test_a_merge_key_takes_sections(self, value: str, place: tuple[int, int]) -> None:
        [problem] = parse(f"merge_method: x\na: {{<<: {value}}}\n", "x").problems
        assert (problem.line, problem.column, problem.message) == (
            *place,
            "`<<` takes a section, or a list of sections",
        )

    def test_variables_of_a_chat_template_are_text(self) -> None:
        assert parse("merge_method: x\nchat_template: '${a}'", "x").problems == ()

    def test_a_bomb_of_merge_keys_is_refused_at_once(self) -> None:
        levels = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 10)]
        source = parse("\n".join(["merge_method: x", "a0: &a0 {b: 1}", *levels]), "x")
        assert messages(source) == ["the file holds more than 50,000 values once its aliases are written out"]

    def test_a_chain_of_merge_keys_is_bounded(self) -> None:
        levels = [f"a{n}: &a{n} {{<<: *a{n - 1}}}" for n in range(1, 5000)]
        source = parse("\n".join(["merge_method: x", "a0: &a0 {b: 1}", *levels]), "x")
        assert messages(source) == ["the file holds more than 50,000 values once its aliases are written out"]

    def test_a_broken_section_hides_no_other(self) -> None:
        source = parse("merge_method: x\na: {b: 1\nc: {<<: {d: 1}}\n", "x")
        assert source.data == {"merge_method": "x", "c": {"d": 1}}
        assert len(source.problems) == 1


class TestFiles:
    def test_a_large_file_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_bytes(b"#" * 10_000_000)
        with pytest.raises(RecipeError, match="larger than 1 MB"):
            read_source(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="cannot be read: No such file"):
            read_source(tmp_path / "x.yaml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="cannot be read"):
            read_source(tmp_path)

    def test_another_encoding(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_bytes("name: 調合".encode("shift_jis"))
        with pytest.raises(RecipeError, match="is not UTF-8 text"):
            read_source(path)
