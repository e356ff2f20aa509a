"""Which events are alerts, and what becomes of them."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any

import pytest
from codomyrmex.integrations.notification import Alert, AlertEngine, LabelRules, load_alert_config
from codomyrmex.integrations.notification.alerts.alert import fingerprint
from codomyrmex.streaming import Event, EventType, create_event
from hypothesis import given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def event(data: Any = None, **metadata: Any) -> Event:
    return Event(type=EventType.ERROR, data=data, metadata=metadata, timestamp=NOON)


def alert_of(data: Any = None, /, **metadata: Any) -> Alert:
    alert = LabelRules().alert_of(event(data, **metadata))
    assert alert is not None
    return alert


def labels(**metadata: Any) -> dict[str, str]:
    found = dict(alert_of(**metadata).labels)
    assert found.pop("type") == "error"
    return found


class Level(Enum):
    HIGH = "high"


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (5, "5"), (True, "true"), (False, "false"), (0.5, "0.5"), (0, "0"), (Level.HIGH, "high")],
)
def test_a_scalar_of_the_metadata_is_a_label(value: object, text: str) -> None:
    assert labels(x=value) == {"x": text}


@pytest.mark.parametrize("value", [None, "", [], ["a"], {}, {"a": "b"}, b"a", object(), NOON])
def test_values_that_are_not_scalars_are_not_labels(value: object) -> None:
    assert labels(x=value) == {}


def test_topic_and_type_are_labels() -> None:
    alert = LabelRules().alert_of(create_event({}, topic="orders.failed", status="firing"))
    assert alert is not None
    assert alert.labels == {"topic": "orders.failed", "type": "message"}


@pytest.mark.parametrize(
    "name",
    [
        "trace_id",
        "span_id",
        "request_id",
        "correlation_id",
        "traceparent",
        "status",
        "starts_at",
        "ends_at",
        "url",
        "annotations",
    ],
)
def test_ids_times_and_the_status_are_not_labels(name: str) -> None:
    assert labels(**{name: "x"}) == {}


def test_nested_labels_win_and_an_empty_one_removes_a_label() -> None:
    assert labels(app="a", zone="b", labels={"app": "c", "zone": "", "trace_id": "t", "list": []}) == {
        "app": "c",
        "trace_id": "t",
    }


@pytest.mark.parametrize("nested", [None, "a", ["a"], 5])
def test_nested_labels_that_are_none_are_passed_over(nested: object) -> None:
    assert labels(app="a", labels=nested) == {"app": "a"}


def test_chosen_labels_are_all_there_is() -> None:
    rules = LabelRules({"service": "service.name", "kind": "type", "gone": "gone", "extra": "x"})
    given_event = event(**{"service.name": "api", "other": "o", "labels": {"x": 1}})
    alert = rules.alert_of(given_event)
    assert alert is not None
    assert alert.labels == {"service": "api", "kind": "error", "extra": "1"}


@pytest.mark.parametrize("kind", [EventType.HEARTBEAT, EventType.CONNECT, EventType.DISCONNECT])
def test_what_controls_a_stream_is_not_an_alert_unless_asked_for(kind: EventType) -> None:
    control = Event(type=kind, metadata={"x": "y"})
    assert LabelRules().alert_of(control) is None
    assert LabelRules(control=True).alert_of(control) is not None
    asked = load_alert_config(
        {"global": {"control_events": True}, "route": {"receiver": "x"}, "receivers": [{"name": "x"}]}
    )
    assert asked.label_rules.alert_of(control) is not None


def test_the_status_resolves() -> None:
    assert alert_of(status="resolved").ends_at == NOON.timestamp()
    assert [alert_of(status=other).ends_at for other in ("firing", "RESOLVED", True, None)] == [None] * 4


MINUTE_AGO = NOON.timestamp() - 60


@pytest.mark.parametrize(
    "moment",
    [
        MINUTE_AGO,
        int(MINUTE_AGO),
        datetime.fromtimestamp(MINUTE_AGO, UTC),
        datetime.fromtimestamp(MINUTE_AGO, timezone(timedelta(hours=5))),
        datetime(2026, 11, 25, 11, 59),  # noqa: DTZ001 - what has no zone is UTC
        "2026-11-25T11:59:00Z",
        "2026-11-25T12:59:00+01:00",
        "2026-11-25 11:59",
    ],
)
def test_times_are_read_in_every_usual_form(moment: object) -> None:
    alert = alert_of(status="resolved", starts_at=moment, ends_at=moment)
    assert (alert.starts_at, alert.ends_at) == (MINUTE_AGO, MINUTE_AGO)


@pytest.mark.parametrize("moment", ["yesterday", "", None, [], math.nan, math.inf, 10**400, 1e300, -1e300])
def test_a_time_that_is_none_is_that_of_the_event(moment: object) -> None:
    alert = alert_of(status="resolved", starts_at=moment, ends_at=moment)
    assert (alert.starts_at, alert.ends_at) == (NOON.timestamp(), NOON.timestamp())


def test_what_is_resolved_is_not_still_to_end() -> None:
    assert alert_of(status="resolved", ends_at="2999-01-01").ends_at == NOON.timestamp()


def test_annotations_are_the_given_ones_and_the_data_where_they_say_nothing() -> None:
    assert alert_of(annotations={"summary": "bad", "runbook": 5, "x": None}).annotations == {
        "summary": "bad",
        "runbook": "5",
    }
    assert alert_of("it broke", annotations={"runbook": "r"}).annotations == {
        "runbook": "r",
        "summary": "it broke",
    }
    assert alert_of({"order": 42, "who": "ö"}).annotations == {"summary": '{"order": 42, "who": "ö"}'}
    assert alert_of().annotations == {}


def test_the_trace_and_the_origin_are_kept() -> None:
    alert = alert_of(trace_id="abc", generator_url="https://g", url="https://u")
    assert (alert.trace_id, alert.url) == ("abc", "https://g")
    assert alert_of(url="https://u").url == "https://u"
    assert alert_of(url=["no"], trace_id=None) == alert_of()


# Bounds


def test_labels_and_annotations_have_bounds() -> None:
    alert = alert_of(
        "d" * 10_000,
        annotations={f"a{number}": "v" * 10_000 for number in range(1000)},
        labels={f"l{number}": "v" * 10_000 for number in range(1000)} | {"n" * 10_000: "v"},
    )
    assert len(alert.labels) <= 64
    assert len(alert.annotations) <= 65
    assert max(map(len, alert.labels.values())) == 1024
    assert max(map(len, alert.annotations.values())) == 4096
    assert len(alert.annotations["summary"]) == 503


def test_the_name_of_a_label_has_a_bound() -> None:
    assert {len(name) for name in alert_of(labels={"n" * 10_000: "v"}).labels} == {4, 1024}


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


HOSTILE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([5000]).map(lambda digits: 10**digits)
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.binary(max_size=3)
    | st.builds(Hostile)
    | st.datetimes()
)
VALUES = st.recursive(
    HOSTILE,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(["labels", "annotations", "status", "starts_at", "ends_at", "url", "trace_id", "x"])


@settings(max_examples=100)
@given(st.dictionaries(NAMES, VALUES), VALUES)
def test_any_metadata_make_an_alert_that_can_be_sent(metadata: dict[str, Any], data: Any) -> None:
    alert = alert_of(data, **metadata)
    assert all(type(each) is str for pair in alert.labels.items() for each in pair)
    engine = AlertEngine(load_alert_config({"route": {"receiver": "a", "group_wait": "0s"}, "receivers": [
        {"name": "a", "apprise_configs": [{"url": "json://h"}]}
    ]}))  # fmt: skip
    engine.observe([Alert(alert.labels, alert.annotations, alert.starts_at)], NOON.timestamp())
    (notification,) = engine.due(NOON.timestamp())
    json.dumps(notification.to_dict())
    json.dumps(list(engine.pop_changes().values()))


# The same labels are the same alert

LABELS = st.dictionaries(
    st.text("abÿþ,:1\n", min_size=1, max_size=3), st.text("abÿþ,:1\n", min_size=1, max_size=4), max_size=3
)


@given(LABELS, LABELS)
def test_a_fingerprint_is_equal_for_equal_labels_only(one: dict[str, str], other: dict[str, str]) -> None:
    assert (fingerprint(one) == fingerprint(other)) is (one == other)
    assert fingerprint(dict(reversed(one.items()))) == fingerprint(one)


def test_no_text_in_a_label_looks_like_another_label() -> None:
    assert fingerprint({"a": "bÿcþd"}) != fingerprint({"a": "b", "c": "d"})


def test_an_end_finds_its_beginning_though_the_type_of_the_event_is_another() -> None:
    engine = AlertEngine(load_alert_config({"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}))
    rules = LabelRules()
    for kind, status in ((EventType.ERROR, "firing"), (EventType.MESSAGE, "resolved")):
        alert = rules.alert_of(Event(type=kind, metadata={"x": "y", "status": status}, timestamp=NOON))
        assert alert is not None
        engine.observe([alert], NOON.timestamp())
    (alert,) = engine.alerts()
    assert not alert.fires(NOON.timestamp())


# Which events are alerts


@pytest.mark.parametrize(
    ("metadata", "is_alert"),
    [
        ({}, False),
        ({"order": 42}, False),
        ({"labels": {}}, True),
        ({"labels": "none"}, False),
        ({"status": "firing"}, True),
        ({"status": "resolved"}, True),
        ({"status": 200}, False),
        ({"status": ["firing"]}, False),
    ],
)
def test_an_event_is_an_alert_if_it_is_an_error_or_says_so(
    metadata: dict[str, Any], *, is_alert: bool
) -> None:
    assert (LabelRules().alert_of(create_event({}, topic="orders", **metadata)) is not None) is is_alert
    assert LabelRules().alert_of(create_event({}, EventType.ERROR, **metadata)) is not None


@pytest.mark.parametrize(
    ("matchers", "topics"),
    [(["topic=orders"], {"orders"}), ([], {"orders", "jobs"}), (["type=error"], {"jobs"}), (["x=y"], set())],
)
def test_the_matchers_of_the_configuration_select_the_events(matchers: list[str], topics: set[str]) -> None:
    config = load_alert_config(
        {"route": {"receiver": "a"}, "receivers": [{"name": "a"}], "events": {"matchers": matchers}}
    )
    events = [create_event({}, topic="orders"), create_event({}, EventType.ERROR, topic="jobs")]
    assert {each.topic for each in events if config.label_rules.alert_of(each) is not None} == topics


# Times that cannot be, and data that cannot be shown


TIMES = [
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999-12:00",
    "1969-12-31",
    -1,
    4e10,
    math.nan,
    math.inf,
]


@pytest.mark.parametrize("time", TIMES)
def test_a_time_that_cannot_be_never_reaches_an_alert(time: object) -> None:
    alert = alert_of(starts_at=time, status="resolved", ends_at=time)
    assert (alert.starts_at, alert.ends_at) == (NOON.timestamp(), NOON.timestamp())


@pytest.mark.parametrize("time", [-1.0, -1e300, 1e300, math.nan, math.inf, -math.inf, NOON.timestamp() + 1])
def test_the_engine_takes_no_impossible_time(time: float) -> None:
    now = NOON.timestamp()
    engine = AlertEngine(load_alert_config({"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}))
    engine.observe([Alert({"x": "y"}, starts_at=time)], now)
    engine.observe([Alert({"x": "y"}, ends_at=time)], now)
    (alert,) = engine.alerts()
    assert (alert.starts_at, alert.ends_at) == (now, now if time != now + 1 else time)
    saved = {
        key: {**value, "starts_at": time} for key, value in engine.pop_changes().items() if key[0] == "alert"
    }
    (alert,) = AlertEngine(engine.config, saved).alerts()
    assert alert.starts_at == now


def test_data_that_cannot_be_shown_leaves_an_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "to_dict", lambda _: 1 / 0)
    assert alert_of({"a": 1}).annotations == {
        "summary": "(the data of the event cannot be shown: ZeroDivisionError)"
    }


def test_labels_and_annotations_are_bounded_in_bytes() -> None:
    many = {f"n{number}": "ö" * 1000 for number in range(60)}
    alert = alert_of(labels=many, annotations=many, url="https://" + "u" * 10_000, trace_id="t" * 10_000)
    for texts in (alert.labels, alert.annotations):
        assert 14_000 < len("".join([*texts, *texts.values()]).encode()) <= 16_384
    assert (alert.url, alert.trace_id) == (None, None)
