"""`Event`, `EventType` and `create_event`, and conversion to a dict and back."""

import copy
import json
import pickle
import uuid
import weakref
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import MappingProxyType

import msgspec
import pytest
from codomyrmex.streaming import Event, EventDecodeError, EventType, StreamingError, create_event
from hypothesis import given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=10,
)
moments = st.datetimes(
    min_value=datetime(2, 1, 1),  # noqa: DTZ001 - the zones are drawn below
    max_value=datetime(9998, 1, 1),  # noqa: DTZ001
    timezones=st.none()
    | st.just(UTC)
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
)
events = st.builds(
    Event,
    id=st.text(),
    type=st.sampled_from(EventType),
    data=json_values,
    metadata=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    timestamp=moments,
)


class RaisingRepr:
    def __repr__(self):
        raise RuntimeError


class RaisingHash:
    def __hash__(self):
        raise RuntimeError


# The type


@pytest.mark.parametrize("name", ["MESSAGE", "ERROR", "CONNECT", "DISCONNECT", "HEARTBEAT"])
def test_the_value_of_a_type_is_its_name_in_lower_case(name):
    assert EventType[name] == EventType[name].value == str(EventType[name]) == name.lower()


def test_there_are_five_types_and_they_are_strings():
    assert issubclass(EventType, StrEnum)
    assert len(EventType) == 5


# Creation


def test_an_event_needs_no_argument():
    before = datetime.now(UTC)
    event = Event()
    assert (event.type, event.data, event.metadata) == (EventType.MESSAGE, None, {})
    assert before <= event.timestamp <= datetime.now(UTC)
    assert event.timestamp.tzinfo is UTC


def test_the_fields_can_be_given_by_position_in_the_order_id_type_data_metadata_timestamp():
    event = Event("a", EventType.ERROR, 1, {"k": 2}, NOON)
    assert event == Event(id="a", type=EventType.ERROR, data=1, metadata={"k": 2}, timestamp=NOON)


@pytest.mark.parametrize("make", [Event, lambda: create_event(None)], ids=["Event", "create_event"])
def test_ids_are_uuids_of_version_7_and_sort_by_creation(make):
    ids = [make().id for _ in range(2_000)]
    assert {uuid.UUID(i).version for i in ids} == {7}
    assert ids == sorted(set(ids))


def test_two_events_do_not_share_their_default_metadata():
    first, second = Event(), Event()
    first.metadata["seen"] = True
    assert second.metadata == {}


def test_create_event_takes_data_type_and_metadata_by_keyword():
    event = create_event({"n": 1}, EventType.ERROR, topic="jobs.failed", user=7)
    assert (event.type, event.data) == (EventType.ERROR, {"n": 1})
    assert event.metadata == {"topic": "jobs.failed", "user": 7}
    assert event.timestamp.tzinfo is UTC


def test_create_event_makes_a_message_by_default():
    assert create_event(0).type is EventType.MESSAGE


def test_the_value_of_a_type_stands_for_the_type():
    assert Event(type="error").type is EventType.ERROR
    assert create_event(None, "error").type is EventType.ERROR


def test_a_naive_timestamp_is_interpreted_as_utc():
    assert Event(timestamp=NOON.replace(tzinfo=None)).timestamp == NOON


def test_a_timestamp_in_another_zone_is_converted_to_utc():
    event = Event(timestamp=NOON.astimezone(timezone(timedelta(hours=5))))
    assert event.timestamp == NOON
    assert event.timestamp.tzinfo is UTC


@pytest.mark.parametrize("metadata", [MappingProxyType({"k": 1}), OrderedDict(k=1)])
def test_any_mapping_will_do_as_metadata_and_becomes_a_dict(metadata):
    event = Event(metadata=metadata)
    assert event.metadata == {"k": 1}
    assert type(event.metadata) is dict


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"type": "unknown"}, ValueError),
        ({"type": None}, ValueError),
        ({"id": 7}, TypeError),
        ({"id": None}, TypeError),
        ({"metadata": None}, TypeError),
        ({"metadata": [("k", 1)]}, TypeError),
        ({"timestamp": "2026-03-01"}, TypeError),
        ({"timestamp": None}, TypeError),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_when_the_event_is_made(fields, error):
    with pytest.raises(error):
        Event(**fields)


# Behaviour


@pytest.mark.parametrize("field", ["id", "type", "data", "metadata", "timestamp"])
def test_an_event_cannot_be_changed(field):
    event = Event()
    with pytest.raises(AttributeError):
        setattr(event, field, None)


def test_replace_returns_a_changed_copy():
    event = create_event(1, topic="a")
    changed = event.replace(data=2)
    assert (changed.data, event.data) == (2, 1)
    assert changed == Event(event.id, event.type, 2, event.metadata, event.timestamp)


def test_replace_copies_the_metadata():
    event = create_event(1, topic="a")
    copied = event.replace()
    copied.metadata["topic"] = "b"
    assert event.metadata == {"topic": "a"}


def test_replace_checks_its_arguments():
    assert Event().replace(type="error").type is EventType.ERROR
    with pytest.raises(ValueError, match="unknown"):
        Event().replace(type="unknown")
    with pytest.raises(TypeError):
        Event().replace(colour="red")


