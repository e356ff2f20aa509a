"""What `redact` looks for, and a fast scan that suffices for most events."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import unquote

from codomyrmex.integrations.delivery.secrets import SecretPatterns
from codomyrmex.streaming import Event
from codomyrmex.streaming.counters import Counter

# Limits for one event.
MAX_DEPTH = 32
MAX_VALUES = 50_000
MAX_TEXT = 1_000_000  # characters
# Limits for the cache of harmless keys.
_MAX_CACHED_KEYS = 4_096
_MAX_CACHED_KEY = 200  # characters
_MAX_NEW_KEYS = 512  # of one event; with more, the keys are data
_MAX_ENCODINGS = 3  # percent-encodings of percent-encodings that the scan looks through
_FEW = 32
_MAX_WORDS = 8  # at the end of a key that are compared

ATOMS = frozenset({type(None), bool, int, float})
_KEY_TYPES = ATOMS | {str}
# The keys of a mapping that is a name and a value. The latter are never cached as harmless, so that such a
# mapping is always examined.
NAME_KEYS = frozenset({"name", "Name", "key", "Key", "field", "header", "param", "k"})
VALUE_KEYS = frozenset({"value", "Value", "values", "val", "v"})


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
        self._endings = tuple(self._keys)
        self._ends_in_list = tuple(f"{key}\0" for key in self._keys)
        self._ends_in_json = tuple(f'{key}"' for key in self._keys)

    def is_secret(self, key: str) -> bool:
        """Return whether a key, or its last words, is one of the keys."""
        if not _squeezed(key).endswith(self._endings):
            return False
        words = _words(key).split("_")[-_MAX_WORDS:]
        return any("".join(words[start:]) in self._keys for start in range(len(words)))

    # Many new keys must not be expensive: all names are searched at once, for each secret name.
    def may_be_secret(self, names: list[str]) -> bool:
        """Return whether one of the names may be that of a secret."""
        return _contains(f"{_squeezed(chr(0).join(names))}\0", self._ends_in_list)

    def match_any(self, texts: list[str]) -> bool:
        """Return whether one of the texts may contain a secret, also within JSON or percent-encoded."""
        # Before they are joined, as many texts may be one object; a few are not worth the time of a sum.
        if len(texts) > _FEW and sum(map(len, texts)) > MAX_TEXT:
            return True
        joined = "\n".join(texts)
        if len(joined) > MAX_TEXT or self.patterns.match_any(texts, joined):
            return True
        if '"' in joined and self.may_be_in_json(texts):
            return True
        for _ in range(_MAX_ENCODINGS):
            if "%" not in joined or (plain := unquote(joined)) == joined:
                return False
            joined, texts = plain, [unquote(text) for text in texts]
            if self.patterns.match_any(texts) or self.may_be_in_json(texts):
                return True
        return True

    def may_be_in_json(self, texts: list[str]) -> bool:
        """Return whether one of the texts may be JSON with the name of a secret, at any depth."""
        joined = "\0".join(filter(may_be_json, texts))
        if not joined:
            return False
        return "\\u" in joined or _contains(_squeezed(joined.replace("\\", "")), self._ends_in_json)

    def cache(self, keys: Collection[str]) -> None:
        """Remember that keys are harmless; the set is replaced, because other threads read it."""
        if len(keys) <= _MAX_NEW_KEYS:
            new = frozenset(key for key in keys if len(key) <= _MAX_CACHED_KEY) - VALUE_KEYS
            cached = self.harmless_keys
            self.harmless_keys = new if len(cached) + len(new) > _MAX_CACHED_KEYS else cached | new


def may_be_json(text: str) -> bool:
    """Return whether a text may be JSON with names in it."""
    return '"' in text and text.lstrip()[:1] in {"{", "[", '"'}


_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[-_.\s:/\[\]]+")


def _words(key: str) -> str:
    """Return the lower-case words of a key, joined by underscores: `x_api_key` for `xApiKey`."""
    if not isinstance(key, str):
        raise TypeError(f"keys: must be strings, got {key!r}")
    return _SEPARATORS.sub("_", _WORD_START.sub("_", key[-500:])).casefold().strip("_")


_DELETED = {code: None for code in range(128) if _SEPARATORS.fullmatch(chr(code))}


def _contains(text: str, parts: tuple[str, ...]) -> bool:
    for part in parts:  # noqa: SIM110 - a generator takes twice as long
        if part in text:
            return True
    return False


def _squeezed(key: str) -> str:
    """Return a key in lower case without what separates its words."""
    folded = key.casefold()
    return folded.translate(_DELETED) if folded.isascii() else _SEPARATORS.sub("", folded)


# Most events need no more than this scan. It handles only the usual types; it compares the keys of a dict
# with the harmless ones all at once, in C; and it collects the strings, so that they can be searched
# together. The walk below is slower and examines everything.
def scan(event: Event, harmless_keys: frozenset[str], texts: list[str], unknown: list[Any]) -> bool:
    """Scan an event; return False if it needs the walk.

    Args:
        event: the event.
        harmless_keys: keys that are known to be harmless.
        texts: receives the strings in the event.
        unknown: receives the dicts that have other keys, and what may be a pair of name and value.
    """
    try:
        metadata, remaining = event.metadata, MAX_VALUES
        topic = metadata.get("topic")
        if len(metadata) == 1 and type(topic) is str and "topic" in harmless_keys:  # as of most events
            texts.append(topic)
        else:
            remaining = _scan(metadata, harmless_keys, texts, unknown, remaining, 0)
        remaining = _scan(event.data, harmless_keys, texts, unknown, remaining, 0)
    except (RecursionError, RuntimeError):  # circular, or changed by another thread
        return False
    return remaining >= 0


def _scan(  # noqa: C901 - without a call for each value
    value: Any,
    harmless_keys: frozenset[str],
    texts: list[str],
    unknown: list[Any],
    remaining: int,
    depth: int,
    in_sequence: bool = False,  # noqa: FBT001, FBT002 - by position, for speed
) -> int:
    """Scan a value; return how many more values may be scanned, or -1 if the event needs the walk."""
    kind = type(value)
    if kind is dict:
        if not harmless_keys.issuperset(value):
            unknown.append(value)
        inner_values = value.values()
    elif kind is list or kind is tuple:
        if (
            (kind is tuple or in_sequence)
            and len(value) == 2  # noqa: PLR2004 - a pair
            and type(value[0]) is str
            and value[0] not in harmless_keys
        ):
            unknown.append(value)
        inner_values = value
    elif kind is str:
        texts.append(value)
        return remaining
    else:
        return remaining if kind in ATOMS else -1
    remaining -= len(value) + 1
    if remaining < 0 or depth >= MAX_DEPTH:
        return -1
    in_sequence = kind is not dict
    for inner in inner_values:
        if type(inner) is str:
            texts.append(inner)
        elif type(inner) not in ATOMS:
            remaining = _scan(inner, harmless_keys, texts, unknown, remaining, depth + 1, in_sequence)
            if remaining < 0:
                return -1
    return remaining


def names_in(unknown: list[Any], harmless_keys: frozenset[str]) -> list[str] | None:
    """Return the names in what `scan` does not know; None if it needs the walk.

    Args:
        unknown: dicts with unknown keys, and pairs.
        harmless_keys: keys that are known to be harmless.
    """
    names: set[Any] = set()
    try:
        for each in unknown:
            if type(each) is dict:
                names |= each.keys() - harmless_keys
                if not VALUE_KEYS.isdisjoint(each):
                    names |= {each[key] for key in NAME_KEYS & each.keys() if type(each[key]) is str}
            else:
                names.add(each[0])
    except (RuntimeError, LookupError):  # changed by another thread
        return None
    kinds = set(map(type, names))
    if kinds - {str}:
        if not kinds <= _KEY_TYPES:
            return None
        names = {name for name in names if type(name) is str}
    return list(names) if sum(map(len, names)) <= MAX_TEXT else None
