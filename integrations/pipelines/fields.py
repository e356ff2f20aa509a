"""Values of an event by their names, for matchers, templates and keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from codomyrmex.integrations.configuration.matchers import Matcher
from codomyrmex.streaming import Event
from codomyrmex.streaming.topics import EVERYTHING, matches

_SHORT = 100  # characters of a value that is worth to be remembered
_PLACE = re.compile(r"\{([A-Za-z_][\w.-]*)\}")


def value_of(event: Event, name: str) -> Any:  # noqa: PLR0911 - one for each kind of name
    """Give a value: `topic`, `type`, `id`, `data`, `data.status`, or an entry of the labels or metadata."""
    if name == "topic":
        return event.topic
    if name == "type":
        return event.type.value
    if name == "id":
        return event.id
    first, _, rest = name.partition(".")
    if first == "data":
        return _inside(event.data, rest)
    if first == "metadata" and rest:
        return _inside(event.metadata, rest)
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
    """Give a value as text, empty where there is none, as matchers and keys see it."""
    return _as_text(value_of(event, name))


def _as_text(value: Any) -> str:
    if value.__class__ is str:
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(getattr(value, "value", value))


# Made once for each matcher, as a filter is asked for each event: the usual name is one or two lookups.
def _reader(name: str) -> Callable[[Event], str]:
    first, _, rest = name.partition(".")
    if first == "data" and rest and "." not in rest:

        def read_data(event: Event) -> str:
            data = event.data
            if data.__class__ is dict:
                return _as_text(data.get(rest))
            return _as_text(_inside(data, rest))

        return read_data
    return lambda event: text_of(event, name)


# A call of RE2 costs as much as all else of a filter, and values such as a status are few.
def _holds(matcher: Matcher) -> Callable[[str], bool]:
    if matcher.regex is None:
        return matcher.holds
    holds = matcher.holds
    remembered = lru_cache(1_024)(holds)
    return lambda value: remembered(value) if len(value) <= _SHORT else holds(value)


def condition(topic: str, matchers: Iterable[Matcher]) -> Callable[[Event], bool] | None:
    """Make a test of events; None where all pass.

    Args:
        topic: a topic or a pattern.
        matchers: all of them have to hold; their names are those of `value_of`.
    """
    tests = [(_reader(matcher.name), _holds(matcher)) for matcher in matchers]
    if topic == EVERYTHING and len(tests) == 1:
        [(read, holds)] = tests
        return lambda event: holds(read(event))
    if topic == EVERYTHING and not tests:
        return None

    def passes(event: Event) -> bool:
        if not matches(topic, event.topic):
            return False
        return all(holds(read(event)) for read, holds in tests)

    return passes


def fill(template: str) -> Callable[[Event], Any]:
    """Make a function that fills the places of a text: `{data.status}`.

    A text that is one place alone gives the value as it is, not as text.
    """
    alone = _PLACE.fullmatch(template)
    if alone is not None:
        return lambda event: value_of(event, alone[1])
    if _PLACE.search(template) is None:
        return lambda _: template
    return lambda event: _PLACE.sub(lambda place: text_of(event, place[1]), template)
