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
from itertools import islice
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec
import uuid_utils
from codomyrmex.integrations.delivery.secrets import SecretPatterns
from codomyrmex.streaming import Event
from codomyrmex.streaming.counters import Counter

_MAX_DEPTH = 32
_MAX_VALUES = 50_000  # in one event
_MAX_TEXT = 1_000_000  # characters in one event
_MAX_KEYS = 4_096  # whose answers are remembered
_MAX_KEY = 200  # characters of such a key
_MAX_WORDS = 8  # at the end of a key that are looked at

_ATOMS = frozenset({type(None), bool, int, float})
_SIZED = (dict, list, tuple, deque, set, frozenset)
_HARMLESS = (type(None), bool, int, float, datetime, date, time, timedelta, UUID, uuid_utils.UUID, Decimal)


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
        # Without the underscores, so that passWord and PassWord are password too.
        self._keys = frozenset(_words(key).replace("_", "") for key in keys) - {""}

    def is_secret(self, key: str) -> bool:
        """Tell whether a key, or an ending of it that begins with a word, is one of the keys."""
        parts = _words(key).split("_")[-_MAX_WORDS:]
        return any("".join(parts[start:]) in self._keys for start in range(len(parts)))

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
        left = _look(event.metadata, rules.harmless, texts, doubtful, _MAX_VALUES, 0)
        left = _look(event.data, rules.harmless, texts, doubtful, left, 0)
    except (RecursionError, RuntimeError):  # a circle; another thread that changes it
        return False
    return left >= 0 and sum(map(len, texts)) <= _MAX_TEXT


# The first look at an event, which is all that most events need. It looks only at the usual types, at keys
# that are known to be harmless, all of a dict at once and in C, and collects the texts, so that these can be
# searched together. What it does not know it leaves to the walk, which is slower and examines everything.
def _look(
    value: Any,
    harmless: frozenset[str],
    texts: list[str],
    doubtful: list[object],
    left: int,
    depth: int,
) -> int:
    """Look at a value; give how many values may still be looked at, or -1 where it is not for here."""
    kind = type(value)
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
    if left < 0 or depth >= _MAX_DEPTH:
        return -1
    for inner in inner_values:
        kind = type(inner)
        if kind is str:
            texts.append(inner)
        elif kind not in _ATOMS:
            left = _look(inner, harmless, texts, doubtful, left, depth + 1)
            if left < 0:
                return -1
    return left


