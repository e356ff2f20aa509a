"""`decode_external`: what another program sends is checked and cleaned where it comes in."""

from __future__ import annotations

from typing import Any

import pytest
from codomyrmex.streaming import Event, EventDecodeError, TopicError
from codomyrmex.streaming.external import clean_id, decode_external


@pytest.mark.parametrize("event_id", ["order-7", "a b", "x" * 200, "!", "~"])
def test_an_id_that_every_header_can_hold_is_kept(event_id: str):
    assert clean_id(event_id) == event_id


@pytest.mark.parametrize(
    "event_id",
    [" a", "a ", "a\n", "\x1b[31m", "\0", "x" * 201, "x" * 300_000, "\u00fc", "a\u2028b", "\ud800", "a\tb"],
)
def test_another_id_is_replaced_by_one_derived_from_it(event_id: str):
    cleaned = clean_id(event_id)
    assert clean_id(cleaned) == cleaned == clean_id(event_id)
    assert cleaned != clean_id(event_id + "?")
    event = decode_external({"id": event_id, "data": 1})
    assert event.id == cleaned
    assert event.metadata["original_id"].startswith(repr(event_id)[:10])
    assert len(event.metadata["original_id"]) < 120


@pytest.mark.parametrize("event_id", ["", " ", "\r\n"])
def test_an_empty_id_is_replaced_by_a_new_one_each_time(event_id: str):
    assert clean_id(event_id) != clean_id(event_id)


def test_metadata_keys_of_the_package_itself_are_removed():
    metadata = {"codomyrmex.origin": "logs", "codomyrmex.x": 1, "topic": "a", "codomyrmex": 2}
    assert decode_external({"metadata": metadata}).metadata == {"topic": "a", "codomyrmex": 2}


@pytest.mark.parametrize(
    "timestamp",
    ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999+00:00", "1899-12-31T23:59:59Z"],
)
def test_a_time_at_the_end_of_the_calendar_is_replaced_by_the_current_one(timestamp: str):
    event = decode_external({"timestamp": timestamp})
    assert abs((event.timestamp - Event().timestamp).total_seconds()) < 60
    assert event.metadata["original_timestamp"][:10] == timestamp[:10]


@pytest.mark.parametrize("topic", ["a.*.>", "", "a..b", "*", ">", "a." * 5_000 + "b"])
def test_a_topic_that_cannot_be_published_to_is_refused(topic: str):
    with pytest.raises(TopicError):
        decode_external({"metadata": {"topic": topic}})


@pytest.mark.parametrize("topic", [["a"], 1, True, {}])
def test_a_topic_that_is_not_a_string_is_refused(topic: Any):
    with pytest.raises(EventDecodeError, match="topic: must be a string"):
        decode_external({"metadata": {"topic": topic}})


def test_an_event_without_such_things_stays_as_it_is():
    event = Event(data=[1], metadata={"topic": "a.b", "more": {"x": None}})
    assert decode_external(event.to_dict()) == event
    assert decode_external({"metadata": {"topic": None}}).topic is None
