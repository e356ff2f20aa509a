"""The functions of Go templates and of Alertmanager."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from codomyrmex.integrations.configuration.matchers import compile_re2
from codomyrmex.integrations.notification.go_templates.errors import GoError
from codomyrmex.integrations.notification.go_templates.formatting import (
    MAX_TEXT,
    bounded,
    sprint,
    sprintf,
    sprintln,
    utf8,
)
from codomyrmex.integrations.notification.go_templates.times import SECOND, Duration, Time, zone_of
from codomyrmex.integrations.notification.go_templates.values import (
    KV,
    Html,
    Pair,
    Signature,
    Strings,
    Struct,
    Url,
    type_of,
)

_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000".replace(
    "\u2000-\u200a", "".join(map(chr, range(0x2000, 0x200B)))
)
_WORD = re.compile(r"\w+(?:(?<=[^\W\d_])[.:'\u2019](?=[^\W\d_])\w+)*")
_LETTER = re.compile(r"[^\W\d_]")
_EXPANDED = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})")
_HTML = str.maketrans({'"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "\ufffd"})
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"'}
_MAX_ITEMS = 10_000  # of a list or dict that a template makes
_MAX_DEPTH = 50
_MAX_INTEGRAL = 1e21  # in JSON without an exponent


# Comparison


def _basic_kind(value: Any) -> str:
    """Return what a value can be compared as; an empty text if it has no order."""
    if isinstance(value, str):
        return "string"
    if value.__class__ is bool:
        return "bool"
    if isinstance(value, int):
        return "int"
    return "float" if isinstance(value, float) else ""


def _equal(one: Any, other: Any) -> bool:
    kinds = _basic_kind(one), _basic_kind(other)
    if one is None or other is None:
        return one is other
    if kinds[0] != kinds[1]:
        raise GoError(f"{type_of(one)} and {type_of(other)} cannot be compared")
    if not kinds[0]:
        for value in (one, other):
            if not isinstance(value, (Time, Pair)):
                raise GoError(f"values of the type {type_of(value)} cannot be compared")
    return bool(one == other)


def eq(one: Any, *others: Any) -> bool:
    """Return whether a value equals any of the others."""
    if not others:
        raise GoError("eq needs at least 2 arguments, got 1")
    return any(_equal(one, other) for other in others)


def _less(one: Any, other: Any) -> bool:
    kinds = _basic_kind(one), _basic_kind(other)
    if kinds[0] != kinds[1] or kinds[0] in {"", "bool"}:
        raise GoError(f"{type_of(one)} and {type_of(other)} have no order")
    return bool(one < other)


# Lists and maps


def index(value: Any, *keys: Any) -> Any:
    """Return `value[key]`, or that of several keys in turn."""
    for key in keys:
        if isinstance(value, (list, str)):
            if not isinstance(key, int) or key.__class__ is bool:
                raise GoError(f"the index of a list must be a number, got {type_of(key)}")
            items = utf8(value) if isinstance(value, str) else value
            if not 0 <= key < len(items):
                raise GoError(
                    f"the index must be from 0 to {len(items) - 1}, got {key}"
                    if items
                    else "the list is empty"
                )
            value = items[key]
        elif isinstance(value, dict):
            if key.__class__ is not str:
                raise GoError(f"the key must be a string, got {type_of(key)}")
            value = value.get(key, "" if value.__class__ is KV else None)
        else:
            raise GoError(f"a value of the type {type_of(value)} has no elements")
    return value


def slice_of(value: Any, *bounds: Any) -> Any:
    """Return a part of a list or text."""
    if not isinstance(value, (list, str)):
        raise GoError(f"a value of the type {type_of(value)} cannot be sliced")
    if len(bounds) > (2 if isinstance(value, str) else 3):
        raise GoError(f"slice has too many arguments: {len(bounds) + 1}")
    items: Any = utf8(value) if isinstance(value, str) else value
    end = len(items)
    for bound in bounds:
        if not isinstance(bound, int) or bound.__class__ is bool or not 0 <= bound <= end:
            raise GoError(f"the bounds of slice must be from 0 to {end}, got {bound}")
    start, stop = (*bounds, 0)[0], (*bounds[:2], end)[1] if len(bounds) > 1 else end
    if start > stop:
        raise GoError(f"the bounds of slice must be in order, got {start} and {stop}")
    part = items[start:stop]
    return part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else value.__class__(part)


def length(value: Any) -> int:
    """Return the number of elements, or of the bytes of a text."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(utf8(value))
    if isinstance(value, (list, dict)):
        return len(value)
    raise GoError(f"a value of the type {type_of(value)} has no length")


