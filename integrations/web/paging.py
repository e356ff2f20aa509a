"""Cuts what a page is sent to a size that a browser can show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from codomyrmex.streaming.encoding import to_json

MAX_SECTION = 1_000_000  # characters of the JSON of a section
_MAX_TEXT = 1_000  # characters of a text
_MAX_ITEMS = 100  # of a list or mapping within an item


def shown(value: Any) -> Any:
    """Return a value as JSON types with long texts, lists and mappings cut."""
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}\u2026 ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {shown(str(key)): shown(item) for key, item in islice(value.items(), _MAX_ITEMS)}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value[:_MAX_ITEMS]]
    return value


def page(items: Iterable[Any], room: int = MAX_SECTION) -> list[dict[str, Any]]:
    """Return the first items as they are shown, as many as there is room for; at least one."""
    items_shown: list[dict[str, Any]] = []
    for item in items:
        one = shown(item)
        room -= len(to_json(one))
        if room < 0 and items_shown:
            break
        items_shown.append(one)
    return items_shown
