"""`simulate`: what a configuration would send, in virtual time; and the `tests:` of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.config_file import ExpectFile, TestEventFile, TestFile
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.notification import Notification, Status, pairs
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.streaming import Event

T = TypeVar("T")
U = TypeVar("U")

Step = Alert | Callable[[AlertEngine, float], None]  # an alert, or a function of the engine and the time

_START = datetime(2026, 1, 5, 12, tzinfo=UTC)  # a Monday at noon, if a test has no `start`
_PRECISION = 0.001  # seconds


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification that would have been sent.

    Args:
        at: when, in seconds since 1970.
        notification: the notification.
        delivered: False if its receiver was to fail.
    """

    at: float
    notification: Notification
    delivered: bool = True


def simulate(
    config: AlertConfig,
    steps: Iterable[tuple[float, Step]],
    until: float,
    *,
    failing: Collection[str] = (),
    engine: AlertEngine | None = None,
) -> list[Sent]:
    """Run a configuration in virtual time; deliveries take no time.

    Args:
        config: the configuration.
        steps: alerts, or calls that get the engine and the time; each with its time, in order.
        until: the end, in seconds since 1970.
        failing: the names of receivers that fail to deliver.
        engine: an engine that has run before, to continue with.
    """
    engine = AlertEngine(config) if engine is None else engine
    sent: list[Sent] = []
    now = -math.inf

    def deliver(now: float) -> None:
        while due := engine.due(now):
            for notification in due:
                delivered = notification.receiver not in failing
                sent.append(Sent(now, notification, delivered))
                (engine.delivered if delivered else engine.failed)(notification, now)

    def run_until(moment: float) -> None:
        while (deadline := engine.next_deadline()) is not None and deadline < moment:
            at = max(deadline, now)
            deliver(at if at > -math.inf else moment)  # a restored engine may have something due at once

    for at, step in steps:
        if at > until:
            break
        run_until(at)
        now = at
        if isinstance(step, Alert):
            engine.observe([step], now)
        else:
            step(engine, now)
    run_until(until)
    deliver(until)
    return sent


# The tests of a file


@dataclass(frozen=True, slots=True)
class TestResult:
    """The result of a test.

    Args:
        name: the name of the test.
        passed: whether exactly the expected notifications were sent.
        line: the line of the test; None if the configuration is not from a file.
        report: what was sent; `-` marks what is missing, `+` what was not expected.
    """

    __test__ = False  # for pytest

    name: str
    passed: bool
    line: int | None
    report: str

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "passed": self.passed, "line": self.line, "report": self.report}


def run_tests(config: AlertConfig) -> list[TestResult]:
    """Run the tests of a configuration."""
    return [run_test(config, number) for number in range(len(config.tests))]


def run_test(config: AlertConfig, number: int) -> TestResult:
    """Run one of the tests of a configuration.

    Args:
        config: the configuration.
        number: the position of the test, from 0.
    """
    test = config.tests[number]
    result = partial(TestResult, test.name or f"test {number + 1}", line=config.line(f"tests[{number}]"))
    start = test.start or _START
    begin = (start.replace(tzinfo=UTC) if start.tzinfo is None else start).timestamp()
    events = sorted(test.events, key=lambda event: event.at)
    last = max([*(event.at for event in events), *(expected.at for expected in test.expect)], default=0.0)
    until = begin + (last if test.until is None else test.until)
    try:
        steps = [
            (begin + event.at, step) for event in events for step in _steps(config, event, begin + event.at)
        ]
    except (ValueError, OverflowError) as error:
        return result(passed=False, report=f"  an event of the test is not valid: {error}")
    sent = simulate(config, steps, until, failing=test.failing)
    report, passed = _compare(test, sent, begin)
    return result(passed=passed, report=report)


def _steps(config: AlertConfig, event: TestEventFile, at: float) -> list[Step]:
    if event.silence is not None:
        matchers = tuple(matcher for line in event.silence.matchers for matcher in line.matchers)
        silence = Silence(matchers, at, at + event.silence.duration, "a test")
        return [lambda engine, _: engine.add_silence(silence)]
    if event.event is not None:
        published = Event.from_dict({"timestamp": datetime.fromtimestamp(at, UTC), **event.event})
        alert = config.label_rules.alert_of(published)
        return [] if alert is None else [alert]
    labels = {name: value for name, value in (event.labels or {}).items() if value}
    return [Alert(labels, event.annotations, at, at if event.status == "resolved" else None)]


