"""The `tests:` of a configuration: what happens, and which notifications are expected, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.config_file import ExpectFile, TestEventFile, TestFile
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.notification import Status
from codomyrmex.integrations.notification.alerts.silences import Silence
from codomyrmex.integrations.notification.alerts.simulation import Happening, Sent, simulate
from codomyrmex.streaming import Event

T = TypeVar("T")
U = TypeVar("U")

_START = datetime(2026, 1, 5, 12, tzinfo=UTC)  # a Monday at noon, if a test does not say when it begins


@dataclass(frozen=True, slots=True)
class TestResult:
    """How a test went.

    Args:
        name: the test's.
        passed: whether all was as expected.
        line: where it stands; None where the configuration is no file.
        report: what was sent, and what differs: `-` is missing, `+` was not expected.
    """

    __test__ = False  # for pytest

    name: str
    passed: bool
    line: int | None
    report: str

    def to_dict(self) -> dict[str, Any]:
        """Give it as built-in types."""
        return {"name": self.name, "passed": self.passed, "line": self.line, "report": self.report}


def run_tests(config: AlertConfig) -> list[TestResult]:
    """Run the tests of a configuration."""
    return [run_test(config, number) for number in range(len(config.tests))]


def run_test(config: AlertConfig, number: int) -> TestResult:
    """Run one of the tests of a configuration.

    Args:
        config: the configuration.
        number: which, from 0 on.
    """
    test = config.tests[number]
    name = test.name or f"test {number + 1}"
    line = config.line(f"tests[{number}]")
    start = _START if test.start is None else test.start
    begin = (start.replace(tzinfo=UTC) if start.tzinfo is None else start).timestamp()
    events = sorted(test.events, key=lambda event: event.at)
    last = max([*(event.at for event in events), *(expected.at for expected in test.expect)], default=0.0)
    until = begin + (last if test.until is None else test.until)
    try:
        happenings = [
            (begin + event.at, happening)
            for event in events
            for happening in _happenings(config, event, begin)
        ]
    except (ValueError, OverflowError) as error:
        report = f"  a step of the test cannot be made: {error}"
        return TestResult(name, passed=False, line=line, report=report)
    sent = simulate(config, happenings, until, failing=test.failing)
    report, passed = _compare(test, sent, begin)
    return TestResult(name, passed, line, report)


def _happenings(config: AlertConfig, event: TestEventFile, begin: float) -> list[Happening]:
    at = begin + event.at
    if event.silence is not None:
        matchers = tuple(matcher for line in event.silence.matchers for matcher in line.matchers)
        silence = Silence(matchers, at, at + event.silence.duration, "a test")

        def add(engine: AlertEngine, _: float) -> None:
            engine.add_silence(silence)

        return [add]
    if event.event is not None:
        made = Event.from_dict({"timestamp": datetime.fromtimestamp(at, UTC), **event.event})
        alert = config.label_rules.alert_of(made)
        return [] if alert is None else [alert]
    labels = {name: value for name, value in (event.labels or {}).items() if value}
    return [Alert(labels, event.annotations, at, at if event.status == "resolved" else None)]


def _compare(test: TestFile, sent: list[Sent], begin: float) -> tuple[str, bool]:
    """Lay what was sent beside what was expected."""
    found = _pair(test.expect, sent, lambda expected, each: _agrees(expected, each, begin))
    missing = [expected for place, expected in enumerate(test.expect) if place not in found.values()]
    lines = [(float(expected.at), f"- {_wanted(expected)}") for expected in missing]
    lines += [
        (each.at - begin, f"{' ' if place in found else '+'} {_shown(each, begin)}")
        for place, each in enumerate(sent)
    ]
    if not lines:
        return "  nothing was expected, and nothing was sent", True
    passed = not missing and len(found) == len(sent)
    return "\n".join(text for _, text in sorted(lines, key=lambda line: line[0])), passed


def _pair(wanted: Sequence[T], there: Sequence[U], fits: Callable[[T, U], bool]) -> dict[int, int]:
    """Find something for each that is wanted, as far as there is; one that fits several takes none away.

    Returns:
        From places in `there` to places in `wanted`: a largest matching, by augmenting paths.
    """
    found: dict[int, int] = {}

    def place(want: int, seen: set[int]) -> bool:
        for here, each in enumerate(there):
            if here not in seen and fits(wanted[want], each):
                seen.add(here)
                if here not in found or place(found[here], seen):
                    found[here] = want
                    return True
        return False

    for want in range(len(wanted)):
        place(want, set())
    return found


def _agrees(expected: ExpectFile, sent: Sent, begin: float) -> bool:
    notification = sent.notification
    firing = [each.labels for each in notification.alerts if each.status is Status.FIRING]
    resolved = [each.labels for each in notification.alerts if each.status is Status.RESOLVED]
    return (
        abs(sent.at - begin - expected.at) < 0.001  # noqa: PLR2004 - a millisecond, the finest there is
        and expected.receiver in {None, notification.receiver}
        and expected.status in {None, notification.status.value}
        and expected.reason in {None, notification.reason.value}
        and expected.kind in {None, notification.kind.value}
        and (expected.group is None or expected.group == dict(notification.group_labels))
        and _these(expected.firing, firing)
        and _these(expected.resolved, resolved)
    )


def _these(expected: list[dict[str, str]] | int | None, labels: list[Mapping[str, str]]) -> bool:
    """Tell whether the alerts are those expected: so many, or each with some labels."""
    if expected is None:
        return True
    if isinstance(expected, int):
        return expected == len(labels)
    found = _pair(expected, labels, lambda wanted, each: wanted.items() <= each.items())
    return len(found) == len(expected) == len(labels)


def _shown(sent: Sent, begin: float) -> str:
    notification = sent.notification
    firing = notification.firing
    group = " ".join(f"{name}={value}" for name, value in notification.group_labels.items())
    parts = [
        f"at {Duration(sent.at - begin)}:",
        notification.receiver,
        notification.status.value,
        f"({notification.reason.value})",
        "" if notification.kind.value == "group" else f"kind {notification.kind.value}",
        group and f"group {group}",
        f"firing {firing}",
        f"resolved {len(notification.alerts) - firing}",
        "" if sent.delivered else "NOT DELIVERED",
    ]
    return " ".join(part for part in parts if part)


def _wanted(expected: ExpectFile) -> str:
    group = (
        None
        if expected.group is None
        else " ".join(f"{name}={value}" for name, value in expected.group.items())
    )
    parts = [
        f"at {expected.at}:",
        expected.receiver,
        expected.status,
        expected.reason and f"({expected.reason})",
        expected.kind and f"kind {expected.kind}",
        group and f"group {group}",
        _how_many("firing", expected.firing),
        _how_many("resolved", expected.resolved),
    ]
    return " ".join(part for part in parts if part)


def _how_many(what: str, expected: list[dict[str, str]] | int | None) -> str | None:
    if expected is None or isinstance(expected, int):
        return None if expected is None else f"{what} {expected}"
    shown = ", ".join(" ".join(f"{name}={value}" for name, value in labels.items()) for labels in expected)
    return f"{what} [{shown}]"
