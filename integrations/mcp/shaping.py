"""Prepares results for an assistant: bounded, without secrets, and with control characters escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from codomyrmex.integrations.logging_monitoring.redaction import redact
from codomyrmex.integrations.mcp.results import EventItem, EventPage, GroupPage, Result
from codomyrmex.streaming import Event
from codomyrmex.streaming.encoding import to_json

R = TypeVar("R", bound=Result)

MAX_TEXT = 1_000  # characters
MAX_RESULT = 50_000  # characters of the JSON of a result, unless a single item has more
_MAX_ITEMS = 100  # of a list or mapping
_MAX_DEPTH = 12
_MIN_VALUE = 4  # characters counted for a value in addition to its text
_MAX_GROUP = 20_000  # characters of the JSON of a group
_MAX_FREE = 20_000  # characters of the data of an event, and of its metadata
_MAX_SEARCHED = 20_000  # characters of a text, which is cut to them before it is searched for secrets
_FREE = ("data", "metadata")
_CUT = "\u2026 (shortened)"

_redact = redact()


def shaped(result: R) -> R:
    """Return a result with its texts shortened and cleaned, and with as many items as fit.

    `has_more` or `others` shows that items were left out.
    """
    fields: dict[str, Any] = {
        name: list(map(_safe, value)) if isinstance(value, list) else _safe(value) for name, value in result
    }
    if isinstance(result, GroupPage):
        fields["groups"] = list(map(_group, fields["groups"]))
    lists = [name for name, value in fields.items() if isinstance(value, list)]
    if "has_more" in fields and lists:
        name = lists[-1]
        kept = _fitting(fields[name], MAX_RESULT)
        fields["has_more"] = fields["has_more"] or len(kept) < len(fields[name])
        fields[name] = kept
    return type(result).model_validate(fields)


def shaped_events(page: EventPage, *, newest: bool) -> EventPage:
    """Return a page with as many of its events as fit, and with a cursor after the last of them.

    Args:
        page: the page.
        newest: whether the page has the newest events; if they do not all fit, the oldest are left out.
    """
    events = list(map(_event, page.events))
    kept = _fitting(events[::-1], MAX_RESULT)[::-1] if newest else _fitting(events, MAX_RESULT)
    cursor = page.cursor if newest or len(kept) == len(events) else kept[-1]["cursor"]
    has_more = page.has_more or len(kept) < len(events)
    fields = {"events": kept, "cursor": cursor, "has_more": has_more, "missed": page.missed}
    return EventPage.model_validate(fields)


def _event(event: EventItem) -> dict[str, Any]:
    """Return an event whose data and metadata, which can be of any size, are bounded before the search."""
    content = {name: _Bounds(_MAX_SEARCHED, _MAX_FREE).apply(getattr(event, name)) for name in _FREE}
    shown: dict[str, Any] = _safe(event.model_copy(update=content))
    return shown


def _group(group: dict[str, Any]) -> dict[str, Any]:
    alerts = _fitting(group["alerts"], _MAX_GROUP)
    return {**group, "alerts": alerts, "others": group["others"] + len(group["alerts"]) - len(alerts)}


def _fitting(items: Sequence[Any], room: int) -> list[Any]:
    """Return the first items that fit in so many characters of JSON; at least one."""
    kept: list[Any] = []
    for item in items:
        room -= len(to_json(item))
        if room < 0 and kept:
            break
        kept.append(item)
    return kept


def _safe(value: Any) -> Any:
    """Return a value as JSON types, without secrets and within bounds."""
    searched = _Bounds(_MAX_SEARCHED)
    redacted = _redact(Event(data=searched.apply(value))).data
    return _Bounds(MAX_TEXT).apply(redacted) if searched.has_long else redacted


class _Bounds:
    """Converts values to bounded JSON types.

    Args:
        max_text: the maximum number of characters of a text.
        room: roughly the maximum number of characters in all; further values are left out.

    Attributes:
        has_long: whether a text was longer than `MAX_TEXT`.
    """

    def __init__(self, max_text: int, room: float = math.inf) -> None:
        self._max_text = max_text
        self._room = room
        self.has_long = False

    def apply(self, value: Any, depth: int = 0) -> Any:
        self._room -= _MIN_VALUE
        if self._room < 0:
            return _CUT
        kind = value.__class__  # most values are of these types, and looking for others takes longer
        if kind is str or isinstance(value, str):
            return self._text(value)
        if value is None or kind is bool or kind is int:
            return value
        if kind is not dict and isinstance(value, Result):
            value = dict(value)
        elif depth > _MAX_DEPTH:
            value = "\u2026 (nested too deeply)"
        if kind is dict or isinstance(value, Mapping):
            items = islice(value.items(), _MAX_ITEMS)
            value = {self._text(str(key)): self.apply(item, depth + 1) for key, item in items}
        elif isinstance(value, (list, tuple)):
            value = self._items(value[:_MAX_ITEMS], depth + 1)
        elif isinstance(value, float) and not math.isfinite(value):
            value = str(value)  # JSON has no such numbers
        return value

    def _items(self, values: Sequence[Any], depth: int) -> list[Any]:
        items: list[Any] = []
        for value in values:
            items.append(self.apply(value, depth))
            if self._room < 0:
                break
        return items

    def _text(self, value: str) -> str:
        size = len(value)
        if size > MAX_TEXT:
            self._room -= MAX_TEXT
            self.has_long = True
        else:
            self._room -= size
            if value.isprintable():
                return value
        return text(value, self._max_text)


def text(value: str, limit: int = MAX_TEXT) -> str:
    """Return a text, shortened and with control characters escaped."""
    shown = value if len(value) <= limit + len(_CUT) else f"{value[:limit]}{_CUT}"
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in shown)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