def append(items: list[Any], *values: Any) -> list[Any]:
    """Return a list with more values."""
    if len(items) + len(values) > _MAX_ITEMS:
        raise GoError(f"a list must not have more than {_MAX_ITEMS} values")
    return [*items, *values]


def make_dict(*items: Any) -> dict[str, Any]:
    """Return a map of names and values."""
    if len(items) % 2:
        raise GoError("dict needs an even number of arguments")
    for key in items[::2]:
        if key.__class__ is not str:
            raise GoError(f"the keys of dict must be strings, got {type_of(key)}")
    return dict(zip(items[::2], items[1::2], strict=True))


# Texts


def upper(text: str) -> str:
    """Return a text in upper case, character by character."""
    if text.isascii():
        return text.upper()
    return "".join(char.upper() if len(char.upper()) == 1 else char for char in text)


def lower(text: str) -> str:
    """Return a text in lower case, character by character."""
    return text.lower() if text.isascii() else "".join(char.lower()[0] for char in text)


def title(text: str) -> str:
    """Return a text in which each word starts with an upper case letter."""
    return _WORD.sub(
        lambda match: _LETTER.sub(lambda letter: letter[0].title(), match[0].lower(), count=1), text
    )


def _printed(values: Sequence[Any]) -> str:
    return sprint(*("<no value>" if value is None else value for value in values))


def escape_html(text: str) -> str:
    """Return a text escaped for HTML as the function `html` does it."""
    return text.translate(_HTML)


def _escape_js(char: str) -> str:
    if char in _JS:
        return _JS[char]
    return f"\\u{ord(char):04X}" if char in "<>&=" or not char.isprintable() else char


@lru_cache(256)
def _regex(pattern: str) -> Any:
    try:
        return compile_re2(pattern)
    except ValueError as error:
        raise GoError(f"{pattern!r} is not a regular expression of RE2: {error}") from None


def match_regex(pattern: str, text: str) -> bool:
    """Return whether a regular expression matches a part of a text."""
    return _regex(pattern).search(_valid(text)) is not None


def replace_all(pattern: str, replacement: str, text: str) -> str:
    """Return a text in which all matches are replaced; `$1` and `${name}` stand for groups."""
    text = _valid(text)
    regex = _regex(pattern)
    parts: list[str] = []
    size = end = 0
    is_first = True
    for match in regex.finditer(text):
        if match.start() == match.end() == end and not is_first:
            continue  # an empty match right after another one
        new = _EXPANDED.sub(lambda group, match=match: _expanded(group, match), replacement)  # type: ignore[misc]
        parts += [text[end : match.start()], new]
        size += len(parts[-2]) + len(new)
        if size > MAX_TEXT:
            raise GoError(f"the text is longer than {MAX_TEXT} characters")
        end = match.end()
        is_first = False
    return "".join([*parts, text[end:]])


def _expanded(reference: re.Match[str], match: Any) -> str:
    name = reference[1] or reference[2]
    if name is None:
        return "$"
    try:
        return match[int(name) if name.isdecimal() else name] or ""
    except (IndexError, KeyError, OverflowError):
        return ""


def _valid(text: str) -> str:
    return text if text.isascii() else utf8(text).decode("utf-8", "replace")


def query_unescape(text: str) -> str:
    """Return a text without the escapes of a URL."""
    if re.search(r"%(?![0-9a-fA-F]{2})", text):
        raise GoError(f"invalid URL escape in {text[:100]!r}")
    return unquote_plus(text, errors="surrogateescape")


def to_json(value: Any) -> str:
    """Return a value as JSON."""
    text = json.dumps(_plain(value, [0], 0), ensure_ascii=False, separators=(",", ":"))
    for char, escape in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(char, escape)
    return bounded(text)


def _plain(value: Any, count: list[int], depth: int) -> Any:
    """Return a value as what `json` accepts, keys in order."""
    count[0] += 1
    if count[0] > _MAX_ITEMS or depth > _MAX_DEPTH:
        raise GoError("the value is too large for JSON")
    if isinstance(value, dict):
        return {key: _plain(value[key], count, depth + 1) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(each, count, depth + 1) for each in value]
    if isinstance(value, Struct):
        return {value.fields[name][0]: _plain(value.get(name), count, depth + 1) for name in value.printed}
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Pair):
        return {"Name": value.name, "Value": value.value}
    if isinstance(value, Time):
        return value.format("2006-01-02T15:04:05.999999999Z07:00")
    if isinstance(value, float) and not math.isfinite(value):
        raise GoError("JSON has no infinity")
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_INTEGRAL:
        return int(value)
    return value


