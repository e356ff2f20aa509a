"""Matchers as text: `severity=~"warning|critical", team!=""`, in Alertmanager's two notations.

The classic one is that of Alertmanager up to 0.26, the UTF-8 one came with 0.27. `fallback` is what
Alertmanager does unless told otherwise: both are tried, and where they differ the classic one holds.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError

Notation = Literal["fallback", "classic", "utf8"]


class ParsedMatchers(NamedTuple):
    """What a text holds, and what there is to say about how it is written."""

    matchers: list[Matcher]
    warning: str | None


def parse_matchers(text: str, notation: Notation = "fallback") -> list[Matcher]:
    """Read matchers, separated by commas and perhaps in braces.

    Args:
        text: such as `{severity="critical", service=~"api-.*"}`; empty or `{}` has none, and so matches all.
        notation: `classic`, `utf8`, or `fallback`: both, and the classic one where they differ.

    Raises:
        MatcherError: it cannot be read; a `ValueError` with the column.
    """
    return parse_with_warning(text, notation).matchers


def parse_with_warning(text: str, notation: Notation = "fallback") -> ParsedMatchers:
    """Read matchers, and tell where the two notations read them differently."""
    if notation == "classic":
        return ParsedMatchers(_classic(text), None)
    if notation == "utf8":
        return ParsedMatchers(_Utf8(text).all(), None)
    try:
        new = _Utf8(text).all()
    except MatcherError as error:
        try:
            old = _classic(text)
        except MatcherError:
            raise error from None  # it says where
        better = ", ".join(str(matcher) for matcher in old)
        return ParsedMatchers(old, f"only the classic notation reads this ({error}); write {better}")
    try:
        old = _classic(text)
    except MatcherError:
        return ParsedMatchers(new, None)
    if old == new:
        return ParsedMatchers(old, None)
    shown = [", ".join(str(matcher) for matcher in each) for each in (old, new)]
    return ParsedMatchers(old, f"read as {shown[0]}, while the UTF-8 notation would read {shown[1]}")


# What Go takes for space; Python takes U+001C to U+001F too.
_GO_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
_GO_SPACE += "".join(map(chr, range(0x2000, 0x200B)))

# The classic notation

_CLASSIC = re.compile(
    r"[ \t\n\f\r]*([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t\n\f\r]*(=~|!=|!~|=)[ \t\n\f\r]*(.*?)[ \t\n\f\r]*", re.DOTALL
)


def _classic(text: str) -> list[Matcher]:
    start = 1 if text.startswith("{") else 0
    inner = text[start:].removesuffix("}")
    return [_classic_one(part, start + offset) for offset, part in _split(inner)]


def _split(text: str) -> list[tuple[int, str]]:
    """Split at the commas outside quotes; a last part of nothing is none."""
    parts, begin, quoted, escaped = [], 0, False, False
    for place, char in enumerate(text):
        if char == "," and not quoted:
            parts.append((begin, text[begin:place]))
            begin = place + 1
            continue  # as there, an escape before it goes on
        if char == '"' and not escaped:
            quoted = not quoted
        escaped = char == "\\" and not escaped
    rest = text[begin:].strip(_GO_SPACE)
    if rest:
        parts.append((begin, rest))
    return parts


def _classic_one(text: str, column: int) -> Matcher:
    match = _CLASSIC.fullmatch(text)
    if match is None:
        raise MatcherError(f'{text!r} is no matcher; one is name="value", with =, !=, =~ or !~', column)
    name, op, raw = match.groups()
    return _make(name, op, _classic_value(raw, column + match.start(3)), column + match.start(3))


def _classic_value(raw: str, column: int) -> str:
    quoted = raw.startswith('"')
    body = raw[1:] if quoted else raw
    value, escaped = "", False
    for place, char in enumerate(body):
        last = place == len(body) - 1
        if escaped:
            escaped = False
            value += {"n": "\n", '"': '"', "\\": "\\"}.get(char, "\\" + char)
        elif char == "\\" and not last:
            escaped = True
        elif char == '"':
            if not (quoted and last):
                raise MatcherError(f"{raw} has a double quote that is not escaped", column + place)
            return value
        else:
            value += char
    if quoted:
        raise MatcherError(f"{raw} has no closing quote", column)
    return value


# The UTF-8 notation

_SPACE = re.compile(f"[{_GO_SPACE}]*")
_WORD = re.compile(rf"""[^{_GO_SPACE}{{}}!=~,\\"'`]+""")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"', re.DOTALL)
_OPS = ("=~", "!=", "!~", "=")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\\"])|x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", re.DOTALL
)
_SIMPLE = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))


class _Utf8:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def all(self) -> list[Matcher]:
        found: list[Matcher] = []
        braces = self._take("{")
        while not self._over(braces):
            found.append(self._one())
            if not self._take(",") and not self._over(braces):
                raise MatcherError(
                    f"expected a comma{' or }' if braces else ''}, found {self._seen()}", self._at
                )
        if braces:
            if not self._take("}"):
                raise MatcherError("the opening brace has no closing one", 0)
            self._skip()
            if self._at < len(self._text):
                raise MatcherError(f"expected nothing more, found {self._seen()}", self._at)
        return found

    def _one(self) -> Matcher:
        name = self._text_at("a label name")
        if not name:
            raise MatcherError("a label has a name", self._at)
        op = next((op for op in _OPS if self._take(op)), None)
        if op is None:
            raise MatcherError(f"expected =, !=, =~ or !~ after {name}, found {self._seen()}", self._at)
        self._skip()
        start = self._at
        return _make(name, op, self._text_at("a label value"), start)

    def _text_at(self, expected: str) -> str:
        self._skip()
        start = self._at
        match = _WORD.match(self._text, start)
        if match is not None:
            self._at = match.end()
            return match[0]
        match = _STRING.match(self._text, start)
        if match is not None:
            self._at = match.end()
            return _unquote(match[0][1:-1], start + 1)
        if self._text.startswith('"', start):
            raise MatcherError("the opening quote has no closing one", start)
        raise MatcherError(f"expected {expected}, found {self._seen()}", start)

    def _take(self, what: str) -> bool:
        self._skip()
        found = self._text.startswith(what, self._at)
        if found:
            self._at += len(what)
        return found

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = self._at if match is None else match.end()

    def _over(self, braces: bool) -> bool:  # noqa: FBT001 - private
        self._skip()
        return self._at == len(self._text) or (braces and self._text[self._at] == "}")

    def _seen(self) -> str:
        return repr(self._text[self._at]) if self._at < len(self._text) else "the end"


def _unquote(body: str, column: int) -> str:
    """Read what stands between the quotes of a Go string literal."""

    def read(match: re.Match[str]) -> bytes:
        simple, hexadecimal, octal, short, long, other = match.groups()
        if simple is not None:
            return _SIMPLE.get(simple, simple).encode()
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        try:
            if octal is not None:
                return bytes([int(octal, 8)])
            if other is None:
                return chr(int(short or long, 16)).encode()
        except (ValueError, UnicodeEncodeError):
            other = match[0][1:]
        raise MatcherError(f"\\{other} is no escape; a backslash is written \\\\", column + match.start())

    value, last = b"", 0
    for match in _ESCAPE.finditer(body):
        value += body[last : match.start()].encode(errors="surrogatepass") + read(match)
        last = match.end()
    value += body[last:].encode(errors="surrogatepass")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MatcherError("the value is not valid UTF-8", column) from None


def _make(name: str, op: str, value: str, column: int) -> Matcher:
    try:
        return Matcher(name, op, value)
    except MatcherError as error:
        raise MatcherError(str(error), column) from None
