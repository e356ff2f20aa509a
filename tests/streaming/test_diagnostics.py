"""`Diagnostics`: rate-limited log lines."""

import logging

import pytest
from codomyrmex.streaming.diagnostics import Diagnostics


class Now:
    def __init__(self):
        self.seconds = 1_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def lines(now, caplog):
    caplog.set_level(logging.WARNING, "some.module")
    return Diagnostics("some.module", now)


def test_the_first_of_a_kind_is_logged_at_once(lines, caplog):
    lines.warning("kind", "handler %s failed %d times", "h", 3)
    assert caplog.record_tuples == [("some.module", logging.WARNING, "handler h failed 3 times")]


def test_the_first_is_logged_at_any_time_of_the_clock(now, lines, caplog):
    now.seconds = 0.0
    lines.warning("kind", "failed")
    assert caplog.messages == ["failed"]


def test_more_lines_of_a_kind_are_held_back_and_counted(now, lines, caplog):
    for _ in range(5):
        lines.warning("kind", "%s failed", "h")
    now.seconds += 9.9
    lines.warning("kind", "%s failed", "h")
    assert caplog.messages == ["h failed"]
    now.seconds += 0.2
    lines.warning("kind", "%s failed", "h")
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("h failed")
    assert "5 more" in caplog.messages[1]


def test_the_number_starts_over_after_each_line(now, lines, caplog):
    for _ in range(3):
        lines.warning("kind", "failed")
        lines.warning("kind", "failed")
        now.seconds += 10
    assert len(caplog.messages) == 3
    assert all("1 more" in message for message in caplog.messages[1:])


def test_a_line_after_a_quiet_time_has_no_number(now, lines, caplog):
    lines.warning("kind", "failed")
    now.seconds += 10
    lines.warning("kind", "failed")
    assert caplog.messages == ["failed", "failed"]


def test_kinds_do_not_hold_each_other_back(lines, caplog):
    for kind in "abc":
        lines.warning(kind, "%s failed", kind)
    assert caplog.messages == ["a failed", "b failed", "c failed"]


def test_a_percent_sign_in_a_value_is_not_a_format(now, lines, caplog):
    for seconds in (0, 1, 10):
        now.seconds += seconds
        lines.warning("kind", "%s failed", "100 %d")
    assert [m[:14] for m in caplog.messages] == ["100 %d failed", "100 %d failed "]


def test_the_error_goes_along_with_its_traceback(lines, caplog, monkeypatch):
    monkeypatch.setattr("codomyrmex.streaming.diagnostics.format_error", None)
    error = ValueError("the cause")
    lines.warning("kind", "failed", error=error)
    assert caplog.records[0].exc_info[1] is error


def test_a_line_is_attributed_to_the_code_that_asked_for_it(lines, caplog):
    lines.warning("kind", "failed")
    assert caplog.records[0].pathname == __file__


def test_a_kind_is_forgotten_after_a_thousand_newer_ones(lines, caplog):
    for kind in ("first", *range(1_000), "first"):
        lines.warning(str(kind), "%s", kind)
    assert caplog.messages.count("first") == 2


def test_a_kind_is_still_held_back_while_others_are_logged(lines, caplog):
    lines.warning("often", "often")
    for n in range(500):
        lines.warning(f"kind {n}", "other")
        lines.warning("often", "often")
    assert caplog.messages.count("often") == 1
