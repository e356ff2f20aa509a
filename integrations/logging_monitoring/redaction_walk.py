"""How `redact` examines an event: a fast scan that suffices for most, and a walk that examines everything."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec
import uuid_utils
from codomyrmex.integrations.delivery.secrets import SecretPatterns
from codomyrmex.streaming import Event
from codomyrmex.streaming.counters import Counter

# Limits for one event.
_MAX_DEPTH = 32
_MAX_VALUES = 50_000
_MAX_TEXT = 1_000_000  # characters
# Limits for the cache of harmless keys.
_MAX_CACHED_KEYS = 4_096
_MAX_CACHED_KEY = 200  # characters
_MAX_WORDS = 8  # at the end of a key that are compared

_ATOMS = frozenset({type(None), bool, int, float})
_SIZED = (dict, list, tuple, deque, set, frozenset)
_HARMLESS = (type(None), bool, int, float, datetime, date, time, timedelta, UUID, uuid_utils.UUID, Decimal)


class Rules:
    """What is secret, what replaces it, and how often it has been replaced.

    Args:
        keys: names of secrets.
        patterns: patterns of secrets within strings.
        replacement: the replacement for secrets.

    Raises:
        TypeError: a key is not a string.
    """

    def __init__(self, keys: Iterable[str], patterns: SecretPatterns, replacement: str) -> None:
        self.patterns = patterns
        self.replacement = replacement
        self.harmless_keys: frozenset[str] = frozenset()  # a cache
        self.values = Counter()
        self.unexamined = Counter()
        # Without underscores, so that passWord and PassWord are password too.
        self._keys = frozenset(_words(key).replace("_", "") for key in keys) - {""}

    def is_secret(self, key: str) -> bool:
        """Return whether a key, or its last words, is one of the keys."""
        words = _words(key).split("_")[-_MAX_WORDS:]
        return any("".join(words[start:]) in self._keys for start in range(len(words)))

    def cache(self, key: str) -> None:
        """Remember that a key is harmless; the set is replaced, because other threads read it."""
        if len(key) <= _MAX_CACHED_KEY:
            keys = self.harmless_keys if len(self.harmless_keys) < _MAX_CACHED_KEYS else frozenset[str]()
            self.harmless_keys = keys | {key}


_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[-_.\s:/\[\]]+")


def _words(key: str) -> str:
    """Return the lower-case words of a key, joined by underscores: `x_api_key` for `xApiKey`."""
    if not isinstance(key, str):
        raise TypeError(f"keys: must be strings, got {key!r}")
    return _SEPARATORS.sub("_", _WORD_START.sub("_", key[-500:])).casefold().strip("_")


# Most events need no more than this scan. It handles only the usual types; it compares the keys of a dict
# with the harmless ones all at once, in C; and it collects the strings, so that they can be searched
# together. The walk below is slower and examines everything.
def scan(event: Event, harmless_keys: frozenset[str], texts: list[str], unknown_keys: list[object]) -> bool:
    """Scan an event; return False if it needs the walk.

    Args:
        event: the event.
        harmless_keys: keys that are known to be harmless.
        texts: receives the strings in the event.
        unknown_keys: receives the dicts that have other keys.
    """
    try:
        left = _scan(event.metadata, harmless_keys, texts, unknown_keys, _MAX_VALUES, 0)
        left = _scan(event.data, harmless_keys, texts, unknown_keys, left, 0)
    except (RecursionError, RuntimeError):  # circular, or changed by another thread
        return False
    return left >= 0 and sum(map(len, texts)) <= _MAX_TEXT


def _scan(
    value: Any,
    harmless_keys: frozenset[str],
    texts: list[str],
    unknown_keys: list[object],
    left: int,
    depth: int,
) -> int:
    """Scan a value; return how many more values may be scanned, or -1 if the event needs the walk."""
    kind = type(value)
    if kind is dict:
        if not value.keys() <= harmless_keys:
            unknown_keys.append(value)
        inner_values = value.values()
    elif kind is list or kind is tuple:
        inner_values = value
    elif kind is str:
        texts.append(value)
        return left
    else:
        return left if kind in _ATOMS else -1
    left -= len(value) + 1
    if left < 0 or depth >= _MAX_DEPTH:
        return -1
    for inner in inner_values:
        kind = type(inner)
        if kind is str:
            texts.append(inner)
        elif kind not in _ATOMS:
            left = _scan(inner, harmless_keys, texts, unknown_keys, left, depth + 1)
            if left < 0:
                return -1
    return left


class Walk:
    """An examination of one event, within the limits for one event.

    What is returned is what was examined. A value without secrets is returned itself if its type cannot
    show anything else later; of other types, a plain copy is returned.
    """

    def __init__(self, rules: Rules, *, skip_texts: bool) -> None:
        self._rules = rules
        self._replacement = rules.replacement
        self._skip_texts = skip_texts  # they were all searched before
        self._path: set[int] = set()
        self._replaced = 0
        self._unexamined = 0
        self._values_left = _MAX_VALUES
        self._text_left = _MAX_TEXT

    def value(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one return for each type
        """Return a value without its secrets."""
        kind = type(value)
        if kind is str:
            return value if self._skip_texts else self._text(value)
        if kind in _ATOMS:
            return value
        self._values_left -= 1
        if depth >= _MAX_DEPTH or self._values_left < 0 or id(value) in self._path:
            return self._replace_unexamined()
        self._path.add(id(value))
        try:
            if issubclass(kind, _SIZED) and len(value) > self._values_left:
                return self._replace_unexamined()
            if kind is dict:
                fields, changed = self._pairs(list(value.items()), depth)
                return fields if changed else value
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

    def _text(self, text: str) -> str:
        self._text_left -= len(text)
        if self._text_left < 0:
            return self._replace_unexamined()
        clean = self._rules.patterns.redact(text)
        if clean is not text:
            self._replace_secret()
        return clean

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> tuple[dict[Any, Any], bool]:
        """Return a dict of the pairs without their secrets, and whether it differs from them."""
        changed = False
        clean: dict[Any, Any] = {}
        for key, value in self._limited(pairs):
            is_secret, clean_key = self._key(key)
            clean_value = self._replace_secret() if is_secret else self.value(value, depth + 1)
            changed |= clean_value is not value or clean_key is not key
            if clean_key in clean:  # two keys are equal without their secrets
                clean_key = f"{clean_key} ({len(clean)})"
            clean[clean_key] = clean_value
        return clean, changed

    def _items(self, items: Iterable[Any], depth: int) -> tuple[list[Any], bool]:
        """Return a list of the items without their secrets, and whether it differs from them."""
        changed = False
        clean: list[Any] = []
        for item in self._limited(items):
            clean_item = self.value(item, depth + 1)
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
        """Return whether a key names a secret, and the key without a secret of its own."""
        kind = type(key)
        if kind is str:
            if key in self._rules.harmless_keys:
                return False, key
            clean = self._text(key)
            is_secret = self._rules.is_secret(key)
            if not is_secret and clean is key:
                self._rules.cache(key)
            return is_secret, clean
        if kind in _ATOMS or issubclass(kind, _HARMLESS):
            return False, key
        if kind in {tuple, frozenset}:
            parts = [(item, *self._key(item)) for item in key]
            is_secret = any(secret for _, secret, _ in parts)
            if all(clean is item for item, _, clean in parts):
                return is_secret, key
            return is_secret, kind(clean for _, _, clean in parts)
        if issubclass(kind, Enum):
            text = str(key.value)
            clean = self._text(text)
            is_secret = self._rules.is_secret(key.name) or self._rules.is_secret(text)
            return is_secret, key if clean is text else clean
        if issubclass(kind, (bytes, bytearray)):
            text = bytes(key).decode("latin-1")
            clean = self._text(text)
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
            return self._text(str.__str__(value))
        if issubclass(kind, PurePath):
            text = str(value)
            clean = self._text(text)
            return value if clean is text else clean
        if issubclass(kind, (bytes, bytearray)):
            text = bytes(value).decode("latin-1")
            return value if self._text(text) is text else self._replacement
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
                if self._text(text) is not text:
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


def _field_names(kind: type[Any]) -> tuple[str, ...] | None:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return None
