"""What the cards of a merge's sources say of their licences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.licences import licence_of, licence_warning

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: ja\nlicense: apache-2.0\n---\n# Model\nlicense: mit\n", "apache-2.0"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense:\n- llama3.1\n- gemma\n---\n", "llama3.1, gemma"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlanguage: ja\n---\n", None),
        ("---\nlicense: [unclosed\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("# Model\n\n---\nlicense: mit\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_is_that_of_the_front_matter(tmp_path: Path, card: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert licence_of(tmp_path) == licence


def test_a_folder_without_a_card_states_nothing(tmp_path: Path) -> None:
    assert licence_of(tmp_path) is None


def test_an_alias_bomb_is_read_in_no_time(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [*{before}, *{before}]\n"
        for before, name in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst", strict=True)
    )
    (tmp_path / "README.md").write_text(f"---\n{bomb}license: mit\n---\n")
    assert licence_of(tmp_path) == "mit"


def test_sources_that_agree_or_state_nothing_are_no_news() -> None:
    assert licence_warning({"a": "mit", "b": "mit"}) is None
    assert licence_warning({"a": None, "b": None}) is None


@pytest.mark.parametrize("other", ["cc-by-nc-4.0", None])
def test_sources_that_differ_are_named_with_their_licences(other: str | None) -> None:
    said = licence_warning({"a": "mit", "b": other})
    assert said is not None
    assert f"(a: mit, b: {other or 'not stated'})" in said
