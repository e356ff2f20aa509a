"""How `redact` examines an event that the scan cannot handle: a walk through everything in it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import msgspec
import uuid_utils
from codomyrmex.integrations.logging_monitoring.redaction_rules import (
    ATOMS,
    MAX_DEPTH,
    MAX_TEXT,
    MAX_VALUES,
    NAME_KEYS,
    VALUE_KEYS,
    Rules,
    may_be_json,
)
from codomyrmex.streaming.encoding import to_json

_SIZED = (dict, list, tuple, deque, set, frozenset)
_HARMLESS = (type(None), bool, int, float, datetime, date, time, timedelta, UUID, uuid_utils.UUID, Decimal)


class Walk:
    """An examination of one event, within the limits for one event.

    What is returned is what was examined. A value without secrets is returned itself if its type cannot
    show anything else later; of other types, a plain copy is returned.
    """

    def __init__(self, rules: Rules, *, skip_texts: bool, skip_keys: bool) -> None:
        self._rules = rules
        self._replacement = rules.replacement
        self._skip_texts = skip_texts  # they were all searched before
        self._skip_keys = skip_keys  # likewise
        self._path: set[int] = set()
        self._replaced = 0
        self._unexamined = 0
        self._values_left = MAX_VALUES
        self._text_left = MAX_TEXT

    def value(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one return for each type
        """Return a value without its secrets."""
        kind = type(value)
        if kind is str:
            return value if self._skip_texts else self._text(value, depth)
        if kind in ATOMS:
            return value
        self._values_left -= 1
        if depth >= MAX_DEPTH or self._values_left < 0 or id(value) in self._path:
            return self._replace_unexamined()
        self._path.add(id(value))
        try:
            if issubclass(kind, _SIZED) and len(value) > self._values_left:
                return self._replace_unexamined()
            if kind is dict:
                fields, changed = self._pairs(list(value.items()), depth)
                return fields if changed else value
            if kind is tuple and self._is_secret_pair(value):
                return self._pair(value)
            if kind in {list, tuple, set, frozenset}:
                items, changed = self._items(list(value), depth)
                if not changed:
                    return value
                return tuple(items) if kind is tuple else items
            return self._unusual(value, kind, depth)
        except Exception:  # noqa: BLE001 - hostile objects may raise anything
            return self._replace_unexamined()
        finally:
            self._path.discard(id(value))

    def _text(self, text: str, depth: int) -> str:
        self._text_left -= len(text)
        if self._text_left < 0:
            return self._replace_unexamined()
        if depth < MAX_DEPTH and may_be_json(text) and (decoded := _decoded(text)) is not None:
            clean_value = self.value(decoded, depth + 1)
            if clean_value is not decoded:
                return to_json(clean_value)
        clean = self._rules.patterns.redact(text)
        if clean is not text:
            self._replace_secret()
        if "%" in clean and (plain := unquote(clean)) != clean and depth < MAX_DEPTH:
            clean_plain = self._text(plain, depth + 1)
            if clean_plain is not plain:
                return clean_plain
        return clean

    def _is_secret_pair(self, value: list[Any] | tuple[Any, ...]) -> bool:
        """Return whether a value is a name and a value, and the name is that of a secret."""
        return (
            len(value) == 2  # noqa: PLR2004 - a pair
            and isinstance(value[0], (str, bytes))
            and isinstance(value[1], (str, bytes, int, float))
            and self._key(value[0])[0]
        )

    def _pair(self, value: list[Any] | tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
        pair = (self._key(value[0])[1], self._replace_secret())
        return pair if isinstance(value, tuple) else list(pair)

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> tuple[dict[Any, Any], bool]:
        """Return a dict of the pairs without their secrets, and whether it differs from them."""
        changed = False
        clean: dict[Any, Any] = {}
        limited = self._limited(pairs)
        names_secret = self._names_secret(limited)
        for key, value in limited:
            is_secret, clean_key = self._key(key)
            is_secret = is_secret or (names_secret and type(key) is str and key in VALUE_KEYS)
            clean_value = self._replace_secret() if is_secret else self.value(value, depth + 1)
            changed |= clean_value is not value or clean_key is not key
            if clean_key in clean:  # two keys are equal without their secrets
                clean_key = f"{clean_key} ({len(clean)})"
            clean[clean_key] = clean_value
        return clean, changed

    def _names_secret(self, pairs: list[tuple[Any, Any]]) -> bool:
        """Return whether pairs are like `{"name": "password", "value": ...}`."""
        return any(type(key) is str and key in VALUE_KEYS for key, _ in pairs) and any(
            type(key) is str and key in NAME_KEYS and isinstance(value, (str, bytes)) and self._key(value)[0]
            for key, value in pairs
        )

    def _items(self, items: Iterable[Any], depth: int) -> tuple[list[Any], bool]:
        """Return a list of the items without their secrets, and whether it differs from them."""
        changed = False
        clean: list[Any] = []
        for item in self._limited(items):
            is_pair = type(item) is list and self._is_secret_pair(item)
            clean_item = self._pair(item) if is_pair else self.value(item, depth + 1)
            changed |= clean_item is not item
            clean.append(clean_item)
        return clean, changed

    def _limited(self, values: Iterable[Any]) -> list[Any]:
        """Return the values as a list; raise if there are more than may still be examined."""
        examined = list(islice(values, self._values_left + 1))
        self._values_left -= len(examined)
        if self._values_left < 0:
            raise OverflowError
        return examined

    def _key(self, key: Any) -> tuple[bool, Any]:  # noqa: PLR0911 - one return for each type
        """Return whether a key names a secret, and the key without secrets in its text."""
        kind = type(key)
        if kind is str:
            if key in self._rules.harmless_keys:
                return False, key
            clean = key if self._skip_keys else self._text(key, MAX_DEPTH)
            return self._rules.is_secret(key), clean
        if kind in ATOMS or issubclass(kind, _HARMLESS):
            return False, key
        if kind in {tuple, frozenset}:
            parts = [(item, *self._key(item)) for item in key]
            is_secret = any(secret for _, secret, _ in parts)
            if all(clean is item for item, _, clean in parts):
                return is_secret, key
            return is_secret, kind(clean for _, _, clean in parts)
        if issubclass(kind, Enum):
            text = str(key.value)
            clean = self._text(text, MAX_DEPTH)
            is_secret = self._rules.is_secret(key.name) or self._rules.is_secret(text)
            return is_secret, key if clean is text else clean
        if issubclass(kind, (bytes, bytearray)):
            text = bytes(key).decode("latin-1")
            clean = self._text(text, MAX_DEPTH)
            return self._rules.is_secret(text), key if clean is text else clean
        if issubclass(kind, str):
            return self._key(str.__str__(key))
        return True, self._replace_unexamined()

    def _unusual(self, value: Any, kind: type[Any], depth: int) -> Any:  # noqa: PLR0911, C901 - one return for each type
        if issubclass(kind, _HARMLESS):
            return value
        if issubclass(kind, Enum):
            return self._replacement if self._has_secret(value.value, depth) else value
        if issubclass(kind, str):
            return self._text(str.__str__(value), depth)
        if issubclass(kind, PurePath):
            text = str(value)
            clean = self._text(text, depth)
            return value if clean is text else clean
        if issubclass(kind, (bytes, bytearray)):
            text = bytes(value).decode("latin-1")
            return value if self._text(text, depth) is text else self._replacement
        if issubclass(kind, BaseException):
            return self._exception(value, depth)
        names = getattr(kind, "_fields", None)
        if names is not None and issubclass(kind, tuple):  # a NamedTuple
            fields, changed = self._pairs(zip(names, tuple.__iter__(value), strict=True), depth)
            return tuple(fields.values()) if changed else value
        names = _field_names(kind)
        if names is not None:
            fields, changed = self._pairs([(name, getattr(value, name, None)) for name in names], depth)
            return fields if changed else value
        if issubclass(kind, Mapping):
            return self._pairs(value.items(), depth)[0]
        if issubclass(kind, (list, tuple, deque, AbstractSet)):
            return self._items(value, depth)[0]
        return self._replace_unexamined()

    def _has_secret(self, value: Any, depth: int) -> bool:
        """Return whether something in a value has to be replaced."""
        replaced = self._replaced
        self.value(value, depth + 1)
        return self._replaced > replaced

    def _exception(self, error: BaseException, depth: int) -> Any:
        """Return an exception if neither it nor those that led to it show a secret; otherwise its type."""
        seen: set[int] = set()
        chain: list[BaseException | None] = [error]
        while chain:
            link = chain.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            unexamined = self._unexamined
            # The arguments first: the string of an exception may show them.
            if self._has_secret(link.args, depth):
                if self._unexamined > unexamined:
                    return self._replacement
                return f"{type(error).__name__}: {self._replacement}"
            notes = getattr(link, "__notes__", ())
            for text in (str(link), repr(link), *map(str, notes)):
                if self._text(text, depth) is not text:
                    return f"{type(error).__name__}: {self._replacement}"
            chain += [link.__cause__, link.__context__]
            chain += getattr(link, "exceptions", ())
        return error

    def _replace_secret(self) -> str:
        self._replaced += 1
        self._rules.values.tick()
        return self._replacement

    def _replace_unexamined(self) -> str:
        self._replaced += 1
        self._unexamined += 1
        self._rules.unexamined.tick()
        return self._replacement


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _field_names(kind: type[Any]) -> tuple[str, ...] | None:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return None
