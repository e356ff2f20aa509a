"""Laws of the alert engine, in random runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from alerting import DAY, HOUR, MINUTE, channel, config, receiver
from codomyrmex.integrations.configuration.matchers import matches_all
from codomyrmex.integrations.notification import (
    Alert,
    AlertConfig,
    AlertEngine,
    Notification,
    Silence,
    parse_matchers,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

LABELS = [
    {"n": name, "app": app, "severity": severity}
    for name in "xy"
    for app in "12"
    for severity in ("critical", "warning")
]
CRITICAL = {
    "source_matchers": ["severity=critical"],
    "target_matchers": ["severity=warning"],
    "equal": ["app"],
}
NEVER_DROPPED = "30d"


def everything(*, rate: str | None = None, short: str = "50s", **options: Any) -> AlertConfig:
    """Three ways that overlap: at once with fallbacks, quiet at night, and a log of all."""
    limited = channel() if rate is None else channel(rate_limit=rate)
    return config(
        receivers=[
            receiver("a", limited, channel(send_resolved=False)),
            receiver("p", channel(), channel(), fallback="q"),
            receiver("q", fallback="a"),
            receiver("s"),
        ],
        routes=[
            {
                "matchers": ["severity=critical"],
                "receiver": "p",
                "continue": True,
                "group_by": ["app"],
                "group_wait": "0s",
                "group_interval": short,
            },
            {
                "matchers": ["n=x"],
                "receiver": "s",
                "continue": True,
                "group_by": ["n"],
                "group_interval": "7m",
                "mute_time_intervals": ["night"],
                "on_unmute": "summary",
            },
            {"group_by": ["..."], "group_interval": "3m"},
        ],
        rules=[CRITICAL],
        **{"repeat_interval": "20m", "resolve_timeout": "45m", **options},
    )


def facts(now: float, notification: Notification) -> tuple[Any, ...]:
    """Return everything in a notification except its id."""
    return (
        now,
        notification.channel,
        notification.kind,
        notification.fallback_for,
        [
            (
                part.group_key,
                part.reason,
                sorted(part.firing),
                sorted(part.resolved),
                [each.to_dict() for each in part.alerts],
            )
            for part in notification.parts
        ],
    )


class World:
    """An engine in virtual time, its receivers, some of which fail, and the state that is kept."""

    def __init__(self, of: AlertConfig, failing: Iterable[str] = (), now: float = 6 * HOUR) -> None:
        self.config = of
        self.failing = frozenset(failing)
        self.engine = AlertEngine(of)
        self.now = now
        self.sent: list[tuple[Any, ...]] = []
        self.kept: dict[tuple[str, str], Any] = {}

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.deliver()
            later = self.engine.next_deadline()
            assert later is None or later > self.now, (
                "an engine that was asked has nothing for the same moment"
            )
        self.now = until

    def deliver(self) -> None:
        while due := self.engine.due(self.now):
            for each in due:
                self.sent.append(facts(self.now, each))
                lost = each.receiver in self.failing
                (self.engine.failed if lost else self.engine.delivered)(each, self.now)
        self.keep()

    def keep(self) -> None:
        for key, value in self.engine.pop_changes().items():
            self.kept[key] = value
            if value is None:
                del self.kept[key]

    def restart(self) -> None:
        written = json.dumps([[*key, value] for key, value in self.kept.items()])
        self.engine = AlertEngine(
            self.config, {(kind, key): value for kind, key, value in json.loads(written)}
        )
        self.deliver()

    def act(self, action: str, which: int) -> None:
        labels = LABELS[which]
        if action == "fire":
            self.engine.observe([Alert(labels, {"summary": f"at {self.now}"})], self.now)
        elif action == "late":
            self.engine.observe([Alert(labels, starts_at=self.now - 1000)], self.now)
        elif action == "end":
            self.engine.observe([Alert(labels, ends_at=self.now)], self.now)
        elif action == "silence":
            matchers = tuple(parse_matchers(f"n={labels['n']}, app={labels['app']}"))
            self.engine.add_silence(Silence(matchers, self.now, self.now + 300 * (1 + which), id=f"s{which}"))
        elif action == "expire" and f"s{which}" in self.engine.silences:
            self.engine.expire_silence(f"s{which}", self.now)
        elif action == "reload":
            self.config = everything(short="50s" if which % 2 else "20s")
            self.engine.reload(self.config, self.now)
        self.keep()


ACTIONS = st.sampled_from(["fire"] * 4 + ["end"] * 3 + ["late", "silence", "expire", "reload"])
PAUSES = st.sampled_from([0, 0, 0, 1, 7, 10, 20, 50, 60, 333, 1000, 3000])
STEPS = st.lists(st.tuples(PAUSES, ACTIONS, st.integers(0, len(LABELS) - 1)), min_size=1, max_size=25)
FAILING = st.sets(st.sampled_from("apqs"), max_size=3)
RUNS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CONFIG = everything()


def play(
    world: World, steps: Iterable[tuple[float, str, int]], after: float = 2 * HOUR
) -> list[tuple[Any, ...]]:
    for pause, action, which in steps:
        world.advance(pause)
        world.act(action, which)
    world.advance(after)
    return world.sent


def in_order(sent: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Sort what is sent at the same moment."""
    return sorted(sent, key=lambda each: (*each[:3], str(each[3:])))


