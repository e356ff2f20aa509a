"""Values as text, as `print` and `printf` of Go do it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from codomyrmex.integrations.notification.go_templates.errors import GoError
from codomyrmex.integrations.notification.go_templates.literals import is_character
from codomyrmex.integrations.notification.go_templates.times import Duration, Month, Time, Weekday
from codomyrmex.integrations.notification.go_templates.values import (
    KV,
    Alert,
    Data,
    Html,
    Pair,
    Pairs,
    Url,
    type_of,
)

MAX_TEXT = 131_072  # characters of the result of a function
_MAX_WIDTH = 10_000
_MAX_GIVEN_WIDTH = 1_000_000  # beyond it, Go ignores the width
_MAX_DEPTH = 50
_BYTES = range(0xDC80, 0xDD00)  # the surrogates of bytes that are not UTF-8
_ASTRAL = 0x10000
_UNSIGNED = 2**64
_NAMES, _SYNTAX = "N", "S"  # what the flags + and # of %v stand for
_WITHOUT_EXPONENT = range(-4, 6)

_STRINGS = (str, Html, Url)
_WITH_SYNTAX = frozenset({str, int, float, bool, type(None)})
_STRINGERS = (Duration, Month, Weekday, Time, KV, Pairs)
_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width_at>\[[^\]]*\])?(?P<width>\*|\d+)?"
    r"(?:(?P<dot>\.)(?P<precision_at>\[[^\]]*\])?(?P<precision>\*|\d+)?)?(?P<at>\[[^\]]*\])?(?P<verb>.)?",
    re.DOTALL,
)
_ESCAPES = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 92: "\\\\"}


@dataclass(frozen=True, slots=True)
class _Spec:
    """A verb with its flags."""

    verb: str = "v"
    flags: str = ""
    width: int | None = None
    precision: int | None = None

    def padded(self, text: str, *, zeros: bool = True) -> str:
        """Return a text with at least the width."""
        width = self.width or 0
        if "-" in self.flags:
            return text.ljust(width)
        if "0" not in self.flags or not zeros:
            return text.rjust(width)
        sign = text[:1] if text[:1] in {"+", "-", " "} and self.verb not in "sqvc" else ""
        return f"{sign}{text[len(sign) :].rjust(width - len(sign), '0')}"


class _Parts(list[str]):
    """The parts of a text of limited length."""

    def __init__(self) -> None:
        super().__init__()
        self._length = 0

    def add(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_TEXT:
            raise GoError(f"the text is longer than {MAX_TEXT} characters")
        self.append(text)


_PLAIN = _Spec()


def bounded(text: str) -> str:
    """Return a text, or raise a `GoError` if it is too long."""
    if len(text) > MAX_TEXT:
        raise GoError(f"the text is longer than {MAX_TEXT} characters")
    return text


def text_of(value: Any) -> str:
    """Return a value as `print` prints it."""
    kind = value.__class__
    if kind is str:
        return value  # type: ignore[no-any-return] # its class was checked
    if kind is int:
        return str(value)
    parts = _Parts()
    _add(parts, value, _PLAIN, 0)
    return "".join(parts)


def sprint(*values: Any) -> str:
    """Return values as one text, with spaces between those that are not texts."""
    parts = _Parts()
    for number, value in enumerate(values):
        if number and not isinstance(value, _STRINGS) and not isinstance(values[number - 1], _STRINGS):
            parts.add(" ")
        parts.add(text_of(value))
    return "".join(parts)


def sprintln(*values: Any) -> str:
    """Return values as one line."""
    return bounded(" ".join(map(text_of, values)) + "\n")


def sprintf(layout: str, *values: Any) -> str:
    """Return values in a layout with verbs such as `%s`."""
    return "".join(_Printer(layout, values).parts)


class _Printer:
    """One call of `printf`."""

    def __init__(self, layout: str, values: Sequence[Any]) -> None:
        self.parts = _Parts()
        self._values = values
        self._at = 0
        self._reordered = False
        self._is_good = True  # whether the indexes of the current verb are valid
        end = 0
        while (start := layout.find("%", end)) >= 0:
            self.parts.add(layout[end:start])
            match = _VERB.match(layout, start)
            end = start + 1 if match is None else match.end()
            if match is not None:
                self._print(match)
        self.parts.add(layout[end:])
        if not self._reordered and self._at < len(values):
            extra = ", ".join(_typed(value) for value in values[self._at :])
            self.parts.add(f"%!(EXTRA {extra})")

    def _move(self, index: str | None) -> None:
        """Move to the argument of `[n]`."""
        if index is not None:
            self._reordered = True
            number = int(index[1:-1][:9]) - 1 if index[1:-1].isdecimal() else -1
            if 0 <= number < len(self._values):
                self._at = number
            else:
                self._is_good = False

    def _next(self) -> Any:
        value = self._values[self._at] if self._at < len(self._values) else None
        self._at += 1
        return value

    def _number(self, index: str | None, text: str | None, problem: str) -> int | None:
        """Return a width or precision; a problem is printed if it is not a number."""
        self._move(index)
        if text != "*":
            return None if text is None else _limited(int(text[:9]))
        value = self._next()
        if value.__class__ is not int or abs(value) > _MAX_GIVEN_WIDTH:
            self.parts.add(problem)
            return None
        return _limited(value)

    def _print(self, match: re.Match[str]) -> None:
        self._is_good = True
        flags = match["flags"]
        width = self._number(match["width_at"], match["width"], "%!(BADWIDTH)")
        if width is not None and width < 0:
            flags, width = f"{flags}-", -width
        precision = self._number(match["precision_at"], match["precision"], "%!(BADPREC)")
        if match["dot"] and not match["precision"]:
            precision = 0
        elif precision is not None and precision < 0:
            precision = None
        self._move(match["at"])
        verb = match["verb"]
        if verb is None:
            self.parts.add("%!(NOVERB)")
        elif verb == "%":
            self.parts.add("%")
        elif not self._is_good:
            self.parts.add(f"%!{verb}(BADINDEX)")
        elif self._at >= len(self._values):
            self.parts.add(f"%!{verb}(MISSING)")
        else:
            if verb == "v":
                flags = flags.replace("+", _NAMES).replace("#", _SYNTAX)
            _add(self.parts, self._next(), _Spec(verb, flags, width, precision), 0)


def _limited(number: int) -> int:
    if abs(number) > _MAX_WIDTH:
        raise GoError(f"a width or precision must not exceed {_MAX_WIDTH}, got {number}")
    return number


def _typed(value: Any) -> str:
    return "<nil>" if value is None else f"{type_of(value)}={text_of(value)}"


def _add(parts: _Parts, value: Any, spec: _Spec, depth: int) -> None:
    """Add a value; the elements of a list, map or struct each in the same way."""
    if depth > _MAX_DEPTH:
        raise GoError("the value is nested too deeply to be printed")
    if _SYNTAX in spec.flags and (isinstance(value, _STRINGERS) or value.__class__ not in _WITH_SYNTAX):
        raise GoError("%#v is only supported for texts, numbers and truth values")
    if spec.verb == "T":
        parts.add(spec.padded("<nil>" if value is None else type_of(value)))
    elif isinstance(value, _STRINGERS) and spec.verb in "vsxXq":
        parts.add(_string(str(value), spec))
    elif isinstance(value, dict):
        _add_all(parts, "map[", [(f"{key}:", value[key]) for key in sorted(value)], spec, depth)
        parts.add("]")
    elif isinstance(value, list):
        _add_all(parts, "[", [("", each) for each in value], spec, depth)
        parts.add("]")
    elif isinstance(value, (Pair, Alert, Data)):
        names = ("Name", "Value") if isinstance(value, Pair) else value.printed
        values = value if isinstance(value, Pair) else [value.get(name) for name in value.printed]
        labels = [f"{name}:" if _NAMES in spec.flags else "" for name in names]
        _add_all(parts, "{", list(zip(labels, values, strict=True)), spec, depth)
        parts.add("}")
    else:
        parts.add(_scalar(value, spec))


def _add_all(parts: _Parts, start: str, items: Sequence[tuple[str, Any]], spec: _Spec, depth: int) -> None:
    parts.add(start)
    for number, (label, value) in enumerate(items):
        parts.add(f" {label}" if number else label)
        _add(parts, value, spec, depth + 1)


def _scalar(value: Any, spec: _Spec) -> str:
    verb = spec.verb
    if value is None:
        return spec.padded("<nil>") if verb == "v" else f"%!{verb}(<nil>)"
    if isinstance(value, _STRINGS) and verb in "vsxXq":
        return _string(value, spec)
    if value.__class__ is bool:
        if verb in "vt":
            return spec.padded("true" if value else "false")
    elif isinstance(value, int) and verb in "vdbcoOqxXU":
        return _integer(value, spec)
    elif isinstance(value, float) and verb in "veEfFgG":
        return _float(value, spec)
    shown = text_of(value) if isinstance(value, _STRINGERS) else _scalar(value, replace(spec, verb="v"))
    return f"%!{verb}({type_of(value)}={shown})"


def _string(text: str, spec: _Spec) -> str:
    if spec.precision is not None:
        text = text[: spec.precision]
    if spec.verb == "q" or _SYNTAX in spec.flags:
        if "#" in spec.flags and spec.verb == "q" and "`" not in text and _quoted(text) == f'"{text}"':
            return spec.padded(f"`{text}`")
        return spec.padded(_quoted(text, ascii_only="+" in spec.flags))
    if spec.verb in "xX":
        data = utf8(text)
        shown = data.hex(" ") if " " in spec.flags else data.hex()
        if "#" in spec.flags and shown:
            shown = "0x" + shown.replace(" ", " 0x")
        return spec.padded(shown.upper() if spec.verb == "X" else shown)
    return spec.padded(text)


def utf8(text: str) -> bytes:
    """Return the bytes of a text; those that are not UTF-8 were decoded as lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _quoted(text: str, quote: str = '"', *, ascii_only: bool = False) -> str:
    return f"{quote}{''.join(_escaped(char, quote, ascii_only=ascii_only) for char in text)}{quote}"