# Times


def humanize_duration(value: Any) -> str:
    """Return a number of seconds like `1d 2h 3m 4s`."""
    if isinstance(value, Duration):
        seconds = value / SECOND
    else:
        try:
            seconds = float(
                value if isinstance(value, (int, float)) and value.__class__ is not bool else str(value)
            )
        except (ValueError, OverflowError):
            raise GoError(f"humanizeDuration needs a number, got {type_of(value)}") from None
    if not math.isfinite(seconds):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(seconds, "NaN")
    if not seconds:
        return "0s"
    sign, size = ("-" if seconds < 0 else ""), abs(seconds)
    if size < 1:
        for prefix in "munpfazy":
            seconds *= 1000
            if abs(seconds) >= 1 or prefix == "y":
                return f"{seconds:.4g}{prefix}s"
    minutes, rest = divmod(int(size), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {rest}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {rest}s"
    return f"{sign}{minutes}m {rest}s" if minutes else f"{sign}{size:.4g}s"


_TEXT = ("string",)
FUNCTIONS: Mapping[str, Signature] = {
    "eq": Signature(eq, ("any",), "any"),
    "ne": Signature(lambda one, other: not _equal(one, other), ("any", "any")),
    "lt": Signature(_less, ("any", "any")),
    "le": Signature(lambda one, other: _less(one, other) or _equal(one, other), ("any", "any")),
    "gt": Signature(lambda one, other: not (_less(one, other) or _equal(one, other)), ("any", "any")),
    "ge": Signature(lambda one, other: not _less(one, other), ("any", "any")),
    "index": Signature(index, ("any",), "any"),
    "slice": Signature(slice_of, ("any",), "any"),
    "len": Signature(length, ("any",), result=int),
    "print": Signature(sprint, (), "any", result=str),
    "printf": Signature(sprintf, _TEXT, "any", result=str),
    "println": Signature(sprintln, (), "any", result=str),
    "html": Signature(lambda *values: bounded(escape_html(_printed(values))), (), "any", result=str),
    "js": Signature(
        lambda *values: bounded("".join(map(_escape_js, _printed(values)))), (), "any", result=str
    ),
    "urlquery": Signature(lambda *values: bounded(quote_plus(utf8(_printed(values)))), (), "any", result=str),
    "toUpper": Signature(upper, _TEXT, result=str),
    "toLower": Signature(lower, _TEXT, result=str),
    "title": Signature(title, _TEXT, result=str),
    "trimSpace": Signature(lambda text: text.strip(_SPACE), _TEXT, result=str),
    "join": Signature(
        lambda separator, texts: bounded(separator.join(texts)), ("string", "[]string"), result=str
    ),
    "match": Signature(match_regex, ("string", "string")),
    "reReplaceAll": Signature(replace_all, ("string", "string", "string"), result=str),
    "safeHtml": Signature(Html, _TEXT),
    "safeUrl": Signature(Url, _TEXT),
    "stringSlice": Signature(lambda *texts: Strings(texts), (), "string", result=Strings),
    "urlUnescape": Signature(query_unescape, _TEXT, result=str),
    "toJson": Signature(to_json, ("any",), result=str),
    "list": Signature(lambda *values: list(values), (), "any"),
    "append": Signature(append, ("[]interface {}",), "any"),
    "dict": Signature(make_dict, (), "any"),
    "date": Signature(lambda layout, time: time.format(layout), ("string", "time.Time"), result=str),
    "tz": Signature(lambda name, time: time.in_zone(zone_of(name)), ("string", "time.Time"), result=Time),
    "now": Signature(Time.now, result=Time),
    "since": Signature(lambda time: Time.now().since(time), ("time.Time",), result=Duration),
    "humanizeDuration": Signature(humanize_duration, ("any",), result=str),
}
# `and`, `or` and `not` are operators of Jinja; `routeLabels` reads the notification; `call` is refused.
SPECIAL = frozenset({"and", "or", "not", "routeLabels", "call"})
NAMES = frozenset({*FUNCTIONS, *SPECIAL})