@RUNS
@given(STEPS, FAILING)
def test_the_same_calls_return_the_same_notifications(steps: list[Any], failing: set[str]) -> None:
    assert play(World(CONFIG, failing), steps) == play(World(CONFIG, failing), steps)


@RUNS
@given(STEPS, FAILING, st.integers(5, 90))
def test_calling_due_more_often_than_needed_changes_no_notification(
    steps: list[Any], failing: set[str], every: int
) -> None:
    class Impatient(World):
        def advance(self, seconds: float) -> None:
            until = self.now + seconds
            super().advance(0)
            while self.now < until:
                super().advance(min(every * 7, until - self.now))
                self.deliver()

    assert in_order(play(Impatient(CONFIG, failing), steps)) == in_order(play(World(CONFIG, failing), steps))


@RUNS
@given(STEPS, FAILING, st.data())
def test_an_engine_that_is_restored_at_any_point_continues_as_if_it_had_not_stopped(
    steps: list[Any], failing: set[str], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(steps)), "restart after step")
    pause = data.draw(PAUSES, "and seconds")
    sent = []
    for restart in (False, True):
        world = World(CONFIG, failing)
        play(world, steps[:cut], after=pause)
        if restart:
            world.restart()
        else:
            world.deliver()
        sent.append(in_order(play(world, steps[cut:])))
    assert sent[0] == sent[1]


@RUNS
@given(STEPS, FAILING)
def test_everything_about_resolved_alerts_is_deleted(steps: list[Any], failing: set[str]) -> None:
    world = World(CONFIG, failing)
    play(world, steps, after=DAY)
    world.deliver()
    engine = world.engine
    assert (engine.alerts(), engine.groups(), engine.next_deadline()) == ([], [], None)
    assert {kind for kind, _ in world.kept} <= {"silence"}
    world.advance(6 * DAY)
    world.deliver()
    assert world.kept == {}