def _escaped(char: str, quote: str, *, ascii_only: bool) -> str:
    code = ord(char)
    if char == quote:
        return f"\\{char}"
    if code in _ESCAPES:
        return _ESCAPES[code]
    if char.isprintable() and (char.isascii() or not ascii_only):
        return char
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if char.isascii():
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _ASTRAL else f"\\U{code:08x}"


def _character(code: int) -> str:
    return chr(code) if is_character(code) else "\ufffd"


def _integer(value: int, spec: _Spec) -> str:
    value = int(value)
    verb = spec.verb
    if verb == "c":
        return spec.padded(_character(value))
    if verb == "q":
        return spec.padded(_quoted(_character(value), "'", ascii_only="+" in spec.flags))
    if verb == "U":
        code = f"U+{value % _UNSIGNED:04X}"
        char = _character(value)
        return spec.padded(
            f"{code} '{char}'" if "#" in spec.flags and char.isprintable() else code, zeros=False
        )
    digits = format(abs(value), {"v": "d", "O": "o"}.get(verb, verb))
    if spec.precision is not None:
        digits = "" if not spec.precision and not value else digits.rjust(spec.precision, "0")
    sign = "-" if value < 0 else "+" if "+" in spec.flags else " " if " " in spec.flags else ""
    prefix = "0o" if verb == "O" else ""
    if "#" in spec.flags:
        prefix = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}.get(verb, prefix)
    if "0" in spec.flags and "-" not in spec.flags and spec.width and spec.precision is None:
        digits = digits.rjust(spec.width - len(sign), "0")
    return replace(spec, flags=spec.flags.replace("0", "")).padded(f"{sign}{prefix}{digits}")