class Walk:
    """One examination of one event, with what it may still spend.

    What is passed on is what was examined: an object of a class of somebody's own, which may show one
    thing here and another one later, is passed on as the built-in type that it was examined as.
    """

    __slots__ = ("_missed", "_path", "_rules", "_skip_texts", "_text_left", "_values_left")

    def __init__(self, rules: Rules, *, skip_texts: bool) -> None:
        self._rules = rules
        self._skip_texts = skip_texts  # all of them were searched already
        self._path: set[int] = set()
        self._missed = 0
        self._values_left = _MAX_VALUES
        self._text_left = _MAX_TEXT

    def value(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one return for each kind
        kind = type(value)
        if kind is str:
            return value if self._skip_texts else self._text(value)
        if kind in _ATOMS:
            return value
        if not self._enter(value, depth):
            return self._unexamined()
        try:
            if kind is dict:
                return self._pairs(value, list(value.items()), depth)
            if kind is list or kind is tuple:
                return self._sequence(value, list(value), depth)
            return self._unusual(value, kind, depth)
        except Exception:  # noqa: BLE001 - hostile objects may raise anything
            return self._unexamined()
        finally:
            self._path.discard(id(value))

    def _enter(self, value: Any, depth: int) -> bool:
        """Go into something if it may still be: not too deep, not too much, not in a circle."""
        self._values_left -= 1
        if depth >= _MAX_DEPTH or self._values_left < 0 or id(value) in self._path:
            return False
        if issubclass(type(value), _SIZED) and len(value) > self._values_left:
            return False
        self._path.add(id(value))
        return True

    def _text(self, text: str) -> str:
        self._text_left -= len(text)
        if self._text_left < 0:
            return self._unexamined()
        clean = self._rules.patterns.redact(text)
        if clean is not text:
            self._rules.values.tick()
        return clean

    def _pairs(self, value: Any, pairs: list[tuple[Any, Any]], depth: int) -> Any:
        """Walk the pairs of a mapping; give the mapping itself if nothing in it is secret."""
        self._values_left -= len(pairs)
        if self._values_left < 0:
            return self._unexamined()
        changed = False
        clean: dict[Any, Any] = {}
        for key, inner in pairs:
            secret, new_key = self._key(key, depth)
            if secret:
                new = self._rules.replacement
                self._rules.values.tick()
            else:
                new = self.value(inner, depth + 1)
            changed |= new is not inner or new_key is not key
            if new_key in clean:  # two that are alike now
                new_key = f"{new_key} ({len(clean)})"
            clean[new_key] = new
        return clean if changed else value

    def _key(self, key: Any, depth: int) -> tuple[bool, Any]:  # noqa: PLR0911, C901 - as above
        """Tell whether a key names a secret, and give it without one that it holds itself."""
        kind = type(key)
        if kind is str:
            if key in self._rules.harmless:
                return False, key
            clean = self._text(key)
            secret = self._rules.is_secret(key)
            if not secret and clean is key:
                self._rules.remember(key)
            return secret, clean
        if kind in _ATOMS or issubclass(kind, _HARMLESS):
            return False, key
        if kind is frozenset:
            items = tuple(key)
            secret, clean = self._key(items, depth)
            return secret, key if clean is items else self._rules.replacement
        if kind is tuple:
            clean_items, secret = [], False
            for item in key:
                item_is_secret, clean = self._key(item, depth)
                clean_items.append(clean)
                secret |= item_is_secret
            same = all(new is old for new, old in zip(clean_items, key, strict=True))
            return secret, key if same else tuple(clean_items)
        if issubclass(kind, Enum):
            secret = self._rules.is_secret(key.name) or self._rules.is_secret(str(key.value))
            clean_value = self._text(str(key.value))
            return secret, key if clean_value == str(key.value) else clean_value
        if issubclass(kind, (bytes, bytearray)):
            text = bytes(key).decode("latin-1")
            clean = self._text(text)
            return self._rules.is_secret(text), key if clean is text else clean
        if issubclass(kind, str):
            text = str.__str__(key)
            secret, clean = self._key(text, depth)
            return secret, key if clean == text and _is_honest(kind, str) else clean
        return True, self._unexamined()

    def _sequence(self, value: Any, items: list[Any], depth: int) -> Any:
        self._values_left -= len(items)
        if self._values_left < 0:
            return self._unexamined()
        changed = False
        for place, inner in enumerate(items):
            new = self.value(inner, depth + 1)
            if new is not inner:
                items[place] = new
                changed = True
        if not changed:
            return value
        return tuple(items) if type(value) is tuple else items

    def _unusual(self, value: Any, kind: type[Any], depth: int) -> Any:  # noqa: PLR0911, C901 - one return for each kind
        if issubclass(kind, _HARMLESS):
            return value
        if issubclass(kind, Enum):
            return value if self.value(value.value, depth + 1) is value.value else self._rules.replacement
        if issubclass(kind, str):
            text = str.__str__(value)
            clean_text = self._text(text)
            return value if clean_text is text and _is_honest(kind, str) else clean_text
        if issubclass(kind, PurePath):
            text = str(value)
            clean_text = self._text(text)
            return value if clean_text is text else clean_text
        if issubclass(kind, (bytes, bytearray)):
            text = bytes(value).decode("latin-1")
            return value if self._text(text) is text else self._rules.replacement
        if issubclass(kind, BaseException):
            return self._exception(value, depth)
        names = getattr(kind, "_fields", None)
        if names is not None and issubclass(kind, tuple):  # a NamedTuple
            clean = self._pairs(value, list(zip(names, tuple.__iter__(value), strict=True)), depth)
            return value if clean is value else tuple(clean.values())
        names = _field_names(kind)
        if names is not None:
            return self._pairs(value, [(name, getattr(value, name, None)) for name in names], depth)
        if issubclass(kind, Mapping):
            pairs = list(islice(value.items(), self._values_left + 1))
            clean = self._pairs(value, pairs, depth)
            return dict(pairs) if clean is value and not _is_honest(kind, dict) else clean
        if issubclass(kind, (list, tuple, deque, set, frozenset, AbstractSet)):
            items = list(islice(iter(value), self._values_left + 1))
            clean = self._sequence(items, list(items), depth)
            if clean is not items:
                return clean
            base = next((b for b in (list, tuple, set, frozenset) if issubclass(kind, b)), deque)
            return value if _is_honest(kind, base) else items
        return self._unexamined()

    def _exception(self, error: BaseException, depth: int) -> Any:
        """Let an exception through if nothing it would be shown with is secret: it, and what led to it."""
        seen: set[int] = set()
        chain: list[BaseException | None] = [error]
        while chain:
            link = chain.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            # The arguments first: so much of them as was walked can be shown, too.
            args, missed = list(link.args), self._missed
            if self._sequence(link.args, args, depth + 1) is not link.args:
                if self._missed > missed:
                    return self._rules.replacement
                return f"{type(error).__name__}: {self._rules.replacement}"
            notes = getattr(link, "__notes__", ())
            for text in (str(link), repr(link), *map(str, notes)):
                if self._text(text) is not text:
                    return f"{type(error).__name__}: {self._rules.replacement}"
            chain += [link.__cause__, link.__context__]
            chain += getattr(link, "exceptions", ())
        return error

    def _unexamined(self) -> str:
        self._missed += 1
        self._rules.unexamined.tick()
        return self._rules.replacement


_READ_BY = ("__str__", "__iter__", "__getitem__", "__len__", "items", "keys", "values", "get", "__contains__")


def _is_honest(kind: type[Any], base: type[Any]) -> bool:
    """Tell whether an object of this class shows everyone what it showed here."""
    if kind.__module__ in {"builtins", "collections", "types"}:
        return True
    return issubclass(kind, base) and all(
        getattr(kind, name, None) is getattr(base, name, None) for name in _READ_BY
    )


def _field_names(kind: type[Any]) -> tuple[str, ...] | None:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return None


_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_A_WORD = re.compile(r"[-_.\s:/\[\]]+")


def _words(key: str) -> str:
    """Give a key as lower-case words with underscores between: `X-Api-Key` and `xApiKey` are `x_api_key`.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(key, str):
        raise TypeError(f"a key is a text, not {key!r}")
    return _NOT_A_WORD.sub("_", _WORD_BEGINS.sub("_", key[-500:])).casefold().strip("_")