@pytest.mark.parametrize(
    ("metadata", "topic"),
    [
        ({}, None),
        ({"topic": "a.b"}, "a.b"),
        ({"topic": ""}, ""),
        ({"topic": 7}, None),
        ({"topic": None}, None),
    ],
)
def test_the_topic_is_the_metadata_of_that_name_if_it_is_a_string(metadata, topic):
    assert Event(metadata=metadata).topic == topic


def test_events_are_hashable_whatever_their_data():
    event = create_event([{"not": "hashable"}])
    assert {event: 1}[event] == 1
    assert len({event, event.replace()}) == 1


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_event_can_be_copied_and_pickled(clone):
    event = create_event({"n": [1]}, topic="a")
    assert clone(event) == event


def test_an_event_can_be_referred_to_weakly():
    event = Event()
    assert weakref.ref(event)() is event


# Conversion to a dict and back


def test_to_dict_returns_the_five_fields_as_builtin_values():
    event = Event("a", EventType.ERROR, {"at": NOON}, {"topic": "t"}, NOON)
    assert event.to_dict() == {
        "id": "a",
        "type": "error",
        "data": {"at": "2026-03-01T12:00:00Z"},
        "metadata": {"topic": "t"},
        "timestamp": "2026-03-01T12:00:00+00:00",
    }
    assert type(event.to_dict()["type"]) is str


def test_changing_the_dict_does_not_change_the_event():
    event = create_event({"list": [1]}, topic="a")
    d = event.to_dict()
    d["metadata"]["topic"] = "b"
    d["data"]["list"].append(2)
    assert (event.data, event.metadata) == ({"list": [1]}, {"topic": "a"})


@given(events)
@settings(max_examples=100, deadline=None)
def test_an_event_survives_a_round_trip_through_json(event):
    assert Event.from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_lone_surrogates_in_any_field_do_not_keep_the_dict_from_being_utf8():
    event = Event("\ud800", data="\ud800", metadata={"\udfff": "\ud800"})
    msgspec.json.encode(event.to_dict())


def test_missing_keys_have_defaults():
    event = Event.from_dict({})
    assert uuid.UUID(event.id).version == 7
    assert (event.type, event.data, event.metadata) == (EventType.MESSAGE, None, {})
    assert event.timestamp.tzinfo is UTC


def test_unknown_keys_are_ignored():
    assert Event.from_dict({"id": "a", "colour": "red"}).id == "a"


def test_from_dict_accepts_any_mapping_and_copies_the_metadata():
    metadata = {"topic": "a"}
    event = Event.from_dict(MappingProxyType({"metadata": metadata}))
    metadata["topic"] = "b"
    assert event.topic == "a"


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T12:00:00+00:00",
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00",
        "2026-03-01 14:00:00+02:00",
        NOON,
        NOON.astimezone(timezone(timedelta(hours=-3))),
    ],
)
def test_a_timestamp_is_iso_8601_text_or_a_datetime_and_utc_without_an_offset(text):
    event = Event.from_dict({"timestamp": text})
    assert event.timestamp == NOON
    assert event.timestamp.tzinfo is UTC


@pytest.mark.parametrize("wrong", [None, 7, "text", b"bytes", [("id", "a")], Event])
def test_from_dict_refuses_anything_but_a_mapping(wrong):
    with pytest.raises(EventDecodeError, match="event") as caught:
        Event.from_dict(wrong)
    assert caught.value.field == "event"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 7),
        ("id", None),
        ("type", "unknown"),
        ("type", "MESSAGE"),
        ("type", None),
        ("type", 5),
        ("type", []),
        ("type", {}),
        ("timestamp", "yesterday"),
        ("timestamp", "2026-13-01"),
        ("timestamp", ""),
        ("timestamp", 1_700_000_000),
        ("timestamp", None),
        ("timestamp", "0001-01-01T00:00:00+14:00"),
        ("timestamp", datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))),
        ("metadata", None),
        ("metadata", "topic"),
        ("metadata", [("topic", "a")]),
        ("metadata", 0),
    ],
)
def test_a_wrong_value_is_answered_with_the_name_of_its_field_and_the_value(field, value):
    with pytest.raises(EventDecodeError) as caught:
        Event.from_dict({field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert repr(value)[:60] in str(caught.value)


@pytest.mark.parametrize("field", ["id", "type", "timestamp", "metadata"])
@pytest.mark.parametrize(
    "value", [["x" * 10_000], RaisingRepr(), RaisingHash()], ids=["long", "repr", "hash"]
)
def test_the_answer_to_a_wrong_value_is_short_and_does_not_depend_on_the_value_behaving(field, value):
    with pytest.raises(EventDecodeError, match=field) as caught:
        Event.from_dict({field: value})
    assert len(str(caught.value)) < 300


def test_a_long_text_is_shown_shortened():
    with pytest.raises(EventDecodeError) as caught:
        Event.from_dict({"type": "x" * 10_000})
    assert "xxx" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_decode_error_is_a_value_error_and_one_of_the_package():
    assert issubclass(EventDecodeError, ValueError)
    assert issubclass(EventDecodeError, StreamingError)


@pytest.mark.parametrize(
    "clone", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"]
)
def test_a_decode_error_can_cross_a_process_boundary(clone):
    with pytest.raises(EventDecodeError) as caught:
        Event.from_dict({"id": 7})
    again = clone(caught.value)
    assert (str(again), again.field) == (str(caught.value), "id")