class Machine(RuleBasedStateMachine):
    """Everything at once; notifications take time, and each ends in one of three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.configs = [
            everything(
                rate="2/5m",
                short=short,
                resolve_always=True,
                repeat_interval=NEVER_DROPPED,
                resolve_timeout="30d",
            )
            for short in ("50s", "20s")
        ]
        self.engine = AlertEngine(self.configs[0])
        self.current = 0
        self.now = 6 * HOUR + 45 * MINUTE
        self.in_flight: list[Notification] = []
        self.knows: dict[str, dict[str, str]] = {}  # channel -> alert -> its status when last notified
        self.kept: dict[tuple[str, str], Any] = {}

    def due(self) -> None:
        self.in_flight += self.engine.due(self.now)

    @rule(which=st.integers(0, len(LABELS) - 1))
    def fire(self, which: int) -> None:
        self.engine.observe([Alert(LABELS[which])], self.now)

    @rule(which=st.integers(0, len(LABELS) - 1))
    def end(self, which: int) -> None:
        self.engine.observe([Alert(LABELS[which], ends_at=self.now)], self.now)

    @rule(seconds=PAUSES)
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.due()

    @rule()
    def wait_for_the_deadline(self) -> None:
        self.now = max(self.now, self.engine.next_deadline() or 0)
        self.due()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.arrive(self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1))))

    def know(self, notification: Notification) -> None:
        knows = self.knows.setdefault(notification.channel, {})
        for alert in notification.alerts:
            knows[alert.fingerprint] = alert.status

    def arrive(self, notification: Notification) -> None:
        self.know(notification)
        self.engine.delivered(notification, self.now)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.engine.failed(self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1))), self.now)

    @rule(which=st.integers(0, 3), seconds=st.sampled_from([5, 100, 1000]))
    def silence(self, which: int, seconds: float) -> None:
        labels = LABELS[which * 2]
        matchers = tuple(parse_matchers(f"n={labels['n']}, app={labels['app']}"))
        self.engine.add_silence(Silence(matchers, self.now, self.now + seconds))

    @rule()
    def reload(self) -> None:
        self.current = 1 - self.current
        self.engine.reload(self.configs[self.current], self.now)

    @rule(data=st.data())
    def kill_and_restart(self, data: st.DataObject) -> None:
        self.keep()
        for notification in self.in_flight:
            if data.draw(st.booleans()):  # it arrives, and nobody knows
                self.know(notification)
        self.in_flight.clear()
        self.engine = AlertEngine(self.configs[self.current], self.kept)
        self.engine.resume(self.now, self.now)

    def keep(self) -> None:
        for key, value in self.engine.pop_changes().items():
            self.kept[key] = json.loads(json.dumps(value))
            if value is None:
                del self.kept[key]

    @invariant()
    def there_is_one_notification_at_a_time_for_a_group_and_a_channel(self) -> None:
        pairs = [(part.group_key, each.channel) for each in self.in_flight for part in each.parts]
        assert len(pairs) == len(set(pairs))

    @invariant()
    def what_is_kept_is_json(self) -> None:
        self.keep()

    def teardown(self) -> None:
        for labels in LABELS:
            self.engine.observe([Alert(labels, ends_at=self.now)], self.now)
        for _ in range(100):
            for notification in self.in_flight:
                self.arrive(notification)
            self.in_flight.clear()
            deadline = self.engine.next_deadline()
            if deadline is None:
                break
            self.now = max(self.now, deadline)
            self.due()
        engine = self.engine
        assert (engine.alerts(), engine.groups(), engine.next_deadline()) == ([], [], None)
        others = {
            name: alerts for name, alerts in self.knows.items() if name != "a[1]"
        }  # send_resolved is off there
        assert {name for name, alerts in others.items() if "firing" in alerts.values()} == set()
        self.keep()
        assert {kind for kind, _ in self.kept} <= {"log", "silence"}


TestMachine = pytest.mark.filterwarnings("error")(Machine.TestCase)
TestMachine.settings = settings(RUNS, stateful_step_count=40)


# Inhibition, against every rule with every alert

VALUES = ["", "1", "2", "12"]
texts = st.one_of(
    st.builds("{}{}{}".format, st.sampled_from("abc"), st.sampled_from(["=", "!="]), st.sampled_from(VALUES)),
    st.builds(
        '{}{}"{}"'.format,
        st.sampled_from("abc"),
        st.sampled_from(["=~", "!~"]),
        st.sampled_from(["1|2", "1.*", ".+", "(?i)1.", "[^1]*", "(1|12)"]),
    ),
)
inhibit_rules = st.fixed_dictionaries(
    {
        "source_matchers": st.lists(texts, min_size=1, max_size=2),
        "target_matchers": st.lists(texts, min_size=1, max_size=2),
        "equal": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    }
)
label_sets = st.dictionaries(st.sampled_from("abc"), st.sampled_from(VALUES[1:]), min_size=1)


def inhibitors(engine: AlertEngine, labels: dict[str, str], now: float) -> list[str]:
    """Return the fingerprints of all alerts that inhibit one with these labels, the plain way."""
    return [
        source.fingerprint
        for rule in engine.config.inhibit_rules
        for source in engine.alerts()
        if source.fires(now)
        and matches_all(rule.source, source.labels)
        and matches_all(rule.target, labels)
        and all(source.labels.get(name, "") == labels.get(name, "") for name in rule.equal)
        and not (matches_all(rule.source, labels) and matches_all(rule.target, source.labels))
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(inhibit_rules, min_size=1, max_size=6),
    st.lists(st.tuples(label_sets, st.booleans()), min_size=1, max_size=10),
    st.lists(label_sets, min_size=1, max_size=4),
)
def test_an_alert_is_inhibited_if_any_rule_with_any_alert_says_so(
    rules: list[dict[str, Any]], alerts: list[tuple[dict[str, str], bool]], targets: list[dict[str, str]]
) -> None:
    engine = AlertEngine(config(rules=rules, group_by=["..."]))
    for step, (labels, ends) in enumerate(alerts):
        now = step * MINUTE
        engine.observe([Alert(labels, {}, now)], now)
        if ends:
            engine.observe([Alert(labels, {}, now, ends_at=now + 1)], now + 1)
        for at in (now + 2, now + 30):  # before and after what has ended is deleted
            for target in [*targets, *(alert.labels for alert in engine.alerts())]:
                expected = inhibitors(engine, dict(target), at)
                found = engine.inhibitor_of(target, at)
                assert found.fingerprint in expected if found is not None else not expected
            for each in engine.due(at):
                engine.delivered(each, at)


# Silences, against each with each alert


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(st.lists(texts, min_size=1, max_size=2), min_size=1, max_size=2),
            st.integers(0, 3),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    st.lists(label_sets, min_size=1, max_size=4),
)
def test_an_alert_is_silenced_by_the_first_active_silence_that_matches(
    silences: list[tuple[list[list[str]], int, bool]], targets: list[dict[str, str]]
) -> None:
    engine = AlertEngine(config())
    narrow = 'a!="never"'  # a silence must not match everything
    for step, (sets, number, expires) in enumerate(silences):
        now = step * MINUTE
        first, *others = (tuple(parse_matchers(",".join([*each, narrow]))) for each in sets)
        silence = Silence(first, now, now + 90, id=f"s{number}", other_matchers=others)
        engine.add_silence(silence)
        if expires and f"s{number - 1}" in engine.silences:
            engine.expire_silence(f"s{number - 1}", now)
        for target in targets:
            for at in (now, now + 30, now + 100):
                active = [each for each in engine.silences.values() if each.silences(target, at)]
                assert engine.silenced_by(target, at) == (active[0] if active else None)
