"""The rate of the last seconds and what is left at it."""

from __future__ import annotations

import pytest

from engine.pace import Pace


def test_nothing_is_known_before_something_moved() -> None:
    pace = Pace(100.0)
    assert (pace.rate, pace.left(10)) == (None, None)
    pace.tell(0, 101.0)
    assert (pace.rate, pace.left(10)) == (None, None)


def test_an_even_pace() -> None:
    pace = Pace(100.0)
    for second in range(1, 31):
        pace.tell(2.0 * second, 100.0 + second)
    assert pace.rate == pytest.approx(2.0)
    assert pace.left(80.0) == pytest.approx(10.0)


def test_a_slow_start_is_forgotten() -> None:
    pace = Pace(0.0)
    pace.tell(1.0, 60.0)
    for second in range(1, 21):
        pace.tell(1.0 + 5.0 * second, 60.0 + second)
    assert pace.rate == pytest.approx(5.0)


def test_seldom_news_still_has_a_rate() -> None:
    pace = Pace(0.0)
    for minute in range(1, 4):
        pace.tell(600.0 * minute, 60.0 * minute)
    assert pace.rate == pytest.approx(10.0)


def test_more_than_the_total_leaves_nothing() -> None:
    pace = Pace(0.0)
    pace.tell(12.0, 1.0)
    assert pace.left(10.0) == 0.0