def _float(value: float, spec: _Spec) -> str:
    verb = "g" if spec.verb == "v" else spec.verb
    if math.isinf(value) or math.isnan(value):
        text = "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
        spec = replace(spec, flags=spec.flags.replace("0", ""))
    elif verb in "gG" and spec.precision is None:
        text = _shortest(value)
        text = text.upper() if verb == "G" else text
    else:
        precision = 6 if spec.precision is None else spec.precision
        text = f"%{'#' if '#' in spec.flags else ''}.{precision}{verb}" % value
    if text[0] not in "+-" and not text.startswith("N"):
        text = f"+{text}"
    if text.startswith("+") and "+" not in spec.flags and text != "+Inf":
        text = f"{' ' if ' ' in spec.flags else ''}{text[1:]}"
    elif text == "+Inf" and " " in spec.flags and "+" not in spec.flags:
        text = " Inf"
    return spec.padded(text)


def _shortest(value: float) -> str:
    """Return the fewest digits that are the same number; with an exponent below 1e-4 and from 1e6."""
    negative, digits, exponent = Decimal(repr(value)).as_tuple()
    shown = "".join(map(str, digits)).rstrip("0") or "0"
    power = len(digits) + int(exponent) - 1 if value else 0
    sign = "-" if negative else ""
    if power in _WITHOUT_EXPONENT:
        return f"{sign}{Decimal(repr(abs(value))).normalize():f}"
    fraction = f".{shown[1:]}" if shown[1:] else ""
    return f"{sign}{shown[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02}"