def _compare(test: TestFile, sent: list[Sent], begin: float) -> tuple[str, bool]:
    """Return a report of what was sent and what was expected, and whether they agree."""
    paired = _pair(test.expect, sent, partial(_agrees, begin=begin))
    missing = [each for number, each in enumerate(test.expect) if number not in paired.values()]
    lines = [(float(expected.at), f"- {_expected_line(expected)}") for expected in missing]
    lines += [
        (each.at - begin, f"{' ' if number in paired else '+'} {_sent_line(each, begin)}")
        for number, each in enumerate(sent)
    ]
    if not lines:
        return "  nothing was expected, and nothing was sent", True
    passed = not missing and len(paired) == len(sent)
    return "\n".join(text for _, text in sorted(lines, key=lambda line: line[0])), passed


def _pair(expected: Sequence[T], found: Sequence[U], agrees: Callable[[T, U], bool]) -> dict[int, int]:
    """Return a largest matching, found by augmenting paths, from indices of `found` to those of `expected`.

    A greedy choice could assign what matches several expectations to one, and leave another unmatched.
    """
    paired: dict[int, int] = {}

    def assign(number: int, visited: set[int]) -> bool:
        for index, each in enumerate(found):
            if index not in visited and agrees(expected[number], each):
                visited.add(index)
                if index not in paired or assign(paired[index], visited):
                    paired[index] = number
                    return True
        return False

    for number in range(len(expected)):
        assign(number, set())
    return paired


def _agrees(expected: ExpectFile, sent: Sent, begin: float) -> bool:
    notification = sent.notification
    return (
        abs(sent.at - begin - expected.at) < _PRECISION
        and expected.receiver in {None, notification.receiver}
        and expected.status in {None, notification.status.value}
        and expected.reason in {None, notification.reason.value}
        and expected.kind in {None, notification.kind.value}
        and (expected.group is None or expected.group == dict(notification.group_labels))
        and _has_alerts(notification, Status.FIRING, expected.firing)
        and _has_alerts(notification, Status.RESOLVED, expected.resolved)
    )


def _has_alerts(
    notification: Notification, status: Status, expected: list[dict[str, str]] | int | None
) -> bool:
    """Return whether the alerts are those expected: their number, or some labels of each."""
    labels = [alert.labels for alert in notification.alerts if alert.status is status]
    if expected is None or isinstance(expected, int):
        return expected in {None, len(labels)}
    paired = _pair(expected, labels, lambda some, all_: some.items() <= all_.items())
    return len(paired) == len(expected) == len(labels)


def _sent_line(sent: Sent, begin: float) -> str:
    notification = sent.notification
    parts = [
        f"at {Duration(sent.at - begin)}: {notification.receiver} {notification.status.value}",
        f"({notification.reason.value})",
        notification.kind.value != "group" and f"kind {notification.kind.value}",
        notification.group_labels and f"group {pairs(notification.group_labels)}",
        f"firing {notification.firing} resolved {len(notification.alerts) - notification.firing}",
        not sent.delivered and "NOT DELIVERED",
    ]
    return " ".join(part for part in parts if part)


def _expected_line(expected: ExpectFile) -> str:
    parts = [
        f"at {expected.at}:",
        expected.receiver,
        expected.status,
        expected.reason and f"({expected.reason})",
        expected.kind and f"kind {expected.kind}",
        expected.group and f"group {pairs(expected.group)}",
        _expected_alerts("firing", expected.firing),
        _expected_alerts("resolved", expected.resolved),
    ]
    return " ".join(part for part in parts if part)


def _expected_alerts(status: str, expected: list[dict[str, str]] | int | None) -> str | None:
    if expected is None or isinstance(expected, int):
        return None if expected is None else f"{status} {expected}"
    return f"{status} [{', '.join(map(pairs, expected))}]"
