"""How `redact` examines an event: a first look in bulk, and a walk that takes care of everything else."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec
from codomyrmex.integrations.delivery.secrets import SecretPatterns
from codomyrmex.streaming import Event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.encoding import to_builtins

_MAX_DEPTH = 32
_MAX_VALUES = 50_000  # in one event
_MAX_TEXT = 1_000_000  # characters in one event
_MAX_KEYS = 4_096  # whose answers are remembered
_MAX_KEY = 200  # characters of such a key

_ATOMS = frozenset({type(None), bool, int, float})
_HARMLESS = (type(None), bool, int, float, datetime, date, time, timedelta, UUID, Decimal)


class Rules:
    """What is secret, what replaces it, and how often it did.

    Args:
        keys: names of what is secret.
        patterns: what is secret in a text.
        replacement: what stands there instead.

    Raises:
        TypeError: a key is no text.
    """

    def __init__(self, keys: Iterable[str], patterns: SecretPatterns, replacement: str) -> None:
        self.patterns = patterns
        self.replacement = replacement
        self.harmless: frozenset[str] = frozenset()  # keys that were looked at
        self.values = Counter()
        self.unexamined = Counter()
        self._keys = frozenset(_words(key) for key in keys)

    def is_secret(self, key: str) -> bool:
        """Tell whether a key, or an ending of it that begins with a word, is one of the keys."""
        parts = _words(key).split("_")
        return any("_".join(parts[start:]) in self._keys for start in range(len(parts)))

    def remember(self, key: str) -> None:
        """Note that a key is harmless; the set is replaced, as other threads look into it."""
        if len(key) <= _MAX_KEY:
            known = self.harmless if len(self.harmless) < _MAX_KEYS else frozenset[str]()
            self.harmless = known | {key}


def look(event: Event, rules: Rules, texts: list[str], doubtful: list[object]) -> bool:
    """Take a first look at an event; False where it does not do for this one.

    Args:
        event: what to look at.
        rules: what is secret.
        texts: gets the texts that are in it.
        doubtful: gets the dicts whose keys are not all known to be harmless.
    """
    try:
        left = _look(event.data, rules.harmless, texts, doubtful, _MAX_VALUES)
        left = _look(event.metadata, rules.harmless, texts, doubtful, left)
    except (RecursionError, RuntimeError):  # a circle; another thread that changes it
        return False
    return left >= 0 and sum(map(len, texts)) <= _MAX_TEXT


# The first look at an event, which is all that most events need. It looks only at the usual types, at keys
# that are known to be harmless, all of a dict at once and in C, and collects the texts, so that these can be
# searched together. What it does not know it leaves to the walk, which is slower and examines everything.
def _look(value: Any, harmless: frozenset[str], texts: list[str], doubtful: list[object], left: int) -> int:
    """Look at a value; give how many values may still be looked at, or -1 where it is not for here."""
    kind = value.__class__
    if kind is dict:
        if not value.keys() <= harmless:
            doubtful.append(value)
        inner_values = value.values()
    elif kind is list or kind is tuple:
        inner_values = value
    elif kind is str:
        texts.append(value)
        return left
    else:
        return left if kind in _ATOMS else -1
    left -= len(value) + 1
    for inner in inner_values if left >= 0 else ():
        kind = inner.__class__
        if kind is str:
            texts.append(inner)
        elif kind not in _ATOMS:
            left = _look(inner, harmless, texts, doubtful, left)
            if left < 0:
                return -1
    return left


class Walk:
    """One examination of one event, with what it may still spend."""

    __slots__ = ("_path", "_rules", "_skip_texts", "_text_left", "_values_left")

    def __init__(self, rules: Rules, *, skip_texts: bool) -> None:
        self._rules = rules
        self._skip_texts = skip_texts  # all of them were searched already
        self._path: set[int] = set()
        self._values_left = _MAX_VALUES
        self._text_left = _MAX_TEXT

    def value(self, value: Any, depth: int) -> Any:
        kind = value.__class__
        if kind is str:
            return self._text(value)
        if kind in _ATOMS:
            return value
        if kind is dict:
            return self._dict(value, depth)
        if kind is list or kind is tuple:
            return self._sequence(value, depth)
        return self._unusual(value, depth)

    def _text(self, text: str) -> str:
        if self._skip_texts:
            return text
        self._text_left -= len(text)
        if self._text_left < 0:
            return self._unexamined()
        clean = self._rules.patterns.redact(text)
        if clean is not text:
            self._rules.values.tick()
        return clean

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        """Walk a dict; a copy is begun with the first value that is replaced."""
        if not self._enter(value, depth):
            return self._unexamined()
        copy: dict[Any, Any] | None = None
        for key, inner in list(value.items()):  # another thread may be changing it
            secret, new_key = self._key(key)
            if secret:
                new = self._rules.replacement
                self._rules.values.tick()
            else:
                new = self.value(inner, depth + 1)
            if new is not inner or new_key is not key:
                if copy is None:
                    copy = dict(value)
                if new_key is not key:
                    copy.pop(key, None)
                copy[new_key] = new
        self._path.discard(id(value))
        return value if copy is None else copy

    def _key(self, key: Any) -> tuple[bool, Any]:
        if key.__class__ is not str:
            return self._unusual_key(key)
        rules = self._rules
        if key in rules.harmless:
            return False, key
        if rules.is_secret(key):
            return True, key
        clean = rules.patterns.redact(key)
        if clean is key:
            rules.remember(key)
        return False, clean

    def _sequence(self, value: list[Any] | tuple[Any, ...], depth: int) -> Any:
        if not self._enter(value, depth):
            return self._unexamined()
        items = list(value)
        changed = False
        for place, inner in enumerate(items):
            new = self.value(inner, depth + 1)
            if new is not inner:
                items[place] = new
                changed = True
        self._path.discard(id(value))
        if not changed:
            return value
        return items if value.__class__ is list else tuple(items)

    def _enter(self, value: Any, depth: int) -> bool:
        """Go into a container if it may still be: not too deep, not too much, not in a circle."""
        self._values_left -= len(value) + 1
        if depth >= _MAX_DEPTH or self._values_left < 0 or id(value) in self._path:
            return False
        self._path.add(id(value))
        return True

    def _unusual(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one return for each kind
        try:
            if isinstance(value, _HARMLESS):
                return value
            if isinstance(value, Enum):
                return value if self.value(value.value, depth + 1) is value.value else self._replaced()
            if isinstance(value, (str, PurePath)):
                text = str(value)
                clean_text = self._text(text)
                return value if clean_text is text else clean_text
            if isinstance(value, (bytes, bytearray)):
                text = bytes(value).decode("latin-1")
                return value if self._text(text) is text else self._replaced()
            if isinstance(value, BaseException):
                return self._exception(value)
            if isinstance(value, Mapping):
                plain = dict(value.items())
                clean = self._dict(plain, depth)
                return value if clean is plain else clean
            if isinstance(value, (list, tuple, deque, AbstractSet)):
                plain_list = list(value)
                clean = self._sequence(plain_list, depth)
                return value if clean is plain_list else clean
            if _has_fields(value):
                fields = to_builtins(value)
                clean = self.value(fields, depth)
                return value if clean is fields else clean
        except Exception:  # noqa: BLE001 - hostile objects may raise anything
            return self._unexamined()
        return self._unexamined()

    def _exception(self, error: BaseException) -> Any:
        """Let an exception through if nothing it would be shown with is secret: it, and what led to it."""
        seen: set[int] = set()
        chain: list[BaseException | None] = [error]
        while chain:
            link = chain.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            notes = getattr(link, "__notes__", ())
            for text in (str(link), repr(link.args), *map(str, notes)):
                if self._text(text) is not text:
                    return f"{type(error).__name__}: {self._rules.replacement}"
            chain += [link.__cause__, link.__context__]
            chain += getattr(link, "exceptions", ())
        return error

    def _unusual_key(self, key: Any) -> tuple[bool, Any]:
        if isinstance(key, (bytes, bytearray)):
            return self._rules.is_secret(bytes(key).decode("latin-1")), key
        if isinstance(key, (str, Enum)):
            text = str(key.value) if isinstance(key, Enum) else str(key)
            return self._rules.is_secret(text), key if self._text(text) is text else self._replaced()
        if isinstance(key, _HARMLESS):
            return False, key
        text = str(key)  # a tuple, say
        return self._rules.is_secret(text), key if self._text(text) is text else self._replaced()

    def _replaced(self) -> str:
        return self._rules.replacement

    def _unexamined(self) -> str:
        self._rules.unexamined.tick()
        return self._rules.replacement


def _has_fields(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value)


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_A_WORD = re.compile(r"[-_.\s:/\[\]]+")


def _words(key: str) -> str:
    """Give a key as lower-case words with underscores between: `X-Api-Key` and `xApiKey` are `x_api_key`.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(key, str):
        raise TypeError(f"a key is a text, not {key!r}")
    return _NOT_A_WORD.sub("_", _CAMEL.sub("_", key[:500])).casefold().strip("_")
