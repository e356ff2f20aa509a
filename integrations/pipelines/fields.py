"""Values of an event by name, for matchers, templates and keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from codomyrmex.integrations.configuration.matchers import Matcher
from codomyrmex.streaming import Event
from codomyrmex.streaming.topics import EVERYTHING, matches

_CACHEABLE = 100  # characters of a value
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.-]*)\}")


def value_of(event: Event, name: str) -> Any:  # noqa: PLR0911 - one for each kind of name
    """Return a value of an event, or None.

    Args:
        event: the event.
        name: `topic`, `type`, `id`, `data`, `data.status`, `metadata.host`, or the name of a label or of an
            entry of the metadata, in this order.
    """
    if name == "topic":
        return event.topic
    if name == "type":
        return event.type.value
    if name == "id":
        return event.id
    first, _, path = name.partition(".")
    if first == "data":
        return _inside(event.data, path)
    if first == "metadata" and path:
        return _inside(event.metadata, path)
    labels = event.metadata.get("labels")
    if isinstance(labels, Mapping) and name in labels:
        return labels[name]
    return event.metadata[name] if name in event.metadata else _inside(event.metadata, name)


def _inside(value: Any, path: str) -> Any:
    for step in path.split(".") if path else ():
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def text_of(event: Event, name: str) -> str:
    """Return a value of an event as text, empty if there is none, as matchers and keys use it."""
    value = value_of(event, name)
    if value.__class__ is str:
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(getattr(value, "value", value))


# RE2 costs more than everything else in a filter, and values such as a status are few.
def _cached(matcher: Matcher) -> Callable[[str], bool]:
    cached = lru_cache(1_024)(matcher.holds)
    return lambda value: cached(value) if len(value) <= _CACHEABLE else matcher.holds(value)


def condition(topic: str, matchers: Iterable[Matcher]) -> Callable[[Event], bool] | None:
    """Return a function that tests events, or None if it would accept all of them.

    Args:
        topic: a topic or a pattern.
        matchers: all of them have to hold; they use the names of `value_of`.
    """
    tests = [(matcher.name, _cached(matcher)) for matcher in matchers]
    if topic == EVERYTHING and not tests:
        return None

    def accepts(event: Event) -> bool:
        if topic != EVERYTHING and not matches(topic, event.topic):
            return False
        return all(holds(text_of(event, name)) for name, holds in tests)

    return accepts


def template(value: Any) -> Callable[[Event], Any]:
    """Return a function that replaces the placeholders of a value, such as `{data.status}`.

    A text that is nothing but one placeholder becomes the value as it is, not its text.

    Args:
        value: a text, or a list or mapping of values; any other value stays as it is.
    """
    if isinstance(value, dict):
        fields = {name: template(each) for name, each in value.items()}
        return lambda event: {name: each(event) for name, each in fields.items()}
    if isinstance(value, list):
        items = [template(each) for each in value]
        return lambda event: [each(event) for each in items]
    if not isinstance(value, str) or _PLACEHOLDER.search(value) is None:
        return lambda _: value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole is not None:
        return lambda event: value_of(event, whole[1])
    return lambda event: _PLACEHOLDER.sub(lambda place: text_of(event, place[1]), value)
