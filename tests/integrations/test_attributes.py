"""`attributes_of`: no value replaces another one, and what is left out is counted."""

from __future__ import annotations

from typing import Any

import pytest
from codomyrmex.integrations.logging_monitoring.attributes import attributes_of
from codomyrmex.streaming import Event, create_event


def data_of(data: Any) -> dict[str, Any]:
    attributes = attributes_of(create_event(data))
    return {
        name.removeprefix("event.data."): value
        for name, value in attributes.items()
        if name.startswith(("event.data", "event.dropped"))
    }


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": {"b": 1}, "a.b": 2}, {"a.b": 1, "a.b_": 2}),
        ({"a.b": 2, "a": {"b": 1}}, {"a.b": 2, "a.b_": 1}),
        ({"a.b": 1, "a": {"b": 2, "b_": 3}}, {"a.b": 1, "a.b_": 2, "a.b__": 3}),
        ({1: "number", "1": "text"}, {"1": "number", "1_": "text"}),
        ({chr(0xD800): 1, "\ufffd": 2}, {"\ufffd": 1, "\ufffd_": 2}),
        ({"a": {"b": {"c": 1}, "b.c": 2}}, {"a.b.c": 1, "a.b.c_": 2}),
    ],
    ids=repr,
)
def test_values_with_the_same_name_are_both_kept(data, expected):
    for _ in range(3):  # also once the names are cached
        assert data_of(data) == expected


def test_what_exceeds_the_limit_is_counted():
    attributes = attributes_of(create_event({f"k{number}": number for number in range(150)}))
    kept = [name for name in attributes if name.startswith("event.data.")]
    assert attributes["event.dropped_attributes"] == 150 - len(kept)
    assert len(attributes) <= 102
    assert "event.dropped_attributes" not in attributes_of(create_event({"a": 1}))


def test_an_empty_mapping_is_visible():
    assert data_of({}) == {"event.data": "{}"}
    assert data_of({"a": {}, "b": {"c": {}}}) == {"a": "{}", "b.c": "{}"}
    assert "event.metadata" not in attributes_of(Event())
